"""The sweep that the issue asks about, as a user runs it, with nothing in the compilation cache.

16 trials of MAPPO, 82k steps each, five evaluations. Where the wall time goes is read from the trials' records and
metrics: a trial's seconds are split into compiling, training, evaluating, and the rest, and summed over all trials.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from rich.table import Table

from benchmarks.harness import BenchmarkError, Options, Report, environment, run_command
from jax_party.judging.scores import ends_a_period
from jax_party.trial.folder import read_record
from jax_party.trial.metrics import read_metrics
from jax_party.trial.record import TrialRecord
from jax_party.trial.states import State

COMMAND: Final = (
    "-m", "launcher.sweep", "ALG=mappo", "SAMPLES=16", "SCENARIO=p-short", "TIMESTEPS=81920", "EVALUATIONS=5",
)  # fmt: skip
TRIALS: Final = 16
TIMEOUT_S: Final = 900.0
ASKED_S: Final = 120.0
PARTS: Final = {
    "compile_s": "compiling",
    "training_s": "training",
    "evaluation_s": "evaluating",
    "absolute_s": "absolute metric, with the last save",
    "rest_s": "opening, vault, metrics, checkpoints, records",
}


def run(options: Options) -> Report:
    """One sweep into a temporary folder, or as many as `--repeats` says, each with a cold compilation cache."""
    runs = [_sweep() for _ in range(options.repeats or 1)]
    settings = {"command": ["python", *COMMAND], "compilation_cache": "empty"}
    return Report(settings, {"runs": runs}, {"runs.*.wall_s": f"< {ASKED_S} s"}, [_table(one) for one in runs])


def _sweep() -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="bench-sweep-") as scratch:
        out = Path(scratch, "out")
        variables = environment(JAX_COMPILATION_CACHE_DIR=str(Path(scratch, "cache")))
        began = time.time()
        wall, output = run_command([sys.executable, *COMMAND, f"OUT={out}"], TIMEOUT_S, variables)
        folders = [path.parent for path in sorted(out.glob("*/*/*/*/record.json"))]
        found = [(read_record(folder), read_metrics(folder)) for folder in folders]
    complete = [pair for pair in found if pair[0].state is State.COMPLETE]
    if len(complete) != TRIALS:
        raise BenchmarkError(f"{len(complete)} of {TRIALS} trials completed: {output[-1000:]}")
    return summarise(complete, began, wall)


def summarise(trials: Sequence[tuple[TrialRecord, list[dict[str, Any]]]], began: float, wall: float) -> dict[str, Any]:
    """Where the time went.

    Args:
      trials: record and metrics of each complete trial.
      began: when the command did, seconds since the epoch.
      wall: the command's seconds.
    """
    starts = [_seconds(record.started_at) for record, _ in trials]
    ends = [_seconds(record.ended_at) for record, _ in trials]
    parts = [split(record, rows) for record, rows in trials]
    worked = sum(record.duration_s for record, _ in trials)
    return {
        "wall_s": wall,
        "startup_s": min(starts) - began,
        "trials_s": max(ends) - min(starts),
        "winddown_s": began + wall - max(ends),
        "busy_workers": worked / (max(ends) - min(starts)),
        "trial_seconds": {name: sum(part[name] for part in parts) for name in PARTS} | {"all_s": worked},
        "first_trials_compile_s": max(record.compile_time_s or 0.0 for record, _ in trials),
        "steps_per_second": statistics.median(record.steps_per_second or 0.0 for record, _ in trials),
    }


def split(record: TrialRecord, rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """The seconds of one trial by what it did, named as in `PARTS`."""
    compile_s = record.compile_time_s or 0.0
    training = record.env_steps / record.steps_per_second if record.steps_per_second else 0.0
    periods = [row for row in rows if ends_a_period(row)]
    # The first evaluation may hold its own compilation, which is counted as such.
    later = [row["evaluation_time_s"] for row in periods[1:]] or [0.0]
    evaluation = sum(later) + min(statistics.median(later), periods[0]["evaluation_time_s"])
    absolute = sum(row["wall_time_s"] - periods[-1]["wall_time_s"] for row in rows[-1:])
    known = {
        "compile_s": compile_s, "training_s": training, "evaluation_s": evaluation, "absolute_s": absolute,
    }  # fmt: skip
    return known | {"rest_s": record.duration_s - sum(known.values())}


def _seconds(moment: str | None) -> float:
    assert moment is not None
    return datetime.fromisoformat(moment).timestamp()


def _table(found: Mapping[str, Any]) -> Table:
    table = Table("", title="16 trials of MAPPO, 82k steps each, cold compilation cache")
    table.add_column("seconds", justify="right")
    table.add_column("asked")
    table.add_row("the whole command", f"{found['wall_s']:.1f}", f"< {ASKED_S:.0f}", style="bold")
    table.add_row("  start-up, to the first trial's start", f"{found['startup_s']:.1f}")
    table.add_row(f"  trials ({found['busy_workers']:.2f} workers busy on average)", f"{found['trials_s']:.1f}")
    table.add_row("  after the last trial", f"{found['winddown_s']:.1f}", end_section=True)
    table.add_row("work of all trials together", f"{found['trial_seconds']['all_s']:.1f}", style="bold")
    for name, meaning in PARTS.items():
        table.add_row(f"  {meaning}", f"{found['trial_seconds'][name]:.1f}")
    table.caption = f"training at {found['steps_per_second']:,.0f} steps/s (median trial)"
    return table
