"""A large sweep of trials that do no work, through the real launcher: what the driver costs, and what grows.

`--trials 10000` (the largest number counts) takes a quarter of an hour. The figures are CPU seconds where there is a
choice, since those of a busy machine are still right.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from rich.table import Table

from benchmarks.driving import NO_WORK, STEPS_PER_UPDATE, Sample, only_sweep, read_trials, seconds, watch
from benchmarks.harness import Options, Report, environment, run_command
from benchmarks.resume import resume_one

WORKERS: Final = 2
PERIODS: Final = 11
PERIODS_TRIALS: Final = 100
ASKED_S: Final = 0.1
POINTS: Final = (0.1, 0.5, 1.0)
TIMEOUT_S: Final = 7200.0


def run(options: Options) -> Report:
    """The large sweep, its collection and its resumption; and a small one with many periods a trial."""
    trials = max(options.trials)
    with tempfile.TemporaryDirectory(prefix="bench-scaling-") as scratch:
        found = _sweep(Path(scratch, "large"), trials, 1)
        sweep = only_sweep(Path(scratch, "large"))
        found |= _disk(sweep, trials)
        command = [sys.executable, "-m", "results.collect", str(sweep)]
        found["collect_s"] = run_command(command, TIMEOUT_S, environment())[0]
        found["resume"] = resume_one(sweep)
        periods = _sweep(Path(scratch, "periods"), PERIODS_TRIALS, PERIODS)
    more = periods["driver_cpu_per_trial_s"] - found["driver_cpu_per_trial_s"]
    found["driver_cpu_per_result_s"] = more / (PERIODS - 1)
    found["result_latency_s"] = (periods["wall_per_trial_s"] - found["wall_per_trial_s"]) * WORKERS / (PERIODS - 1)
    settings = {"trials": trials, "workers": WORKERS, "periods": PERIODS, "periods_trials": PERIODS_TRIALS}
    asked = {"driver_cpu_per_trial_s": f"< {ASKED_S} s", "wall_per_trial_s": f"< {ASKED_S} s"}
    return Report(settings, found, asked, [_table(found, trials)])


def _sweep(out: Path, trials: int, periods: int) -> dict[str, Any]:
    words = ["ALG=mappo", f"SAMPLES={trials}", f"WORKERS={WORKERS}", f"OUT={out}",
             f"TIMESTEPS={periods * STEPS_PER_UPDATE}", f"EVALUATIONS={periods}"]  # fmt: skip
    with watch(words, **NO_WORK) as sweep:
        wall = sweep.wait(TIMEOUT_S)
    folder = only_sweep(out)
    found = read_trials(folder)
    starts, ends = [seconds(one.started_at) for one in found], sorted(seconds(one.ended_at) for one in found)
    planned = max((folder / one.trial_id / "config.yaml").stat().st_mtime for one in found)
    at = {f"{share:.0%}": asdict(_when(sweep.samples, share * trials)) for share in POINTS}
    early, late = (_when(sweep.samples, share * trials) for share in (POINTS[0], POINTS[-1]))
    between = max(1, late.ended - early.ended)
    return {
        "wall_s": wall,
        "planned_s": planned - sweep.began,
        "startup_s": min(starts) - sweep.began,
        "trials_s": ends[-1] - min(starts),
        "winddown_s": sweep.began + wall - ends[-1],
        "wall_per_trial_s": (ends[-1] - ends[0]) / (trials - 1),
        "driver_cpu_per_trial_s": (late.driver_cpu_s - early.driver_cpu_s) / between,
        "ray_cpu_per_trial_s": (late.ray_cpu_s - early.ray_cpu_s) / between,
        "driver_bytes_per_trial": (late.driver_bytes - early.driver_bytes) / between,
        "ray_bytes_per_trial": (late.ray_bytes - early.ray_bytes) / between,
        "at": at,
    }


def _when(samples: Sequence[Sample], ended: float) -> Sample:
    """The last sample before so many trials had ended, or the first one."""
    return next((sample for sample in reversed(samples) if sample.ended < ended), samples[0])


def _disk(sweep: Path, trials: int) -> dict[str, Any]:
    """Files, folders and bytes for each trial: in the trials' folders, and in Tune's."""
    sizes: dict[str, list[int]] = {"trial": [0, 0, 0], "tune": [0, 0, 0]}
    for place, folders, files in os.walk(sweep):
        inside = Path(place).relative_to(sweep).parts
        if inside:
            total = sizes["tune" if inside[0] == "tune" else "trial"]
            total[0] += len(files)
            total[1] += len(folders)
            total[2] += sum(Path(place, file).stat().st_blocks * 512 for file in files)
    names = ("files", "folders", "bytes")
    tables = {path.name: path.stat().st_size for path in sweep.iterdir() if path.is_file()}
    return {
        "disk_per_trial": {
            place: dict(zip(names, (value / trials for value in total), strict=True)) for place, total in sizes.items()
        },
        "bytes_of": tables,
    }


def _table(found: Mapping[str, Any], trials: int) -> Table:
    table = Table("", "measured", "asked", title=f"{trials:,} trials of no work, {WORKERS} workers")
    disk = found["disk_per_trial"]
    rows = {
        "wall time a trial, s": (f"{found['wall_per_trial_s']:.4f}", f"< {ASKED_S}"),
        "CPU time of the driver a trial, s": (f"{found['driver_cpu_per_trial_s']:.4f}", f"< {ASKED_S}"),
        "CPU time of the driver a further result, s": (f"{found['driver_cpu_per_result_s']:.4f}", ""),
        "from a result to the next one on a worker, s": (f"{found['result_latency_s']:.4f}", ""),
        "CPU time of Ray's own processes a trial, s": (f"{found['ray_cpu_per_trial_s']:.4f}", ""),
        **{
            f"memory at {share}, MB: driver, Ray's own": (
                f"{at['driver_bytes'] / 1e6:.0f}, {at['ray_bytes'] / 1e6:.0f}", "",
            )
            for share, at in found["at"].items()
        },
        "memory a further trial, kB: driver, Ray's own": (
            f"{found['driver_bytes_per_trial'] / 1e3:.1f}, {found['ray_bytes_per_trial'] / 1e3:.1f}", "",
        ),
        "command to plan written, s": (f"{found['planned_s']:.1f}", ""),
        "command to first trial, s": (f"{found['startup_s']:.1f}", ""),
        "last trial to the end, s": (f"{found['winddown_s']:.1f}", ""),
        "collecting, s": (f"{found['collect_s']:.1f}", ""),
        "resume to first new trial, s": (f"{found['resume']['to_first_trial_s']:.1f}", ""),
        "files a trial: its own, Tune's": (f"{disk['trial']['files']:.1f}, {disk['tune']['files']:.1f}", ""),
        "kB a trial: its own, Tune's": (f"{disk['trial']['bytes'] / 1e3:.1f}, {disk['tune']['bytes'] / 1e3:.1f}", ""),
    }  # fmt: skip
    for name, (value, asked) in rows.items():
        table.add_row(name, value, asked)
    return table
