"""Trajectories on disk: a Flashbax vault, written in parallel with training and cut back exactly on resume.

The vault has Flashbax's own format and can be read with Flashbax alone:
`Vault(rel_dir="<trial folder>/vaults", vault_name="jax_party", vault_uid="<uid>").read()`.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import os
import queue
import shutil
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import jax
import numpy as np
import tensorstore as ts
from flashbax.buffers.trajectory_buffer import TrajectoryBufferState
from flashbax.vault import Vault
from flashbax.vault import vault as flashbax_vault

from jax_party.errors import VaultError
from jax_party.ops.gradients import largest_divisor
from jax_party.store.local import aside
from jax_party.store.retry import refusal

VAULT_NAME = "jax_party"
_COMPRESSION = {"id": "zstd", "level": 1}
_WRITE_BYTES = 128 * 2**20
_CHUNK_BYTES = 4 * 2**20
_CHUNK_STEPS = 128
_logger = logging.getLogger(__name__)

# Flashbax announces vaults with `print`; a library should not.
flashbax_vault.print = lambda *parts: _logger.debug("%s", " ".join(map(str, parts)))


class VaultWriter:
    """A writer that appends trajectories to one vault from its own thread.

    Args:
      trial_folder: the trial's folder; the vault is `vaults/jax_party/<uid>` in it.
      uid: the vault's uid.
      metadata: stored under the single key `jax_party` of the vault's metadata, JSON types.
      max_steps: time steps after which nothing more is written, None for no limit.

    Raises:
      VaultError: another process is writing this vault.
    """

    def __init__(self, trial_folder: Path, uid: str, metadata: Mapping[str, Any], max_steps: int | None = None) -> None:
        self.uid = uid
        self.rows = 0
        self._rel_dir = trial_folder.resolve() / "vaults"
        self._path = self._rel_dir / VAULT_NAME / uid
        self._metadata = dict(metadata)
        self._max_steps = max_steps
        self._lock = self._take_lock()
        try:
            self._vault: Vault | None = self._take_up() if self._path.exists() else None
        except BaseException:
            self._lock.close()
            raise
        self.steps = 0 if self._vault is None else self._vault.vault_index
        self._submitted = self.steps
        self._queue: queue.Queue[dict[str, jax.Array] | threading.Event | None] = queue.Queue(maxsize=64)
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._work, name=f"vault-{uid}", daemon=True)
        self._thread.start()

    def truncate(self, steps: int) -> None:
        """Cut the time axis back to `steps`; later steps are overwritten.

        Raises:
          VaultError: the vault has fewer steps.
        """
        if steps > self.steps:
            raise VaultError(
                f"{self._path}: holds {self.steps} steps but its checkpoint was saved after {steps}; the vault was "
                "changed or cut short: restore it, or remove the trial's checkpoints, metrics and vaults to train it "
                "again"
            )
        if self._vault is not None and steps != self.steps:
            self._vault.vault_index = steps
            self._vault._vault_index_ds.write(steps).result()
        self.steps = self._submitted = steps

    def submit(self, trajectory: Mapping[str, jax.Array]) -> None:
        """Queue (E, T, …) arrays for appending and return at once. Steps beyond the limit are dropped.

        Raises:
          VaultError: an earlier write failed.
        """
        self._raise_if_failed()
        length = next(iter(trajectory.values())).shape[1]
        if self._max_steps is not None:
            length = min(length, self._max_steps - self._submitted)
        if length <= 0:
            return
        if self._vault is None:
            self._vault = self._create(trajectory)
        self._submitted += length
        self._put({name: field[:, :length] for name, field in trajectory.items()})

    def flush(self) -> int:
        """Wait until everything submitted is on disk; return the number of steps that the vault then holds.

        Raises:
          VaultError: a write failed.
        """
        done = threading.Event()
        self._put(done)
        while not done.wait(0.2):
            self._raise_if_failed()
        self._raise_if_failed()
        return self.steps

    def close(self) -> None:
        """End the thread and release the lock; calling it twice is fine."""
        if self._thread.is_alive():
            with contextlib.suppress(VaultError):
                self._put(None)
            self._thread.join()
        self._lock.close()

    def _put(self, item: dict[str, jax.Array] | threading.Event | None) -> None:
        """Queue an item; wait for room while the thread is alive."""
        while True:
            self._raise_if_failed()
            with contextlib.suppress(queue.Full):
                self._queue.put(item, timeout=0.2)
                return

    def _work(self) -> None:
        waiting: list[dict[str, np.ndarray]] = []
        size = 0
        try:
            while (item := self._queue.get()) is not None:
                flush = isinstance(item, threading.Event)
                if not isinstance(item, threading.Event):
                    waiting.append({name: np.asarray(field) for name, field in item.items()})
                    size += sum(field.nbytes for field in waiting[-1].values())
                if waiting and (flush or size >= _WRITE_BYTES):
                    self._write(waiting)
                    waiting, size = [], 0
                if isinstance(item, threading.Event):
                    item.set()
        except BaseException as error:  # the training thread raises it
            self._error = error

    def _write(self, parts: list[dict[str, np.ndarray]]) -> None:
        """Write all parts at once: many small writes cost files and time."""
        assert self._vault is not None
        joined = {name: np.concatenate([part[name] for part in parts], axis=1) for name in parts[0]}
        rows, length = next(iter(joined.values())).shape[:2]
        state = TrajectoryBufferState(experience=joined, current_index=0, is_full=True)
        self._vault.write(state, source_interval=(0, length))
        self.rows, self.steps = rows, self._vault.vault_index

    def _create(self, trajectory: Mapping[str, jax.Array]) -> Vault:
        """Create the vault under a temporary name and rename it, so that it appears whole or not at all."""
        structure = {name: jax.ShapeDtypeStruct(field.shape, field.dtype) for name, field in trajectory.items()}
        self.rows = next(iter(structure.values())).shape[0]
        example = {name: np.zeros((spec.shape[0], 1, *spec.shape[2:]), spec.dtype) for name, spec in structure.items()}
        fields = {name: [str(spec.dtype), list(spec.shape[2:])] for name, spec in structure.items()}
        metadata = {"jax_party": self._metadata | {"fields": json.dumps(fields)}}
        with aside(self._path, durable=False, name=f".{self.uid}.new") as place:
            vault = Vault(
                VAULT_NAME, example, rel_dir=str(self._rel_dir), vault_uid=place.name,
                compression=_COMPRESSION, metadata=metadata,
            )  # fmt: skip
            _set_chunks(vault, next(iter(structure.values())).shape[1])
            del vault
        return self._open()

    def _take_up(self) -> Vault | None:
        """Open the existing vault; if it is damaged, move it aside and return None: the trial makes it again."""
        _remove_half_written(self._path)
        try:
            return self._open()
        except VaultError as error:
            if refusal(error) is not None:
                raise
            broken = self._path.with_name(f".{self.uid}.broken")
            shutil.rmtree(broken, ignore_errors=True)
            os.replace(self._path, broken)
            _logger.warning("%s; moved it to %s and started a new one", error, broken)
            return None

    def _open(self) -> Vault:
        try:
            vault = Vault(VAULT_NAME, rel_dir=str(self._rel_dir), vault_uid=self.uid)
            self.rows = int(json.loads(_first_shape(vault))[0])
        except Exception as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise VaultError(f"{self._path}: not a complete vault ({reason})") from error
        return vault

    def _take_lock(self) -> IO[str]:
        path = self._path.with_name(f".{self.uid}.lock")
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = path.open("w")
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            handle.close()
            raise VaultError(f"{self._path}: another process is writing it; stop that one first") from None
        return handle

    def _raise_if_failed(self) -> None:
        if self._error is not None:
            raise VaultError(f"{self._path}: could not be written: {self._error}") from self._error


def _remove_half_written(path: Path) -> None:
    """Remove the files that a killed process was still writing, in a vault that nobody else writes.

    TensorStore writes `<file>.__lock` and renames it to `<file>`. If a killed process left such a file, TensorStore
    reuses it without truncating it: if it held more bytes than the next write, that write would be damaged.
    """
    for left in path.rglob("*.__lock"):
        left.unlink(missing_ok=True)


def _set_chunks(vault: Vault, length: int) -> None:
    """Recreate each field's store with chunks of whole rollouts, or of a divisor if a rollout exceeds `_CHUNK_BYTES`.

    By default TensorStore uses chunks of megabytes, each compressed again whenever a few steps are appended to it. Each
    write is a whole number of rollouts, so that a chunk of rollouts is written once. Short rollouts share a chunk of
    about `_CHUNK_STEPS` steps, since otherwise every few steps would need a file.
    """
    for name, store in vault._all_datastores.items():
        rows, _, *shape = store.shape
        step_bytes = rows * int(np.prod(shape)) * store.dtype.numpy_dtype.itemsize
        chunk = _chunk_steps(length, step_bytes)
        spec = vault._get_base_spec(f"{name}.")
        spec["metadata"] = {"compressor": _COMPRESSION, "chunks": [rows, chunk, *shape]}
        ts.open(spec, shape=store.shape, dtype=store.dtype, create=True, delete_existing=True).result()


def _chunk_steps(length: int, step_bytes: int) -> int:
    """Return the number of time steps per chunk, for rollouts of `length` steps."""
    most = max(1, _CHUNK_BYTES // step_bytes)
    if length > most:
        return largest_divisor(length, most)
    return length * min(-(-_CHUNK_STEPS // length), most // length)


def _first_shape(vault: Vault) -> str:
    """Return the first field's shape, as JSON."""
    shape: str = jax.tree.leaves(vault._tree_structure_shape)[0]
    return shape.replace("(", "[").replace(",)", "]").replace(")", "]")
