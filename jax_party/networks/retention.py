"""Retention over the agents of a step and over time, https://arxiv.org/abs/2307.08621, as Sable uses it,
https://arxiv.org/abs/2410.01706.

A position of the sequence is agent i at time step t. With queries q, keys k, values v, and a decay κ for each head:

    y_ti = Σ_sj D_ti,sj (q_ti · k_sj) v_sj,    D_ti,sj = κ^(t−s) where s ≤ t and no episode begins in (s, t], else 0.

All agents of a step share the step's decay, so they see each other undecayed; `causal` lets agent i see only agents
j ≤ i of its own step. The parallel form is this sum. The recurrent form keeps S_t = κ S_t−1 + Σ_j k_tj v_tjᵀ instead of
the past, S = 0 where an episode begins, and costs the same at every step. The chunkwise form is parallel inside a chunk
of steps and recurrent from chunk to chunk.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Bool, Float, Int, PyTree

Form = Callable[[Array, Array, Array, PyTree], tuple[Array, PyTree]]
"""A form of retention: (q, k, v, each (*b, N, h, d); state before) -> (y, of the same shape; state after)."""


def head_decays(num_heads: int, scaling_factor: float) -> Float[np.ndarray, " h"]:
    """Return each head's decay per time step, κ_i = scaling_factor (1 − 2^(−5−i)); RetNet eq. 8, scaled as in Sable."""
    return np.asarray(scaling_factor * (1.0 - 2.0 ** (-5.0 - np.arange(num_heads))), np.float32)


class Decays(NamedTuple):
    """How far the past reaches into the steps of a sequence, cut into K chunks of c steps.

    Attributes:
      inner: (B, K, h, c, c) from step s (last axis) to step t of a chunk: κ^(t−s), 0 across an episode's beginning.
      into: (B, K, c, h) from the step before the chunk to step t: κ^(t+1), or 0.
      out_of: (B, K, c, h) from step s to the chunk's last step: κ^(c−1−s), or 0.
      through: (B, K, h) from the step before the chunk to its last step: κ^c, or 0.
    """

    inner: Float[Array, "B K h c c"]
    into: Float[Array, "B K c h"]
    out_of: Float[Array, "B K c h"]
    through: Float[Array, "B K h"]


def decays(begins: Bool[Array, "B L"], kappa: Float[np.ndarray, " h"], chunk: int) -> Decays:
    """Return the decays of a sequence.

    Args:
      begins: whether an episode begins with the step; nothing is remembered across its beginning.
      kappa: decay of each head.
      chunk: c, a divisor of L.
    """
    batch, length = begins.shape
    episode = jnp.cumsum(begins.reshape(batch, length // chunk, chunk), axis=-1)
    step = np.arange(chunk)
    gap = step[:, None] - step[None, :]
    powers = np.where(gap >= 0, kappa[:, None, None] ** np.maximum(gap, 0), 0.0).astype(np.float32)
    same = episode[..., :, None] == episode[..., None, :]
    first, last = episode == 0, episode == episode[..., -1:]
    return Decays(
        jnp.where(same[:, :, None], powers, 0.0),
        jnp.where(first[..., None], kappa ** (step + 1.0)[:, None], 0.0).astype(jnp.float32),
        jnp.where(last[..., None], kappa ** (chunk - 1.0 - step)[:, None], 0.0).astype(jnp.float32),
        jnp.where(first[..., -1:], kappa**chunk, 0.0).astype(jnp.float32),
    )


def parallel(
    q: Float[Array, "*b n h d"],
    k: Float[Array, "*b n h d"],
    v: Float[Array, "*b n h d"],
    decay: Float[Array, "*b h n n"] | Float[np.ndarray, "n n"] | None = None,
) -> Float[Array, "*b n h d"]:
    """Return the sum above over n positions; `decay` is D, all ones if None."""
    q, k, v = (_heads_first(part) for part in (q, k, v))
    scores = q @ jnp.swapaxes(k, -1, -2)
    if decay is not None:
        scores = scores * decay
    return _heads_last(scores @ v)


def within_step(
    q: Float[Array, "*b N h d"], k: Float[Array, "*b N h d"], v: Float[Array, "*b N h d"], *, causal: bool
) -> Float[Array, "*b N h d"]:
    """Return retention over the agents of one step alone."""
    agents = q.shape[-3]
    return parallel(q, k, v, np.tri(agents, dtype=np.float32) if causal else None)


def recurrent(
    q: Float[Array, "b N h d"],
    k: Float[Array, "b N h d"],
    v: Float[Array, "b N h d"],
    state: Float[Array, "b h d d"],
    kappa: Float[np.ndarray, " h"],
    *,
    causal: bool,
) -> tuple[Float[Array, "b N h d"], Float[Array, "b h d d"]]:
    """Make one time step; `state` is S before it, not yet decayed."""
    past = _decayed(state, kappa)
    return within_step(q, k, v, causal=causal) + _recall(q, past), past + _outer(k, v)


class Turn(NamedTuple):
    """Retention in the middle of a step: what is remembered of the steps before, and the agents so far.

    Attributes:
      past: κ S, (b, h, d, d), or None if nothing is remembered across steps.
      keys, values: (b, N, h, d), 0 for agents whose turn is yet to come.
    """

    past: Float[Array, "b h d d"] | None
    keys: Float[Array, "b N h d"]
    values: Float[Array, "b N h d"]

    @classmethod
    def begin(
        cls, state: Float[Array, "b h d d"] | None, kappa: Float[np.ndarray, " h"], shape: tuple[int, ...]
    ) -> Turn:
        """Return the state before the first agent's turn. `shape`: (b, N, h, d)."""
        past = None if state is None else _decayed(state, kappa)
        return cls(past, jnp.zeros(shape), jnp.zeros(shape))

    def end(self) -> Float[Array, "b h d d"] | None:
        """Return the state after the step."""
        return None if self.past is None else self.past + _outer(self.keys, self.values)


def recurrent_turn(
    q: Float[Array, "b 1 h d"],
    k: Float[Array, "b 1 h d"],
    v: Float[Array, "b 1 h d"],
    turn: Turn,
    agent: Int[Array, ""] | int,
) -> tuple[Float[Array, "b 1 h d"], Turn]:
    """Make one agent's turn in a time step: causal `recurrent`, agent by agent."""
    keys = jax.lax.dynamic_update_slice_in_dim(turn.keys, k, agent, axis=1)
    values = jax.lax.dynamic_update_slice_in_dim(turn.values, v, agent, axis=1)
    y = parallel(q, keys, values)
    if turn.past is not None:
        y = y + _recall(q, turn.past)
    return y, Turn(turn.past, keys, values)


def chunkwise(
    q: Float[Array, "B L N h d"],
    k: Float[Array, "B L N h d"],
    v: Float[Array, "B L N h d"],
    state: Float[Array, "B h d d"],
    decays: Decays,
    *,
    causal: bool,
) -> tuple[Float[Array, "B L N h d"], Float[Array, "B h d d"]]:
    """Make L time steps from `state`, S before the first; `decays` sets the chunk. One chunk is the parallel form."""
    batch, _, agents, *head = q.shape
    chunks, length = decays.into.shape[1:3]
    shape = (batch, chunks, length * agents, *head)
    q, k, v = q.reshape(shape), k.reshape(shape), v.reshape(shape)

    def by_position(by_step: Float[Array, "B K c h"]) -> Float[Array, "B K c*N h 1"]:
        return jnp.repeat(by_step, agents, axis=2)[..., None]

    inner = jnp.repeat(jnp.repeat(decays.inner, agents, axis=-1), agents, axis=-2)
    if causal:
        inner = inner * np.tri(length * agents, dtype=np.float32)
    added = jnp.swapaxes(_outer(by_position(decays.out_of) * k, v), 0, 1)

    def next_chunk(state: Array, chunk: tuple[Array, Array]) -> tuple[Array, Array]:
        through, added = chunk
        return through[..., None, None] * state + added, state

    after, before = jax.lax.scan(next_chunk, state, (jnp.swapaxes(decays.through, 0, 1), added))
    y = parallel(q, k, v, inner) + _recall(by_position(decays.into) * q, jnp.swapaxes(before, 0, 1))
    return y.reshape(batch, chunks * length, agents, *head), after


def _decayed(state: Float[Array, "b h d d"], kappa: Float[np.ndarray, " h"]) -> Float[Array, "b h d d"]:
    return jnp.asarray(kappa)[:, None, None] * state


def _recall(q: Float[Array, "*b n h d"], past: Float[Array, "*b h d d"]) -> Float[Array, "*b n h d"]:
    return _heads_last(_heads_first(q) @ past)


def _outer(k: Float[Array, "*b n h d"], v: Float[Array, "*b n h d"]) -> Float[Array, "*b h d d"]:
    """Return Σ_j k_j v_jᵀ."""
    return jnp.swapaxes(_heads_first(k), -1, -2) @ _heads_first(v)


def _heads_first(x: Float[Array, "*b n h d"]) -> Float[Array, "*b h n d"]:
    """Move the head axis forward, at no cost for one head: XLA is fast only if all batch axes of a product lead."""
    if x.shape[-2] == 1:
        return x.reshape(*x.shape[:-3], 1, x.shape[-3], x.shape[-1])
    return jnp.swapaxes(x, -3, -2)


def _heads_last(x: Float[Array, "*b h n d"]) -> Float[Array, "*b n h d"]:
    if x.shape[-3] == 1:
        return x.reshape(*x.shape[:-3], x.shape[-2], 1, x.shape[-1])
    return jnp.swapaxes(x, -3, -2)


class MultiHeadRetention(nn.Module):
    """Projections, retention by heads, group norm by head and swish gate; RetNet section 2.2.

    Attributes:
      num_heads: h, a divisor of the embeddings' size.
    """

    num_heads: int

    @nn.compact
    def __call__(
        self,
        asking: Float[Array, "rows D"],
        kept: Float[Array, "rows D"] | None,
        axes: tuple[int, ...],
        form: Form,
        state: PyTree,
    ) -> tuple[Float[Array, "rows D"], PyTree]:
        """Apply retention.

        Args:
          asking: the source of queries and gates.
          kept: the source of keys and values; None for `asking` (self-retention).
          axes: the axes (*b, N) that the rows stand for.
          form: the form of retention.
          state: the state that it starts from.
        """
        size = asking.shape[-1]
        dense: Any = lambda outputs, name: nn.Dense(outputs * size, use_bias=False, name=name)  # noqa: E731
        if kept is None:
            q, gate, k, v = jnp.split(dense(4, "qgkv")(asking), 4, axis=-1)
        else:
            q, gate = jnp.split(dense(2, "qg")(asking), 2, axis=-1)
            k, v = jnp.split(dense(2, "kv")(kept), 2, axis=-1)
        heads = (*axes, self.num_heads, size // self.num_heads)
        y, state = form(q.reshape(heads), k.reshape(heads) * heads[-1] ** -0.5, v.reshape(heads), state)
        normal = _normalise(y.reshape(-1, heads[-1])).reshape(gate.shape)
        return dense(1, "out")(nn.silu(gate) * normal), state


def _normalise(y: Float[Array, "rows d"]) -> Float[Array, "rows d"]:
    """Apply group norm with one group per row; a scale would be redundant with the output projection's."""
    centred = y - y.mean(-1, keepdims=True)
    return centred * jax.lax.rsqrt((centred**2).mean(-1, keepdims=True) + 1e-6)


__all__ = [
    "Decays",
    "Form",
    "MultiHeadRetention",
    "Turn",
    "chunkwise",
    "decays",
    "head_decays",
    "parallel",
    "recurrent",
    "recurrent_turn",
    "within_step",
]
