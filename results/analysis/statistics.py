"""How runs are compared: Agarwal et al. 2021, "Deep reinforcement learning at the edge of the statistical precipice",
https://arxiv.org/abs/2108.13264. `docs/statistics.md` has the formulas.

The scores of several tasks are a sequence of arrays, one per task, that hold the scores of its runs (`x_{m,n}` for task
m and run n); tasks may have different numbers of runs. Larger is better.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from jax_party.judging.intervals import BOOTSTRAP_SEEDS, mean_and_half_width
from jax_party.judging.resampling import draw_counts, percentile_interval, trimmed_mean

Scores = Sequence[NDArray[np.float64]]

REPORT_RESAMPLES: Final = 2_000


class Estimate(NamedTuple):
    """A number with the ends of its 95 % interval, which are NaN if every task has a single run."""

    value: float
    low: float
    high: float


class Band(NamedTuple):
    """A curve with the ends of its 95 % intervals at each point: three arrays of the same length."""

    value: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]


def _single(*groups: Scores) -> bool:
    return all(len(task) < 2 for group in groups for task in group)


def interquartile_mean_of_tasks(scores: Scores, resamples: int = REPORT_RESAMPLES) -> Estimate:
    """Return the interquartile mean of all tasks' runs pooled, with its stratified-bootstrap interval."""
    value = float(trimmed_mean(np.concatenate(scores)))
    if _single(scores):
        return Estimate(value, np.nan, np.nan)
    rng = np.random.default_rng(0)
    drawn = [task[rng.integers(len(task), size=(resamples, len(task)))] for task in scores]
    low, high = percentile_interval(trimmed_mean(np.concatenate(drawn, axis=1), axis=1))
    return Estimate(value, float(low), float(high))


def performance_profile(scores: Scores, thresholds: ArrayLike) -> NDArray[np.float64]:
    """Return the share of runs above each threshold τ, averaged over tasks: `1/M Σ_m 1/N_m Σ_n 1[x_{m,n} > τ]`."""
    of_thresholds = np.asarray(thresholds, np.float64)
    return np.asarray(np.mean([(task[:, None] > of_thresholds).mean(axis=0) for task in scores], axis=0))


def profile_band(scores: Scores, thresholds: ArrayLike, resamples: int = REPORT_RESAMPLES) -> Band:
    """Return the performance profile with its stratified-bootstrap band."""
    value = performance_profile(scores, thresholds)
    if _single(scores):
        return Band(value, np.full_like(value, np.nan), np.full_like(value, np.nan))
    above = [(task[:, None] > np.asarray(thresholds, np.float64)).astype(float) for task in scores]
    of_tasks = [drawn @ task / len(task) for drawn, task in zip(draw_counts(scores, resamples, 0), above, strict=True)]
    return Band(value, *percentile_interval(np.mean(of_tasks, axis=0)))


def wins(x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return S(x_i, y_j): 1 if x_i is larger, ½ if they are equal, 0 if it is smaller."""
    return (x[:, None] > y[None, :]) + 0.5 * (x[:, None] == y[None, :])


def probability_of_improvement(scores: Scores, others: Scores, resamples: int = REPORT_RESAMPLES) -> Estimate:
    """Return the probability that a run of `scores` beats one of `others` on a task drawn at random, ties as one half.

    `1/M Σ_m 1/(N_m K_m) Σ_{i,j} S(x_{m,i}, y_{m,j})` with S = 1, ½, 0 for more, equal, less: the Mann-Whitney U of each
    task divided by `N_m K_m`. The interval is from the stratified bootstrap over the runs of both.
    """
    of_pairs = [wins(x, y) for x, y in zip(scores, others, strict=True)]
    value = float(np.mean([of_task.mean() for of_task in of_pairs]))
    if _single(scores, others):
        return Estimate(value, np.nan, np.nan)
    drawn = zip(draw_counts(scores, resamples, 0), draw_counts(others, resamples, 1), of_pairs, strict=True)
    of_tasks = [((x @ of_task) * y).sum(axis=1) / of_task.size for x, y, of_task in drawn]
    low, high = percentile_interval(np.mean(of_tasks, axis=0))
    return Estimate(value, float(low), float(high))


def curve_over_seeds(curves: ArrayLike, resamples: int = REPORT_RESAMPLES) -> Band:
    """Return a learning curve of several seeds, `(seeds, steps)`, with its band.

    With at least ten seeds, it is the interquartile mean with the percentile bootstrap over seeds, the estimator that
    `jax_party.judging.intervals.interval` uses for one number; with fewer, the mean with Student's t; with one, the
    curve itself.
    """
    values = np.asarray(curves, np.float64)
    seeds = len(values)
    if seeds == 1:
        return Band(values[0], np.full_like(values[0], np.nan), np.full_like(values[0], np.nan))
    if seeds >= BOOTSTRAP_SEEDS:
        drawn = np.random.default_rng(0).integers(seeds, size=(seeds, resamples))
        return Band(trimmed_mean(values), *percentile_interval(trimmed_mean(values[drawn])))
    mean, half = mean_and_half_width(values)
    return Band(mean, mean - half, mean + half)


def curve_over_configurations(curves: ArrayLike) -> Band:
    """Return the interquartile mean and the quartiles of several configurations' curves, `(configurations, steps)`."""
    values = np.asarray(curves, np.float64)
    low, high = np.quantile(values, [0.25, 0.75], axis=0)
    return Band(trimmed_mean(values), low, high)


def first_step_at(steps: ArrayLike, values: ArrayLike, thresholds: ArrayLike) -> NDArray[np.float64]:
    """Return the first step at which a curve reaches each threshold, NaN if it never does."""
    at, of_curve = np.asarray(steps, np.float64), np.asarray(values, np.float64)
    reached = of_curve[None, :] >= np.asarray(thresholds, np.float64)[:, None]
    return np.where(reached.any(axis=1), at[reached.argmax(axis=1)], np.nan)


def normalised(scores: Sequence[NDArray[np.float64]]) -> list[NDArray[np.float64]]:
    """Return one task's scores of several algorithms, scaled together: the lowest becomes 0, the highest 1.

    If all scores are equal, each becomes ½.
    """
    together = np.concatenate(scores)
    low, high = together.min(), together.max()
    return [(one - low) / (high - low) if high > low else np.full_like(one, 0.5) for one in scores]
