"""Locks on local folders: one process at a time, released by the kernel when the process dies."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import functools
import logging
import os
import re
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from jax_party.errors import RecordError
from jax_party.store.protocol import CHANGE_FILE, LOCK_FILE, FolderHeld

CHANGE_S: Final = 30.0
_NO_LOCKS: Final = frozenset({errno.EBADF, errno.EINVAL, errno.EISDIR, errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS})
"""errno values of file systems without flock."""
_SHARED: Final = re.compile(
    r"nfs4?|cifs|smb[23]|ceph|lustre|gpfs|beegfs|glusterfs|orangefs|afs|9p|virtiofs|fuse(\.(?!fuse-overlayfs).*)?"
)
"""Types of file systems that other machines may mount too."""

_logger = logging.getLogger(__name__)


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
    descriptor = _open_lock_file(folder / LOCK_FILE)
    try:
        try:
            free = _lock(descriptor, timeout, pause_s=0.02)
        except OSError as error:
            raise RecordError(f"{folder}: cannot be locked ({error}); use a file system with flock") from error
        if not free:
            holder = os.pread(descriptor, 200, 0).decode(errors="replace") or "another process"
            raise FolderHeld(f"{folder}: {holder} holds this folder (waited {timeout:g} s); wait for it or stop it")
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"process {os.getpid()} on {socket.gethostname()}".encode(), 0)
        yield
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def changing(folder: Path, timeout: float = CHANGE_S) -> Iterator[None]:
    """Be the only process that changes a file in a folder, for as long as reading, changing and writing it takes.

    On a file system of this machine the folder itself is locked, so that nothing is left behind in it. On one that
    machines share, the kernel keeps a folder's lock to itself, and sends a file's to the server if the file is open for
    writing (flock(2), NFS details): there `CHANGE_FILE` in the folder is locked. A file system without locks is warned
    of once; there nothing is held.

    Args:
      folder: an existing local folder.
      timeout: seconds to wait for another process to finish its change.

    Raises:
      FolderHeld: another process has not finished its change after `timeout`; it has probably been suspended.
    """
    device = folder.stat().st_dev
    if _is_shared(device):
        descriptor = _open_lock_file(folder / CHANGE_FILE)
    else:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        try:
            free = _lock(descriptor, timeout, pause_s=0.002)
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
            _warn_of_no_locks(device, folder, error)
            free = True
        if not free:
            raise FolderHeld(f"{folder}: another process has been changing it for {timeout:g} s; end that process")
        yield
    finally:
        os.close(descriptor)


def _open_lock_file(path: Path) -> int:
    """Return a descriptor for writing; NFS grants an exclusive lock on no other."""
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)


def _lock(descriptor: int, timeout: float, pause_s: float) -> bool:
    """Take the lock, and return whether it was free within `timeout` seconds."""
    deadline = time.monotonic() + timeout
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except OSError as error:
            if error.errno not in (errno.EAGAIN, errno.EACCES):
                raise
        if time.monotonic() >= deadline:
            return False
        time.sleep(pause_s)


@functools.cache
def _is_shared(device: int, table: Path = Path("/proc/self/mountinfo")) -> bool:
    """Return whether a device (`st_dev`) is a file system that other machines may mount too."""
    number = f"{os.major(device)}:{os.minor(device)}"
    try:
        mounts = table.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return False
    of_device = [line for line in mounts if line.split(" ", 3)[2] == number]
    return any(_SHARED.fullmatch(line.partition(" - ")[2].split(" ", 1)[0]) for line in of_device)


_warned: Final[set[int]] = set()


def _warn_of_no_locks(device: int, folder: Path, error: OSError) -> None:
    if device not in _warned:
        _warned.add(device)
        _logger.warning(
            "%s: its file system has no locks (%s); if two processes change a record at once, one change may be lost. "
            "Mount it with locks, or use object storage",
            folder,
            error.strerror,
        )
