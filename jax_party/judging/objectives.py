"""The objective of a sweep: metrics and their directions, which networks are judged, and the constraints."""

from __future__ import annotations

import enum
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Final

from msgspec import Meta

from jax_party.judging.aggregate import Aggregate

MODES: Final = ("max", "min")
Mode = Annotated[str, Meta(pattern="^(max|min)$")]
"""A direction: whether larger or smaller values of a metric are better."""


class At(enum.StrEnum):
    """Which numbers of a trial it is judged by.

    `final`: the parameters that training ended with, played on the absolute metric's episodes. `last`, `last-5-avg`,
    `last-10-avg`, `avg`: from the evaluations during training, the last one, or the mean of the last five, the last ten
    or all of them, as in Ray Tune. `best`: the parameters of the best evaluation, the same one for all seeds, played
    again on the absolute metric's episodes (https://arxiv.org/abs/2209.10485).

    `best-per-seed` is the rule of records up to schema version 5, kept for their sweeps: each seed's own best
    parameters, played again; if that was not done, the best evaluation.
    """

    FINAL = "final"
    LAST = "last"
    LAST_5_AVG = "last-5-avg"
    LAST_10_AVG = "last-10-avg"
    AVG = "avg"
    BEST = "best"
    BEST_PER_SEED = "best-per-seed"

    @property
    def averaged(self) -> int | None:
        """The number of last evaluations that are averaged; None if the rule does not average."""
        return {At.LAST: 1, At.LAST_5_AVG: 5, At.LAST_10_AVG: 10, At.AVG: _ALL}.get(self)

    @property
    def meaning(self) -> str:
        """The rule in a few words."""
        return _MEANINGS[self]


_ALL: Final = 2**31
_MEANINGS: Final[Mapping[At, str]] = {
    At.FINAL: "the parameters that training ended with, played again",
    At.LAST: "the last evaluation",
    At.LAST_5_AVG: "the mean of the last 5 evaluations",
    At.LAST_10_AVG: "the mean of the last 10 evaluations",
    At.AVG: "the mean of all evaluations",
    At.BEST: "the best evaluation's parameters, played again",
    At.BEST_PER_SEED: "each seed's best evaluation, the rule of sweeps before schema version 6",
}
RULES: Final = tuple(at.value for at in At if at is not At.BEST_PER_SEED)
"""The rules that can be requested."""


@dataclass(frozen=True)
class Objective:
    """The metric that a sweep optimises, its direction (`max` or `min`), and how several seeds become one number.

    Attributes:
      others: further metrics to optimise, each with its direction, as (metric, mode).
      constraints: bounds by `min_<metric>` and `max_<metric>`; a trial that satisfies all of them is feasible.
      at: which numbers of a trial it is judged by, one of `At`.
    """

    metric: str
    mode: Mode
    aggregate: Annotated[str, Meta(pattern=f"^({'|'.join(Aggregate)})$")] = Aggregate.MEAN.value
    others: tuple[tuple[str, Mode], ...] = ()
    constraints: Mapping[str, int | float] = field(default_factory=dict)
    at: Annotated[str, Meta(pattern=f"^({'|'.join(At)})$")] = At.FINAL.value

    @property
    def metrics(self) -> tuple[str, ...]:
        """Every metric that is optimised, the first objective first."""
        return (self.metric, *(metric for metric, _ in self.others))

    @property
    def modes(self) -> tuple[str, ...]:
        """The direction of each of `metrics`."""
        return (self.mode, *(mode for _, mode in self.others))

    @property
    def sign(self) -> float:
        """1 if larger values of the first metric are better, -1 if smaller ones are."""
        return 1.0 if self.mode == "max" else -1.0


def bound_metric(name: str) -> str:
    """Return the metric of a constraint: `min_cooperation_rate` bounds `cooperation_rate`."""
    return name[4:]


def violations(objective: Objective, values: Mapping[str, float | None]) -> list[float]:
    """Return by how much a trial's metrics violate each constraint: 0 or less if satisfied, infinite if unknown."""
    missed = []
    for name, bound in objective.constraints.items():
        value = values.get(bound_metric(name))
        if value is None or not math.isfinite(value):
            missed.append(math.inf)
        else:
            missed.append(bound - value if name.startswith("min_") else value - bound)
    return missed


def feasible(objective: Objective, values: Mapping[str, float | None]) -> bool:
    """Return whether a trial's metrics satisfy every constraint."""
    return all(missed <= 0 for missed in violations(objective, values))


def pareto_front(points: Sequence[Sequence[float]], modes: Sequence[str]) -> list[bool]:
    """Return which points are not dominated: no other is at least as good in every objective and better in one.

    Args:
      points: a row of numbers per point, one per objective.
      modes: `max` or `min`, one per objective.

    Returns:
      One flag per point; points with equal numbers are all on the front, or none is.
    """
    signs = [1.0 if mode == "max" else -1.0 for mode in modes]
    gains = [[sign * value for sign, value in zip(signs, point, strict=True)] for point in points]

    def dominates(one: list[float], other: list[float]) -> bool:
        return one != other and all(a >= b for a, b in zip(one, other, strict=True))

    return [not any(dominates(other, one) for other in gains) for one in gains]


__all__ = ["MODES", "RULES", "At", "Objective", "bound_metric", "feasible", "pareto_front", "violations"]
