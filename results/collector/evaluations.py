"""The long table of evaluations: a folder of Parquet parts, each for a range of trial numbers of the plan.

`pandas.read_parquet(folder)` can read it too. Rows are ordered by trial as in the index, then by step and seed in the
order of the evaluations, then by metric.
"""

from __future__ import annotations

import io
from collections.abc import Collection, Mapping, Sequence
from itertools import groupby
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from results.collector.packing import INDEX_VERSION, VERSION_KEY
from results.collector.rows import Evaluation, IndexRow

EVALUATION_COLUMNS: Final[Mapping[str, str]] = {
    "trial_id": "str",
    "seed": "int64",
    "step": "int64",
    "metric": "str",
    "value": "float64",
}
_WORDS: Final = ("trial_id", "metric")
_DICTIONARY: Final = pa.dictionary(pa.int32(), pa.string())
SCHEMA: Final = pa.schema(
    {"trial_id": _DICTIONARY, "seed": pa.int64(), "step": pa.int64(), "metric": _DICTIONARY, "value": pa.float64()}
)


def long_table(rows: Sequence[IndexRow]) -> pa.Table:
    """Return the evaluations of `rows`, concatenated."""
    tables = [
        _of_alike(row.fixed["trial_id"], list(run))
        for row in rows
        for _, run in groupby(row.evaluations, key=lambda one: tuple(one.metrics))
    ]
    return pa.concat_tables([SCHEMA.empty_table(), *tables]).unify_dictionaries()


def _of_alike(trial_id: str, evaluations: Sequence[Evaluation]) -> pa.Table:
    """Return the long rows of successive evaluations that have the same metrics."""
    names = list(evaluations[0].metrics)
    order = sorted(range(len(names)), key=names.__getitem__)
    count, width = len(evaluations), len(names)
    values = (
        np.array([list(one.metrics.values()) for one in evaluations], np.float64)
        .reshape(count, width)[:, order]
        .ravel()
    )
    seeds = np.array([one.seed for one in evaluations], np.int64)
    steps = np.array([one.step for one in evaluations], np.int64)
    metrics = np.tile(np.arange(width, dtype=np.int32), count)
    columns = [
        pa.DictionaryArray.from_arrays(np.zeros(count * width, np.int32), pa.array([trial_id], pa.string())),
        pa.array(np.repeat(seeds, width)),
        pa.array(np.repeat(steps, width)),
        pa.DictionaryArray.from_arrays(metrics, pa.array([names[place] for place in order], pa.string())),
        pa.array(values),
    ]
    return pa.table(columns, schema=SCHEMA)


def merged(tables: Sequence[pa.Table], trial_ids: Sequence[str]) -> pa.Table:
    """Return the rows of these trials, in this order. Equal rows give equal tables, however they were split."""
    together = pa.concat_tables(tables).unify_dictionaries().combine_chunks()
    trials, metrics = (together[name].combine_chunks() for name in _WORDS)
    if isinstance(trials, pa.ChunkedArray):  # the table has no rows
        return SCHEMA.empty_table()
    place = {trial_id: number for number, trial_id in enumerate(trial_ids)}
    places = np.array([place.get(name, -1) for name in trials.dictionary.to_pylist()], np.int32)
    of_row = places[trials.indices.to_numpy()]
    rows = np.argsort(of_row, kind="stable")[np.count_nonzero(of_row < 0) :]
    table = together.take(pa.array(rows))
    numbers = metrics.indices.to_numpy()[rows]
    names = metrics.dictionary.to_pylist()
    used = sorted(np.unique(numbers).tolist(), key=names.__getitem__)
    new = np.zeros(len(names), np.int32)
    new[used] = np.arange(len(used))
    present, trial_numbers = np.unique(of_row[rows], return_inverse=True)
    value = table["value"].to_numpy()
    columns = [
        pa.DictionaryArray.from_arrays(
            trial_numbers.astype(np.int32), pa.array([trial_ids[number] for number in present], pa.string())
        ),
        table["seed"],
        table["step"],
        pa.DictionaryArray.from_arrays(new[numbers], pa.array([names[number] for number in used], pa.string())),
        pa.array(value, pa.float64(), mask=np.isnan(value)),
    ]
    return pa.table(columns, schema=SCHEMA)


def only(table: pa.Table, trial_ids: Collection[str]) -> pa.Table:
    """Return the rows of these trials."""
    if not len(table):
        return table
    trials = table["trial_id"].combine_chunks()
    wanted = np.array([name in trial_ids for name in trials.dictionary.to_pylist()])
    return table.filter(pa.array(wanted[trials.indices.to_numpy()]))


def as_part(table: pa.Table) -> bytes:
    """Return a part as the bytes of a Parquet file. Strings are dictionary-encoded in it and read back as strings."""
    buffer = io.BytesIO()
    metadata = {VERSION_KEY: str(INDEX_VERSION).encode()}
    pq.write_table(
        table.replace_schema_metadata(metadata), buffer, compression="zstd", compression_level=1,
        use_dictionary=["trial_id", "metric", "seed", "step"], store_schema=False,
    )  # fmt: skip
    return buffer.getvalue()


def read_part(content: bytes) -> pa.Table:
    """Return a part's rows, with strings as dictionaries.

    Raises:
      OSError, ValueError: the content is not such a file.
    """
    return pq.read_table(io.BytesIO(content), read_dictionary=list(_WORDS))
