"""Upgrades of older records and manifests, as data: the fields that each version added, and their values before it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from jax_party.errors import RecordError
from jax_party.judging.aggregate import Aggregate
from jax_party.judging.objectives import At
from jax_party.store.files import has_string_keys
from jax_party.trial.field_types import is_integer

SCHEMA_VERSION: Final = 6
_Absent = Mapping[str, Callable[[Mapping[str, Any]], Any]]


def _always(value: Any) -> Callable[[Mapping[str, Any]], Any]:
    return lambda data: value


_NULL: Final = _always(None)
RECORD_FIELDS_SINCE: Final[Mapping[int, _Absent]] = {
    2: {
        "num_seeds": _always(1), "batch": _NULL, "compile_time_saved_s": _NULL, "compile_cache": _NULL,
        "retries": lambda data: [],
    },
    3: {"promoted_from": _NULL, "lineage": lambda data: []},
    4: {"engine": _always("native"), "engine_version": lambda data: data.get("git_sha")},
    5: {"spans": lambda data: []},
    6: {"final_metrics": _NULL},
}  # fmt: skip
"""Version of a record -> the fields that are new in it, and what each is in an earlier record, given that record."""

OBJECTIVE_FIELDS_SINCE: Final[Mapping[int, _Absent]] = {
    3: {"aggregate": _always(Aggregate.MEAN.value), "others": lambda data: [], "constraints": lambda data: {}},
    6: {"at": _always(At.BEST_PER_SEED.value)},
}
"""The same for the objective in a record and in a manifest."""

MANIFEST_FIELDS_SINCE: Final[Mapping[str, _Absent]] = {
    "several seeds per trial": {
        "algorithms": lambda data: [data.get("algorithm")], "num_seeds": _always(1), "pack": _always(1),
        "gpus_per_trial": _NULL, "budget": lambda data: {},
    },
    "several objectives": {
        "samples": _NULL, "sampler": _NULL, "scenario_mode": _always("grid"), "warm_start": lambda data: [],
    },
    "several engines": {"engine": _always("native")},
    "no copies": {"duplicates": _always("seeds")},  # earlier sweeps ran copies; what is still to be drawn runs none
}  # fmt: skip
"""What manifests learned, one after the other, and the fields that came with it."""


def check_schema_version(data: Mapping[str, Any], source: str | Path) -> None:
    """Refuse a file that is not a record, or a record newer than this code.

    Raises:
      RecordError: with the version that is expected.
    """
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


def upgraded_record(data: Mapping[str, Any]) -> dict[str, Any]:
    """Return a record's fields as this version has them."""
    version = data["schema_version"]
    if version == SCHEMA_VERSION:
        return dict(data)
    new = _completed(data, *(absent for since, absent in RECORD_FIELDS_SINCE.items() if version < since))
    return new | {"objective": upgraded_objective(data.get("objective")), "schema_version": SCHEMA_VERSION}


def upgraded_manifest(data: Mapping[str, Any]) -> dict[str, Any]:
    """Return a manifest's fields as this version has them."""
    new = _completed(data, *MANIFEST_FIELDS_SINCE.values())
    return new | {"objective": upgraded_objective(data.get("objective"))}


def upgraded_objective(objective: Any) -> Any:
    """Return an objective's fields as this version has them; non-mappings are returned unchanged."""
    return _completed(objective, *OBJECTIVE_FIELDS_SINCE.values()) if has_string_keys(objective) else objective


def _completed(data: Mapping[str, Any], *absent: _Absent) -> dict[str, Any]:
    return {name: make(data) for fields in absent for name, make in fields.items() if name not in data} | dict(data)
