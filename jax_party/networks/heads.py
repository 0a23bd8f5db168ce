"""Heads: an actor's masked logits, a critic's value."""

from __future__ import annotations

import jax.numpy as jnp
from flax import linen as nn
from flax.linen.initializers import orthogonal
from jaxtyping import Array, Float

from jax_party.ops.products import thin_dot_general
from jax_party.ops.value_scale import VALUE_LAYER

MASKED_LOGIT = -1e9
"""The logit of an illegal action: its probability is exactly 0 in float32."""


class Actor(nn.Module):
    """Torso and policy head.

    Attributes:
      torso: the embedding.
      num_actions: A.
    """

    torso: nn.Module
    num_actions: int

    @nn.compact
    def __call__(self, features: Float[Array, "*b F"], action_mask: Array) -> Float[Array, "*b A"]:
        """Return logits of the policy, `MASKED_LOGIT` where the action is illegal."""
        embedding = self.torso(as_rows(features))
        logits = dense_head(self.num_actions, 0.01)(embedding)
        return jnp.where(action_mask, logits.reshape(action_mask.shape), MASKED_LOGIT)


class Critic(nn.Module):
    """Torso and value head.

    Attributes:
      torso: the embedding.
    """

    torso: nn.Module

    @nn.compact
    def __call__(self, features: Float[Array, "*b F"]) -> Float[Array, "*b"]:
        """Return state values."""
        embedding = self.torso(as_rows(features))
        return dense_head(1, 1.0, VALUE_LAYER)(embedding).reshape(features.shape[:-1])


def dense_head(outputs: int, gain: float, name: str | None = None) -> nn.Dense:
    """Return a dense layer of few outputs, orthogonally initialised with `gain`; for samples as rows."""
    return nn.Dense(outputs, kernel_init=orthogonal(gain), dot_general=thin_dot_general, name=name)


def as_rows(features: Float[Array, "*b F"]) -> Float[Array, "rows F"]:
    """Reshape samples to rows of a matrix: with more axes, XLA on CPU copies and transposes for a layer's gradient."""
    return features.reshape(-1, features.shape[-1])
