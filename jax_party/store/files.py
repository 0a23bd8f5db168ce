"""JSON, YAML and text in files that appear whole or not at all."""

from __future__ import annotations

import enum
import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from jax_party.errors import RecordError
from jax_party.store.storage import store_of

YamlLoader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
YamlDumper: Any = getattr(yaml, "CSafeDumper", yaml.SafeDumper)


def plain_value(value: Any, place: str) -> Any:
    """Return `value` as dicts, lists, strings, numbers, booleans and None; convert arrays and NumPy scalars.

    Raises:
      RecordError: a value in it cannot be converted; the message begins with `place`.
    """
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return str(value.value) if isinstance(value, enum.Enum) else str(value)
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return float(value)
    if isinstance(value, Mapping):
        return {str(key): plain_value(item, f"{place}: {key}") for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain_value(item, place) for item in value]
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if hasattr(value, "tolist"):
        return plain_value(value.tolist(), place)
    raise RecordError(
        f"{place}: {value!r} is a {type(value).__name__}; give a number, string, boolean, list or mapping"
    )


def finite_value(value: Any) -> Any:
    """Return `value` (a result of `plain_value`) with None in place of every number that is not finite."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: finite_value(item) for key, item in value.items()}
    if isinstance(value, list):
        return [finite_value(item) for item in value]
    return value


def has_string_keys(value: Any) -> bool:
    """Return whether `value` is a mapping whose keys are strings."""
    return isinstance(value, Mapping) and all(isinstance(key, str) for key in value)


def write_bytes_atomically(path: Path, content: bytes) -> None:
    """Make `path` hold `content`, or leave it as it was."""
    store_of(path).write_bytes(path, content)


def write_text_atomically(path: Path, text: str) -> None:
    """Make `path` hold `text` in UTF-8, or leave it as it was."""
    write_bytes_atomically(path, text.encode())


def write_json_atomically(path: Path, value: Any) -> None:
    """Make `path` hold `value` as indented JSON, or leave it as it was; numbers that are not finite become null."""
    write_bytes_atomically(path, json_bytes(value, path))


def json_bytes(value: Any, path: Path) -> bytes:
    """Return `value` as indented JSON in UTF-8; numbers that are not finite become null.

    Raises:
      RecordError: a value in it cannot be converted; the message begins with `path`.
    """
    return (json.dumps(finite_value(plain_value(value, str(path))), indent=2) + "\n").encode()


def write_yaml_atomically(path: Path, value: Any) -> None:
    """Make `path` hold `value` as YAML in the keys' own order, or leave it as it was."""
    write_text_atomically(
        path, yaml.dump(plain_value(value, str(path)), Dumper=YamlDumper, sort_keys=False, allow_unicode=True)
    )


def read_text(path: Path, remedy: str) -> str:
    """Return the content of a file in UTF-8.

    Args:
      path: the file.
      remedy: what the user can do if it cannot be read; the end of the message.

    Raises:
      RecordError: there is no such file, it cannot be read, or it is not UTF-8.
    """
    try:
        return store_of(path).read_bytes(path).decode()
    except FileNotFoundError:
        raise RecordError(f"{path}: no such file; {remedy}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise RecordError(f"{path}: cannot be read ({error}); {remedy}") from error


def read_yaml(path: Path, remedy: str) -> dict[str, Any]:
    """Return the mapping in a YAML file.

    Args:
      path: the file.
      remedy: what the user can do if it cannot be read; the end of the message.

    Raises:
      RecordError: it cannot be read, is not YAML, or holds something else than a mapping with string keys.
    """
    try:
        value = yaml.load(read_text(path, remedy), Loader=YamlLoader)
    except yaml.YAMLError as error:
        problem = " ".join(str(error).split())
        raise RecordError(f"{path}: not YAML ({problem}); {remedy}") from error
    if not has_string_keys(value):
        raise RecordError(f"{path}: expected a mapping with string keys, got {type(value).__name__}; {remedy}")
    return dict(value)
