"""What a trial folder says about how well the trial went."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard

from jax_party import records
from jax_party.judging.aggregate import aggregate
from jax_party.records import Objective, State, TrialRecord


@dataclass(frozen=True)
class Evaluation:
    """The objective after `step` environment steps; `untrained`: of networks that nothing was learned with."""

    step: int
    value: float
    untrained: bool = False


def evaluations(folder: Path, record: TrialRecord) -> list[Evaluation]:
    """The recorded evaluations of a trial that have a number for its objective, in order, seeds aggregated."""
    objective = record.objective
    by_step = records.evaluations_by_step(records.read_metrics(folder), record.num_seeds)
    found = []
    for step, rows in by_step.items():
        values = [row.get("evaluate", {}).get(objective.metric) for row in rows]
        if all(map(is_number, values)):
            value = aggregate([float(value) for value in values], objective.aggregate)
            found.append(Evaluation(int(step), value, any(row.get("untrained") for row in rows)))
    return found


def seed_scores(folder: Path, record: TrialRecord) -> list[float]:
    """The objective of each seed, in their order; empty where some seed has none."""
    return records.seed_values(record, records.read_metrics(folder))


def score(folder: Path, record: TrialRecord) -> float | None:
    """The trial's score: the absolute metric where there is one, else its best evaluation; None for a failed trial."""
    if record.state is State.FAILED:
        return None
    absolute = (record.absolute_metrics or {}).get(record.objective.metric)
    if is_number(absolute):
        return float(absolute)
    return best(judged(evaluations(folder, record)), record.objective)


def metrics(folder: Path, record: TrialRecord) -> dict[str, float | None]:
    """What the trial is judged by: metric -> number, seeds aggregated; empty where it has nothing."""
    return records.score_metrics(record, records.read_metrics(folder))


def hyperparameters(folder: Path, record: TrialRecord) -> Mapping[str, Any]:
    """The values that gave the trial its score: of a population's, which change, those of its best evaluation."""
    return records.judged_hyperparameters(record, records.read_metrics(folder) if record.lineage else ())


def judged(evaluations: Iterable[Evaluation]) -> list[float]:
    """The values that a trial may be judged by."""
    return [one.value for one in evaluations if not one.untrained]


def best(values: list[float], objective: Objective) -> float | None:
    """The largest or smallest, as the objective wants it; None where there is none."""
    if not values:
        return None
    return max(values) if objective.mode == "max" else min(values)


def better(value: float, than: float, objective: Objective) -> bool:
    """Whether a score beats another."""
    return value > than if objective.mode == "max" else value < than


def is_number(value: Any) -> TypeGuard[float]:
    """A finite number."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
