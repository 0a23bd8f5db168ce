"""What a record and a manifest must hold, field by field, and records of earlier versions."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from jax_party.errors import RecordError
from jax_party.judging.aggregate import Aggregate
from jax_party.judging.objectives import MODES, At, Objective
from jax_party.store.files import has_string_keys
from jax_party.trial.states import State

SCHEMA_VERSION: Final = 6
_Check = tuple[str, Callable[[Any], bool]]


def is_integer(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def is_number(value: Any) -> bool:
    return is_integer(value) or isinstance(value, float)


def _is_objective(value: Any) -> bool:
    return (
        has_string_keys(value)
        and set(value) == {"metric", "mode", "aggregate", "others", "constraints", "at"}
        and isinstance(value["metric"], str)
        and value["mode"] in MODES
        and value["aggregate"] in set(Aggregate)
        and value["at"] in set(At)
        and isinstance(value["others"], (list, tuple))
        and all(len(pair) == 2 and isinstance(pair[0], str) and pair[1] in MODES for pair in value["others"])
        and has_string_keys(value["constraints"])
        and all(is_number(bound) for bound in value["constraints"].values())
    )


def _is_takeover(value: Any) -> bool:
    return (
        has_string_keys(value)
        and set(value) == {"step", "source", "source_step", "hyperparameters"}
        and is_integer(value["step"])
        and isinstance(value["source"], str)
        and is_integer(value["source_step"])
        and has_string_keys(value["hyperparameters"])
    )


def _is_span(value: Any) -> bool:
    return (
        has_string_keys(value)
        and set(value) == {"worker", "start", "end"}
        and all(isinstance(text, str) for text in value.values())
    )


def _is_vault(value: Any) -> bool:
    return (
        has_string_keys(value)
        and set(value) == {"uid", "kind", "rows", "steps"}
        and isinstance(value["uid"], str)
        and value["kind"] in ("train", "test")
        and is_integer(value["rows"])
        and is_integer(value["steps"])
    )


def _or_null(check: _Check) -> _Check:
    description, test = check
    return f"{description} or null", lambda value: value is None or test(value)


_STR: _Check = ("a string", lambda value: isinstance(value, str))
_INT: _Check = ("an integer", is_integer)
_COUNT: _Check = ("an integer of 0 or more", lambda value: is_integer(value) and value >= 0)
_NUMBER: _Check = ("a number", is_number)
_BOOL: _Check = ("a boolean", lambda value: isinstance(value, bool))
_DICT: _Check = ("a mapping with string keys", has_string_keys)
_OBJECTIVE: _Check = (
    f"{{metric: a string, mode: max or min, aggregate: {' or '.join(Aggregate)}, others, constraints, at: "
    f"{' or '.join(At)}}}",
    _is_objective,
)
_LINEAGE: _Check = (
    "a list of {step, source, source_step, hyperparameters}",
    lambda value: isinstance(value, list) and all(map(_is_takeover, value)),
)
_SPANS: _Check = (
    "a list of {worker, start, end}, strings all",
    lambda value: isinstance(value, list) and all(map(_is_span, value)),
)
_VERSIONS: _Check = (
    "a mapping from package to version or null",
    lambda value: has_string_keys(value) and all(v is None or isinstance(v, str) for v in value.values()),
)
_MEANS: _Check = (
    "a mapping from metric to number or null",
    lambda value: has_string_keys(value) and all(v is None or is_number(v) for v in value.values()),
)
_VAULTS: _Check = (
    "a list of {uid, kind: train or test, rows, steps}",
    lambda value: isinstance(value, list) and all(map(_is_vault, value)),
)
_REASONS: _Check = (
    "a list of strings",
    lambda value: isinstance(value, (list, tuple)) and all(isinstance(reason, str) for reason in value),
)
_DUPLICATES: _Check = ("seeds, reuse or refuse", lambda value: value in ("seeds", "reuse", "refuse"))
_CACHE: _Check = ("process, disk or miss", lambda value: value in ("process", "disk", "miss"))
_STATE: _Check = (f"one of {', '.join(State)}", lambda value: isinstance(value, str) and value in set(State))
_ANY: _Check = ("anything", lambda value: True)
RECORD_CHECKS: Final[Mapping[str, _Check]] = {
    "schema_version": _INT,
    "trial_id": _STR,
    "number": _COUNT,
    "sweep": _or_null(_STR),
    "engine": _STR,
    "engine_version": _or_null(_STR),
    "algorithm": _STR,
    "environment": _STR,
    "scenario": _STR,
    "seed": _INT,
    "num_seeds": _COUNT,
    "promoted_from": _or_null(_STR),
    "lineage": _LINEAGE,
    "hyperparameters": _DICT,
    "objective": _OBJECTIVE,
    "state": _STATE,
    "error": _or_null(_STR),
    "attempts": _COUNT,
    "retries": _REASONS,
    "started_at": _or_null(_STR),
    "ended_at": _or_null(_STR),
    "spans": _SPANS,
    "duration_s": _NUMBER,
    "device": _or_null(_STR),
    "host": _or_null(_STR),
    "git_sha": _or_null(_STR),
    "git_dirty": _or_null(_BOOL),
    "versions": _VERSIONS,
    "compile_signature": _or_null(_STR),
    "compile_time_s": _or_null(_NUMBER),
    "compile_time_saved_s": _or_null(_NUMBER),
    "compile_cache": _or_null(_CACHE),
    "batch": _or_null(_STR),
    "steps_per_second": _or_null(_NUMBER),
    "env_steps": _COUNT,
    "total_steps": _COUNT,
    "final_metrics": _or_null(_MEANS),
    "absolute_metrics": _or_null(_MEANS),
    "vaults": _VAULTS,
    "checkpoint": _or_null(_STR),
}
MANIFEST_CHECKS: Final[Mapping[str, _Check]] = {
    "name": _STR,
    "engine": _STR,
    "algorithm": _STR,
    "algorithms": _REASONS,
    "created": _STR,
    "num_trials": _COUNT,
    "samples": _or_null(_COUNT),
    "objective": _OBJECTIVE,
    "seed": _INT,
    "num_seeds": _COUNT,
    "pack": _COUNT,
    "gpus_per_trial": _or_null(_NUMBER),
    "budget": _DICT,
    "search": _ANY,
    "sampler": _ANY,
    "scheduler": _ANY,
    "scenario_mode": _STR,
    "warm_start": _REASONS,
    "duplicates": _DUPLICATES,
    "space": _ANY,
    "overrides": _ANY,
    "provenance": _DICT,
}


def check_schema_version(data: Mapping[str, Any], source: str | Path) -> None:
    version: Any = data.get("schema_version")
    if not is_integer(version):
        raise RecordError(f"{source}: schema_version: expected {SCHEMA_VERSION}, got {version!r}; give a trial record")
    if version > SCHEMA_VERSION:
        raise RecordError(
            f"{source}: schema_version: {version} is newer than {SCHEMA_VERSION}, the newest that is known here; "
            "upgrade jax-party"
        )
    if version < 1:
        raise RecordError(
            f"{source}: schema_version: unknown version {version}; this jax-party reads 1 to {SCHEMA_VERSION}"
        )


def upgraded(data: Mapping[str, Any]) -> dict[str, Any]:
    """A record of an earlier version as this one has it. 1 knew one seed per trial, 2 one objective, 3 one engine, 4 no
    spans of time, 5 one rule for what a trial is judged by."""
    if data["schema_version"] == SCHEMA_VERSION:
        return dict(data)
    objective = upgraded_objective(data.get("objective"))
    new = dict.fromkeys(("batch", "compile_time_saved_s", "compile_cache", "promoted_from", "final_metrics"))
    new |= {"retries": [], "num_seeds": 1, "lineage": [], "spans": [], "engine": "native"}
    new["engine_version"] = data.get("git_sha")
    return {**new, **data, "objective": objective, "schema_version": SCHEMA_VERSION}


def upgraded_objective(objective: Any) -> Any:
    if not has_string_keys(objective):
        return objective
    before = {"aggregate": Aggregate.MEAN.value, "others": [], "constraints": {}, "at": At.BEST_PER_SEED.value}
    return {**before, **objective}


def parse_objective(data: Mapping[str, Any]) -> Objective:
    return Objective(**{**data, "others": tuple((metric, mode) for metric, mode in data["others"])})


def check_fields(data: Mapping[str, Any], checks: Mapping[str, _Check], source: str | Path) -> None:
    for key in checks:
        if key not in data:
            raise RecordError(
                f"{source}: {key}: missing; expected {checks[key][0]}; restore the file or remove the folder"
            )
    for key, value in data.items():
        if key not in checks:
            raise RecordError(f"{source}: {key}: unknown key with value {value!r}; remove it or upgrade jax-party")
        description, test = checks[key]
        if not test(value):
            raise RecordError(f"{source}: {key}: expected {description}, got {value!r}; correct the value")
