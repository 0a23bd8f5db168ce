"""Gradients of a batch, a cache-sized chunk at a time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp

Params = TypeVar("Params")
Batch = TypeVar("Batch")


def chunked_gradient(
    loss: Callable[[Params, Batch], tuple[jax.Array, Any]], params: Params, batch: Batch, chunk_size: int | None
) -> tuple[Any, Params]:
    """Sum of a loss's auxiliary values and of its gradient over a batch, chunk by chunk.

    `loss` returns sums over the samples that it is given (not means), so that the chunks add up to the batch whatever
    their size.

    Args:
      loss: (params, batch) -> (scalar, aux), both summed over the batch's leading axis.
      params: what to differentiate with respect to.
      batch: leaves with one leading axis B.
      chunk_size: samples to a chunk; None for the whole batch at once. The largest divisor of B not above it is taken.

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

    def add(total: Any, part: Batch) -> tuple[Any, None]:
        return jax.tree.map(jnp.add, total, differentiate(params, part)), None

    shapes = jax.eval_shape(differentiate, params, jax.tree.map(lambda leaf: leaf[0], chunks))
    zero = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
    (gradient, aux), _ = jax.lax.scan(add, zero, chunks)
    return aux, gradient


def largest_divisor(size: int, limit: int) -> int:
    """The largest divisor of `size` that is at most `limit`."""
    return next(divisor for divisor in range(min(size, limit), 0, -1) if size % divisor == 0)
