"""Shared code of the systems that learn from a replay buffer: exploring, storing, and gradient steps on samples.

A system of this family defines how it explores (`explore`), how it plays (`act`) and what a gradient step does
(`learn_step`). An update plays `rollout_length` steps in every environment, adds them to the buffer, and takes
`epochs` gradient steps once the buffer holds enough.
"""

from __future__ import annotations

import abc
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import flashbax as fbx
import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, PyTree

from jax_party.config.experiment import ExperimentConfig
from jax_party.config.systems import OffPolicyConfig
from jax_party.envs.adapter import MultiAgentEnv, Observation
from jax_party.envs.wrappers import EnvState
from jax_party.ops.gradients import chunked_gradient
from jax_party.systems.base import (
    Hyper,
    LearnerState,
    Position,
    Rollout,
    System,
    UpdateOutput,
    collect,
    first_keys,
    trajectory_fields,
)


class Step(NamedTuple):
    """What the buffer keeps of an environment step; in a sample, leading axes (B, L): L successive steps.

    Attributes:
      observation: what was acted on.
      next_observation: what followed; where the episode ended, its last observation.
      action: (N,) int32.
      reward: (N,) float32.
      discount: (N,) float32, the environment's: 0 at termination, 1 at truncation.
      done: () bool, the episode ended with this step.
      last_done: () bool, `observation` is the first of its episode.
      memory: the agents' memory before this step, cleared if an episode begins with it; () without memory.
    """

    observation: Observation
    next_observation: Observation
    action: Int[Array, "*b N"]
    reward: Float[Array, "*b N"]
    discount: Float[Array, "*b N"]
    done: Bool[Array, "*b"]
    last_done: Bool[Array, "*b"]
    memory: PyTree


class Learning(NamedTuple):
    """What gradient steps change.

    Attributes:
      params: `LearnerState.params`: all networks, including target networks.
      opt_state: `LearnerState.opt_state`: the optimisers' states.
    """

    params: PyTree
    opt_state: PyTree


class OffPolicySystem(System):
    """A system that learns from a Flashbax trajectory buffer with one row per environment."""

    def __init__(
        self, config: ExperimentConfig, env: MultiAgentEnv, chunk_size: int | None = None, mesh: Mesh | None = None
    ) -> None:
        super().__init__(config, env, chunk_size, mesh)
        assert isinstance(config.system, OffPolicyConfig)
        self.system = config.system
        self.buffer = self._make_buffer()

    # -- What defines the algorithm ------------------------------------------------------------------------------------

    @property
    @abc.abstractmethod
    def batch_size(self) -> int:
        """Sequences per gradient step, for each replica."""

    @property
    @abc.abstractmethod
    def steps_before_learning(self) -> int:
        """Environment steps, over all environments, before the first gradient step."""

    @property
    def sequence_length(self) -> int:
        """Successive steps of one environment in a sampled sequence."""
        return 1

    @abc.abstractmethod
    def init_learning(self, hyper: Hyper, key: PRNGKeyArray, observation: Observation) -> Learning:
        """Return parameters and optimisers' states at the start. `observation`: an example, leading axis 1."""

    @abc.abstractmethod
    def draw_noise(self, key: PRNGKeyArray, steps: int) -> PyTree:
        """Return the randomness of a rollout's actions, leading axes (steps, E)."""

    @abc.abstractmethod
    def explore(
        self,
        hyper: Hyper,
        params: PyTree,
        memory: PyTree,
        observation: Observation,
        noise: PyTree,
        env_steps: Float[Array, ""],
    ) -> tuple[PyTree, Int[Array, "E N"], dict[str, Array]]:
        """Act in a training rollout, after `env_steps` steps over all environments.

        Returns:
          The memory after this step, the actions, and what is recorded about them (`q_values` or `log_prob`).
        """

    @abc.abstractmethod
    def training_form(self, params: PyTree, batch: Step) -> dict[str, Array]:
        """Return what acting records (`q_values` or `log_prob`), as training computes it on sequences, axes (B, L).

        Both forms give the same numbers once random exploration has ended.
        """

    @abc.abstractmethod
    def learn_step(
        self, hyper: Hyper, learning: Learning, batch: Step, key: PRNGKeyArray
    ) -> tuple[Learning, dict[str, Float[Array, ""]]]:
        """Take one gradient step on sampled sequences, leading axes (B, L), and update the target networks after it."""

    def begin_learning(self, learning: Learning, replay: Any) -> Learning:
        """Prepare an update's gradient steps, given the replay buffer; by default, do nothing."""
        return learning

    # -- What the outer loop calls -------------------------------------------------------------------------------------

    def init(self, hyper: Hyper, key: PRNGKeyArray, envs: EnvState) -> LearnerState:
        """Return the networks, optimisers and an empty buffer."""
        own = first_keys(key)
        learning = self.init_learning(hyper, own.learning, jax.tree.map(lambda leaf: leaf[:1], envs.observation))
        memory = self.initial_memory(self.envs.num_envs)
        replay = self.buffer.init(self._example(envs.observation, memory))
        return LearnerState(*learning, envs, memory, replay, own.next, jnp.zeros((), jnp.int32))

    def update(self, hyper: Hyper, state: LearnerState) -> tuple[LearnerState, UpdateOutput]:
        """Play one rollout, store it, then learn from samples of the buffer."""
        next_key, act_key, learn_key = jax.random.split(state.key, 3)
        position, rollout = self.play(hyper, state, act_key)
        replay = self.buffer.add(state.replay, _by_rows(remembered(rollout)))
        learning, losses = self.learn(hyper, Learning(state.params, state.opt_state), replay, learn_key)
        recorded = {name: field for name, field in rollout.known.items() if name != "memory"}
        trajectory = trajectory_fields(rollout, self.env.num_actions, **recorded) if self.record else {}
        return (
            LearnerState(*learning, *position, replay, next_key, state.updates + 1),
            UpdateOutput(losses, trajectory),
        )

    # -- Stages of an update -------------------------------------------------------------------------------------------

    def play(self, hyper: Hyper, state: LearnerState, key: PRNGKeyArray) -> tuple[Position, Rollout]:
        """Collect a rollout with the exploring policy."""
        steps, num_envs = self.system.rollout_length, self.envs.num_envs
        before = state.updates.astype(jnp.float32) * (steps * num_envs)  # as float: 32-bit integers would overflow
        noise = (self.draw_noise(key, steps), before + jnp.arange(steps) * num_envs)

        def act(memory: PyTree, observation: Observation, noise_t: Any) -> tuple[PyTree, Array, dict[str, Array]]:
            drawn, env_steps = noise_t
            after, action, known = self.explore(hyper, state.params, memory, observation, drawn, env_steps)
            return after, action, {**known, "memory": memory}

        def keep(memory: PyTree, observation: Observation, done: Array) -> Observation:
            return observation

        start = Position(state.envs, state.memory)
        return collect(self.envs_under(hyper), start, self.initial_memory(num_envs), act, keep, noise)

    def learn(
        self, hyper: Hyper, learning: Learning, replay: Any, key: PRNGKeyArray
    ) -> tuple[Learning, dict[str, Float[Array, ""]]]:
        """Take `epochs` gradient steps, or none while the buffer holds too little.

        The losses are means over the gradient steps, 0 if there were none; `gradient_steps` is their number.
        """

        def step(learning: Learning, step_key: PRNGKeyArray) -> tuple[Learning, dict[str, Array]]:
            sample_key, learn_key = jax.random.split(step_key)
            batch = self.spread(self.buffer.sample(replay, sample_key).experience)
            return self.learn_step(hyper, learning, batch, learn_key)

        def several() -> tuple[Learning, dict[str, Array]]:
            begun = self.begin_learning(learning, replay)
            after, losses = jax.lax.scan(step, begun, jax.random.split(key, self.system.epochs))
            return after, {name: loss.mean() for name, loss in losses.items()}

        def none() -> tuple[Learning, dict[str, Array]]:
            losses = jax.eval_shape(several)[1]
            return learning, {name: jnp.zeros(loss.shape, loss.dtype) for name, loss in losses.items()}

        ready = self.buffer.can_sample(replay)
        learning, losses = jax.lax.cond(ready, several, none)
        return learning, {**losses, "gradient_steps": jnp.where(ready, float(self.system.epochs), 0.0)}

    # -- Parts of the stages -------------------------------------------------------------------------------------------

    def gradient(self, loss: Callable[[Any, Any], tuple[Array, Any]], params: Any, batch: Any) -> tuple[Any, Any]:
        """Return (aux, gradient) of a loss that sums over its sequences, computed in chunks of sequences."""
        chunk = None if self.chunk_size is None else max(1, self.chunk_size // self.sequence_length)
        return chunked_gradient(loss, params, batch, chunk)

    def _make_buffer(self) -> Any:
        num_envs, length = self.envs.num_envs, self.sequence_length
        return fbx.make_trajectory_buffer(
            add_batch_size=num_envs,
            sample_batch_size=self.batch_size * self.replicas,
            sample_sequence_length=length,
            period=1,
            min_length_time_axis=max(length, math.ceil(self.steps_before_learning / num_envs)),
            max_length_time_axis=self.system.buffer_size // num_envs,
        )

    def _example(self, observation: Observation, memory: PyTree) -> Step:
        """Return a single stored step, for its shapes and dtypes."""
        first = jax.tree.map(lambda leaf: leaf[0], observation)
        agents, no = (self.env.num_agents,), jnp.zeros((), bool)
        nothing = jnp.zeros(agents)
        before = jax.tree.map(lambda leaf: leaf[0], memory)
        return Step(first, first, jnp.zeros(agents, jnp.int32), nothing, nothing, no, no, before)


def remembered(rollout: Rollout) -> Step:
    """Return a rollout's steps as the buffer stores them, leading axes (T, E)."""
    return Step(
        rollout.observation,
        rollout.following,
        rollout.action,
        rollout.reward,
        rollout.discount,
        rollout.done,
        rollout.last_done,
        rollout.known["memory"],
    )


def _by_rows(steps: Step) -> Step:
    """Transpose (T, E, ...) to (E, T, ...)."""
    rows: Step = jax.tree.map(lambda leaf: jnp.swapaxes(leaf, 0, 1), steps)
    return rows


__all__ = ["Learning", "OffPolicySystem", "Step", "remembered"]
