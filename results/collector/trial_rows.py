"""A trial's row of the index, made from the contents of its folder; `index_columns` gives each column's type."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import msgspec

from jax_party.errors import RecordError
from jax_party.judging.aggregate import aggregate, aggregate_metrics, spread
from jax_party.judging.intervals import interval
from jax_party.judging.objectives import bound_metric, feasible
from jax_party.judging.scores import Judgement, best_step, trained_evaluations
from jax_party.judging.settling import end_of
from jax_party.store.storage import store_of
from jax_party.trial.draws import Draws
from jax_party.trial.folder import read_record
from jax_party.trial.identity import configuration_id
from jax_party.trial.judged import hyperparameters_at, judge_trial
from jax_party.trial.manifest import SweepManifest
from jax_party.trial.metrics import METRICS_FILE
from jax_party.trial.record import TrialRecord
from jax_party.trial.states import State
from results.collector import configs, metrics_lines
from results.collector.index_columns import COPIED_COLUMNS, FIXED_COLUMNS
from results.collector.packing import INT64_RANGE
from results.collector.rows import Evaluation, IndexRow

_log = logging.getLogger(__name__)


def read_trial(sweep_folder: Path, manifest: SweepManifest | None, name: str) -> IndexRow:
    """Return the row of the trial in the folder of that name; `.` is a single run's own folder."""
    place = PurePosixPath(name)
    trial = sweep_folder if name == "." else sweep_folder / name
    record: TrialRecord | None = None
    try:
        record = read_record(trial)
        row = _trial_row(record, place, configs.read_leaves(trial), *metrics_lines.read(trial, place, record.seed))
        _check_cells(row)
    except (RecordError, ValueError, RecursionError) as error:
        # Leave the sweep's path out of the message, so that a sweep that was moved still gives the same bytes.
        reason = " ".join(str(error).split()).replace(f"{sweep_folder}/", "")
        _log.warning("%s: a row with state FAILED: %s", sweep_folder, reason)
        holds = isinstance(error, RecordError)  # otherwise the record may hold values that no table can
        return unreadable_row(trial, record if holds else None, place, manifest, reason)
    return row


def _check_cells(row: IndexRow) -> None:
    """Refuse values that tables cannot hold: one such trial would break the whole index."""
    for name, value in row.fixed.items():
        if FIXED_COLUMNS[name] == "Int64" and value is not None and value not in INT64_RANGE:
            raise ValueError(f"{name}: {value} has more than 64 bits; correct the record")
    for one in row.evaluations:
        if one.seed not in INT64_RANGE or one.step not in INT64_RANGE:
            raise RecordError(f"{METRICS_FILE}: step {one.step}: more than 64 bits; remove the line")
    with contextlib.suppress(OverflowError):  # large integers among hyperparameters become text
        msgspec.json.encode((row.fixed, row.hyperparameters, row.metrics, row.config))


def _trial_row(
    record: TrialRecord,
    place: PurePosixPath,
    leaves: Mapping[str, Any],
    evaluations: Sequence[Evaluation],
    rows: Sequence[Mapping[str, Any]],
) -> IndexRow:
    objective = record.objective
    how = objective.aggregate
    of_steps = _by_step(evaluations, record.num_seeds)
    trained = trained_evaluations(rows, record.num_seeds)
    best = best_step(trained, objective)
    judged = None if record.state is State.FAILED else judge_trial(record, rows)
    trend, settled = end_of(rows, record.num_seeds, objective)
    fixed = _fixed_values(record, place) | {
        "evaluations": sum(step > 0 for step in of_steps),
        "best_step": best,
        **_objective_values(record, judged),
        "settled": settled,
    }
    if trend is not None:
        fixed |= {
            "trend": trend.change,
            "trend.se": trend.se,
            "motion": None if trend.motion is None else trend.motion.value,
            "enough_steps": trend.enough_steps,
        }
    sources = {
        "last.": _aggregated(of_steps[last], how) if (last := next(reversed(of_steps), 0)) else {},
        "best.": _aggregated(of_steps[best], how) if best is not None else {},
        "final.": record.final_metrics or {},
        "absolute.": record.absolute_metrics or {},
    }
    metrics = {prefix + name: value for prefix, values in sources.items() for name, value in values.items()}
    judged_step = best if judged is None else judged.step
    sampled = _hyperparameters(hyperparameters_at(record, judged_step))
    wanted = [*objective.metrics, *map(bound_metric, objective.constraints)]
    of_seeds = [] if judged is None else [{name: one.get(name) for name in wanted} for one in judged.of_seeds]
    return IndexRow(fixed, sampled, metrics, leaves, evaluations, of_seeds)


def _by_step(evaluations: Sequence[Evaluation], num_seeds: int) -> dict[int, list[Evaluation]]:
    """Return step -> the evaluations of all seeds, in order; steps that lack a seed are left out."""
    of_step: dict[int, list[Evaluation]] = {}
    for one in evaluations:
        of_step.setdefault(one.step, []).append(one)
    return {step: of_seeds for step, of_seeds in of_step.items() if len(of_seeds) == num_seeds}


def _aggregated(of_seeds: Sequence[Evaluation], how: str) -> dict[str, float | None]:
    return aggregate_metrics([one.metrics for one in of_seeds], how)


def _objective_values(record: TrialRecord, judged: Judgement | None) -> dict[str, Any]:
    """Return the objective over seeds; for a promoted trial with its interval."""
    numbers = [] if judged is None else judged.values(record.objective.metric)
    if judged is None or not numbers:
        return {}
    fresh: dict[str, Any] = {}
    if record.promoted_from is not None and record.state is State.COMPLETE:
        found = interval(numbers)
        fresh = {f"fresh.{name}": value for name, value in found._asdict().items()}
        fresh["fresh.num_seeds"] = record.num_seeds
    return fresh | {
        "objective.source": judged.source,
        "objective.step": judged.step,
        "objective.value": aggregate(numbers, record.objective.aggregate),
        "objective.se": judged.se,
        "objective.feasible": feasible(record.objective, judged.metrics),
        "objective.std": spread(numbers),
        "objective.min": min(numbers),
        "objective.max": max(numbers),
        "objective.seed_values": json.dumps(list(numbers)),
    }


def unreadable_row(
    trial: Path, record: TrialRecord | None, place: PurePosixPath, manifest: SweepManifest | None, reason: str
) -> IndexRow:
    """Return a FAILED row for a trial whose files cannot be read, with what is known of it and the reason."""
    fixed: dict[str, Any] = {"folder": str(place), "trial_id": store_of(trial).absolute(trial).name}
    if manifest is not None:
        fixed |= {"sweep": manifest.name, "engine": manifest.engine, "algorithm": manifest.algorithm}
    if record is not None:
        fixed |= _fixed_values(record, place)
    fixed |= {"state": State.FAILED.value, "error": reason}
    return IndexRow(fixed, _hyperparameters(record.hyperparameters) if record else {}, readable=False)


def pending_rows(folder: Path, manifest: SweepManifest, rows: Sequence[IndexRow]) -> Iterator[IndexRow]:
    """Yield rows for the planned trials without a folder, except for draws that get no trial."""
    taken = {row.fixed.get("number") for row in rows if row.fixed.get("promoted_from") is None}
    if len(taken) < manifest.num_trials:
        taken |= Draws.read(folder).numbers
    free = [number for number in range(manifest.num_trials) if number not in taken]
    # A folder with an unreadable record has one of the free numbers; which one is unknown.
    unknown = sum(row.fixed.get("number") is None for row in rows)
    for number in free[: max(0, len(free) - unknown)]:
        fixed = {
            "sweep": manifest.name,
            "number": number,
            "trial_id": f"{manifest.name}-pending-{number}",
            "engine": manifest.engine,
            "algorithm": manifest.algorithm,
            "state": State.PENDING.value,
            "attempts": 0,
            "objective.metric": manifest.objective.metric,
            "objective.mode": manifest.objective.mode,
            "objective.aggregate": manifest.objective.aggregate,
            "objective.at": manifest.objective.at,
            "num_seeds": manifest.num_seeds,
            "evaluations": 0,
        }
        yield IndexRow(fixed)


def _fixed_values(record: TrialRecord, place: PurePosixPath) -> dict[str, Any]:
    values = {name: getattr(record, name) for name in COPIED_COLUMNS}
    values["state"] = record.state.value
    values["retries"] = "; ".join(record.retries) or None
    values["configuration"] = configuration_id(record)
    values["lineage"] = json.dumps([dataclasses.asdict(one) for one in record.lineage]) if record.lineage else None
    values["spans"] = json.dumps([dataclasses.asdict(one) for one in record.spans]) if record.spans else None
    values["jax_version"] = record.versions.get("jax")
    values["objective.metric"] = record.objective.metric
    values["objective.mode"] = record.objective.mode
    values["objective.aggregate"] = record.objective.aggregate
    values["objective.at"] = record.objective.at
    values["checkpoint"] = None if record.checkpoint is None else str(place / record.checkpoint)
    values["folder"] = str(place)
    for kind in ("train", "test"):
        entries = [entry for entry in record.vaults if entry.kind == kind]
        if entries:
            values[f"vault.{kind}.uid"] = ";".join(entry.uid for entry in entries)
            values[f"vault.{kind}.rows"] = sum(entry.rows for entry in entries)
            values[f"vault.{kind}.steps"] = max(entry.steps for entry in entries)
            values[f"vault.{kind}.path"] = ";".join(str(place / "vaults" / "jax_party" / e.uid) for e in entries)
    return values


def _hyperparameters(values: Mapping[str, Any]) -> dict[str, Any]:
    return {
        f"hyperparameters.{key}" if key in FIXED_COLUMNS else key: configs.cell(value) for key, value in values.items()
    }
