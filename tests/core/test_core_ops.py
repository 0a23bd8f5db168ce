"""The pure kernels: against rlax, distrax and plain NumPy, and by hand."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import distrax
import hypothesis.extra.numpy as arrays
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import rlax
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from jax_party.networks.heads import MASKED_LOGIT
from jax_party.ops.advantages import generalised_advantages, normalise
from jax_party.ops.gradients import chunked_gradient, largest_divisor
from jax_party.ops.losses import clipped_surrogate, clipped_value_loss, entropy, log_prob
from jax_party.ops.products import thin_dot_general
from jax_party.ops.sampling import flat_gumbel

advantages = jax.jit(generalised_advantages)
STEPS, BATCH = 7, 5


def _random(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


# -- Advantages --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ends", [False, True], ids=["unbroken", "with terminations"])
@pytest.mark.parametrize("lambda_", [0.0, 0.9, 1.0])
def test_advantages_are_those_of_rlax(ends: bool, lambda_: float) -> None:
    values, reward = _random(0, STEPS + 1, BATCH), _random(1, STEPS, BATCH)
    done = (np.random.default_rng(2).random((STEPS, BATCH)) < 0.3) & ends
    discount = 0.95 * (1.0 - done.astype(np.float32))
    ours = advantages(reward, discount, done, values[:-1], values[1:], lambda_)
    for column in range(BATCH):
        theirs = rlax.truncated_generalized_advantage_estimation(
            jnp.asarray(reward[:, column]), jnp.asarray(discount[:, column]), lambda_, jnp.asarray(values[:, column])
        )
        np.testing.assert_allclose(ours[:, column], theirs, rtol=1e-5, atol=1e-6)


def _plain_advantages(
    reward: np.ndarray, terminated: np.ndarray, truncated: np.ndarray, v_tm1: np.ndarray, v_t: np.ndarray,
    gamma: float, lambda_: float,
) -> np.ndarray:  # fmt: skip
    """By the definition, each advantage on its own: discounted TD errors up to the end of its episode."""
    result = np.zeros(len(reward))
    for start in range(len(reward)):
        weight = 1.0
        for t in range(start, len(reward)):
            bootstrap = 0.0 if terminated[t] else gamma * v_t[t]
            result[start] += weight * (reward[t] + bootstrap - v_tm1[t])
            if terminated[t] or truncated[t]:
                break
            weight *= gamma * lambda_
    return result


_floats = arrays.arrays(np.float32, (3, STEPS), elements=st.floats(-10, 10, width=32))
_flags = arrays.arrays(bool, (2, STEPS))


@settings(max_examples=150, deadline=None)
@given(numbers=_floats, flags=_flags, gamma=st.floats(0, 1), lambda_=st.floats(0, 1))
def test_advantages_are_the_definition_whatever_ends(
    numbers: np.ndarray, flags: np.ndarray, gamma: float, lambda_: float
) -> None:
    reward, v_tm1, v_t = numbers
    terminated, truncated = flags
    ours = advantages(reward, np.float32(gamma) * ~terminated, terminated | truncated, v_tm1, v_t, np.float32(lambda_))
    expected = _plain_advantages(reward, terminated, truncated, v_tm1, v_t, gamma, lambda_)
    np.testing.assert_allclose(ours, expected, rtol=1e-4, atol=1e-3)


def test_three_steps_by_hand() -> None:
    # The middle step truncates: it bootstraps from 4 and nothing flows back across it; the last one terminates.
    ours = advantages(
        np.array([1.0, 2.0, 3.0], np.float32),
        np.array([0.5, 0.5, 0.0], np.float32),
        np.array([False, True, True]),
        np.array([1.0, 2.0, 10.0], np.float32),
        np.array([2.0, 4.0, 100.0], np.float32),
        0.8,
    )
    # delta = [1 + 0.5*2 - 1, 2 + 0.5*4 - 2, 3 - 10] = [1, 2, -7];  A_0 = 1 + 0.5*0.8*2
    np.testing.assert_allclose(ours, [1.8, 2.0, -7.0], rtol=1e-6)


def test_normalise_is_numpys_weighted_mean_and_deviation() -> None:
    values, weights = _random(3, 2, 40), (_random(4, 2, 40) > 0).astype(np.float32)
    ours = normalise(jnp.asarray(values), jnp.asarray(weights), axes=(1,))
    for row in range(2):
        counted = values[row][weights[row] > 0]
        np.testing.assert_allclose(ours[row], (values[row] - counted.mean()) / counted.std(), rtol=1e-4, atol=1e-5)
    assert np.isfinite(normalise(jnp.asarray(values), jnp.zeros_like(values))).all()


# -- Policy and value losses -------------------------------------------------------------------------------------------


def test_surrogate_is_rlaxs() -> None:
    ratio, advantage = np.exp(_random(5, 64)), _random(6, 64)
    ours = clipped_surrogate(jnp.asarray(ratio), jnp.asarray(advantage), 0.2)
    theirs = rlax.clipped_surrogate_pg_loss(jnp.asarray(ratio), jnp.asarray(advantage), 0.2)
    assert float(ours.mean()) == pytest.approx(float(theirs), rel=1e-6)


@pytest.mark.parametrize(
    ("ratio", "advantage", "loss", "slope"),
    [
        (1.5, 2.0, -2.4, 0.0),  # too far up: clipped, no gradient
        (1.5, -2.0, 3.0, 2.0),  # a bad action got likelier: never clipped
        (0.5, 2.0, -1.0, -2.0),  # a good action got unlikelier: never clipped
        (0.5, -2.0, 1.6, 0.0),
        (1.1, 2.0, -2.2, -2.0),
    ],
)
def test_surrogate_by_hand(ratio: float, advantage: float, loss: float, slope: float) -> None:
    value, gradient = jax.value_and_grad(clipped_surrogate)(ratio, advantage, 0.2)
    assert float(value) == pytest.approx(loss, rel=1e-6)
    assert float(gradient) == pytest.approx(slope)


@pytest.mark.parametrize(
    ("value", "old", "target", "loss"),
    [
        (1.0, 1.0, 3.0, 2.0),  # unmoved: 0.5 * 2^2
        (2.0, 1.0, 3.0, 0.5 * 1.8**2),  # moved by 1, clipped to 1.2: the larger error counts
        (2.0, 1.0, 0.0, 0.5 * 2.0**2),  # moved away from the target: the unclipped error is larger
        (0.5, 1.0, 0.0, 0.5 * 0.8**2),
        (1.1, 1.0, 1.0, 0.5 * 0.1**2),
    ],
)
def test_value_loss_by_hand(value: float, old: float, target: float, loss: float) -> None:
    assert float(clipped_value_loss(value, old, target, 0.2)) == pytest.approx(loss, rel=1e-5)


def test_log_prob_and_entropy_are_distraxs() -> None:
    logits = 3.0 * _random(7, 50, 4)
    action = np.random.default_rng(8).integers(0, 4, 50)
    policy = distrax.Categorical(logits=jnp.asarray(logits))
    np.testing.assert_allclose(log_prob(jnp.asarray(logits), jnp.asarray(action)), policy.log_prob(action), rtol=1e-5)
    np.testing.assert_allclose(entropy(jnp.asarray(logits)), policy.entropy(), rtol=1e-5)


def test_an_illegal_action_has_no_probability_entropy_or_gradient() -> None:
    raw = jnp.asarray(3.0 * _random(9, 30, 4))
    mask = np.random.default_rng(10).random((30, 4)) < 0.5
    mask[:, 0] = True
    mask[0] = [True, False, False, False]  # no choice

    def masked(raw: jax.Array) -> jax.Array:
        return jnp.where(mask, raw, MASKED_LOGIT)

    probabilities = np.asarray(jax.nn.softmax(masked(raw)))
    assert (probabilities[~mask] == 0.0).all()
    for row in range(30):
        legal = np.asarray(raw[row], np.float64)[mask[row]]
        expected = scipy.stats.entropy(np.exp(legal - legal.max()))
        assert float(entropy(masked(raw))[row]) == pytest.approx(expected, abs=1e-5)
    assert float(entropy(masked(raw))[0]) == 0.0
    action = jnp.argmax(jnp.asarray(mask), axis=-1)
    assert float(log_prob(masked(raw), action)[0]) == 0.0
    gradient = np.asarray(jax.grad(lambda raw: (entropy(masked(raw)) + log_prob(masked(raw), action)).sum())(raw))
    assert np.isfinite(gradient).all()
    assert (gradient[~mask] == 0.0).all()
    assert (gradient[0] == 0.0).all()
    assert np.abs(gradient[mask]).max() > 0.01


# -- Gradients by the chunk --------------------------------------------------------------------------------------------


def _loss(params: dict[str, jax.Array], batch: dict[str, jax.Array]) -> tuple[jax.Array, dict[str, jax.Array]]:
    error = jnp.tanh(batch["x"] @ params["w"]) - batch["y"]
    sums = {"square": (error**2).sum(), "absolute": jnp.abs(error).sum()}
    return sums["square"], sums


@pytest.mark.parametrize("chunk", [None, 1, 2, 3, 4, 5, 6, 8, 12, 24, 100])
def test_chunks_add_up_to_the_whole_batch(chunk: int | None) -> None:
    params = {"w": jnp.asarray(_random(11, 3))}
    batch = {"x": jnp.asarray(_random(12, 24, 3)), "y": jnp.asarray(_random(13, 24))}
    aux, gradient = chunked_gradient(_loss, params, batch, chunk)
    (_, whole_aux), whole = jax.value_and_grad(_loss, has_aux=True)(params, batch)
    np.testing.assert_allclose(gradient["w"], whole["w"], rtol=1e-5, atol=1e-5)
    for name, value in whole_aux.items():
        np.testing.assert_allclose(aux[name], value, rtol=1e-5)


@given(size=st.integers(1, 500), limit=st.integers(1, 600))
def test_largest_divisor(size: int, limit: int) -> None:
    assert largest_divisor(size, limit) == max(d for d in range(1, size + 1) if size % d == 0 and d <= limit)


# -- Products ----------------------------------------------------------------------------------------------------------


def _head(rows: jax.Array, kernel: jax.Array) -> jax.Array:
    return thin_dot_general(rows, kernel, (((1,), (0,)), ((), ())))


@pytest.mark.parametrize("outputs", [1, 3])
def test_a_thin_product_and_its_gradients_are_the_plain_ones(outputs: int) -> None:
    rows, kernel, weights = (
        jnp.asarray(_random(k, *s)) for k, s in enumerate([(24, 16), (16, outputs), (24, outputs)])
    )

    def loss(product: Callable[..., jax.Array], rows: jax.Array, kernel: jax.Array) -> jax.Array:
        return (weights * jnp.tanh(product(rows, kernel))).sum()

    np.testing.assert_allclose(_head(rows, kernel), np.asarray(rows) @ np.asarray(kernel), rtol=1e-5, atol=1e-5)
    ours = jax.jit(jax.grad(partial(loss, _head), (0, 1)))(rows, kernel)
    plain = jax.grad(partial(loss, jnp.matmul), (0, 1))(rows, kernel)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5), ours, plain)
    slope = np.asarray(weights) * (1 - np.tanh(np.asarray(rows) @ np.asarray(kernel)) ** 2)
    np.testing.assert_allclose(ours[0], slope @ np.asarray(kernel).T, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(ours[1], np.asarray(rows).T @ slope, rtol=1e-4, atol=1e-5)


def test_thin_products_of_several_learners_are_each_ones() -> None:
    rows, kernels = jnp.asarray(_random(3, 4, 24, 16)), jnp.asarray(_random(4, 4, 16, 3))
    gradient = jax.grad(lambda rows, kernel: (_head(rows, kernel) ** 2).sum(), (0, 1))
    together = jax.vmap(gradient)(rows, kernels)
    for k in range(4):
        alone = gradient(rows[k], kernels[k])
        for ours, one in zip(together, alone, strict=True):
            np.testing.assert_allclose(ours[k], one, rtol=1e-4, atol=1e-4)


def test_a_thin_product_transposes_the_thin_side() -> None:
    text = jax.jit(jax.grad(lambda rows, kernel: (_head(rows, kernel) ** 2).sum(), 1)).lower(
        jnp.zeros((24, 16)), jnp.zeros((16, 3))
    )
    assert "f32[3,16]" in text.compile().as_text()  # not the f32[16,3] of a product that transposes all rows


# -- Sampling ----------------------------------------------------------------------------------------------------------


def test_gumbel_noise_samples_the_softmax() -> None:
    logits = jnp.array([0.0, 1.0, -1.0, MASKED_LOGIT, 2.0])
    draws = 20_000
    actions = jnp.argmax(logits + flat_gumbel(jax.random.PRNGKey(0), (draws // 4, 4, 5)), axis=-1)
    counts = np.bincount(np.asarray(actions).ravel(), minlength=5)
    expected = draws * np.asarray(jax.nn.softmax(logits), np.float64)
    assert counts[3] == 0
    legal = [0, 1, 2, 4]
    assert scipy.stats.chisquare(counts[legal], expected[legal] * draws / expected[legal].sum()).pvalue > 1e-3
