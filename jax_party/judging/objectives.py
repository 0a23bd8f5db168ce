"""What a sweep looks for: an objective or several, how seeds become one number, and what a trial must keep to."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, TypeGuard

from jax_party.judging.aggregate import Aggregate, aggregate

MODES: Final = ("max", "min")


@dataclass(frozen=True)
class Objective:
    """The metric that a sweep optimises, its direction (`max` or `min`), and how several seeds become one number.

    Attributes:
      others: further metrics to be optimised, each with its direction, as (metric, mode).
      constraints: bounds by `min_<metric>` and `max_<metric>`; a trial that keeps to all of them is feasible.
    """

    metric: str
    mode: str
    aggregate: str = Aggregate.MEAN.value
    others: tuple[tuple[str, str], ...] = ()
    constraints: Mapping[str, float] = field(default_factory=dict)

    @property
    def metrics(self) -> tuple[str, ...]:
        """Every metric that is optimised, the first one first."""
        return (self.metric, *(metric for metric, _ in self.others))

    @property
    def modes(self) -> tuple[str, ...]:
        """The direction of each of `metrics`."""
        return (self.mode, *(mode for _, mode in self.others))


def bound_metric(name: str) -> str:
    """The metric of a constraint: `min_cooperation_rate` bounds `cooperation_rate`."""
    return name[4:]


def violations(objective: Objective, values: Mapping[str, float | None]) -> list[float]:
    """By how much a trial's metrics miss each constraint; 0 or less where they keep to it, infinite where unknown."""
    missed = []
    for name, bound in objective.constraints.items():
        value = values.get(bound_metric(name))
        if value is None or not math.isfinite(value):
            missed.append(math.inf)
        else:
            missed.append(bound - value if name.startswith("min_") else value - bound)
    return missed


def feasible(objective: Objective, values: Mapping[str, float | None]) -> bool:
    """Whether a trial's metrics keep to every constraint."""
    return all(missed <= 0 for missed in violations(objective, values))


def best_step(evaluations: Mapping[int, Sequence[Mapping[str, Any]]], objective: Objective) -> int | None:
    """The step at which the first objective was best, seeds aggregated.

    Args:
      evaluations: step -> metric -> number, of each seed.
      objective: what is best.

    Returns:
      The earliest of equals; None where no step has a finite number for every seed.
    """
    sign = 1.0 if objective.mode == "max" else -1.0
    measured = {}
    for step, of_seeds in evaluations.items():
        values = [metrics.get(objective.metric) for metrics in of_seeds]
        numbers = [float(value) for value in values if _is_finite(value)]
        if numbers and len(numbers) == len(values):
            measured[step] = sign * aggregate(numbers, objective.aggregate)
    return max(measured, key=measured.__getitem__) if measured else None


def _is_finite(value: Any) -> TypeGuard[float]:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def pareto_front(points: Sequence[Sequence[float]], modes: Sequence[str]) -> list[bool]:
    """Which points no other is better than: at least as good in every objective and better in one.

    Args:
      points: a row of numbers each, one an objective.
      modes: `max` or `min`, one an objective.

    Returns:
      A flag for each point; points with equal numbers are all on the front, or none is.
    """
    signs = [1.0 if mode == "max" else -1.0 for mode in modes]
    gains = [[sign * value for sign, value in zip(signs, point, strict=True)] for point in points]

    def dominates(one: list[float], other: list[float]) -> bool:
        return one != other and all(a >= b for a, b in zip(one, other, strict=True))

    return [not any(dominates(other, one) for other in gains) for one in gains]


__all__ = ["MODES", "Objective", "best_step", "bound_metric", "feasible", "pareto_front", "violations"]
