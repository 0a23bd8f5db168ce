"""Signals to stop: caught when they arrive, acted on between two events of the sweep."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType
from typing import Any


class Interrupted(BaseException):
    """The user wants the sweep to stop. Not an `Exception`, so that Tune does not wait for its workers."""


class Interrupt:
    """Context manager that catches SIGINT and SIGTERM; it remembers the first signal and ignores later ones."""

    def __init__(self) -> None:
        self.signal: int | None = None
        self._event = threading.Event()
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> Interrupt:
        self.install()
        return self

    def install(self) -> None:
        """Install the signal handlers; call again if something has replaced them since (Ray replaces SIGTERM's)."""
        for number in (signal.SIGINT, signal.SIGTERM):
            previous = signal.signal(number, self._catch)
            self._previous.setdefault(number, previous)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def check(self) -> None:
        """Raise `Interrupted` if a signal has arrived."""
        if self._event.is_set():
            raise Interrupted

    def _catch(self, number: int, frame: FrameType | None) -> None:
        self.signal = self.signal or number
        self._event.set()
