"""Compile time: cold, from the persistent cache, and not at all in a warm process.

Cold and cached are one process each on one core, up to the end of the first update and evaluation, function by
function of the program. Warm is a second trial in a process whose first one has ended: other seed and learning rates,
equal static part.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from rich.table import Table

from benchmarks.harness import Options, Report, call_in_process, one_core, summary
from benchmarks.setting import SYSTEMS, make_config, make_trial
from jax_party.config import ExperimentConfig

REPEATS: Final = 3
TIMEOUT_S: Final = 300.0
ASKED_WARM_S: Final = 1.0
#: Two evaluations of one update each, recorded and saved as by default.
SHORT: Final = (
    "system.total_timesteps=8192",
    "arch.num_evaluation=2",
    "arch.num_absolute_metric_eval_episodes=32",
    "logger.use_console=false",
)
OTHERS: Final = ("system.actor_lr=1.1e-3", "system.critic_lr=7e-4", "system.gamma=0.97")
FUNCTIONS: Final = ("init", "update", "evaluate")


def run(options: Options) -> Report:
    """Each system: one cold process, one from its cache, and warm trials in the latter's cache."""
    repeats = options.repeats or REPEATS
    results: dict[str, Any] = {}
    for system in SYSTEMS:
        with tempfile.TemporaryDirectory(prefix="bench-cache-") as cache:
            cold, cached = (_call("measure_functions", {"system": system}, cache) for _ in range(2))
            warm = _call("measure_warm", {"system": system, "repeats": repeats}, cache)
        results[system] = {"cold": cold, "cached": cached, "warm": warm}
    asked = {"*.warm.end_to_first_update_s": f"< {ASKED_WARM_S} s"}
    return Report({"overrides": list(SHORT), "repeats": repeats}, results, asked, [_table(results)])


def _call(function: str, arguments: Mapping[str, Any], cache: str) -> Any:
    return call_in_process(
        f"benchmarks.compile:{function}", arguments, one_core(), TIMEOUT_S, JAX_COMPILATION_CACHE_DIR=cache
    )


# -- In the measured process -------------------------------------------------------------------------------------------


def measure_functions(system: str) -> dict[str, Any]:
    """Seconds of imports, and of tracing and compiling each function; `xla` is what XLA (or its cache) took of it."""
    start = time.perf_counter()
    import jax_party.training.experiment  # noqa: F401  (what a trial imports)

    imported = time.perf_counter() - start
    return {"import_s": imported, **compile_functions(make_config(system, *SHORT))}


def compile_functions(config: ExperimentConfig) -> dict[str, Any]:
    """Seconds of tracing and compiling each function of a config's program, of which in XLA or its cache."""
    import jax

    from jax_party.config import make_budget
    from jax_party.training.program import Program, make_hyper

    in_xla = _count_xla_seconds()
    program = Program(config)
    hyper = program.put(make_hyper(config, make_budget(config)))
    found: dict[str, Any] = {"functions": {}}

    def take(name: str, result: Any) -> Any:
        jax.block_until_ready(result)
        before = [sum(part[key] for part in found["functions"].values()) for key in ("total_s", "xla_s")]
        found["functions"][name] = {"total_s": program.compile_seconds - before[0], "xla_s": sum(in_xla) - before[1]}
        return result

    state = take("init", program.init(hyper, jax.random.PRNGKey(0)))  # the environments' start, too
    state, _ = take("update", program.update(hyper, state))
    take("evaluate", program.evaluate(hyper, state.params, jax.random.PRNGKey(1)))
    found["total_s"] = program.compile_seconds
    return found


def _count_xla_seconds() -> list[float]:
    """A list to which every compilation from now on adds its seconds in XLA."""
    import jax

    seconds: list[float] = []

    def listen(event: str, duration_secs: float, **_: str | int) -> None:
        if event.endswith("backend_compile_duration"):
            seconds.append(duration_secs)

    jax.monitoring.register_event_duration_secs_listener(listen)
    return seconds


def measure_warm(system: str, repeats: int) -> dict[str, Any]:
    """Run a trial to its end, then others: from one's end to the end of the next one's first update."""
    from jax_party.training.experiment import Experiment

    found: dict[str, list[float]] = {"end_to_first_update_s": [], "first_update_s": [], "compile_s": []}
    with tempfile.TemporaryDirectory(prefix="bench-warm-") as scratch:
        before = Experiment(make_trial(Path(scratch, "first"), system, SHORT), Path(scratch, "first"))
        while not before.finished:
            before.step()
        for seed in range(1, repeats + 1):
            folder = Path(scratch, str(seed))
            config = make_trial(folder, system, (*SHORT, *OTHERS), seed)
            start = time.perf_counter()
            before.close()
            trial = Experiment(config, folder)
            first = _time_updates(trial)
            trial.step()
            found["end_to_first_update_s"].append(first[0][1] - start)
            found["first_update_s"].append(first[0][1] - first[0][0])
            while not trial.finished:
                trial.step()
            found["compile_s"].append(trial.record.compile_time_s or 0.0)
            before = trial
        before.close()
    return {name: summary(values) for name, values in found.items()}


def _time_updates(experiment: Any) -> list[tuple[float, float]]:
    """A list of each update's start and end from now on, as the experiment's shared program does them."""
    import jax

    program, times = experiment.program, []
    update = type(program).update

    def timed(*arguments: Any) -> Any:
        start = time.perf_counter()
        result = jax.block_until_ready(update(program, *arguments))
        times.append((start, time.perf_counter()))
        return result

    program.update = timed
    return times


# -- Table -------------------------------------------------------------------------------------------------------------


def _table(results: Mapping[str, Any]) -> Table:
    caption = f"from end: from a trial's end to the end of the next one's first update; asked: < {ASKED_WARM_S:.0f}"
    table = Table(title="Seconds of tracing and compiling, one core", caption=caption)
    for column in ("system", "process"):
        table.add_column(column, no_wrap=True)
    for column in (*FUNCTIONS, "all", "of it XLA", "from end", "most"):
        table.add_column(column, justify="right", no_wrap=True)
    for system, found in results.items():
        for process in ("cold", "cached"):
            parts = found[process]["functions"]
            seconds = [parts[name]["total_s"] for name in FUNCTIONS]
            in_xla = sum(parts[name]["xla_s"] for name in FUNCTIONS)
            table.add_row(system, process, *(f"{one:.2f}" for one in (*seconds, found[process]["total_s"], in_xla)))
        compiled, taken = found["warm"]["compile_s"]["median"], found["warm"]["end_to_first_update_s"]
        cells = [f"{one:.2f}" for one in (taken["median"], taken["max"])]
        table.add_row(system, "warm", "", "", "", f"{compiled:.2f}", "", *cells, end_section=True)
    return table
