"""The budget of a sweep and what it has spent: wall time, environment steps, device-hours, trials."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from jax_party.errors import StorageError, SweepError
from jax_party.store.files import write_json_atomically
from jax_party.store.retry import refusal
from jax_party.store.storage import store_of
from launcher.show.console import duration

SPENT_FILE: Final = "spent.json"
WRITE_EVERY_S: Final = 5.0

logger = logging.getLogger(__name__)


class Spending:
    """Counts what a sweep spends while its driver runs; what earlier drivers spent is read from its folder.

    Args:
      folder: the sweep's folder.
      limits: kind -> limit; a missing kind is unlimited.
      devices: the number of devices that the workers hold: GPUs, or CPU cores.
      clock: returns the time in seconds.

    Raises:
      SweepError: the file with what earlier drivers spent cannot be read.
    """

    def __init__(
        self, folder: Path, limits: Mapping[str, float], devices: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.limits = dict(limits)
        self.reason: str | None = None
        self._path = folder / SPENT_FILE
        self._devices = devices
        self._clock = clock
        self._before = _read(self._path)
        self._began = self._written = clock()
        self._steps = 0

    def hold(self, devices: float) -> None:
        """Set the number of devices that the workers hold from now on."""
        hours = (self._clock() - self._began) / 3600.0
        self._before["device_hours"] += hours * (self._devices - devices)
        self._devices = devices

    def amounts(self) -> dict[str, float]:
        """Return kind -> amount spent so far, for the kinds that grow while trials run (all but `trials`)."""
        seconds = self._clock() - self._began
        return {
            "time": self._before["time"] + seconds,
            "steps": float(self._steps),
            "device_hours": self._before["device_hours"] + seconds * self._devices / 3600.0,
        }

    def update(self, steps: int) -> str | None:
        """Update the amounts and compare them with the limits.

        Args:
          steps: environment steps of all trials and seeds, including those of earlier drivers.

        Returns:
          The first limit that was reached, in words, or None.
        """
        self._steps = steps
        spent = self.amounts()
        for kind, amount in spent.items():
            if self.reason is None and amount >= self.limits.get(kind, float("inf")):
                self.reason = self._part(kind, amount)
        if self._clock() - self._written >= WRITE_EVERY_S:
            self.write()
        return self.reason

    def write(self) -> None:
        """Write the amounts into the folder; if storage refuses, a later call writes them."""
        self._written = self._clock()
        kept = {kind: amount for kind, amount in self.amounts().items() if kind != "steps"}
        try:
            write_json_atomically(self._path, kept)
        except (OSError, StorageError) as error:  # the next call tries again
            if isinstance(error, OSError) and refusal(error) is None:
                raise
            logger.warning("%s: not written: %s", self._path, error)

    def describe(self) -> str:
        """Describe how much of each limit is spent; empty without limits."""
        spent = self.amounts()
        return ", ".join(self._part(kind, spent[kind]) for kind in self.limits if kind in spent)

    def allowed_trials(self, ended: int) -> int | None:
        """Return how many more trials may run, or None for any number."""
        limit = self.limits.get("trials")
        return None if limit is None else max(0, int(limit) - ended)

    def _part(self, kind: str, amount: float) -> str:
        limit = self.limits[kind]
        if kind == "time":
            return f"time {duration(amount)} of {duration(limit)}"
        return f"{kind} {amount:,.0f} of {limit:,.0f}" if kind == "steps" else f"{kind} {amount:.3g} of {limit:g}"


def _read(path: Path) -> dict[str, float]:
    try:
        found = json.loads(store_of(path).read_bytes(path))
        return {kind: float(found[kind]) for kind in ("time", "device_hours")}
    except FileNotFoundError:
        return {"time": 0.0, "device_hours": 0.0}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise SweepError(f"{path}: cannot be read ({error}); restore it, or remove it to count from 0") from error


__all__ = ["SPENT_FILE", "Spending"]
