"""Parsing: a composed config becomes frozen dataclasses, or a clear error for each invalid key."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args, get_origin, get_type_hints

from pydantic import TypeAdapter, ValidationError
from pydantic_core import ErrorDetails

from jax_party.config.checks import check_together
from jax_party.config.experiment import EnvConfig, ExperimentConfig
from jax_party.config.systems import SystemConfig
from jax_party.errors import ConfigError


def parse_config(mapping: Mapping[str, Any]) -> ExperimentConfig:
    """Turn a composed config into frozen dataclasses.

    Raises:
      ConfigError: a key is unknown, missing, ill-typed or impossible; the message has one line per key, by its full
        name.
    """
    try:
        config: ExperimentConfig = _ADAPTER.validate_python(dict(mapping))
    except ValidationError as error:
        raise ConfigError(explain(error)) from None
    check_together(config)
    return config


def explain(error: ValidationError) -> str:
    """Return one line per key that pydantic refuses, by its full name."""
    return "\n".join(_explain_all(error.errors()))


def _explain_all(details: list[ErrorDetails]) -> list[str]:
    """Return one line per key; a value that fits none of several types gets the first reason and the others."""
    lines: dict[str, str] = {}
    for detail in details:
        line = _explain(detail)
        place, _, reason = line.partition(" is not valid: ")
        known = lines.get(place)
        lines[place] = line if known is None else f"{known}, or {reason.removeprefix('input should be ')}"
    return list(lines.values())


def _explain(detail: ErrorDetails) -> str:
    """Return one line for one validation error: full key, what is wrong, what to do."""
    path = [str(part) for part in detail["loc"] if not _is_union_tag(part)]
    key, value = ".".join(path), detail.get("input")
    if detail["type"] in ("unexpected_keyword_argument", "extra_forbidden"):
        tags = [str(part) for part in detail["loc"] if _is_union_tag(part)]
        close = difflib.get_close_matches(path[-1], known_keys(path[:-1], tags), n=1)
        return f"{key}: unknown" + (f"; did you mean {close[0]}?" if close else "; remove it")
    if detail["type"] == "union_tag_invalid":
        context = detail["ctx"]
        return f"{key}.name: {context['tag']!r} is not valid: choose one of {context['expected_tags']}"
    if detail["type"] == "union_tag_not_found":
        return f"{key}.name: missing; set it (defaults are in mava_configs/)"
    if detail["type"] in ("missing", "missing_argument"):
        return f"{key}: missing; set it (defaults are in mava_configs/)"
    reason = detail["msg"].removeprefix("Value error, ")
    if detail["type"] == "value_error" and "." not in reason.split(" ")[0]:
        return f"{key}: {reason}"
    return f"{key}: {value!r} is not valid: {reason[0].lower()}{reason[1:]}"


def _literals(hint: Any) -> set[str]:
    """Return the strings of every `Literal` in a type, including those of its dataclasses' `name` fields."""
    if get_origin(hint) is Literal:
        return {value for value in get_args(hint) if isinstance(value, str)}
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        return _literals(_hints(hint).get("name"))
    return {text for inner in getattr(hint, "__args__", ()) for text in _literals(inner)}


def _union_tags() -> set[str]:
    """Return the strings by which pydantic names the member of a union in an error's location."""
    unions = (_hints(ExperimentConfig)["system"], _hints(ExperimentConfig)["network"], _hints(EnvConfig)["scenario"])
    return {"bool", "int", "float", "str"}.union(*(_literals(union) for union in unions))


def _is_union_tag(part: object) -> bool:
    return isinstance(part, str) and (
        part in _TAGS or part.startswith(("constrained-", "literal[", "function-before["))
    )


def known_keys(group: Sequence[str], names: Sequence[str] = ()) -> list[str]:
    """Return the keys of a group of the config; empty if there is no such group.

    Args:
      group: its path, such as `["system"]`.
      names: if there are several kinds of group, keep only those with one of these names, `["ff_ippo"]`; if none has
        such a name, keep all.
    """
    nodes: list[Any] = [ExperimentConfig]
    for part in group:
        nodes = [found for node in nodes for found in _dataclasses_in(_hints(node).get(part))]
        named = [node for node in nodes if _literals(_hints(node).get("name")) & set(names)]
        nodes = named or nodes
    return list(dict.fromkeys(field.name for node in nodes for field in dataclasses.fields(node)))


def names_of(system: str) -> tuple[str, ...]:
    """Return the names of a system's config and of its networks; none for an unknown system."""
    for kind in get_args(SystemConfig):
        if system in _literals(kind):
            return (system, kind.networks)
    return ()


def _hints(node: type) -> dict[str, Any]:
    return get_type_hints(node, include_extras=True)


def _dataclasses_in(hint: Any) -> list[type]:
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        return [hint]
    return [found for inner in getattr(hint, "__args__", ()) for found in _dataclasses_in(inner)]


_ADAPTER: TypeAdapter[ExperimentConfig] = TypeAdapter(ExperimentConfig)
_TAGS = _union_tags()
