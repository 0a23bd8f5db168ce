"""A trial's folder: its config and its record."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from jax_party.errors import RecordError
from jax_party.store.files import json_bytes, read_text, read_yaml, write_json_atomically, write_yaml_atomically
from jax_party.store.storage import as_folder, store_of
from jax_party.trial.identity import canonical_json, new_trial_id
from jax_party.trial.provenance import utc_timestamp
from jax_party.trial.record import FIELDS, RECORD_FILE, TrialRecord, parse_record

CONFIG_FILE: Final = "config.yaml"
TAKEOVER: Final = "takeover."
"""Prefix of the folder that holds a taken-over learner, beside a trial's checkpoints; the step follows it."""
_IDENTITY: Final = (
    "trial_id", "number", "sweep", "algorithm", "environment", "scenario", "seed", "hyperparameters", "objective",
)  # fmt: skip


def create_trial_folder(folder: Path, config: Mapping[str, Any], record: TrialRecord) -> None:
    """Create a trial's folder: config.yaml first, then record.json, so a folder with a record is complete.

    A folder that already holds this trial keeps the state that it has reached.

    Raises:
      RecordError: the folder holds another trial.
    """
    folder = as_folder(folder)
    if store_of(folder).is_file(folder / RECORD_FILE):
        _check_same_trial(folder, config, record)
        return
    store_of(folder).make_folder(folder)
    write_yaml_atomically(folder / CONFIG_FILE, config)
    write_record(folder, record)


def _check_same_trial(folder: Path, config: Mapping[str, Any], record: TrialRecord) -> None:
    there, here = read_record(folder).to_dict(), record.to_dict()
    if there["lineage"]:  # its values have changed since, which its id has not
        there["hyperparameters"] = there["lineage"][0]["hyperparameters"]
        config = read_config(folder)
    for key in _IDENTITY:
        if there[key] != here[key]:
            raise RecordError(
                f"{folder / RECORD_FILE}: {key}: the folder holds another trial ({there[key]!r}, not {here[key]!r}); "
                "choose another folder"
            )
    if canonical_json(read_config(folder), "config") != canonical_json(config, "config"):
        raise RecordError(
            f"{folder / CONFIG_FILE}: the folder holds this trial with another config; choose another folder"
        )


def read_record(folder: Path) -> TrialRecord:
    """Return the record of the trial in `folder`.

    Raises:
      RecordError: it is missing, not JSON, or not a record that this version can read.
    """
    path = as_folder(folder) / RECORD_FILE
    return parse_record(read_text(path, "give a trial's folder"), path)


def write_record(folder: Path, record: TrialRecord) -> None:
    """Write record.json.

    Raises:
      RecordError: a field has the wrong type; the file stays as it was.
    """
    path = as_folder(folder) / RECORD_FILE
    data = record.to_dict()
    TrialRecord.from_dict(data, path)
    write_json_atomically(path, data)


def change_record(folder: Path, change: Callable[[TrialRecord], TrialRecord]) -> TrialRecord:
    """Read, change and write the record atomically, so that no concurrent change is lost; return the new record.

    Raises:
      OSError: the storage refuses to read or write it.
      RecordError: it cannot be read, or a field has the wrong type; the file stays as it was.
    """
    path = as_folder(folder) / RECORD_FILE

    def changed(content: bytes) -> bytes:
        data = change(parse_record(content, path)).to_dict()
        TrialRecord.from_dict(data, path)
        return json_bytes(data, path)

    try:
        return parse_record(store_of(path).change(path, changed), path)
    except FileNotFoundError:
        raise RecordError(f"{path}: no such file; give a trial's folder") from None


def update_record(folder: Path, **changes: Any) -> TrialRecord:
    """Change the named fields of the record; return the new record.

    Raises:
      RecordError: a name is no field of a record, or a value has the wrong type.
    """
    for name in changes:
        if name not in FIELDS:
            raise RecordError(
                f"{as_folder(folder) / RECORD_FILE}: {name}: no such field; use one of {', '.join(FIELDS)}"
            )
    return change_record(folder, lambda record: dataclasses.replace(record, **changes))


def add_retry(folder: Path, reason: str) -> TrialRecord:
    """Append the reason for a retry to the record.

    Raises:
      RecordError: the record cannot be read.
    """
    note = f"{utc_timestamp()} {reason}"
    return change_record(folder, lambda record: dataclasses.replace(record, retries=(*record.retries, note)))


def trial_folders(sweep: Path, *files: str) -> list[Path]:
    """Return the folders right below a sweep's that hold one of these files (by default a record), by name."""
    wanted = files or (RECORD_FILE,)
    return [sweep / name for name in store_of(sweep).folders_with(sweep, wanted)]


def takeover_folder(folder: Path, step: int) -> Path:
    """Return the folder of the learner (an Orbax checkpoint) that a trial took over after `step` steps."""
    return Path(folder) / "checkpoints" / f"{TAKEOVER}{step}"


def read_config(folder: Path) -> dict[str, Any]:
    """Return the composed config of the trial in `folder`.

    Raises:
      RecordError: it is missing or not a YAML mapping.
    """
    return read_yaml(as_folder(folder) / CONFIG_FILE, "restore the file or remove the folder")


def holds_its_config(folder: Path, record: TrialRecord) -> bool:
    """Return whether the trial's id is the digest of config.yaml. Members of a population may change theirs."""
    name = re.sub(r"-r\d+$", "", record.trial_id)  # an older sweep's copies
    sweep = name.rpartition("-")[0]
    return bool(record.lineage) or not sweep or new_trial_id(sweep, read_config(folder), record.seed) == name
