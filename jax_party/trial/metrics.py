"""A trial's evaluations: metrics.jsonl, one line per evaluation and seed."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO, Final

from jax_party.errors import RecordError
from jax_party.store.files import finite_value, plain_value, write_bytes_atomically
from jax_party.store.local import sync
from jax_party.store.storage import as_folder, store_of
from jax_party.trial.field_types import is_integer

METRICS_FILE: Final = "metrics/metrics.jsonl"


def append_metrics(folder: Path, *rows: Mapping[str, Any]) -> None:
    """Append rows to metrics.jsonl and sync it; numbers that are not finite become null.

    An unfinished last line, left by a kill, is removed first.

    Raises:
      RecordError: a row has no integer `step`, or holds what JSON cannot.
    """
    path = as_folder(folder) / METRICS_FILE
    lines = []
    for row in rows:
        values = finite_value(plain_value(row, str(path)))
        if not is_integer(values.get("step")):
            raise RecordError(f"{path}: step: expected an integer, got {values.get('step')!r}; give the row its step")
        lines.append(json.dumps(values) + "\n")
    path.parent.mkdir(parents=True, exist_ok=True)
    new = not path.exists()
    with open(path, "x+b" if new else "r+b") as file:
        _cut_unfinished_line(file)
        file.write("".join(lines).encode())
        file.flush()
        os.fsync(file.fileno())
    if new:
        sync(path.parent)


def _cut_unfinished_line(file: BinaryIO) -> None:
    """Remove an unfinished last line, and leave `file` at its end."""
    size = file.seek(0, os.SEEK_END)
    if size:
        file.seek(size - 1)
        if file.read(1) != b"\n":
            file.seek(0)
            file.seek(_whole_length(file.read()))
            file.truncate()


def _whole_length(content: bytes) -> int:
    """Return the number of bytes up to and including the last newline."""
    return content.rfind(b"\n") + 1


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """Return the rows of metrics.jsonl in order; empty if there is no file. A last line without a newline is ignored.

    Raises:
      RecordError: a complete line is not a JSON object.
    """
    path = as_folder(folder) / METRICS_FILE
    try:
        content = store_of(path).read_bytes(path)
    except FileNotFoundError:
        return []
    except OSError as error:
        raise RecordError(f"{path}: cannot be read ({error}); restore the file") from error
    lines = content[: _whole_length(content)].splitlines()
    return [_parse_row(line, path, number) for number, line in enumerate(lines, start=1)]


def _parse_row(line: bytes, path: Path, number: int) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise RecordError(f"{path}: line {number}: not JSON ({error}); remove the line or restore the file") from error
    if not isinstance(row, dict):
        raise RecordError(f"{path}: line {number}: expected an object, got {type(row).__name__}; remove the line")
    if not is_integer(row.get("step")):
        raise RecordError(f"{path}: line {number}: step: expected an integer, got {row.get('step')!r}; remove the line")
    return row


def truncate_metrics(folder: Path, step: int) -> None:
    """Keep the rows of metrics.jsonl up to `step`, and drop an unfinished last line.

    Raises:
      RecordError: a complete line is not a row.
    """
    path = as_folder(folder) / METRICS_FILE
    if not path.exists():
        return
    content = path.read_bytes()
    lines = content[: _whole_length(content)].splitlines(keepends=True)
    kept = [line for number, line in enumerate(lines, start=1) if _parse_row(line, path, number)["step"] <= step]
    result = b"".join(kept)
    if result != content:
        write_bytes_atomically(path, result)
