"""A worker that hangs is ended."""

from __future__ import annotations

import math
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

import pytest

from jax_party.errors import SweepError
from launcher.ask.quantities import parse_period_timeout
from launcher.work.watchdog import EXIT_CODE, FIRST_S, LEAST_S, OPENING_S, Watchdog


class Timer(threading.Timer):
    """A timer that goes off when a test says so."""

    made: ClassVar[list[Timer]] = []

    def __init__(self, interval: float, function: Callable[..., None], args: tuple[object, ...]) -> None:
        super().__init__(interval, function, args)
        self.made.append(self)

    def start(self) -> None:
        self.started = True

    def go_off(self) -> None:
        """Call the function in another thread, unless the timer has been cancelled."""
        assert self.started
        if not self.finished.is_set():
            thread = threading.Thread(target=self.function, args=self.args)
            thread.start()
            thread.join()


@pytest.fixture(autouse=True)
def no_timers() -> None:
    Timer.made.clear()


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90", 90.0), ("90s", 90.0), ("1.5h", 5400.0), ("30m", 1800.0), ("none", math.inf), ("auto", None)],
)
def test_a_period_timeout_is_read(text: str, seconds: float | None) -> None:
    assert parse_period_timeout(text) == seconds


@pytest.mark.parametrize("text", ["0", "-3", "0s", "h", "1 fortnight", "nan", "inf"])
def test_an_invalid_period_timeout_is_refused(text: str) -> None:
    with pytest.raises(SweepError, match=r"PERIOD_TIMEOUT: expected a time above 0, such as 90s"):
        parse_period_timeout(text)


def test_the_limit_follows_the_longest_period() -> None:
    watchdog = Watchdog(None)
    assert (watchdog.period_s(), watchdog.opening_s()) == (FIRST_S, FIRST_S)
    watchdog.played(1.0)
    assert (watchdog.period_s(), watchdog.opening_s()) == (LEAST_S, OPENING_S)
    watchdog.played(100.0)
    watchdog.played(50.0)
    assert watchdog.period_s() == 2000.0
    assert Watchdog(3.0).period_s() == 3.0


def test_the_process_is_ended_after_the_reason_is_reported(tmp_path: Path) -> None:
    ended: list[int] = []
    told: list[str] = []
    trace = tmp_path / "hang.txt"
    with Watchdog(None, ended.append, Timer).watch(90.0, trace, told.append):
        (timer,) = Timer.made
        assert (timer.interval, timer.daemon, ended) == (90.0, True, [])
        timer.go_off()
    assert ended == [EXIT_CODE]
    assert told == ["gave no result within 90 s and was given up (PERIOD_TIMEOUT, stacks are in hang.txt)"]
    assert "test_watchdog.py" in trace.read_text()


def test_the_reason_names_a_file_outside_the_trials_folder(tmp_path: Path) -> None:
    told: list[str] = []
    with Watchdog(None, lambda code: None, Timer).watch(9.5, tmp_path / "x", told.append, "/tmp/x on worker-2"):
        Timer.made[0].go_off()
    assert told == ["gave no result within 9.5 s and was given up (PERIOD_TIMEOUT, stacks are in /tmp/x on worker-2)"]


def test_a_block_that_ends_in_time_is_left_alone(tmp_path: Path) -> None:
    ended: list[int] = []
    with Watchdog(None, ended.append, Timer).watch(90.0, tmp_path / "hang.txt", lambda reason: None):
        pass
    Timer.made[0].go_off()
    assert ended == []


def test_without_a_limit_there_is_no_timer(tmp_path: Path) -> None:
    with Watchdog(None, timer=Timer).watch(math.inf, tmp_path / "hang.txt", lambda reason: None):
        pass
    assert Timer.made == []


def test_pythons_own_timer_ends_a_block_that_hangs(tmp_path: Path) -> None:
    ended = threading.Event()
    with Watchdog(None, lambda code: ended.set()).watch(0.01, tmp_path / "hang.txt", lambda reason: None):
        assert ended.wait(30)


def test_a_call_that_holds_the_interpreters_lock_is_ended_too(tmp_path: Path) -> None:
    """`ctypes.PyDLL` holds the lock during the call, so that no Python thread runs."""
    code = f"""
import ctypes, pathlib
from launcher.work import watchdog
watchdog.LAST_RESORT_S = 0.5
with watchdog.Watchdog(None).watch(0.5, pathlib.Path({str(tmp_path / "hang.txt")!r}), print):
    ctypes.PyDLL(None).sleep(60)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=50, check=False)
    assert done.returncode == 1 and "Timeout" in done.stderr
