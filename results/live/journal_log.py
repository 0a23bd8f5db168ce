"""Optuna's journal on disk: whole lines, appended by one writer at a time."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from optuna.storages.journal import BaseJournalBackend, JournalFileBackend


class JournalLog(BaseJournalBackend):
    """A journal file that is written in batches: all operations of a batch at once."""

    def __init__(self, path: Path) -> None:
        self._file = JournalFileBackend(str(path), lock_obj=_UNLOCKED)
        self._read = 0
        self._kept: list[dict[str, Any]] | None = None

    def read_logs(self, log_number_from: int) -> Iterator[dict[str, Any]]:
        """Return the operations from this number on; nobody else adds any during a batch."""
        if self._kept is not None:
            return iter(self._kept[log_number_from - self._read :])
        found = list(self._file.read_logs(log_number_from))
        self._read = log_number_from + len(found)
        return iter(found)

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Keep operations until the end of the batch."""
        assert self._kept is not None
        self._kept += logs

    @contextlib.contextmanager
    def batch(self) -> Iterator[None]:
        """Keep what is appended, and write it at the end."""
        self._kept = []
        try:
            yield
        finally:
            kept, self._kept = self._kept, None
            if kept:
                self._file.append_logs(kept)
                self._read += len(kept)


class _Unlocked:
    """A stand-in for the file's lock, which is held for the whole batch."""

    def acquire(self) -> bool:
        return True

    def release(self) -> None:
        pass


_UNLOCKED: Any = _Unlocked()


def cut_unfinished_line(path: Path) -> None:
    """Remove the incomplete line that a killed writer has left."""
    with path.open("r+b") as file:
        size = file.seek(0, os.SEEK_END)
        if not size or file.seek(size - 1) is None or file.read(1) == b"\n":
            return
        file.seek(0)
        file.truncate(file.read().rfind(b"\n") + 1)
