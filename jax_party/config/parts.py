"""A config's static, traced and host parts.

Settings that change shapes or program structure are static; traced numbers are passed to the compiled program as
arguments; host settings are read only by the outer loop.
"""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import json
import math
from collections.abc import Iterator, Mapping
from typing import Any, get_type_hints

from jax_party.config.experiment import ExperimentConfig
from jax_party.setting_kinds import HOST, TRACED, Marker


def _kind(hint: Any) -> str:
    """Return `static`, `traced` or `host`, by the markers in a field's type."""
    for marker in getattr(hint, "__metadata__", ()):
        if isinstance(marker, Marker):
            return marker.name
    return "static"


def _fields_with_kind(node: Any) -> Iterator[tuple[str, str, Any]]:
    hints = get_type_hints(type(node), include_extras=True)
    for field in dataclasses.fields(node):
        yield field.name, _kind(hints[field.name]), getattr(node, field.name)


def traced_part(node: Any) -> dict[str, Any]:
    """Return the numbers that are passed to the compiled program, nested as in the config.

    Example: `{"system": {"actor_lr": 0.0003, …}, "env": {"scenario": {"task_config": {"rank_reward": 10.0, …}}}}`.
    """
    found: dict[str, Any] = {}
    for name, kind, value in _fields_with_kind(node):
        if kind == TRACED.name:
            found[name] = math.inf if value is None else float(value)  # null means no bound
        elif kind != HOST.name and dataclasses.is_dataclass(value):
            inner = traced_part(value)
            if inner:
                found[name] = inner
    return found


def static_part(node: Any) -> dict[str, Any]:
    """Return what determines shapes and program structure, nested as in the config; JSON types only."""
    found: dict[str, Any] = {}
    for name, kind, value in _fields_with_kind(node):
        if kind != "static":
            continue
        found[name] = static_part(value) if dataclasses.is_dataclass(value) else value
    return found


def without_values(node: Any) -> Any:
    """Return a copy in which traced numbers are 0.0 and host values None.

    A program is built from this copy, so that it cannot depend on anything outside its compile signature.
    """
    blank = copy.copy(node)
    for name, kind, value in _fields_with_kind(node):
        if kind == TRACED.name:
            object.__setattr__(blank, name, 0.0)
        elif kind == HOST.name:
            object.__setattr__(blank, name, None)
        elif dataclasses.is_dataclass(value):
            object.__setattr__(blank, name, without_values(value))
    return blank


def with_values(config: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """Return a nested config with the dotted keys set, which must all exist. The rest is shared, not copied."""
    changed = dict(config)
    for key, value in values.items():
        *parents, leaf = key.split(".")
        node = changed
        for parent in parents:
            node[parent] = dict(node[parent])
            node = node[parent]
        if leaf not in node:
            raise KeyError(key)
        node[leaf] = copy.deepcopy(value)
    return changed


def static_names(node: Any, prefix: str = "") -> Iterator[str]:
    """Yield the dotted names of static settings: trials that differ in one of them do not share a compiled program."""
    for name, kind, value in _fields_with_kind(node):
        if kind == "static" and dataclasses.is_dataclass(value):
            yield from static_names(value, f"{prefix}{name}.")
        elif kind == "static":
            yield f"{prefix}{name}"


def static_key(config: ExperimentConfig) -> str:
    """Return canonical JSON of the static part: configs with equal keys share one compiled program."""
    part = static_part(config)
    part["env"]["scenario"].pop("task_name", None)
    return json.dumps(part, sort_keys=True)


def compile_signature(config: ExperimentConfig, device_kind: str, jax_version: str) -> str:
    """Return a hash of the static part, the device kind and the jax version: 12 hex digits."""
    text = "\n".join((static_key(config), device_kind, jax_version))
    return hashlib.sha256(text.encode()).hexdigest()[:12]
