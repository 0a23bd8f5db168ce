"""What every system is to the outer loop, and the rollout that they share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, PyTree

from jax_party.environments import MultiAgentEnv, Observation
from jax_party.wrappers import AutoResetEnvs, EnvState


class Hyper(NamedTuple):
    """The traced numbers of one experiment.

    Attributes:
      system: the system's own, by their config names; () float32 each.
      env: the scenario's traced settings, nested as in its task config; empty where it has none.
      num_updates: () float32, updates in the whole budget, for schedules.
    """

    system: dict[str, Float[Array, ""]]
    env: dict[str, Any]
    num_updates: Float[Array, ""]


class LearnerState(NamedTuple):
    """Everything that training carries from one update to the next.

    Attributes:
      params: the networks' parameters; what evaluation plays.
      opt_state: the optimisers' states.
      envs: the training environments.
      key: (2,) uint32.
      updates: () int32, updates done.
    """

    params: PyTree
    opt_state: PyTree
    envs: EnvState
    key: PRNGKeyArray
    updates: Int[Array, ""]


class UpdateOutput(NamedTuple):
    """What an update tells.

    Attributes:
      losses: name -> () float32, means over the update.
      trajectory: field -> (E, T, ...) of the rollout just trained on, or empty where it is not recorded.
    """

    losses: dict[str, Float[Array, ""]]
    trajectory: dict[str, Array]


class System(Protocol):
    """A learning system: named, pure stages. Each is traced once and jitted by the outer loop."""

    env: MultiAgentEnv
    envs: AutoResetEnvs

    def init(self, hyper: Hyper, key: PRNGKeyArray) -> LearnerState:
        """Networks, optimisers and environments at the start."""

    def update(self, hyper: Hyper, state: LearnerState) -> tuple[LearnerState, UpdateOutput]:
        """Play one rollout and learn from it."""

    def act(
        self, params: PyTree, observation: Observation, key: PRNGKeyArray, *, greedy: bool
    ) -> tuple[Int[Array, "*b N"], dict[str, Array]]:
        """Actions for a batch of observations, and what the algorithm knows of them (`log_prob`, `value`, …)."""


class Rollout(NamedTuple):
    """T steps of E environments, leading axes (T, E).

    Attributes:
      observation: what was acted on.
      action: (T, E, N) int32.
      log_prob: (T, E, N) float32, of the action when it was taken.
      reward: (T, E, N) float32.
      discount: (T, E, N) float32, the environment's.
      done: (T, E) bool, the episode ended with this step.
      last_done: (T, E) bool, the observation is the first of its episode.
      final_value: (T, E, N) float32, value of the ended episode's last observation where `done`, else 0.
    """

    observation: Observation
    action: Int[Array, "T E N"]
    log_prob: Float[Array, "T E N"]
    reward: Float[Array, "T E N"]
    discount: Float[Array, "T E N"]
    done: Bool[Array, "T E"]
    last_done: Bool[Array, "T E"]
    final_value: Float[Array, "T E N"]


def collect(
    envs: AutoResetEnvs,
    state: EnvState,
    act: Callable[[Observation, Any], tuple[Array, Array]],
    value: Callable[[Observation], Array],
    noise: PyTree,
) -> tuple[EnvState, Rollout]:
    """Play a rollout.

    Args:
      envs: the environments.
      state: where they are.
      act: (observation, noise of the step) -> (action, log_prob), each (E, N).
      value: observation -> (E, N); computed only at steps where an episode ends.
      noise: drawn beforehand, leading axis T: one draw for the rollout costs a fraction of one a step.
    """

    def step(state: EnvState, noise_t: Any) -> tuple[EnvState, Rollout]:
        action, log_prob = act(state.observation, noise_t)
        next_state, played = envs.step(state, action)
        final_value = jax.lax.cond(
            played.done.any(), value, lambda observation: jnp.zeros(action.shape), played.observation
        )
        return next_state, Rollout(
            state.observation,
            action,
            log_prob,
            played.reward,
            played.discount,
            played.done,
            state.last_done,
            final_value,
        )

    return jax.lax.scan(step, state, noise)


def small_int(num_values: int) -> Any:
    """The smallest signed integer dtype that holds 0..num_values-1."""
    return jnp.int8 if num_values <= 127 else jnp.int16


def trajectory_fields(rollout: Rollout, num_actions: int, **extra: Array) -> dict[str, Array]:
    """A rollout as the vault keeps it: a batch row an environment, the time axis unbroken, small dtypes.

    Args:
      rollout: leading axes (T, E).
      num_actions: A.
      extra: what the algorithm has besides, (T, E, …): `value`, `log_prob`, `q_values`.
    """
    fields = {
        "done": rollout.last_done,
        "action": rollout.action.astype(small_int(num_actions)),
        "reward": rollout.reward,
        "observation": rollout.observation.agents_view,
        "legal_action_mask": rollout.observation.action_mask,
        **extra,
    }
    return {name: jnp.swapaxes(field, 0, 1) for name, field in fields.items()}
