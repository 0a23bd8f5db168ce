"""The collector: reads trial folders, writes the sweep's index. It deletes and moves nothing.

It may run at any moment, also while the sweep does. Equal folders give equal bytes.
"""

from __future__ import annotations

import dataclasses
import io
import json
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, Final

import pandas as pd

from jax_party import records, storage
from jax_party.aggregate import Aggregate, aggregate, aggregate_metrics, interval, spread
from jax_party.errors import RecordError
from jax_party.objectives import Objective, feasible, pareto_front
from jax_party.records import State, SweepManifest, TrialRecord

INDEX_FILE: Final = "index.parquet"
INDEX_CSV_FILE: Final = "index.csv"
EVALUATIONS_FILE: Final = "evaluations.parquet"

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
    "objective.value": "float64",
    "objective.std": "float64",
    "objective.min": "float64",
    "objective.max": "float64",
    "objective.over_scenarios": "float64",
    "objective.feasible": "boolean",
    "objective.pareto": "boolean",
    "lineage": "str",
    "evaluations": "Int64",
    "best_step": "Int64",
    "promoted_from": "str",
    "fresh.value": "float64",
    "fresh.low": "float64",
    "fresh.high": "float64",
    "fresh.num_seeds": "Int64",
    "fresh.estimator": "str",
    "optimism_gap": "float64",
}
#: Where its files are; the config's columns come after these.
PLACE_COLUMNS: Final[Mapping[str, str]] = {
    f"vault.{kind}.{name}": dtype
    for kind in ("train", "test")
    for name, dtype in {"uid": "str", "rows": "Int64", "steps": "Int64", "path": "str"}.items()
} | {"checkpoint": "str", "folder": "str"}
METRIC_PREFIXES: Final = ("last.", "best.", "absolute.")
EVALUATION_COLUMNS: Final[Mapping[str, str]] = {
    "trial_id": "str",
    "seed": "int64",
    "step": "int64",
    "metric": "str",
    "value": "float64",
}

_FIXED: Final = {**IDENTITY_COLUMNS, **OUTCOME_COLUMNS, **PLACE_COLUMNS}
_COPIED: Final = [name for name in _FIXED if name in TrialRecord.__dataclass_fields__ and name != "checkpoint"]
_INT64_RANGE: Final = range(-(2**63), 2**63)

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class CollectedPaths:
    """The files that `collect` has written."""

    index: Path
    index_csv: Path
    evaluations: Path


@dataclass(frozen=True)
class IndexRow:
    """One planned trial: the index's row in four groups of columns, its evaluations as (seed, step, values), the
    objective of each seed, and the metrics that it is judged by.
    """

    fixed: dict[str, Any]
    hyperparameters: dict[str, Any]
    metrics: dict[str, float | None]
    config: dict[str, Any]
    evaluations: list[tuple[int, int, dict[str, float | None]]]
    seed_values: list[float] = field(default_factory=list)
    score_metrics: dict[str, float | None] = field(default_factory=dict)

    @property
    def order(self) -> tuple[bool, int, str]:
        """Rows go by their place in the plan; those whose place is unknown come last."""
        number = self.fixed.get("number")
        return number is None, number or 0, str(self.fixed["trial_id"])


def collect(sweep_folder: str | Path) -> CollectedPaths:
    """Write index.parquet, index.csv and evaluations.parquet into a sweep's folder, or into a single run's.

    Every planned trial has a row: one without a folder is PENDING, one whose files cannot be read is FAILED with the
    reason as its error.

    Raises:
      RecordError: there is no such folder, no trial in it, or its sweep.yaml cannot be read.
    """
    folder = records.as_folder(sweep_folder)
    return write_tables(folder, read_rows(folder))


def write_tables(folder: Path, rows: Sequence[IndexRow]) -> CollectedPaths:
    """Write the tables of `rows`, which `read_rows(folder)` gave, into `folder`; the index comes last."""
    paths = CollectedPaths(folder / INDEX_FILE, folder / INDEX_CSV_FILE, folder / EVALUATIONS_FILE)
    index = index_frame(rows)
    records.write_bytes_atomically(paths.evaluations, _parquet(evaluations_frame(rows)))
    records.write_text_atomically(paths.index_csv, index.to_csv(index=False, lineterminator="\n"))
    records.write_bytes_atomically(paths.index, _parquet(index))
    return paths


# -- Reading folders ---------------------------------------------------------------------------------------------------


def is_sweep_or_run(folder: Path) -> bool:
    """Whether `folder` is a sweep's or a single run's, so that `collect` has something to read."""
    return storage.is_file(folder / records.MANIFEST_FILE) or _is_trial(folder) or bool(_trials_below(folder))


def read_rows(folder: Path) -> list[IndexRow]:
    """A row for each planned trial of the sweep or single run in `folder`, in the plan's order.

    Raises:
      RecordError: there is no such folder, no trial in it, or its sweep.yaml cannot be read.
    """
    storage.check(folder)
    if not storage.is_remote(folder) and not folder.is_dir():
        raise RecordError(f"{folder}: no such folder; give a sweep's folder or a single run's")
    if not is_sweep_or_run(folder):
        raise RecordError(
            f"{folder}: no trials in it (neither {records.MANIFEST_FILE} nor a folder with {records.RECORD_FILE}); "
            "give a sweep's folder or a single run's"
        )
    manifest = records.read_manifest(folder) if storage.is_file(folder / records.MANIFEST_FILE) else None
    trials = [folder] if _is_trial(folder) else _trials_below(folder)
    rows = storage.each(lambda trial: _read_trial(trial, folder, manifest), trials, storage.is_remote(folder))
    _judge_promotions(rows)
    if manifest is not None:
        _judge_objectives(rows, manifest)
        rows += _pending_rows(manifest, rows)
    return sorted(rows, key=lambda row: row.order)


def _judge_promotions(rows: Sequence[IndexRow]) -> None:
    """Put the scores on fresh seeds beside those that were tuned; of several promotions the last counts."""
    by_id = {row.fixed["trial_id"]: row for row in rows}
    for row in sorted(rows, key=lambda row: row.order):
        origin = by_id.get(row.fixed.get("promoted_from"))
        if origin is None or row.fixed.get("fresh.value") is None:
            continue
        origin.fixed.update({name: value for name, value in row.fixed.items() if name.startswith("fresh.")})
        if origin.seed_values:
            gap = aggregate(origin.seed_values, row.fixed["fresh.estimator"]) - row.fixed["fresh.value"]
            origin.fixed["optimism_gap"] = gap if origin.fixed["objective.mode"] == "max" else -gap


def _judge_objectives(rows: Sequence[IndexRow], manifest: SweepManifest) -> None:
    """Put the means over scenarios, where configurations count by them, and the Pareto fronts of several objectives."""
    objective = manifest.objective
    judged: dict[tuple[str, str], list[tuple[list[IndexRow], dict[str, float | None]]]] = {}
    searched = [row for row in rows if row.score_metrics and row.fixed.get("promoted_from") is None]
    if manifest.scenario_mode == "mean":
        wanted = len((manifest.overrides or {}).get("env/scenario", ()))
        for row in searched:
            row.fixed["objective.feasible"] = None  # until its configuration has been played in all of them
        of_configuration: dict[tuple[Any, ...], dict[str, IndexRow]] = {}
        for row in searched:
            key = (row.fixed["configuration"], row.fixed["seed"])
            of_configuration.setdefault(key, {}).setdefault(row.fixed["scenario"], row)
        for of_scenarios in of_configuration.values():
            if len(of_scenarios) == wanted:
                together = list(of_scenarios.values())
                means = aggregate_metrics([row.score_metrics for row in together], Aggregate.MEAN)
                judged.setdefault((together[0].fixed["algorithm"], ""), []).append((together, means))
                for row in together:
                    row.fixed["objective.over_scenarios"] = means.get(objective.metric)
                    row.fixed["objective.feasible"] = feasible(objective, means)
    else:
        for row in searched:
            group = (row.fixed["algorithm"], row.fixed["scenario"])
            judged.setdefault(group, []).append(([row], row.score_metrics))
    if len(objective.metrics) > 1:
        for of_group in judged.values():
            _judge_front(objective, of_group)


def _judge_front(
    objective: Objective, of_group: Sequence[tuple[Sequence[IndexRow], Mapping[str, float | None]]]
) -> None:
    """Say of each configuration of a group whether it is on the front of those that keep to the constraints."""
    points: list[list[float]] = []
    able: list[Sequence[IndexRow]] = []
    for rows, metrics in of_group:
        values = [metrics.get(name) for name in objective.metrics]
        if feasible(objective, metrics) and None not in values:
            points.append([float(value) for value in values if value is not None])
            able.append(rows)
        for row in rows:
            row.fixed["objective.pareto"] = False
    for rows, on_front in zip(able, pareto_front(points, objective.modes), strict=True):
        for row in rows:
            row.fixed["objective.pareto"] = on_front


# A folder with a config alone is being created; one with metrics and no record has lost its record.
_OF_TRIALS: Final = (records.RECORD_FILE, records.METRICS_FILE)


def _trials_below(folder: Path) -> list[Path]:
    return records.trial_folders(folder, *_OF_TRIALS)


def _is_trial(folder: Path) -> bool:
    return any(storage.is_file(folder / name) for name in _OF_TRIALS)


def _read_trial(trial: Path, sweep_folder: Path, manifest: SweepManifest | None) -> IndexRow:
    place = PurePosixPath("." if trial == sweep_folder else trial.name)
    record: TrialRecord | None = None
    try:
        record = records.read_record(trial)
        return _trial_row(record, place, records.read_config(trial), records.read_metrics(trial))
    except RecordError as error:
        # The message without the sweep's own path: a sweep that was moved still gives the same bytes.
        reason = " ".join(str(error).split()).replace(f"{sweep_folder}/", "")
        _log.warning("%s: a row with state FAILED: %s", sweep_folder, reason)
        return _unreadable_row(trial, record, place, manifest, reason)


def _trial_row(
    record: TrialRecord, place: PurePosixPath, config: Mapping[str, Any], lines: Sequence[Mapping[str, Any]]
) -> IndexRow:
    of_seeds = [
        (line.get("seed", record.seed), line["step"], _numbers(line, place))
        for line in lines
        if not line.get("absolute")
    ]
    how = record.objective.aggregate
    evaluations = [
        (step, aggregate_metrics([_numbers(row, place) for row in rows], how))
        for step, rows in records.evaluations_by_step(lines, record.num_seeds).items()
    ]
    best = _best(evaluations, record.objective)
    numbers = records.seed_values(record, lines)
    judged = {} if record.state is State.FAILED else records.score_metrics(record, lines)
    fixed = _fixed_values(record, place) | {
        "evaluations": len(evaluations),
        "best_step": best[0] if best else None,
        **_objective_values(record, numbers),
        **({"objective.feasible": feasible(record.objective, judged)} if judged else {}),
    }
    sources = {
        "last.": evaluations[-1][1] if evaluations else {},
        "best.": best[1] if best else {},
        "absolute.": record.absolute_metrics or {},
    }
    metrics = {prefix + name: value for prefix, values in sources.items() for name, value in values.items()}
    return IndexRow(fixed, _hyperparameters(record), metrics, _config_leaves(config), of_seeds, numbers, judged)


def _objective_values(record: TrialRecord, numbers: Sequence[float]) -> dict[str, Any]:
    """The objective over seeds; of a promoted trial with its interval."""
    if record.state is State.FAILED or not numbers:
        return {}
    fresh: dict[str, Any] = {}
    if record.promoted_from is not None and record.state is State.COMPLETE:
        found = interval(numbers)
        fresh = {f"fresh.{name}": value for name, value in found._asdict().items()}
        fresh["fresh.num_seeds"] = record.num_seeds
    return fresh | {
        "objective.value": aggregate(numbers, record.objective.aggregate),
        "objective.std": spread(numbers),
        "objective.min": min(numbers),
        "objective.max": max(numbers),
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
    return IndexRow(fixed, _hyperparameters(record) if record else {}, {}, {}, [])


def _pending_rows(manifest: SweepManifest, rows: Sequence[IndexRow]) -> Iterator[IndexRow]:
    """Rows for the planned trials without a folder."""
    taken = {row.fixed.get("number") for row in rows if row.fixed.get("promoted_from") is None}
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
            "num_seeds": manifest.num_seeds,
            "evaluations": 0,
        }
        yield IndexRow(fixed, {}, {}, {}, [])


# -- From records to values --------------------------------------------------------------------------------------------


def _fixed_values(record: TrialRecord, place: PurePosixPath) -> dict[str, Any]:
    values = {name: getattr(record, name) for name in _COPIED}
    values["state"] = record.state.value
    values["retries"] = "; ".join(record.retries) or None
    values["configuration"] = records.configuration_id(record)
    values["lineage"] = json.dumps([dataclasses.asdict(one) for one in record.lineage]) if record.lineage else None
    values["jax_version"] = record.versions.get("jax")
    values["objective.metric"] = record.objective.metric
    values["objective.mode"] = record.objective.mode
    values["objective.aggregate"] = record.objective.aggregate
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


def _hyperparameters(record: TrialRecord) -> dict[str, Any]:
    return {
        f"hyperparameters.{key}" if key in _FIXED else key: _cell(value)
        for key, value in record.hyperparameters.items()
    }


def _config_leaves(config: Mapping[str, Any], prefix: str = "config") -> dict[str, Any]:
    leaves: dict[str, Any] = {}
    for key, value in config.items():
        name = f"{prefix}.{key}"
        leaves |= _config_leaves(value, name) if isinstance(value, Mapping) else {name: _cell(value)}
    return leaves


def _cell(value: Any) -> Any:
    """A value as one cell: scalars as they are, lists and mappings (and dates, which YAML knows) as text."""
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    return json.dumps(value, default=str)


def _numbers(line: Mapping[str, Any], place: PurePosixPath) -> dict[str, float | None]:
    """Metric -> number of one evaluation; lists and mappings become one metric an item, `name.item`."""
    means = line.get("evaluate")
    if not isinstance(means, Mapping):
        raise RecordError(f"{place / records.METRICS_FILE}: step {line['step']}: evaluate: no mapping; remove the line")
    return dict(_leaf_numbers(means, f"{place / records.METRICS_FILE}: step {line['step']}: evaluate"))


def _leaf_numbers(values: Mapping[Any, Any], where: str, prefix: str = "") -> Iterator[tuple[str, float | None]]:
    for key, value in values.items():
        name = f"{prefix}{key}"
        if isinstance(value, list):
            yield from _leaf_numbers(dict(enumerate(value)), where, f"{name}.")
        elif isinstance(value, Mapping):
            yield from _leaf_numbers(value, where, f"{name}.")
        elif value is None or isinstance(value, (int, float)):
            yield name, None if value is None else float(value)
        else:
            raise RecordError(f"{where}: {name}: expected a number or null, got {value!r}; remove the line")


def _best(
    evaluations: Sequence[tuple[int, dict[str, float | None]]], objective: Objective
) -> tuple[int, dict[str, float | None]] | None:
    """The evaluation at which the objective was best, the earliest of equals; None where it was never measured."""
    sign = 1.0 if objective.mode == "max" else -1.0
    measured = [(value, one) for one in evaluations if (value := one[1].get(objective.metric)) is not None]
    return max(measured, key=lambda pair: sign * pair[0])[1] if measured else None


# -- Tables ------------------------------------------------------------------------------------------------------------


def index_frame(rows: Sequence[IndexRow], before: Mapping[str, Sequence[str]] | None = None) -> pd.DataFrame:
    """The index as a table with a row for each of `rows`; the columns `before` (name -> texts) come first."""
    fixed = [row.fixed for row in rows]
    hyperparameters = [row.hyperparameters for row in rows]
    metrics = [row.metrics for row in rows]
    config = [row.config for row in rows]
    columns: dict[str, pd.Series[Any]] = {name: pd.Series(v, dtype="str") for name, v in (before or {}).items()}
    columns |= {name: _column(fixed, name, dtype) for name, dtype in IDENTITY_COLUMNS.items()}
    columns |= {name: _column(hyperparameters, name) for name in _names(hyperparameters)}
    columns |= {name: _column(fixed, name, dtype) for name, dtype in OUTCOME_COLUMNS.items()}
    columns |= {name: _column(metrics, name, "float64") for name in _metric_names(metrics)}
    columns |= {name: _column(fixed, name, dtype) for name, dtype in PLACE_COLUMNS.items()}
    columns |= {name: _column(config, name) for name in _names(config)}
    return pd.DataFrame(columns)


def evaluations_frame(rows: Iterable[IndexRow]) -> pd.DataFrame:
    """Every evaluation in long form: a row for each trial, seed, step and metric."""
    long = [
        (row.fixed["trial_id"], seed, step, name, values[name])
        for row in rows
        for seed, step, values in row.evaluations
        for name in sorted(values)
    ]
    columns = zip(*long, strict=True) if long else [()] * len(EVALUATION_COLUMNS)
    series = zip(EVALUATION_COLUMNS.items(), columns, strict=True)
    return pd.DataFrame({name: pd.Series(list(values), dtype=dtype) for (name, dtype), values in series})


def hyperparameter_columns(index: pd.DataFrame) -> list[str]:
    """The columns of sampled hyperparameters: those between `seed` and `state`."""
    names = [str(name) for name in index.columns]
    return names[names.index("seed") + 1 : names.index("state")]


def _names(values: Iterable[Mapping[str, Any]]) -> list[str]:
    return sorted({name for one in values for name in one})


def _metric_names(metrics: Iterable[Mapping[str, Any]]) -> list[str]:
    names = _names(metrics)
    return [name for prefix in METRIC_PREFIXES for name in names if name.startswith(prefix)]


def _column(rows: Sequence[Mapping[str, Any]], name: str, dtype: str | None = None) -> pd.Series[Any]:
    values = [row.get(name) for row in rows]
    if dtype is None:
        dtype, values = _inferred(values)
    return pd.Series(values, dtype=dtype)


def _inferred(values: list[Any]) -> tuple[str, list[Any]]:
    """A dtype that holds all `values`, and the values for it; unlike values become JSON text."""
    kinds = {type(value) for value in values if value is not None}
    if kinds == {bool}:
        return "boolean", values
    if kinds == {int} and all(value in _INT64_RANGE for value in values if value is not None):
        return "Int64", values
    if kinds and kinds <= {int, float}:
        return "float64", [None if value is None else float(value) for value in values]
    if kinds <= {str}:
        return "str", values
    return "str", [None if v is None else v if isinstance(v, str) else json.dumps(v) for v in values]


def _parquet(frame: pd.DataFrame) -> bytes:
    buffer = io.BytesIO()
    frame.to_parquet(buffer, engine="pyarrow", index=False)
    return buffer.getvalue()
