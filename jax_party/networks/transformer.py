"""The Multi-Agent Transformer's encoder and decoder, https://arxiv.org/abs/2205.14953, section 3.

Agents form the sequence: the encoder relates their observations, the decoder their actions, one agent after another.
Layers, normalisations after each residual sum, and initialisation follow the paper's own code.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.linen.initializers import orthogonal
from flax.typing import Initializer
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from jax_party.networks.heads import MASKED_LOGIT
from jax_party.ops.value_scale import VALUE_LAYER

ACTIVATED_GAIN = 2.0**0.5
"""Gain of the initialisation of a layer that is followed by an activation."""
OUTPUT_GAIN = 0.01
"""Gain of the last layers of a block or a head: a block starts as little more than its residual path."""


def attention(
    query: Float[Array, "b n D"],
    key: Float[Array, "b m D"],
    value: Float[Array, "b m D"],
    n_head: int,
    visible: Bool[Array, "n m"] | None = None,
) -> Float[Array, "b n D"]:
    """Return multi-head attention, softmax(Q Kᵀ / √(D/H)) V in each head; https://arxiv.org/abs/1706.03762 eq. 1.

    Args:
      query: of the attending agents.
      key: of the attended agents.
      value: of the attended agents.
      n_head: H, heads; each has D/H successive features.
      visible: whom each agent may attend to; None for all.
    """

    def by_head(x: Array) -> Array:
        return jnp.swapaxes(x.reshape(*x.shape[:-1], n_head, -1), 1, 2)

    query, key, value = by_head(query), by_head(key), by_head(value)
    scores = jnp.einsum("bhid,bhjd->bhij", query, key) / jnp.sqrt(query.shape[-1])
    if visible is not None:
        scores = jnp.where(visible, scores, MASKED_LOGIT)
    attended = jnp.einsum("bhij,bhjd->bhid", nn.softmax(scores), value)
    batch, _, agents, _ = attended.shape
    return jnp.swapaxes(attended, 1, 2).reshape(batch, agents, -1)


def side_by_side(initialise: Initializer, parts: int) -> Initializer:
    """Return the initialiser of merged layers with a common input: each has its own columns of (I, parts * O)."""

    def merged(key: PRNGKeyArray, shape: tuple[int, ...], dtype: jax.typing.DTypeLike = jnp.float32) -> Array:
        inputs, outputs = shape
        keys = jax.random.split(key, parts)
        return jnp.concatenate([initialise(part, (inputs, outputs // parts), dtype) for part in keys], axis=-1)

    return merged


def _projection(embed_dim: int, gain: float, parts: int = 1) -> nn.Dense:
    return nn.Dense(parts * embed_dim, kernel_init=side_by_side(orthogonal(gain), parts))


class FeedForward(nn.Module):
    """The two layers at the end of a block.

    Attributes:
      embed_dim: D.
    """

    embed_dim: int

    @nn.compact
    def __call__(self, x: Float[Array, "*b D"]) -> Float[Array, "*b D"]:
        """Transform each agent's features separately."""
        x = nn.gelu(nn.Dense(self.embed_dim, kernel_init=orthogonal(ACTIVATED_GAIN))(x))
        return nn.Dense(self.embed_dim, kernel_init=orthogonal(OUTPUT_GAIN))(x)


class Head(nn.Module):
    """The last layers of the encoder (a value) and the decoder (logits).

    Attributes:
      embed_dim: D.
      outputs: O.
      layer: the last layer's name.
    """

    embed_dim: int
    outputs: int
    layer: str | None = None

    @nn.compact
    def __call__(self, x: Float[Array, "*b D"]) -> Float[Array, "*b O"]:
        """Transform each agent's features separately."""
        x = nn.LayerNorm()(nn.gelu(nn.Dense(self.embed_dim, kernel_init=orthogonal(ACTIVATED_GAIN))(x)))
        return nn.Dense(self.outputs, kernel_init=orthogonal(OUTPUT_GAIN), name=self.layer)(x)


class EncodeBlock(nn.Module):
    """Self-attention over all agents, and two layers.

    Attributes:
      embed_dim: D.
      n_head: heads; a divisor of D.
      attention_gain: gain of the projections' initialisation.
    """

    embed_dim: int
    n_head: int
    attention_gain: float

    @nn.compact
    def __call__(self, x: Float[Array, "b N D"]) -> Float[Array, "b N D"]:
        """Let every agent attend to every agent."""
        dim, gain = self.embed_dim, self.attention_gain
        query, key, value = jnp.split(_projection(dim, gain, 3)(x), 3, axis=-1)
        x = nn.LayerNorm()(x + _projection(dim, gain)(attention(query, key, value, self.n_head)))
        return nn.LayerNorm()(x + FeedForward(self.embed_dim)(x))


class Encoder(nn.Module):
    """The network from observations to representations and values.

    Attributes:
      n_block: blocks.
      n_head: heads; a divisor of `embed_dim`.
      embed_dim: D.
      attention_gain: gain of the initialisation of attention's projections.
    """

    n_block: int
    n_head: int
    embed_dim: int
    attention_gain: float

    @nn.compact
    def __call__(self, features: Float[Array, "b N F"]) -> tuple[Float[Array, "b N D"], Float[Array, "b N"]]:
        """Return each agent's representation, given all observations, and its value."""
        x = nn.gelu(nn.Dense(self.embed_dim, kernel_init=orthogonal(ACTIVATED_GAIN))(nn.LayerNorm()(features)))
        x = nn.LayerNorm()(x)
        for _ in range(self.n_block):
            x = EncodeBlock(self.embed_dim, self.n_head, self.attention_gain)(x)
        return x, Head(self.embed_dim, 1, VALUE_LAYER)(x)[..., 0]


class Past(NamedTuple):
    """Keys and values of one block for the agents decoded so far; those of later agents are ignored.

    Attributes:
      own: (b, N, 2D) for the attention among actions.
      cross: (b, N, 2D) for the attention from representations.
    """

    own: Float[Array, "b N 2D"]
    cross: Float[Array, "b N 2D"]


class DecodeBlock(nn.Module):
    """Self-attention among actions, attention from representations to them, both masked, and two layers.

    Attributes:
      embed_dim: D.
      n_head: heads; a divisor of D.
      attention_gain: gain of the projections' initialisation.
    """

    embed_dim: int
    n_head: int
    attention_gain: float

    def setup(self) -> None:
        """Create the layers; those with a common input are merged."""
        dim, gain = self.embed_dim, self.attention_gain
        self.own_qkv = _projection(dim, gain, 3)
        self.own_out = _projection(dim, gain)
        self.cross_query = _projection(dim, gain)
        self.cross_key_value = _projection(dim, gain, 2)
        self.cross_out = _projection(dim, gain)
        self.feed_forward = FeedForward(self.embed_dim)
        self.norms = [nn.LayerNorm() for _ in range(3)]

    def project(self, x: Float[Array, "*b D"]) -> Float[Array, "*b 3D"]:
        """Return query, key and value of the attention among actions."""
        projected: Array = self.own_qkv(x)
        return projected

    def __call__(
        self,
        x: Float[Array, "b n D"],
        projected: Float[Array, "b n 3D"],
        representation: Float[Array, "b n D"],
        past: Past,
        first: Int[Array, ""] | int,
    ) -> tuple[Float[Array, "b n D"], Past]:
        """Decode agents `first`..`first + n - 1`, given the past of earlier ones; also return the past with these."""
        dim = self.embed_dim
        visible = jnp.arange(past.own.shape[1]) <= first + jnp.arange(x.shape[1])[:, None]
        own = _put(past.own, projected[..., dim:], first)
        attended = attention(projected[..., :dim], own[..., :dim], own[..., dim:], self.n_head, visible)
        x = self.norms[0](x + self.own_out(attended))
        cross = _put(past.cross, self.cross_key_value(x), first)
        query = self.cross_query(representation)
        attended = attention(query, cross[..., :dim], cross[..., dim:], self.n_head, visible)
        x = self.norms[1](representation + self.cross_out(attended))
        return self.norms[2](x + self.feed_forward(x)), Past(own, cross)


def _put(past: Array, new: Array, first: Int[Array, ""] | int) -> Array:
    """Return `past` with the agents from `first` on replaced."""
    if new.shape == past.shape:
        return new
    return jax.lax.dynamic_update_slice_in_dim(past, new, first, axis=1)


class Decoder(nn.Module):
    """The network from the actions so far and the representations to the logits of the next agents.

    Decoding all agents at once, or one after another with the past carried along, is the same function.

    Attributes:
      num_actions: A.
      n_block: blocks.
      n_head: heads; a divisor of `embed_dim`.
      embed_dim: D.
      attention_gain: gain of the initialisation of attention's projections.
    """

    num_actions: int
    n_block: int
    n_head: int
    embed_dim: int
    attention_gain: float

    def setup(self) -> None:
        """Create the embedding of each token, blocks, and head."""
        shape = (self.num_actions + 1, self.embed_dim)
        self.tokens = self.param("tokens", orthogonal(ACTIVATED_GAIN), shape)
        self.norm = nn.LayerNorm()
        self.blocks = [DecodeBlock(self.embed_dim, self.n_head, self.attention_gain) for _ in range(self.n_block)]
        self.head = Head(self.embed_dim, self.num_actions)

    def __call__(
        self,
        token: Int[Array, "b n"],
        representation: Float[Array, "b n D"],
        past: tuple[Past, ...],
        first: Int[Array, ""] | int,
    ) -> tuple[Float[Array, "b n A"], tuple[Past, ...]]:
        """Return logits, not masked, of agents `first`..`first + n - 1`.

        Args:
          token: the action of the agent before, plus 1; 0 for the first agent.
          representation: that of these agents.
          past: one per block, of the earlier agents; `empty_past` if there are none.
          first: the first of these agents.

        Returns:
          The logits, and the past including these agents.
        """
        # There are only A + 1 tokens: what depends on nothing else is computed once per token.
        embedded = self.norm(nn.gelu(self.tokens))
        table = jnp.concatenate([embedded, self.blocks[0].project(embedded)], axis=-1)
        rows = jax.nn.one_hot(token, len(table)) @ table
        x, projected = rows[..., : self.embed_dim], rows[..., self.embed_dim :]
        following = []
        for index, block in enumerate(self.blocks):
            projected = block.project(x) if index else projected
            x, after = block(x, projected, representation, past[index], first)
            following.append(after)
        return self.head(x), tuple(following)

    def empty_past(self, batch_size: int, num_agents: int) -> tuple[Past, ...]:
        """Return the past before the first agent, for each block."""
        zeros = jnp.zeros((batch_size, num_agents, 2 * self.embed_dim))
        return (Past(zeros, zeros),) * self.n_block


def shifted_tokens(action: Int[Array, "b N"]) -> Int[Array, "b N"]:
    """Return the token that each agent's turn begins with, given all actions: the start token, then actions plus 1."""
    return jnp.pad(action[:, :-1] + 1, ((0, 0), (1, 0)))


__all__ = ["DecodeBlock", "Decoder", "EncodeBlock", "Encoder", "Past", "attention", "shifted_tokens"]
