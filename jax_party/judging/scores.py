"""The numbers that a trial is judged by, taken from its evaluations by its objective's rule.

Evaluations come as the rows of metrics.jsonl: mappings with `step`, `seed`, `evaluate` (metric -> mean over episodes)
and `se` (metric -> the standard error of that mean). Flags distinguish other rows from evaluations during training:
`untrained` (networks before any training), `final` (the parameters that training ended with, played on the absolute
metric's episodes) and `absolute` (the best evaluation's parameters, played on the same number of episodes).
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeGuard

from jax_party.judging.aggregate import aggregate, aggregate_metrics
from jax_party.judging.objectives import At, Objective

Row = Mapping[str, Any]
Metrics = Mapping[str, float | None]

FINAL: Final = "final"
ABSOLUTE: Final = "absolute"
UNTRAINED: Final = "untrained"
EXTRA: Final = (FINAL, ABSOLUTE)
"""Flags of rows that are not evaluations during training."""


@dataclass(frozen=True)
class Judgement:
    """The numbers that a trial is judged by.

    Attributes:
      step: environment steps that the judged parameters were trained for; for an average, the last of its evaluations.
      source: `final`, `absolute`, `evaluation` or `average`: where the numbers are from.
      of_seeds: the metrics of each seed, in the order of seeds.
      metrics: the same, with seeds aggregated as the objective says.
      se: the standard error of the first objective due to the number of episodes; None if unknown. Exact for a mean
        over seeds, and also used for the other aggregates.
    """

    step: int
    source: str
    of_seeds: tuple[Metrics, ...]
    metrics: Metrics
    se: float | None

    def values(self, metric: str) -> list[float]:
        """Return a metric of each seed; empty if any seed has no finite number."""
        found = [value for one in self.of_seeds if is_number(value := one.get(metric))]
        return found if len(found) == len(self.of_seeds) else []


def is_number(value: Any) -> TypeGuard[float]:
    """Return whether `value` is a finite number."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def ends_a_period(row: Row) -> bool:
    """Return whether a row is an evaluation after a training period."""
    return row["step"] > 0 and not any(row.get(flag) for flag in EXTRA)


def evaluations_by_step(rows: Iterable[Row], num_seeds: int) -> dict[int, list[Row]]:
    """Return the evaluations among the rows: step -> its rows, one per seed; complete steps only, in order."""
    of_step: dict[int, list[Row]] = {}
    for row in rows:
        if not any(row.get(flag) for flag in EXTRA):
            of_step.setdefault(row["step"], []).append(row)
    return {step: of_seeds for step, of_seeds in of_step.items() if len(of_seeds) == num_seeds}


def trained_evaluations(rows: Iterable[Row], num_seeds: int) -> dict[int, list[Row]]:
    """Return the evaluations that a trial may be judged by: those of trained networks."""
    by_step = evaluations_by_step(rows, num_seeds)
    return {step: of_seeds for step, of_seeds in by_step.items() if not any(row.get(UNTRAINED) for row in of_seeds)}


def best_step(evaluations: Mapping[int, Sequence[Row]], objective: Objective) -> int | None:
    """Return the step at which the first objective was best, seeds aggregated.

    Args:
      evaluations: step -> its rows, one per seed.
      objective: what is best.

    Returns:
      The earliest of equal steps; None if no step has a finite number for every seed.
    """
    measured = {}
    for step, of_seeds in evaluations.items():
        value = objective_of([row.get("evaluate") or {} for row in of_seeds], objective)
        if value is not None:
            measured[step] = objective.sign * value
    return max(measured, key=measured.__getitem__) if measured else None


def objective_of(of_seeds: Sequence[Mapping[str, Any]], objective: Objective) -> float | None:
    """Return the first objective, seeds aggregated; None if any seed has no finite number."""
    values = [metrics.get(objective.metric) for metrics in of_seeds]
    numbers = [float(value) for value in values if is_number(value)]
    return aggregate(numbers, objective.aggregate) if numbers and len(numbers) == len(values) else None


def judge(objective: Objective, num_seeds: int, rows: Iterable[Row]) -> Judgement | None:
    """Return the numbers that a trial is judged by; None if its objective was never measured on trained networks.

    If the rule asks for episodes that were not played (the trial has not ended, was stopped early, or does not measure
    the absolute metric), or that gave no finite number, the evaluation of the same parameters replaces them.

    Args:
      objective: holds the rule.
      num_seeds: the number of the trial's seeds.
      rows: those of its metrics.jsonl.
    """
    rows = list(rows)
    trained = trained_evaluations(rows, num_seeds)
    at = At(objective.at)
    if at is At.FINAL and (final := _played(rows, FINAL, num_seeds, objective)):
        return _judgement(objective, int(final[0]["step"]), FINAL, final)
    if at is At.FINAL or at.averaged is not None:
        steps = list(trained)[-(at.averaged or 1) :]
        return _average(objective, {step: trained[step] for step in steps}) if steps else None
    best = best_step(trained, objective)
    if absolute := _played(rows, ABSOLUTE, num_seeds, objective):
        return _judgement(objective, int(absolute[0]["step"]) if best is None else best, ABSOLUTE, absolute)
    return None if best is None else _judgement(objective, best, "evaluation", trained[best])


def _played(rows: Sequence[Row], flag: str, num_seeds: int, objective: Objective) -> list[Row]:
    """Return the rows with a flag, one per seed; none if one is missing, or lacks a finite number for the objective."""
    found = [row for row in rows if row.get(flag)]
    measured = objective_of([row.get("evaluate") or {} for row in found], objective)
    return found if len(found) == num_seeds and measured is not None else []


def _judgement(objective: Objective, step: int, source: str, of_seeds: Sequence[Row]) -> Judgement:
    ordered = sorted(of_seeds, key=lambda row: row.get("seed", 0))
    metrics = tuple(_numbers(row.get("evaluate")) for row in ordered)
    return Judgement(
        step, source, metrics, aggregate_metrics(metrics, objective.aggregate), standard_error(ordered, objective)
    )


def _average(objective: Objective, evaluations: Mapping[int, Sequence[Row]]) -> Judgement:
    """Return the mean of several evaluations, metric by metric; a single evaluation is returned as it is."""
    judged = [_judgement(objective, step, "evaluation", of_seeds) for step, of_seeds in evaluations.items()]
    if len(judged) == 1:
        return judged[0]
    of_seeds = tuple(
        {name: _mean([metrics.get(name) for metrics in of_seed]) for name in of_seed[-1]}
        for of_seed in zip(*(one.of_seeds for one in judged), strict=True)
    )
    errors = [one.se for one in judged if one.se is not None]
    se = math.sqrt(math.fsum(error**2 for error in errors)) / len(errors) if len(errors) == len(judged) else None
    return Judgement(judged[-1].step, "average", of_seeds, aggregate_metrics(of_seeds, objective.aggregate), se)


def _mean(values: Sequence[float | None]) -> float | None:
    numbers = [value for value in values if value is not None]
    return statistics.fmean(numbers) if len(numbers) == len(values) else None


def _numbers(metrics: Any) -> dict[str, float | None]:
    """Return the metrics that are numbers or missing; lists and mappings are left out."""
    return {
        name: float(value) if is_number(value) else None
        for name, value in (metrics or {}).items()
        if value is None or isinstance(value, (int, float))
    }


def standard_error(of_seeds: Sequence[Row], objective: Objective) -> float | None:
    """Return the standard error of an evaluation's mean over seeds that is due to its number of episodes.

    `sqrt(Σ_s se_s²) / S`, with the standard error of each seed's mean over episodes, `sd / sqrt(K)`.
    """
    errors = [(row.get("se") or {}).get(objective.metric) for row in of_seeds]
    known = [float(error) for error in errors if is_number(error)]
    if not known or len(known) < len(errors):
        return None
    return math.sqrt(math.fsum(error**2 for error in known)) / len(known)


__all__ = [
    "Judgement",
    "best_step",
    "ends_a_period",
    "evaluations_by_step",
    "is_number",
    "judge",
    "objective_of",
    "standard_error",
    "trained_evaluations",
]
