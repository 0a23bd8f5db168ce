"""Test a claim on its test seeds: Welch's test by permutation, Holm's correction."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import ArrayLike, NDArray


PERMUTATIONS: Final = 99_999
"""The number of permutations to draw; if there are no more than that, all are used."""
TEST: Final = (
    f"one-sided permutation test of Welch's t over test seeds ({PERMUTATIONS:,} permutations drawn with seed 0, or all "
    "where there are fewer), Holm's step-down over the claims"
)
SUPPORTED: Final = "supported"
NOT_SUPPORTED: Final = "not supported"
LEAST_SEEDS: Final = 2


class Evidence(NamedTuple):
    """The scores of a claim's two algorithms on its test seeds, and the claim's relation."""

    a: Sequence[float]
    b: Sequence[float]
    relation: str


class Judgement(NamedTuple):
    """The result of testing a claim.

    Attributes:
      difference: the mean of `a` minus that of `b`; None without evidence.
      low, high: the ends of its two-sided 95 % interval (Welch).
      p: the p-value of the one-sided test; 1 without evidence.
      adjusted: the p-value after Holm's correction over the claims.
      supported: whether `adjusted` is at most alpha.
    """

    difference: float | None
    low: float | None
    high: float | None
    p: float
    adjusted: float
    supported: bool


def smallest_p(seeds: int) -> float:
    """Return the smallest p-value that the test can give with this number of seeds per algorithm."""
    return max(1.0 / math.comb(2 * seeds, seeds), 1.0 / (PERMUTATIONS + 1))


def judge(evidence: Sequence[Evidence | None], alpha: float, resamples: int = PERMUTATIONS) -> list[Judgement]:
    """Test every claim; a claim without evidence (None) has a p-value of 1 and is not supported."""
    of_claims = [1.0 if one is None else p_value(one, resamples) for one in evidence]
    found = []
    for one, p, adjusted in zip(evidence, of_claims, holm(of_claims), strict=True):
        difference, low, high = (None, None, None) if one is None else welch_interval(one.a, one.b)
        found.append(Judgement(difference, low, high, p, adjusted, one is not None and adjusted <= alpha))
    return found


def p_value(evidence: Evidence, resamples: int = PERMUTATIONS) -> float:
    """Return the p-value of a claim, as `p_values` does."""
    return float(p_values([evidence.a], [evidence.b], evidence.relation, resamples)[0])


def p_values(a: ArrayLike, b: ArrayLike, relation: str, resamples: int = PERMUTATIONS) -> NDArray[np.float64]:
    """Return the p-values of one-sided permutation tests of Welch's t, one per row of `a` and `b`; columns are seeds.

    The test is exact if the seeds of both algorithms have the same distribution. If only their means are equal, its
    level still tends to alpha, since the statistic is studentised: Janssen 1997,
    https://doi.org/10.1016/S0167-7152(97)00043-6; Chung and Romano 2013, theorem 2.2,
    https://doi.org/10.1214/13-AOS1090. If permutations are drawn, the p-value is (b + 1) / (m + 1), Phipson and Smyth
    2010, https://doi.org/10.2202/1544-6115.1585.
    """
    import numpy as np
    from scipy import stats

    x, y = (np.asarray(values, np.float64) for values in (a, b))
    spread = np.ptp(np.concatenate([x, y], axis=1), axis=1, keepdims=True)
    scale = np.where(spread > 0.0, spread, 1.0)
    found = stats.permutation_test(
        (x / scale, y / scale), _welch_t, permutation_type="independent", vectorized=True, n_resamples=resamples,
        alternative="greater" if relation == ">" else "less", rng=np.random.default_rng(0), axis=1,
        batch=max(1, 10_000 // len(x)),
    )  # fmt: skip
    return np.asarray(np.where(spread[:, 0] > 0.0, found.pvalue, 1.0), np.float64)


def _welch_t(x: NDArray[np.float64], y: NDArray[np.float64], axis: int) -> NDArray[np.float64]:
    """Return the difference of means divided by its standard error, for values with a range of at most 1.

    Groups of equal values have a standard error of 0; a floor makes t large instead of infinite.
    """
    import numpy as np

    error = np.sqrt(x.var(axis=axis, ddof=1) / x.shape[axis] + y.var(axis=axis, ddof=1) / y.shape[axis])
    return np.asarray((x.mean(axis=axis) - y.mean(axis=axis)) / np.maximum(error, 1e-9))


def welch_interval(a: Sequence[float], b: Sequence[float]) -> tuple[float, float, float]:
    """Return the difference of means, a minus b, with Welch's 95 % interval, https://doi.org/10.2307/2332510."""
    import numpy as np
    from scipy import stats

    x, y = np.asarray(a, np.float64), np.asarray(b, np.float64)
    difference = float(x.mean() - y.mean())
    if np.ptp(x) == 0 and np.ptp(y) == 0:  # nothing varies, and Welch's degrees of freedom would be 0 / 0
        return difference, difference, difference
    found = stats.ttest_ind(x, y, equal_var=False).confidence_interval(0.95)
    return difference, float(found.low), float(found.high)


def holm(of_claims: Sequence[float]) -> list[float]:
    """Return the adjusted p-values of Holm's step-down, which controls the family-wise error under any dependence.

    With p sorted, `p̃_(i) = max over j ≤ i of min(1, (m − j + 1) p_(j))`: Holm 1979, Scandinavian Journal of Statistics
    6:65-70, https://www.jstor.org/stable/4615733.
    """
    adjusted, largest = [0.0] * len(of_claims), 0.0
    for rank, place in enumerate(sorted(range(len(of_claims)), key=of_claims.__getitem__)):
        largest = max(largest, min(1.0, (len(of_claims) - rank) * of_claims[place]))
        adjusted[place] = largest
    return adjusted
