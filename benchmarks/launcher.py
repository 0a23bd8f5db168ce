"""What a sweep itself costs a trial: sweeps of trials that do no work, through the real launcher with two workers."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from rich.table import Table

from benchmarks.harness import Options, Report, all_cores, call_in_process, summary

REPEATS: Final = 1
WORKERS: Final = 2
TRIALS: Final = (8, 24)
TIMEOUT_S: Final = 240.0
ASKED_S: Final = 0.3


def run(options: Options) -> Report:
    """Sweeps of 8 and of 24 trials in turn."""
    repeats = options.repeats or REPEATS
    few, many = TRIALS
    found: dict[int, list[dict[str, Any]]] = {trials: [] for trials in TRIALS}
    for _ in range(repeats):
        for trials in TRIALS:
            # A little more than the sweep's own bound, so that the sweep is ended by whoever began it.
            found[trials].append(
                call_in_process("benchmarks.launcher:measure", {"trials": trials}, all_cores(), TIMEOUT_S + 60.0)
            )
    per_trial = [(one["wall_s"] - one["startup_s"]) / few for one in found[few]]
    marginal = [
        (more["wall_s"] - less["wall_s"]) / (many - few) for less, more in zip(found[few], found[many], strict=True)
    ]
    results = {
        "after_startup_per_trial_s": summary(per_trial),
        "marginal_per_trial_s": summary(marginal),
        "between_trials_of_a_worker_s": summary([one["per_trial_s"] for one in found[few]]),
        "startup_s": summary([one["startup_s"] for one in found[few]]),
        "wall_s": {str(trials): summary([one["wall_s"] for one in runs]) for trials, runs in found.items()},
    }
    asked = {"after_startup_per_trial_s": f"< {ASKED_S} s", "marginal_per_trial_s": f"< {ASKED_S} s"}
    return Report({"workers": WORKERS, "trials": list(TRIALS), "repeats": repeats}, results, asked, [_table(results)])


def measure(trials: int) -> dict[str, Any]:
    """One sweep of trials that do no work, as a user would start it."""
    from launcher.machine.ray_session import prepare_driver

    prepare_driver()
    from launcher.work.no_work import measure as measure_overhead

    with tempfile.TemporaryDirectory(prefix="bench-launcher-") as out:
        return dataclasses.asdict(measure_overhead(Path(out), trials, WORKERS, TIMEOUT_S))


def _table(results: Mapping[str, Any]) -> Table:
    few, many = TRIALS
    table = Table("seconds", "median", "most", "asked", title=f"A sweep of no-work trials, {WORKERS} workers")
    rows = {
        f"a trial, of {few}: wall time after start-up / {few}": ("after_startup_per_trial_s", f"< {ASKED_S}"),
        f"a further trial: wall time of {many} against {few}": ("marginal_per_trial_s", f"< {ASKED_S}"),
        "from a trial's end to the next one's on one worker": ("between_trials_of_a_worker_s", ""),
        "start-up: command to first trial": ("startup_s", ""),
    }
    for name, (key, asked) in rows.items():
        table.add_row(name, f"{results[key]['median']:.3f}", f"{results[key]['max']:.3f}", asked)
    for trials, wall in results["wall_s"].items():
        table.add_row(f"whole command, {trials} trials", f"{wall['median']:.2f}", f"{wall['max']:.2f}", "")
    return table
