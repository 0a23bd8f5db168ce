"""Sable: one retentive sequence model for all agents, https://arxiv.org/abs/2410.01706.

The agents of a step form a sequence: the encoder values their observations, and in the decoder each agent acts on what
the agents before it do. In `ff_sable` the sequence ends with the step; in `rec_sable` it continues over time, until the
episode ends.
"""

from __future__ import annotations

import functools
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int, PRNGKeyArray, PyTree

from jax_party.config.experiment import ExperimentConfig
from jax_party.config.networks import SableNetworks
from jax_party.envs.adapter import MultiAgentEnv, Observation
from jax_party.networks.retention import (
    Turn,
    chunkwise,
    decays,
    head_decays,
    recurrent,
    recurrent_turn,
    within_step,
)
from jax_party.networks.sable import SableDecoder, SableEncoder, positional_encoding, shifted
from jax_party.ops.gradients import largest_divisor
from jax_party.ops.losses import log_prob
from jax_party.systems.on_policy import Batch, OnPolicySystem

CHUNK = 16
"""The most environment steps per chunk of retention if the config sets none: on a CPU 8 to 32 are equally fast."""


class Params(NamedTuple):
    """Parameters (or gradients) of the two networks."""

    encoder: PyTree
    decoder: PyTree


class Memory(NamedTuple):
    """States of retention, (E, h, d, d) each; None each in `ff_sable`.

    Attributes:
      encoder: one per block.
      decoder: two per block, one for each of its retentions.
    """

    encoder: tuple[Any, ...]
    decoder: tuple[tuple[Any, Any], ...]


class Sable(OnPolicySystem):
    """`ff_sable` or `rec_sable`, by `config.system.name`."""

    cpu_chunk_size: ClassVar[int | None] = 128

    def __init__(
        self, config: ExperimentConfig, env: MultiAgentEnv, chunk_size: int | None = None, mesh: Mesh | None = None
    ) -> None:
        super().__init__(config, env, chunk_size, mesh)
        assert isinstance(config.network, SableNetworks)
        self.net, retention = config.network.net_config, config.network.memory_config
        size = (self.net.n_block, self.net.n_head, self.net.embed_dim)
        self.encoder = SableEncoder(*size)
        self.decoder = SableDecoder(*size, env.num_actions)
        self.head_dim = self.net.embed_dim // self.net.n_head
        self.kappa = head_decays(self.net.n_head, retention.decay_scaling_factor)
        self.chunk = retention.timestep_chunk_size or largest_divisor(self.sequence_length or 1, CHUNK)

    @property
    def recurrent(self) -> bool:
        """Whether anything is remembered from step to step."""
        return self.sequence_length is not None

    def init_params(self, key: PRNGKeyArray, observation: Observation) -> Params:
        """Return the parameters of both networks."""
        encoder_key, decoder_key = jax.random.split(key)
        memory, form = self.initial_memory(1), functools.partial(_retain_step, self.kappa, causal=False)
        sights = (self.features(observation), None, form, memory.encoder)
        encoder = self.encoder.init(encoder_key, *sights)
        observed: Any = self.encoder.apply(encoder, *sights)
        mask = observation.action_mask
        previous = jnp.zeros(mask.shape[:-1], jnp.int32)
        return Params(encoder, self.decoder.init(decoder_key, previous, observed[0], mask, None, form, memory.decoder))

    def initial_memory(self, batch_size: int) -> Memory:
        """Return states of zeros; None in `ff_sable`."""
        blocks, shape = self.net.n_block, (batch_size, self.net.n_head, self.head_dim, self.head_dim)
        state = jnp.zeros(shape) if self.recurrent else None
        return Memory((state,) * blocks, ((state, state),) * blocks)

    def step(
        self, params: Params, memory: Memory, observation: Observation, noise: Float[Array, "b N A"]
    ) -> tuple[Memory, Int[Array, "b N"], dict[str, Array]]:
        """Value the observations, then act agent by agent."""
        observed, value, encoder = self._encode(params, memory, observation)
        decoder, action, log_probs = self._decide(params, memory, observation, observed, noise)
        return Memory(encoder, decoder), action, {"log_prob": log_probs, "value": value}

    def bootstrap(self, params: Params, memory: Memory, observation: Observation) -> Float[Array, "b N"]:
        """Return the encoder's values."""
        return self._encode(params, memory, observation)[1]

    def evaluate(self, params: Params, batch: Batch) -> tuple[Float[Array, "B N A"], Float[Array, "B N"]]:
        """Return logits given the actions that were taken, and values, over all agents (and time steps) at once."""
        observation, memory, position = batch.observation, batch.memory, self._position(batch.observation)
        form: Any = functools.partial(_retain_step, self.kappa)
        if self.recurrent:
            form = functools.partial(chunkwise, decays=decays(batch.last_done, self.kappa, self.chunk))
        everyone, before = functools.partial(form, causal=False), functools.partial(form, causal=True)
        features, previous = self.features(observation), shifted(batch.action)
        encoded: Any = self.encoder.apply(params.encoder, features, position, everyone, memory.encoder)
        observed, value, _ = encoded
        decoded: Any = self.decoder.apply(
            params.decoder, previous, observed, observation.action_mask, position, before, memory.decoder
        )
        return decoded[0], value

    # -- The acting form -----------------------------------------------------------------------------------------------

    def _encode(
        self, params: Params, memory: Memory, observation: Observation
    ) -> tuple[Float[Array, "b N D"], Float[Array, "b N"], tuple[Any, ...]]:
        """Return embeddings and values of one step's observations, and the encoder's states after it."""
        form = functools.partial(_retain_step, self.kappa, causal=False)
        features, position = self.features(observation), self._position(observation)
        encoded: Any = self.encoder.apply(params.encoder, features, position, form, memory.encoder)
        return encoded

    def _decide(
        self,
        params: Params,
        memory: Memory,
        observation: Observation,
        observed: Float[Array, "b N D"],
        noise: Float[Array, "b N A"],
    ) -> tuple[tuple[Any, ...], Int[Array, "b N"], Float[Array, "b N"]]:
        """Act agent by agent; return the decoder's states after the step, the actions and their log-probabilities."""
        position = self._position(observation)
        shape = (*observed.shape[:2], self.net.n_head, self.head_dim)
        turns = _over_states(lambda state: Turn.begin(state, self.kappa, shape), memory.decoder)

        def act(carry: tuple[Any, Array], own: tuple[Array, ...]) -> tuple[tuple[Any, Array], tuple[Array, Array]]:
            turns, previous = carry
            agent, observed, mask, noise = own
            form = functools.partial(_retain_turn, agent)
            logits, turns = self.decoder.apply(
                params.decoder, previous[:, None], observed[:, None], mask[:, None], position, form, turns
            )
            action = jnp.argmax(logits[:, 0] + noise, axis=-1)
            return (turns, action), (action, log_prob(logits[:, 0], action))

        agents = jnp.arange(shape[1])
        own = (agents, *(jnp.swapaxes(leaf, 0, 1) for leaf in (observed, observation.action_mask, noise)))
        start = jnp.full(shape[:1], -1, jnp.int32)
        (turns, _), (action, log_probs) = jax.lax.scan(act, (turns, start), own)
        return _over_states(lambda turn: turn.end(), turns), action.T, log_probs.T

    def _position(self, observation: Observation) -> Float[Array, "*b 1 D"] | None:
        """Return the encoding of the time step, the same for all agents; None in `ff_sable`."""
        if not self.recurrent:
            return None
        return positional_encoding(observation.step_count[..., :1], self.net.embed_dim)


def _retain_step(
    kappa: Any, q: Array, k: Array, v: Array, state: Any, *, causal: bool
) -> tuple[Float[Array, "*b N h d"], Any]:
    """Apply retention over the agents of one step, and over earlier steps if there is a state."""
    if state is None:
        return within_step(q, k, v, causal=causal), None
    return recurrent(q, k, v, state, kappa, causal=causal)


def _retain_turn(
    agent: Int[Array, ""], q: Array, k: Array, v: Array, turn: Turn
) -> tuple[Float[Array, "b 1 h d"], Turn]:
    return recurrent_turn(q, k, v, turn, agent)


def _over_states(function: Any, blocks: tuple[tuple[Any, Any], ...]) -> tuple[tuple[Any, Any], ...]:
    """Apply a function to the two states of each of the decoder's blocks."""
    return tuple((function(own), function(cross)) for own, cross in blocks)


__all__ = ["Memory", "Params", "Sable"]
