"""What ends a worker that hangs."""

from __future__ import annotations

import math
import subprocess
import sys
import time
from pathlib import Path

import pytest

from jax_party.errors import SweepError
from launcher.ask.quantities import parse_period_timeout
from launcher.work.watchdog import EXIT_CODE, FIRST_S, LEAST_S, OPENING_S, Watchdog


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90", 90.0), ("90s", 90.0), ("1.5h", 5400.0), ("30m", 1800.0), ("none", math.inf), ("auto", None)],
)
def test_reads_a_time(text: str, seconds: float | None) -> None:
    assert parse_period_timeout(text) == seconds


@pytest.mark.parametrize("text", ["0", "-3", "0s", "h", "1 fortnight", "nan", "inf"])
def test_refuses_what_is_no_time(text: str) -> None:
    with pytest.raises(SweepError, match=r"PERIOD_TIMEOUT: expected a time above 0, such as 90s"):
        parse_period_timeout(text)


def test_learns_how_long_periods_take() -> None:
    watchdog = Watchdog(None)
    assert (watchdog.period_s(), watchdog.opening_s()) == (FIRST_S, FIRST_S)
    watchdog.played(1.0)
    assert (watchdog.period_s(), watchdog.opening_s()) == (LEAST_S, OPENING_S)
    watchdog.played(100.0)
    watchdog.played(50.0)
    assert watchdog.period_s() == 2000.0
    assert Watchdog(3.0).period_s() == 3.0


def test_ends_the_process_after_saying_why(tmp_path: Path) -> None:
    ended: list[int] = []
    told: list[str] = []
    trace = tmp_path / "hang.txt"
    with Watchdog(None, ended.append).watch(0.1, trace, told.append):
        time.sleep(0.5)
    assert ended == [EXIT_CODE]
    assert told == ["gave no result within 0.1 s and was given up (PERIOD_TIMEOUT, stacks are in hang.txt)"]
    assert "test_watchdog.py" in trace.read_text()


def test_says_where_the_stacks_are_that_no_folder_has(tmp_path: Path) -> None:
    told: list[str] = []
    with Watchdog(None, lambda code: None).watch(0.1, tmp_path / "x", told.append, "/tmp/x on worker-2"):
        time.sleep(0.5)
    assert told == ["gave no result within 0.1 s and was given up (PERIOD_TIMEOUT, stacks are in /tmp/x on worker-2)"]


def test_lets_what_is_in_time_be(tmp_path: Path) -> None:
    ended: list[int] = []
    with Watchdog(None, ended.append).watch(0.3, tmp_path / "hang.txt", lambda reason: None):
        pass
    time.sleep(0.5)
    assert ended == []


def test_one_who_holds_the_interpreter_is_ended_too(tmp_path: Path) -> None:
    """`ctypes.PyDLL` keeps the interpreter's lock while it calls, so that no thread of Python's runs."""
    code = f"""
import ctypes, pathlib
from launcher.work import watchdog
watchdog.LAST_RESORT_S = 0.5
with watchdog.Watchdog(None).watch(0.5, pathlib.Path({str(tmp_path / "hang.txt")!r}), print):
    ctypes.PyDLL(None).sleep(60)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=50, check=False)
    assert done.returncode == 1 and "Timeout" in done.stderr
