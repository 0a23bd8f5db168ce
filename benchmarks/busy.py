"""How busy two workers keep their cores through a sweep of 32 short trials of real training, start-up excluded.

Counted from the moment when both workers have begun a trial to the end of the last one, so that the end, where one
worker has nothing left to do, counts. On a machine that others use too, workers get less than a core each, and the
share of time in which they have a trial in hand says more than their CPU time.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from rich.table import Table

from benchmarks.driving import Sample, only_sweep, read_trials, seconds, watch
from benchmarks.harness import Options, Report, summary

WORKERS: Final = 2
TRIALS: Final = 32
TIMEOUT_S: Final = 1800.0
ASKED_SHARE: Final = 0.9
WORDS: Final = (
    "ALG=mappo", f"SAMPLES={TRIALS}", f"WORKERS={WORKERS}", "SCENARIO=p-short", "TIMESTEPS=81920", "EVALUATIONS=5",
)  # fmt: skip


def run(options: Options) -> Report:
    """One sweep, or as many as `--repeats` says."""
    found = [_sweep() for _ in range(options.repeats or 1)]
    results = {name: summary([one[name] for one in found]) for name in found[0]}
    asked = {"trial_share": f"> {ASKED_SHARE}", "cpu_share": f"> {ASKED_SHARE} on an idle machine"}
    return Report({"words": list(WORDS), "repeats": len(found)}, results, asked, [_table(results)])


def _sweep() -> dict[str, float]:
    with tempfile.TemporaryDirectory(prefix="bench-busy-") as out:
        with watch([*WORDS, f"OUT={out}"]) as sweep:
            wall = sweep.wait(TIMEOUT_S, every_s=0.25)
        trials = read_trials(only_sweep(Path(out)))
    starts = sorted(seconds(trial.started_at) for trial in trials)
    begin, end = starts[WORKERS - 1], max(seconds(trial.ended_at) for trial in trials)
    in_hand = sum(max(0.0, seconds(one.ended_at) - max(begin, seconds(one.started_at))) for one in trials)
    cores = WORKERS * (end - begin)
    first, last = (_at(sweep.samples, moment - sweep.began) for moment in (begin, end))
    return {
        "span_s": end - begin,
        "trial_share": in_hand / cores,
        "cpu_share": (last.workers_cpu_s - first.workers_cpu_s) / cores,
        "driver_cpu_share": (last.driver_cpu_s - first.driver_cpu_s) / cores,
        "ray_cpu_share": (last.ray_cpu_s - first.ray_cpu_s) / cores,
        "between_trials_s": (cores - in_hand) / (TRIALS - WORKERS),
        "wall_s": wall,
    }


def _at(samples: Sequence[Sample], moment: float) -> Sample:
    """The sample that is nearest to a moment."""
    return min(samples, key=lambda sample: abs(sample.at_s - moment))


def _table(found: Mapping[str, Any]) -> Table:
    table = Table("", title=f"{WORKERS} workers through {TRIALS} trials of MAPPO, 82k steps each, start-up excluded")
    for column in ("median", "least", "most", "asked"):
        table.add_column(column, justify="right")
    asked = {"trial_share": f"> {ASKED_SHARE:.0%}", "cpu_share": f"> {ASKED_SHARE:.0%}"}
    for name, meaning in {
        "trial_share": "share of the workers' time with a trial in hand",
        "cpu_share": "the workers' CPU time, of their cores' time",
        "driver_cpu_share": "the driver's",
        "ray_cpu_share": "that of Ray's own processes and the collector",
    }.items():
        one = found[name]
        table.add_row(meaning, *(f"{one[key]:.1%}" for key in ("median", "min", "max")), asked.get(name, ""))
    for name, meaning in {
        "between_trials_s": "without a trial in hand, a trial, s",
        "span_s": "from both workers' first trials to the last one's end, s",
        "wall_s": "the whole command, s",
    }.items():
        table.add_row(meaning, *(f"{found[name][key]:.2f}" for key in ("median", "min", "max")), "")
    return table
