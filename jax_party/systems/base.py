"""The interface of every system to the outer loop, and the rollout that they share."""

from __future__ import annotations

import abc
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, PyTree

from jax_party.config.experiment import ExperimentConfig
from jax_party.envs.adapter import MultiAgentEnv, Observation
from jax_party.envs.wrappers import AutoResetEnvs, EnvState, append_agent_ids


class Hyper(NamedTuple):
    """The traced numbers of one experiment.

    Attributes:
      system: the system's own, by their config names; () float32 each.
      env: the scenario's traced settings, nested as in its task config; empty if it has none.
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
      memory: what the agents remember in mid-episode (hidden states), leading axis E; () if they remember nothing.
      replay: the replay buffer, its arrays with leading axis E; () if there is none.
      key: (2,) uint32.
      updates: () int32, updates done.
    """

    params: PyTree
    opt_state: PyTree
    envs: EnvState
    memory: PyTree
    replay: PyTree
    key: PRNGKeyArray
    updates: Int[Array, ""]


class UpdateOutput(NamedTuple):
    """The output of an update.

    Attributes:
      losses: name -> () float32, means over the update.
      trajectory: field -> (E, T, ...) of the rollout just played, or empty if it is not recorded.
    """

    losses: dict[str, Float[Array, ""]]
    trajectory: dict[str, Array]


class FirstKeys(NamedTuple):
    """The keys that a learner's first key is split into, (2,) uint32 each: networks, environments, everything later."""

    learning: PRNGKeyArray
    envs: PRNGKeyArray
    next: PRNGKeyArray


def first_keys(key: PRNGKeyArray) -> FirstKeys:
    """Split a learner's first key."""
    return FirstKeys(*jax.random.split(key, 3))


class System(abc.ABC):
    """A learning system: pure stages, each traced once and jitted by the outer loop.

    Args:
      config: static settings; its traced numbers arrive as `Hyper` in each call.
      env: the environment.
      chunk_size: environment steps per forward and backward pass, None for a whole (mini)batch.
      mesh: devices over which environments, batches and replay are spread along the axis `env`, or None for one device.
    """

    cpu_chunk_size: ClassVar[int | None] = None
    """Environment steps per forward and backward pass on one CPU core; `benchmarks/throughput.py` compares sizes."""

    def __init__(
        self, config: ExperimentConfig, env: MultiAgentEnv, chunk_size: int | None = None, mesh: Mesh | None = None
    ) -> None:
        self.env = env
        self.replicas = config.system.update_batch_size
        self.envs = AutoResetEnvs(env, config.arch.num_envs * self.replicas)
        self.chunk_size = chunk_size
        self.mesh = mesh
        self.add_agent_id = config.system.add_agent_id and not config.env.implicit_agent_id
        self.record = config.vault.record_train
        self.stagger = config.arch.stagger_episodes

    @abc.abstractmethod
    def init(self, hyper: Hyper, key: PRNGKeyArray, envs: EnvState) -> LearnerState:
        """Return the learner's state at the start; `envs` are the environments that `begin` made from the same key."""

    @abc.abstractmethod
    def update(self, hyper: Hyper, state: LearnerState) -> tuple[LearnerState, UpdateOutput]:
        """Play one rollout and learn."""

    @abc.abstractmethod
    def initial_memory(self, batch_size: int) -> PyTree:
        """Return the memory at the beginning of an episode, leading axis `batch_size`; () if nothing is remembered."""

    @abc.abstractmethod
    def act(
        self, params: PyTree, memory: PyTree, observation: Observation, key: PRNGKeyArray, *, greedy: bool
    ) -> tuple[PyTree, Int[Array, "b N"], dict[str, Array]]:
        """Return actions for a batch of observations.

        Args:
          params: `LearnerState.params`.
          memory: that of the same batch; `initial_memory` where an episode begins with this observation.
          observation: leading axis b.
          key: (2,) uint32.
          greedy: choose the most likely (or best) action rather than sample.

        Returns:
          The memory after this step, the actions, and what the algorithm knows about them (`log_prob`, `value`, …).
        """

    def features(self, observation: Observation) -> Float[Array, "*b N F"]:
        """Return what an agent's own network sees: its view, and its id if `add_agent_id` is set."""
        view = observation.agents_view
        return append_agent_ids(view) if self.add_agent_id else view

    def envs_under(self, hyper: Hyper) -> AutoResetEnvs:
        """Return the environments with an experiment's traced settings."""
        return AutoResetEnvs(self.env.with_params(hyper.env), self.envs.num_envs)

    def begin(self, hyper: Hyper, key: PRNGKeyArray) -> EnvState:
        """Return the training environments at the start, from a learner's first key."""
        envs, own = self.envs_under(hyper), first_keys(key).envs
        return envs.reset_staggered(own) if self.stagger else envs.reset(own)

    def start(self, hyper: Hyper, key: PRNGKeyArray) -> LearnerState:
        """Return a learner's state at the start in one function; a program compiles `begin` and `init` separately."""
        return self.init(hyper, key, self.begin(hyper, key))

    def spread(self, batch: PyTree) -> PyTree:
        """Spread a batch over the devices of the mesh."""
        if self.mesh is None:
            return batch
        sharding = NamedSharding(self.mesh, PartitionSpec("env"))
        return jax.tree.map(lambda leaf: jax.lax.with_sharding_constraint(leaf, sharding), batch)


class Rollout(NamedTuple):
    """T steps of E environments, leading axes (T, E).

    Attributes:
      observation: what was acted on.
      action: (T, E, N) int32.
      known: what the algorithm knew about the action when it was taken: `log_prob`, `value`, `q_values`, …
      reward: (T, E, N) float32.
      discount: (T, E, N) float32, the environment's.
      done: (T, E) bool, the episode ended with this step.
      last_done: (T, E) bool, the observation is the first of its episode.
      following: `collect`'s `follow` of the observation that each step led to; at an episode's end, its last
        observation.
    """

    observation: Observation
    action: Int[Array, "T E N"]
    known: dict[str, Array]
    reward: Float[Array, "T E N"]
    discount: Float[Array, "T E N"]
    done: Bool[Array, "T E"]
    last_done: Bool[Array, "T E"]
    following: PyTree


class Position(NamedTuple):
    """The present state of play: the environments, and the agents' memory before they see the observation there."""

    envs: EnvState
    memory: PyTree


def collect(
    envs: AutoResetEnvs,
    start: Position,
    initial_memory: PyTree,
    act: Callable[[PyTree, Observation, Any], tuple[PyTree, Array, dict[str, Array]]],
    follow: Callable[[PyTree, Observation, Bool[Array, " E"]], PyTree],
    noise: PyTree,
) -> tuple[Position, Rollout]:
    """Play a rollout.

    Args:
      envs: the environments.
      start: where they are.
      initial_memory: replaces the memory where an episode begins.
      act: (memory, observation, noise of the step) -> (memory after it, action (E, N), what is known about it).
      follow: (memory after acting, the observation that followed, done (E,)) -> what to keep of it. Where an episode
        ended, the observation is its last one, not the next episode's first.
      noise: drawn beforehand, leading axis T: one draw per rollout costs a fraction of one per step.
    """

    def step(position: Position, noise_t: Any) -> tuple[Position, Rollout]:
        state = position.envs
        memory = begin_episodes(position.memory, initial_memory, state.last_done)
        memory, action, known = act(memory, state.observation, noise_t)
        next_state, played = envs.step(state, action)
        following = follow(memory, played.observation, played.done)
        return Position(next_state, memory), Rollout(
            state.observation,
            action,
            known,
            played.reward,
            played.discount,
            played.done,
            state.last_done,
            following,
        )

    return jax.lax.scan(step, start, noise)


def begin_episodes(memory: PyTree, initial_memory: PyTree, begins: Bool[Array, " E"]) -> PyTree:
    """Return `memory`, replaced by `initial_memory` where an episode begins; leading axis E."""
    return jax.tree.map(
        lambda kept, fresh: jnp.where(begins.reshape(-1, *(1,) * (kept.ndim - 1)), fresh, kept), memory, initial_memory
    )


def where_ended(done: Bool[Array, " E"], compute: Callable[[], Float[Array, "E ..."]]) -> Float[Array, "E ..."]:
    """Return `compute()` at steps at which some episode ends, otherwise zeros at no cost."""
    shape = jax.eval_shape(compute)

    def where_ended(any_done: Bool[Array, ""]) -> Array:
        return jax.lax.cond(any_done, compute, lambda: jnp.zeros(shape.shape, shape.dtype))

    return jax.jit(where_ended)(done.any())  # named, so that it can be identified in the traced program


def small_int(num_values: int) -> Any:
    """Return the smallest signed integer dtype that holds 0..num_values-1."""
    return jnp.int8 if num_values <= 128 else jnp.int16


def trajectory_fields(rollout: Rollout, num_actions: int, **extra: Array) -> dict[str, Array]:
    """Return a rollout as the vault stores it: one batch row per environment, an unbroken time axis, small dtypes.

    Args:
      rollout: leading axes (T, E).
      num_actions: A.
      extra: further fields of the algorithm, (T, E, …): `value`, `log_prob`, `q_values`.
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
