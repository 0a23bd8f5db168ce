"""IPPO and MAPPO: proximal policy optimisation, each agent with its own critic or with a centralised one.

IPPO: https://arxiv.org/abs/2011.09533; MAPPO: https://arxiv.org/abs/2103.01955. Parameters are shared between
agents, as in Mava; agents are distinguished by their ids.
"""

from __future__ import annotations

from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int, PRNGKeyArray, PyTree

from jax_party.config.experiment import ExperimentConfig
from jax_party.envs.adapter import MultiAgentEnv, Observation
from jax_party.envs.wrappers import append_agent_ids, global_state
from jax_party.networks.heads import Actor, Critic
from jax_party.networks.torsos import make_torso
from jax_party.ops.losses import log_prob
from jax_party.systems.base import Hyper, Rollout
from jax_party.systems.on_policy import Batch, OnPolicySystem


class Params(NamedTuple):
    """Parameters (or gradients) of the two networks."""

    actor: PyTree
    critic: PyTree


class ActorCriticSystem(OnPolicySystem):
    """A system with a separate actor and critic; MAPPO's critic is centralised."""

    @property
    def centralised(self) -> bool:
        """Whether the critic sees the global state."""
        return self.system.name in ("ff_mappo", "rec_mappo")

    def optimiser(self, hyper: Hyper) -> optax.GradientTransformation:
        """Return Adam for each network, with its own learning rate and its own gradient norm."""
        numbers = hyper.system
        optimisers = {
            "actor": self.adam(hyper, numbers["actor_lr"]),
            "critic": self.adam(hyper, numbers["critic_lr"]),
        }
        return optax.partition(optimisers, Params("actor", "critic"))

    def critic_features(self, observation: Observation) -> Float[Array, "*b N F"]:
        """Return what the critic sees: the agent's own features, or the global state with the agent's id."""
        if not self.centralised:
            return self.features(observation)
        return append_agent_ids(global_state(observation.agents_view))


class PPO(ActorCriticSystem):
    """Feed-forward IPPO or MAPPO, by `config.system.name`."""

    cpu_chunk_size: ClassVar[int | None] = 128

    def __init__(
        self, config: ExperimentConfig, env: MultiAgentEnv, chunk_size: int | None = None, mesh: Mesh | None = None
    ) -> None:
        super().__init__(config, env, chunk_size, mesh)
        networks: Any = config.network
        self.actor = Actor(make_torso(networks.actor_network.pre_torso), env.num_actions)
        self.critic = Critic(make_torso(networks.critic_network.pre_torso))

    def init_params(self, key: PRNGKeyArray, observation: Observation) -> Params:
        """Return the parameters of both networks."""
        actor_key, critic_key = jax.random.split(key)
        return Params(
            self.actor.init(actor_key, self.features(observation), observation.action_mask),
            self.critic.init(critic_key, self.critic_features(observation)),
        )

    def initial_memory(self, batch_size: int) -> PyTree:
        """Return (): nothing is remembered."""
        return ()

    def step(
        self, params: Params, memory: PyTree, observation: Observation, noise: Float[Array, "b N A"]
    ) -> tuple[PyTree, Int[Array, "b N"], dict[str, Array]]:
        """Act on the observation alone."""
        logits = self._logits(params, observation)
        action = jnp.argmax(logits + noise, axis=-1)
        return memory, action, {"log_prob": log_prob(logits, action)}

    def bootstrap(self, params: Params, memory: PyTree, observation: Observation) -> Float[Array, "*b N"]:
        """Return values of observations."""
        value: Any = self.critic.apply(params.critic, self.critic_features(observation))
        return value

    def values(self, params: Params, start: PyTree, rollout: Rollout) -> Float[Array, "T E N"]:
        """Return values of a rollout, all steps at once."""
        return self.bootstrap(params, start, rollout.observation)

    def evaluate(self, params: Params, batch: Batch) -> tuple[Float[Array, "B N A"], Float[Array, "B N"]]:
        """Return logits and values of a batch of steps."""
        return self._logits(params, batch.observation), self.bootstrap(params, (), batch.observation)

    def _logits(self, params: Params, observation: Observation) -> Float[Array, "*b N A"]:
        logits: Any = self.actor.apply(params.actor, self.features(observation), observation.action_mask)
        return logits
