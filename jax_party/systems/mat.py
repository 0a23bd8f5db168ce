"""MAT, the Multi-Agent Transformer: https://arxiv.org/abs/2205.14953.

The joint policy is decoded agent by agent, each action conditioned on those before it. Training decodes all agents at
once, with the actions that were taken. Each agent's advantage is estimated from its own reward; with a shared reward
this is the paper's setting, where the agents' advantages add up to the joint one (theorem 1).
"""

from __future__ import annotations

from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int, PRNGKeyArray, PyTree

from jax_party.config.experiment import ExperimentConfig
from jax_party.envs.adapter import MultiAgentEnv, Observation
from jax_party.networks.heads import MASKED_LOGIT
from jax_party.networks.transformer import Decoder, Encoder, shifted_tokens
from jax_party.ops.losses import log_prob
from jax_party.systems.on_policy import Batch, OnPolicySystem


class Params(NamedTuple):
    """Parameters (or gradients) of the two networks."""

    encoder: PyTree
    decoder: PyTree


class MAT(OnPolicySystem):
    """The Multi-Agent Transformer with PPO's objective, using each agent's own advantage."""

    cpu_chunk_size: ClassVar[int | None] = 64

    def __init__(
        self, config: ExperimentConfig, env: MultiAgentEnv, chunk_size: int | None = None, mesh: Mesh | None = None
    ) -> None:
        super().__init__(config, env, chunk_size, mesh)
        networks: Any = config.network
        net = networks.net_config
        size = (net.n_block, net.n_head, net.embed_dim, net.attention_gain)
        self.encoder = Encoder(*size)
        self.decoder = Decoder(env.num_actions, *size)

    def init_params(self, key: PRNGKeyArray, observation: Observation) -> Params:
        """Return the parameters of both networks."""
        encoder_key, decoder_key = jax.random.split(key)
        (representation, _), encoder = self.encoder.init_with_output(encoder_key, self.features(observation))
        token = jnp.zeros(representation.shape[:-1], jnp.int32)
        past = self.decoder.empty_past(*token.shape)
        return Params(encoder, self.decoder.init(decoder_key, token, representation, past, 0))

    def initial_memory(self, batch_size: int) -> PyTree:
        """Return (): nothing is remembered."""
        return ()

    def step(
        self, params: Params, memory: PyTree, observation: Observation, noise: Float[Array, "b N A"]
    ) -> tuple[PyTree, Int[Array, "b N"], dict[str, Array]]:
        """Choose the agents' actions one after another."""
        representation, value = self._encode(params, observation)
        batch_size, num_agents = value.shape

        def choose(carry: tuple[Array, PyTree], turn: tuple[Array, ...]) -> tuple[tuple[Array, PyTree], Any]:
            token, past = carry
            agent, representation, mask, noise = turn
            logits, past = self._decode(params, token[:, None], representation[:, None], past, agent)
            logits = jnp.where(mask, logits[:, 0], MASKED_LOGIT)
            action = jnp.argmax(logits + noise, axis=-1)
            return (action + 1, past), (action, logits)

        start = jnp.zeros((batch_size,), jnp.int32), self.decoder.empty_past(batch_size, num_agents)
        by_agent = (jnp.swapaxes(leaf, 0, 1) for leaf in (representation, observation.action_mask, noise))
        _, (action, logits) = jax.lax.scan(choose, start, (jnp.arange(num_agents), *by_agent))
        action, logits = jnp.swapaxes(action, 0, 1), jnp.swapaxes(logits, 0, 1)
        return memory, action, {"log_prob": log_prob(logits, action), "value": value}

    def bootstrap(self, params: Params, memory: PyTree, observation: Observation) -> Float[Array, "b N"]:
        """Return the encoder's values of observations."""
        return self._encode(params, observation)[1]

    def evaluate(self, params: Params, batch: Batch) -> tuple[Float[Array, "B N A"], Float[Array, "B N"]]:
        """Evaluate all agents at once: each is given the actions that those before it took."""
        representation, value = self._encode(params, batch.observation)
        past = self.decoder.empty_past(*value.shape)
        logits, _ = self._decode(params, shifted_tokens(batch.action), representation, past, 0)
        return jnp.where(batch.observation.action_mask, logits, MASKED_LOGIT), value

    def _encode(self, params: Params, observation: Observation) -> tuple[Float[Array, "b N D"], Float[Array, "b N"]]:
        encoded: Any = self.encoder.apply(params.encoder, self.features(observation))
        return encoded

    def _decode(self, params: Params, *arguments: Any) -> tuple[Float[Array, "b n A"], PyTree]:
        decoded: Any = self.decoder.apply(params.decoder, *arguments)
        return decoded
