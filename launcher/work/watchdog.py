"""End a worker that hangs: if a period takes too long, its process exits.

Nothing can interrupt a compiled program that does not return, so the process ends itself and Ray starts another. A
thread does that; if the thread cannot run because the interpreter's lock is held, `faulthandler` does it from C.
"""

from __future__ import annotations

import contextlib
import faulthandler
import logging
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from jax_party.store.retry import patience_s

SLOWER: Final = 20.0
LEAST_S: Final = 600.0
FIRST_S: Final = 6 * 3600.0
OPENING_S: Final = 3600.0
LAST_RESORT_S: Final = 15.0
GRACE_S: Final = 30.0
"""Extra time before a process is killed from outside, so that it can end itself first and report where it hung."""
EXIT_CODE: Final = 75
TRACE_FILE: Final = "hang.txt"
STDERR: Final = 2

logger = logging.getLogger(__name__)


class Watchdog:
    """Ends this process when a period takes too long.

    Args:
      limit_s: limit for a period of one trial, in seconds. None means `FIRST_S` for the first period, then `SLOWER`
        times the longest so far, but at least `LEAST_S`.
      end: ends the process, given its exit code.
      timer: returns a timer, given seconds, a function and the function's arguments.
    """

    def __init__(
        self,
        limit_s: float | None,
        end: Callable[[int], None] = os._exit,
        timer: Callable[..., threading.Timer] = threading.Timer,
    ) -> None:
        self._limit_s = limit_s
        self._end = end
        self._timer = timer
        self._longest: float | None = None

    def period_s(self) -> float:
        """Return the seconds that a period of one trial may take."""
        if self._limit_s is not None:
            return self._limit_s
        return FIRST_S if self._longest is None else max(LEAST_S, SLOWER * self._longest)

    def opening_s(self) -> float:
        """Return the seconds that opening a trial may take, including compilation."""
        return max(OPENING_S, self.period_s())

    def storing_s(self) -> float:
        """Return the seconds that storing a period's results may take, including retries while storage refuses."""
        return self.period_s() + 2 * patience_s()

    def silent_s(self) -> float:
        """Return the seconds within which a process must answer a sign-of-life request."""
        return GRACE_S + (LEAST_S if self._limit_s is None else self._limit_s)

    def played(self, seconds: float) -> None:
        """Note how long a period of one trial took, in seconds."""
        self._longest = max(self._longest or 0.0, seconds)

    @contextlib.contextmanager
    def watch(
        self, limit_s: float, trace: Path, tell: Callable[[str], None], place: str = TRACE_FILE
    ) -> Iterator[None]:
        """End this process if the `with` block takes too long.

        Args:
          limit_s: how long the block may take, in seconds.
          trace: the file for the stacks of all threads if it takes longer.
          tell: called with the reason before the process ends.
          place: where a user finds that file.
        """
        if limit_s == float("inf"):
            yield
            return
        timer = self._timer(limit_s, self._give_up, (limit_s, trace, tell, place))
        timer.daemon = True
        timer.start()
        faulthandler.dump_traceback_later(limit_s + LAST_RESORT_S, file=STDERR, exit=True)
        try:
            yield
        finally:
            timer.cancel()
            faulthandler.cancel_dump_traceback_later()

    def _give_up(self, limit_s: float, trace: Path, tell: Callable[[str], None], place: str) -> None:
        """Write the stacks and report the reason, as far as storage permits, and end the process."""
        reason = f"gave no result within {limit_s:g} s and was given up (PERIOD_TIMEOUT, stacks are in {place})"
        try:
            with trace.open("w") as file:
                faulthandler.dump_traceback(file)
            tell(reason)
        except Exception as error:
            logger.error("%s: %s", reason, error)
        finally:
            self._end(EXIT_CODE)
