"""Torsos: networks that embed features."""

from __future__ import annotations

from collections.abc import Callable

import jax.numpy as jnp
from flax import linen as nn
from flax.linen.initializers import orthogonal
from jaxtyping import Array, Float

from jax_party.config import TorsoConfig

ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "relu": nn.relu,
    "tanh": jnp.tanh,
    "gelu": nn.gelu,
    "silu": nn.silu,
}


class MLPTorso(nn.Module):
    """A multi-layer perceptron with orthogonal initialisation of gain sqrt(2), as in Mava.

    Attributes:
      layer_sizes: width of each layer.
      activation: name of the activation after each layer.
      use_layer_norm: whether each layer is normalised before its activation.
    """

    layer_sizes: tuple[int, ...]
    activation: str = "relu"
    use_layer_norm: bool = False

    @nn.compact
    def __call__(self, features: Float[Array, "*b F"]) -> Float[Array, "*b D"]:
        """Embed `features`."""
        for size in self.layer_sizes:
            features = nn.Dense(size, kernel_init=orthogonal(jnp.sqrt(2.0)))(features)
            if self.use_layer_norm:
                features = nn.LayerNorm(use_scale=False)(features)
            features = ACTIVATIONS[self.activation](features)
        return features


def make_torso(config: TorsoConfig) -> MLPTorso:
    """Return the torso that a config describes."""
    return MLPTorso(config.layer_sizes, config.activation, config.use_layer_norm)


__all__ = ["ACTIVATIONS", "MLPTorso", "make_torso"]
