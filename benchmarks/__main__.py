"""`python -m benchmarks [name …] [--out benchmark_results] [--repeats N] …`; `--help` has all."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

import benchmarks
from benchmarks.harness import BenchmarkError, Options, Report, write_report
from mava_configs import ALGORITHMS

BUSY_SHARE = 0.5
FILE_WIDTH = 120
CHUNKS = "16,32,64,128,whole"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run benchmarks one after another; one that fails does not stop the others, but the exit code is then 1."""
    asked = _parser().parse_args(arguments)
    options = Options(
        asked.repeats,
        asked.chunks,
        asked.trials,
        asked.systems,
        asked.steps,
        asked.seeds,
        asked.cases,
        asked.out,
        asked.docs,
    )
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = FILE_WIDTH
    failed = 0
    for name in asked.names or benchmarks.NAMES:
        failed += not _run(name, options, asked.out, console)
    return min(failed, 1)


def _run(name: str, options: Options, out: Path, console: Console) -> bool:
    load, start = os.getloadavg(), time.perf_counter()
    console.rule(name)
    if load[0] > BUSY_SHARE * (os.cpu_count() or 1):
        console.print(
            f"[yellow]the machine is busy (load {load[0]:.1f}): expect numbers worse than the code's[/yellow]"
        )
    try:
        report: Report = importlib.import_module(f"benchmarks.{name}").run(options)
    except BenchmarkError as error:
        console.print(f"{name}: not measured: {error}", style="red", markup=False)
        return False
    for table in report.tables:
        console.print(table)
    path = write_report(name, report, load, out)
    console.print(f"{path} ({time.perf_counter() - start:.0f} s)", style="dim", markup=False, soft_wrap=True)
    return True


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("python -m benchmarks", description="Measure JaxParty on this machine.")
    known = (*benchmarks.NAMES, *benchmarks.LONG)
    what = f"{', '.join(benchmarks.NAMES)}: all by default; {', '.join(benchmarks.LONG)}: when named"
    parser.add_argument("names", nargs="*", metavar="name", choices=[[], *known], help=what)
    parser.add_argument("--out", type=Path, default=Path("benchmark_results"), help="folder for the JSON files")
    parser.add_argument("--repeats", type=_positive, help="repeats of each measurement")
    parser.add_argument("--chunks", type=_chunks, nargs="?", default=("auto",), const=("auto", *CHUNKS.split(",")),
                        help=f"throughput: compare gradient chunk sizes; without a value {CHUNKS}")  # fmt: skip
    parser.add_argument(
        "--trials",
        type=_counts,
        default=(100, 1000),
        help="collector: sizes of the sweeps; scaling, resume: the largest",
    )
    parser.add_argument("--systems", type=_systems, help="systems, learning, engines: only these, by commas")
    parser.add_argument("--steps", type=_steps, help="learning, engines: environment steps of each run, such as 2e6")
    parser.add_argument("--seeds", type=_positive, help="learning, engines: runs of each system")
    parser.add_argument(
        "--docs",
        action="store_true",
        help="learning: put tables and pictures into docs/; systems, engines: put speeds where estimates find them",
    )
    parser.add_argument("--cases", type=_cases, help="learning: only these, by commas")
    return parser


def _cases(text: str) -> tuple[str, ...]:
    from benchmarks.learning import CASES

    known = [case.name for case in CASES]
    unknown = [name for name in text.split(",") if name not in known]
    if unknown:
        raise argparse.ArgumentTypeError(f"unknown: {', '.join(unknown)}; choose among {', '.join(known)}")
    return tuple(text.split(","))


def _systems(text: str) -> tuple[str, ...]:
    unknown = [name for name in text.split(",") if name not in ALGORITHMS]
    if unknown:
        raise argparse.ArgumentTypeError(f"unknown: {', '.join(unknown)}; choose among {', '.join(ALGORITHMS)}")
    return tuple(text.split(","))


def _steps(text: str) -> int:
    return _positive(str(int(float(text))))


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"expected 1 or more, got {text}")
    return value


def _counts(text: str) -> tuple[int, ...]:
    return tuple(_positive(part) for part in text.split(","))


def _chunks(text: str) -> tuple[str, ...]:
    parts = tuple(text.split(","))
    for part in parts:
        if part not in ("auto", "whole") and not (part.isdigit() and int(part)):
            raise argparse.ArgumentTypeError(f"expected sizes, auto or whole, by commas; got {part!r}")
    return ("auto", *(part for part in dict.fromkeys(parts) if part != "auto"))


if __name__ == "__main__":
    sys.exit(main())
