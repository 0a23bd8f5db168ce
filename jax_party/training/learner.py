"""One seed of an experiment: its keys, its state of training, its best parameters."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import PRNGKeyArray, PyTree

from jax_party.systems.base import LearnerState


@dataclasses.dataclass
class Learner:
    """One seed of an experiment.

    Attributes:
      seed: the seed that its keys are derived from.
      eval_key, absolute_key, init_key: (2,) uint32.
      state: the state of training.
      best_params, best_value: those of the trial's best evaluation so far, the same evaluation for all seeds; larger
        values are better. Under the rule `best-per-seed` of earlier records, those of the seed's own best evaluation.
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
        """Return a learner that has not begun."""
        eval_key, absolute_key, init_key = jax.random.split(jax.random.PRNGKey(seed), 3)
        return cls(seed, eval_key, absolute_key, init_key)


def first_nonfinite(params: PyTree) -> str | None:
    """Return the name of the first parameter, or value statistic, that is not finite; None if all are finite."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        if not np.isfinite(leaf).all():
            return f"parameter {jax.tree_util.keystr(path, simple=True, separator='.')}"
    return None


def with_keys_of(state: LearnerState, number: int) -> LearnerState:
    """Return a learner's state with its own random numbers: `number` is folded into its key and the environments' keys.

    Jumanji's environments store theirs as `key`; leaves of other names are unchanged.
    """

    def fold(key: jax.Array) -> jax.Array:
        folded = jax.vmap(jax.random.fold_in, (0, None))(key.reshape(-1, key.shape[-1]), number)
        return jax.device_put(folded.reshape(key.shape), key.sharding)

    def fold_if_key(path: tuple[Any, ...], leaf: jax.Array) -> jax.Array:
        return fold(leaf) if path and getattr(path[-1], "name", "") == "key" else leaf

    states = jax.tree_util.tree_map_with_path(fold_if_key, state.envs.states)
    return state._replace(key=fold(state.key), envs=state.envs._replace(states=states, keys=fold(state.envs.keys)))


def mean_losses(outputs: Sequence[dict[str, jax.Array]]) -> dict[str, float]:
    """Return means over updates, weighted by gradient steps if updates report them; no losses if none was taken."""
    losses = {name: np.asarray([output[name] for output in outputs], np.float64) for name in outputs[0]}
    taken = losses.get("gradient_steps", np.ones(len(outputs)))
    if not taken.any():
        return {"gradient_steps": 0.0}
    weights = taken / max(taken.sum(), 1.0)
    means = {name: float(np.sum(weights * values)) for name, values in losses.items()}
    return means if "gradient_steps" not in losses else means | {"gradient_steps": float(taken.sum())}


def without_episodes(state: LearnerState) -> tuple[LearnerState, dict[str, float]]:
    """Return the state without its sums over ended episodes, and their mean return and length if any ended."""
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
    """Keep only the running episodes; each cleared sum keeps its device and layout."""
    zero = {name: jax.device_put(np.zeros_like(getattr(episodes, name)), getattr(episodes, name).sharding)
            for name in ("finished_return", "finished_length", "finished")}  # fmt: skip
    return episodes._replace(**zero)
