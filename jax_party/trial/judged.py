"""What a trial is judged by, from its record and the rows of its metrics; and the contender that it counts for."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from jax_party.judging import replicates
from jax_party.judging.scores import Judgement, judge
from jax_party.judging.settling import end_of
from jax_party.judging.standings import Candidate
from jax_party.trial.identity import configuration_id
from jax_party.trial.record import TrialRecord


def judge_trial(record: TrialRecord, rows: Iterable[Mapping[str, Any]]) -> Judgement | None:
    """Return what a trial is judged by, according to its objective; None if the objective has not been measured.

    Args:
      record: of the trial.
      rows: of its metrics.jsonl.
    """
    return judge(record.objective, record.num_seeds, rows)


def contender_of(record: TrialRecord) -> str:
    """Return the contender that a trial counts for (`judging.replicates.contender`)."""
    return replicates.contender(configuration_id(record), record.trial_id, bool(record.lineage))


def candidate_of(record: TrialRecord, rows: Sequence[Mapping[str, Any]]) -> Candidate:
    """Return a trial as a candidate for ranking; without seeds if its objective has not been measured.

    Args:
      record: of the trial.
      rows: of its metrics.jsonl.
    """
    found = judge_trial(record, rows)
    trend, settled = end_of(rows, record.num_seeds, record.objective)
    return Candidate(
        trial_id=record.trial_id,
        number=record.number,
        algorithm=record.algorithm,
        scenario=record.scenario,
        configuration=contender_of(record),
        state=record.state.value,
        first_seed=record.seed,
        of_seeds=() if found is None else found.of_seeds,
        settled=settled,
        trend=trend,
    )


def hyperparameters_at(record: TrialRecord, step: int | None) -> Mapping[str, Any]:
    """Return the hyperparameters in force after `step` environment steps; for None, the current ones."""
    if step is not None:
        for takeover in record.lineage:
            if takeover.step >= step:
                return takeover.hyperparameters
    return record.hyperparameters


def judged_hyperparameters(record: TrialRecord, rows: Iterable[Mapping[str, Any]]) -> Mapping[str, Any]:
    """Return the hyperparameters that gave the trial its score: a population changes them during training.

    Args:
      record: of the trial.
      rows: of its metrics.jsonl.
    """
    if not record.lineage:
        return record.hyperparameters
    found = judge_trial(record, rows)
    return hyperparameters_at(record, None if found is None else found.step)
