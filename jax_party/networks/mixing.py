"""QMIX's mixing network."""

from __future__ import annotations

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float


class QMixer(nn.Module):
    """Agents' values in, the team's value out: never less when an agent's value is more.

    https://arxiv.org/abs/1803.11485 section 4.1: two layers with an ELU between, whose weights are absolute values of
    what hypernetworks make of the global state; the last bias is a network of the state with a hidden layer. The
    hypernetworks have a hidden layer themselves; those of all parts are computed as one.

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
        first = nn.Dense(2 * hyper + 2 * embed, name="from_state")(state)
        bias, hidden = first[..., :embed], nn.relu(first[..., embed:])
        weights = jnp.abs(nn.Dense(num_agents * embed, name="weights")(hidden[..., :hyper]))
        last_weights = jnp.abs(nn.Dense(embed, name="last_weights")(hidden[..., hyper : 2 * hyper]))
        last_bias = nn.Dense(1, name="last_bias")(hidden[..., 2 * hyper :])[..., 0]
        weights = weights.reshape(*values.shape, embed)
        mixed = nn.elu((values[..., None] * weights).sum(-2) + bias)
        return (mixed * last_weights).sum(-1) + last_bias


__all__ = ["QMixer"]
