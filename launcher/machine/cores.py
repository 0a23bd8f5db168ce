"""CPU cores, one per worker, reserved by advisory locks.

There is one lock file per core, so the workers of all of a user's sweeps on a machine avoid each other's cores. The
kernel releases a lock when its process dies."""

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
    """Lock one free core.

    Args:
      cores: the cores to choose from.
      wait_s: how long to wait for a free one, in seconds.
      folder: the folder of the lock files, None for `core_locks_folder()`.

    Returns:
      The core's number and the open lock file; None if no core became free in time.
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
    """Return the folder of this user's lock files."""
    return Path(tempfile.gettempdir()) / f"jax_party-{os.getuid()}" / "cores"
