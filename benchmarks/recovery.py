"""What a killed worker costs: real training, the worker's process killed in the middle of a period.

The time lost is how much later the interrupted period ends than it would have: one median period after the one before
it. Part of that is training that is repeated, the rest is what it takes to notice, start another worker, load its
program and restore the checkpoint.
"""

from __future__ import annotations

import itertools
import os
import signal
import statistics
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from rich.table import Table

from benchmarks.driving import WatchedSweep, only_sweep, read_trials, watch
from benchmarks.harness import BenchmarkError, Options, Report, summary
from jax_party.judging.scores import ends_a_period
from jax_party.trial.folder import read_record
from jax_party.trial.metrics import read_metrics
from jax_party.trial.record import RECORD_FILE

REPEATS: Final = 3
PERIODS: Final = 8
PERIOD_STEPS: Final = 65_536
KILLS: Final = {3: 0.5, 6: 0.9}
"""Periods in which a worker is killed: after how many, and after what share of the next one."""
TIMEOUT_S: Final = 900.0
ASKED_S: Final = 5.0


def run(options: Options) -> Report:
    """Trials one after another, each of which loses its worker twice, after one that warms the compilation cache."""
    trials = options.repeats or REPEATS
    with tempfile.TemporaryDirectory(prefix="bench-recovery-") as out:
        words = ["ALG=mappo", f"SAMPLES={trials + 1}", "WORKERS=1", f"OUT={out}",
                 f"TIMESTEPS={PERIODS * PERIOD_STEPS}", f"EVALUATIONS={PERIODS}"]  # fmt: skip
        with watch(words) as sweep:
            found = [kill for number in range(trials + 1) for kill in _follow(sweep, Path(out), number)]
            sweep.wait(TIMEOUT_S)
        attempts = [trial.attempts for trial in read_trials(only_sweep(Path(out)))]
    results = {name: summary([one[name] for one in found]) for name in found[0]} | {"attempts": attempts}
    settings = {"trials": trials, "periods": PERIODS, "period_steps": PERIOD_STEPS, "kills_after": KILLS}
    asked = {"lost_s": f"< a period + {ASKED_S} s", "restart_s": f"< {ASKED_S} s"}
    return Report(settings, results, asked, [_table(results)])


def _follow(sweep: WatchedSweep, out: Path, number: int) -> list[dict[str, float]]:
    """Watch a trial period by period, and kill its worker in some of them; the first trial is left alone."""
    folder = _folder(sweep, out, number)
    ends: list[float] = []
    kills: dict[int, float] = {}
    while len(ends) < PERIODS:
        _wait(sweep, lambda: _periods(folder) > len(ends))
        ends.append(time.time())
        if number and len(ends) in KILLS:
            time.sleep(KILLS[len(ends)] * _typical(ends, kills))
            if _periods(folder) > len(ends):
                raise BenchmarkError(f"the period ended before the worker was to be killed: {ends}")
            kills[len(ends)] = time.time()
            (worker,) = [one for one in sweep.workers() if "ExperimentTrainable" in " ".join(one.cmdline())]
            os.kill(worker.pid, signal.SIGKILL)
    typical = _typical(ends, kills)
    return [
        {
            "period_s": typical,
            "done_s": killed - ends[place - 1],
            "lost_s": ends[place] - ends[place - 1] - typical,
            "restart_s": ends[place] - killed - typical,
        }
        for place, killed in kills.items()
    ]


def _typical(ends: Sequence[float], kills: Mapping[int, float]) -> float:
    """The median length of the periods that nobody disturbed; the first one has the start of the trial in it."""
    lengths = [later - sooner for sooner, later in itertools.pairwise(ends)]
    return statistics.median(length for place, length in enumerate(lengths, start=1) if place not in kills)


def _folder(sweep: WatchedSweep, out: Path, number: int) -> Path:
    """The folder of the `number`th trial to begin."""

    def begun() -> list[Path]:
        found = [path.parent for path in out.glob(f"*/*/*/*/{RECORD_FILE}")]
        return [folder for folder in found if read_record(folder).started_at]

    _wait(sweep, lambda: len(begun()) > number)
    return max(begun(), key=lambda folder: read_record(folder).started_at or "")


def _periods(folder: Path) -> int:
    return sum(ends_a_period(row) for row in read_metrics(folder))


def _wait(sweep: WatchedSweep, condition: Any) -> None:
    deadline = time.monotonic() + TIMEOUT_S
    while not condition():
        if time.monotonic() > deadline or not sweep.running:
            raise BenchmarkError(f"it did not come to that: {sweep.output[-500:]}")
        time.sleep(0.02)


def _table(found: Mapping[str, Any]) -> Table:
    table = Table("seconds", title="A worker killed in mid-period", caption=f"attempts: {found['attempts']}")
    for column in ("median", "least", "most", "asked"):
        table.add_column(column, justify="right")
    for name, (meaning, asked) in {
        "period_s": ("a period that nobody disturbs", ""),
        "done_s": ("of it trained when the worker was killed", ""),
        "lost_s": ("lost: how much later the period ended", f"< a period + {ASKED_S:.0f}"),
        "restart_s": ("of that, until training went on", f"< {ASKED_S:.0f}"),
    }.items():
        table.add_row(meaning, *(f"{found[name][key]:.2f}" for key in ("median", "min", "max")), asked)
    return table
