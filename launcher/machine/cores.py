"""CPU cores, one per worker, taken by advisory locks.

There is a file per core, so that workers of all sweeps of a user on one machine keep off each other; the kernel lets
go of a lock when its process dies."""

from __future__ import annotations

import fcntl
import os
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

CORE_WAIT_S = 10.0


def take_core(cores: Iterable[int], wait_s: float = CORE_WAIT_S, folder: Path | None = None) -> tuple[int, Any] | None:
    """Lock one free core; None where all are taken for `wait_s` seconds.

    Returns:
      The core's number and the open lock file.
    """
    folder = folder or core_locks_folder()
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    wanted = tuple(cores)
    deadline = time.monotonic() + wait_s
    while True:
        for core in wanted:
            lock = (folder / str(core)).open("a")
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                lock.close()
            else:
                return core, lock
        if time.monotonic() >= deadline:
            return None
        time.sleep(0.05)


def core_locks_folder() -> Path:
    """Where the lock files of this user's cores are."""
    return Path(tempfile.gettempdir()) / f"jax_party-{os.getuid()}" / "cores"
