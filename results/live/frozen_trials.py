"""Our trials as Optuna's frozen trials."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from datetime import datetime
from statistics import fmean
from typing import Any, Final

from optuna.trial import FrozenTrial, TrialState

from jax_party.judging import standings
from jax_party.judging.aggregate import aggregate_metrics
from jax_party.judging.objectives import Objective, bound_metric, violations
from jax_party.judging.replicates import contender
from jax_party.judging.standings import Candidate, Standing
from jax_party.trial.identity import configuration_id
from jax_party.trial.manifest import SweepManifest
from jax_party.trial.states import FINISHED, State
from results.analysis.space import parameters
from results.live.following import FollowedTrial

STATES: Final[Mapping[State, TrialState]] = {
    State.PENDING: TrialState.WAITING,
    State.RUNNING: TrialState.RUNNING,
    State.COMPLETE: TrialState.COMPLETE,
    State.FAILED: TrialState.FAIL,
    State.PRUNED: TrialState.PRUNED,
}
SETTLED: Final = (TrialState.COMPLETE, TrialState.PRUNED)
CONSTRAINTS: Final = "constraints"  # the key that Optuna's samplers use
OF_SEEDS: Final = "of_seeds"
MISSED: Final = 1e9


def begun_again(there: FrozenTrial, wanted: FrozenTrial) -> bool:
    """Return whether a failed trial was started again; Optuna cannot change a trial that has ended."""
    return there.state is TrialState.FAIL and wanted.state is not TrialState.FAIL


def frozen_trial(manifest: SweepManifest | None, trial: FollowedTrial) -> FrozenTrial:
    """Return a trial in Optuna's terms. A complete trial that lacks a number for some objective counts as failed."""
    record = trial.record
    score = _score(trial) if record.state in (State.COMPLETE, State.PRUNED) else None
    state = STATES[record.state]
    if state is TrialState.COMPLETE and score is None:
        state = TrialState.FAIL
    found = parameters(manifest, record.algorithm, record.scenario, trial.hyperparameters)
    return FrozenTrial(
        number=0,
        trial_id=0,
        state=state,
        value=None,
        values=score,
        datetime_start=None if state is TrialState.WAITING else _moment(record.started_at),
        datetime_complete=_moment(record.ended_at or record.started_at) if record.state in FINISHED else None,
        params=found.params,
        distributions=found.distributions,
        user_attrs=_facts(trial) | found.others,
        system_attrs=_constraints(trial),
        intermediate_values=trial.reached,
    )


def _score(trial: FollowedTrial) -> list[float] | None:
    """Return the trial's value for each of the sweep's objectives; None if any is missing."""
    objective = trial.record.objective
    metrics = aggregate_metrics(trial.candidate.of_seeds, objective.aggregate) if trial.candidate.of_seeds else {}
    found = [value for name in objective.metrics if (value := metrics.get(name)) is not None]
    return found if len(found) == len(objective.metrics) else None


def is_ranked(trial: FrozenTrial) -> bool:
    """Return whether the journal holds what the trial is judged by; journals of earlier versions do not."""
    return OF_SEEDS in trial.user_attrs and "number" in trial.user_attrs


def candidate_of_trial(trial: FrozenTrial) -> Candidate:
    """Return a trial of the journal as `judging.standings` ranks it."""
    facts = trial.user_attrs
    states = {theirs: ours.value for ours, theirs in STATES.items()}
    return Candidate(
        trial_id=facts["trial_id"],
        number=facts["number"],
        algorithm=facts["algorithm"],
        scenario=facts["scenario"],
        configuration=contender(facts["configuration"], facts["trial_id"], bool(facts.get("has_lineage"))),
        state=states[trial.state],
        first_seed=facts["seed"],
        of_seeds=facts[OF_SEEDS],
        settled=facts.get("settled"),
    )


def placed(trial: FrozenTrial, standing: Standing | None, objective: Objective, whole: bool) -> FrozenTrial:
    """Return a finished trial with its configuration's values, and with an extra constraint that excludes trials that
    had not settled from winning; the same object if nothing changes.

    Args:
      trial: a trial of the journal.
      standing: its configuration's standing, if it is ranked.
      objective: the sweep's objective.
      whole: whether some feasible configuration of the study is not provisional, so that provisional ones cannot win.
    """
    if standing is None or trial.state is not TrialState.COMPLETE:
        return trial
    values = [float(standing.metrics[name] or 0.0) for name in objective.metrics]
    missed = [min(one, MISSED) for one in violations(objective, standing.metrics)]
    if standings.judges_the_end(objective.at):
        missed.append(float(standing.feasible and (standing.provisional if whole else not standing.eligible)))
    wanted = {CONSTRAINTS: missed} if missed else {}
    if trial.values == values and trial.system_attrs.get(CONSTRAINTS) == wanted.get(CONSTRAINTS):
        return trial
    placed = copy.copy(trial)
    placed.values = values
    placed._system_attrs = {**trial.system_attrs, **wanted}
    return placed


def mean_trial(parts: Sequence[FrozenTrial], objective: Objective, standing: Standing) -> FrozenTrial:
    """Return a configuration's trials as one: intermediate values averaged over scenarios, values by its standing."""
    first = parts[0]
    steps = set.intersection(*(set(trial.intermediate_values) for trial in parts))
    pruned = any(trial.state is TrialState.PRUNED for trial in parts)
    facts = {name: first.user_attrs[name] for name in ("algorithm", "configuration", "seed", "trial_id")}
    facts["trials"] = [trial.user_attrs["trial_id"] for trial in parts]
    facts["folders"] = [trial.user_attrs["folder"] for trial in parts]
    return FrozenTrial(
        number=0,
        trial_id=0,
        state=TrialState.PRUNED if pruned else TrialState.COMPLETE,
        value=None,
        values=[float(standing.metrics[name] or 0.0) for name in objective.metrics],
        datetime_start=min((trial.datetime_start for trial in parts if trial.datetime_start), default=None),
        datetime_complete=max((trial.datetime_complete for trial in parts if trial.datetime_complete), default=None),
        params=first.params,
        distributions=first.distributions,
        user_attrs=facts,
        system_attrs={},
        intermediate_values={step: fmean(trial.intermediate_values[step] for trial in parts) for step in sorted(steps)},
    )


def _facts(trial: FollowedTrial) -> dict[str, Any]:
    record = trial.record
    facts = {
        "trial_id": record.trial_id,
        "number": record.number,
        "algorithm": record.algorithm,
        "scenario": record.scenario,
        "configuration": configuration_id(record),
        "seed": record.seed,
        "num_seeds": record.num_seeds if record.num_seeds > 1 else None,
        "vaults": [entry.uid for entry in record.vaults] or None,
        "folder": trial.folder,
        "promoted_from": record.promoted_from,
        "error": record.error,
        "steps_per_second": record.steps_per_second if record.state in FINISHED else None,
        OF_SEEDS: _seed_metrics(trial) if record.state in (State.COMPLETE, State.PRUNED) else None,
        "settled": trial.candidate.settled if record.state in FINISHED else None,
        "judged_at": record.objective.at,
        "has_lineage": True if record.lineage else None,
    }
    return {name: value for name, value in facts.items() if value is not None}


def _seed_metrics(trial: FollowedTrial) -> list[dict[str, float | None]] | None:
    """Return the values of the objectives and of the constraints' metrics, for each seed."""
    objective = trial.record.objective
    names = [*objective.metrics, *map(bound_metric, objective.constraints)]
    return [{name: one.get(name) for name in names} for one in trial.candidate.of_seeds] or None


def _constraints(trial: FollowedTrial) -> dict[str, Any]:
    """Return by how much the trial violates each constraint, under the key that Optuna reads."""
    record = trial.record
    if not record.objective.constraints or record.state not in (State.COMPLETE, State.PRUNED):
        return {}
    of_seeds = trial.candidate.of_seeds
    metrics = aggregate_metrics(of_seeds, record.objective.aggregate) if of_seeds else {}
    missed = violations(record.objective, metrics)
    return {CONSTRAINTS: missed} if all(map(math.isfinite, missed)) else {}


def _moment(text: str | None) -> datetime:
    return datetime.fromisoformat(text) if text else datetime.now().astimezone()
