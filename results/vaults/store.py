"""One vault on disk, with TensorStore alone: read lazily, or written so that Flashbax can read it."""

from __future__ import annotations

import contextlib
import json
from ast import literal_eval
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import tensorstore as ts
from numpy.typing import NDArray

from jax_party.errors import VaultError
from jax_party.store.local import aside

METADATA_FILE: Final = "metadata.json"
FLASHBAX_VERSION: Final = 1.2
BLOCK_BYTES: Final = 64 * 2**20
_INDEX: Final = "vault_index"
_TIME_AXIS: Final = int(10e12)
_CHUNK_STEPS: Final = 128
_CHUNK_BYTES: Final = 4 * 2**20
_COMPRESSION: Final = {"id": "zstd", "level": 1}
_REMEDY: Final = "restore it, or repeat the trial: make rerun TRIAL=<trial id>"

Array = NDArray[Any]
Fields = dict[str, Array]


@dataclass(frozen=True)
class FieldSpec:
    """A field's dtype, and its shape at one step of one environment."""

    dtype: np.dtype[Any]
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        """The number of bytes of one step of one environment."""
        return self.dtype.itemsize * int(np.prod(self.shape, dtype=int))


class Vault:
    """A vault, opened lazily: only what is requested is read.

    Args:
      path: the vault's folder, `<trial folder>/vaults/jax_party/<uid>`.

    Attributes:
      uid: its folder's name.
      rows: the number of batch rows, one per environment.
      steps: the length of the time axis.
      fields: name -> dtype and shape; names of nested fields are joined by dots.
      metadata: what the writer stored under `jax_party`: `trial_id`, `kind`, `seed`, `config`, `provenance`; for a
        merged or thinned vault also `sources`, `breaks`, `stride`. Empty for a vault that JaxParty did not write.

    Raises:
      VaultError: there is no vault, or it is damaged.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path).absolute()
        self.uid = self.path.name
        content = _read_metadata(self.path)
        self.metadata: dict[str, Any] = content.get("jax_party") or {}
        try:
            shapes = _leaves(content["structure_shape"])
            dtypes = _leaves(content["structure_dtype"])
            self.rows = int(literal_eval(next(iter(shapes.values())))[0])
            self.fields = {
                name: FieldSpec(_dtype(dtypes[name]), tuple(literal_eval(shape)[2:])) for name, shape in shapes.items()
            }
        except (KeyError, ValueError, TypeError, StopIteration, SyntaxError) as error:
            raise VaultError(f"{self.path / METADATA_FILE}: damaged ({error!r}); {_REMEDY}") from error
        self._context = ts.Context({"cache_pool": {"total_bytes_limit": 256 * 2**20}})
        self._stores: dict[str, Any] = {}
        self.steps = int(self._guard(_INDEX, lambda: self._open(_INDEX).read().result())[0])

    @property
    def kind(self) -> str:
        """`train` or `test`; `train`, an unbroken time axis, if the metadata does not say."""
        return str(self.metadata.get("kind", "train"))

    @property
    def trial_id(self) -> str:
        """The id of the vault's trial; the vault's uid if that is unknown."""
        return str(self.metadata.get("trial_id") or self.uid)

    @property
    def num_agents(self) -> int:
        """The number of agents of the game."""
        return int(self.spec("action").shape[0])

    @property
    def config(self) -> dict[str, Any]:
        """The trial's config; empty if unknown."""
        config = self.metadata.get("config")
        return config if isinstance(config, dict) else {}

    @property
    def time_limit(self) -> int | None:
        """The largest number of steps of an episode, from the config; None if it does not say."""
        env = self.config.get("env", {})
        for place in (env.get("scenario", {}).get("task_config", {}), env.get("kwargs", {})):
            if isinstance(place.get("time_limit"), int):
                return int(place["time_limit"])
        return None

    def spec(self, field: str) -> FieldSpec:
        """Return the dtype and shape of a field.

        Raises:
          VaultError: the vault has no such field.
        """
        if field not in self.fields:
            raise VaultError(f"{self.path}: no field {field!r}; it has {', '.join(sorted(self.fields))}")
        return self.fields[field]

    def read(
        self,
        fields: Sequence[str] | None = None,
        time: slice | None = None,
        envs: slice | Sequence[int] | None = None,
    ) -> Fields:
        """Read a part; only the chunks that hold it are loaded.

        Args:
          fields: names, None for all.
          time: steps, None for all; `slice(0, 100)`. Negative numbers count from the end.
          envs: a slice or row numbers, None for all.

        Returns:
          field -> (envs, steps, …).

        Raises:
          VaultError: there is no such field, a number is out of range, or the vault is damaged.
        """
        names = list(self.fields) if fields is None else list(fields)
        for name in names:
            self.spec(name)
        steps = self._interval(time, self.steps, "time")
        rows = self._rows_asked(envs)
        futures = {}
        for name in names:
            store = self._guard(name, lambda name=name: self._store(name))
            futures[name] = store[rows, steps].read()
        return {name: self._guard(name, future.result) for name, future in futures.items()}

    def blocks(self, fields: Sequence[str] | None = None, time: slice | None = None) -> Iterator[tuple[int, Fields]]:
        """Yield all of `time` in order, in blocks that fit in memory: (first step, field -> (rows, steps, …))."""
        names = list(self.fields) if fields is None else list(fields)
        interval = self._interval(time, self.steps, "time")
        step_bytes = self.rows * sum(self.spec(name).nbytes for name in names)
        length = max(1, BLOCK_BYTES // max(1, step_bytes))
        length = max(_CHUNK_STEPS, length - length % _CHUNK_STEPS)
        for start in range(interval.start, interval.stop, length):
            yield start, self.read(names, slice(start, min(start + length, interval.stop)))

    def missing_chunks(self) -> dict[str, int]:
        """Return field -> the number of expected chunks that are missing, which read as zeros."""
        found = self._guard("list of chunks", self._keys)
        missing = {}
        for name in self.fields:
            store = self._guard(name, lambda name=name: self._store(name))
            chunks = -(-self.steps // store.chunk_layout.read_chunk.shape[1])
            prefix = f"{name}./0."
            present = {key.removeprefix(prefix).split(".")[0] for key in found if key.startswith(prefix)}
            lost = chunks - len(present & {str(chunk) for chunk in range(chunks)})
            if lost:
                missing[name] = lost
        return missing

    def _interval(self, asked: slice | None, length: int, axis: str) -> slice:
        if asked is None:
            return slice(0, length)
        if asked.step not in (None, 1):
            raise VaultError(f"{self.path}: {axis} {_text(asked)}: steps of 1 only; thin the vault for others")
        start = 0 if asked.start is None else asked.start
        stop = length if asked.stop is None else asked.stop
        start, stop = (number + length if number < 0 else number for number in (start, stop))
        if not 0 <= start < stop <= length:
            raise VaultError(f"{self.path}: {axis} {_text(asked)} is out of range; give a part of 0:{length}")
        return slice(start, stop)

    def _rows_asked(self, envs: slice | Sequence[int] | None) -> slice | list[int]:
        if envs is None or isinstance(envs, slice):
            return self._interval(envs, self.rows, "envs")
        rows = [int(row) for row in envs]
        bad = [row for row in rows if not 0 <= row < self.rows]
        if bad or not rows:
            what = f"environment {bad[0]}" if bad else "no environment"
            raise VaultError(f"{self.path}: {what} is out of range; give numbers of 0 to {self.rows - 1}")
        return rows

    def _store(self, name: str) -> Any:
        if name not in self._stores:
            self._stores[name] = self._open(f"{name}.")
        return self._stores[name]

    def _open(self, name: str) -> Any:
        return ts.open(_spec(self.path, name), open=True, read=True, context=self._context).result()

    def _keys(self) -> set[str]:
        kvstore = ts.KvStore.open(_spec(self.path, "")["kvstore"]).result()
        return {key.decode() for key in kvstore.list().result()}

    def _guard(self, what: str, read: Any) -> Any:
        try:
            return read()
        except (ValueError, OSError) as error:
            reason = " ".join(str(error).split())[:200]
            raise VaultError(f"{self.path}: {what}: cannot be read, the vault is cut short or damaged ({reason}); "
                             f"{_REMEDY}") from error  # fmt: skip


class NewVault:
    """A vault that is being written; `create` makes one.

    Attributes:
      steps: the number of steps written so far.
    """

    def __init__(self, path: Path, fields: Mapping[str, FieldSpec], rows: int) -> None:
        self.steps = 0
        self._path = path
        self._index = _create(path, _INDEX, (1,), np.dtype(np.int32), None)
        self._stores = {}
        for name, spec in fields.items():
            chunk = max(1, min(_CHUNK_STEPS, _CHUNK_BYTES // max(1, rows * spec.nbytes)))
            chunks = [rows, chunk, *spec.shape]
            self._stores[name] = _create(path, f"{name}.", (rows, _TIME_AXIS, *spec.shape), spec.dtype, chunks)

    def append(self, block: Mapping[str, Array]) -> None:
        """Append (rows, steps, …) arrays along the time axis."""
        length = next(iter(block.values())).shape[1]
        part = slice(self.steps, self.steps + length)
        futures = [store[:, part].write(block[name]) for name, store in self._stores.items()]
        for future in futures:
            future.result()
        self.steps += length

    def finish(self) -> None:
        """Write the number of steps, which makes what was appended visible to readers."""
        self._index.write(np.array([self.steps], np.int32)).result()


@contextlib.contextmanager
def create(
    path: str | Path, fields: Mapping[str, FieldSpec], rows: int, metadata: Mapping[str, Any]
) -> Iterator[NewVault]:
    """Write a new vault; it appears at `path` whole or not at all.

    Args:
      path: its folder; Flashbax opens `Vault(rel_dir=<path's grandparent>, vault_name=<parent's name>,
        vault_uid=<name>)`.
      fields: names with dots are nested.
      rows: the number of batch rows.
      metadata: stored under `jax_party`, JSON types.

    Raises:
      VaultError: `path` already exists, or nothing was written.
    """
    path = Path(path).absolute()
    if path.exists():
        raise VaultError(f"{path}: is there already; name a new folder")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with aside(path, durable=False, name=f".{path.name}.new") as place:
            place.mkdir()
            _write_metadata(place, fields, rows, metadata)
            new = NewVault(place, fields, rows)
            yield new
            if not new.steps:
                raise VaultError(f"{path}: there is nothing to write; choose other vaults, or more")
            new.finish()
    except OSError as error:
        raise VaultError(f"{path}: cannot be written ({error.strerror}); name another folder") from error


def _spec(path: Path, name: str) -> dict[str, Any]:
    return {"driver": "zarr", "kvstore": {"driver": "ocdbt", "base": f"file://{path}", "path": name}}


def _create(path: Path, name: str, shape: Sequence[int], dtype: np.dtype[Any], chunks: Sequence[int] | None) -> Any:
    metadata: dict[str, Any] = {"compressor": _COMPRESSION}
    if chunks is not None:
        metadata["chunks"] = list(chunks)
    spec = _spec(path, name) | {"metadata": metadata}
    return ts.open(spec, shape=list(shape), dtype=dtype, create=True).result()


def _write_metadata(path: Path, fields: Mapping[str, FieldSpec], rows: int, metadata: Mapping[str, Any]) -> None:
    shapes: dict[str, Any] = {}
    dtypes: dict[str, Any] = {}
    for name, spec in fields.items():
        *parents, leaf = name.split(".")
        into_shapes, into_dtypes = shapes, dtypes
        for parent in parents:
            into_shapes, into_dtypes = into_shapes.setdefault(parent, {}), into_dtypes.setdefault(parent, {})
        into_shapes[leaf], into_dtypes[leaf] = str((rows, 1, *spec.shape)), spec.dtype.name
    content = {"version": FLASHBAX_VERSION, "structure_shape": shapes, "structure_dtype": dtypes}
    (path / METADATA_FILE).write_text(json.dumps(content | {"jax_party": dict(metadata)}), encoding="utf-8")


def _read_metadata(path: Path) -> dict[str, Any]:
    file = path / METADATA_FILE
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise VaultError(f"{path}: no vault in it ({METADATA_FILE} is not there); give a vault's folder") from None
    except (OSError, ValueError) as error:
        raise VaultError(f"{file}: cannot be read ({error}); {_REMEDY}") from error
    if not isinstance(content, dict):
        raise VaultError(f"{file}: damaged (no mapping); {_REMEDY}")
    return content


def _leaves(tree: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    found: dict[str, str] = {}
    for key, value in tree.items():
        name = f"{prefix}{key}"
        found |= _leaves(value, f"{name}.") if isinstance(value, Mapping) else {name: str(value)}
    return found


def _dtype(name: str) -> np.dtype[Any]:
    return np.dtype(ts.dtype(name).numpy_dtype)


def _text(part: slice) -> str:
    return f"{'' if part.start is None else part.start}:{'' if part.stop is None else part.stop}"
