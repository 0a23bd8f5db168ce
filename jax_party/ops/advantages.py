"""Returns and advantages."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float


def generalised_advantages(
    r_t: Float[Array, "T *b"],
    discount_t: Float[Array, "T *b"],
    done_t: Bool[Array, "T *b"],
    v_tm1: Float[Array, "T *b"],
    v_t: Float[Array, "T *b"],
    lambda_: Float[Array, ""] | float,
) -> Float[Array, "T *b"]:
    """Return generalised advantage estimates, https://arxiv.org/abs/1506.02438 eq. 16.

    delta_t = r_t + discount_t v_t − v_tm1;  A_tm1 = delta_t + discount_t λ (1 − done_t) A_t.

    Args:
      r_t: rewards.
      discount_t: gamma times the environment's discount: 0 at termination, gamma at truncation.
      done_t: the episode ended with this step, either way; nothing propagates back across it.
      v_tm1: values of the observations acted on.
      v_t: values of the observations that followed; where an episode ended, of its last observation.
      lambda_: the trace's decay.
    """
    delta_t = r_t + discount_t * v_t - v_tm1
    trace_t = discount_t * lambda_ * (1.0 - done_t)

    def accumulate(advantage: Array, step: tuple[Array, Array]) -> tuple[Array, Array]:
        delta, trace = step
        advantage = delta + trace * advantage
        return advantage, advantage

    _, advantages = jax.lax.scan(accumulate, jnp.zeros_like(v_t[-1]), (delta_t, trace_t), reverse=True, unroll=1)
    return advantages


def normalise(
    values: Float[Array, "*b"], weights: Float[Array, "*b"], axes: tuple[int, ...] | None = None
) -> Float[Array, "*b"]:
    """Return values minus their weighted mean, divided by their weighted standard deviation plus 1e-8, along `axes`."""
    total = jnp.maximum(weights.sum(axes, keepdims=True), 1.0)
    mean = (weights * values).sum(axes, keepdims=True) / total
    variance = (weights * (values - mean) ** 2).sum(axes, keepdims=True) / total
    return (values - mean) / (jnp.sqrt(variance) + 1e-8)
