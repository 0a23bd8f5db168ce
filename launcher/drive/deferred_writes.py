"""The driver's writes into trial folders, deferred while storage refuses them or a dying worker holds the folder."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable

from jax_party.errors import RecordError, StorageError
from jax_party.store.protocol import FolderHeld
from jax_party.store.retry import LONGEST_PAUSE_S, patience_of, patience_s, refusal

RETRY_S = 1.0
WRITE_S = 2.0
"""How long a write to a server is retried before it counts as refused; Ctrl-C waits for that."""
STOPPED_S = 10.0
"""How long to keep trying outstanding writes once the user wants to stop."""

logger = logging.getLogger(__name__)


def refused(error: BaseException) -> str | None:
    """Return why storage, on disk or on a server, refuses a read or write for now; None for any other error."""
    return str(error) if isinstance(error, StorageError) else refusal(error)


class DeferredWrites:
    """A queue of writes that does not wait for storage, because one trial's folder must not hold up the driver.

    Writes keep their order, except that one whose folder is held does not hold up those after it.

    Args:
      clock: returns the time in seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._owed: deque[tuple[str, Callable[[], object]]] = deque()
        self._clock = clock
        self._next = 0.0
        self._pause = RETRY_S

    @property
    def owed(self) -> int:
        """The number of outstanding writes."""
        return len(self._owed)

    def add(self, what: str, write: Callable[[], object]) -> bool:
        """Write now, or later if that is not possible; `what` names the write in the log.

        Returns:
          Whether nothing is outstanding any more.
        """
        self._owed.append((what, write))
        if len(self._owed) == 1:
            self._next = 0.0
        return self.settle()

    def settle(self) -> bool:
        """Try the outstanding writes, unless the last attempt was a moment ago.

        A write that fails for another reason than a refusal or a held folder is logged and dropped.

        Returns:
          Whether nothing is outstanding any more.
        """
        held: list[tuple[str, Callable[[], object]]] = []
        while self._owed and self._clock() >= self._next:
            what, write = self._owed.popleft()
            try:
                with patience_of(WRITE_S):
                    write()
            except FolderHeld:
                held.append((what, write))
            except (OSError, RecordError) as error:
                reason = refused(error)
                if reason is None:
                    logger.error("%s: %s", what, error)
                    continue
                logger.warning("%s: not written yet: %s", what, reason)
                self._owed.appendleft((what, write))
                self._next = self._clock() + self._pause
                self._pause = min(2 * self._pause, LONGEST_PAUSE_S)
                break
            else:
                self._pause = RETRY_S
        if held:
            self._owed.extendleft(reversed(held))
            self._next = max(self._next, self._clock() + RETRY_S)
        return not self._owed

    def finish(self, stopped: Callable[[], bool] = lambda: False) -> None:
        """Wait until everything is written, for at most `patience_s`; `STOPPED_S` once the user wants to stop."""
        began, patience = self._clock(), patience_s()
        while not self.settle():
            if self._clock() - began >= (min(patience, STOPPED_S) if stopped() else patience):
                for what, _ in self._owed:
                    logger.error("%s: could not be written", what)
                return
            time.sleep(0.2)
