"""Action-value networks."""

from __future__ import annotations

from flax import linen as nn
from flax.linen.initializers import orthogonal
from jaxtyping import Array, Float


class QNetwork(nn.Module):
    """Torso and action-value head, its values near 0 at the start.

    Attributes:
      torso: the embedding.
      num_actions: A.
    """

    torso: nn.Module
    num_actions: int

    @nn.compact
    def __call__(self, features: Float[Array, "*b F"]) -> Float[Array, "*b A"]:
        """Values of all actions, illegal ones too."""
        return nn.Dense(self.num_actions, kernel_init=orthogonal(0.01))(self.torso(features))


__all__ = ["QNetwork"]
