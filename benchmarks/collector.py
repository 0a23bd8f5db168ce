"""How long collecting a sweep takes: synthetic folders, 50 evaluations a trial, metrics as wide as real ones."""

from __future__ import annotations

import json
import os
import resource
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from rich.table import Table

from benchmarks.harness import Options, Report, all_cores, call_in_process, environment, run_command, summary

REPEATS: Final = 3
EVALUATIONS: Final = 50
NEW: Final = 10
TIMEOUT_S: Final = 1800.0
ASKED: Final = {
    "first": "10,000 trials of 50 evaluations in less than 10 s on two cores",
    "new": "less than 1 s where 10 trials are new",
    "memory": "less than 1 GiB",
}


def run(options: Options) -> Report:
    """Collect sweeps of several sizes: the first time, with 10 trials new, with none; and as the whole command."""
    repeats = options.repeats or REPEATS
    results: dict[str, Any] = {}
    for trials in options.trials:
        with tempfile.TemporaryDirectory(prefix="bench-collect-") as folder:
            make = {"folder": folder, "trials": trials}
            call_in_process("benchmarks.collector:make", make, all_cores(), TIMEOUT_S)
            arguments = {"folder": folder, "repeats": repeats}
            found = call_in_process("benchmarks.collector:measure", arguments, all_cores(), TIMEOUT_S)
            command = [sys.executable, "-m", "results.collect", folder]
            walls = [run_command(command, TIMEOUT_S, environment())[0] for _ in range(repeats)]
        results[str(trials)] = found | {"command_s": summary(walls)}
    settings = {"trials": list(options.trials), "evaluations": EVALUATIONS, "new": NEW, "repeats": repeats}
    return Report(settings, results, asked=ASKED, tables=[_table(results)])


def make(folder: str, trials: int) -> None:
    """Make a sweep."""
    from tests.results.synthetic_sweep import make_large_sweep

    make_large_sweep(Path(folder), trials, EVALUATIONS)


def measure(folder: str, repeats: int) -> dict[str, Any]:
    """Collect a sweep for the first time, once its last trials have come, with as many changed anywhere, with none."""
    from results.collector.write import write_index

    sweep, aside = Path(folder), Path(f"{folder}-aside")
    aside.mkdir()
    first, new, changed, none = [], [], [], []
    by_number = sorted(sweep.glob("*/record.json"), key=lambda path: int(json.loads(path.read_bytes())["number"]))
    few = min(NEW, len(by_number) // 2)
    last, scattered = by_number[-few:], by_number[:: len(by_number) // few][:few]
    for _ in range(repeats):
        shutil.rmtree(sweep / ".index", ignore_errors=True)
        first.append(_timed(write_index, sweep))
        for record in last:
            record.parent.rename(aside / record.parent.name)
        write_index(sweep)
        for record in last:
            (aside / record.parent.name).rename(record.parent)
        new.append(_timed(write_index, sweep))
        for record in scattered:
            record.touch()
        changed.append(_timed(write_index, sweep))
        none.append(_timed(write_index, sweep))
    aside.rmdir()
    sizes = {name: _bytes(sweep / name) for name in ("index.parquet", "index.csv", "evaluations.parquet", ".index")}
    memory = {name: resource.getrusage(who).ru_maxrss / 1024 for name, who in
              (("self", resource.RUSAGE_SELF), ("workers", resource.RUSAGE_CHILDREN))}  # fmt: skip
    times = {"first": first, "new": new, "changed": changed, "none": none}
    return {name: {part: summary([one[part] for one in of_name]) for part in ("wall_s", "cpu_s")}
            for name, of_name in times.items()} | {"bytes": sizes, "memory_mib": memory}  # fmt: skip


def _timed(call: Callable[[Path], Any], sweep: Path) -> dict[str, float]:
    start, before = time.perf_counter(), os.times()
    call(sweep)
    after = os.times()
    return {"wall_s": time.perf_counter() - start, "cpu_s": sum(after[:4]) - sum(before[:4])}


def _bytes(path: Path) -> int:
    return path.stat().st_size if path.is_file() else sum(one.stat().st_size for one in path.iterdir())


def _table(results: Mapping[str, Any]) -> Table:
    title = f"The collector, {EVALUATIONS} evaluations a trial: seconds (of CPU time)"
    table = Table(title=title)
    for column in (
        "trials",
        "first",
        f"{NEW} new",
        f"{NEW} changed",
        "none new",
        "command",
        "MiB, each worker",
        "index kB",
        "evaluations kB",
    ):
        table.add_column(column, justify="right", no_wrap=True)
    for trials, found in results.items():
        times = [f"{found[name]['wall_s']['median']:.2f} ({found[name]['cpu_s']['median']:.2f})"
                 for name in ("first", "new", "changed", "none")]  # fmt: skip
        sizes, memory = found["bytes"], found["memory_mib"]
        table.add_row(
            f"{int(trials):,}", *times, f"{found['command_s']['median']:.2f}",
            f"{memory['self']:.0f}, {memory['workers']:.0f}", f"{sizes['index.parquet'] / 1e3:,.0f}",
            f"{sizes['evaluations.parquet'] / 1e3:,.0f}",
        )  # fmt: skip
    return table
