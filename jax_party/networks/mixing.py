"""QMIX's mixing network."""

from __future__ import annotations

import jax.numpy as jnp
from flax import linen as nn
from flax.linen.initializers import orthogonal
from jaxtyping import Array, Float

from jax_party.ops.value_scale import VALUE_FACTOR_LAYER, VALUE_LAYER


class QMixer(nn.Module):
    """Agents' values in, the team's value out: never less when an agent's value is more.

    https://arxiv.org/abs/1803.11485 section 4.1: two layers with an ELU between, whose weights are absolute values of
    what hypernetworks make of the global state; the last bias is a network of the state with a hidden layer. The
    hypernetworks have a hidden layer themselves; those of all parts are computed as one.

    The state is normalised, as in Mava, and what is made of it starts small: environments count in what units they
    like (grid cells, sums of payoffs), and a team's value that starts far above any return takes long to come down.

    Attributes:
      embed_dim: width of the mixing layer.
      hyper_hidden_dim: width of the hidden layer of each weights' hypernetwork.
    """

    embed_dim: int
    hyper_hidden_dim: int

    @nn.compact
    def __call__(self, values: Float[Array, "*b N"], state: Float[Array, "*b S"]) -> Float[Array, "*b"]:
        """The team's value of the agents' `values` in a `state`."""
        num_agents, embed, hyper = values.shape[-1], self.embed_dim, self.hyper_hidden_dim
        state = nn.LayerNorm(use_scale=False, use_bias=False)(state)
        bias = nn.Dense(embed, kernel_init=orthogonal(0.1), name="bias")(state)
        hidden = nn.relu(nn.Dense(2 * hyper + embed, name="hidden")(state))
        weights = jnp.abs(nn.Dense(num_agents * embed, name="weights")(hidden[..., :hyper]))
        last = nn.Dense(embed, kernel_init=orthogonal(0.1), name=VALUE_FACTOR_LAYER)(hidden[..., hyper : 2 * hyper])
        last_weights = jnp.abs(last)
        last_bias = nn.Dense(1, kernel_init=orthogonal(0.01), name=VALUE_LAYER)(hidden[..., 2 * hyper :])[..., 0]
        weights = weights.reshape(*values.shape, embed)
        mixed = nn.elu((values[..., None] * weights).sum(-2) + bias)
        return (mixed * last_weights).sum(-1) + last_bias


__all__ = ["QMixer"]
