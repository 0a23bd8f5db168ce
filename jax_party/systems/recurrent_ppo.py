"""Recurrent IPPO and MAPPO: proximal policy optimisation with a GRU in the actor and in the critic.

IPPO: https://arxiv.org/abs/2011.09533; MAPPO: https://arxiv.org/abs/2103.01955; the GRU:
https://arxiv.org/abs/1406.1078. Hidden states are reset at the start of each episode. Training processes sequences of
the rollout, each starting from the hidden states that acting had there.
"""

from __future__ import annotations

from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int, PRNGKeyArray

from jax_party.config.experiment import ExperimentConfig
from jax_party.envs.adapter import MultiAgentEnv, Observation
from jax_party.networks.heads import Actor, Critic
from jax_party.networks.recurrent import RecurrentNetwork
from jax_party.networks.torsos import make_torso
from jax_party.ops.losses import log_prob
from jax_party.systems.on_policy import Batch
from jax_party.systems.ppo import ActorCriticSystem, Params


class Memory(NamedTuple):
    """Hidden states of the two networks."""

    actor: Float[Array, "*b N H"]
    critic: Float[Array, "*b N H"]


class RecurrentPPO(ActorCriticSystem):
    """Recurrent IPPO or MAPPO, by `config.system.name`."""

    cpu_chunk_size: ClassVar[int | None] = None

    def __init__(
        self, config: ExperimentConfig, env: MultiAgentEnv, chunk_size: int | None = None, mesh: Mesh | None = None
    ) -> None:
        super().__init__(config, env, chunk_size, mesh)
        networks: Any = config.network
        actor, critic = networks.actor_network, networks.critic_network
        self.hidden_size: int = networks.hidden_state_dim
        self.actor = RecurrentNetwork(
            make_torso(actor.pre_torso), self.hidden_size, Actor(make_torso(actor.post_torso), env.num_actions)
        )
        self.critic = RecurrentNetwork(
            make_torso(critic.pre_torso), self.hidden_size, Critic(make_torso(critic.post_torso))
        )

    def init_params(self, key: PRNGKeyArray, observation: Observation) -> Params:
        """Return the parameters of both networks."""
        actor_key, critic_key = jax.random.split(key)
        memory = self.initial_memory(1)
        return Params(
            self.actor.init(actor_key, memory.actor, self.features(observation), observation.action_mask),
            self.critic.init(critic_key, memory.critic, self.critic_features(observation)),
        )

    def initial_memory(self, batch_size: int) -> Memory:
        """Return the hidden states at the beginning of an episode: zeros."""
        hidden = jnp.zeros((batch_size, self.env.num_agents, self.hidden_size))
        return Memory(hidden, hidden)

    def step(
        self, params: Params, memory: Memory, observation: Observation, noise: Float[Array, "b N A"]
    ) -> tuple[Memory, Int[Array, "b N"], dict[str, Array]]:
        """Act, and step the critic too, to update its hidden state."""
        actor_hidden, logits = self._act(params, memory, observation)
        critic_hidden, value = self._criticise(params, memory, observation)
        action = jnp.argmax(logits + noise, axis=-1)
        return Memory(actor_hidden, critic_hidden), action, {"log_prob": log_prob(logits, action), "value": value}

    def bootstrap(self, params: Params, memory: Memory, observation: Observation) -> Float[Array, "b N"]:
        """Return values of observations, without changing the memory."""
        return self._criticise(params, memory, observation)[1]

    def evaluate(self, params: Params, batch: Batch) -> tuple[Float[Array, "B L N A"], Float[Array, "B L N"]]:
        """Return logits and values of sequences, each from the memory before its first step."""
        observation, begins = jax.tree.map(_swap_axes, (batch.observation, batch.last_done))
        memory: Memory = batch.memory
        features, mask = self.features(observation), observation.action_mask
        unroll = RecurrentNetwork.unroll
        policy: Any = self.actor.apply(params.actor, memory.actor, features, begins, mask, method=unroll)
        critic: Any = self.critic.apply(
            params.critic, memory.critic, self.critic_features(observation), begins, method=unroll
        )
        (_, logits), (_, values) = policy, critic
        return _swap_axes(logits), _swap_axes(values)

    def _act(self, params: Params, memory: Memory, observation: Observation) -> Any:
        return self.actor.apply(params.actor, memory.actor, self.features(observation), observation.action_mask)

    def _criticise(self, params: Params, memory: Memory, observation: Observation) -> Any:
        return self.critic.apply(params.critic, memory.critic, self.critic_features(observation))


def _swap_axes(leaf: Array) -> Array:
    """Transpose (B, L, ...) to (L, B, ...) and back: recurrent cores scan the leading axis."""
    return jnp.swapaxes(leaf, 0, 1)


__all__ = ["Memory", "RecurrentPPO"]
