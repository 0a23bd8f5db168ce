"""One seed of an experiment, and what its checkpoints hold."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import PRNGKeyArray, PyTree

from jax_party.systems.base import Hyper, LearnerState
from jax_party.training.program import Program
from jax_party.training.recorder import VAULT_KINDS, progress_target


@dataclasses.dataclass
class Learner:
    """One seed of an experiment.

    Attributes:
      seed: what its keys are made from.
      eval_key, absolute_key, init_key: (2,) uint32.
      state: where training stands.
      best_params, best_value: of the trial's best evaluation so far, the same one for all seeds; a larger value is
        better. Under the rule `best-per-seed` of earlier records, of the seed's own best one.
    """

    seed: int
    eval_key: PRNGKeyArray
    absolute_key: PRNGKeyArray
    init_key: PRNGKeyArray
    state: LearnerState = None  # type: ignore[assignment]  # restored or begun once the vaults are open
    best_params: PyTree = None
    best_value: float = -math.inf

    @classmethod
    def of(cls, seed: int) -> Learner:
        """A learner that has not begun."""
        eval_key, absolute_key, init_key = jax.random.split(jax.random.PRNGKey(seed), 3)
        return cls(seed, eval_key, absolute_key, init_key)


def checkpoint_target(program: Program, hyper: Hyper, num_learners: int) -> dict[str, Any]:
    """The structure of what an experiment's checkpoints hold, with shapes for arrays."""
    shape = program.state_shape(hyper)
    learner = {
        "state": shape,
        "best_params": shape.params,
        "best_value": np.zeros((), np.float64),
        "vault_steps": dict.fromkeys(VAULT_KINDS, np.zeros((), np.int64)),
    }
    return {"learners": [learner] * num_learners, "progress": progress_target()}


def first_nonfinite(params: PyTree) -> str | None:
    """The name of the first parameter, or statistic of values, that is not finite; None where all are."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        if not np.isfinite(leaf).all():
            return f"parameter {jax.tree_util.keystr(path, simple=True, separator='.')}"
    return None


def with_keys_of(state: LearnerState, number: int) -> LearnerState:
    """A learner's state with random numbers of its own: `number` is folded into its key and into the environments'.

    Jumanji's environments keep theirs as `key`; a leaf of another name stays as it is.
    """

    def fold(key: jax.Array) -> jax.Array:
        folded = jax.vmap(jax.random.fold_in, (0, None))(key.reshape(-1, key.shape[-1]), number)
        return jax.device_put(folded.reshape(key.shape), key.sharding)

    def fold_if_key(path: tuple[Any, ...], leaf: jax.Array) -> jax.Array:
        return fold(leaf) if path and getattr(path[-1], "name", "") == "key" else leaf

    states = jax.tree_util.tree_map_with_path(fold_if_key, state.envs.states)
    return state._replace(key=fold(state.key), envs=state.envs._replace(states=states, keys=fold(state.envs.keys)))


def mean_losses(outputs: Sequence[dict[str, jax.Array]]) -> dict[str, float]:
    """Means over updates; where updates tell how many gradient steps they took, over those, and none without any."""
    losses = {name: np.asarray([output[name] for output in outputs], np.float64) for name in outputs[0]}
    taken = losses.get("gradient_steps", np.ones(len(outputs)))
    if not taken.any():
        return {"gradient_steps": 0.0}
    weights = taken / max(taken.sum(), 1.0)
    means = {name: float(np.sum(weights * values)) for name, values in losses.items()}
    return means if "gradient_steps" not in losses else means | {"gradient_steps": float(taken.sum())}


def without_episodes(state: LearnerState) -> tuple[LearnerState, dict[str, float]]:
    """The state without its sums over ended episodes; the mean return and length of those, where any ended."""
    episodes = state.envs.episodes
    finished = float(episodes.finished)
    state = state._replace(envs=state.envs._replace(episodes=_cleared(episodes)))
    if not finished:
        return state, {}
    return state, {
        "episode_return": float(np.mean(episodes.finished_return)) / finished,
        "episode_length": float(episodes.finished_length) / finished,
    }


def _cleared(episodes: Any) -> Any:
    """The running episodes alone, each sum on the device and in the layout that it had."""
    zero = {name: jax.device_put(np.zeros_like(getattr(episodes, name)), getattr(episodes, name).sharding)
            for name in ("finished_return", "finished_length", "finished")}  # fmt: skip
    return episodes._replace(**zero)
