"""Load the data of a report from a sweep's tables and folders."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Final

import pandas as pd

from jax_party.errors import RecordError
from jax_party.store.storage import as_folder, store_of
from jax_party.trial.folder import read_record, trial_folders
from jax_party.trial.judged import judge_trial
from jax_party.trial.manifest import MANIFEST_FILE, read_manifest
from jax_party.trial.metrics import read_metrics
from jax_party.trial.record import RECORD_FILE
from jax_party.trial.states import State
from results.collector.index_columns import INDEX_FILE, METRIC_PREFIXES
from results.collector.write import write_index
from results.report.data import SweepData
from results.tables import load_evaluations, load_index

_log = logging.getLogger(__name__)
_NEW: Final = (
    "settled",
    "motion",
    "trend",
    "enough_steps",
    "score",
    "standing",
    "provisional",
    "objective.at",
    "tests",
    "test_seeds_reused",
)
"""Columns that indexes before version 4 lack."""


def load(folder: str | Path) -> SweepData:
    """Return the data of the sweep in `folder`, after collecting it.

    If the folder holds only the tables, or cannot be written, the existing tables are used.

    Raises:
      RecordError: there is no such sweep, its tables cannot be read, or no trial has been evaluated yet.
    """
    place = as_folder(folder)
    store_of(place).check(place)
    collected = store_of(place).is_file(place / INDEX_FILE)
    if collected:
        load_index(place)  # an index of a newer version is refused, not overwritten
    try:
        if not collected or _has_trials(place):
            write_index(place)
    except (RecordError, OSError) as error:
        if not collected:
            raise
        _log.warning("%s: not collected anew (%s)", place, " ".join(str(error).split()))
    index, evaluations = load_index(place), load_evaluations(place)
    for name in _NEW:
        if name not in index:
            index[name] = pd.NA
    _check(place, index, evaluations)
    manifest = read_manifest(place) if store_of(place).is_file(place / MANIFEST_FILE) else None
    return SweepData(place, index, evaluations, manifest, _scores(place, index))


def _has_trials(folder: Path) -> bool:
    """Return whether there are trials to collect: a folder to which only tables were copied has none."""
    return store_of(folder).is_file(folder / RECORD_FILE) or bool(trial_folders(folder))


def _check(folder: Path, index: pd.DataFrame, evaluations: pd.DataFrame) -> None:
    """Raise RecordError if there is nothing to report."""
    if index.empty:
        raise RecordError(f"{folder}: no trials in it; run the sweep first: make resume SWEEP={folder}")
    ended = index["state"].isin([State.FAILED.value, State.PRUNED.value])
    if evaluations.empty and not ended.any():
        counts = index["state"].value_counts()
        states = ", ".join(f"{count} {state}" for state, count in counts.items())
        raise RecordError(f"{folder}: no evaluations yet ({states}); wait for one, then make report SWEEP={folder}")
    if not evaluations.empty and not any(str(name).startswith(METRIC_PREFIXES) for name in index.columns):
        raise RecordError(f"{folder}: the index has no metrics; make it anew: make collect SWEEP={folder}")


def _scores(folder: Path, index: pd.DataFrame) -> dict[str, list[float]]:
    """Return trial id -> the objective of each seed; for trials of several seeds it is read from their folders."""
    scored = index[index["objective.value"].notna()]
    single = scored[scored["num_seeds"].fillna(1) == 1]
    found = {
        str(trial): [float(value)] for trial, value in zip(single["trial_id"], single["objective.value"], strict=True)
    }
    several = scored[scored["num_seeds"].fillna(1) > 1]
    places = list(zip(several["trial_id"], several["folder"], several["objective.value"], strict=True))
    read = store_of(folder).each(lambda one: _seed_values(folder, *one), places)
    return found | {str(trial): values for (trial, _, _), values in zip(places, read, strict=True)}


def _seed_values(sweep: Path, trial: str, place: str, value: float) -> list[float]:
    folder = sweep / place if place != "." else sweep
    try:
        record = read_record(folder)
        found = judge_trial(record, read_metrics(folder))
        return (found.values(record.objective.metric) if found else []) or [float(value)]
    except (RecordError, OSError) as error:
        _log.warning("%s: the scores of its single seeds are unknown (%s)", trial, " ".join(str(error).split()))
        return [float(value)]
