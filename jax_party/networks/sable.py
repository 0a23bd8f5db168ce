"""Sable's networks, https://arxiv.org/abs/2410.01706: a retentive encoder over the agents' observations, which also
outputs their values, and a retentive decoder that is autoregressive over their actions.

Each network serves every form of retention: acting and training differ only in the `Form` that is passed and in the
leading axes, (b, N) for a step, (B, L, N) for sequences of steps. Inside, embeddings are rows of a matrix, one per
agent and time step: with more axes XLA would transpose copies of them for the weights' gradients.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax.linen.initializers import orthogonal
from jaxtyping import Array, Bool, Float, Int

from jax_party.networks.heads import MASKED_LOGIT
from jax_party.networks.retention import Form, MultiHeadRetention
from jax_party.ops.value_scale import VALUE_LAYER


def positional_encoding(step_count: Int[Array, "*b"], size: int) -> Float[Array, "*b D"]:
    """Return sines and cosines of the time step, https://arxiv.org/abs/1706.03762 section 3.5."""
    halves = (size + 1) // 2
    frequencies = np.float32(10_000.0 ** (-np.arange(halves) / halves))
    angles = step_count[..., None].astype(jnp.float32) * frequencies
    return jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=-1)[..., :size]


class GatedFeedForward(nn.Module):
    """A gated linear unit with swish, https://arxiv.org/abs/2002.05202 eq. 6, of the embeddings' own size."""

    @nn.compact
    def __call__(self, x: Float[Array, "rows D"]) -> Float[Array, "rows D"]:
        """Transform `x`."""
        size = x.shape[-1]
        gate, linear = jnp.split(nn.Dense(2 * size, use_bias=False, name="gate_linear")(x), 2, axis=-1)
        return nn.Dense(size, use_bias=False, name="out")(nn.silu(gate) * linear)


class Head(nn.Module):
    """A hidden layer and a linear one.

    Attributes:
      outputs: the number of outputs.
      gain: that of the last layer's initialisation.
      layer: the last layer's name.
    """

    outputs: int
    gain: float
    layer: str | None = None

    @nn.compact
    def __call__(self, x: Float[Array, "rows D"]) -> Float[Array, "rows outputs"]:
        """Return the outputs."""
        hidden = nn.Dense(x.shape[-1], kernel_init=orthogonal(np.sqrt(2.0)))(x)
        last = nn.Dense(self.outputs, kernel_init=orthogonal(self.gain), name=self.layer)
        return last(nn.RMSNorm()(nn.gelu(hidden)))


class EncoderBlock(nn.Module):
    """Self-retention and feed-forward, each with a residual and a norm.

    Attributes:
      num_heads: h.
    """

    num_heads: int

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "rows D"],
        position: Float[Array, "rows D"] | float,
        axes: tuple[int, ...],
        form: Form,
        state: Any,
    ) -> tuple[Float[Array, "rows D"], Any]:
        """Return the embeddings after this block, and the state of its retention."""
        retained, state = MultiHeadRetention(self.num_heads)(x + position, None, axes, form, state)
        x = nn.RMSNorm()(x + retained)
        return nn.RMSNorm()(x + GatedFeedForward()(x)), state


class DecoderBlock(nn.Module):
    """Self-retention over actions, retention of them queried by the observations, and feed-forward.

    Attributes:
      num_heads: h.
    """

    num_heads: int

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "rows D"],
        observed: Float[Array, "rows D"],
        position: Float[Array, "rows D"] | float,
        axes: tuple[int, ...],
        form: Form,
        states: tuple[Any, Any],
    ) -> tuple[Float[Array, "rows D"], tuple[Any, Any]]:
        """Return the embeddings after this block, and the states of its two retentions. `observed`: the encoder's."""
        retained, own = MultiHeadRetention(self.num_heads)(x + position, None, axes, form, states[0])
        x = nn.RMSNorm()(x + retained)
        retained, cross = MultiHeadRetention(self.num_heads)(observed + position, x + position, axes, form, states[1])
        x = nn.RMSNorm()(observed + retained)
        return nn.RMSNorm()(x + GatedFeedForward()(x)), (own, cross)


class SableEncoder(nn.Module):
    """Embeddings of observations, and values.

    Attributes:
      num_blocks, num_heads, embed_dim: its size.
    """

    num_blocks: int
    num_heads: int
    embed_dim: int

    @nn.compact
    def __call__(
        self,
        features: Float[Array, "*b N F"],
        position: Float[Array, "*b 1 D"] | None,
        form: Form,
        states: tuple[Any, ...],
    ) -> tuple[Float[Array, "*b N D"], Float[Array, "*b N"], tuple[Any, ...]]:
        """Embed the observations and value them.

        Args:
          features: what each agent sees.
          position: encoding of the time step, None if time does not matter.
          form: the form of retention, in which the agents of a step see each other.
          states: one per block.

        Returns:
          The embeddings, the values, the states after.
        """
        axes = features.shape[:-1]
        at = _by_row(position, axes)
        x = nn.Dense(self.embed_dim, kernel_init=orthogonal(np.sqrt(2.0)))(features.reshape(-1, features.shape[-1]))
        x = nn.RMSNorm()(nn.gelu(x))
        after = []
        for block in range(self.num_blocks):
            x, state = EncoderBlock(self.num_heads)(x, at, axes, form, states[block])
            after.append(state)
        return x.reshape(*axes, -1), Head(1, 1.0, VALUE_LAYER)(x).reshape(axes), tuple(after)


class SableDecoder(nn.Module):
    """The policy: each agent's logits given the actions of the agents before it.

    Attributes:
      num_blocks, num_heads, embed_dim: its size.
      num_actions: A.
    """

    num_blocks: int
    num_heads: int
    embed_dim: int
    num_actions: int

    @nn.compact
    def __call__(
        self,
        previous: Int[Array, "*b N"],
        observed: Float[Array, "*b N D"],
        action_mask: Bool[Array, "*b N A"],
        position: Float[Array, "*b 1 D"] | None,
        form: Form,
        states: tuple[tuple[Any, Any], ...],
    ) -> tuple[Float[Array, "*b N A"], tuple[tuple[Any, Any], ...]]:
        """Return masked logits, and the states after.

        Args:
          previous: the action of the agent before, −1 for the first agent (`shifted`).
          observed: the encoder's embeddings.
          action_mask: legal actions.
          position: encoding of the time step, None if time does not matter.
          form: the form of retention, in which an agent sees those before it.
          states: those of the two retentions of each block.
        """
        axes = previous.shape
        at, observed = _by_row(position, axes), observed.reshape(-1, self.embed_dim)
        table = self.param("actions", orthogonal(np.sqrt(2.0)), (self.num_actions + 1, self.embed_dim))
        # Indexing would have a scatter as its gradient, several times slower on a CPU.
        tokens = jax.nn.one_hot(previous.reshape(-1) + 1, self.num_actions + 1, dtype=table.dtype)
        x = tokens @ nn.RMSNorm()(nn.gelu(table))
        after = []
        for block in range(self.num_blocks):
            x, pair = DecoderBlock(self.num_heads)(x, observed, at, axes, form, states[block])
            after.append(pair)
        logits = Head(self.num_actions, 0.01)(x).reshape(action_mask.shape)
        return jnp.where(action_mask, logits, MASKED_LOGIT), tuple(after)


def shifted(action: Int[Array, "*b N"]) -> Int[Array, "*b N"]:
    """Return the action of the agent before each, −1 (a token of its own) for the first."""
    return jnp.concatenate([jnp.full_like(action[..., :1], -1), action[..., :-1]], axis=-1)


def _by_row(position: Float[Array, "*b 1 D"] | None, axes: tuple[int, ...]) -> Float[Array, "rows D"] | float:
    """Return the position of each agent; 0 if there is none."""
    if position is None:
        return 0.0
    return jnp.broadcast_to(position, (*axes, position.shape[-1])).reshape(-1, position.shape[-1])


__all__ = ["SableDecoder", "SableEncoder", "positional_encoding", "shifted"]
