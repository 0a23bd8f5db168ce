"""Locks on local folders: what is locked, where machines share a file system, and where there are no locks."""

from __future__ import annotations

import errno
import fcntl
import logging
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from jax_party.store import flock
from jax_party.store.local import LOCAL
from jax_party.store.protocol import CHANGE_FILE, LOCK_FILE, FolderHeld

MOUNTS = (
    "22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw\n"
    "30 22 0:41 / /mnt/shared rw,relatime shared:7 master:2 - nfs4 server:/export rw,vers=4.2\n"
    "31 22 0:42 / /mnt/bucket rw - fuse.sshfs host: rw\n"
    "32 22 0:43 / /tmp rw - tmpfs tmpfs rw\n"
    "33 22 0:44 / / rw - fuse.fuse-overlayfs fuse-overlayfs rw\n"
)


@pytest.fixture
def shared(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every file system counts as one that machines share."""
    monkeypatch.setattr(flock, "_is_shared", lambda device: True)


@pytest.fixture
def locked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """The path and the access mode (`os.O_RDWR`, …) of each descriptor that is locked."""
    found: list[tuple[str, int]] = []
    take = fcntl.flock

    def note(descriptor: int, operation: int) -> None:
        mode = fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_ACCMODE
        found.append((str(Path(f"/proc/self/fd/{descriptor}").readlink()), mode))
        take(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", note)
    return found


def test_on_a_shared_file_system_a_file_open_for_writing_is_locked(
    shared: None, locked: list[tuple[str, int]], tmp_path: Path
) -> None:
    """NFS sends to its server neither a folder's lock nor, of a file that is open for reading, an exclusive one."""
    with flock.hold(tmp_path), flock.changing(tmp_path):
        pass
    assert locked == [(str(tmp_path / name), os.O_RDWR) for name in (LOCK_FILE, CHANGE_FILE)]


def test_on_a_file_system_of_this_machine_nothing_is_left_in_the_folder(
    monkeypatch: pytest.MonkeyPatch, locked: list[tuple[str, int]], tmp_path: Path
) -> None:
    monkeypatch.setattr(flock, "_is_shared", lambda device: False)
    LOCAL.write_version(tmp_path / "x", b"1", None)
    assert [path for path, _ in locked] == [str(tmp_path)]
    assert os.listdir(tmp_path) == ["x"]


def test_on_a_shared_file_system_no_change_is_lost(shared: None, tmp_path: Path) -> None:
    LOCAL.write_bytes(tmp_path / "count", b"0")
    with ThreadPoolExecutor(4) as pool:
        for _ in range(40):
            pool.submit(LOCAL.change, tmp_path / "count", lambda content: str(int(content) + 1).encode())
    assert LOCAL.read_bytes(tmp_path / "count") == b"40"


@pytest.mark.usefixtures("shared")
def test_one_process_at_a_time_changes_a_folder(tmp_path: Path) -> None:
    with flock.changing(tmp_path), pytest.raises(FolderHeld, match="end that process"), flock.changing(tmp_path, 0.0):
        pass
    with flock.changing(tmp_path, 0.0):
        pass


@pytest.mark.parametrize("error", [errno.ENOLCK, errno.ENOTSUP])
def test_a_file_system_without_locks_is_warned_of_once(
    error: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(descriptor: int, operation: int) -> None:
        raise OSError(error, os.strerror(error))

    monkeypatch.setattr(fcntl, "flock", refuse)
    monkeypatch.setattr(flock, "_warned", set())
    with caplog.at_level(logging.WARNING):
        tag = LOCAL.write_version(tmp_path / "x", b"1", None)
        LOCAL.write_version(tmp_path / "x", b"2", tag)
    (message,) = caplog.messages
    assert message.startswith(f"{tmp_path}: its file system has no locks ({os.strerror(error)}); if two processes")


@pytest.mark.parametrize(
    ("major", "minor", "is_shared"),
    [(254, 0, False), (0, 41, True), (0, 42, True), (0, 43, False), (0, 44, False), (0, 99, False)],
)
def test_the_table_of_mounts_tells_which_file_systems_are_shared(
    major: int, minor: int, is_shared: bool, tmp_path: Path
) -> None:
    table = tmp_path / "mountinfo"
    table.write_text(MOUNTS)
    assert flock._is_shared(os.makedev(major, minor), table) is is_shared
    assert not flock._is_shared(os.makedev(major, minor), tmp_path / "nothing")
