"""The statistics of the report against cases that were worked out by hand, and against SciPy."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from jax_party.judging.aggregate import interquartile_mean
from jax_party.judging.intervals import interval
from results.analysis import statistics


def arrays(*rows: list[float]) -> list[np.ndarray]:
    return [np.array(row, np.float64) for row in rows]


def test_the_interquartile_mean_of_two_tasks_cuts_a_quarter_of_all_runs() -> None:
    found = statistics.interquartile_mean_of_tasks(arrays([1, 2, 3, 100], [4, 5, 6, -50]))
    assert found.value == pytest.approx((2 + 3 + 4 + 5) / 4)  # of eight runs two go at each end
    assert found.low < found.value < found.high


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=40))
def test_the_interquartile_mean_is_the_one_of_the_index(values: list[float]) -> None:
    expected = interquartile_mean(values)
    assert statistics.trimmed_mean(np.array(values)) == pytest.approx(expected, rel=1e-9, abs=1e-6)


def test_an_interval_of_one_run_a_task_is_not_known() -> None:
    found = statistics.interquartile_mean_of_tasks(arrays([1.0], [3.0]))
    assert found.value == 2.0 and math.isnan(found.low) and math.isnan(found.high)


def test_the_bootstrap_is_stratified() -> None:
    """Runs of a task are alike and tasks are not: drawn within tasks, the mean never changes."""
    found = statistics.interquartile_mean_of_tasks(arrays([0, 0, 0, 0], [10, 10, 10, 10]))
    assert tuple(found) == (5.0, 5.0, 5.0)


def test_a_performance_profile_counts_the_runs_above_and_means_over_tasks() -> None:
    scores = arrays([1, 2, 3, 4], [2, 2])
    found = statistics.performance_profile(scores, [0, 2, 3.5, 4])
    assert found.tolist() == [1.0, (2 / 4 + 0) / 2, (1 / 4 + 0) / 2, 0.0]
    band = statistics.profile_band(scores, [0, 2, 3.5, 4])
    assert band.value.tolist() == found.tolist()
    assert band.low.tolist() == [1.0, 0.0, 0.0, 0.0] and band.high.tolist() == [1.0, 0.5, 0.375, 0.0]


def test_the_probability_of_improvement_counts_ties_half_and_means_over_tasks() -> None:
    found = statistics.probability_of_improvement(arrays([1, 3], [5, 5]), arrays([1, 2, 4], [5]))
    first = (0.5 + 0 + 0 + 1 + 1 + 0) / 6  # 1 against 1, 2, 4; then 3
    assert found.value == pytest.approx((first + 0.5) / 2)
    assert 0 <= found.low <= found.value <= found.high <= 1


@given(
    st.lists(st.integers(0, 5), min_size=1, max_size=12),
    st.lists(st.integers(0, 5), min_size=1, max_size=12),
)
def test_the_probability_of_improvement_is_mann_whitneys_u(x: list[int], y: list[int]) -> None:
    found = statistics.probability_of_improvement(arrays(x), arrays(y), resamples=10)
    expected = stats.mannwhitneyu(x, y, method="asymptotic").statistic / (len(x) * len(y))
    assert found.value == pytest.approx(expected)


def test_algorithms_that_never_lose_have_a_certain_interval() -> None:
    assert tuple(statistics.probability_of_improvement(arrays([5, 6, 7]), arrays([1, 2]))) == (1.0, 1.0, 1.0)


def test_the_bootstrap_of_the_probability_agrees_with_drawing_runs_one_by_one() -> None:
    x, y = np.arange(6.0), np.arange(6.0) - 1.5
    rng = np.random.default_rng(7)
    drawn = [stats.mannwhitneyu(rng.choice(x, 6), rng.choice(y, 6)).statistic / 36 for _ in range(3000)]
    found = statistics.probability_of_improvement([x], [y])
    assert found.low == pytest.approx(np.quantile(drawn, 0.025), abs=0.03)
    assert found.high == pytest.approx(np.quantile(drawn, 0.975), abs=0.03)


@pytest.mark.parametrize("seeds", [3, 12])
def test_a_curves_band_is_the_interval_of_each_step(seeds: int) -> None:
    curves = np.random.default_rng(1).normal(size=(seeds, 4))
    band = statistics.curve_over_seeds(curves, resamples=20_000)
    for step in range(4):
        expected = interval(curves[:, step].tolist())
        assert band.value[step] == pytest.approx(expected.value)
        assert band.low[step] == pytest.approx(expected.low, abs=0.03)
        assert band.high[step] == pytest.approx(expected.high, abs=0.03)


def test_one_seed_has_no_band() -> None:
    band = statistics.curve_over_seeds([[1.0, 2.0]])
    assert band.value.tolist() == [1.0, 2.0] and np.isnan(band.low).all() and np.isnan(band.high).all()


def test_configurations_show_their_middle_half() -> None:
    band = statistics.curve_over_configurations([[0.0], [1.0], [2.0], [3.0], [40.0]])
    assert (band.value.tolist(), band.low.tolist(), band.high.tolist()) == ([2.0], [1.0], [3.0])


def test_the_first_step_at_a_threshold() -> None:
    found = statistics.first_step_at([10, 20, 30, 40], [0.1, 0.5, 0.3, 0.9], [0.05, 0.4, 0.5, 0.6, 1.0])
    assert found[:4].tolist() == [10, 20, 20, 40] and np.isnan(found[4])


def test_scores_are_scaled_together() -> None:
    assert [one.tolist() for one in statistics.normalised(arrays([0, 5], [10]))] == [[0.0, 0.5], [1.0]]
    assert [one.tolist() for one in statistics.normalised(arrays([7, 7], [7]))] == [[0.5, 0.5], [0.5]]
