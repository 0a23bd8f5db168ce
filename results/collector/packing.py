"""Arrow columns of the index: packed from rows into parts, merged from parts, and written as Parquet and CSV.

A part's table holds four groups of columns, distinguished by the prefix of their names. Cells keep their Python types,
so that the type of a merged column depends on all of its cells and not on how they were split into parts.
"""

from __future__ import annotations

import io
import json
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Final

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq

from results.collector.rows import IndexRow

FIXED: Final = "fixed:"
HYPERPARAMETERS: Final = "hyperparameters:"
METRICS: Final = "metrics:"
CONFIG: Final = "config:"
VERSION_KEY: Final = b"jax_party.index_version"
INDEX_VERSION: Final = 4
"""The version of index.parquet and evaluations.parquet; `docs/results_format.md` describes each version."""

#: The Arrow type for each pandas dtype.
TYPES: Final[Mapping[str, pa.DataType]] = {
    "str": pa.string(), "Int64": pa.int64(), "int64": pa.int64(), "float64": pa.float64(), "boolean": pa.bool_(),
}  # fmt: skip
_DTYPES: Final = {pa.string(): "str", pa.int64(): "Int64", pa.float64(): "float64", pa.bool_(): "boolean"}
_PLAIN: Final = {bool: pa.bool_(), int: pa.int64(), float: pa.float64(), str: pa.string()}
_UNLIKE: Final = {b"cells": b"json"}
INT64_RANGE: Final = range(-(2**63), 2**63)


def pack(rows: Sequence[IndexRow], fixed: Mapping[str, str]) -> pa.Table:
    """Return a part's table of these rows: columns in `fixed` with their dtypes, others with inferred types."""
    columns = [(pa.field(FIXED + name, TYPES[dtype]), array) for (name, dtype), array in
               zip(fixed.items(), typed([row.fixed for row in rows], fixed), strict=True)]  # fmt: skip
    for of_group in (HYPERPARAMETERS, CONFIG):
        cells = [row.hyperparameters if of_group == HYPERPARAMETERS else row.config for row in rows]
        for name in _names(cells):
            kept, unlike, values = _kept([row.get(name) for row in cells])
            field = pa.field(of_group + name, kept, metadata=_UNLIKE if unlike else None)
            columns.append((field, pa.array(values, kept)))
    metrics = [row.metrics for row in rows]
    dtypes = dict.fromkeys(_names(metrics), "float64")
    columns += [(pa.field(METRICS + name, pa.float64()), array) for name, array in
                zip(dtypes, typed(metrics, dtypes), strict=True)]  # fmt: skip
    return pa.table([array for _, array in columns], schema=pa.schema([field for field, _ in columns]))


def nulls_of(row: IndexRow) -> list[str]:
    """Return the columns that are present in the row with no value; columns that the row lacks are not listed."""
    groups = {HYPERPARAMETERS: row.hyperparameters, METRICS: row.metrics, CONFIG: row.config}
    return [group + name for group, cells in groups.items() for name, value in cells.items() if value is None]


def without_absent(table: pa.Table, nulls: Collection[str]) -> pa.Table:
    """Return a part's table without the columns that no row has; `nulls` are those some row has without a value."""
    gone = [
        name
        for name, column in zip(table.column_names, table.columns, strict=True)
        if name.startswith((HYPERPARAMETERS, METRICS, CONFIG)) and column.null_count == len(table) and name not in nulls
    ]
    return table.drop_columns(gone)


def typed(rows: Sequence[Mapping[str, Any]], dtypes: Mapping[str, str]) -> list[pa.Array]:
    """Return one column per entry of `dtypes`, even if no row has it."""
    return [pa.array([row.get(name) for row in rows], TYPES[dtype]) for name, dtype in dtypes.items()]


def _names(cells: Sequence[Mapping[str, Any]]) -> list[str]:
    return sorted({name for of_row in cells for name in of_row})


def _kept(values: list[Any]) -> tuple[pa.DataType, bool, list[Any]]:
    """Return the type of a part's column and its values; cells of mixed types are each stored as JSON text."""
    kinds = {type(value) for value in values} - {type(None)}
    if not kinds:
        return pa.null(), False, values
    kind = kinds.pop()
    if kinds or (kind is int and not all(value in INT64_RANGE for value in values if value is not None)):
        return pa.string(), True, [None if value is None else json.dumps(value) for value in values]
    return _PLAIN[kind], False, values


def joined(tables: Sequence[pa.Table]) -> pa.Table:
    """Concatenate parts' tables; the result equals a table packed from all rows at once."""
    places = [_places(table) for table in tables]
    names = sorted({name for of_table in places for name in of_table})
    found = [_below(name, tables, places, whole=False) for name in names]
    return pa.table([array for _, array in found], schema=pa.schema([field for field, _ in found])).combine_chunks()


def merge(tables: Sequence[pa.Table], group: str) -> dict[str, pa.ChunkedArray]:
    """Concatenate the columns of a group over all tables, by name; each column gets a type that holds all its cells."""
    places = [_places(table) for table in tables]
    names = sorted({name for of_table in places for name in of_table if name.startswith(group)})
    return {name.removeprefix(group): _below(name, tables, places, whole=True)[1] for name in names}


def _places(table: pa.Table) -> dict[str, int]:
    return {name: place for place, name in enumerate(table.column_names)}


def _below(
    name: str, tables: Sequence[pa.Table], places: Sequence[Mapping[str, int]], whole: bool
) -> tuple[pa.Field, pa.ChunkedArray]:
    """Concatenate one column over all tables, absent cells as null: for the index if `whole`, otherwise for a part."""
    found = [table.field(place[name]) if name in place else None for table, place in zip(tables, places, strict=True)]
    types = {field.type for field in found if field is not None} - {pa.null()}
    unlike = any(field is not None and field.metadata for field in found)
    if unlike or not (len(types) <= 1 or (whole and types == {pa.int64(), pa.float64()})):
        cells = [cell for table, field in zip(tables, found, strict=True) for cell in _cells(table, field)]
        return _of_cells(name, cells, whole)
    kept = pa.float64() if len(types) > 1 else types.pop() if types else pa.string() if whole else pa.null()
    chunks: list[pa.Array] = []
    for table, field in zip(tables, found, strict=True):
        if field is None or field.type == pa.null():
            chunks.append(pa.nulls(len(table), kept))
        else:
            chunks += table.column(field.name).cast(kept, safe=False).chunks
    return pa.field(name, kept), pa.chunked_array(chunks, kept)


def _of_cells(name: str, cells: list[Any], whole: bool) -> tuple[pa.Field, pa.ChunkedArray]:
    if whole:
        dtype, values = _inferred(cells)
        kept, unlike = TYPES[dtype], False
    else:
        kept, unlike, values = _kept(cells)
    return pa.field(name, kept, metadata=_UNLIKE if unlike else None), pa.chunked_array([pa.array(values, kept)])


def _cells(table: pa.Table, field: pa.Field | None) -> list[Any]:
    """Return the Python values of a part's column."""
    if field is None:
        return [None] * len(table)
    values: list[Any] = table.column(field.name).to_pylist()
    return [None if value is None else json.loads(value) for value in values] if field.metadata else values


def _inferred(values: list[Any]) -> tuple[str, list[Any]]:
    """Return a dtype that holds all `values`, and the values converted to it; mixed types become JSON text."""
    kinds = {type(value) for value in values if value is not None}
    if kinds == {bool}:
        return "boolean", values
    if kinds == {int} and all(value in INT64_RANGE for value in values if value is not None):
        return "Int64", values
    if kinds and kinds <= {int, float}:
        return "float64", [None if value is None else float(value) for value in values]
    if kinds <= {str}:
        return "str", values
    return "str", [None if v is None else v if isinstance(v, str) else json.dumps(v) for v in values]


def finished(columns: Mapping[str, pa.ChunkedArray]) -> pa.Table:
    """Return the index's table as pandas reads it: NaN becomes null; the metadata holds the dtypes and the version."""
    arrays = [
        pc.if_else(pc.is_nan(column), pa.scalar(None, pa.float64()), column) if column.type == pa.float64() else column
        for column in columns.values()
    ]
    dtypes = {name: pd.Series(dtype=_DTYPES[array.type]) for name, array in zip(columns, arrays, strict=True)}
    metadata = pa.Schema.from_pandas(pd.DataFrame(dtypes), preserve_index=False).metadata
    schema = pa.schema(
        [pa.field(name, array.type) for name, array in zip(columns, arrays, strict=True)],
        metadata={**metadata, VERSION_KEY: str(INDEX_VERSION).encode()},
    )
    return pa.table(arrays, schema=schema)


def as_parquet(table: pa.Table) -> bytes:
    """Return a table as the bytes of a Parquet file."""
    buffer = io.BytesIO()
    pq.write_table(table, buffer)
    return buffer.getvalue()


def as_csv(table: pa.Table) -> bytes:
    """Return a table as the bytes of a CSV file; strings are quoted, so that an empty string differs from a null."""
    buffer = io.BytesIO()
    pyarrow.csv.write_csv(table, buffer)
    return buffer.getvalue()


def as_frame(table: pa.Table) -> pd.DataFrame:
    """Return a table as a pandas frame, with the dtypes that `finished` recorded."""
    return table.to_pandas()
