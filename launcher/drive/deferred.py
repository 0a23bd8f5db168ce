"""What the driver writes into trial folders. What storage refuses, or a dying worker still holds, is written later."""

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
"""How long storage on a server is asked before it counts as refusing: Ctrl-C waits for that."""
STOPPED_S = 10.0
"""How long a user who wants to stop waits for what is owed."""

logger = logging.getLogger(__name__)


def refused(error: BaseException) -> str | None:
    """Why storage does not take or give something now, on a disk or on a server; None for any other error."""
    return str(error) if isinstance(error, StorageError) else refusal(error)


class Notes:
    """Writes in their order, without waiting: the driver must not stand still for one trial's folder.

    Args:
      clock: seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._owed: deque[tuple[str, Callable[[], object]]] = deque()
        self._clock = clock
        self._next = 0.0
        self._pause = RETRY_S

    @property
    def owed(self) -> int:
        """How many are still to be written."""
        return len(self._owed)

    def add(self, what: str, write: Callable[[], object]) -> bool:
        """Write now, or once it can be; `what` names it in the log.

        Returns:
          Whether it is written.
        """
        self._owed.append((what, write))
        if len(self._owed) == 1:
            self._next = 0.0
        return self.settle()

    def settle(self) -> bool:
        """Write what is owed, unless that was tried a moment ago; whether nothing is owed any more.

        One that cannot be written for another reason is logged and dropped.
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
        """Wait until everything is written, or patience is over, which it soon is once the user wants to stop."""
        began, patience = self._clock(), patience_s()
        while not self.settle():
            if self._clock() - began >= (min(patience, STOPPED_S) if stopped() else patience):
                for what, _ in self._owed:
                    logger.error("%s: could not be written", what)
                return
            time.sleep(0.2)
