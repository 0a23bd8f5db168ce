"""Policy and value losses per element: the caller weights and averages them."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int


def log_prob(logits: Float[Array, "*b A"], action: Int[Array, "*b"]) -> Float[Array, "*b"]:
    """Return the log-probability of `action` under a categorical policy."""
    one_hot = jax.nn.one_hot(action, logits.shape[-1], dtype=bool)
    return jnp.where(one_hot, jax.nn.log_softmax(logits), 0.0).sum(-1)


def entropy(logits: Float[Array, "*b A"]) -> Float[Array, "*b"]:
    """Return the entropy of a categorical policy, in nats; actions of probability 0 add nothing."""
    log_probs = jax.nn.log_softmax(logits)
    return -(jnp.exp(log_probs) * jnp.maximum(log_probs, -1e4)).sum(-1)


def clipped_surrogate(
    ratio: Float[Array, "*b"], advantage: Float[Array, "*b"], epsilon: Float[Array, ""] | float
) -> Float[Array, "*b"]:
    """Return PPO's loss, −min(ρ A, clip(ρ, 1−ε, 1+ε) A); https://arxiv.org/abs/1707.06347 eq. 7."""
    return -jnp.minimum(ratio * advantage, jnp.clip(ratio, 1.0 - epsilon, 1.0 + epsilon) * advantage)


def clipped_value_loss(
    value: Float[Array, "*b"],
    old_value: Float[Array, "*b"],
    target: Float[Array, "*b"],
    epsilon: Float[Array, ""] | float,
) -> Float[Array, "*b"]:
    """Return ½ max((v − G)², (v_old + clip(v − v_old, −ε, ε) − G)²): the value cannot change by more than ε at once.

    https://arxiv.org/abs/2103.01955 section 3, as in OpenAI's baselines.
    """
    clipped = old_value + jnp.clip(value - old_value, -epsilon, epsilon)
    return 0.5 * jnp.maximum((value - target) ** 2, (clipped - target) ** 2)
