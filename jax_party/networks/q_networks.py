"""Action-value networks."""

from __future__ import annotations

from flax import linen as nn
from jaxtyping import Array, Float

from jax_party.networks.heads import as_rows, dense_head


class QNetwork(nn.Module):
    """Torso and action-value head.

    Attributes:
      torso: the embedding.
      num_actions: A.
      gain: that of the head's orthogonal initialisation; small gains start with values near 0.
    """

    torso: nn.Module
    num_actions: int
    gain: float = 0.01

    @nn.compact
    def __call__(self, features: Float[Array, "*b F"]) -> Float[Array, "*b A"]:
        """Return values of all actions, including illegal ones."""
        embedding = self.torso(as_rows(features))
        values = dense_head(self.num_actions, self.gain)(embedding)
        return values.reshape(*features.shape[:-1], self.num_actions)


__all__ = ["QNetwork"]
