"""A trial's evaluations in marl-eval's format."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from jax_party.judging.scores import ends_a_period
from jax_party.store.files import write_json_atomically
from jax_party.store.storage import as_folder
from jax_party.trial.field_types import is_integer, is_number
from jax_party.trial.folder import read_record
from jax_party.trial.metrics import read_metrics
from jax_party.trial.record import TrialRecord

MARL_EVAL_FILE: Final = "metrics/metrics.json"


def write_marl_eval(folder: Path) -> None:
    """Write metrics/metrics.json from the record and metrics.jsonl, in marl-eval's format.

    environment -> task (the scenario) -> algorithm -> `seed_<n>` -> `step_<k>`, k from 0, with `step_count`,
    `elapsed_time` (seconds since the first evaluation, as marl-eval's own logger counts them, so without compile time)
    and a list of values a metric; and `absolute_metrics`. marl-eval wants the same metrics at every step and takes
    means without asking, so nulls are left out of the lists, and a metric with no number in some row is left out.

    Source: https://github.com/instadeepai/marl-eval, README and `marl_eval/json_tools/json_logger.py`.

    Raises:
      RecordError: the record or the metrics cannot be read.
    """
    record = read_record(folder)
    rows = read_metrics(folder)
    seeds = dict.fromkeys([row["seed"] for row in rows if is_integer(row.get("seed"))] or [record.seed])
    runs = {
        f"seed_{seed}": _marl_eval_run(record, [row for row in rows if row.get("seed", record.seed) == seed])
        for seed in seeds
    }
    path = as_folder(folder) / MARL_EVAL_FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json_atomically(path, {record.environment: {record.scenario: {record.algorithm: runs}}})


def _marl_eval_run(record: TrialRecord, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Return one seed's part of marl-eval's file."""
    evaluations = [row for row in rows if ends_a_period(row)]
    values = [_episode_values(row) for row in evaluations]
    absolute = _absolute_values(record, [row for row in rows if row.get("absolute")])
    common = set.intersection(*map(set, values)) if values else set()
    start = _elapsed(evaluations[0]) if evaluations else 0.0
    run: dict[str, Any] = {
        f"step_{index}": {"step_count": row["step"], "elapsed_time": _elapsed(row) - start}
        | {name: of_row[name] for name in of_row if name in common}
        for index, (row, of_row) in enumerate(zip(evaluations, values, strict=True))
    }
    return run | {"absolute_metrics": {name: absolute[name] for name in absolute if name in common or not evaluations}}


def _elapsed(row: Mapping[str, Any]) -> float:
    seconds: Any = row.get("wall_time_s")
    return float(seconds) if is_number(seconds) else 0.0


def _episode_values(row: Mapping[str, Any]) -> dict[str, list[float]]:
    """Return the values per metric in this row: one per episode if the row has them, otherwise the mean."""
    source = row.get("episodes") or {name: [mean] for name, mean in (row.get("evaluate") or {}).items()}
    numbers = {name: [value for value in values if is_number(value)] for name, values in source.items()}
    return {name: values for name, values in numbers.items() if values}


def _absolute_values(record: TrialRecord, rows: list[dict[str, Any]]) -> dict[str, list[float]]:
    if rows:
        return _episode_values(rows[-1])
    means = record.absolute_metrics or {}
    return {name: [mean] for name, mean in means.items() if mean is not None}
