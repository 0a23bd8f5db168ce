"""Learning curves on Level-Based Foraging beside reference scores: `make bench-learning`.

Jumanji's LevelBasedForaging normalises its rewards so that an episode's, summed over the agents, are at most 1; every
agent is paid that sum here, as in Mava, so that a team that forages everything has return 1. Each run is an experiment
like any other, at the defaults of its system; both cores train a run each.
"""

from __future__ import annotations

import queue
import statistics
import tempfile
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

from rich.table import Table

from benchmarks.harness import Options, Report, all_cores, call_in_process

SYSTEMS: Final = ("ff_ippo", "ff_mappo", "ff_sable", "ff_iql")
SCENARIOS: Final = ("2s-8x8-2p-2f-coop", "8x8-2p-2f-coop")
STEPS: Final = 2_000_000
EVALUATIONS: Final = 20
SEEDS: Final = 1
TIMEOUT_S: Final = 3600.0
REFERENCE: Final = {
    "2s-8x8-2p-2f-coop": (1.0, "published for recurrent MAPPO after 20 million steps"),
    "8x8-2p-2f-coop": (1.0, "the most attainable; no published number at hand"),
}
"""Mean episode returns to compare with, and what they are; docs/learning.md has the sources."""
REACHED: Final = 0.95
"""Share of the reference whose first evaluation is told as the steps needed."""


def run(options: Options) -> Report:
    """Every system on every scenario, from each seed."""
    systems, steps, seeds = options.systems or SYSTEMS, options.steps or STEPS, options.seeds or SEEDS
    asked = [
        {"system": system, "scenario": scenario, "seed": seed, "steps": steps}
        for scenario in SCENARIOS
        for system in systems
        for seed in range(seeds)
    ]
    runs = _share_out(asked)
    results: dict[str, Any] = {scenario: {} for scenario in SCENARIOS}
    for scenario in SCENARIOS:
        for system in systems:
            mine = [run for run in runs if (run["system"], run["scenario"]) == (system, scenario)]
            results[scenario][system] = {"curves": [run["curve"] for run in mine], **_sum_up(mine, scenario)}
    settings = {"steps": steps, "seeds": seeds, "evaluations": EVALUATIONS, "reference": dict(REFERENCE)}
    return Report(settings, results, {}, [_table(scenario, results[scenario]) for scenario in SCENARIOS])


def _share_out(asked: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Train all that is asked for, one run a core at a time."""
    free: queue.Queue[int] = queue.Queue()
    for core in all_cores():
        free.put(core)

    def train(arguments: Mapping[str, Any]) -> dict[str, Any]:
        core = free.get()
        try:
            curve = call_in_process("benchmarks.learning:measure", arguments, [core], TIMEOUT_S)
        finally:
            free.put(core)
        return {**arguments, "curve": curve}

    with ThreadPoolExecutor(free.qsize()) as pool:
        return list(pool.map(train, asked))


def _sum_up(runs: Sequence[Mapping[str, Any]], scenario: str) -> dict[str, Any]:
    """The last return and the steps needed to come near the reference: medians over seeds."""
    last = [run["curve"]["episode_return"][-1] for run in runs]
    needed = [steps_needed(run["curve"], REACHED * REFERENCE[scenario][0]) for run in runs]
    known = [steps for steps in needed if steps is not None]
    return {
        "final_return": statistics.median(last),
        "steps_needed": statistics.median_low(known) if len(known) == len(needed) else None,
        "steps_per_second": statistics.median(run["curve"]["steps_per_second"] for run in runs),
    }


def steps_needed(curve: Mapping[str, Any], score: float) -> int | None:
    """Environment steps of the first evaluation with at least `score`, or None."""
    pairs = zip(curve["env_steps"], curve["episode_return"], strict=True)
    return next((steps for steps, value in pairs if value >= score), None)


# -- In the measured process -------------------------------------------------------------------------------------------


def measure(system: str, scenario: str, seed: int, steps: int) -> dict[str, Any]:
    """Train once; the curve of its evaluations."""
    from benchmarks.setting import make_folder
    from jax_party import records
    from jax_party.config import parse_config
    from jax_party.training import Experiment
    from mava_configs import compose

    overrides = [
        "env=lbf", f"env/scenario={scenario}", f"system.seed={seed}", f"system.total_timesteps={steps}",
        f"arch.num_evaluation={EVALUATIONS}", "arch.absolute_metric=false", "logger.use_console=false", "vault=none",
    ]  # fmt: skip
    with tempfile.TemporaryDirectory(prefix="bench-learning-") as scratch:
        mapping = compose(system, overrides)
        folder = make_folder(Path(scratch, "trial"), system, mapping)
        experiment = Experiment(parse_config(mapping), folder)
        try:
            while not experiment.finished:
                experiment.step()
        finally:
            experiment.close()
        rows = records.read_metrics(folder)
        return {
            "env_steps": [row["step"] for row in rows],
            "episode_return": [row["evaluate"]["episode_return"] for row in rows],
            "steps_per_second": experiment.record.steps_per_second,
        }


# -- Table -------------------------------------------------------------------------------------------------------------


def _table(scenario: str, results: Mapping[str, Any]) -> Table:
    steps = next(iter(results.values()))["curves"][0]["env_steps"]
    shown = [index for index in range(len(steps)) if (index + 1) % max(1, len(steps) // 5) == 0]
    table = Table(
        title=f"{scenario}: mean episode return",
        caption=f"reference: {REFERENCE[scenario][1]}; needed: steps of the first evaluation with {REACHED:.0%} of it",
    )
    table.add_column("system", no_wrap=True)
    for column in (*(f"{steps[index] / 1e6:.2f}M" for index in shown), "final", "reference", "needed", "steps/s"):
        table.add_column(column, justify="right", no_wrap=True)
    for system, part in results.items():
        at = [statistics.median(curve["episode_return"][index] for curve in part["curves"]) for index in shown]
        needed = "not yet" if part["steps_needed"] is None else f"{part['steps_needed']:,}"
        table.add_row(
            system, *(f"{value:.2f}" for value in at), f"{part['final_return']:.2f}", f"{REFERENCE[scenario][0]:.2f}",
            needed, f"{part['steps_per_second']:,.0f}",
        )  # fmt: skip
    return table
