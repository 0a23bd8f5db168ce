"""The lines of metrics.jsonl as evaluations: what the tables do not hold is skipped, not parsed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import msgspec

from jax_party import records, storage
from jax_party.errors import RecordError
from results.rows import Evaluation

Number = float | None


class _Line(msgspec.Struct):
    """A line as trials write it; one that does not fit is read, and judged, by `records.read_metrics`."""

    step: int
    evaluate: dict[str, Number | list[Number]]
    seed: int | None = None
    absolute: bool = False


_decoder = msgspec.json.Decoder(_Line)


def read(trial: Path, place: PurePosixPath, seed: int) -> tuple[list[Evaluation], list[Mapping[str, Any]]]:
    """The evaluations of the trial in `trial`, and the rows of its metrics.jsonl for `records`' functions.

    Args:
      trial: its folder.
      place: the same, for messages.
      seed: that of lines that name none.

    Raises:
      RecordError: a whole line is not an evaluation.
    """
    try:
        content = storage.read_bytes(trial / records.METRICS_FILE)
        lines = _decoder.decode_lines(content[: content.rfind(b"\n") + 1])
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError):
        return _read_any(trial, place, seed)
    rows: list[Mapping[str, Any]] = []
    evaluations = []
    for line in lines:
        of_seed = seed if line.seed is None else line.seed
        rows.append({"step": line.step, "seed": of_seed, "evaluate": line.evaluate, "absolute": line.absolute})
        if not line.absolute:
            evaluations.append(Evaluation(of_seed, line.step, *_flat(line.evaluate)))
    return evaluations, rows


def _flat(evaluate: Mapping[str, Number | list[Number]]) -> tuple[tuple[str, ...], list[Number]]:
    """Names and numbers; a list becomes one metric an item, `name.item`."""
    if list not in map(type, evaluate.values()):
        return tuple(evaluate), list(evaluate.values())  # type: ignore[arg-type]
    names: list[str] = []
    values: list[Number] = []
    for name, value in evaluate.items():
        if isinstance(value, list):
            names += [f"{name}.{item}" for item in range(len(value))]
            values += value
        else:
            names.append(name)
            values.append(value)
    return tuple(names), values


def _read_any(trial: Path, place: PurePosixPath, seed: int) -> tuple[list[Evaluation], list[Mapping[str, Any]]]:
    """The same from lines of any kind, with a message about the first that is none."""
    rows: list[Mapping[str, Any]] = [*records.read_metrics(trial)]
    evaluations = []
    for row in rows:
        if not row.get("absolute"):
            where = f"{place / records.METRICS_FILE}: step {row['step']}"
            of_seed: Any = row.get("seed", seed)
            if not isinstance(of_seed, int):
                raise RecordError(f"{where}: seed: expected an integer, got {of_seed!r}; remove the line")
            metrics = _numbers(row, where)
            evaluations.append(Evaluation(of_seed, row["step"], tuple(metrics), list(metrics.values())))
    return evaluations, rows


def _numbers(row: Mapping[str, Any], where: str) -> dict[str, Number]:
    means = row.get("evaluate")
    if not isinstance(means, Mapping):
        raise RecordError(f"{where}: evaluate: no mapping; remove the line")
    return dict(_leaf_numbers(means, f"{where}: evaluate"))


def _leaf_numbers(values: Mapping[Any, Any], where: str, prefix: str = "") -> Iterator[tuple[str, Number]]:
    """Lists and mappings become one metric an item, `name.item`."""
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
