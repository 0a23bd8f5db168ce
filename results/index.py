"""The sweep index as pandas tables; `python -m results.index <folder>` prints its best rows."""

from __future__ import annotations

import difflib
import io
import sys
from pathlib import Path
from typing import Final

import pandas as pd
import pyarrow as pa

from jax_party import records, storage
from jax_party.errors import RecordError
from results.collector import (
    EVALUATION_COLUMNS,
    EVALUATIONS_FILE,
    IDENTITY_COLUMNS,
    INDEX_FILE,
    collect_folder,
    index_table,
    is_sweep_or_run,
)
from results.columns import as_frame

DEFAULT_ROOT: Final = "experiment_results"


def load_index(path: str | Path) -> pd.DataFrame:
    """The index of a sweep: a row for each planned trial.

    Args:
      path: the sweep's folder (or a single run's), or its index.parquet.

    Raises:
      RecordError: there is no index yet, or it cannot be read.
    """
    return _load(records.as_folder(path), INDEX_FILE, list(IDENTITY_COLUMNS))


def load_evaluations(path: str | Path) -> pd.DataFrame:
    """Every evaluation of a sweep in long form: `trial_id`, `seed`, `step`, `metric`, `value`.

    Args:
      path: the sweep's folder (or a single run's), or its evaluations.parquet.

    Raises:
      RecordError: there is no table yet, or it cannot be read.
    """
    return _load(records.as_folder(path), EVALUATIONS_FILE, list(EVALUATION_COLUMNS))


def _load(path: Path, name: str, expected: list[str]) -> pd.DataFrame:
    storage.check(path)
    is_folder = path.suffix != ".parquet" if storage.is_remote(path) else path.is_dir()
    file = path / name if is_folder else path
    folder = file.parent
    if not storage.is_file(file):
        if not storage.is_remote(path) and path.suffix != ".parquet" and not path.is_dir():
            raise RecordError(f"{path}: no such folder; give a sweep's folder or a single run's")
        raise RecordError(f"{file}: no such file; make it with: make collect SWEEP={folder}")
    try:
        frame = pd.read_parquet(io.BytesIO(storage.read_bytes(file)), engine="pyarrow")
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise RecordError(
            f"{file}: not a Parquet table ({reason}); make it anew: make collect SWEEP={folder}"
        ) from error
    missing = [column for column in expected if column not in frame.columns]
    if missing:
        raise RecordError(f"{file}: no column {missing[0]!r}; make it anew: make collect SWEEP={folder}")
    return frame


def aggregate_outputs(alg_name: str, root: str | Path = DEFAULT_ROOT, run_id: str | None = None) -> pd.DataFrame:
    """One table of every trial under `<root>/<alg_name>/<date>/<time>`, and an index written into each folder.

    Args:
      alg_name: the algorithm's folder name, `ff_mappo`.
      root: where experiments are.
      run_id: a trial id or a sweep's name, to keep its rows only.

    Returns:
      The index's columns after `sweep_folder` (its path), sorted by folder and then by place in the plan.

    Raises:
      RecordError: no such algorithm, no run of it, or no such run id.
    """
    root = records.as_folder(root)
    storage.check(root)
    folders = _run_folders(root, alg_name)
    found = [collect_folder(folder)[1] for folder in folders]
    of_rows = [str(folder) for folder, one in zip(folders, found, strict=True) for _ in one.fixed]
    table = index_table(found, before={"sweep_folder": of_rows})
    return as_frame(table if run_id is None else _only(table, run_id, root / alg_name))


def _run_folders(root: Path, alg_name: str) -> list[Path]:
    present = sorted(path.name for path in root.iterdir() if path.is_dir()) if root.is_dir() else []
    if not present:
        raise RecordError(f"{root}: no experiments in it; give the folder that holds the algorithms' folders")
    if alg_name not in present:
        raise RecordError(f"{root}: no algorithm {alg_name!r} in it; use one of {', '.join(present)}")
    folders = [path for path in (root / alg_name).glob("*/*") if path.is_dir() and is_sweep_or_run(path)]
    if not folders:
        raise RecordError(f"{root / alg_name}: no runs in it (<date>/<time>/record.json or sweep.yaml); run one first")
    return sorted(folders, key=str)


def _only(table: pa.Table, run_id: str, place: Path) -> pa.Table:
    """The rows of one trial or one sweep."""
    names = list(zip(table["trial_id"].to_pylist(), table["sweep"].to_pylist(), strict=True))
    kept = [run_id in of_row for of_row in names]
    if not any(kept):
        known = sorted({name for of_row in names for name in of_row if name})
        near = difflib.get_close_matches(run_id, known, n=5, cutoff=0.4) or known[:5]
        raise RecordError(f"{place}: no trial or sweep {run_id!r}; near it: {', '.join(near)}")
    return table.filter(pa.array(kept))


if __name__ == "__main__":
    from results.show import show_main

    sys.exit(show_main())
