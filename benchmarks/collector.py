"""How long collecting a sweep takes: synthetic folders, 10 evaluations a trial, metrics as wide as real ones."""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from rich.table import Table

from benchmarks.harness import Options, Report, call_in_process, environment, one_core, run_command, summary

REPEATS: Final = 3
EVALUATIONS: Final = 10
TIMEOUT_S: Final = 300.0


def run(options: Options) -> Report:
    """Collect sweeps of several sizes, in a warm process and as the whole command."""
    repeats = options.repeats or REPEATS
    results: dict[str, Any] = {}
    for trials in options.trials:
        with tempfile.TemporaryDirectory(prefix="bench-collect-") as folder:
            arguments = {"folder": folder, "trials": trials, "repeats": repeats}
            found = call_in_process("benchmarks.collector:measure", arguments, one_core(), TIMEOUT_S)
            command = [sys.executable, "-m", "results.collect", folder]
            walls = [run_command(command, TIMEOUT_S, environment())[0] for _ in range(repeats)]
        results[str(trials)] = found | {"command_s": summary(walls)}
    settings = {"trials": list(options.trials), "evaluations": EVALUATIONS, "repeats": repeats}
    return Report(settings, results, tables=[_table(results)])


def measure(folder: str, trials: int, repeats: int) -> dict[str, Any]:
    """Make a sweep and collect it; the first time is told apart, since it loads code."""
    from results.collector import collect
    from tests.results.synthetic_sweep import make_large_sweep

    sweep = make_large_sweep(Path(folder), trials, EVALUATIONS)
    seconds = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        paths = collect(sweep)
        seconds.append(time.perf_counter() - start)
    sizes = {path.name: path.stat().st_size for path in (paths.index, paths.index_csv, paths.evaluations)}
    return {"first_s": seconds[0], "collect_s": summary(seconds[1:]), "bytes": sizes}


def _table(results: Mapping[str, Any]) -> Table:
    table = Table(title=f"The collector, {EVALUATIONS} evaluations a trial, one core")
    for column in ("trials", "collect s", "ms a trial", "first s", "command s", "index kB", "evaluations kB"):
        table.add_column(column, justify="right", no_wrap=True)
    for trials, found in results.items():
        seconds, sizes = found["collect_s"]["median"], found["bytes"]
        table.add_row(
            f"{int(trials):,}", f"{seconds:.3f}", f"{seconds / int(trials) * 1e3:.2f}", f"{found['first_s']:.3f}",
            f"{found['command_s']['median']:.2f}", f"{sizes['index.parquet'] / 1e3:,.0f}",
            f"{sizes['evaluations.parquet'] / 1e3:,.0f}",
        )  # fmt: skip
    return table
