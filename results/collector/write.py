"""The collector: reads trial folders and writes the sweep's index. It neither deletes nor moves a trial's files.

It may run at any time, also while the sweep runs. Equal folders give equal bytes, whether trials were read now or
cached by an earlier run (`results.collector.incremental`)."""

from __future__ import annotations

import functools
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from jax_party.errors import RecordError
from jax_party.store.files import write_bytes_atomically
from jax_party.store.storage import as_folder, store_of
from jax_party.trial.manifest import MANIFEST_FILE, read_manifest
from jax_party.trial.record import RECORD_FILE
from results.collector import incremental, packing
from results.collector.index_columns import (
    FIXED_COLUMNS,
    IDENTITY_COLUMNS,
    INDEX_CSV_FILE,
    INDEX_FILE,
    METRIC_PREFIXES,
    OUTCOME_COLUMNS,
    PLACE_COLUMNS,
)
from results.collector.listing import EVALUATIONS_FILE, list_folder
from results.collector.standings import judge_objectives, judge_promotions, judge_promotions_over_scenarios
from results.collector.trial_rows import pending_rows, read_trial


@dataclass(frozen=True)
class CollectedPaths:
    """The files that `write_index` wrote."""

    index: Path
    index_csv: Path
    evaluations: Path


@dataclass(frozen=True)
class Collection:
    """A collected sweep: the fixed columns of its rows in the plan's order, and the other columns as the tables of its
    parts; taking the rows of the concatenated tables at `order` gives the plan's order.
    """

    fixed: list[dict[str, Any]]
    tables: list[pa.Table]
    order: list[int]


def write_index(sweep_folder: str | Path) -> CollectedPaths:
    """Bring index.parquet, index.csv and evaluations.parquet up to date in a sweep's folder, or in a single run's.

    Every planned trial has a row: a trial without a folder is PENDING; one whose files cannot be read is FAILED, with
    the reason as its error. Trials whose files have not changed since the last call are not read again.

    Raises:
      RecordError: there is no such folder, it holds no trial, its sweep.yaml cannot be read, or it has an index but the
        folders of all its trials are gone.
    """
    return write_index_of(as_folder(sweep_folder))[0]


def write_index_of(folder: Path) -> tuple[CollectedPaths, Collection]:
    """Write the index as `write_index` does, and also return what was collected. The index is written last."""
    check_folder(folder)
    incremental.make_folders(folder)
    with incremental.alone(folder):
        found = _read_collection(folder)
        paths = CollectedPaths(folder / INDEX_FILE, folder / INDEX_CSV_FILE, folder / EVALUATIONS_FILE)
        table = index_table([found])
        write_bytes_atomically(paths.index_csv, packing.as_csv(table))
        write_bytes_atomically(paths.index, packing.as_parquet(table))
    return paths, found


def is_sweep_or_run(folder: Path) -> bool:
    """Return whether `folder` is a sweep's or a single run's, so that `write_index` has something to read."""
    return store_of(folder).is_file(folder / MANIFEST_FILE) or bool(list_folder(folder).trials)


def check_folder(folder: Path) -> None:
    """Raise RecordError if there is nothing in `folder` to collect."""
    store_of(folder).check(folder)
    if not store_of(folder).is_folder(folder):
        raise RecordError(f"{folder}: no such folder; give a sweep's folder or a single run's")
    if not is_sweep_or_run(folder):
        raise RecordError(
            f"{folder}: no trials in it (neither {MANIFEST_FILE} nor a folder with {RECORD_FILE}); "
            "give a sweep's folder or a single run's"
        )
    if store_of(folder).is_file(folder / MANIFEST_FILE):
        read_manifest(folder)


def _read_collection(folder: Path) -> Collection:
    """Return one row per planned trial of the sweep or single run in `folder`, in the plan's order.

    Raises:
      RecordError: sweep.yaml cannot be read, or an index exists but the folders of all its trials are gone.
    """
    listing = list_folder(folder)
    if not listing.trials:
        _check_never_begun(folder)
    manifest = read_manifest(folder) if store_of(folder).is_file(folder / MANIFEST_FILE) else None
    reader = incremental.Reader(functools.partial(read_trial, folder, manifest), FIXED_COLUMNS)
    tables, rows, unreadable = incremental.update(folder, listing, reader)
    rows += unreadable
    judge_promotions(rows)
    if manifest is not None:
        judge_objectives(rows, manifest)
        if manifest.scenario_mode == "mean":
            judge_promotions_over_scenarios(rows)
        pending = list(pending_rows(folder, manifest, rows))
        rows, unreadable = rows + pending, unreadable + pending
    if unreadable:
        tables = [*tables, packing.pack(unreadable, FIXED_COLUMNS)]
    order = sorted(range(len(rows)), key=lambda place: rows[place].order)
    return Collection([rows[place].fixed for place in order], tables, order)


def _check_never_begun(folder: Path) -> None:
    """Refuse to replace an index that has trials when all their folders are gone: only tables were copied, or trials
    removed.
    """
    content = store_of(folder).read_bytes(folder / INDEX_FILE) if store_of(folder).is_file(folder / INDEX_FILE) else b""
    try:
        played = pq.read_table(io.BytesIO(content), columns=["folder"])["folder"].drop_null() if content else []
    except (OSError, ValueError):  # damaged: there is nothing to lose
        return
    if len(played):
        raise RecordError(
            f"{folder}: the folders of all {len(played)} trials of its index are gone, {played[0]} and so on; put them "
            f"back, or, to begin anew, remove {INDEX_FILE}; make index and make report read the tables as they are"
        )


def index_table(collections: Sequence[Collection], before: Mapping[str, Sequence[str]] | None = None) -> pa.Table:
    """Return the rows of all collections as one index table; the columns `before` (name -> texts) come first."""
    tables = [table for one in collections for table in one.tables]
    rows = [row for one in collections for row in one.fixed]
    sizes = [sum(map(len, one.tables)) for one in collections]
    firsts = np.cumsum([0, *sizes[:-1]])
    orders = [first + np.array(one.order, np.int64) for first, one in zip(firsts, collections, strict=True)]
    order = pa.array(np.concatenate(orders))

    def fixed(dtypes: Mapping[str, str]) -> dict[str, pa.ChunkedArray]:
        return {
            name: pa.chunked_array([array]) for name, array in zip(dtypes, packing.typed(rows, dtypes), strict=True)
        }

    def others(group: str) -> dict[str, pa.ChunkedArray]:
        return {name: column.take(order) for name, column in packing.merge(tables, group).items()}

    metrics = others(packing.METRICS)
    names = [name for prefix in METRIC_PREFIXES for name in metrics if name.startswith(prefix)]
    return packing.finished(
        {name: pa.chunked_array([pa.array(values, pa.string())]) for name, values in (before or {}).items()}
        | fixed(IDENTITY_COLUMNS)
        | others(packing.HYPERPARAMETERS)
        | fixed(OUTCOME_COLUMNS)
        | {name: metrics[name] for name in names}
        | fixed(PLACE_COLUMNS)
        | others(packing.CONFIG)
    )
