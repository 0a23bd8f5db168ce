"""A gated recurrent unit in two forms that give the same numbers, and networks around it.

The acting form makes one step from a hidden state; the training form processes whole sequences, clearing the hidden
state where an episode begins.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.linen.initializers import lecun_normal, orthogonal
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from jax_party.ops.gradients import largest_divisor

BLOCK_ROWS = 384
"""Rows (steps times sequences) that a network's training form processes together."""


class GRU(nn.Module):
    """A gated recurrent unit, https://arxiv.org/abs/1406.1078, with the equations and initialisation of flax's GRUCell.

        r = σ(W_r x + b_r + U_r h)
        z = σ(W_z x + b_z + U_z h)
        n = tanh(W_n x + b_n + r (U_n h + c_n))
        h' = (1 − z) n + z h

    The three gates' weights lie side by side in the order r, z, n: one multiplication for x and one for h.

    Attributes:
      hidden_size: H.
    """

    hidden_size: int

    def setup(self) -> None:
        """Declare the parameters."""
        size = self.hidden_size
        self.project = nn.Dense(3 * size, kernel_init=lecun_normal())
        self.kernel = self.param("recurrent_kernel", _gatewise_orthogonal, (size, 3 * size))
        self.bias = self.param("recurrent_bias", nn.initializers.zeros_init(), (size,))

    def step(self, hidden: Float[Array, "*b H"], inputs: Float[Array, "*b D"]) -> Float[Array, "*b H"]:
        """Return the hidden state after one more input (the acting form)."""
        return gru_step(self.project(inputs), self.kernel, self.bias, hidden)[0]

    def unroll(
        self, hidden: Float[Array, "*b H"], inputs: Float[Array, "T *b D"], begins: Bool[Array, "T ..."]
    ) -> Float[Array, "T *b H"]:
        """Return the hidden states after each step (the training form).

        Args:
          hidden: before the first step.
          inputs: of every step.
          begins: whether an episode begins with the step, so that the hidden state is cleared before it, including the
            first step; its axes are T and any leading axes of b, over whose other axes it is constant.
        """
        time, *batch, width = inputs.shape
        projected = self.project(inputs.reshape(-1, width)).reshape(time, -1, 3 * self.hidden_size)
        flags = begins.reshape(*begins.shape, *(1,) * (len(batch) + 1 - begins.ndim))
        keep = 1.0 - jnp.broadcast_to(flags, (time, *batch)).reshape(time, -1, 1)
        rows = hidden.reshape(-1, self.hidden_size)
        return gru_unroll(projected, self.kernel, self.bias, rows, keep).reshape(time, *batch, self.hidden_size)


class Gates(NamedTuple):
    """The values of a step's gates, for its derivative: r, z, n and U_n h + c_n."""

    reset: Float[Array, "*b H"]
    update: Float[Array, "*b H"]
    candidate: Float[Array, "*b H"]
    recalled: Float[Array, "*b H"]


def gru_step(
    projected: Float[Array, "*b 3*H"],
    kernel: Float[Array, "H 3*H"],
    bias: Float[Array, " H"],
    hidden: Float[Array, "*b H"],
) -> tuple[Float[Array, "*b H"], Gates]:
    """Make one step of a GRU from its input's projections (W x + b, gates r, z, n side by side).

    Returns:
      The hidden state after it, and its gates.
    """
    size = hidden.shape[-1]
    recurrent = hidden @ kernel
    reset = jax.nn.sigmoid(projected[..., :size] + recurrent[..., :size])
    update = jax.nn.sigmoid(projected[..., size : 2 * size] + recurrent[..., size : 2 * size])
    recalled = recurrent[..., 2 * size :] + bias
    candidate = jnp.tanh(projected[..., 2 * size :] + reset * recalled)
    return candidate + update * (hidden - candidate), Gates(reset, update, candidate, recalled)


@jax.custom_vjp
def gru_unroll(
    projected: Float[Array, "T R 3*H"],
    kernel: Float[Array, "H 3*H"],
    bias: Float[Array, " H"],
    hidden: Float[Array, "R H"],
    keep: Float[Array, "T R 1"],
) -> Float[Array, "T R H"]:
    """Return hidden states of R sequences after each of T steps.

    The derivative is written by hand: it keeps each step's gates, and each step back needs two multiplications, one for
    the hidden state and one for the recurrent weights. `keep` has no derivative.

    Args:
      projected: W x + b of every step.
      kernel: U.
      bias: c_n.
      hidden: before the first step.
      keep: 0 where the hidden state is cleared before the step, else 1.
    """
    return _unroll_forward(projected, kernel, bias, hidden, keep)[0]


class _Residuals(NamedTuple):
    kernel: Float[Array, "H 3*H"]
    before: Float[Array, "T R H"]
    gates: Gates
    keep: Float[Array, "T R 1"]


def _unroll_forward(
    projected: Array, kernel: Array, bias: Array, hidden: Array, keep: Array
) -> tuple[Array, _Residuals]:
    def step(hidden: Array, inputs: tuple[Array, Array]) -> tuple[Array, tuple[Array, Array, Gates]]:
        projected_t, keep_t = inputs
        before = hidden * keep_t
        hidden, gates = gru_step(projected_t, kernel, bias, before)
        return hidden, (hidden, before, gates)

    _, (hiddens, before, gates) = jax.lax.scan(step, hidden, (projected, keep))
    return hiddens, _Residuals(kernel, before, gates, keep)


def _unroll_backward(residuals: _Residuals, d_hiddens: Array) -> tuple[Array | None, ...]:
    kernel, before, gates, keep = residuals

    def step(carry: tuple[Array, Array, Array], inputs: tuple[Array, Array, Gates, Array]) -> tuple[Any, Any]:
        d_hidden, d_kernel, d_bias = carry
        d_hidden_t, before_t, gates_t, keep_t = inputs
        reset, update, candidate, recalled = gates_t
        d_hidden = d_hidden + d_hidden_t
        d_candidate = d_hidden * (1.0 - update) * (1.0 - candidate**2)
        d_recalled = d_candidate * reset
        d_update = d_hidden * (before_t - candidate) * update * (1.0 - update)
        d_reset = d_recalled * recalled * (1.0 - reset)
        d_recurrent = jnp.concatenate([d_reset, d_update, d_recalled], axis=-1)
        d_before = d_hidden * update + d_recurrent @ kernel.T
        carry = (d_before * keep_t, d_kernel + before_t.T @ d_recurrent, d_bias + d_recalled)
        return carry, (d_reset, d_update, d_candidate)

    rows = jnp.zeros_like(before[0])
    steps = (d_hiddens, before, gates, keep)
    (d_hidden, d_kernel, d_bias), d_gates = jax.lax.scan(
        step, (rows, jnp.zeros_like(kernel), rows), steps, reverse=True
    )
    return jnp.concatenate(d_gates, axis=-1), d_kernel, d_bias.sum(0), d_hidden, None


gru_unroll.defvjp(_unroll_forward, _unroll_backward)


class RecurrentNetwork(nn.Module):
    """A network with memory: torso, GRU, then a feed-forward network on its hidden state.

    Attributes:
      pre_torso: the embedding of the features.
      hidden_size: H.
      head: the network after the core: `Actor` or `Critic` with its torso, or any module of an (*b, H) array.
    """

    pre_torso: nn.Module
    hidden_size: int
    head: nn.Module

    def setup(self) -> None:
        """Declare the core."""
        self.core = GRU(self.hidden_size)

    def __call__(self, hidden: Float[Array, "*b H"], features: Float[Array, "*b F"], *arguments: Any) -> Any:
        """Return the hidden state after one step, and the head's output (the acting form).

        Args:
          hidden: before the step, cleared where an episode begins.
          features: what is seen.
          arguments: passed on to the head, such as an actor's action mask.
        """
        hidden = self.core.step(hidden, self.pre_torso(features))
        return hidden, self.head(hidden, *arguments)

    def unroll(
        self,
        hidden: Float[Array, "*b H"],
        features: Float[Array, "T *b F"],
        begins: Bool[Array, "T ..."],
        *arguments: Array,
    ) -> Any:
        """Return the hidden states after each step, and the head's outputs, leading axis T (the training form).

        Torsos, core and head process a few steps together, so that the values in between stay in a CPU's cache.

        Args:
          hidden: before the first step; cleared here where an episode begins with it.
          features: what is seen.
          begins: whether an episode begins with the step; axes T and any leading axes of b.
          arguments: passed on to the head, axes (T, *b, ...).
        """
        rows = max(1, hidden.size // self.hidden_size)
        block = largest_divisor(len(features), max(1, BLOCK_ROWS // rows))
        parts = jax.tree.map(lambda leaf: leaf.reshape(-1, block, *leaf.shape[1:]), (features, begins, *arguments))
        scan = nn.scan(RecurrentNetwork._unroll_block, variable_broadcast="params", split_rngs={"params": False})
        _, outputs = scan(self, hidden, parts)
        return jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), outputs)

    def _unroll_block(self, hidden: Array, part: tuple[Array, ...]) -> tuple[Array, tuple[Array, Any]]:
        """Return the hidden state after a few steps, the hidden states after each of them, and the head's outputs."""
        features, begins, *arguments = part
        axes = features.shape[:-1]
        flat = [leaf.reshape(-1, *leaf.shape[len(axes) :]) for leaf in (features, *arguments)]
        embedding = self.pre_torso(flat[0])
        hiddens = self.core.unroll(hidden, embedding.reshape(*axes, -1), begins)
        outputs = self.head(hiddens.reshape(-1, self.hidden_size), *flat[1:])
        return hiddens[-1], (hiddens, jax.tree.map(lambda leaf: leaf.reshape(*axes, *leaf.shape[1:]), outputs))


def _gatewise_orthogonal(key: PRNGKeyArray, shape: tuple[int, int]) -> Float[Array, "H 3*H"]:
    """Return an orthogonal matrix for each of three gates, side by side."""
    size = shape[0]
    gates = jax.vmap(lambda gate_key: orthogonal()(gate_key, (size, size)))(jax.random.split(key, 3))
    return jnp.concatenate(gates, axis=-1)


__all__ = ["BLOCK_ROWS", "GRU", "Gates", "RecurrentNetwork", "gru_step", "gru_unroll"]
