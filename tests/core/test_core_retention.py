"""Retention in its forms, against the papers' sums written out."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_party.networks.retention import (
    Turn,
    chunkwise,
    decays,
    head_decays,
    recurrent,
    recurrent_turn,
    within_step,
)

BATCH, LENGTH, AGENTS, SIZE = 2, 12, 3, 4
KAPPA = head_decays(2, 0.8)


def _inputs(seed: int, heads: int = 2) -> tuple[list[jax.Array], jax.Array, jax.Array]:
    """q, k and v; a state before them; episodes that begin at random steps, one of them the first step."""
    rng = np.random.default_rng(seed)
    shape = (BATCH, LENGTH, AGENTS, heads, SIZE)
    parts = [jnp.asarray(rng.normal(size=shape), jnp.float32) for _ in range(3)]
    state = jnp.asarray(rng.normal(size=(BATCH, heads, SIZE, SIZE)), jnp.float32)
    begins = rng.random((BATCH, LENGTH)) < 0.25
    begins[:, 0] = [True, False]
    assert begins[:, 1:].any()
    return parts, state, jnp.asarray(begins)


def _written_out(
    parts: list[jax.Array], state: jax.Array, begins: jax.Array, kappa: np.ndarray, causal: bool
) -> np.ndarray:
    """y_ti = Σ_sj κ^(t−s) (q_ti · k_sj) v_sj over all (s, j) that it may see, and κ^(t+1) q_ti S of what was before."""
    q, k, v = (np.asarray(part, np.float64) for part in parts)
    start, begins = np.asarray(state, np.float64), np.asarray(begins)
    y = np.zeros_like(q)
    for b, t, i, h in np.ndindex(q.shape[:-1]):
        for s in range(t + 1):
            if begins[b, s + 1 : t + 1].any():
                continue
            for j in range(q.shape[2]):
                if s < t or not causal or j <= i:
                    y[b, t, i, h] += kappa[h] ** (t - s) * (q[b, t, i, h] @ k[b, s, j, h]) * v[b, s, j, h]
        if not begins[b, : t + 1].any():
            y[b, t, i, h] += kappa[h] ** (t + 1) * q[b, t, i, h] @ start[b, h]
    return y


def _step_by_step(
    parts: list[jax.Array], state: jax.Array, begins: jax.Array, causal: bool
) -> tuple[jax.Array, jax.Array]:
    ys, kappa = [], KAPPA[: state.shape[1]]
    for t in range(LENGTH):
        state = jnp.where(begins[:, t, None, None, None], 0.0, state)
        y, state = recurrent(*(part[:, t] for part in parts), state, kappa, causal=causal)
        ys.append(y)
    return jnp.stack(ys, 1), state


def test_each_heads_decay_is_the_papers() -> None:
    np.testing.assert_allclose(head_decays(3, 1.0), [31 / 32, 63 / 64, 127 / 128], rtol=1e-7)
    np.testing.assert_allclose(head_decays(2, 0.8), [0.775, 0.7875], rtol=1e-6)


def test_decays_by_hand() -> None:
    found = decays(jnp.array([[False, False, True, False]]), np.float32([0.5]), 4)
    expected = [[1, 0, 0, 0], [0.5, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0.5, 1]]
    np.testing.assert_array_equal(found.inner[0, 0, 0], expected)
    np.testing.assert_array_equal(found.into[0, 0, :, 0], [0.5, 0.25, 0.0, 0.0])
    np.testing.assert_array_equal(found.out_of[0, 0, :, 0], [0.0, 0.0, 0.5, 1.0])
    np.testing.assert_array_equal(found.through[0, 0, 0], 0.0)
    unbroken = decays(jnp.zeros((1, 4), bool), np.float32([0.5]), 2)
    np.testing.assert_array_equal(unbroken.through[0, :, 0], [0.25, 0.25])


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("heads", [1, 2])
def test_all_forms_are_the_written_out_sum(heads: int, causal: bool) -> None:
    parts, state, begins = _inputs(heads, heads)
    kappa = KAPPA[:heads]
    expected = _written_out(parts, state, begins, kappa, causal)
    y, last = jax.jit(_step_by_step, static_argnums=3)(parts, state, begins, causal)
    np.testing.assert_allclose(y, expected, rtol=1e-4, atol=1e-4)
    form = jax.jit(chunkwise, static_argnames="causal")
    for chunk in (1, 3, 4, LENGTH):  # the last one is the parallel form
        y, after = form(*parts, state, decays(begins, kappa, chunk), causal=causal)
        np.testing.assert_allclose(y, expected, rtol=1e-4, atol=1e-4, err_msg=f"chunks of {chunk}")
        np.testing.assert_allclose(after, last, rtol=1e-4, atol=1e-5, err_msg=f"chunks of {chunk}")


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("chunk", [3, LENGTH])
def test_nothing_passes_an_episodes_beginning(chunk: int, causal: bool) -> None:
    parts, state, _ = _inputs(2)
    begins = jnp.zeros((BATCH, LENGTH), bool).at[:, 7].set(True)
    form = jax.jit(chunkwise, static_argnames="causal")
    reach = decays(begins, KAPPA, chunk)
    y, after = form(*parts, state, reach, causal=causal)
    changed = [part.at[:, :7].multiply(-3.0) for part in parts]
    other_y, other_after = form(*changed, state + 1.0, reach, causal=causal)
    np.testing.assert_array_equal(y[:, 7:], other_y[:, 7:])
    np.testing.assert_array_equal(after, other_after)
    assert (np.asarray(y[:, :7]) != np.asarray(other_y[:, :7])).all()


def test_what_agents_of_a_step_see() -> None:
    parts, _, _ = _inputs(3)
    q, k, v = (part[:, 0] for part in parts)
    for causal, unchanged in ((True, [0, 1]), (False, [])):
        y, other = within_step(q, k, v, causal=causal), within_step(q, k, v.at[:, 2].add(1.0), causal=causal)
        same = [agent for agent in range(AGENTS) if bool((y[:, agent] == other[:, agent]).all())]
        assert same == unchanged
    scores = np.einsum("bihd,bjhd->bhij", q, k)
    expected = np.einsum("bhij,bjhd->bihd", np.tril(scores), v)
    np.testing.assert_allclose(within_step(q, k, v, causal=True), expected, rtol=1e-4, atol=1e-5)
    expected = np.einsum("bhij,bjhd->bihd", scores, v)
    np.testing.assert_allclose(within_step(q, k, v, causal=False), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("remembers", [False, True])
def test_turn_by_turn_is_the_causal_step(remembers: bool) -> None:
    parts, state, _ = _inputs(4)
    q, k, v = (part[:, 0] for part in parts)
    before = state if remembers else None
    turn = Turn.begin(before, KAPPA, q.shape)
    for agent in range(AGENTS):
        own = slice(agent, agent + 1)
        y, turn = recurrent_turn(q[:, own], k[:, own], v[:, own], turn, agent)
        if remembers:
            expected, _ = recurrent(q, k, v, state, KAPPA, causal=True)
        else:
            expected = within_step(q, k, v, causal=True)
        np.testing.assert_allclose(y[:, 0], expected[:, agent], rtol=1e-4, atol=1e-5)
    if remembers:
        np.testing.assert_allclose(turn.end(), recurrent(q, k, v, state, KAPPA, causal=True)[1], rtol=1e-5, atol=1e-6)
    else:
        assert turn.end() is None


def test_gradients_of_chunks_are_those_of_the_whole() -> None:
    parts, state, begins = _inputs(5)

    def loss(parts: list[jax.Array], state: jax.Array, chunk: int) -> jax.Array:
        y, after = chunkwise(*parts, state, decays(begins, KAPPA, chunk), causal=True)
        return (jnp.sin(y)).sum() + (after**2).sum()

    gradient = jax.jit(jax.grad(loss, (0, 1)), static_argnums=2)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-3),
        gradient(parts, state, 3),
        gradient(parts, state, LENGTH),
    )
    through_time = jax.jit(
        jax.grad(
            lambda parts, state: (
                jnp.sin((found := _step_by_step(parts, state, begins, True))[0]).sum() + (found[1] ** 2).sum()
            ),
            (0, 1),
        )
    )
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-3),
        gradient(parts, state, 3),
        through_time(parts, state),
    )
