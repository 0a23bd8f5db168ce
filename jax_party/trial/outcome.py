"""How well a trial did, read from its folder: its score, its evaluations, its seeds."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from jax_party.judging.objectives import At, Objective, bound_metric
from jax_party.judging.scores import UNTRAINED, evaluations_by_step, objective_of
from jax_party.judging.standings import Candidate
from jax_party.trial.folder import read_record
from jax_party.trial.judged import candidate_of, judge_trial, judged_hyperparameters
from jax_party.trial.metrics import read_metrics
from jax_party.trial.record import TrialRecord
from jax_party.trial.states import State


@dataclass(frozen=True)
class Evaluation:
    """The objective after `step` environment steps; `untrained` if the networks had not been trained yet."""

    step: int
    value: float
    untrained: bool = False


def evaluations(folder: Path, record: TrialRecord) -> list[Evaluation]:
    """Return the evaluations after step 0 that have a number for the objective, in order, with seeds aggregated."""
    found = []
    for step, rows in evaluations_by_step(read_metrics(folder), record.num_seeds).items():
        value = objective_of([row.get("evaluate") or {} for row in rows], record.objective)
        if value is not None and step > 0:
            found.append(Evaluation(int(step), value, any(bool(row.get(UNTRAINED)) for row in rows)))
    return found


def seed_scores(folder: Path, record: TrialRecord) -> list[float]:
    """Return the objective of each seed, in the order of the seeds; empty if the trial cannot be judged."""
    found = judge_trial(record, read_metrics(folder))
    return [] if found is None else found.values(record.objective.metric)


def metrics(folder: Path, record: TrialRecord) -> Mapping[str, float | None]:
    """Return the metrics that the trial is judged by, with seeds aggregated; empty if it cannot be judged."""
    found = judge_trial(record, read_metrics(folder))
    return {} if found is None else found.metrics


def candidate(folder: Path, record: TrialRecord) -> Candidate:
    """Return the trial in the form in which it is ranked."""
    return candidate_of(record, read_metrics(folder))


def hyperparameters(folder: Path, record: TrialRecord) -> Mapping[str, Any]:
    """Return the hyperparameters that gave the trial its score; in a population they change during training."""
    return judged_hyperparameters(record, read_metrics(folder) if record.lineage else ())


def score(folder: Path, record: TrialRecord) -> float | None:
    """Return the trial's score; None if it has failed or has no score."""
    if record.state is State.FAILED:
        return None
    return metrics(folder, record).get(record.objective.metric)


def score_in(folder: Path) -> float:
    """Return the score of the trial in `folder`; NaN if it has failed or has no score.

    Raises:
      RecordError: its record or its metrics cannot be read.
    """
    value = score(folder, read_record(folder))
    return math.nan if value is None else value


def complete_candidate(folder: Path, record: TrialRecord) -> Candidate | None:
    """Return a COMPLETE trial of the search with only the metrics that ranking needs; None for any other trial."""
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
    """Return the trial's score so far, the objective at its last evaluation, and its `complete_candidate`."""
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
    """Return the score if the record alone contains it, which is so for rules that judge a trial's final episodes."""
    objective = record.objective
    measured = record.final_metrics if objective.at == At.FINAL else record.absolute_metrics
    return (measured or {}).get(objective.metric) if At(objective.at).averaged is None else None


def better(value: float, than: float, objective: Objective) -> bool:
    """Return whether one score is better than another."""
    return value > than if objective.mode == "max" else value < than


__all__ = [
    "Evaluation", "better", "candidate", "complete_candidate", "evaluations", "hyperparameters", "metrics",
    "quick_score", "score", "score_in", "seed_scores", "so_far",
]  # fmt: skip
