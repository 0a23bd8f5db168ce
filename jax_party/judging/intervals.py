"""Estimates with their 95 % confidence intervals; `docs/statistics.md` has the formulas."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import Final, NamedTuple

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
"""From so many seeds on the interval is bootstrapped; fewer values hardly tell their own distribution."""


def interval(values: Sequence[float]) -> Interval:
    """The score of a configuration on seeds that it was not chosen by.

    From ten seeds on the interquartile mean with the percentile bootstrap's interval, as in
    https://arxiv.org/abs/2108.13264 (a configuration in one scenario is one stratum); below ten the mean with
    Student's t.
    """
    return stratified_interval([values])


def stratified_interval(strata: Sequence[Sequence[float]]) -> Interval:
    """The mean over strata (scenarios) of the scores of their seeds.

    Where each stratum has ten seeds or more their interquartile means, and the interval of the stratified percentile
    bootstrap, which draws again within each stratum; otherwise their means, with Student's t, and for several strata
    Welch's degrees of freedom, https://doi.org/10.2307/3002019.
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


def optimism(chosen_by: Sequence[Sequence[float]], fresh: Interval, mode: str) -> tuple[float, float]:
    """The score on the seeds that chose a configuration, by strata and estimator those of `fresh`; and how much better
    that is, where larger values (`max`) or smaller ones (`min`) are.
    """
    tuned = statistics.fmean(aggregate(values, fresh.estimator) for values in chosen_by)
    return tuned, tuned - fresh.value if mode == "max" else fresh.value - tuned


__all__ = ["BOOTSTRAP_SEEDS", "Interval", "interval", "optimism", "stratified_interval"]
