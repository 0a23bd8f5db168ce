"""A sweep as a process that a benchmark watches: its driver, Ray's own processes, its workers."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final

import psutil

from benchmarks.harness import ROOT, BenchmarkError, environment
from jax_party.trial.folder import read_record
from jax_party.trial.manifest import MANIFEST_FILE
from jax_party.trial.record import RECORD_FILE, TrialRecord
from jax_party.trial.states import State
from launcher.ask.experiment_factory import EXPERIMENT_VARIABLE

NO_WORK: Final[Mapping[str, str]] = {EXPERIMENT_VARIABLE: "launcher.work.no_work:NoWork"}
STEPS_PER_UPDATE: Final = 4096
"""Of `ff_mappo` at its defaults."""
_ENDED: Final = re.compile(rb"^trial \d+ [A-Z]+ ", re.MULTILINE)
_STOP_WAIT_S: Final = 60.0


@dataclass(frozen=True)
class Sample:
    """A sweep's processes at one moment: seconds since its command began, trials ended, CPU seconds, bytes of memory.

    `driver_*` is the driver alone; `ray_*` Ray's own processes; `workers_cpu_s` those that play trials.
    """

    at_s: float
    ended: int
    driver_cpu_s: float
    driver_bytes: int
    ray_cpu_s: float
    ray_bytes: int
    workers_cpu_s: float


class WatchedSweep:
    """A running `python -m launcher.sweep …`; used by `watch`.

    Attributes:
      began: seconds since the epoch.
      samples: one each time `look` was called.
    """

    def __init__(self, process: subprocess.Popen[bytes], log: Path) -> None:
        self.began = time.time()
        self.samples: list[Sample] = []
        self._process = process
        self._log = log
        self._read = self._ended = 0
        self._driver = psutil.Process(process.pid)
        self._cpu: dict[tuple[int, float], tuple[bool, float]] = {}

    @property
    def output(self) -> str:
        """What it has printed."""
        return self._log.read_text(errors="replace")

    @property
    def running(self) -> bool:
        """Whether it has not ended yet."""
        return self._process.poll() is None

    def look(self) -> bool:
        """Take a sample; False once the sweep has ended."""
        if not self.running:
            return False
        try:
            times, memory = self._driver.cpu_times(), self._driver.memory_info().rss
            ray_bytes = sum(self._look_at(child) for child in self._driver.children(recursive=True))
        except psutil.NoSuchProcess:
            return False
        with self._log.open("rb") as log:
            log.seek(self._read)
            text = log.read()
        whole = text.rfind(b"\n") + 1
        self._read += whole
        self._ended += len(_ENDED.findall(text[:whole]))
        # What has died is in the sums still: CPU seconds never go back.
        ray_cpu = sum(cpu for worker, cpu in self._cpu.values() if not worker)
        workers_cpu = sum(cpu for worker, cpu in self._cpu.values() if worker)
        at = time.time() - self.began
        cpu = times.user + times.system
        self.samples.append(Sample(at, self._ended, cpu, memory, ray_cpu, ray_bytes, workers_cpu))
        return True

    def wait(self, timeout_s: float, every_s: float = 1.0) -> float:
        """Look at it now and then until it has ended; the command's seconds.

        Raises:
          BenchmarkError: it failed or took too long.
        """
        while self.look():
            if time.time() - self.began > timeout_s:
                raise BenchmarkError(f"the sweep took longer than {timeout_s:.0f} s: {self.output[-500:]}")
            time.sleep(every_s)
        wall = time.time() - self.began
        if self._process.wait(_STOP_WAIT_S):
            raise BenchmarkError(f"the sweep ended with {self._process.returncode}: {self.output[-1000:]}")
        return wall

    def workers(self) -> list[psutil.Process]:
        """The processes that play trials now."""
        return [child for child in self._driver.children(recursive=True) if _is_worker(child)]

    def _look_at(self, child: psutil.Process) -> int:
        """Note a process's CPU seconds; gives its memory if it is Ray's own."""
        try:
            with child.oneshot():
                times, key = child.cpu_times(), (child.pid, child.create_time())
                worker = _is_worker(child) or self._cpu.get(key, (False, 0.0))[0]  # one that is dying has no title
                self._cpu[key] = worker, times.user + times.system
                return 0 if worker else int(child.memory_info().rss)
        except psutil.NoSuchProcess:
            return 0


@contextmanager
def watch(words: Sequence[str], **variables: str) -> Iterator[WatchedSweep]:
    """Start a sweep with these words; whatever is left of it at the end is killed."""
    with tempfile.TemporaryDirectory(prefix="bench-log-") as scratch:
        log = Path(scratch, "log")
        with log.open("wb") as stream:
            process = subprocess.Popen(
                [sys.executable, "-m", "launcher.sweep", *words], cwd=ROOT, env=environment(None, **variables),
                stdin=subprocess.DEVNULL, stdout=stream, stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip
        try:
            yield WatchedSweep(process, log)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


def only_sweep(out: Path) -> Path:
    """The folder of the one sweep under `out`."""
    (manifest,) = out.glob(f"*/*/*/{MANIFEST_FILE}")
    return manifest.parent


def read_trials(sweep: Path) -> list[TrialRecord]:
    """The records of a sweep's trials, all of which must be complete.

    Raises:
      BenchmarkError: one is not.
    """
    found = [read_record(path.parent) for path in sorted(sweep.glob(f"*/{RECORD_FILE}"))]
    left = [record for record in found if record.state is not State.COMPLETE]
    if left:
        raise BenchmarkError(f"{len(left)} of {len(found)} trials are not complete; the first is {left[0]}")
    return found


def seconds(moment: str | None) -> float:
    """A record's time, in seconds since the epoch."""
    assert moment is not None
    return datetime.fromisoformat(moment).timestamp()


def _is_worker(process: psutil.Process) -> bool:
    try:
        title = " ".join(process.cmdline())
    except psutil.Error:
        return False
    return title.startswith("ray::") and "Agent" not in title
