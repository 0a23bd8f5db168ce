"""Estimates with their 95 % confidence intervals; `docs/statistics.md` has the formulas."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

from jax_party.judging.aggregate import Aggregate, aggregate, interquartile_mean
from jax_party.judging.resampling import bootstrap_interval, trimmed_mean


class Interval(NamedTuple):
    """An estimate over seeds with its 95 % confidence interval.

    Attributes:
      value: the estimate.
      low, high: the interval; None for a single seed.
      estimator: `iqm`, with a bootstrap interval, or `mean`, with Student's.
    """

    value: float
    low: float | None
    high: float | None
    estimator: str


BOOTSTRAP_SEEDS: Final = 10
"""From this number of seeds on, intervals are bootstrapped; fewer values barely represent their distribution."""


def interval(values: Sequence[float]) -> Interval:
    """Return the score of a configuration on seeds that did not choose it.

    With at least ten seeds it is the interquartile mean with the percentile bootstrap's interval, as in
    https://arxiv.org/abs/2108.13264 (a configuration in one scenario is one stratum); with fewer the mean with
    Student's t.
    """
    return stratified_interval([values])


def stratified_interval(strata: Sequence[Sequence[float]]) -> Interval:
    """Return the mean over strata (scenarios) of the scores of their seeds.

    If each stratum has at least ten seeds, it averages interquartile means, and the interval is that of the stratified
    percentile bootstrap, which resamples within each stratum. Otherwise it averages means, with Student's t, and for
    several strata Welch's degrees of freedom, https://doi.org/10.2307/3002019.
    """
    import numpy as np
    from scipy import stats

    if min(map(len, strata)) >= BOOTSTRAP_SEEDS:
        value = statistics.fmean(map(interquartile_mean, strata))
        low, high = bootstrap_interval(
            strata, lambda *drawn, axis: np.mean([trimmed_mean(x, axis) for x in drawn], axis=0)
        )
        return Interval(value, low, high, Aggregate.IQM.value)
    mean = statistics.fmean(map(statistics.fmean, strata))
    if min(map(len, strata)) < 2:
        return Interval(mean, None, None, Aggregate.MEAN.value)
    errors = [statistics.variance(values) / len(values) for values in strata]
    spare = sum(error**2 / (len(values) - 1) for error, values in zip(errors, strata, strict=True))
    freedom = sum(errors) ** 2 / spare if spare else 1.0
    half = float(stats.t.ppf(0.975, freedom)) * math.sqrt(sum(errors)) / len(strata)
    return Interval(mean, mean - half, mean + half, Aggregate.MEAN.value)


def mean_and_half_width(values: Any) -> tuple[Any, Any]:
    """Return the mean over the first axis, and half the width of Student's 95 % interval; at least two values.

    Args:
      values: (n, …), array-like.
    """
    import numpy as np
    from scipy import stats

    of_each = np.asarray(values, np.float64)
    error = of_each.std(axis=0, ddof=1) / np.sqrt(len(of_each))
    return of_each.mean(axis=0), stats.t.ppf(0.975, len(of_each) - 1) * error


def optimism(chosen_by: Sequence[Sequence[float]], fresh: Interval, mode: str) -> tuple[float, float]:
    """Return the score on the seeds that chose a configuration, with the strata and estimator of `fresh`, and by how
    much it is better than `fresh`, where larger values (`max`) or smaller ones (`min`) are better.
    """
    tuned = statistics.fmean(aggregate(values, fresh.estimator) for values in chosen_by)
    return tuned, tuned - fresh.value if mode == "max" else fresh.value - tuned


__all__ = ["BOOTSTRAP_SEEDS", "Interval", "interval", "mean_and_half_width", "optimism", "stratified_interval"]
