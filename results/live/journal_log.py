"""Optuna's journal on disk: whole lines, appended by one writer at a time."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from optuna.storages.journal import BaseJournalBackend, JournalFileBackend


class JournalLog(BaseJournalBackend):
    """A journal file of which a batch of operations is written at once."""

    def __init__(self, path: Path) -> None:
        self._file = JournalFileBackend(str(path), lock_obj=_UNLOCKED)
        self._read = 0
        self._kept: list[dict[str, Any]] | None = None

    def read_logs(self, log_number_from: int) -> Iterator[dict[str, Any]]:
        """The operations from this number on; while a batch is made, nobody else adds any."""
        if self._kept is not None:
            return iter(self._kept[log_number_from - self._read :])
        found = list(self._file.read_logs(log_number_from))
        self._read = log_number_from + len(found)
        return iter(found)

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Keep operations for the end of the batch."""
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
    """In place of the file's lock, which is held for the whole batch."""

    def acquire(self) -> bool:
        return True

    def release(self) -> None:
        pass


_UNLOCKED: Any = _Unlocked()


def cut_unfinished_line(path: Path) -> None:
    """Take away what a kill has left of a line."""
    with path.open("r+b") as file:
        size = file.seek(0, os.SEEK_END)
        if not size or file.seek(size - 1) is None or file.read(1) == b"\n":
            return
        file.seek(0)
        file.truncate(file.read().rfind(b"\n") + 1)
