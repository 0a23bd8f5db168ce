"""The interquartile mean of arrays, and the bootstrap of seeds: https://arxiv.org/abs/2108.13264."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:  # it loads slowly, and most callers draw nothing
    import numpy as np
    from numpy.typing import ArrayLike, NDArray

LEVEL: Final = 0.95
"""The share of resamples inside an interval."""
RESAMPLES: Final = 9_999


def trimmed_mean(values: NDArray[np.float64], axis: int = 0) -> NDArray[np.float64]:
    """Return the interquartile mean along an axis: the mean without ⌊n/4⌋ values at each end."""
    import numpy as np

    count = values.shape[axis]
    cut = count // 4
    kept = np.sort(values, axis=axis).take(range(cut, count - cut), axis=axis)
    return np.asarray(kept.mean(axis=axis))


def percentile_interval(resampled: NDArray[np.float64]) -> tuple[Any, Any]:
    """Return the ends of the 95 % percentile interval along the first axis."""
    import numpy as np

    low, high = np.quantile(resampled, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=0)
    return low, high


def bootstrap_interval(strata: Sequence[ArrayLike], statistic: Callable[..., Any]) -> tuple[float, float]:
    """Return the 95 % interval of a statistic by the stratified percentile bootstrap.

    Args:
      strata: samples, each of which is resampled separately.
      statistic: a function of one array per stratum and `axis`, the axis of its values.
    """
    import numpy as np
    from scipy import stats

    found = stats.bootstrap(
        [np.asarray(values, np.float64) for values in strata], statistic,
        n_resamples=RESAMPLES, confidence_level=LEVEL, method="percentile", rng=np.random.default_rng(0),
    ).confidence_interval  # fmt: skip
    return float(found.low), float(found.high)


def draw_counts(samples: Sequence[NDArray[np.float64]], resamples: int, seed: int) -> list[NDArray[np.float64]]:
    """Return how often each value of each sample is drawn: per sample `(resamples, values)`."""
    import numpy as np

    rng = np.random.default_rng(seed)
    return [
        rng.multinomial(len(values), np.full(len(values), 1 / len(values)), resamples).astype(float)
        for values in samples
    ]


__all__ = [
    "LEVEL", "RESAMPLES", "bootstrap_interval", "draw_counts", "percentile_interval", "trimmed_mean",
]  # fmt: skip
