"""Metrics of a step and of an episode."""

from __future__ import annotations

from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jax_party.env.env import JaxParty
from jax_party.env.metrics import EpisodeMetrics, equality

STEP_METRICS = {
    "cooperations": ((), "int32"),
    "defections": ((), "int32"),
    "cc": ((), "int32"),
    "cd": ((), "int32"),
    "dd": ((), "int32"),
    "welfare": ((), "float32"),
    "leader_changed": ((), "bool"),
    "leader": ((3,), "bool"),
    "payoff": ((3,), "float32"),
    "reward": ((3,), "float32"),
}


def summary_of(env: JaxParty, metrics: Any) -> dict[str, float]:
    def add(totals: Any, step: Any) -> Any:
        return env.episode_metrics.add(totals, step), None

    totals, _ = jax.jit(lambda m: jax.lax.scan(add, env.episode_metrics.zero(env.num_agents), m))(metrics)
    summary = env.episode_metrics.summarise(totals, env.num_agents)
    assert all(value.shape == () and value.dtype == jnp.float32 for value in summary.values())
    return {name: float(value) for name, value in summary.items()}


def test_reset_and_step_have_the_same_metrics() -> None:
    env = JaxParty()
    state, first = env.reset(jax.random.key(0))
    _, later = env.step(state, jnp.zeros(3, jnp.int32))
    for timestep in (first, later):
        metrics = timestep.extras["metrics"]
        assert {name: (x.shape, str(x.dtype)) for name, x in metrics.items()} == STEP_METRICS
    assert all((x == 0).all() for x in first.extras["metrics"].values())
    zero = EpisodeMetrics.zero(3)
    chex.assert_trees_all_equal(EpisodeMetrics.add(zero, first.extras["metrics"]), zero)
    chex.assert_trees_all_equal_shapes_and_dtypes(EpisodeMetrics.add(zero, later.extras["metrics"]), zero)


def test_summary_agrees_with_a_plain_count(play: Any) -> None:
    env = JaxParty(num_agents=4, matching="all_pairs", action_noise=0.1)
    actions = np.random.default_rng(0).choice([0, 1, 2], p=[0.6, 0.3, 0.1], size=(200, 4)).astype(np.int32)
    episode = play(env, actions)
    metrics = {name: np.asarray(x, np.float64) for name, x in episode.timesteps.extras["metrics"].items()}
    leaders = np.argmin(episode.states.ranks, axis=1)
    meetings = metrics["cc"].sum() + metrics["cd"].sum() + metrics["dd"].sum()
    payoff = metrics["payoff"].sum(axis=0)
    gini = np.abs(payoff[:, None] - payoff).sum() / (2 * 4 * payoff.sum())
    expected = {
        "cooperation_rate": metrics["cooperations"].sum() / (actions != 2).sum(),
        "outcome_share_cc": metrics["cc"].sum() / meetings,
        "outcome_share_cd": metrics["cd"].sum() / meetings,
        "outcome_share_dd": metrics["dd"].sum() / meetings,
        "welfare_per_step": payoff.sum() / 200,
        "equality": 1 - gini,
        "leader_change_rate": (leaders[1:] != leaders[:-1]).mean(),
        **{f"leader_share_agent_{i}": (leaders[1:] == i).mean() for i in range(4)},
    }
    assert summary_of(env, episode.timesteps.extras["metrics"]) == pytest.approx(expected, rel=1e-4)


def test_summary_of_fixed_play(play: Any) -> None:
    env = JaxParty()
    summary = summary_of(env, play(env, np.zeros((50, 3), np.int32)).timesteps.extras["metrics"])
    assert summary["cooperation_rate"] == summary["outcome_share_cc"] == 1.0
    assert summary["welfare_per_step"] == 6.0
    assert summary["outcome_share_cd"] == summary["outcome_share_dd"] == 0.0
    shares = [summary[f"leader_share_agent_{i}"] for i in range(3)]
    assert sum(shares) == pytest.approx(1.0)


def test_summary_of_nothing_is_finite(play: Any) -> None:
    env = JaxParty()
    nothing = env.episode_metrics.summarise(env.episode_metrics.zero(3), 3)
    assert {name for name, value in nothing.items() if value != 0} == {"equality"}
    forfeits = summary_of(env, play(env, np.full((9, 3), 2, np.int32)).timesteps.extras["metrics"])
    assert forfeits["cooperation_rate"] == 0.0 and forfeits["equality"] == 1.0


@pytest.mark.parametrize(
    ("totals", "expected"),
    [
        ([0, 0, 0], 1.0),
        ([4, 4, 4], 1.0),
        ([-4, -4], 1.0),
        ([6, 0, 0], 1 / 3),  # one has it all: 1 - (N - 1) / N
        ([1, 2, 3], 1 - 2 / 9),
        ([-1, -2, -3], 1 - 2 / 9),
        ([5, -5], 0.5),
    ],
)
def test_equality_by_hand(totals: list[float], expected: float) -> None:
    assert float(equality(jnp.asarray(totals, jnp.float32))) == pytest.approx(expected, abs=1e-6)


@settings(max_examples=60, deadline=None)
@given(totals=st.lists(st.integers(-1000, 1000), min_size=3, max_size=3), scale=st.sampled_from([0.5, 2.0, 64.0]))
def test_equality_is_a_share_and_ignores_scale(totals: list[float], scale: float) -> None:
    x = jnp.asarray(totals, jnp.float32)
    value = float(equality(x))
    assert 0.0 <= value <= 1.0
    assert float(equality(x * scale)) == pytest.approx(value, abs=1e-5)
