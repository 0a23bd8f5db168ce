"""Every sweep below a folder, from its sweep.yaml and its index alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import pandas as pd

from jax_party.errors import RecordError
from jax_party.store.storage import as_folder, store_of
from jax_party.trial.folder import read_record
from jax_party.trial.manifest import MANIFEST_FILE, read_manifest
from jax_party.trial.record import RECORD_FILE
from jax_party.trial.states import State
from results.collector.ranking import best_score, provisional_notes, searched
from results.tables import DEFAULT_ROOT, load_index

DEPTH: Final = 4
COLUMNS: Final = ("name", "folder", "algorithms", "scenarios", "states", "metric", "best", "provisional", "when")


def list_sweeps(root: str | Path = DEFAULT_ROOT) -> pd.DataFrame:
    """Return the sweeps and single runs below `root`, newest first, with the columns `COLUMNS`.

    States and the best objective come from the index; if a folder's index is missing or damaged, `states` says so.
    `provisional` is `yes` if a best configuration is provisional.

    Raises:
      RecordError: there is no such folder, or it holds no sweeps.
    """
    root = as_folder(root)
    store_of(root).check(root)
    if not store_of(root).is_folder(root):
        raise RecordError(f"{root}: no such folder; give the one that holds the algorithms' folders")
    rows = [_row(folder, root) for folder in _folders(root)]
    if not rows:
        raise RecordError(f"{root}: no sweeps in it ({MANIFEST_FILE} or {RECORD_FILE}); run one first")
    rows.sort(key=lambda row: (row["when"] or "", row["folder"]), reverse=True)
    return pd.DataFrame(rows, columns=list(COLUMNS))


def _folders(root: Path) -> list[Path]:
    """Return the folders that hold a sweep.yaml or a single run; folders inside a sweep are not searched."""
    store, marks = store_of(root), (MANIFEST_FILE, RECORD_FILE)
    if any(store.is_file(root / mark) for mark in marks):
        return [root]
    return [root / name for name in store.folders_with(root, marks, DEPTH)]


def _row(folder: Path, root: Path) -> dict[str, Any]:
    row: dict[str, Any] = dict.fromkeys(COLUMNS) | {"name": folder.name, "folder": str(folder)}
    try:
        if store_of(folder).is_file(folder / MANIFEST_FILE):
            manifest = read_manifest(folder)
            row |= {"name": manifest.name, "algorithms": ", ".join(manifest.algorithms), "when": manifest.created}
            row["metric"] = manifest.objective.metric
        else:
            record = read_record(folder)
            row |= {"name": record.trial_id, "algorithms": record.algorithm, "when": record.started_at}
            row["metric"] = record.objective.metric
        index = load_index(folder)
    except RecordError as error:
        there = store_of(folder).is_file(folder / "index.parquet")
        return row | {"states": str(error) if there or not row["algorithms"] else "not collected yet"}
    counts = index["state"].value_counts()
    return row | {
        "scenarios": ", ".join(sorted(index["scenario"].dropna().unique())),
        "states": ", ".join(f"{counts[state.value]} {state.value}" for state in State if state.value in counts),
        "best": best_score(index),
        "provisional": ("yes" if provisional_notes(searched(index)) else None),
    }
