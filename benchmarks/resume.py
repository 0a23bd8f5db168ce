"""Resuming a large sweep: from the command to the first new trial, all others being finished.

The finished trials did no work; the new one is real training. `--trials` says how many there are (its largest).
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Any, Final

from rich.table import Table

from benchmarks.driving import NO_WORK, only_sweep, read_trials, seconds, watch
from benchmarks.harness import Options, Report, summary
from jax_party.trial.folder import update_record
from jax_party.trial.states import State

REPEATS: Final = 3
TIMEOUT_S: Final = 3600.0
ASKED_S: Final = 10.0


def run(options: Options) -> Report:
    """Make a sweep of finished trials, then give it a new one and resume it, several times."""
    trials, repeats = max(options.trials), options.repeats or REPEATS
    with tempfile.TemporaryDirectory(prefix="bench-resume-") as out:
        words = ["ALG=mappo", f"SAMPLES={trials}", "WORKERS=2", f"OUT={out}", "TIMESTEPS=1"]
        with watch(words, **NO_WORK) as sweep:
            sweep.wait(TIMEOUT_S)
        found = [resume_one(only_sweep(Path(out))) for _ in range(repeats)]
    results = {name: summary([one[name] for one in found]) for name in found[0]}
    table = Table(
        "seconds", "median", "least", "most", "asked", title=f"Resume of a sweep of {trials:,} finished trials"
    )
    for name, meaning in {
        "to_first_trial_s": "command to first new trial",
        "driver_cpu_s": "CPU time of the driver until then",
        "ray_cpu_s": "CPU time of Ray's own processes until then",
        "workers_cpu_s": "CPU time of the worker until then",
        "wall_s": "the whole command, one trial and the tables",
    }.items():
        one = results[name]
        asked = f"< {ASKED_S:.0f}" if name == "to_first_trial_s" else ""
        table.add_row(meaning, f"{one['median']:.1f}", f"{one['min']:.1f}", f"{one['max']:.1f}", asked)
    settings = {"trials": trials, "repeats": repeats}
    return Report(settings, results, {"to_first_trial_s": f"< {ASKED_S} s"}, [table])


def resume_one(folder: Path) -> dict[str, Any]:
    """Make one of a sweep's finished trials a new one, and resume the sweep with real training."""
    trial = read_trials(folder)[0]
    for name in ("metrics", "vaults", "checkpoints"):
        shutil.rmtree(folder / trial.trial_id / name, ignore_errors=True)
    update_record(
        folder / trial.trial_id, state=State.PENDING, env_steps=0, attempts=0, started_at=None, ended_at=None,
        checkpoint=None, vaults=(), absolute_metrics=None, duration_s=0.0,
    )  # fmt: skip
    with watch(["resume", str(folder), "WORKERS=2"]) as sweep:
        wall = sweep.wait(TIMEOUT_S, every_s=0.2)
    (started,) = [seconds(one.started_at) for one in read_trials(folder) if one.trial_id == trial.trial_id]
    until = next((one for one in sweep.samples if one.at_s >= started - sweep.began), sweep.samples[-1])
    return {
        "to_first_trial_s": started - sweep.began,
        "driver_cpu_s": until.driver_cpu_s,
        "ray_cpu_s": until.ray_cpu_s,
        "workers_cpu_s": until.workers_cpu_s,
        "wall_s": wall,
    }
