"""What the benchmarks share: processes of their own, bounded in time; summaries; provenance; JSON and tables."""

from __future__ import annotations

import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from rich.table import Table

from jax_party.store.files import write_json_atomically
from jax_party.trial.provenance import current_provenance, utc_timestamp

ROOT: Final = Path(__file__).resolve().parents[1]
STOP_WAIT_S: Final = 30.0
#: Set by hand or by a launcher, these would change how many cores XLA takes.
CORE_VARIABLES: Final = ("NPROC", "PJRT_NPROC", "XLA_FLAGS", "OMP_NUM_THREADS")


class BenchmarkError(Exception):
    """A benchmark could not be measured."""


@dataclass(frozen=True)
class Options:
    """What the command line asked for; None leaves the number to each benchmark.

    Attributes:
      repeats: how often each measurement is repeated.
      chunks: gradient chunk sizes that `throughput` compares, `auto` being the one that training takes.
      trials: sizes of the sweeps that `collector` reads; the largest is that of `scaling` and `resume`.
      systems: those that `systems`, `learning` and `engines` run.
      steps, seeds: environment steps of a run of `learning` or `engines`, and how many runs of each system.
      cases: those that `learning` trains in.
      out: folder of the JSON files.
      docs: whether `learning` puts its tables and pictures into docs/, and `systems` and `engines` their speeds into
        `launcher/plan/speeds.json`.
    """

    repeats: int | None = None
    chunks: tuple[str, ...] = ("auto",)
    trials: tuple[int, ...] = (100, 1000)
    systems: tuple[str, ...] | None = None
    steps: int | None = None
    seeds: int | None = None
    cases: tuple[str, ...] | None = None
    out: Path = Path("benchmark_results")
    docs: bool = False


@dataclass(frozen=True)
class Report:
    """What a benchmark found.

    Attributes:
      settings: what was run.
      results: the numbers, JSON types.
      asked: name of a figure -> what it should be, in words.
      tables: the same for people.
    """

    settings: Mapping[str, Any]
    results: Mapping[str, Any]
    asked: Mapping[str, str] = field(default_factory=dict)
    tables: Sequence[Table] = ()


def write_report(name: str, report: Report, load_before: Sequence[float], out: Path) -> Path:
    """Write a report as `<out>/<name>.json`; returns the path."""
    out.mkdir(parents=True, exist_ok=True)
    path = out / f"{name}.json"
    content = {
        "benchmark": name,
        "created": utc_timestamp(),
        "provenance": provenance() | {"load_average_before": list(load_before)},
        "settings": report.settings,
        "asked": report.asked,
        "results": report.results,
    }
    write_json_atomically(path, content)
    return path


def provenance() -> dict[str, Any]:
    """The code, the packages and the machine, with its load now."""
    return current_provenance() | {
        "cpu": _cpu_model(),
        "cpu_count": os.cpu_count(),
        "usable_cores": sorted(os.sched_getaffinity(0)),
        "load_average": list(os.getloadavg()),
        "command": ["python", "-m", "benchmarks", *sys.argv[1:]],
    }


def summary(values: Sequence[float]) -> dict[str, Any]:
    """Median, extremes and every value."""
    return {"median": statistics.median(values), "min": min(values), "max": max(values), "values": list(values)}


def one_core() -> list[int]:
    """The last of the cores that this process may use: the first one serves most interrupts."""
    return [max(os.sched_getaffinity(0))]


def all_cores() -> list[int]:
    """Every core that this process may use."""
    return sorted(os.sched_getaffinity(0))


def environment(cores: Sequence[int] | None = None, **variables: str) -> dict[str, str]:
    """Environment of a measured process: as ours, but for XLA's cores. One core is `NPROC=1`, as in a sweep's trial."""
    kept = {name: value for name, value in os.environ.items() if name not in CORE_VARIABLES}
    if cores is not None and len(cores) == 1:
        kept["NPROC"] = "1"
    return kept | variables


def call_in_process(
    function: str, arguments: Mapping[str, Any], cores: Sequence[int], timeout_s: float, **variables: str
) -> Any:
    """Call a function of this package in a new process on some cores; returns what it returns.

    Args:
      function: `module:function`; it takes `arguments` by keyword and returns JSON types.
      arguments: JSON types.
      cores: those that the process may use.
      timeout_s: after that long the process is ended.
      variables: more for the process's environment.

    Raises:
      BenchmarkError: it failed or took too long.
    """
    with tempfile.TemporaryDirectory(prefix="bench-") as scratch:
        result = Path(scratch) / "result.json"
        request = {"function": function, "arguments": dict(arguments), "cores": list(cores), "result": str(result)}
        command = [sys.executable, "-m", "benchmarks.worker", json.dumps(request)]
        run_command(command, timeout_s, environment(cores, **variables))
        return json.loads(result.read_text())


def run_command(command: Sequence[str], timeout_s: float, variables: Mapping[str, str]) -> tuple[float, str]:
    """Run a command from the repository's root to its end; returns its seconds and its output.

    Raises:
      BenchmarkError: it failed, or took longer than `timeout_s` and was ended.
    """
    start = time.perf_counter()
    with tempfile.TemporaryFile("w+") as output:
        process = subprocess.Popen(
            command, cwd=ROOT, env=dict(variables), text=True, stdin=subprocess.DEVNULL,
            stdout=output, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
        try:
            code = process.wait(timeout_s)
        except BaseException as error:
            _end(process)
            if isinstance(error, subprocess.TimeoutExpired):
                raise BenchmarkError(f"{' '.join(command[:4])}: took longer than {timeout_s:.0f} s") from None
            raise
        seconds = time.perf_counter() - start
        output.seek(0)
        text = output.read()
    if code:
        raise BenchmarkError(f"{' '.join(command[:4])}: exit code {code}: {text[-2000:].strip()}")
    return seconds, text


def _end(process: subprocess.Popen[str]) -> None:
    """Ask a process to stop, then kill the group that it leads."""
    process.send_signal(signal.SIGINT)
    try:
        process.wait(STOP_WAIT_S)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _cpu_model() -> str | None:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return None
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), None)
