"""Gradients of a batch in cache-sized chunks, and optimiser steps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import optax
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float

Params = TypeVar("Params")
Batch = TypeVar("Batch")


def chunked_gradient(
    loss: Callable[[Params, Batch], tuple[jax.Array, Any]], params: Params, batch: Batch, chunk_size: int | None
) -> tuple[Any, Params]:
    """Return the sums of a loss's auxiliary values and of its gradient over a batch, computed chunk by chunk.

    `loss` returns sums over its samples (not means), so that the chunks add up to the batch whatever their size.

    Args:
      loss: (params, batch) -> (scalar, aux), both summed over the batch's leading axis.
      params: what to differentiate with respect to.
      batch: leaves with one leading axis B.
      chunk_size: samples per chunk, reduced to the largest divisor of B; None for the whole batch at once.

    Returns:
      (aux, gradient).
    """
    size = jax.tree.leaves(batch)[0].shape[0]
    chunk = largest_divisor(size, chunk_size or size)
    differentiate = jax.grad(loss, has_aux=True)
    if chunk == size:
        gradient, aux = differentiate(params, batch)
        return aux, gradient
    chunks = jax.tree.map(lambda leaf: leaf.reshape(size // chunk, chunk, *leaf.shape[1:]), batch)

    shapes = jax.eval_shape(differentiate, params, jax.tree.map(lambda leaf: leaf[0], chunks))
    zero, as_tree = ravel_pytree(jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes))

    def add(total: Array, part: Batch) -> tuple[Array, None]:
        return total + ravel_pytree(differentiate(params, part))[0], None

    total, _ = jax.lax.scan(add, zero, chunks)  # one vector: separate leaves would each be a kernel to compile
    gradient, aux = as_tree(total)
    return aux, gradient


def clipped_adam(
    learning_rate: optax.ScalarOrSchedule, max_norm: Float[Array, ""], eps: float = 1e-5
) -> optax.GradientTransformation:
    """Return Adam with the gradient norm clipped, as in Mava; all parameters are one vector, which compiles faster."""
    return optax.flatten(optax.chain(optax.clip_by_global_norm(max_norm), optax.adam(learning_rate, eps=eps)))


def largest_divisor(size: int, limit: int) -> int:
    """Return the largest divisor of `size` that is at most `limit`."""
    return next(divisor for divisor in range(min(size, limit), 0, -1) if size % divisor == 0)
