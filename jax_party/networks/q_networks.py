"""Action-value networks."""

from __future__ import annotations

from flax import linen as nn
from jaxtyping import Array, Float

from jax_party.networks.heads import as_rows, dense_head
from jax_party.ops.value_scale import VALUE_LAYER


class QNetwork(nn.Module):
    """Torso and action-value head.

    Attributes:
      torso: the embedding.
      num_actions: A.
      gain: of the head's orthogonal initialisation; small ones begin with values near 0.
      layer: the last layer's name.
    """

    torso: nn.Module
    num_actions: int
    gain: float = 0.01
    layer: str | None = VALUE_LAYER

    @nn.compact
    def __call__(self, features: Float[Array, "*b F"]) -> Float[Array, "*b A"]:
        """Values of all actions, illegal ones too."""
        embedding = self.torso(as_rows(features))
        values = dense_head(self.num_actions, self.gain, self.layer)(embedding)
        return values.reshape(*features.shape[:-1], self.num_actions)


__all__ = ["QNetwork"]
