"""Run the collector as a separate process, periodically while a sweep runs and once at its end."""

from __future__ import annotations

import logging
import subprocess
import sys
import threading
import time
from pathlib import Path

COLLECT_EVERY_S = 30.0
COLLECT_SHARE = 0.05
"""Largest share of a running sweep's time spent on collecting, so that large sweeps are collected less often."""
COLLECT_TIMEOUT_S = 3600.0

logger = logging.getLogger(__name__)


def collect(folder: Path) -> str | None:
    """Run `python -m results.collect <folder>` and wait for it.

    Returns:
      None on success, else one line that says why it failed.
    """
    command = [sys.executable, "-m", "results.collect", str(folder)]
    try:  # in a new session, so that Ctrl-C does not interrupt writing a table
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=COLLECT_TIMEOUT_S, start_new_session=True, check=False
        )
    except subprocess.TimeoutExpired:
        return f"the collector took longer than {COLLECT_TIMEOUT_S:.0f} s"
    if done.returncode == 0:
        return None
    lines = (done.stderr or done.stdout).strip().splitlines()
    return lines[-1] if lines else f"the collector ended with exit code {done.returncode}"


class BackgroundCollector:
    """Context manager that collects a sweep's folders periodically.

    It collects every `every_s` seconds, or less often if collecting would take more than `share` of the time.
    """

    def __init__(self, folder: Path, every_s: float = COLLECT_EVERY_S, share: float = COLLECT_SHARE) -> None:
        self._folder = folder
        self._every_s = every_s
        self._share = share
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="collector", daemon=True)

    def __enter__(self) -> BackgroundCollector:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(timeout=COLLECT_TIMEOUT_S)

    def _run(self) -> None:
        pause = self._every_s
        while not self._stop.wait(pause):
            began = time.monotonic()
            problem = collect(self._folder)
            pause = max(self._every_s, (time.monotonic() - began) / self._share)
            if problem:
                logger.warning("collecting %s: %s", self._folder, problem)
