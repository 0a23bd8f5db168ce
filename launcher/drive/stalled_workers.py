"""End workers whose process is stopped or blocked in the kernel, where its own watchdog cannot run.

The driver waits longer than the worker's watchdog would have, and then makes Ray kill the process from outside.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable
from typing import Any, Final

from launcher.work.watchdog import GRACE_S, Watchdog

LOOK_S: Final = 1.0
AWAY_S: Final = 5.0
"""A longer gap between two looks means that the driver was busy and may have missed results; it does not count."""

logger = logging.getLogger(__name__)


class StalledWorkers:
    """Running trials, each with a deadline for its next result.

    Args:
      period_timeout_s: how long a period may take, in seconds; None for the watchdog's default.
      end: kills a worker, given its actor's handle.
      clock: returns the time in seconds.
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
        """Set the first deadline of a trial; its worker may have to release the previous trial, and to compile."""
        self._expect(trial_id, self._watchdog.opening_s() + self._watchdog.storing_s())

    def heard(self, trial_id: str) -> None:
        """Note that a period has ended, and set the deadline of the next one."""
        if trial_id in self._waiting:
            self._watchdog.played(self._now - self._waiting[trial_id][0])
        self._expect(trial_id, self._watchdog.period_s() + self._watchdog.storing_s())

    def left(self, trial_id: str) -> None:
        """Remove the deadline of a trial that no worker has any more."""
        self._waiting.pop(trial_id, None)

    def reason(self, trial_id: str) -> str | None:
        """Return why the trial's last attempt was killed from here, or None; a reason is returned only once."""
        return self._reasons.pop(trial_id, None)

    def tend(self, playing: Iterable[tuple[str, Any]]) -> None:
        """Kill the workers that are overdue.

        Args:
          playing: the running trials, each with its worker's actor.
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


__all__ = ["StalledWorkers"]
