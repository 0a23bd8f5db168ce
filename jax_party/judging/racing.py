"""Racing: give seeds to the configurations that could still be the best, and stop the others.

All configurations play the same seeds. A betting game runs against each configuration i: before each seed, a bet is
placed that i will do worse on it than the leader, the configuration with the best mean over the earlier seeds. If i is
as good as every other configuration, nobody can expect to win this game: the capital, 1 at the start, is a test
martingale, and the probability that it ever reaches 1/α is at most α (Ville's inequality). So it may be checked after
any seed.

A seed with difference d = x_leader − x_i multiplies the capital by 1 + sign(d)·tanh(δ|d|/s), where s is the mean of
|d| over the seeds so far. For normal differences this is the likelihood ratio of the sign given |d|. The capital is
spread over several δ; δ = ∞ stakes everything on the sign.

The assumption about a configuration i that is as good as j is: for every size of the difference, i is at least as
likely to be ahead by it as j is. It holds for equal noise of any shape (heavy tails, skew, a few discrete values), and
for noise with a symmetric, unimodal difference (normal noise with unequal spreads). It does not hold for a
configuration whose mean rests on a few outstanding seeds while another beats it on most of them; that one may be
stopped.

Sources: Ville 1939; Ramdas, Ruf, Larsson, Koolen, "Admissible anytime-valid sequential inference must rely on
nonnegative martingales", arXiv:2009.03167, section 5 (symmetric distributions); Waudby-Smith, Ramdas, "Estimating
means of bounded random variables by betting", JRSS B 86 (2024), arXiv:2010.09686 (capital and mixed bets); Vovk, Wang,
"E-values: calibration, combination and applications", Annals of Statistics 49 (2021), arXiv:1912.06116.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

BETS: Final = (0.5, 1.0, 2.0, math.inf)
"""δ, the stakes that the capital is spread over."""
SHARES: Final = (0.1, 0.2, 0.2, 0.5)
"""The share of the capital for each stake."""
_MOST: Final = 1e100
"""A cap on the capital, far above any threshold, that prevents overflow."""


@dataclass(frozen=True)
class Race:
    """The state of a race; arrays have the leading axes of the scores.

    Attributes:
      racing: (…, k), which configurations could still be the best.
      stopped_after: (…, k), after how many seeds a configuration was stopped; 0 if it was not.
      capital: (…, k), the capital of the bet against each, when it was stopped or last checked.
      opened: (…), whether the hypothesis that all are equal has been rejected; none is stopped before that.
    """

    racing: NDArray[np.bool_]
    stopped_after: NDArray[np.int64]
    capital: NDArray[np.float64]
    opened: NDArray[np.bool_]


def first_look(confidence: float) -> int:
    """Return the number of seeds before which none can be stopped: each after the first at most doubles the capital."""
    return math.ceil(round(-math.log2(1.0 - confidence), 9)) + 1


def looks(confidence: float, most: int) -> list[int]:
    """Return after how many of at most `most` seeds a race is checked: `first_look`, then a quarter more each time."""
    found = [first_look(confidence)]
    while found[-1] < most:
        found.append(min(most, found[-1] + max(2, found[-1] // 4)))
    return found


def race(scores: NDArray[np.float64], looked: Sequence[int], confidence: float) -> Race:
    """Run a race on recorded scores.

    A configuration is stopped at the first look at which the capital against it has reached 1/α, α = 1 − confidence.
    One that is as good as every other is stopped with probability at most α over the whole race. None is stopped before
    the bet against "all are equal" has reached 1/α too. That bet pairs the first with the last, the second with the
    second last and so on by their means before each seed, and multiplies the factors of the pairs; if all are equal
    (exchangeable on each seed), the probability that any is stopped is at most α.

    Args:
      scores: (…, k, n), of k ≥ 2 configurations on n common seeds, larger is better. Configurations that were stopped
        need no further scores; one without a score (NaN) at a look is stopped there.
      looked: the numbers of seeds after which the race was checked, increasing, at most n.
      confidence: 1 − α.
    """
    import numpy as np

    x = np.asarray(scores, np.float64)
    leading, (number, _) = x.shape[:-2], x.shape[-2:]
    x = x.reshape(-1, *x.shape[-2:])
    most = 1.0 / (1.0 - confidence) - 1e-9
    shares = np.array(SHARES)
    capital = np.ones((len(x), number, len(BETS)))
    against_equal = np.ones((len(x), len(BETS)))
    racing = np.ones((len(x), number), bool)
    stopped_after = np.zeros((len(x), number), np.int64)
    opened = np.zeros(len(x), bool)
    start = 0
    for look in looked:
        missing = racing & np.isnan(x[..., :look]).any(axis=-1)
        racing &= ~missing
        for seed in range(max(start, 1), look):
            ranked, count = _ranking(x, racing, seed)
            capital *= np.where((racing & (count > 1)[:, None])[..., None], _bets(x, ranked, seed), 1.0)
            against_equal *= np.where(opened[:, None], 1.0, _bets_against_equal(x, ranked, count, seed))
        capital, against_equal = np.minimum(capital, _MOST), np.minimum(against_equal, _MOST)
        opened |= against_equal @ shares >= most
        against = capital @ shares
        out = racing & (against >= most) & (opened & (racing.sum(axis=-1) > 1))[:, None]
        last = out.any(axis=-1) & ~(racing & ~out).any(axis=-1)  # one has to stay
        out[last, np.where(racing, against, np.inf).argmin(axis=-1)[last]] = False
        racing &= ~out
        stopped_after[out | missing] = look
        start = look
    return Race(
        racing.reshape(*leading, number),
        stopped_after.reshape(*leading, number),
        (capital @ shares).reshape(*leading, number),
        opened.reshape(leading),
    )


def _ranking(
    x: NDArray[np.float64], racing: NDArray[np.bool_], seed: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the configurations by their mean over the seeds before `seed`, best first, and how many are racing."""
    import numpy as np

    means = np.where(racing, x[..., :seed].mean(axis=-1), -np.inf)
    return np.argsort(-means, axis=-1, kind="stable"), racing.sum(axis=-1)


def _factors(differences: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the factor by which the last seed multiplies the capital, for each of `BETS`: (…, seeds) -> (…, bets)."""
    import numpy as np

    scale = np.abs(differences).mean(axis=-1)
    last = differences[..., -1] / np.where(scale > 0, scale, 1.0)
    return 1.0 + np.stack([np.sign(last) if math.isinf(bet) else np.tanh(bet * last) for bet in BETS], axis=-1)


def _bets(x: NDArray[np.float64], ranked: NDArray[np.int64], seed: int) -> NDArray[np.float64]:
    """Return the factors of the bets that each does worse on this seed than the leader: (races, k, bets)."""
    import numpy as np

    first, second = ranked[:, :1], ranked[:, 1:2]
    leaders = np.where(np.arange(x.shape[1]) == first, second, first)
    played = x[..., : seed + 1]
    return _factors(np.take_along_axis(played, leaders[..., None], axis=1) - played)


def _bets_against_equal(
    x: NDArray[np.float64], ranked: NDArray[np.int64], count: NDArray[np.int64], seed: int
) -> NDArray[np.float64]:
    """Return the factors of the bet that the better one of each disjoint pair is better again: (races, bets)."""
    import numpy as np

    places = np.arange(x.shape[1] // 2)
    others = np.maximum(count[:, None] - 1 - places, 0)
    played = x[..., : seed + 1]
    better, worse = ranked[:, : len(places)], np.take_along_axis(ranked, others, axis=1)
    gaps = np.take_along_axis(played, better[..., None], axis=1) - np.take_along_axis(played, worse[..., None], axis=1)
    return np.asarray(np.where((places < others)[..., None], _factors(gaps), 1.0).prod(axis=1))


__all__ = ["BETS", "SHARES", "Race", "first_look", "looks", "race"]
