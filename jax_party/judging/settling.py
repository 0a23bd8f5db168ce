"""Whether a learning curve has settled: in a game where learning lowers everybody's return, the trial that ends highest
may be the one that has learned least so far.

The curve is the objective over a trial's evaluations, seeds aggregated, starting with its untrained networks. Quarters
divide the environment steps up to its last evaluation; `docs/statistics.md` has the formulas.
"""

from __future__ import annotations

import enum
import itertools
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, NamedTuple

from jax_party.judging.objectives import Objective
from jax_party.judging.scores import UNTRAINED, Row, evaluations_by_step, objective_of, standard_error

TOLERANCE: Final = 0.1
"""A curve has settled if its last quarter differs from the one before by at most this share of the curve's range."""
_QUANTILE: Final = 1.6448536269514722
"""The 95 % quantile of the standard normal, for each of the two one-sided tests at 5 %."""
FINAL_BAND: Final = 0.05
"""How near to its final level a curve has to stay for the settling time, as a share of that level."""
_MOST_QUARTERS: Final = 60
_FASTEST_DECAY: Final = 0.5
_SLOWEST_DECAY: Final = 0.95
"""The bounds of the factor by which changes are assumed to shrink per quarter."""


class Motion(enum.StrEnum):
    """What a curve did at its end.

    `settled`: its last two quarters are equal within the tolerance, at the 5 % level. `rising`, `falling`: they differ,
    at the 5 % level. `undecided`: there are too few episodes or evaluations to say either. `unmoved`: the curve has no
    range at all.
    """

    SETTLED = "settled"
    RISING = "rising"
    FALLING = "falling"
    UNDECIDED = "undecided"
    UNMOVED = "unmoved"


class Point(NamedTuple):
    """An evaluation on a learning curve; `se` is the standard error due to its number of episodes."""

    step: int
    value: float
    se: float | None
    untrained: bool = False


@dataclass(frozen=True)
class Trend:
    """How a curve ended.

    Attributes:
      change: the mean of the last quarter minus that of the quarter before.
      se: the standard error of the change, from the episodes; None if unknown.
      spread: the range of the whole curve, including its untrained evaluation.
      motion: the conclusion; None if the standard error is unknown.
      enough_steps: environment steps after which the curve would have settled, assuming an exponential approach; None
        if it is not moving, or nothing can be said.
    """

    change: float
    se: float | None
    spread: float
    motion: Motion | None
    enough_steps: int | None

    @property
    def settled(self) -> bool | None:
        """Whether the curve has settled; None if unknown."""
        return None if self.motion is None else self.motion is Motion.SETTLED


def curve_of(rows: Iterable[Row], num_seeds: int, objective: Objective) -> list[Point]:
    """Return the learning curve in the rows of a metrics.jsonl, without evaluations that have no finite number."""
    points = []
    for step, of_seeds in sorted(evaluations_by_step(rows, num_seeds).items()):
        value = objective_of([row.get("evaluate") or {} for row in of_seeds], objective)
        if value is not None:
            untrained = any(bool(row.get(UNTRAINED)) for row in of_seeds)
            points.append(Point(step, value, standard_error(of_seeds, objective), untrained))
    return points


def trend_of(curve: Sequence[Point]) -> Trend | None:
    """Return how a curve ended; None if one of its last two quarters has no evaluation of trained networks.

    With the change d of the last quarter from the one before and its standard error e, the curve has settled if
    `|d| + 1.645 e <= 0.1 R`, where R is its range: two one-sided tests of equivalence at 5 % (Schuirmann 1987,
    https://doi.org/10.1007/BF01068419). It is moving if `|d| > 1.645 e` and it has not settled.
    """
    trained = [point for point in curve if not point.untrained]
    if not trained:
        return None
    end = trained[-1].step
    quarters: list[list[Point]] = [[], [], [], []]
    for point in trained:
        quarters[min(3, max(0, math.ceil(4 * point.step / end) - 1))].append(point)
    before, last = quarters[2:]
    if not before or not last:
        return None
    levels = [statistics.fmean(point.value for point in of_quarter) if of_quarter else None for of_quarter in quarters]
    change = statistics.fmean(p.value for p in last) - statistics.fmean(p.value for p in before)
    values = [point.value for point in curve]
    spread = max(values) - min(values)
    se = _error_of_change(before, last)
    motion = None if se is None else _motion(change, se, spread)
    enough = None
    if motion in (Motion.RISING, Motion.FALLING):
        enough = _enough_steps(end, [level for level in levels if level is not None], spread)
    return Trend(change, se, spread, motion, enough)


def end_of(rows: Sequence[Row], num_seeds: int, objective: Objective) -> tuple[Trend | None, bool | None]:
    """Return how a trial's curves ended.

    Returns:
      The trend of the first objective, and whether the curves of all objectives have settled; None if unknown.
    """
    trends = [trend_of(curve_of(rows, num_seeds, replace(objective, metric=name))) for name in objective.metrics]
    told = [None if one is None else one.settled for one in trends]
    return trends[0], False if False in told else None if None in told else True


def _error_of_change(before: Sequence[Point], last: Sequence[Point]) -> float | None:
    """Return `sqrt(Σ se_k² / n²)` over both quarters: evaluations are independent, each played with its own keys."""
    total = 0.0
    for of_quarter in (before, last):
        errors = [point.se for point in of_quarter if point.se is not None]
        if len(errors) < len(of_quarter):
            return None
        total += math.fsum(error**2 for error in errors) / len(errors) ** 2
    return math.sqrt(total)


def _motion(change: float, se: float, spread: float) -> Motion:
    if spread == 0.0:
        return Motion.UNMOVED
    if abs(change) + _QUANTILE * se <= TOLERANCE * spread:
        return Motion.SETTLED
    if abs(change) > _QUANTILE * se:
        return Motion.RISING if change > 0 else Motion.FALLING
    return Motion.UNDECIDED


def _enough_steps(end: int, levels: Sequence[float], spread: float) -> int:
    """Return the steps after which the change per quarter is at most half of the tolerance.

    Changes from quarter to quarter are assumed to shrink by one factor, `v(t) = a + b exp(-t / c)`: the least-squares
    factor, clipped to [0.5, 0.95], since a few noisy changes do not show more. The quarters keep their length.
    """
    changes = [after - before for before, after in itertools.pairwise(levels)]
    weight = math.fsum(change**2 for change in changes[:-1])
    products = math.fsum(a * b for a, b in itertools.pairwise(changes))
    factor = min(max(products / weight if weight else _SLOWEST_DECAY, _FASTEST_DECAY), _SLOWEST_DECAY)
    wanted = 0.5 * TOLERANCE * spread
    more = 1
    if abs(changes[-1]) > wanted:
        more = min(_MOST_QUARTERS, math.ceil(math.log(wanted / abs(changes[-1])) / math.log(factor)))
    return math.ceil(end * (1 + max(1, more) / 4))


def settling_step(steps: Sequence[float], values: Sequence[float]) -> float | None:
    """Return the first step from which a curve stays within 5 % of its final level; None for an empty curve.

    The band is 5 % of the final level's size, `|v_t - v_T| <= 0.05 |v_T|`: the settling time of control theory, with
    the final level in place of the set point.
    """
    if not len(values):
        return None
    final = values[-1]
    settled = float(steps[-1])
    for step, value in zip(reversed(steps), reversed(values), strict=True):
        if abs(value - final) > FINAL_BAND * abs(final):
            break
        settled = float(step)
    return settled


class Verdict(NamedTuple):
    """How the trials of a sweep ended: counts by motion, how many motions are known, and the steps that would do."""

    counts: Mapping[Motion, int]
    known: int
    enough_steps: int | None


def summarise(trends: Iterable[tuple[Motion | None, int | None]]) -> Verdict:
    """Count how trials ended; the steps are the median over the moving trials, rounded up to two digits.

    Args:
      trends: the motion and `enough_steps` of each trial.
    """
    pairs = [(motion, enough) for motion, enough in trends if motion is not None]
    counts = {motion: sum(one is motion for one, _ in pairs) for motion in Motion}
    enough = [steps for _, steps in pairs if steps is not None]
    return Verdict(counts, len(pairs), _two_digits(statistics.median_high(enough)) if enough else None)


def _two_digits(number: int) -> int:
    """Return a number rounded up to two digits."""
    unit = 10 ** max(0, len(str(number)) - 2)
    return -(-number // unit) * unit


def in_words(verdict: Verdict, mode: str) -> str | None:
    """Return the warning about trials that had not settled, in one sentence; None if all have."""
    counts = verdict.counts
    unsettled = verdict.known - counts.get(Motion.SETTLED, 0)
    if not unsettled:
        return None
    parts = []
    for motion, words in _WORDS.items():
        number = counts.get(motion, 0)
        if number:
            parts.append(f"{number} of {verdict.known} trials {words[number > 1]}")
    worse = Motion.FALLING if mode == "max" else Motion.RISING
    caution = ""
    if counts.get(worse, 0):
        level = "higher" if mode == "max" else "lower"
        caution = f": a {level} score may mean slower learning"
    remedy = f"; TIMESTEPS={verdict.enough_steps} would be about enough" if verdict.enough_steps else ""
    return f"{', '.join(parts)}{caution}{remedy}"


_WORDS: Final = {
    Motion.FALLING: ("was still falling when it ended", "were still falling when they ended"),
    Motion.RISING: ("was still rising when it ended", "were still rising when they ended"),
    Motion.UNDECIDED: ("may still be moving", "may still be moving"),
    Motion.UNMOVED: (
        "never left the level of its untrained networks",
        "never left the level of their untrained networks",
    ),
}

__all__ = [
    "Motion", "Point", "Trend", "Verdict", "curve_of", "end_of", "in_words", "settling_step", "summarise", "trend_of",
]  # fmt: skip
