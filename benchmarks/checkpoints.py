"""What a checkpoint each period costs: trials of the default sweep, one core, with the time of each save taken.

A save blocks training until it is on disk, and removes the checkpoint past those that are kept; all of that counts.
CPU time is that of the whole process, Orbax's threads included, and holds on a busy machine too.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from rich.table import Table

from benchmarks.harness import Options, Report, call_in_process, one_core, summary
from benchmarks.setting import make_folder

SYSTEM: Final = "ff_mappo"
REPEATS: Final = 3
TIMEOUT_S: Final = 900.0
ASKED_SHARE: Final = 0.05


def run(options: Options) -> Report:
    """Trials in a process on one core."""
    arguments = {"trials": options.repeats or REPEATS}
    results = call_in_process("benchmarks.checkpoints:measure", arguments, one_core(), TIMEOUT_S)
    settings = {"system": SYSTEM, **arguments}
    return Report(settings, results, {"*_share": f"< {ASKED_SHARE}"}, [_table(results)])


def measure(trials: int) -> dict[str, Any]:
    """Train as the default sweep does; seconds of each period's training, evaluating and saving."""
    from jax_party.config import parse_config
    from jax_party.training.checkpoint_files import Checkpoints
    from jax_party.training.experiment import Experiment
    from mava_configs import compose
    from sweeps.space import find_spec, load_spec

    spec = load_spec(find_spec(SYSTEM))
    budget = {"system.total_timesteps": spec.budget.total_timesteps, "arch.num_evaluation": spec.budget.num_evaluation}
    saves: list[tuple[float, float]] = []
    save = Checkpoints.save

    def timed(self: Checkpoints, step: int, tree: Any) -> Path:
        wall, cpu = time.perf_counter(), time.process_time()
        path = save(self, step, tree)
        saves.append((time.perf_counter() - wall, time.process_time() - cpu))
        return path

    Checkpoints.save = timed  # type: ignore[method-assign]
    periods: list[tuple[float, float]] = []
    files = size = 0
    with tempfile.TemporaryDirectory(prefix="bench-checkpoints-") as scratch:
        for number in range(trials):
            settings = [f"{key}={value}" for key, value in {**budget, "system.seed": number}.items()]
            config = compose(SYSTEM, [*settings, f"env/scenario={spec.scenarios[0]}", "logger.use_console=False"])
            folder = make_folder(Path(scratch, str(number)), SYSTEM, config)
            experiment = Experiment(parse_config(config), folder)
            while not experiment.finished:
                wall, cpu = time.perf_counter(), time.process_time()
                experiment.step()
                periods.append((time.perf_counter() - wall, time.process_time() - cpu))
            experiment.close()
            kept = [path for path in (folder / "checkpoints").rglob("*") if path.is_file()]
            files, size = len(kept), sum(path.stat().st_size for path in kept)
    # The first period of each trial holds what is done once, the last one the absolute metric.
    of_trial = spec.budget.num_evaluation
    middle = [place for place in range(len(periods)) if 0 < place % of_trial < of_trial - 1]
    rest = {kind: [periods[place][kind] - saves[place][kind] for place in middle] for kind in (0, 1)}
    of_save = {kind: [saves[place][kind] for place in middle] for kind in (0, 1)}
    return {
        "save_s": summary(of_save[0]),
        "save_cpu_s": summary(of_save[1]),
        "period_without_s": summary(rest[0]),
        "period_without_cpu_s": summary(rest[1]),
        "wall_share": sum(of_save[0]) / sum(rest[0]),
        "cpu_share": sum(of_save[1]) / sum(rest[1]),
        "files_kept": files,
        "bytes_kept": size,
    }


def _table(found: Mapping[str, Any]) -> Table:
    caption = f"two checkpoints are kept: {found['files_kept']} files, {found['bytes_kept'] / 1e3:,.0f} kB"
    table = Table("", title=f"A checkpoint each period, {SYSTEM} at the default sweep's budget", caption=caption)
    for column in ("median", "least", "most", "asked"):
        table.add_column(column, justify="right")
    for name, meaning in {
        "save_s": "saving, s",
        "save_cpu_s": "saving, CPU s",
        "period_without_s": "the period without it, s",
        "period_without_cpu_s": "the period without it, CPU s",
    }.items():
        one = found[name]
        table.add_row(meaning, *(f"{one[key]:.3f}" for key in ("median", "min", "max")), "")
    for name in ("wall", "cpu"):
        table.add_row(f"extra {name} time", f"{found[f'{name}_share']:.1%}", "", "", f"< {ASKED_SHARE:.0%}")
    return table
