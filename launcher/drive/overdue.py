"""The end of a worker whose process stands still: stopped, or waiting in the kernel, it runs no watchdog of its own.

The driver waits for longer than the worker's watchdog would have, and then has Ray end the process from outside.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable
from typing import Any, Final

from launcher.work.watchdog import GRACE_S, Watchdog

LOOK_S: Final = 1.0
AWAY_S: Final = 5.0
"""More than this between two looks is time that the driver was away, when results may have come: none is charged."""

logger = logging.getLogger(__name__)


class Overdue:
    """Trials that are playing, each with the time within which something must be heard of it.

    Args:
      period_timeout_s: how long a period may take, None for the watchdog's own choice.
      end: ends a worker, by its actor's handle.
      clock: seconds.
    """

    def __init__(
        self, period_timeout_s: float | None, end: Callable[[Any], None], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._watchdog = Watchdog(period_timeout_s)
        self._end = end
        self._clock = clock
        self._now = 0.0
        self._looked = clock()
        self._waiting: dict[str, tuple[float, float]] = {}
        self._reasons: dict[str, str] = {}

    def started(self, trial_id: str) -> None:
        """A worker has the trial; it may have to let go of the one before, and to compile."""
        self._expect(trial_id, self._watchdog.opening_s() + self._watchdog.storing_s())

    def heard(self, trial_id: str) -> None:
        """A period has ended."""
        if trial_id in self._waiting:
            self._watchdog.played(self._now - self._waiting[trial_id][0])
        self._expect(trial_id, self._watchdog.period_s() + self._watchdog.storing_s())

    def left(self, trial_id: str) -> None:
        """No worker has the trial any more."""
        self._waiting.pop(trial_id, None)

    def reason(self, trial_id: str) -> str | None:
        """Why the trial's last attempt was ended from here, if it was; told once."""
        return self._reasons.pop(trial_id, None)

    def tend(self, playing: Iterable[tuple[str, Any]]) -> None:
        """End the workers that are overdue.

        Args:
          playing: the trials that workers have now, each with its worker's actor.
        """
        now = self._clock()
        passed = now - self._looked
        if passed < LOOK_S:
            return
        self._looked = now
        self._now += passed if passed <= AWAY_S else 0.0
        for trial_id, actor in playing:
            since, until = self._waiting.get(trial_id, (0.0, float("inf")))
            if actor is None or self._now <= until:
                continue
            self.left(trial_id)
            reason = f"its worker had stood still for {self._now - since:.0f} s and was given up (PERIOD_TIMEOUT)"
            logger.warning("%s: %s", trial_id, reason)
            self._reasons[trial_id] = reason
            self._end(actor)

    def _expect(self, trial_id: str, within_s: float) -> None:
        self._waiting[trial_id] = (self._now, self._now + within_s + GRACE_S)


__all__ = ["Overdue"]
