"""Kernels of soft actor-critic with discrete actions, https://arxiv.org/abs/1910.07207, per element.

Policies are given by masked logits. An illegal action has probability 0 and adds nothing to an expectation or to its
gradient, whatever its value.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jax_party.ops.losses import entropy


def expected_value(logits: Float[Array, "*b A"], q: Float[Array, "*b A"]) -> Float[Array, "*b"]:
    """Return Σ_a π(a) Q(a)."""
    return (jax.nn.softmax(logits) * q).sum(-1)


def soft_value(
    logits: Float[Array, "*b A"], q: Float[Array, "*b A"], alpha: Float[Array, "..."] | float
) -> Float[Array, "*b"]:
    """Return V = Σ_a π(a) (Q(a) − α log π(a)), eq. 10: the expectation over the policy's actions, without sampling.

    Args:
      logits: masked logits of π.
      q: action values.
      alpha: the temperature; broadcasts over the batch axes.
    """
    return expected_value(logits, q) + alpha * entropy(logits)


def policy_loss(
    logits: Float[Array, "*b A"], q: Float[Array, "*b A"], alpha: Float[Array, "..."] | float
) -> Float[Array, "*b"]:
    """Return Σ_a π(a) (α log π(a) − Q(a)), eq. 12; no gradient flows into Q or α.

    Up to a constant it is α times the KL divergence from π to softmax(Q / α).
    """
    return -soft_value(logits, jax.lax.stop_gradient(q), jax.lax.stop_gradient(alpha))


def target_entropy(action_mask: Bool[Array, "*b A"], scale: Float[Array, ""] | float) -> Float[Array, "*b"]:
    """Return `scale` times the entropy of the uniform policy over n legal actions, log n; 0 for a single one."""
    return scale * jnp.log(jnp.maximum(action_mask.sum(-1), 1).astype(jnp.float32))


def temperature_loss(
    log_alpha: Float[Array, "*b"], entropy: Float[Array, "*b"], target: Float[Array, "*b"]
) -> Float[Array, "*b"]:
    """Return α (H(π) − H̄), eq. 11: descending it raises the temperature if the entropy is below its target."""
    return jnp.exp(log_alpha) * jax.lax.stop_gradient(entropy - target)


__all__ = ["expected_value", "policy_loss", "soft_value", "target_entropy", "temperature_loss"]
