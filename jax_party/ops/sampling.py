"""Random draws."""

from __future__ import annotations

import jax
from jaxtyping import Array, Float, PRNGKeyArray


def flat_gumbel(key: PRNGKeyArray, shape: tuple[int, ...]) -> Float[Array, "..."]:
    """Return standard Gumbel noise, float32; `argmax(logits + noise)` samples a categorical.

    Drawn as one vector and reshaped: on a CPU a four-dimensional draw takes XLA over a second to compile, and five
    times as long to run.
    """
    size = 1
    for length in shape:
        size *= length
    return jax.random.gumbel(key, (size,)).reshape(shape)
