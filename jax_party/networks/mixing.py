"""QMIX's mixing network."""

from __future__ import annotations

import jax.numpy as jnp
from flax import linen as nn
from flax.linen.initializers import orthogonal
from jaxtyping import Array, Float


class QMixer(nn.Module):
    """A network from agents' values to the team's, which never decreases when an agent's value increases.

    https://arxiv.org/abs/1803.11485 section 4.1: two layers with an ELU between; their weights are absolute values of
    the outputs of hypernetworks of the global state; the last bias is a network of the state with a hidden layer. The
    hypernetworks themselves have a hidden layer; those of all parts are computed as one.

    The state is normalised, as in Mava, and its effect is initialised to be small: environments use arbitrary units
    (grid cells, sums of payoffs), and a team's value that starts far above any return takes long to come down.

    Attributes:
      embed_dim: width of the mixing layer.
      hyper_hidden_dim: width of the hidden layer of each weights' hypernetwork.
    """

    embed_dim: int
    hyper_hidden_dim: int

    @nn.compact
    def __call__(self, values: Float[Array, "*b N"], state: Float[Array, "*b S"]) -> Float[Array, "*b"]:
        """Return the team's value of the agents' `values` in a `state`."""
        num_agents, embed, hyper = values.shape[-1], self.embed_dim, self.hyper_hidden_dim
        state = nn.LayerNorm(use_scale=False, use_bias=False)(state)
        bias = nn.Dense(embed, kernel_init=orthogonal(0.1), name="bias")(state)
        hidden = nn.relu(nn.Dense(2 * hyper + embed, name="hidden")(state))
        weights = jnp.abs(nn.Dense(num_agents * embed, name="weights")(hidden[..., :hyper]))
        last = nn.Dense(embed, kernel_init=orthogonal(0.1), name="last_weights")(hidden[..., hyper : 2 * hyper])
        last_weights = jnp.abs(last)
        last_bias = nn.Dense(1, kernel_init=orthogonal(0.01), name="last_bias")(hidden[..., 2 * hyper :])[..., 0]
        weights = weights.reshape(*values.shape, embed)
        mixed = nn.elu((values[..., None] * weights).sum(-2) + bias)
        return (mixed * last_weights).sum(-1) + last_bias


__all__ = ["QMixer"]
