"""The lines of metrics.jsonl as evaluations: fields that the tables do not hold are skipped, not parsed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, Final

import msgspec

from jax_party.errors import RecordError
from jax_party.judging.scores import EXTRA, UNTRAINED
from jax_party.store.storage import store_of
from jax_party.trial.metrics import METRICS_FILE, read_metrics
from results.collector.rows import Evaluation

Number = float | None
_FLAGS: Final = (*EXTRA, UNTRAINED)


class _Line(msgspec.Struct):
    """A line as trials write it; a line that does not fit is read and validated by `read_metrics`."""

    step: int
    evaluate: dict[str, Number]
    seed: int | None = None
    se: dict[str, Number] | None = None
    final: bool = False
    absolute: bool = False
    untrained: bool = False


class _LineWithLists(msgspec.Struct):
    """The same, with metrics that are lists: one number per agent."""

    step: int
    evaluate: dict[str, Number | list[Number]]
    seed: int | None = None
    se: dict[str, Number] | None = None
    final: bool = False
    absolute: bool = False
    untrained: bool = False


class _LineWithTraining(msgspec.Struct):
    """The fields of a line that dashboards show; the values per episode, which are most of the line, are skipped."""

    step: int
    seed: int | None = None
    evaluation: int | None = None
    wall_time_s: float | None = None
    evaluate: dict[str, Any] | None = None
    se: dict[str, Number] | None = None
    train: dict[str, Any] | None = None
    final: bool = False
    absolute: bool = False
    untrained: bool = False


_decoder = msgspec.json.Decoder(_Line)
_decoder_of_lists = msgspec.json.Decoder(_LineWithLists)
_decoder_with_training = msgspec.json.Decoder(_LineWithTraining)


def read(trial: Path, place: PurePosixPath, seed: int) -> tuple[list[Evaluation], list[Mapping[str, Any]]]:
    """Return the evaluations of the trial in `trial`, and the rows of its metrics.jsonl for `jax_party.judging`.

    Args:
      trial: its folder.
      place: the folder as it appears in messages.
      seed: the seed for lines that name none.

    Raises:
      RecordError: a complete line is not an evaluation.
    """
    try:
        content = store_of(trial).read_bytes(trial / METRICS_FILE)
    except OSError:
        return _read_any(trial, place, seed)
    rows: list[Mapping[str, Any]] = []
    evaluations = []
    try:
        for line in _decoded(content[: content.rfind(b"\n") + 1]):
            of_seed = seed if line.seed is None else line.seed
            row = {"step": line.step, "seed": of_seed, "evaluate": line.evaluate, "se": line.se}
            row |= {flag: True for flag in _FLAGS if getattr(line, flag)}
            rows.append(row)
            if not (line.absolute or line.final):
                evaluations.append(Evaluation(of_seed, line.step, _flat(line.evaluate)))
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return _read_any(trial, place, seed)
    return evaluations, rows


def read_with_training(trial: Path) -> list[Mapping[str, Any]]:
    """Return the rows of a trial's metrics.jsonl as `read_metrics` does, without what dashboards do not show.

    Raises:
      RecordError: a complete line is not a row.
    """
    try:
        content = store_of(trial).read_bytes(trial / METRICS_FILE)
        lines = _decoder_with_training.decode_lines(content[: content.rfind(b"\n") + 1])
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError):
        return [*read_metrics(trial)]
    rows: list[Mapping[str, Any]] = []
    for line in lines:
        row = msgspec.structs.asdict(line)
        if line.seed is None:  # readers then use the trial's own seed
            del row["seed"]
        rows.append(row)
    return rows


def _decoded(content: bytes) -> Sequence[_Line | _LineWithLists]:
    try:
        return _decoder.decode_lines(content)
    except msgspec.ValidationError:
        return _decoder_of_lists.decode_lines(content)


def _flat(evaluate: Mapping[str, Any]) -> Mapping[str, Number]:
    """Flatten lists: each item becomes a metric named `name.index`."""
    if list not in map(type, evaluate.values()):
        return evaluate
    flat: dict[str, Number] = {}
    for name, value in evaluate.items():
        if isinstance(value, list):
            flat |= {f"{name}.{item}": number for item, number in enumerate(value)}
        else:
            flat[name] = value
    return flat


def _read_any(trial: Path, place: PurePosixPath, seed: int) -> tuple[list[Evaluation], list[Mapping[str, Any]]]:
    """Do the same for lines of any shape, and raise an error about the first invalid one."""
    rows: list[Mapping[str, Any]] = [*read_metrics(trial)]
    evaluations = []
    for row in rows:
        if not any(row.get(flag) for flag in EXTRA):
            where = f"{place / METRICS_FILE}: step {row['step']}"
            of_seed: Any = row.get("seed", seed)
            if not isinstance(of_seed, int):
                raise RecordError(f"{where}: seed: expected an integer, got {of_seed!r}; remove the line")
            evaluations.append(Evaluation(of_seed, row["step"], _numbers(row, where)))
    return evaluations, rows


def _numbers(row: Mapping[str, Any], where: str) -> dict[str, Number]:
    means = row.get("evaluate")
    if not isinstance(means, Mapping):
        raise RecordError(f"{where}: evaluate: no mapping; remove the line")
    return dict(_leaf_numbers(means, f"{where}: evaluate"))


def _leaf_numbers(values: Mapping[Any, Any], where: str, prefix: str = "") -> Iterator[tuple[str, Number]]:
    """Flatten lists and mappings: each item becomes a metric named `name.item`."""
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
