"""IPPO and MAPPO: proximal policy optimisation, each agent with its own critic or with a centralised one.

IPPO: https://arxiv.org/abs/2011.09533; MAPPO: https://arxiv.org/abs/2103.01955. Parameters are shared between
agents, as in Mava; agents are told apart by their ids.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Float, Int, PRNGKeyArray, PyTree

from jax_party.config import ExperimentConfig
from jax_party.environments import MultiAgentEnv, Observation
from jax_party.networks.heads import Actor, Critic
from jax_party.networks.torsos import make_torso
from jax_party.ops.advantages import generalised_advantages, normalise
from jax_party.ops.gradients import chunked_gradient
from jax_party.ops.losses import clipped_surrogate, clipped_value_loss, entropy, log_prob
from jax_party.ops.sampling import flat_gumbel
from jax_party.systems.base import Hyper, LearnerState, Rollout, UpdateOutput, collect, trajectory_fields
from jax_party.wrappers import AutoResetEnvs, append_agent_ids, global_state


class Params(NamedTuple):
    """Parameters (or optimiser states, or gradients) of the two networks."""

    actor: PyTree
    critic: PyTree


class Batch(NamedTuple):
    """Samples to learn from, one leading axis B, an environment step each.

    Attributes:
      observation: what was acted on.
      action: (B, N) int32.
      log_prob: (B, N) of the behaviour policy.
      value: (B, N) when it was collected.
      advantage: (B, N), not yet normalised.
      target: (B, N) value target.
      policy_weight: (B, N), 0 for an agent that had no choice.
      value_weight: (B, N).
    """

    observation: Observation
    action: Int[Array, "B N"]
    log_prob: Float[Array, "B N"]
    value: Float[Array, "B N"]
    advantage: Float[Array, "B N"]
    target: Float[Array, "B N"]
    policy_weight: Float[Array, "B N"]
    value_weight: Float[Array, "B N"]


class PPO:
    """IPPO or MAPPO, by `config.system.name`.

    Args:
      config: static settings; its traced numbers arrive as `Hyper` in each call.
      env: the environment.
      chunk_size: environment steps to a forward and backward pass, None for a whole minibatch.
      mesh: devices that the environments are spread over along the axis `env`, or None for one.
    """

    def __init__(
        self, config: ExperimentConfig, env: MultiAgentEnv, chunk_size: int | None = None, mesh: Mesh | None = None
    ) -> None:
        self.system = config.system
        self.env = env
        self.replicas = self.system.update_batch_size
        self.envs = AutoResetEnvs(env, config.arch.num_envs * self.replicas)
        self.chunk_size = chunk_size
        self.mesh = mesh
        self.centralised = self.system.name == "ff_mappo"
        self.add_agent_id = self.system.add_agent_id and not config.env.implicit_agent_id
        self.record = config.vault.record_train
        self.actor = Actor(make_torso(config.network.actor_network.pre_torso), env.num_actions)
        self.critic = Critic(make_torso(config.network.critic_network.pre_torso))

    def init(self, hyper: Hyper, key: PRNGKeyArray) -> LearnerState:
        """Networks, optimisers and environments at the start."""
        actor_key, critic_key, reset_key, next_key = jax.random.split(key, 4)
        envs = self._envs(hyper).reset(reset_key)
        observation = jax.tree.map(lambda leaf: leaf[:1], envs.observation)
        params = Params(
            self.actor.init(actor_key, self._actor_features(observation), observation.action_mask),
            self.critic.init(critic_key, self._critic_features(observation)),
        )
        optimisers = self._optimisers(hyper)
        opt_state = Params(optimisers.actor.init(params.actor), optimisers.critic.init(params.critic))
        return LearnerState(params, opt_state, envs, next_key, jnp.zeros((), jnp.int32))

    def update(self, hyper: Hyper, state: LearnerState) -> tuple[LearnerState, UpdateOutput]:
        """Play one rollout, judge it, then learn from it."""
        next_key, act_key, shuffle_key = jax.random.split(state.key, 3)
        envs, rollout = self.play(hyper, state, act_key)
        values, batch = self.judge(hyper, state.params, envs.observation, rollout)
        params, opt_state, losses = self.learn(hyper, state.params, state.opt_state, batch, shuffle_key)
        extra = {"value": values, "log_prob": rollout.log_prob}
        trajectory = trajectory_fields(rollout, self.env.num_actions, **extra) if self.record else {}
        return (
            LearnerState(params, opt_state, envs, next_key, state.updates + 1),
            UpdateOutput(losses, trajectory),
        )

    def act(
        self, params: PyTree, observation: Observation, key: PRNGKeyArray, *, greedy: bool
    ) -> tuple[Int[Array, "*b N"], dict[str, Array]]:
        """Actions for a batch of observations; `log_prob` and `value` of each."""
        logits = self._logits(params, observation)
        noise = jnp.zeros_like(logits) if greedy else flat_gumbel(key, logits.shape)
        action = jnp.argmax(logits + noise, axis=-1)
        return action, {"value": self._value(params, observation), "log_prob": log_prob(logits, action)}

    def play(self, hyper: Hyper, state: LearnerState, key: PRNGKeyArray) -> tuple[Any, Rollout]:
        """Collect a rollout with the current policy."""
        shape = (self.system.rollout_length, self.envs.num_envs, self.env.num_agents, self.env.num_actions)
        gumbel = flat_gumbel(key, shape)

        def act(observation: Observation, noise: Array) -> tuple[Array, Array]:
            logits = self._logits(state.params, observation)
            action = jnp.argmax(logits + noise, axis=-1)
            return action, log_prob(logits, action)

        return collect(
            self._envs(hyper), state.envs, act, lambda observation: self._value(state.params, observation), gumbel
        )

    def judge(
        self, hyper: Hyper, params: Params, last: Observation, rollout: Rollout
    ) -> tuple[Float[Array, "T E N"], Batch]:
        """Values and advantages of a rollout, as a batch with leading axis T*E."""
        numbers = hyper.system
        v_tm1 = self._value(params, rollout.observation)
        done = jnp.broadcast_to(rollout.done[..., None], rollout.reward.shape)
        v_t = jnp.where(done, rollout.final_value, jnp.concatenate([v_tm1[1:], self._value(params, last)[None]]))
        advantage = generalised_advantages(
            rollout.reward, numbers["gamma"] * rollout.discount, done, v_tm1, v_t, numbers["gae_lambda"]
        )
        had_choice = rollout.observation.action_mask.sum(-1) > 1
        batch = Batch(
            rollout.observation,
            rollout.action,
            rollout.log_prob,
            v_tm1,
            advantage,
            advantage + v_tm1,
            had_choice.astype(jnp.float32),
            jnp.ones_like(v_tm1),
        )
        return v_tm1, jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), batch)

    def learn(
        self, hyper: Hyper, params: Params, opt_state: Params, batch: Batch, key: PRNGKeyArray
    ) -> tuple[Params, Params, dict[str, Array]]:
        """Several epochs of shuffled minibatches."""
        optimisers = self._optimisers(hyper)

        def step(carry: tuple[Params, Params], indices: Array) -> tuple[tuple[Params, Params], dict[str, Array]]:
            params, opt_state = carry
            minibatch = self._prepare(jax.tree.map(lambda leaf: leaf[indices], batch))
            losses, gradient = chunked_gradient(
                lambda params, chunk: self._loss(hyper, params, chunk), params, minibatch, self.chunk_size
            )
            params, opt_state = self._apply(optimisers, params, opt_state, gradient)
            return (params, opt_state), losses

        (params, opt_state), losses = jax.lax.scan(step, (params, opt_state), self._minibatch_indices(key))
        return params, opt_state, {name: loss.mean() for name, loss in losses.items()}

    def _loss(self, hyper: Hyper, params: Params, chunk: Batch) -> tuple[Float[Array, ""], dict[str, Array]]:
        """PPO's loss, summed over a chunk whose weights sum to 1 over the minibatch."""
        numbers = hyper.system
        logits = self._logits(params, chunk.observation)
        log_ratio = log_prob(logits, chunk.action) - chunk.log_prob
        ratio = jnp.exp(log_ratio)
        policy = clipped_surrogate(ratio, chunk.advantage, numbers["clip_eps"])
        value = clipped_value_loss(
            self._value(params, chunk.observation), chunk.value, chunk.target, numbers["clip_eps"]
        )
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
        """Normalise advantages and weights over each replica's part of a minibatch; agents without choice count not."""

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
        return self._spread(prepared)

    def _minibatch_indices(self, key: PRNGKeyArray) -> Int[Array, "updates samples"]:
        """Rows of the flat batch for each gradient step of all epochs; each replica shuffles its own rows."""
        steps, num_envs = self.system.rollout_length, self.envs.num_envs // self.replicas
        size, minibatches = steps * num_envs, self.system.num_minibatches
        epochs = self.system.ppo_epochs
        bits = jax.random.bits(key, (epochs * self.replicas * size,), jnp.uint32)
        order = jnp.argsort(bits.reshape(epochs, self.replicas, size), axis=-1)
        time, env = order // num_envs, order % num_envs
        replica = jnp.arange(self.replicas)[None, :, None]
        rows = time * self.envs.num_envs + replica * num_envs + env
        parts = rows.reshape(epochs, self.replicas, minibatches, size // minibatches)
        return jnp.swapaxes(parts, 1, 2).reshape(epochs * minibatches, -1)

    def _apply(self, optimisers: Params, params: Params, opt_state: Params, gradient: Params) -> tuple[Params, Params]:
        """One optimiser step of each network."""
        actor_updates, actor_state = optimisers.actor.update(gradient.actor, opt_state.actor, params.actor)
        critic_updates, critic_state = optimisers.critic.update(gradient.critic, opt_state.critic, params.critic)
        stepped = Params(
            optax.apply_updates(params.actor, actor_updates), optax.apply_updates(params.critic, critic_updates)
        )
        return stepped, Params(actor_state, critic_state)

    def _optimisers(self, hyper: Hyper) -> Params:
        """Adam with each network's gradient clipped to a norm, as in Mava."""
        numbers = hyper.system
        gradient_steps = hyper.num_updates * self.system.ppo_epochs * self.system.num_minibatches

        def make(learning_rate: Float[Array, ""]) -> optax.GradientTransformation:
            def decayed(count: Array) -> Array:
                return learning_rate * jnp.maximum(0.0, 1.0 - count / gradient_steps)

            schedule = decayed if self.system.decay_learning_rates else learning_rate
            return optax.chain(optax.clip_by_global_norm(numbers["max_grad_norm"]), optax.adam(schedule, eps=1e-5))

        return Params(make(numbers["actor_lr"]), make(numbers["critic_lr"]))

    def _envs(self, hyper: Hyper) -> AutoResetEnvs:
        return AutoResetEnvs(self.env.with_params(hyper.env), self.envs.num_envs)

    def _logits(self, params: Params, observation: Observation) -> Float[Array, "*b N A"]:
        logits: Any = self.actor.apply(params.actor, self._actor_features(observation), observation.action_mask)
        return logits

    def _value(self, params: Params, observation: Observation) -> Float[Array, "*b N"]:
        value: Any = self.critic.apply(params.critic, self._critic_features(observation))
        return value

    def _actor_features(self, observation: Observation) -> Float[Array, "*b N F"]:
        view = observation.agents_view
        return append_agent_ids(view) if self.add_agent_id else view

    def _critic_features(self, observation: Observation) -> Float[Array, "*b N F"]:
        if not self.centralised:
            return self._actor_features(observation)
        state = global_state(observation.agents_view)
        return append_agent_ids(state)

    def _spread(self, batch: Batch) -> Batch:
        """Spread a minibatch over the devices of the mesh."""
        if self.mesh is None:
            return batch
        sharding = NamedSharding(self.mesh, PartitionSpec("env"))
        spread: Batch = jax.tree.map(lambda leaf: jax.lax.with_sharding_constraint(leaf, sharding), batch)
        return spread
