"""A sweep's driver process as a test sees it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parents[2]
LIMIT_S = 150.0


class Driver:
    """A running `python -m launcher.sweep`."""

    def __init__(self, process: subprocess.Popen[str], log: Path) -> None:
        self.process = process
        self._log = log
        self.descendants: dict[int, float] = {}

    def output(self) -> str:
        return self._log.read_text()

    def look(self) -> None:
        """Remember every process below this one, by pid and time of birth."""
        try:
            for child in psutil.Process(self.process.pid).children(recursive=True):
                self.descendants[child.pid] = child.create_time()
        except psutil.NoSuchProcess:
            pass

    def wait(self, limit_s: float = LIMIT_S) -> int:
        deadline = time.monotonic() + limit_s
        while self.process.poll() is None:
            assert time.monotonic() < deadline, f"the sweep did not end:\n{self.output()}"
            self.look()
            time.sleep(0.1)
        return self.process.returncode

    def until(self, condition: Callable[[], object], limit_s: float = LIMIT_S) -> None:
        deadline = time.monotonic() + limit_s
        while not condition():
            assert time.monotonic() < deadline, f"it did not come to that:\n{self.output()}"
            assert self.process.poll() is None, f"the sweep has ended:\n{self.output()}"
            self.look()
            time.sleep(0.05)

    def alive(self) -> list[str]:
        """Processes of this driver that still run."""
        left = []
        for pid, born in self.descendants.items():
            try:
                process = psutil.Process(pid)
                if process.create_time() == born and process.status() != psutil.STATUS_ZOMBIE:
                    left.append(f"{pid} {' '.join(process.cmdline())[:200]}")
            except psutil.NoSuchProcess:
                continue
        return left

    def assert_nothing_left(self, limit_s: float = 60.0) -> None:
        """A worker that was starting when its Ray was killed looks for that for half a minute."""
        deadline = time.monotonic() + limit_s
        while self.alive() and time.monotonic() < deadline:
            time.sleep(0.2)
        assert self.alive() == []


def start_driver(words: tuple[str, ...], log: Path, environment: Mapping[str, str]) -> Driver:
    """Start `python -m launcher.sweep` as the leader of a process group of its own."""
    with log.open("w") as stream:
        process = subprocess.Popen(
            [sys.executable, "-m", "launcher.sweep", *words], cwd=ROOT, env=dict(environment), text=True,
            stdout=stream, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
    return Driver(process, log)


def kill_driver(driver: Driver) -> None:
    """SIGKILL to the driver's whole group, if the driver still runs."""
    driver.look()
    if driver.process.poll() is None:
        os.killpg(driver.process.pid, signal.SIGKILL)
        driver.process.wait()


def sweep_folder(out: Path) -> Path:
    (manifest,) = out.glob("*/*/*/sweep.yaml")
    return manifest.parent
