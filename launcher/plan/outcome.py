"""What a trial folder says about how well the trial went."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from jax_party.judging.objectives import At, Objective, bound_metric
from jax_party.judging.scores import UNTRAINED, evaluations_by_step, objective_of
from jax_party.judging.standings import Candidate
from jax_party.trial.judged import candidate_of, judge_trial, judged_hyperparameters
from jax_party.trial.metrics import read_metrics
from jax_party.trial.record import TrialRecord
from jax_party.trial.states import State


@dataclass(frozen=True)
class Evaluation:
    """The objective after `step` environment steps; `untrained`: of networks that nothing was learned with."""

    step: int
    value: float
    untrained: bool = False


def evaluations(folder: Path, record: TrialRecord) -> list[Evaluation]:
    """The evaluations after each training period that have a number for the objective, in order, seeds aggregated."""
    found = []
    for step, rows in evaluations_by_step(read_metrics(folder), record.num_seeds).items():
        value = objective_of([row.get("evaluate") or {} for row in rows], record.objective)
        if value is not None and step > 0:
            found.append(Evaluation(int(step), value, any(bool(row.get(UNTRAINED)) for row in rows)))
    return found


def seed_scores(folder: Path, record: TrialRecord) -> list[float]:
    """The objective of each seed, in their order; empty where some seed has none."""
    found = judge_trial(record, read_metrics(folder))
    return [] if found is None else found.values(record.objective.metric)


def metrics(folder: Path, record: TrialRecord) -> Mapping[str, float | None]:
    """What the trial is judged by: metric -> number, seeds aggregated; empty where it has nothing."""
    found = judge_trial(record, read_metrics(folder))
    return {} if found is None else found.metrics


def candidate(folder: Path, record: TrialRecord) -> Candidate:
    """The trial as it is ranked."""
    return candidate_of(record, read_metrics(folder))


def hyperparameters(folder: Path, record: TrialRecord) -> Mapping[str, Any]:
    """The values that gave the trial its score; those of a population's trial change while it trains."""
    return judged_hyperparameters(record, read_metrics(folder) if record.lineage else ())


def score(folder: Path, record: TrialRecord) -> float | None:
    """What the trial is judged by; None where it has failed, or has nothing."""
    if record.state is State.FAILED:
        return None
    return metrics(folder, record).get(record.objective.metric)


def complete_candidate(folder: Path, record: TrialRecord) -> Candidate | None:
    """A COMPLETE trial of the search as it is ranked, with no more metrics than that takes; None of any other trial."""
    return _complete_candidate(record, read_metrics(folder)) if _is_candidate(record) else None


def _is_candidate(record: TrialRecord) -> bool:
    return record.state is State.COMPLETE and record.promoted_from is None


def _complete_candidate(record: TrialRecord, rows: Sequence[Mapping[str, Any]]) -> Candidate:
    found = candidate_of(record, rows)
    return replace(found, of_seeds=[_ranked_by(one, record.objective) for one in found.of_seeds])


def _ranked_by(metrics: Mapping[str, float | None], objective: Objective) -> dict[str, float | None]:
    names = [*objective.metrics, *map(bound_metric, objective.constraints)]
    return {name: metrics.get(name) for name in names}


def so_far(folder: Path, record: TrialRecord) -> tuple[float | None, float | None, Candidate | None]:
    """What the trial is judged by so far, the objective at its last evaluation, and `complete_candidate`."""
    if not record.attempts and not record.env_steps:
        return None, None, None
    rows = read_metrics(folder)
    found = judge_trial(record, rows)
    values = [
        objective_of([row.get("evaluate") or {} for row in of_seeds], record.objective)
        for of_seeds in list(evaluations_by_step(rows, record.num_seeds).values())[-1:]
    ]
    judged = None if found is None or record.state is State.FAILED else found.metrics.get(record.objective.metric)
    ranked = _complete_candidate(record, rows) if _is_candidate(record) else None
    return judged, values[0] if values else None, ranked


def quick_score(record: TrialRecord) -> float | None:
    """The score where the record alone tells it: of the episodes that a trial ends with."""
    objective = record.objective
    measured = record.final_metrics if objective.at == At.FINAL else record.absolute_metrics
    return (measured or {}).get(objective.metric) if At(objective.at).averaged is None else None


def better(value: float, than: float, objective: Objective) -> bool:
    """Whether a score beats another."""
    return value > than if objective.mode == "max" else value < than


__all__ = [
    "Evaluation", "better", "candidate", "complete_candidate", "evaluations", "hyperparameters", "metrics",
    "quick_score", "score", "seed_scores", "so_far",
]  # fmt: skip
