"""The trial folders of a sweep, each with a stamp that changes when what is in it does."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from jax_party.store import storage
from jax_party.trial.folder import CONFIG_FILE
from jax_party.trial.metrics import METRICS_FILE
from jax_party.trial.record import RECORD_FILE

KEPT_FOLDER: Final = ".index"
EVALUATIONS_FILE: Final = "evaluations.parquet"
_FILES: Final = (RECORD_FILE, METRICS_FILE, CONFIG_FILE)


@dataclass(frozen=True)
class Listing:
    """What lies in a sweep's folder, or a single run's: the stamp of each trial, and of each file of the parts."""

    trials: Mapping[str, str]
    parts: Mapping[str, str]


def list_folder(folder: Path) -> Listing:
    """The trials and parts in a folder; a single run is the trial `.` of its own folder.

    A folder with a config alone is being created; one with metrics and no record has lost its record.
    """
    if storage.is_remote(folder):
        return _list_remote(folder)
    own = _stamp(str(folder))
    trials = {".": own} if own else {}
    if not own and folder.is_dir():
        with os.scandir(folder) as entries:
            found = {entry.name: _stamp(entry.path) for entry in entries if entry.is_dir()}
        trials = {name: stamp for name, stamp in sorted(found.items()) if stamp}
    parts: dict[str, str] = {}
    for place in (KEPT_FOLDER, EVALUATIONS_FILE):
        with contextlib.suppress(FileNotFoundError, NotADirectoryError), os.scandir(folder / place) as entries:
            parts |= {f"{place}/{e.name}": stamp_of(e.stat()) for e in entries if e.name.startswith("part-")}
    return Listing(trials, parts)


def _stamp(trial: str) -> str:
    """The stamps of a local trial's files together; empty where it is none."""
    stamps = []
    for name in _FILES:
        try:
            stamps.append(stamp_of(os.stat(f"{trial}/{name}")))  # noqa: PTH116 -- three times as fast
        except OSError:
            stamps.append("")
    return "|".join(stamps) if stamps[0] or stamps[1] else ""


def stamp_of(found: os.stat_result) -> str:
    # Files appear by being renamed, so that a new state of one has another inode even within one tick of the clock.
    return f"{found.st_size}-{found.st_mtime_ns}-{found.st_ino}"


def _list_remote(folder: Path) -> Listing:
    tags = storage.tags_below(folder)
    own = "|".join(tags.get(name, "") for name in _FILES)
    if RECORD_FILE in tags or METRICS_FILE in tags:
        trials = {".": own}
    else:
        names = sorted({name.partition("/")[0] for name in tags if name.partition("/")[2] in _FILES[:2]})
        trials = {name: "|".join(tags.get(f"{name}/{file}", "") for file in _FILES) for name in names}
    places = (f"{KEPT_FOLDER}/part-", f"{EVALUATIONS_FILE}/part-")
    return Listing(trials, {name: tag for name, tag in tags.items() if name.startswith(places)})
