"""A sweep's manifest, and the files beside it: the claim made before the sweep, and the verdict."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from jax_party.errors import RecordError
from jax_party.store.files import has_string_keys, plain_value, read_text, read_yaml, write_yaml_atomically
from jax_party.store.storage import as_folder, store_of
from jax_party.trial.field_types import Count, Duplicates, Fields, Integer, Number, ObjectiveField, Text, Texts, typed
from jax_party.trial.upgrades import upgraded_manifest

MANIFEST_FILE: Final = "sweep.yaml"
CLAIM_FILE: Final = "claim.yaml"
VERDICT_FILE: Final = "verdict.json"


@dataclass(frozen=True, kw_only=True)
class SweepManifest:
    """The content of sweep.yaml: the sweep as composed, and its provenance."""

    name: Text
    engine: Text = "native"
    algorithm: Text
    algorithms: Texts
    created: Text
    num_trials: Count
    samples: Count | None = None
    objective: ObjectiveField
    seed: Integer
    num_seeds: Count = 1
    pack: Count = 1
    gpus_per_trial: Number | None = None
    budget: Fields = field(default_factory=dict)
    search: Any = None
    sampler: Any = None
    scheduler: Any = None
    scenario_mode: Text = "grid"
    warm_start: Texts = ()
    duplicates: Duplicates = "seeds"
    space: Any = None
    overrides: Any = None
    provenance: Fields = field(default_factory=dict)

    @property
    def scenarios(self) -> tuple[str, ...]:
        """Requested scenarios, in order; empty if the config's own scenario is meant."""
        named = self.overrides.get("env/scenario") if isinstance(self.overrides, Mapping) else None
        return (named,) if isinstance(named, str) else tuple(dict.fromkeys(named or ()))


def read_manifest(folder: Path) -> SweepManifest:
    """Return the manifest of the sweep in `folder`.

    Raises:
      RecordError: it is missing, not YAML, or a key is missing, unknown or ill-typed.
    """
    path = as_folder(folder) / MANIFEST_FILE
    data = read_yaml(path, "give a sweep's folder")
    return typed(SweepManifest, upgraded_manifest(data), path)


def write_manifest(folder: Path, manifest: SweepManifest) -> None:
    """Write sweep.yaml; create the folder if there is none.

    Raises:
      RecordError: a field has the wrong type; the file stays as it was.
    """
    path = as_folder(folder) / MANIFEST_FILE
    data = {item.name: getattr(manifest, item.name) for item in dataclasses.fields(manifest)}
    data["objective"] = dataclasses.asdict(manifest.objective)
    content = plain_value(data, str(path))
    typed(SweepManifest, content, path)
    store_of(path).make_folder(path.parent)
    write_yaml_atomically(path, content)


def read_sweep_file(folder: Path) -> dict[str, Any]:
    """Return the content of sweep.yaml, whatever its version.

    Raises:
      RecordError: it is missing or not a YAML mapping.
    """
    return read_yaml(as_folder(folder) / MANIFEST_FILE, "give a sweep's folder")


def read_claim(folder: Path) -> tuple[dict[str, Any], dict[str, Any]] | None:
    """Return the contents of claim.yaml and sweep.yaml; None if nothing was claimed.

    Raises:
      RecordError: claim.yaml is gone although sweep.yaml's provenance knows of it, or one of them is not YAML.
    """
    folder = as_folder(folder)
    manifest = read_sweep_file(folder)
    provenance = manifest.get("provenance")
    known = isinstance(provenance, Mapping) and "claim" in provenance
    if not known and not store_of(folder).is_file(folder / CLAIM_FILE):
        return None
    return read_yaml(folder / CLAIM_FILE, "restore it: verdicts are on the claims as they were made"), manifest


def read_verdict(folder: Path) -> dict[str, Any] | None:
    """Return the content of verdict.json; None if there is none.

    Raises:
      RecordError: it is not a JSON object.
    """
    path = as_folder(folder) / VERDICT_FILE
    if not store_of(path).is_file(path):
        return None
    remedy = "remove it, and give the verdict again: make verdict SWEEP=…"
    try:
        found = json.loads(read_text(path, remedy))
    except json.JSONDecodeError as error:
        raise RecordError(f"{path}: not JSON ({error}); {remedy}") from error
    if not has_string_keys(found) or not isinstance(found.get("claims"), list):
        raise RecordError(f"{path}: expected an object with claims; {remedy}")
    return dict(found)
