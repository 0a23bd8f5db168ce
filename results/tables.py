"""The sweep index as pandas tables; `python -m results.index <folder>` prints its best rows."""

from __future__ import annotations

import difflib
import functools
import io
import operator
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Final

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from jax_party.errors import RecordError
from jax_party.store.storage import as_folder, store_of
from results.collector.evaluations import EVALUATION_COLUMNS, SCHEMA
from results.collector.index_columns import INDEX_FILE
from results.collector.listing import EVALUATIONS_FILE
from results.collector.packing import INDEX_VERSION, TYPES, VERSION_KEY, as_frame
from results.collector.write import check_folder, index_table, is_sweep_or_run, write_index_of

DEFAULT_ROOT: Final = "experiment_results"


def load_index(path: str | Path) -> pd.DataFrame:
    """Return the index of a sweep: one row per planned trial.

    Args:
      path: the sweep's folder (or a single run's), or its index.parquet.

    Raises:
      RecordError: there is no index yet, or it cannot be read.
    """
    file = _place_of(as_folder(path), INDEX_FILE)
    source = io.BytesIO(store_of(file).read_bytes(file))
    try:
        schema = pq.read_schema(source)
        _check_version(file, schema, file.parent)
        frame = pd.read_parquet(source, engine="pyarrow")
    except (OSError, ValueError) as error:
        raise _damaged(file, error, file.parent) from error
    missing = [column for column in ("sweep", "trial_id", "state") if column not in frame.columns]
    if missing:
        raise RecordError(f"{file}: no column {missing[0]!r}; make it anew: make collect SWEEP={file.parent}")
    return frame


def load_evaluations(
    path: str | Path,
    trials: Collection[str] | None = None,
    metrics: Collection[str] | None = None,
    columns: Sequence[str] | None = None,
) -> pd.DataFrame:
    """Return the evaluations of a sweep in long form: `trial_id`, `seed`, `step`, `metric`, `value`.

    Rows and columns that are not requested are skipped while reading: a sweep of 10,000 trials has ten million rows.

    Args:
      path: the sweep's folder (or a single run's), or its evaluations.parquet, which older versions wrote as one file.
      trials: the ids of the trials to keep; all by default.
      metrics: the names of the metrics to keep; all by default.
      columns: the columns to return; all by default.

    Raises:
      RecordError: there is no table yet, or it cannot be read; it lacks a requested trial, metric or column.
    """
    table = _place_of(as_folder(path), EVALUATIONS_FILE)
    wanted = list(EVALUATION_COLUMNS) if columns is None else list(columns)
    for name in wanted:
        _check_known(table, "column", [name], lambda: list(EVALUATION_COLUMNS))
    given = {"trial_id": trials, "metric": metrics}
    filters = {name: list(values) for name, values in given.items() if values is not None}
    found = _long_rows(table, list(dict.fromkeys([*wanted, *filters])), filters)
    for name, values in filters.items():
        here = set(found[name].unique().to_pylist())
        if not set(values) <= here:
            _check_known(table, name, values, functools.partial(_words, table, name))
    types = pa.schema([(name, TYPES[EVALUATION_COLUMNS[name]]) for name in wanted])
    return found.select(wanted).cast(types).to_pandas()


def _long_rows(table: Path, columns: Sequence[str], filters: Mapping[str, list[str]]) -> pa.Table:
    """Return the rows of all parts, concatenated; strings are dictionary-encoded."""
    wanted = [pc.field(name).isin(pa.array(values, pa.string())) for name, values in filters.items()]
    where = functools.reduce(operator.and_, wanted) if wanted else None
    schema = pa.schema([SCHEMA.field(name) for name in columns])
    tables = []
    for part in _parts_of(table):
        source = io.BytesIO(store_of(part).read_bytes(part))
        try:
            _check_version(part, pq.read_schema(source), table.parent)
            found = pq.read_table(source, columns=list(columns), filters=where, read_dictionary=["trial_id", "metric"])
            tables.append(found.cast(schema))
        except (OSError, ValueError, KeyError) as error:
            raise _damaged(part, error, table.parent) from error
    return pa.concat_tables([schema.empty_table(), *tables]).unify_dictionaries()


def _parts_of(table: Path) -> list[Path]:
    """Return the files of the table; older versions wrote a single one."""
    return [table / name for name in _part_names(table)] or [table]


def _part_names(table: Path) -> list[str]:
    return [name for name in store_of(table).files_below(table) if name.startswith("part-")]


def _words(table: Path, name: str) -> list[str]:
    """Return the distinct values of the column `name`: all trial ids, or all metrics."""
    return [str(word) for word in _long_rows(table, [name], {})[name].unique().to_pylist()]


def _check_known(table: Path, kind: str, wanted: Collection[str], known: Callable[[], list[str]]) -> None:
    names = known()
    for name in wanted:
        if name not in names:
            near = difflib.get_close_matches(name, names, n=5, cutoff=0.4) or sorted(names)[:10]
            what = f"no evaluations of {kind} {name!r}" if kind == "trial_id" else f"no {kind} {name!r}"
            raise RecordError(f"{table}: {what}; use one of {', '.join(near) or 'none: it has no rows'}")


def _place_of(path: Path, name: str) -> Path:
    """Return the path of the table `name`, given a sweep's folder or the path of the table itself.

    Raises:
      RecordError: there is no such table.
    """
    store_of(path).check(path)
    file = path if path.suffix == ".parquet" else path / name
    if store_of(file).is_file(file) or (name == EVALUATIONS_FILE and _part_names(file)):
        return file
    check_folder(file.parent)
    raise RecordError(f"{file}: no such file; make it with: make collect SWEEP={file.parent}")


def _check_version(file: Path, schema: pa.Schema, folder: Path) -> None:
    version = int((schema.metadata or {}).get(VERSION_KEY, b"1"))
    if version > INDEX_VERSION:
        raise RecordError(
            f"{file}: of version {version}, newer than {INDEX_VERSION}, the newest that is known here; upgrade "
            f"jax-party, or make it anew: make collect SWEEP={folder}"
        )


def _damaged(file: Path, error: Exception, folder: Path) -> RecordError:
    reason = " ".join(str(error).split())
    return RecordError(f"{file}: not a Parquet table ({reason}); make it anew: make collect SWEEP={folder}")


def aggregate_outputs(alg_name: str, root: str | Path = DEFAULT_ROOT, run_id: str | None = None) -> pd.DataFrame:
    """Return one table of every trial under `<root>/<alg_name>/<date>/<time>`, and write an index into each folder.

    Args:
      alg_name: the algorithm's folder name, such as `ff_mappo`.
      root: the folder that holds all experiments.
      run_id: a trial id or a sweep's name; if given, only its rows are kept.

    Returns:
      A `sweep_folder` column (the sweep's path), then the index's columns; sorted by folder, then by place in the plan.

    Raises:
      RecordError: there is no such algorithm, it has no runs, or there is no such run id.
    """
    root = as_folder(root)
    store_of(root).check(root)
    folders = _run_folders(root, alg_name)
    found = [write_index_of(folder)[1] for folder in folders]
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
    """Return the rows of one trial or one sweep."""
    names = list(zip(table["trial_id"].to_pylist(), table["sweep"].to_pylist(), strict=True))
    kept = [run_id in of_row for of_row in names]
    if not any(kept):
        known = sorted({name for of_row in names for name in of_row if name})
        near = difflib.get_close_matches(run_id, known, n=5, cutoff=0.4) or known[:5]
        raise RecordError(f"{place}: no trial or sweep {run_id!r}; near it: {', '.join(near)}")
    return table.filter(pa.array(kept))
