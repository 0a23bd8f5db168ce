"""Critics of action values."""

from __future__ import annotations

from flax import linen as nn
from flax.linen.initializers import orthogonal
from jaxtyping import Array, Float


class ActionCritic(nn.Module):
    """Torso and a head with a value for each action.

    Attributes:
      torso: the embedding.
      num_actions: A.
    """

    torso: nn.Module
    num_actions: int

    @nn.compact
    def __call__(self, features: Float[Array, "*b F"]) -> Float[Array, "*b A"]:
        """Action values, illegal actions' too."""
        return nn.Dense(self.num_actions, kernel_init=orthogonal(1.0))(self.torso(features))
