"""The trial folders of a sweep, each with a stamp that changes when its contents change."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from jax_party.store.storage import store_of
from jax_party.trial.folder import CONFIG_FILE
from jax_party.trial.metrics import METRICS_FILE
from jax_party.trial.record import RECORD_FILE

KEPT_FOLDER: Final = ".index"
EVALUATIONS_FILE: Final = "evaluations.parquet"
_FILES: Final = (RECORD_FILE, METRICS_FILE, CONFIG_FILE)


@dataclass(frozen=True)
class Listing:
    """The contents of a sweep's folder or a single run's: the stamp of each trial, and of each file of the parts."""

    trials: Mapping[str, str]
    parts: Mapping[str, str]


def list_folder(folder: Path) -> Listing:
    """List the trials and parts in a folder; a single run is the trial `.` of its own folder.

    A folder with only a config is still being created and is not listed; one with metrics and no record has lost its
    record.
    """
    tags = store_of(folder).tags_below(folder, (*_FILES, KEPT_FOLDER, EVALUATIONS_FILE), _FILES)
    places = (f"{KEPT_FOLDER}/part-", f"{EVALUATIONS_FILE}/part-")
    parts = {name: tag for name, tag in tags.items() if name.startswith(places)}
    if RECORD_FILE in tags or METRICS_FILE in tags:
        return Listing({".": _stamp(tags, "")}, parts)
    names = {name.partition("/")[0] for name in tags if name.partition("/")[2] in (RECORD_FILE, METRICS_FILE)}
    return Listing({name: _stamp(tags, f"{name}/") for name in sorted(names)}, parts)


def _stamp(tags: Mapping[str, str], prefix: str) -> str:
    """Return the tags of a trial's files, joined."""
    return "|".join(tags.get(f"{prefix}{name}", "") for name in _FILES)
