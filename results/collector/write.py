"""The collector: reads trial folders, writes the sweep's index. It deletes and moves nothing of a trial's.

It may run at any moment, also while the sweep does. Equal folders give equal bytes, whether trials were read anew or
kept from an earlier time (`results.collector.parts`).
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import io
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Final

import msgspec
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from jax_party.errors import RecordError
from jax_party.judging import seeds as judging_seeds
from jax_party.judging import standings
from jax_party.judging.aggregate import aggregate, aggregate_metrics, spread
from jax_party.judging.intervals import interval, optimism, stratified_interval
from jax_party.judging.objectives import bound_metric, feasible
from jax_party.judging.replicates import pool_seeds
from jax_party.judging.scores import Judgement, best_step, trained_evaluations
from jax_party.judging.settling import end_of
from jax_party.judging.standings import Standing
from jax_party.store import storage
from jax_party.store.files import write_bytes_atomically
from jax_party.store.storage import as_folder
from jax_party.trial.draws import Draws
from jax_party.trial.folder import read_record
from jax_party.trial.identity import configuration_id
from jax_party.trial.judged import hyperparameters_at, judge_trial
from jax_party.trial.manifest import MANIFEST_FILE, SweepManifest, read_manifest
from jax_party.trial.metrics import METRICS_FILE
from jax_party.trial.record import RECORD_FILE, TrialRecord
from jax_party.trial.states import State
from results.collector import columns, configs, lines, parts
from results.collector.parts import EVALUATIONS_FILE
from results.collector.ranking import ranked_as
from results.collector.rows import Evaluation, IndexRow

INDEX_FILE: Final = "index.parquet"
INDEX_CSV_FILE: Final = "index.csv"

#: What a trial is; the hyperparameters' columns come between these and `OUTCOME_COLUMNS`.
IDENTITY_COLUMNS: Final[Mapping[str, str]] = {
    "sweep": "str",
    "number": "Int64",
    "trial_id": "str",
    "engine": "str",
    "algorithm": "str",
    "environment": "str",
    "scenario": "str",
    "configuration": "str",
    "num_seeds": "Int64",
    "seed": "Int64",
}
#: What became of it; the metrics' columns come between these and `PLACE_COLUMNS`.
OUTCOME_COLUMNS: Final[Mapping[str, str]] = {
    "state": "str",
    "error": "str",
    "attempts": "Int64",
    "retries": "str",
    "started_at": "str",
    "ended_at": "str",
    "spans": "str",
    "duration_s": "float64",
    "device": "str",
    "host": "str",
    "engine_version": "str",
    "git_sha": "str",
    "git_dirty": "boolean",
    "jax_version": "str",
    "compile_signature": "str",
    "compile_time_s": "float64",
    "compile_time_saved_s": "float64",
    "compile_cache": "str",
    "batch": "str",
    "steps_per_second": "float64",
    "env_steps": "Int64",
    "total_steps": "Int64",
    "objective.metric": "str",
    "objective.mode": "str",
    "objective.aggregate": "str",
    "objective.at": "str",
    "objective.source": "str",
    "objective.step": "Int64",
    "objective.value": "float64",
    "objective.se": "float64",
    "objective.std": "float64",
    "objective.min": "float64",
    "objective.max": "float64",
    "objective.seed_values": "str",
    "objective.over_scenarios": "float64",
    "objective.feasible": "boolean",
    "objective.pareto": "boolean",
    "settled": "boolean",
    "motion": "str",
    "trend": "float64",
    "trend.se": "float64",
    "enough_steps": "Int64",
    "score": "float64",
    "standing": "Int64",
    "provisional": "boolean",
    "lineage": "str",
    "evaluations": "Int64",
    "best_step": "Int64",
    "promoted_from": "str",
    "fresh.value": "float64",
    "fresh.low": "float64",
    "fresh.high": "float64",
    "fresh.num_seeds": "Int64",
    "fresh.estimator": "str",
    "tests": "Int64",
    "test_seeds_reused": "boolean",
    "optimism_gap": "float64",
    "fresh.over_scenarios.value": "float64",
    "fresh.over_scenarios.low": "float64",
    "fresh.over_scenarios.high": "float64",
    "optimism_gap.over_scenarios": "float64",
}
#: Where its files are; the config's columns come after these.
PLACE_COLUMNS: Final[Mapping[str, str]] = {
    f"vault.{kind}.{name}": dtype
    for kind in ("train", "test")
    for name, dtype in {"uid": "str", "rows": "Int64", "steps": "Int64", "path": "str"}.items()
} | {"checkpoint": "str", "folder": "str"}
METRIC_PREFIXES: Final = ("last.", "best.", "final.", "absolute.")

_FIXED: Final = {**IDENTITY_COLUMNS, **OUTCOME_COLUMNS, **PLACE_COLUMNS}
_COPIED: Final = [name for name in _FIXED if name in TrialRecord.__dataclass_fields__ and name != "checkpoint"]

_INT64_RANGE: Final = range(-(2**63), 2**63)

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class CollectedPaths:
    """The files that `write_index` has written."""

    index: Path
    index_csv: Path
    evaluations: Path


@dataclass(frozen=True)
class Collection:
    """A sweep as it was collected: the fixed columns of its rows in the plan's order, and their other columns as parts'
    tables, whose rows are in that order once those at `order` are taken.
    """

    fixed: list[dict[str, Any]]
    tables: list[pa.Table]
    order: list[int]


def write_index(sweep_folder: str | Path) -> CollectedPaths:
    """Bring index.parquet, index.csv and evaluations.parquet up to date in a sweep's folder, or in a single run's.

    Every planned trial has a row: one without a folder is PENDING, one whose files cannot be read is FAILED with the
    reason as its error. Trials whose files have not changed since the last time are not read again.

    Raises:
      RecordError: there is no such folder, no trial in it, its sweep.yaml cannot be read, or the folders of all trials
        that it once had are gone.
    """
    return write_index_of(as_folder(sweep_folder))[0]


def write_index_of(folder: Path) -> tuple[CollectedPaths, Collection]:
    """As `write_index`; what was collected, too. The index is written last."""
    check_folder(folder)
    parts.make_folders(folder)
    with parts.alone(folder):
        found = _read_collection(folder)
        paths = CollectedPaths(folder / INDEX_FILE, folder / INDEX_CSV_FILE, folder / EVALUATIONS_FILE)
        table = index_table([found])
        write_bytes_atomically(paths.index_csv, columns.as_csv(table))
        write_bytes_atomically(paths.index, columns.as_parquet(table))
    return paths, found


# -- Reading folders ---------------------------------------------------------------------------------------------------


def is_sweep_or_run(folder: Path) -> bool:
    """Whether `folder` is a sweep's or a single run's, so that `write_index` has something to read."""
    return storage.is_file(folder / MANIFEST_FILE) or bool(parts.list_folder(folder).trials)


def check_folder(folder: Path) -> None:
    """Raises RecordError where there is nothing in `folder` to collect."""
    storage.check(folder)
    if not storage.is_remote(folder) and not folder.is_dir():
        raise RecordError(f"{folder}: no such folder; give a sweep's folder or a single run's")
    if not is_sweep_or_run(folder):
        raise RecordError(
            f"{folder}: no trials in it (neither {MANIFEST_FILE} nor a folder with {RECORD_FILE}); "
            "give a sweep's folder or a single run's"
        )
    if storage.is_file(folder / MANIFEST_FILE):
        read_manifest(folder)


def _read_collection(folder: Path) -> Collection:
    """A row for each planned trial of the sweep or single run in `folder`, in the plan's order.

    Raises:
      RecordError: there is no such folder, no trial in it, or its sweep.yaml cannot be read.
    """
    listing = parts.list_folder(folder)
    if not listing.trials:
        _check_never_begun(folder)
    manifest = read_manifest(folder) if storage.is_file(folder / MANIFEST_FILE) else None
    reader = parts.Reader(functools.partial(_read_trial, folder, manifest), _FIXED)
    tables, rows, unreadable = parts.update(folder, listing, reader)
    rows += unreadable
    _judge_promotions(rows)
    if manifest is not None:
        _judge_objectives(rows, manifest)
        if manifest.scenario_mode == "mean":
            _judge_promotions_over_scenarios(rows)
        pending = list(_pending_rows(folder, manifest, rows))
        rows, unreadable = rows + pending, unreadable + pending
    if unreadable:
        tables = [*tables, columns.pack(unreadable, _FIXED)]
    order = sorted(range(len(rows)), key=lambda place: rows[place].order)
    return Collection([rows[place].fixed for place in order], tables, order)


def _check_never_begun(folder: Path) -> None:
    """Refuse to replace an index of trials by one that knows of none: tables were copied alone, or trials removed."""
    content = storage.read_bytes(folder / INDEX_FILE) if storage.is_file(folder / INDEX_FILE) else b""
    try:
        played = pq.read_table(io.BytesIO(content), columns=["folder"])["folder"].drop_null() if content else []
    except (OSError, ValueError):  # damaged: there is nothing to lose
        return
    if len(played):
        raise RecordError(
            f"{folder}: the folders of all {len(played)} trials of its index are gone, {played[0]} and so on; put them "
            f"back, or, to begin anew, remove {INDEX_FILE}; make index and make report read the tables as they are"
        )


def _judge_promotions(rows: Sequence[IndexRow]) -> None:
    """Put the scores on fresh seeds, of all tests of a winner, beside those that were tuned; a seed counts once."""
    by_id = {row.fixed["trial_id"]: row for row in rows}
    for origin_id, tests in _tests(rows).items():
        fresh = {name: value for name, value in tests[0].fixed.items() if name.startswith("fresh.")}
        if len(tests) > 1:
            values = list(_fresh_values(tests).values())
            fresh |= {f"fresh.{name}": value for name, value in interval(values)._asdict().items()}
            fresh["fresh.num_seeds"] = len(values)
        origin = by_id.get(origin_id)
        chosen_by = [] if origin is None else list(_searched_values(rows, origin).values())
        for row in [*tests, *([] if origin is None else [origin])]:
            row.fixed.update(fresh)
        if origin is not None and chosen_by:
            gap = aggregate(chosen_by, fresh["fresh.estimator"]) - fresh["fresh.value"]
            origin.fixed["optimism_gap"] = gap if origin.fixed["objective.mode"] == "max" else -gap
    _count_tests(rows, by_id)


def _tests(rows: Sequence[IndexRow]) -> dict[str, list[IndexRow]]:
    """The tests of each winner, by its trial id, in the order in which they were planned."""
    tests: dict[str, list[IndexRow]] = {}
    for row in sorted(rows, key=lambda row: row.order):
        if _is_test(row):
            tests.setdefault(row.fixed["promoted_from"], []).append(row)
    return tests


def _searched_values(rows: Sequence[IndexRow], origin: IndexRow) -> dict[int, float]:
    """The score of each seed that has chosen the configuration of a winner."""
    played = ("algorithm", "scenario", "state")
    return pool_seeds(
        (row.fixed["seed"], row.seed_values)
        for row in sorted(rows, key=lambda row: row.order)
        if row.fixed.get("promoted_from") is None
        and row.seed_values
        and all(row.fixed.get(name) == origin.fixed.get(name) for name in played)
        and ranked_as(row.fixed) == ranked_as(origin.fixed)
    )


def _fresh_values(tests: Sequence[IndexRow]) -> dict[int, float]:
    return pool_seeds((row.fixed["seed"], row.seed_values) for row in tests)


def _seeds(row: IndexRow) -> range:
    return range(row.fixed["seed"], row.fixed["seed"] + row.fixed["num_seeds"])


def _count_tests(rows: Sequence[IndexRow], by_id: Mapping[str, IndexRow]) -> None:
    """Say how often each configuration was tested, and whether it was found after its test seeds had been seen."""

    def configuration(row: IndexRow) -> tuple[Any, Any]:
        chosen = by_id.get(str(row.fixed.get("promoted_from")), row)
        return chosen.fixed["algorithm"], ranked_as(chosen.fixed)

    blocks: dict[tuple[Any, Any], list[range]] = {}
    seen: list[judging_seeds.SeedTest] = []
    for origin_id, tests in _tests(rows).items():
        began = by_id[origin_id].fixed.get("started_at") if origin_id in by_id else None
        for row in tests:
            blocks.setdefault(configuration(row), []).append(_seeds(row))
            seen.append(judging_seeds.SeedTest(origin_id, began, _seeds(row), row.fixed.get("ended_at")))
    reused = judging_seeds.reused(seen)
    tested = {test.origin for test in seen}
    for row in rows:
        if row.fixed.get("configuration") is not None:
            row.fixed["tests"] = judging_seeds.count_tests(blocks.get(configuration(row), ()))
            chosen = row.fixed.get("promoted_from") or row.fixed["trial_id"]
            row.fixed["test_seeds_reused"] = chosen in reused if chosen in tested else None


def _judge_promotions_over_scenarios(rows: Sequence[IndexRow]) -> None:
    """Put the mean over scenarios on fresh seeds beside the one that configurations were chosen by."""
    tests = _tests(rows)
    of_configuration: dict[tuple[Any, ...], dict[str, IndexRow]] = {}
    for row in rows:
        if row.fixed.get("objective.over_scenarios") is not None:
            key = (row.fixed["algorithm"], ranked_as(row.fixed))
            of_scenarios = of_configuration.setdefault(key, {})
            of_scenarios.setdefault(row.fixed["scenario"], row)
            if row.fixed["trial_id"] in tests:  # of several seeds the one that was tested
                of_scenarios[row.fixed["scenario"]] = row
    for of_scenarios in of_configuration.values():
        origins = list(of_scenarios.values())
        tested = [tests.get(row.fixed["trial_id"], []) for row in origins]
        if not all(tested):
            continue
        fresh = stratified_interval([list(_fresh_values(of_scenario).values()) for of_scenario in tested])
        values = {f"fresh.over_scenarios.{name}": getattr(fresh, name) for name in ("value", "low", "high")}
        mode = origins[0].fixed["objective.mode"]
        chosen_by = [list(_searched_values(rows, row).values()) for row in origins]
        values["optimism_gap.over_scenarios"] = optimism(chosen_by, fresh, mode)[1]
        for row in [*origins, *(row for of_scenario in tested for row in of_scenario)]:
            row.fixed.update(values)


def _is_test(row: IndexRow) -> bool:
    """Whether it is a winner's score on fresh seeds."""
    return row.fixed.get("promoted_from") is not None and row.fixed.get("fresh.value") is not None


def _judge_objectives(rows: Sequence[IndexRow], manifest: SweepManifest) -> None:
    """Put the place of each configuration, its score over all of its seeds, and whether it keeps to the constraints."""
    objective = manifest.objective
    over_scenarios = manifest.scenario_mode == standings.MEAN_OVER_SCENARIOS
    by_id = {row.fixed["trial_id"]: row for row in rows if row.fixed.get("promoted_from") is None and row.of_seeds}
    if over_scenarios:
        for row in by_id.values():
            row.fixed["objective.feasible"] = None  # until its configuration has been played in all of them
    ranked = standings.rank(
        (row.candidate for row in by_id.values()), objective, manifest.scenario_mode, manifest.scenarios
    )
    for found in ranked.values():
        for one in found:
            for trial_id in (*one.trials, *one.others):
                by_id[trial_id].fixed.update(_standing_values(one, over_scenarios, len(objective.metrics) > 1))


def _standing_values(one: Standing, over_scenarios: bool, several: bool) -> dict[str, Any]:
    """What the index says of a configuration in the rows of its trials."""
    return {
        "score": one.score,
        "standing": one.place,
        "provisional": one.provisional,
        "objective.feasible": one.feasible,
        **({"objective.over_scenarios": one.score} if over_scenarios else {}),
        **({"objective.pareto": one.on_front} if several else {}),
    }


def _read_trial(sweep_folder: Path, manifest: SweepManifest | None, name: str) -> IndexRow:
    """The row of the trial in the folder of that name, `.` for a single run's own."""
    place = PurePosixPath(name)
    trial = sweep_folder if name == "." else sweep_folder / name
    record: TrialRecord | None = None
    try:
        record = read_record(trial)
        row = _trial_row(record, place, configs.read_leaves(trial), *lines.read(trial, place, record.seed))
        _check_cells(row)
    except (RecordError, ValueError, RecursionError) as error:
        # The message without the sweep's own path: a sweep that was moved still gives the same bytes.
        reason = " ".join(str(error).split()).replace(f"{sweep_folder}/", "")
        _log.warning("%s: a row with state FAILED: %s", sweep_folder, reason)
        holds = isinstance(error, RecordError)  # else its record may hold what no table can
        return _unreadable_row(trial, record if holds else None, place, manifest, reason)
    return row


def _check_cells(row: IndexRow) -> None:
    """Refuse what tables cannot hold: one such trial would cost the whole index."""
    for name, value in row.fixed.items():
        if _FIXED[name] == "Int64" and value is not None and value not in _INT64_RANGE:
            raise ValueError(f"{name}: {value} has more than 64 bits; correct the record")
    for one in row.evaluations:
        if one.seed not in _INT64_RANGE or one.step not in _INT64_RANGE:
            raise RecordError(f"{METRICS_FILE}: step {one.step}: more than 64 bits; remove the line")
    with contextlib.suppress(OverflowError):  # of hyperparameters: they become text
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
    """Step -> the evaluations of all seeds; whole steps only, in order."""
    of_step: dict[int, list[Evaluation]] = {}
    for one in evaluations:
        of_step.setdefault(one.step, []).append(one)
    return {step: of_seeds for step, of_seeds in of_step.items() if len(of_seeds) == num_seeds}


def _aggregated(of_seeds: Sequence[Evaluation], how: str) -> dict[str, float | None]:
    return aggregate_metrics([one.metrics for one in of_seeds], how)


def _objective_values(record: TrialRecord, judged: Judgement | None) -> dict[str, Any]:
    """The objective over seeds; of a promoted trial with its interval."""
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


def _unreadable_row(
    trial: Path, record: TrialRecord | None, place: PurePosixPath, manifest: SweepManifest | None, reason: str
) -> IndexRow:
    fixed: dict[str, Any] = {"folder": str(place), "trial_id": storage.absolute(trial).name}
    if manifest is not None:
        fixed |= {"sweep": manifest.name, "engine": manifest.engine, "algorithm": manifest.algorithm}
    if record is not None:
        fixed |= _fixed_values(record, place)
    fixed |= {"state": State.FAILED.value, "error": reason}
    return IndexRow(fixed, _hyperparameters(record.hyperparameters) if record else {}, readable=False)


def _pending_rows(folder: Path, manifest: SweepManifest, rows: Sequence[IndexRow]) -> Iterator[IndexRow]:
    """Rows for the planned trials without a folder, but for draws that no trial is made for."""
    taken = {row.fixed.get("number") for row in rows if row.fixed.get("promoted_from") is None}
    if len(taken) < manifest.num_trials:
        taken |= Draws.read(folder).numbers
    free = [number for number in range(manifest.num_trials) if number not in taken]
    # A folder with an unreadable record is one of the free numbers; which one, nobody knows.
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


# -- From records to values --------------------------------------------------------------------------------------------


def _fixed_values(record: TrialRecord, place: PurePosixPath) -> dict[str, Any]:
    values = {name: getattr(record, name) for name in _COPIED}
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
    return {f"hyperparameters.{key}" if key in _FIXED else key: configs.cell(value) for key, value in values.items()}


# -- Tables ------------------------------------------------------------------------------------------------------------


def index_table(collections: Sequence[Collection], before: Mapping[str, Sequence[str]] | None = None) -> pa.Table:
    """The index as a table with the rows of each collection; the columns `before` (name -> texts) come first."""
    tables = [table for one in collections for table in one.tables]
    rows = [row for one in collections for row in one.fixed]
    sizes = [sum(map(len, one.tables)) for one in collections]
    firsts = np.cumsum([0, *sizes[:-1]])
    orders = [first + np.array(one.order, np.int64) for first, one in zip(firsts, collections, strict=True)]
    order = pa.array(np.concatenate(orders))

    def fixed(dtypes: Mapping[str, str]) -> dict[str, pa.ChunkedArray]:
        return {
            name: pa.chunked_array([array]) for name, array in zip(dtypes, columns.typed(rows, dtypes), strict=True)
        }

    def others(group: str) -> dict[str, pa.ChunkedArray]:
        return {name: column.take(order) for name, column in columns.merge(tables, group).items()}

    metrics = others(columns.METRICS)
    names = [name for prefix in METRIC_PREFIXES for name in metrics if name.startswith(prefix)]
    return columns.finished(
        {name: pa.chunked_array([pa.array(values, pa.string())]) for name, values in (before or {}).items()}
        | fixed(IDENTITY_COLUMNS)
        | others(columns.HYPERPARAMETERS)
        | fixed(OUTCOME_COLUMNS)
        | {name: metrics[name] for name in names}
        | fixed(PLACE_COLUMNS)
        | others(columns.CONFIG)
    )


def hyperparameter_columns(index: pd.DataFrame) -> list[str]:
    """The columns of sampled hyperparameters: those between `seed` and `state`."""
    names = [str(name) for name in index.columns]
    return names[names.index("seed") + 1 : names.index("state")]
