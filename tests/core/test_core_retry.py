"""Storage that refuses: what counts as that, and how long it is waited for."""

from __future__ import annotations

import errno
import os

import pytest

from jax_party.errors import RecordError, StorageError, VaultError
from jax_party.store.retry import LONGEST_PAUSE_S, PATIENCE_VARIABLE, patiently, refusal

TENSORSTORE = (
    'RESOURCE_EXHAUSTED: Error writing "a/0": Failed to write 530013 bytes to file 11: No space left on device '
    "[os_error_code='28']"
)


def raised_from(cause: Exception) -> RecordError:
    try:
        raise RecordError("cannot be read") from cause
    except RecordError as error:
        return error


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (OSError(errno.ENOSPC, "full"), "No space left on device"),
        (raised_from(OSError(errno.ESTALE, "stale")), "Stale file handle"),
        (ValueError(TENSORSTORE), "No space left on device"),
        (VaultError(f"v: could not be written: {TENSORSTORE}"), "No space left on device"),
        (FileNotFoundError(errno.ENOENT, "no such file"), None),
        (OSError(errno.EACCES, "no"), None),
        (RuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 12 bytes"), None),
        (ValueError("[os_error_code='2']"), None),
        (StorageError("given up"), None),
        (None, None),
    ],
)
def test_says_whether_storage_refused(error: Exception | None, reason: str | None) -> None:
    assert refusal(error) == reason


def refusing(times: int) -> tuple[list[int], object]:
    calls: list[int] = []

    def write(value: int) -> int:
        calls.append(value)
        if len(calls) <= times:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return value

    return calls, write


def test_waits_with_growing_pauses_and_tells_of_each() -> None:
    calls, write = refusing(7)
    pauses: list[float] = []
    told: list[BaseException] = []
    assert patiently(before_pause=told.append, sleep=pauses.append)(write, 3) == 3  # type: ignore[arg-type]
    assert pauses == [0.5, 1.0, 2.0, 4.0, 8.0, LONGEST_PAUSE_S, LONGEST_PAUSE_S]
    assert len(calls) == 8 and len(told) == 7


def test_gives_up_once_it_has_waited_for_so_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(PATIENCE_VARIABLE, "3")
    _, write = refusing(100)
    pauses: list[float] = []
    with pytest.raises(OSError, match="No space left"):
        patiently(sleep=pauses.append)(write, 3)  # type: ignore[arg-type]
    assert pauses == [0.5, 1.0, 2.0]


@pytest.mark.parametrize("text", ["abc", "-1", "nan", "inf"])
def test_a_patience_that_is_none_is_one_clear_error(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv(PATIENCE_VARIABLE, text)
    _, write = refusing(1)
    with pytest.raises(StorageError, match=f"^{PATIENCE_VARIABLE}={text}: expected seconds, a number from 0 to 86400$"):
        patiently()(write, 3)


def test_other_errors_are_raised_at_once() -> None:
    def write() -> None:
        raise PermissionError(errno.EACCES, "no")

    with pytest.raises(PermissionError):
        patiently(sleep=lambda seconds: pytest.fail("it waited"))(write)
