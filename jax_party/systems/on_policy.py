"""Shared code of the systems trained with PPO's objective: rollout, advantages, epochs of minibatches, clipped loss.

A system of this family defines its networks in two forms: an acting form, one step at a time (`step`, `bootstrap`), and
a training form over a batch of samples (`evaluate`), which gives the same numbers.
"""

from __future__ import annotations

import abc
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, PyTree

from jax_party.config.experiment import ExperimentConfig
from jax_party.config.systems import OnPolicyConfig
from jax_party.envs.adapter import MultiAgentEnv, Observation
from jax_party.envs.wrappers import EnvState
from jax_party.ops.advantages import generalised_advantages, normalise
from jax_party.ops.gradients import chunked_gradient, clipped_adam
from jax_party.ops.losses import clipped_surrogate, clipped_value_loss, entropy, log_prob
from jax_party.ops.sampling import flat_gumbel
from jax_party.ops.value_scale import ValueScale, for_network, from_network, no_statistics, rescale, with_targets
from jax_party.systems.base import (
    Hyper,
    LearnerState,
    Position,
    Rollout,
    System,
    UpdateOutput,
    begin_episodes,
    collect,
    first_keys,
    trajectory_fields,
    where_ended,
)


class Batch(NamedTuple):
    """Samples to learn from, leading axis B.

    A sample is an environment step, or, for systems with a `sequence_length` L, L successive steps of one environment:
    each leaf except `memory` then has axes (B, L).

    Attributes:
      observation: what was acted on.
      action: (B, N) int32.
      log_prob: (B, N), that of the behaviour policy.
      value: (B, N), at collection time; like `target`, in units of the reward, and in the network's after `rescale`.
      advantage: (B, N), not yet normalised.
      target: (B, N) value target.
      policy_weight: (B, N), 0 for an agent with a single legal action.
      value_weight: (B, N).
      last_done: (B,) bool, the observation is the first of its episode.
      memory: the agents' memory before a sample's first step, not yet cleared if an episode begins with it.
    """

    observation: Observation
    action: Int[Array, "B N"]
    log_prob: Float[Array, "B N"]
    value: Float[Array, "B N"]
    advantage: Float[Array, "B N"]
    target: Float[Array, "B N"]
    policy_weight: Float[Array, "B N"]
    value_weight: Float[Array, "B N"]
    last_done: Bool[Array, " B"]
    memory: PyTree


class Learned(NamedTuple):
    """What is learned, and what evaluation plays.

    Attributes:
      networks: the networks' parameters.
      scale: the units of the values that they output; None if these are the reward's.
    """

    networks: PyTree
    scale: ValueScale | None


class OnPolicySystem(System):
    """A system trained with PPO's clipped objective, https://arxiv.org/abs/1707.06347."""

    def __init__(
        self, config: ExperimentConfig, env: MultiAgentEnv, chunk_size: int | None = None, mesh: Mesh | None = None
    ) -> None:
        super().__init__(config, env, chunk_size, mesh)
        assert isinstance(config.system, OnPolicyConfig)
        self.system = config.system
        self.sequence_length: int | None = self.system.sequence_length

    # -- What defines the algorithm ------------------------------------------------------------------------------------

    @abc.abstractmethod
    def init_params(self, key: PRNGKeyArray, observation: Observation) -> PyTree:
        """Return the parameters at the start. `observation`: an example, leading axis 1."""

    @abc.abstractmethod
    def step(
        self, params: PyTree, memory: PyTree, observation: Observation, noise: Float[Array, "b N A"]
    ) -> tuple[PyTree, Int[Array, "b N"], dict[str, Array]]:
        """Act: return the memory after this step, actions, and their `log_prob`, with `value` if it costs nothing.

        An action is the argmax of the masked logits plus `noise`: Gumbel noise samples from the policy, zero noise is
        greedy.
        """

    @abc.abstractmethod
    def bootstrap(self, params: PyTree, memory: PyTree, observation: Observation) -> Float[Array, "b N"]:
        """Return values of observations that are not acted on, given the memory before them."""

    @abc.abstractmethod
    def evaluate(self, params: PyTree, batch: Batch) -> tuple[Float[Array, "B N A"], Float[Array, "B N"]]:
        """Return the training form's masked logits at the taken actions' steps, and values, in the axes of `batch`."""

    def values(self, params: PyTree, start: PyTree, rollout: Rollout) -> Float[Array, "T E N"]:
        """Return values of a rollout's observations; by default, the recorded ones. `start`: the memory before it."""
        return rollout.known["value"]

    def optimiser(self, hyper: Hyper) -> optax.GradientTransformation:
        """Return the optimiser: by default one Adam for all parameters at `actor_lr`, its gradient norm clipped."""
        return self.adam(hyper, hyper.system["actor_lr"])

    # -- What the outer loop calls -------------------------------------------------------------------------------------

    def init(self, hyper: Hyper, key: PRNGKeyArray, envs: EnvState) -> LearnerState:
        """Return the networks and optimisers at the start."""
        own = first_keys(key)
        networks = self.init_params(own.learning, jax.tree.map(lambda leaf: leaf[:1], envs.observation))
        memory = self.initial_memory(self.envs.num_envs)
        opt_state = self.optimiser(hyper).init(networks)
        params = Learned(networks, no_statistics() if self.system.normalize_values else None)
        return LearnerState(params, opt_state, envs, memory, (), own.next, jnp.zeros((), jnp.int32))

    def update(self, hyper: Hyper, state: LearnerState) -> tuple[LearnerState, UpdateOutput]:
        """Play one rollout, estimate its advantages, then learn from it."""
        next_key, act_key, shuffle_key = jax.random.split(state.key, 3)
        position, memories, rollout = self.play(hyper, state, act_key)
        values, batch = self.judge(hyper, state.params, position, memories, rollout)
        params, batch = self.rescale(state.params, batch)
        networks, opt_state, losses = self.learn(hyper, params.networks, state.opt_state, batch, shuffle_key)
        extra = {"value": values, "log_prob": rollout.known["log_prob"]}
        trajectory = trajectory_fields(rollout, self.env.num_actions, **extra) if self.record else {}
        return (
            LearnerState(params._replace(networks=networks), opt_state, *position, (), next_key, state.updates + 1),
            UpdateOutput(losses, trajectory),
        )

    def act(
        self, params: Learned, memory: PyTree, observation: Observation, key: PRNGKeyArray, *, greedy: bool
    ) -> tuple[PyTree, Int[Array, "b N"], dict[str, Array]]:
        """Return actions for a batch of observations, with `log_prob` and `value` of each, in units of the reward."""
        shape = observation.action_mask.shape
        noise = jnp.zeros(shape) if greedy else flat_gumbel(key, shape)
        after, action, known = self.step(params.networks, memory, observation, noise)
        value = known["value"] if "value" in known else self.bootstrap(params.networks, memory, observation)
        return after, action, {"value": from_network(params.scale, value), "log_prob": known["log_prob"]}

    # -- Stages of an update -------------------------------------------------------------------------------------------

    def play(self, hyper: Hyper, state: LearnerState, key: PRNGKeyArray) -> tuple[Position, PyTree, Rollout]:
        """Collect a rollout with the current policy.

        Returns:
          The position after it; the memories before each sequence's first step, leading axes (T / L, E); the rollout.
        """
        steps, num_envs = self.system.rollout_length, self.envs.num_envs
        length = self.sequence_length or steps
        noise = flat_gumbel(key, (steps // length, length, num_envs, self.env.num_agents, self.env.num_actions))
        envs, initial = self.envs_under(hyper), self.initial_memory(num_envs)

        def act(memory: PyTree, observation: Observation, noise: Array) -> tuple[PyTree, Array, dict[str, Array]]:
            return self.step(state.params.networks, memory, observation, noise)

        def final_value(memory: PyTree, observation: Observation, done: Array) -> Array:
            return where_ended(done, lambda: self.bootstrap(state.params.networks, memory, observation))

        def sequence(position: Position, noise: Array) -> tuple[Position, tuple[PyTree, Rollout]]:
            following, rollout = collect(envs, position, initial, act, final_value, noise)
            return following, (position.memory, rollout)

        position, (memories, rollout) = jax.lax.scan(sequence, Position(state.envs, state.memory), noise)
        return position, memories, jax.tree.map(lambda leaf: leaf.reshape(steps, *leaf.shape[2:]), rollout)

    def judge(
        self, hyper: Hyper, params: Learned, position: Position, memories: PyTree, rollout: Rollout
    ) -> tuple[Float[Array, "T E N"], Batch]:
        """Return values of a rollout that led to `position`, and its samples with advantages; in reward units."""
        numbers, networks = hyper.system, params.networks
        values = self.values(networks, jax.tree.map(lambda leaf: leaf[0], memories), rollout)
        last = position.envs
        initial = self.initial_memory(self.envs.num_envs)
        final = self.bootstrap(networks, begin_episodes(position.memory, initial, last.last_done), last.observation)
        v_tm1, v_last, following = (from_network(params.scale, one) for one in (values, final, rollout.following))
        done = jnp.broadcast_to(rollout.done[..., None], rollout.reward.shape)
        v_t = jnp.where(done, following, jnp.concatenate([v_tm1[1:], v_last[None]]))
        advantage = generalised_advantages(
            rollout.reward, numbers["gamma"] * rollout.discount, done, v_tm1, v_t, numbers["gae_lambda"]
        )
        had_choice = rollout.observation.action_mask.sum(-1) > 1
        steps = Batch(
            rollout.observation,
            rollout.action,
            rollout.known["log_prob"],
            v_tm1,
            advantage,
            advantage + v_tm1,
            had_choice.astype(jnp.float32),
            jnp.ones_like(v_tm1),
            rollout.last_done,
            (),
        )
        batch = jax.tree.map(self._samples, steps)
        return v_tm1, batch._replace(memory=jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), memories))

    def rescale(self, params: Learned, batch: Batch) -> tuple[Learned, Batch]:
        """Update the statistics of value targets; return the batch with values and targets in the network's units."""
        before = params.scale
        if before is None:
            return params, batch
        after = with_targets(before, batch.target)
        value, target = for_network(after, batch.value), for_network(after, batch.target)
        return Learned(rescale(params.networks, before, after), after), batch._replace(value=value, target=target)

    def learn(
        self, hyper: Hyper, params: PyTree, opt_state: PyTree, batch: Batch, key: PRNGKeyArray
    ) -> tuple[PyTree, PyTree, dict[str, Array]]:
        """Learn in several epochs of shuffled minibatches."""
        optimiser = self.optimiser(hyper)
        chunk = None if self.chunk_size is None else max(1, self.chunk_size // (self.sequence_length or 1))

        def step(carry: tuple[PyTree, PyTree], indices: Array) -> tuple[tuple[PyTree, PyTree], dict[str, Array]]:
            params, opt_state = carry
            minibatch = self._prepare(jax.tree.map(lambda leaf: leaf[indices], batch))
            losses, gradient = chunked_gradient(
                lambda params, chunk: self._loss(hyper, params, chunk), params, minibatch, chunk
            )
            updates, opt_state = optimiser.update(gradient, opt_state, params)
            return (optax.apply_updates(params, updates), opt_state), losses

        (params, opt_state), losses = jax.lax.scan(step, (params, opt_state), self._minibatch_indices(key))
        return params, opt_state, {name: loss.mean() for name, loss in losses.items()}

    # -- Parts of the stages -------------------------------------------------------------------------------------------

    def _loss(self, hyper: Hyper, params: PyTree, chunk: Batch) -> tuple[Float[Array, ""], dict[str, Array]]:
        """Return PPO's loss, summed over a chunk whose weights sum to 1 over the minibatch."""
        numbers = hyper.system
        logits, values = self.evaluate(params, chunk)
        log_ratio = log_prob(logits, chunk.action) - chunk.log_prob
        ratio = jnp.exp(log_ratio)
        policy = clipped_surrogate(ratio, chunk.advantage, numbers["clip_eps"])
        value = clipped_value_loss(values, chunk.value, chunk.target, numbers["vf_clip_eps"])
        sums = {
            "policy_loss": (chunk.policy_weight * policy).sum(),
            "entropy": (chunk.policy_weight * entropy(logits)).sum(),
            "value_loss": (chunk.value_weight * value).sum(),
            "approx_kl": (chunk.policy_weight * (ratio - 1.0 - log_ratio)).sum(),
            "clip_fraction": (chunk.policy_weight * (jnp.abs(ratio - 1.0) > numbers["clip_eps"])).sum(),
        }
        total = sums["policy_loss"] - numbers["ent_coef"] * sums["entropy"] + numbers["vf_coef"] * sums["value_loss"]
        return total, sums

    def _prepare(self, minibatch: Batch) -> Batch:
        """Normalise advantages and weights over each replica's part of a minibatch.

        Agents with a single legal action have weight 0.
        """

        def by_replica(leaf: Array) -> Array:
            return leaf.reshape(self.replicas, -1, self.env.num_agents)

        policy_weight = by_replica(minibatch.policy_weight)
        advantage = normalise(by_replica(minibatch.advantage), policy_weight, axes=(1, 2))
        total = jnp.maximum(policy_weight.sum((1, 2), keepdims=True), 1.0) * self.replicas
        shape = minibatch.advantage.shape
        prepared = minibatch._replace(
            advantage=advantage.reshape(shape),
            policy_weight=(policy_weight / total).reshape(shape),
            value_weight=minibatch.value_weight / minibatch.value_weight.size,
        )
        spread: Batch = self.spread(prepared)
        return spread

    def _samples(self, leaf: Array) -> Array:
        """Reshape (T, E, ...) to (T*E, ...) for single steps, or to (T/L * E, L, ...) for sequences."""
        if self.sequence_length is None:
            return leaf.reshape(-1, *leaf.shape[2:])
        length, num_envs = self.sequence_length, leaf.shape[1]
        parts = jnp.swapaxes(leaf.reshape(-1, length, num_envs, *leaf.shape[2:]), 1, 2)
        return parts.reshape(-1, length, *leaf.shape[2:])

    def _minibatch_indices(self, key: PRNGKeyArray) -> Int[Array, "updates samples"]:
        """Return rows of the flat batch for each gradient step of all epochs; each replica shuffles its own rows."""
        num_envs = self.envs.num_envs // self.replicas
        size = self.system.rollout_length // (self.sequence_length or 1) * num_envs
        epochs, minibatches = self.system.ppo_epochs, self.system.num_minibatches
        bits = jax.random.bits(key, (epochs * self.replicas * size,), jnp.uint32)
        order = jnp.argsort(bits.reshape(epochs, self.replicas, size), axis=-1)
        time, env = order // num_envs, order % num_envs
        replica = jnp.arange(self.replicas)[None, :, None]
        rows = time * self.envs.num_envs + replica * num_envs + env
        parts = rows.reshape(epochs, self.replicas, minibatches, size // minibatches)
        return jnp.swapaxes(parts, 1, 2).reshape(epochs * minibatches, -1)

    def adam(self, hyper: Hyper, learning_rate: Float[Array, ""]) -> optax.GradientTransformation:
        """Return Adam with the gradient norm clipped; the rate decays to 0 if `decay_learning_rates` is set."""
        gradient_steps = hyper.num_updates * self.system.ppo_epochs * self.system.num_minibatches

        def decayed(count: Array) -> Array:
            return learning_rate * jnp.maximum(0.0, 1.0 - count / gradient_steps)

        schedule = decayed if self.system.decay_learning_rates else learning_rate
        return clipped_adam(schedule, hyper.system["max_grad_norm"])


__all__ = ["Batch", "Learned", "OnPolicySystem"]
