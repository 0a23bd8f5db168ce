"""Both engines at Mava's own defaults, side by side: `make bench-engines`, in an environment with Mava.

The native engine has them from `+preset=mava`; where those of the installed Mava differ from the preset's, nothing is
measured. Runs alternate between the engines, each in a process of its own on one core, with an empty compilation cache.
Scores are mean returns of the networks that training ended with; the absolute metrics, of the best evaluation's, are
beside them.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from rich.table import Table

from benchmarks.harness import BenchmarkError, Options, Report, call_in_process, one_core, summary
from benchmarks.speeds import write_speeds
from jax_party.engines import MAVA, NATIVE, get_engine
from jax_party.errors import ConfigError
from jax_party.judging.intervals import interval

SYSTEMS: Final = ("ff_ippo", "ff_mappo")
STEPS: Final = 262_144
EVALUATIONS: Final = 8
SEEDS: Final = 5
SCENARIO: Final = "p-base"
TIMEOUT_S: Final = 1800.0
SAME: Final = (
    f"env/scenario={SCENARIO}", f"arch.num_evaluation={EVALUATIONS}", "logger.use_console=false", "vault=none",
)  # fmt: skip
"""What both engines are told beside the seed and the number of steps."""
OWN: Final[Mapping[str, tuple[str, ...]]] = {NATIVE: ("+preset=mava",), MAVA: ()}
"""What each engine is told by itself."""
OF_Q_LEARNING: Final = ("buffer_size", "min_buffer_size", "sample_sequence_length", "max_grad_norm")
OTHER_MEANING: Final[Mapping[str, tuple[str, ...]]] = {
    system: tuple(f"system.{key}" for key in OF_Q_LEARNING) for system in ("rec_iql", "rec_qmix")
}
"""Keys that the engines count in units of their own, so that the preset's numbers are not Mava's."""
FIGURES: Final = ("steps_per_second", "compile_s", "first_metric_s", "wall_s", "score", "absolute")


def run(options: Options) -> Report:
    """Every system with both engines, from each seed."""
    systems, steps, seeds = options.systems or SYSTEMS, options.steps or STEPS, options.seeds or SEEDS
    try:
        get_engine(MAVA).check()
        for system in systems:
            get_engine(MAVA).check_algorithm(system)
            check_settings(system, *(composed(engine, system, 0, steps) for engine in (NATIVE, MAVA)))
    except ConfigError as error:
        raise BenchmarkError(str(error)) from error
    found: dict[str, dict[str, list[dict[str, float]]]] = {name: {NATIVE: [], MAVA: []} for name in systems}
    for seed in range(seeds):
        for system in systems:
            order = (NATIVE, MAVA) if seed % 2 == 0 else (MAVA, NATIVE)
            for engine in order:
                found[system][engine].append(_measure_apart(engine, system, seed, steps))
    results: dict[str, dict[str, Any]] = {
        system: {engine: _sum_up(runs) for engine, runs in of.items()} for system, of in found.items()
    }
    if options.docs:
        mavas = {name: of[MAVA] for name, of in results.items()}
        write_speeds(
            MAVA, {name: (one["steps_per_second"]["median"], one["compile_s"]["median"]) for name, one in mavas.items()}
        )
    for system, of_engines in results.items():
        of_engines["native over mava"] = _ratio(found[system])
        of_engines["scores agree"] = intervals_overlap(*(of_engines[name]["score_interval"] for name in (NATIVE, MAVA)))
    settings = {
        "steps": steps, "seeds": seeds, "evaluations": EVALUATIONS, "scenario": SCENARIO,
        "overrides": {engine: [*SAME, *OWN[engine]] for engine in (NATIVE, MAVA)}, "mava": get_engine(MAVA).version(),
    }  # fmt: skip
    asked = {"native over mava": "at least 1.5 times the steps per second", "scores agree": "true"}
    return Report(settings, results, asked, [_table(system, part) for system, part in results.items()])


def composed(engine: str, system: str, seed: int, steps: int) -> dict[str, Any]:
    """Compose the config of a run."""
    from mava_configs import compose

    words = [*SAME, *OWN[engine], f"system.seed={seed}", f"system.total_timesteps={steps}"]
    return compose(system, words, engine)


def check_settings(system: str, native: Mapping[str, Any], mava: Mapping[str, Any]) -> None:
    """Refuse two configs that differ in a setting of the experiment that both have.

    Raises:
      BenchmarkError: with the first such key and both values.
    """
    from sweeps.axes import flatten

    theirs = dict(flatten(mava))
    for key, value in flatten(native):
        if key.partition(".")[0] not in ("arch", "system", "network") or key in OTHER_MEANING.get(system, ()):
            continue
        if key != "system.num_updates" and theirs.get(key, value) != value:
            raise BenchmarkError(
                f"{system}: {key}: {value} by +preset=mava, {theirs[key]} in the installed Mava: it is of another "
                "version than the preset (docs/systems.md); install that one"
            )


def intervals_overlap(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool | None:
    """Whether two intervals have a value in common; None where one seed gave none."""
    ends = [found[end] for found in (one, other) for end in ("low", "high")]
    if None in ends:
        return None
    low, high, other_low, other_high = ends
    return bool(low <= other_high and other_low <= high)


def _measure_apart(engine: str, system: str, seed: int, steps: int) -> dict[str, float]:
    arguments = {"engine": engine, "system": system, "seed": seed, "steps": steps}
    with tempfile.TemporaryDirectory(prefix="bench-cache-") as cache:
        measured: dict[str, float] = call_in_process(
            "benchmarks.engines:measure", arguments, one_core(), TIMEOUT_S, JAX_COMPILATION_CACHE_DIR=cache
        )
    return measured


def _sum_up(runs: Sequence[Mapping[str, float]]) -> dict[str, Any]:
    """Each figure over seeds, and the scores' interval."""
    scores = interval([run["score"] for run in runs])
    return {figure: summary([run[figure] for run in runs]) for figure in FIGURES} | {"score_interval": scores._asdict()}


def _ratio(runs: Mapping[str, Sequence[Mapping[str, float]]]) -> dict[str, float]:
    """How many times as much, by medians: what Mava takes of time, and what the native engine does a second."""
    native, mava = (
        {figure: statistics.median(run[figure] for run in runs[engine]) for figure in FIGURES}
        for engine in (NATIVE, MAVA)
    )
    return {figure: native[figure] / mava[figure] for figure in FIGURES}


# -- In the measured process -------------------------------------------------------------------------------------------


def measure(engine: str, system: str, seed: int, steps: int) -> dict[str, float]:
    """Train once; what it took, from the first line on, and what came out."""
    start = time.perf_counter()
    from jax_party.trial.folder import create_trial_folder
    from jax_party.trial.record import TrialRecord

    chosen = get_engine(engine)
    with tempfile.TemporaryDirectory(prefix="bench-engines-") as scratch:
        mapping = composed(engine, system, seed, steps)
        folder = Path(scratch, "trial")
        record = TrialRecord(
            trial_id="bench", engine=engine, algorithm=system, environment="JaxParty", scenario=SCENARIO, seed=seed
        )
        create_trial_folder(folder, mapping, record)
        experiment = chosen.experiment()(chosen.parse(mapping), folder)
        try:
            experiment.step()
            first = time.perf_counter() - start
            while not experiment.finished:
                experiment.step()
        finally:
            experiment.close()
        ended = experiment.record
        return {
            "steps_per_second": ended.steps_per_second or 0.0,
            "compile_s": ended.compile_time_s or 0.0,
            "first_metric_s": first,
            "wall_s": time.perf_counter() - start,
            "score": (ended.final_metrics or {}).get("episode_return") or 0.0,
            "absolute": (ended.absolute_metrics or {}).get("episode_return") or 0.0,
        }


# -- Table -------------------------------------------------------------------------------------------------------------


def _table(system: str, results: Mapping[str, Any]) -> Table:
    seeds = len(results[NATIVE]["score"]["values"])
    agree = {True: "scores agree within their intervals", False: "scores differ", None: "one seed has no interval"}
    caption = f"medians; scores with 95 % intervals; {agree[results['scores agree']]}"
    table = Table(title=f"{system} in {SCENARIO}, {seeds} seeds", caption=caption)
    for column in ("", "steps/s", "compile", "first metric", "in all", "score", "absolute"):
        table.add_column(column, justify="right" if column else "left", no_wrap=True)
    for engine in (NATIVE, MAVA):
        part = results[engine]
        at = {figure: part[figure]["median"] for figure in FIGURES}
        found = part["score_interval"]
        between = "" if found["low"] is None else f" [{found['low']:,.0f}, {found['high']:,.0f}]"
        table.add_row(
            engine, f"{at['steps_per_second']:,.0f}", f"{at['compile_s']:.1f} s", f"{at['first_metric_s']:.1f} s",
            f"{at['wall_s']:.0f} s", f"{found['value']:,.0f}{between}", f"{at['absolute']:,.0f}",
        )  # fmt: skip
    ratio = results["native over mava"]
    table.add_row("native / mava", *(f"{ratio[figure]:.2f}" for figure in FIGURES))
    return table
