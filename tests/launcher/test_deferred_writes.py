"""What the driver writes later, because storage refused or a worker was still at it."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from jax_party.errors import RecordError, StorageError
from jax_party.store.protocol import FolderHeld
from jax_party.store.retry import PATIENCE_VARIABLE
from jax_party.store.storage import lock_folder
from launcher.drive.deferred_writes import STOPPED_S, DeferredWrites


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_what_storage_refuses_is_written_later_and_in_order() -> None:
    clock, written, full = Clock(), [], True

    def write(value: int) -> None:
        if full:
            raise OSError(errno.ENOSPC, "full")
        written.append(value)

    writes = DeferredWrites(clock)
    assert not writes.add("one", lambda: write(1))
    full = False
    assert not writes.add("two", lambda: write(2)), "two waits for one, which was tried a moment ago"
    assert (written, writes.owed) == ([], 2)
    clock.now = 1.0
    assert writes.settle()
    assert written == [1, 2]
    assert writes.add("three", lambda: write(3))


def test_a_folder_that_is_held_keeps_nobody_else_waiting(tmp_path: Path) -> None:
    clock, written = Clock(), []
    writes = DeferredWrites(clock)

    def held() -> None:
        if clock.now < 5.0:
            raise FolderHeld("held")
        written.append("held")

    assert not writes.add("held", held)
    clock.now = 2.0
    writes.add("free", lambda: written.append("free"))
    assert written == ["free"]
    clock.now = 6.0
    assert writes.settle()
    assert written == ["free", "held"]
    with lock_folder(tmp_path), pytest.raises(FolderHeld), lock_folder(tmp_path, timeout=0.0):
        pass


def test_what_never_will_be_written_is_dropped() -> None:
    def broken() -> None:
        raise RecordError("not JSON")

    assert DeferredWrites().add("broken", broken)


def test_what_a_server_refuses_is_written_later() -> None:
    clock, written, gone = Clock(), [], True

    def write() -> None:
        if gone:
            raise StorageError("storage at http://127.0.0.1:9 does not answer")
        written.append("it")

    writes = DeferredWrites(clock)
    assert not writes.add("what", write)
    gone = False
    clock.now = 1.0
    assert writes.settle()
    assert written == ["it"]


def test_who_wants_to_stop_does_not_wait_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(PATIENCE_VARIABLE, "300")
    clock = Clock()
    monkeypatch.setattr(
        "launcher.drive.deferred_writes.time.sleep", lambda seconds: setattr(clock, "now", clock.now + seconds)
    )

    def refused() -> None:
        raise StorageError("gone")

    for stopped, seconds in ((True, STOPPED_S), (False, 300.0)):
        writes, began = DeferredWrites(clock), clock.now
        writes.add("refused", refused)
        writes.finish(lambda stopped=stopped: stopped)
        assert clock.now - began == pytest.approx(seconds, abs=1.0)


def test_waits_at_the_end_until_patience_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(PATIENCE_VARIABLE, "0.5")

    def refused() -> None:
        raise OSError(errno.EROFS, "read-only")

    writes = DeferredWrites()
    writes.add("refused", refused)
    writes.finish()
    assert writes.owed == 1
