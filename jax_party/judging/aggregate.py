"""One number for several seeds."""

from __future__ import annotations

import enum
import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Final

from jax_party.judging.resampling import trimmed_mean

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class Aggregate(enum.StrEnum):
    """How the values of several seeds become one.

    `iqm` is the interquartile mean, https://arxiv.org/abs/2108.13264: the mean without the lowest and the highest
    quarter, each rounded down to whole values.
    """

    MEAN = "mean"
    IQM = "iqm"
    MEDIAN = "median"
    MIN = "min"


def interquartile_mean(values: Sequence[float]) -> float:
    """Return the mean of the values that remain after ⌊n/4⌋ are cut from each end."""
    import numpy as np

    return float(trimmed_mean(np.asarray(values, np.float64)))


_FUNCTIONS: Final[Mapping[str, Callable[[Sequence[float]], float]]] = {
    Aggregate.MEAN: statistics.fmean,
    Aggregate.IQM: interquartile_mean,
    Aggregate.MEDIAN: statistics.median,
    Aggregate.MIN: min,
}


def aggregate(values: Sequence[float], how: str) -> float:
    """Return one number for `values`, which must not be empty."""
    return float(values[0] if len(values) == 1 else _FUNCTIONS[how](values))


def aggregate_along(values: NDArray[np.float64], how: str) -> NDArray[np.float64]:
    """Return one number for the values along the last axis."""
    import numpy as np

    if how == Aggregate.MEAN:
        return values.mean(axis=-1)
    if how == Aggregate.MEDIAN:
        return np.asarray(np.median(values, axis=-1))
    if how == Aggregate.MIN:
        return values.min(axis=-1)
    return trimmed_mean(values, axis=-1)


def aggregate_metrics(of_seeds: Sequence[Mapping[str, float | None]], how: str) -> dict[str, float | None]:
    """Return metric -> one number for the seeds; None if any seed has no finite number for it."""
    if len(of_seeds) == 1:
        (metrics,) = of_seeds
        return {name: float(v) if v is not None and math.isfinite(v) else None for name, v in metrics.items()}
    combined: dict[str, float | None] = {}
    for name in dict.fromkeys(name for metrics in of_seeds for name in metrics):
        values = [metrics.get(name) for metrics in of_seeds]
        numbers = [float(value) for value in values if value is not None and math.isfinite(value)]
        combined[name] = aggregate(numbers, how) if len(numbers) == len(values) else None
    return combined


def spread(values: Sequence[float]) -> float | None:
    """Return the sample standard deviation, None for fewer than two values."""
    return statistics.stdev(values) if len(values) > 1 else None


__all__ = ["Aggregate", "aggregate", "aggregate_along", "aggregate_metrics", "interquartile_mean", "spread"]
