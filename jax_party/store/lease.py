"""Leases, for storage without locks: a file that its holder keeps rewriting, version by version."""

from __future__ import annotations

import contextlib
import functools
import json
import logging
import os
import signal
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from jax_party.errors import StorageError
from jax_party.store.protocol import ChangedError, Store, Version

REFRESH_S: Final = 10.0
STALE_S: Final = 60.0

_logger = logging.getLogger(__name__)


def claim(store: Store, path: Path) -> bool:
    """Create a lease that nobody holds; return False if there is one already."""
    try:
        store.write_version(path, _free(), None)
    except ChangedError:
        return False
    return True


@contextlib.contextmanager
def lease(store: Store, path: Path) -> Iterator[None]:
    """Hold a lease: a small file, rewritten every `REFRESH_S` seconds.

    If another process holds the lease, wait until one of these happens: the lease is refreshed, so its holder is alive
    (an error); it has not been refreshed for `STALE_S` seconds; or its holder was a process of this machine that has
    ended. A process that loses its lease (it was suspended, or cut off from the storage) gets an interrupt.

    Raises:
      StorageError: a living process holds it.
    """
    held = _Lease(store, path, _wait_for_lease(store, path))
    try:
        yield
    finally:
        held.release()


class _Lease:
    """A lease that this process holds; a thread keeps it fresh."""

    def __init__(self, store: Store, path: Path, tag: str | None) -> None:
        self._store = store
        self._path = path
        self._tag: str | None = store.write_version(path, self._content(), tag)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._keep, name="lease", daemon=True)
        self._thread.start()

    def release(self) -> None:
        """Release the lease."""
        self._stop.set()
        self._thread.join()
        with contextlib.suppress(StorageError):
            self._store.write_version(self._path, _free(), self._tag)

    def _keep(self) -> None:
        while not self._stop.wait(REFRESH_S):
            try:
                self._tag = self._store.write_version(self._path, self._content(), self._tag)
            except ChangedError:
                _logger.error("%s: another process has taken this folder; stopping", self._path)
                os.kill(os.getpid(), signal.SIGINT)
                return
            except StorageError as error:  # there is no need to give up before another has taken it
                _logger.warning("%s", error)

    def _content(self) -> bytes:
        holder = {"process": os.getpid(), "host": socket.gethostname(), "boot": _boot_id()}
        return json.dumps(holder | {"time": datetime.now(UTC).isoformat(), "id": uuid.uuid4().hex}).encode()


def _wait_for_lease(store: Store, path: Path) -> str | None:
    """Wait until the lease may be taken; return its tag, or None if there is no lease yet."""
    first = there = store.read_version(path)
    while there is not None and not _is_free(there):
        if first is not None and there.tag != first.tag:
            holder = json.loads(there.content)
            raise StorageError(
                f"{path.parent}: process {holder.get('process')} on {holder.get('host')} holds this folder; wait "
                "for it or stop it"
            )
        time.sleep(0.5)
        there = store.read_version(path)
    return None if there is None else there.tag


def _free() -> bytes:
    return json.dumps({"free": True, "id": uuid.uuid4().hex}).encode()


def _is_free(there: Version) -> bool:
    try:
        holder = json.loads(there.content)
    except ValueError:
        return True
    if holder.get("free") or there.age_s > STALE_S:
        return True
    here = holder.get("host") == socket.gethostname() and holder.get("boot") == _boot_id()
    return here and not Path(f"/proc/{holder.get('process')}").exists()


@functools.cache
def _boot_id() -> str:
    """Return an id of this machine's current boot; empty if the system has none."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="utf-8").strip()
    except OSError:
        return ""
