"""Sample sizes of t tests, against Cohen's and G*Power's tables and against simulation."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from jax_party.judging.power import least_seeds, paired_power, seeds_needed, welch_power


@pytest.mark.parametrize(("effect", "paired", "independent"), [(0.2, 199, 394), (0.5, 34, 64), (0.8, 15, 26)])
def test_textbook_sizes(effect: float, paired: int, independent: int) -> None:
    """Cohen 1988, table 2.4.1 (α = 0.05 two-sided, power 0.8): 26, 64 and 393 (394 by G*Power) in each group."""
    assert least_seeds(lambda seeds: paired_power(effect, 1.0, seeds)) == paired
    assert least_seeds(lambda seeds: welch_power(effect, (1.0, 1.0), seeds)) == independent


def test_power_is_what_simulated_tests_reach() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(1.0, 1.0, (20_000, 12)), rng.normal(0.0, 2.0, (20_000, 12))
    reached = (stats.ttest_ind(x, y, axis=1, equal_var=False).pvalue < 0.05).mean()
    assert welch_power(1.0, (1.0, 2.0), 12) == pytest.approx(reached, abs=0.012)
    gaps = rng.normal(0.8, 1.5, (20_000, 9))
    reached = (stats.ttest_1samp(gaps, 0.0, axis=1).pvalue < 0.05).mean()
    assert paired_power(0.8, 1.5, 9) == pytest.approx(reached, abs=0.012)


def test_a_larger_difference_never_needs_more() -> None:
    powers = [paired_power(effect, 1.0, 3) for effect in np.geomspace(0.01, 1e4, 60)]
    assert np.isfinite(powers).all() and (np.diff(powers) >= -1e-9).all() and powers[-1] == 1.0


def test_common_seeds_are_paired() -> None:
    """The seeds' own levels, which both share, cost nothing; only the common ones count."""
    level = {seed: 100.0 * seed for seed in range(6)}
    noise = dict(zip(range(6), (0.5, -0.5, 0.5, -0.5, 0.5, -0.5), strict=True))
    first = {seed: level[seed] + 1.0 + noise[seed] for seed in range(6)}
    found = seeds_needed(first, {**level, 99: -1e6})
    gaps = [1.0 + value for value in noise.values()]
    assert (found.paired, found.difference, found.spread) == (6, 1.0, pytest.approx(np.std(gaps, ddof=1)))
    assert found.seeds == least_seeds(lambda seeds: paired_power(1.0, float(np.std(gaps, ddof=1)), seeds)) == 5


def test_seeds_of_their_own_are_independent() -> None:
    first, second = {0: 5.0, 1: 6.0, 2: 7.0}, {10: 4.0, 11: 6.0, 12: 2.0}
    found = seeds_needed(first, second)
    assert (found.paired, found.difference) == (0, 2.0)
    assert found.seeds == least_seeds(lambda seeds: welch_power(2.0, (1.0, 2.0), seeds))


def test_what_cannot_be_known() -> None:
    assert seeds_needed({0: 1.0}, {0: 2.0}).seeds is None and seeds_needed({0: 1.0}, {0: 2.0}).spread is None
    assert seeds_needed({0: 1.0, 1: 2.0}, {0: 1.0, 1: 2.0}).seeds is None, "no difference"
    assert seeds_needed({0: 1.0, 1: 2.0}, {0: 2.0, 1: 3.0}).seeds == 2, "no spread"
    tiny = seeds_needed({0: 1.0, 1: -1.0}, {0: -1.00001, 1: 1.0})
    assert tiny.seeds is None and tiny.spread is not None
