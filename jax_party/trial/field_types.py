"""Types of the fields of records and manifests, with the descriptions used in messages."""

from __future__ import annotations

import dataclasses
import functools
import threading
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import msgspec
from msgspec import Meta

from jax_party.errors import RecordError
from jax_party.judging.aggregate import Aggregate
from jax_party.judging.objectives import At, Objective
from jax_party.trial.states import State

T = TypeVar("T")

Text = Annotated[str, Meta(description="a string")]
Integer = Annotated[int, Meta(description="an integer")]
Count = Annotated[int, Meta(ge=0, description="an integer of 0 or more")]
Number = Annotated[int | float, Meta(description="a number")]
Flag = Annotated[bool, Meta(description="a boolean")]
Fields = Annotated[Mapping[str, Any], Meta(description="a mapping with string keys")]
Texts = Annotated[tuple[str, ...], Meta(description="a list of strings")]
Versions = Annotated[Mapping[str, str | None], Meta(description="a mapping from package to version or null")]
Means = Annotated[Mapping[str, int | float | None], Meta(description="a mapping from metric to number or null")]
StateField = Annotated[State, Meta(description=f"one of {', '.join(State)}")]
Cache = Annotated[Literal["process", "disk", "miss"], Meta(description="process, disk or miss")]
Duplicates = Annotated[str, Meta(pattern="^(seeds|reuse|refuse)$", description="seeds, reuse or refuse")]
ObjectiveField = Annotated[
    Objective,
    Meta(
        description=f"{{metric: a string, mode: max or min, aggregate: {' or '.join(Aggregate)}, others, constraints, "
        f"at: {' or '.join(At)}}}"
    ),
]
_ANYTHING: Final = "anything"
_analysing: Final = threading.Lock()
"""Held while a class is analysed: msgspec crashes if two threads use a class for the first time at once."""


def is_integer(value: Any) -> bool:
    """Return whether a value is an int and not a bool."""
    return isinstance(value, int) and not isinstance(value, bool)


def is_number(value: Any) -> bool:
    """Return whether a value is an int or a float and not a bool."""
    return is_integer(value) or isinstance(value, float)


def typed(kind: type[T], data: Mapping[str, Any], source: str | Path) -> T:
    """Build a dataclass from a file's content, validated by the types of its fields.

    Args:
      kind: a dataclass; each of its fields must be in the file.
      data: the decoded JSON or YAML.
      source: the file, for messages.

    Raises:
      RecordError: a key is missing, unknown, or has an invalid value; the message says what is expected.
    """
    with _analysing:
        hints, nested = _types_of(kind)  # type: ignore[arg-type]  # a class can be hashed
    for name, hint in hints.items():
        if name not in data:
            raise RecordError(
                f"{source}: {name}: missing; expected {described(hint)}; restore the file or remove the folder"
            )
    for name, value in data.items():
        if name not in hints:
            raise RecordError(f"{source}: {name}: unknown key with value {value!r}; remove it or upgrade jax-party")
    try:
        if all(_is_whole(data[name], keys) for name, keys in nested.items()):
            return msgspec.convert(data, kind)
    except msgspec.ValidationError:
        pass
    name = next(name for name, value in data.items() if not _fits(value, hints[name], nested.get(name)))
    raise RecordError(f"{source}: {name}: expected {described(hints[name])}, got {data[name]!r}; correct the value")


def described(hint: Any) -> str:
    """Return the words for what a field may hold."""
    if get_origin(hint) is Annotated:
        return next((str(meta.description) for meta in hint.__metadata__ if isinstance(meta, Meta)), _ANYTHING)
    if get_origin(hint) in (Union, types.UnionType):
        return " or ".join("null" if part is type(None) else described(part) for part in get_args(hint))
    return _ANYTHING


@functools.cache
def _types_of(kind: type) -> tuple[dict[str, Any], dict[str, set[str]]]:
    """Return the types of a dataclass's fields, and the keys of nested dataclasses by field."""
    known = get_type_hints(kind, include_extras=True)
    hints = {item.name: known[item.name] for item in dataclasses.fields(kind)}
    nested = {}
    for name, hint in hints.items():
        inner = get_args(hint)[0] if get_origin(hint) is Annotated else hint
        inner = get_args(inner)[0] if get_origin(inner) is tuple else inner
        if dataclasses.is_dataclass(inner):
            nested[name] = {item.name for item in dataclasses.fields(inner)}
    msgspec.json.Decoder(kind)  # analyses the class, and those nested in it, once for all threads
    return hints, nested


def _fits(value: Any, hint: Any, keys: set[str] | None) -> bool:
    try:
        msgspec.convert(value, hint)
    except msgspec.ValidationError:
        return False
    return keys is None or _is_whole(value, keys)


def _is_whole(value: Any, keys: set[str]) -> bool:
    """Return whether a mapping, or each mapping in a list, has exactly these keys; msgspec does not check that."""
    several = value if isinstance(value, list) else [value]
    return all(isinstance(one, Mapping) and one.keys() == keys for one in several)
