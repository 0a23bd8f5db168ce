"""How many seeds would separate two configurations: the sample size of two-sided t tests.

With n seeds and a true standardised difference, the t statistic has the noncentral t distribution; the power is the
probability that it is beyond the critical value (Cohen, "Statistical Power Analysis for the Behavioral Sciences", 2nd
ed. 1988, chapter 2; Faul et al., "G*Power 3", Behavior Research Methods 39, 2007).
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

ALPHA: Final = 0.05
POWER: Final = 0.8
MOST_SEEDS: Final = 1_000_000
"""More seeds than anyone will play, so that needing more means no difference."""


@dataclass(frozen=True)
class SeedsNeeded:
    """How many seeds each of two configurations needs, and what that was estimated from.

    Attributes:
      difference: the first mean minus the second; over the common seeds if paired.
      spread: the standard deviation of the differences if paired, otherwise the root mean square of the two standard
        deviations; None if unknown.
      paired: the number of common seeds that the differences are from; 0 if the seeds are treated as independent.
      seeds: how many each configuration needs; None if the spread is unknown or a million would not be enough.
    """

    difference: float
    spread: float | None
    paired: int
    seeds: int | None


def paired_power(difference: float, deviation: float, seeds: int, alpha: float = ALPHA) -> float:
    """Return the power of the paired t test: ν = n − 1 and noncentrality √n·δ/σ, σ of the differences."""
    return _power(math.sqrt(seeds) * difference / deviation, seeds - 1, alpha)


def welch_power(difference: float, deviations: tuple[float, float], seeds: int, alpha: float = ALPHA) -> float:
    """Return the power of Welch's t test with `seeds` on each side: noncentrality √n·δ/√(σ₁² + σ₂²).

    ν = (n − 1)(σ₁² + σ₂²)²/(σ₁⁴ + σ₂⁴), Welch 1947, https://doi.org/10.2307/2332510.
    """
    first, second = (deviation**2 for deviation in deviations)
    freedom = (seeds - 1) * (first + second) ** 2 / (first**2 + second**2)
    return _power(math.sqrt(seeds / (first + second)) * difference, freedom, alpha)


def _power(noncentrality: float, freedom: float, alpha: float) -> float:
    from scipy import stats

    critical = float(stats.t.isf(alpha / 2, freedom))
    shift = abs(noncentrality)
    near = float(stats.nct.sf(critical, freedom, shift))
    # The far tail is below Φ(−shift); where it is tiny, scipy returns no number.
    return near if shift > 6.0 else near + float(stats.nct.cdf(-critical, freedom, shift))


def least_seeds(power_of: Callable[[int], float], power: float = POWER) -> int | None:
    """Return the least number of seeds, from 2, with this power; None if a million is not enough."""
    low, high = 1, 2
    while power_of(high) < power:
        if high >= MOST_SEEDS:
            return None
        low, high = high, min(2 * high, MOST_SEEDS)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if power_of(middle) >= power else (middle, high)
    return high


def seeds_needed(
    first: Mapping[int, float], second: Mapping[int, float], alpha: float = ALPHA, power: float = POWER
) -> SeedsNeeded:
    """Return how many seeds would separate two configurations if the observed difference is the true one.

    The differences are paired if the two share at least two seeds; otherwise Welch's test is used.

    Args:
      first, second: seed -> the score.
    """
    common = sorted(first.keys() & second.keys())
    if len(common) > 1:
        gaps = [first[seed] - second[seed] for seed in common]
        difference, spread = statistics.fmean(gaps), statistics.stdev(gaps)
        if not spread or not difference:
            return SeedsNeeded(difference, spread, len(common), 2 if difference else None)
        found = least_seeds(lambda seeds: paired_power(difference, spread, seeds, alpha), power)
        return SeedsNeeded(difference, spread, len(common), found)
    difference = statistics.fmean(first.values()) - statistics.fmean(second.values())
    if min(len(first), len(second)) < 2:
        return SeedsNeeded(difference, None, 0, None)
    deviations = _deviations(list(first.values()), list(second.values()))
    spread = math.sqrt(statistics.fmean(deviation**2 for deviation in deviations))
    if not spread or not difference:
        return SeedsNeeded(difference, spread, 0, 2 if difference else None)
    found = least_seeds(lambda seeds: welch_power(difference, deviations, seeds, alpha), power)
    return SeedsNeeded(difference, spread, 0, found)


def _deviations(first: Sequence[float], second: Sequence[float]) -> tuple[float, float]:
    return statistics.stdev(first), statistics.stdev(second)


__all__ = ["ALPHA", "POWER", "SeedsNeeded", "least_seeds", "paired_power", "seeds_needed", "welch_power"]
