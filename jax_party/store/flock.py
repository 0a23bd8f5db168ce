"""Locks on local folders: one process at a time, released by the kernel when the process dies."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from jax_party.errors import RecordError
from jax_party.store.protocol import LOCK_FILE, FolderHeld

CHANGE_S: Final = 30.0
_NO_LOCKS: Final = frozenset({errno.EBADF, errno.EINVAL, errno.EISDIR, errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS})
"""What a file system says that has no such locks."""


@contextlib.contextmanager
def hold(folder: Path, timeout: float = 5.0) -> Iterator[None]:
    """Hold `<folder>/.lock` for this process; the kernel releases it when the process dies.

    Args:
      folder: an existing folder.
      timeout: seconds to wait for another holder.

    Raises:
      FolderHeld: another process still holds it after `timeout`.
      RecordError: there is no such folder, or it cannot be locked.
    """
    if not folder.is_dir():
        raise RecordError(f"{folder}: no such folder to lock; create it first")
    descriptor = os.open(folder / LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        _wait_for_lock(descriptor, folder, timeout)
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"process {os.getpid()} on {socket.gethostname()}".encode(), 0)
        yield
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def changing(folder: Path, timeout: float = CHANGE_S) -> Iterator[None]:
    """Be the only process that changes a file in a folder, for as long as reading, changing and writing it takes.

    The folder itself is locked, so nothing is left behind in it. Nothing is held where a file system locks no folders.

    Args:
      folder: an existing local folder.
      timeout: seconds to wait for another process to finish its change.

    Raises:
      FolderHeld: another process has not finished its change after `timeout`; it has probably been suspended.
    """
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        deadline = time.monotonic() + timeout
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError as error:
                if error.errno in _NO_LOCKS:
                    break
                if error.errno not in (errno.EAGAIN, errno.EACCES):
                    raise
                if time.monotonic() >= deadline:
                    raise FolderHeld(
                        f"{folder}: another process has been changing it for {timeout:g} s; end that process"
                    ) from None
            time.sleep(0.002)
        yield
    finally:
        os.close(descriptor)


def _wait_for_lock(descriptor: int, folder: Path, timeout: float) -> None:
    deadline = time.monotonic() + timeout
    while True:
        try:
            return fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in (errno.EAGAIN, errno.EACCES):
                raise RecordError(f"{folder}: cannot be locked ({error}); use a file system with flock") from error
            if time.monotonic() >= deadline:
                holder = os.pread(descriptor, 200, 0).decode(errors="replace") or "another process"
                raise FolderHeld(
                    f"{folder}: {holder} holds this folder (waited {timeout:g} s); wait for it or stop it"
                ) from None
        time.sleep(0.02)
