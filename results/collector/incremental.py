"""The collector's cache of the folders that it has read, so that it reads each state of a trial only once.

Each part covers a range of trial numbers of the plan: `evaluations.parquet/part-<n>.parquet` holds their long rows, and
`.index/part-<n>.arrow` their rows of the index and, per trial, the stamp of the files it was read from. A trial with an
unchanged stamp is not read again. The trial's number alone decides its part, so that equal folders give equal
evaluations regardless of their history. A part that is damaged, of another version, or inconsistent with its
evaluations file is rebuilt; `.index` may be deleted at any time, and only the collector reads it."""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec
import pyarrow as pa

from jax_party.errors import RecordError
from jax_party.store.storage import lock_folder, store_of
from jax_party.trial.record import RECORD_FILE
from jax_party.trial.upgrades import SCHEMA_VERSION
from results.collector import evaluations, packing
from results.collector.listing import EVALUATIONS_FILE, KEPT_FOLDER, Listing
from results.collector.rows import IndexRow

PART_TRIALS: Final = 250
LAYOUT: Final = 2
"""Increase this when trials are read in another way, so that cached parts are read again."""
PROCESSES: Final = 2
POOL_FROM: Final = 1000  # trials to read; below this, starting processes takes longer than they save
_LAYOUT_KEY: Final = b"layout"
_BESIDE_KEY: Final = b"evaluations"
_KEPT: Final = ("kept:trial", "kept:stamp", "kept:nulls", "kept:of_seeds")
_DAMAGED: Final = (OSError, ValueError, KeyError, pa.ArrowException)  # raised for a file with other content


@dataclass(frozen=True)
class Reader:
    """How to read a trial; it can be pickled for worker processes.

    Attributes:
      read: returns the row of a trial, given its folder's name, or `.` for a single run.
      fixed: dtypes of the columns that every index has.
    """

    read: Callable[[str], IndexRow]
    fixed: Mapping[str, str]

    @property
    def layout(self) -> bytes:
        """What a cached part must match to be usable."""
        return repr((LAYOUT, PART_TRIALS, SCHEMA_VERSION, packing.INDEX_VERSION, sorted(self.fixed.items()))).encode()


@dataclass(frozen=True)
class Part:
    """The cached index rows of a part, and the stamp of its evaluations file."""

    table: pa.Table

    @property
    def stamps(self) -> dict[str, str]:
        """Trial -> the stamp of its files when they were read."""
        names, stamps = (self.table[name].to_pylist() for name in ("kept:trial", "kept:stamp"))
        return dict(zip(names, stamps, strict=True))

    @property
    def beside(self) -> str:
        """The stamp of the evaluations file that was written with this part."""
        return str(self.table.schema.metadata[_BESIDE_KEY].decode())

    def rows(self, fixed: Mapping[str, str]) -> list[IndexRow]:
        """Return the rows with the fixed columns and the values they are ranked by; other columns stay in the table."""
        cells = [self.table[packing.FIXED + name].to_pylist() for name in fixed]
        seeds = map(msgspec.json.decode, self.table["kept:of_seeds"].to_pylist())
        return [
            IndexRow(dict(zip(fixed, values, strict=True)), of_seeds=of_seeds)
            for *values, of_seeds in zip(*cells, seeds, strict=True)
        ]


def kept_file(number: int) -> str:
    """Return the path of a part's index rows, relative to the sweep's folder."""
    return f"{KEPT_FOLDER}/part-{number:05d}.arrow"


def evaluations_file(number: int) -> str:
    """Return the path of a part's evaluations, relative to the sweep's folder."""
    return f"{EVALUATIONS_FILE}/part-{number:05d}.parquet"


def load(folder: Path, number: int, layout: bytes, stamps: Mapping[str, str]) -> Part | None:
    """Return a part with this layout and a matching evaluations file; None if it has to be rebuilt.

    Args:
      folder: the sweep's folder.
      number: the part's number.
      layout: that of the `Reader`.
      stamps: the stamps of the parts' files, as `list_folder` found them.
    """
    if kept_file(number) not in stamps:
        return None
    try:
        part = _decoded(store_of(folder).read_bytes(folder / kept_file(number)))
        fits = part.table.schema.metadata[_LAYOUT_KEY] == layout
        return part if fits and part.beside == stamps.get(evaluations_file(number)) else None
    except _DAMAGED:
        return None


def _encoded(table: pa.Table) -> bytes:
    buffer = io.BytesIO()
    with pa.ipc.new_file(buffer, table.schema, options=pa.ipc.IpcWriteOptions(compression="lz4")) as writer:
        writer.write_table(table)
    return buffer.getvalue()


def _decoded(content: bytes) -> Part:
    with pa.ipc.open_file(content) as reader:
        table = reader.read_all()
    if not set(_KEPT) <= set(table.column_names):
        raise ValueError("not a part")
    return Part(table)


def _write(path: Path, content: bytes) -> str:
    """Write `content` to `path` atomically and return its stamp. A write undone by a power cut loses nothing."""
    return store_of(path).write_bytes(path, content, durable=False)


def make_folders(folder: Path) -> None:
    """Create the folders of the parts; the evaluations' folder replaces the single file of older versions."""
    store, table = store_of(folder), folder / EVALUATIONS_FILE
    if store.is_file(table):
        store.remove([table])
    store.make_folder(table)
    store.make_folder(folder / KEPT_FOLDER)


def remove(folder: Path, names: Collection[str]) -> None:
    """Remove the files of parts whose trials are gone."""
    store_of(folder).remove(folder / name for name in names)


@contextlib.contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Hold the folder's lock, so that only one process of this file system collects into it at a time.

    Without locks (object storage, some network drives) two processes may write at once. Each file is still whole, and
    the next collection rebuilds a part that does not match its evaluations file.
    """
    with contextlib.ExitStack() as held:
        if store_of(folder).on_disk(folder) is not None:
            with contextlib.suppress(RecordError):
                held.enter_context(lock_folder(folder / KEPT_FOLDER, timeout=600.0))
        yield


@dataclass(frozen=True)
class Task:
    """A part to bring up to date: the current stamps of its trials, and those of the parts' files."""

    folder: Path
    number: int
    trials: Mapping[str, str]
    files: Mapping[str, str]


@dataclass(frozen=True)
class Done:
    """A part's index rows as the bytes of a file, and the rows of trials that could not be read."""

    number: int
    part: bytes
    unreadable: list[IndexRow]


def update(folder: Path, listing: Listing, reader: Reader) -> tuple[list[pa.Table], list[IndexRow], list[IndexRow]]:
    """Read new and changed trials, write the parts that they belong to, and return everything.

    Returns:
      The parts' tables in the plan's order, their rows as `Part.rows` gives them, and the rows of unreadable trials.
    """
    there = {int(name.rpartition("-")[2].partition(".")[0]) for name in listing.parts if name.startswith(KEPT_FOLDER)}
    kept = {number: part for number in sorted(there)
            if (part := load(folder, number, reader.layout, listing.parts)) is not None}  # fmt: skip
    stamps = {name: (stamp, number) for number, part in kept.items() for name, stamp in part.stamps.items()}
    known = {name: number for name, (_, number) in stamps.items() if name in listing.trials}
    new = [name for name in listing.trials if name not in known]
    store = store_of(folder)
    numbers = dict(zip(new, store.each(lambda name: _number(folder / name), new), strict=True))
    loose = [name for name, number in numbers.items() if number is None]
    trials: dict[int, dict[str, str]] = {0: {}}
    for name, stamp in listing.trials.items():
        number = known.get(name, numbers.get(name))
        if number is not None:
            trials.setdefault(number, {})[name] = stamp
    tasks = [Task(folder, number, of_part, listing.parts) for number, of_part in sorted(trials.items())
             if number not in kept or kept[number].stamps != of_part]  # fmt: skip
    unreadable = store.each(reader.read, loose)
    for done in _each(tasks, reader, sum(stamps.get(n, ("",))[0] != s for n, s in listing.trials.items())):
        kept[done.number] = _decoded(done.part)
        unreadable += done.unreadable
    names = {file(number) for number in trials for file in (kept_file, evaluations_file)}
    remove(folder, set(listing.parts) - names)
    parts = [kept[number] for number in sorted(trials)]
    return [part.table for part in parts], [row for part in parts for row in part.rows(reader.fixed)], unreadable


def _each(tasks: Sequence[Task], reader: Reader, to_read: int) -> Iterator[Done]:
    """Run the tasks, in two processes if there is much to read and more than one core."""
    local = bool(tasks) and store_of(tasks[0].folder).on_disk(tasks[0].folder) is not None
    if to_read < POOL_FROM or len(tasks) < 2 or len(os.sched_getaffinity(0)) < 2 or not local:
        yield from (bring_up(task, reader) for task in tasks)
        return
    import loky

    with loky.ProcessPoolExecutor(PROCESSES) as pool:  # works without `if __name__ == "__main__"` in a user's script
        yield from pool.map(bring_up, tasks, [reader] * len(tasks))


class _Numbered(msgspec.Struct):
    number: int


_decoder = msgspec.json.Decoder(_Numbered)  # made here: threads that use a class for the first time at once crash


def _number(trial: Path) -> int | None:
    """Return the part that a trial belongs to; None if its record does not say."""
    try:
        number = _decoder.decode(store_of(trial).read_bytes(trial / RECORD_FILE)).number
    except (OSError, ValueError):
        return None
    return number // PART_TRIALS if 0 <= number < 2**63 else None


def bring_up(task: Task, reader: Reader) -> Done:
    """Read the new and changed trials of a part, and write the part if it has changed."""
    part, old = _as_it_was(task, reader)
    known = {} if part is None else {n: s for n, s in part.stamps.items() if task.trials.get(n) == s}
    rows, unreadable = _read(task, [name for name in task.trials if name not in known], reader)
    if part is not None and not rows and len(known) == len(part.table):
        return Done(task.number, _encoded(part.table), unreadable)
    tables = [_packed(task, rows, reader)]
    if part is not None:
        tables.insert(0, _kept_rows(part, known))
    table = packing.joined(tables)
    table = table.take(pa.array(_order(table), pa.int64()))
    ids = table[f"{packing.FIXED}trial_id"].to_pylist()
    long = evaluations.long_table([row for _, row in rows])
    if old is not None:
        of_known = set(tables[0][f"{packing.FIXED}trial_id"].to_pylist())
        long = pa.concat_tables([evaluations.only(old, of_known), long])
    beside = _write(task.folder / evaluations_file(task.number), evaluations.as_part(evaluations.merged([long], ids)))
    content = _encoded(table.replace_schema_metadata({_LAYOUT_KEY: reader.layout, _BESIDE_KEY: beside}))
    _write(task.folder / kept_file(task.number), content)
    return Done(task.number, content, unreadable)


def _kept_rows(part: Part, known: Collection[str]) -> pa.Table:
    """Return the unchanged rows of a part, without the columns that none of them has."""
    table = part.table.filter(pa.array([name in known for name in part.stamps], pa.bool_()))
    nulls = {name for text in set(table["kept:nulls"].to_pylist()) for name in msgspec.json.decode(text)}
    return packing.without_absent(table, nulls)


def _as_it_was(task: Task, reader: Reader) -> tuple[Part | None, pa.Table | None]:
    """Return the part and its evaluations, if both are intact and each trial's evaluations can be found by its id."""
    part = load(task.folder, task.number, reader.layout, task.files)
    if part is None or not _are_told_apart(part, task):
        return None, None
    try:
        content = store_of(task.folder).read_bytes(task.folder / evaluations_file(task.number))
        return part, evaluations.read_part(content).cast(evaluations.SCHEMA)
    except _DAMAGED:
        return None, None


def _are_told_apart(part: Part, task: Task) -> bool:
    """Return whether each trial's id is its folder's name; a folder that somebody copied carries another's id."""
    ids = part.table[f"{packing.FIXED}trial_id"].to_pylist()
    return all(trial in (trial_id, ".") for trial, trial_id in zip(part.stamps, ids, strict=True)) and (
        "." not in part.stamps or len(task.trials) == 1
    )


def _read(task: Task, names: Sequence[str], reader: Reader) -> tuple[list[tuple[str, IndexRow]], list[IndexRow]]:
    """Return the rows of these trials with their names, and the rows of the unreadable ones."""
    rows = store_of(task.folder).each(reader.read, names)
    together = list(zip(names, rows, strict=True))
    return [(name, row) for name, row in together if row.readable], [row for row in rows if not row.readable]


def _packed(task: Task, rows: Sequence[tuple[str, IndexRow]], reader: Reader) -> pa.Table:
    """Return the rows as a part's table, with the cache's own columns for each trial."""
    encode = msgspec.json.encode
    kept = {
        "kept:trial": [name for name, _ in rows],
        "kept:stamp": [task.trials[name] for name, _ in rows],
        "kept:nulls": [encode(packing.nulls_of(row)).decode() for _, row in rows],
        "kept:of_seeds": [encode(list(row.of_seeds)).decode() for _, row in rows],
    }
    table = packing.pack([row for _, row in rows], reader.fixed)
    for name, values in kept.items():
        table = table.append_column(name, pa.array(values, pa.string()))
    return table


def _order(table: pa.Table) -> list[int]:
    """Return the indices that sort a part's rows in the plan's order."""
    names = (f"{packing.FIXED}number", f"{packing.FIXED}trial_id", "kept:trial")
    keys = list(zip(*(table[name].to_pylist() for name in names), strict=True))
    return sorted(range(len(keys)), key=keys.__getitem__)
