"""What every system learns at its defaults, in games whose answer is known: `make bench-learning`.

Every run is an experiment like any other, at the defaults of its system; each core trains one at a time. A run that has
ended lies in `benchmark_results/learning/` and is not made again while its configuration stays what it was; remove the
folder to begin anew.
"""

from __future__ import annotations

import hashlib
import json
import queue
import statistics
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from rich.table import Table

from benchmarks.harness import BenchmarkError, Options, Report, all_cores, call_in_process
from jax_party.store.files import write_json_atomically
from jax_party.trial.metrics import read_metrics
from jax_party.trial.provenance import current_provenance, utc_timestamp
from mava_configs import ALGORITHMS, compose

SEEDS: Final = 5
TIMEOUT_S: Final = 4 * 3600.0
SWEEP: Final = 262_144
"""Environment steps of a trial of a default sweep (`sweeps/`)."""
MILLION: Final = 1_048_576
COOPERATION: Final = "cooperation_rate"
RETURN: Final = "episode_return"
INDIVIDUAL: Final = tuple(name for name in ALGORITHMS if name != "rec_qmix")
"""Systems that learn from individual rewards; QMIX learns the team's value."""
RECURRENT: Final = tuple(name for name in ALGORITHMS if name.startswith("rec_"))
REACH_LBF: Final = ("ff_ippo", "ff_mappo", "ff_sable", "rec_sable", "mat", "ff_isac", "ff_masac", "rec_iql")
CUE: Final = "cue-16"
CUE_DELAY: Final = 16


@dataclass(frozen=True)
class Case:
    """A game, and what is asked of those that learn it.

    Attributes:
      name: of its folder.
      title: of its table.
      overrides: beside a system's defaults.
      steps, evaluations: environment steps of a run, and how often it is evaluated.
      metric: of an evaluation, a mean over its episodes.
      at_least, at_most: what the metric is to be, None for no bound.
      held_at: environment steps at which it is to be that.
      systems: those that play.
      held_to: those that the bound is asked of.
      read_at: environment steps at which the table says how far training was.
    """

    name: str
    title: str
    overrides: tuple[str, ...]
    steps: int
    evaluations: int
    metric: str
    at_least: float | None = None
    at_most: float | None = None
    held_at: int = 0
    systems: tuple[str, ...] = ALGORITHMS
    held_to: tuple[str, ...] = ALGORITHMS
    read_at: tuple[int, ...] = ()

    def reached(self, value: float) -> bool:
        """Whether a value is within the bound."""
        above = self.at_least is None or value >= self.at_least
        return above and (self.at_most is None or value <= self.at_most)

    @property
    def bound(self) -> str:
        """The bound in words, `` where there is none."""
        if self.at_least is not None:
            return f"≥ {self.at_least:g}"
        return "" if self.at_most is None else f"≤ {self.at_most:g}"


def _dilemma(scenario: str) -> Case:
    title = f"{scenario}: cooperation rate; defection is the answer"
    return Case(
        scenario, title, (f"env/scenario={scenario}",), MILLION, 16, COOPERATION,
        at_most=0.05, held_at=SWEEP, systems=INDIVIDUAL, held_to=INDIVIDUAL, read_at=(SWEEP, MILLION),
    )  # fmt: skip


def _shared(scenario: str) -> Case:
    title = f"{scenario} with a shared reward: cooperation rate; cooperation is the answer"
    overrides = (f"env/scenario={scenario}", "env.shared_reward=true")
    return Case(
        f"{scenario}-shared", title, overrides, SWEEP, 8, COOPERATION, at_least=0.95, held_at=SWEEP, read_at=(SWEEP,)
    )


def _foraging(scenario: str) -> Case:
    title = f"LBF {scenario}: mean episode return; 1 is the most attainable"
    return Case(
        f"lbf-{scenario}", title, ("env=lbf", f"env/scenario={scenario}"), MILLION, 16, RETURN,
        at_least=0.95, held_at=MILLION, held_to=REACH_LBF, read_at=(SWEEP, MILLION),
    )  # fmt: skip


CASES: Final = (
    _dilemma("p-no-rank"),
    _dilemma("p-base"),
    _shared("p-stag-hunt"),
    _shared("p-base"),
    Case(
        CUE, f"a cue, named after {CUE_DELAY} steps: mean return; 0.5 is chance", (), 2 * SWEEP, 16, RETURN,
        at_least=0.95, held_at=2 * SWEEP, systems=RECURRENT, held_to=RECURRENT, read_at=(SWEEP, 2 * SWEEP),
    ),
    _foraging("8x8-2p-2f-coop"),
    _foraging("2s-8x8-2p-2f-coop"),
    Case(
        "rware-tiny-2ag", "RWARE tiny-2ag: mean episode return, each agent paid what the team earns",
        ("env=rware", "env/scenario=tiny-2ag"), 2 * MILLION, 16, RETURN, read_at=(MILLION, 2 * MILLION),
    ),
)  # fmt: skip


def run(options: Options) -> Report:
    """Every system in every case, from each seed."""
    if options.docs and (options.cases or options.systems or options.steps):
        raise BenchmarkError("--docs: its tables are of every case and system at its own budget; leave the others out")
    seeds = options.seeds or SEEDS
    cases = [case for case in CASES if not options.cases or case.name in options.cases]
    asked = list(_asked(cases, options, seeds))
    runs = _share_out(asked, Path(options.out, "learning"))
    results: dict[str, Any] = {}
    tables = []
    for case in cases:
        mine = [run for run in runs if run["case"] == case.name]
        results[case.name] = {
            system: sum_up(case, [run for run in mine if run["system"] == system])
            for system in dict.fromkeys(run["system"] for run in mine)
        }
        tables.append(_table(case, results[case.name]))
    if options.docs:
        from benchmarks.curves import write_docs

        write_docs(results)
    settings = {"seeds": seeds, "steps": options.steps or "of each case", "cases": [case.name for case in cases]}
    asked_of = {case.name: f"{case.metric} {case.bound} for {', '.join(case.held_to)}" for case in cases if case.bound}
    return Report(settings, results, asked_of, tables)


def _asked(cases: Sequence[Case], options: Options, seeds: int) -> Iterator[dict[str, Any]]:
    """Runs in the order in which they tell most: every case's first seeds before anybody's later ones."""
    for seed in range(seeds):
        for case in cases:
            for system in options.systems or case.systems:
                if system in case.systems:
                    steps = options.steps or case.steps
                    yield {"case": case.name, "system": system, "seed": seed, "steps": steps}


def _share_out(asked: Sequence[Mapping[str, Any]], folder: Path) -> list[dict[str, Any]]:
    """Train all that is asked for and not there yet, one run a core at a time."""
    folder.mkdir(parents=True, exist_ok=True)
    free: queue.Queue[int] = queue.Queue()
    for core in all_cores():
        free.put(core)
    console = Console(highlight=False)

    def train(arguments: Mapping[str, Any], settings: str) -> dict[str, Any]:
        name = f"{arguments['case']}.{arguments['system']}.{arguments['seed']}"
        place = folder / f"{name}.{settings}.json"  # a run of other settings stands beside it
        if place.exists():
            kept: dict[str, Any] = json.loads(place.read_text())
            return kept
        core = free.get()
        try:
            measured = call_in_process("benchmarks.learning:measure", arguments, [core], TIMEOUT_S)
        except BenchmarkError as error:
            console.print(f"{name}: not measured: {error}", style="red", markup=False)
            raise
        finally:
            free.put(core)
        provenance = current_provenance() | {"created": utc_timestamp()}
        found = {**arguments, "settings": settings, **measured, "provenance": provenance}
        write_json_atomically(place, found)
        last = measured["values"][-1]
        console.print(f"{name}: {last:.3f} after {arguments['steps']:,} steps", style="dim", soft_wrap=True)
        return found

    pool = ThreadPoolExecutor(free.qsize())
    digests = [_digest(_mapping(**arguments)) for arguments in asked]  # composed here: Hydra knows one thread
    futures = [pool.submit(train, arguments, digest) for arguments, digest in zip(asked, digests, strict=True)]
    try:
        wait(futures)
    except KeyboardInterrupt:
        console.print("ending once the runs under way have ended; what they found is kept")
        raise
    finally:
        pool.shutdown(cancel_futures=True)
    failed = [str(future.exception()) for future in futures if future.exception()]
    if failed:
        raise BenchmarkError(f"{len(failed)} of {len(futures)} runs failed; the others are kept: {failed[0]}")
    return [future.result() for future in futures]


def sum_up(case: Case, runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The metric at the steps that the table reads, of every seed; whether the mean is within the bound."""
    at = {str(steps): [value_at(run, steps) for run in runs] for steps in case.read_at}
    held = statistics.fmean(value_at(run, case.held_at or case.steps) for run in runs)
    return {
        "at": at,
        "last": [run["values"][-1] for run in runs],
        "mean": held,
        "reached": case.reached(held),
        "curves": [{"seed": run["seed"], "steps": run["env_steps"], "values": run["values"]} for run in runs],
        "steps_per_second": statistics.median(run["steps_per_second"] for run in runs),
    }


def value_at(run: Mapping[str, Any], steps: int) -> float:
    """The metric at the first evaluation after so many environment steps, or at the last one."""
    pairs = zip(run["env_steps"], run["values"], strict=True)
    return float(next((value for taken, value in pairs if taken >= steps), run["values"][-1]))


# -- In the measured process -------------------------------------------------------------------------------------------


def _mapping(case: str, system: str, seed: int, steps: int) -> dict[str, Any]:
    """A run's configuration."""
    of = next(one for one in CASES if one.name == case)
    return compose(
        system,
        [
            *of.overrides, f"system.seed={seed}", f"system.total_timesteps={steps}",
            f"arch.num_evaluation={of.evaluations}", "arch.absolute_metric=false", "logger.use_console=false",
            "logger.checkpointing.save_model=false", "vault=none",
        ],
    )  # fmt: skip


def _digest(mapping: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(mapping, sort_keys=True).encode()).hexdigest()[:12]


def measure(case: str, system: str, seed: int, steps: int) -> dict[str, Any]:
    """Train once; the metric at each evaluation."""
    mapping = _mapping(case, system, seed, steps)
    of = next(one for one in CASES if one.name == case)
    return _measure_cue(mapping, seed, of) if case == CUE else _measure_experiment(mapping, system, of)


def _measure_experiment(mapping: dict[str, Any], system: str, case: Case) -> dict[str, Any]:
    from benchmarks.setting import make_folder
    from jax_party.config import parse_config
    from jax_party.training.experiment import Experiment

    with tempfile.TemporaryDirectory(prefix="bench-learning-") as scratch:
        folder = make_folder(Path(scratch, "trial"), system, mapping)
        experiment = Experiment(parse_config(mapping), folder)
        try:
            while not experiment.finished:
                experiment.step()
        finally:
            experiment.close()
        rows = read_metrics(folder)
        return {
            "env_steps": [row["step"] for row in rows],
            "values": [row["evaluate"][case.metric] for row in rows],
            "steps_per_second": experiment.record.steps_per_second,
        }


def _measure_cue(mapping: dict[str, Any], seed: int, case: Case) -> dict[str, Any]:
    import time

    from benchmarks.probes import MemoryProbe, Trainer
    from jax_party.config import parse_config
    from jax_party.envs.adapter import MultiAgentEnv

    config = parse_config(mapping)
    env = MultiAgentEnv(MemoryProbe(CUE_DELAY), shared_reward=config.env.shared_reward)
    start = time.perf_counter()
    curve = Trainer(config, env).curve(seed, case.evaluations)
    steps = [taken for taken, _ in curve]
    return {
        "env_steps": steps,
        "values": [metrics[case.metric] for _, metrics in curve],
        "steps_per_second": steps[-1] / (time.perf_counter() - start),
    }


# -- Table -------------------------------------------------------------------------------------------------------------


def _table(case: Case, results: Mapping[str, Any]) -> Table:
    caption = f"asked {case.bound} at {case.held_at:,} steps" if case.bound else None
    table = Table(title=case.title, caption=caption)
    table.add_column("system", no_wrap=True)
    for steps in case.read_at:
        table.add_column(f"{steps:,}", justify="right", no_wrap=True)
    for column in ("seeds", "asked", "steps/s"):
        table.add_column(column, justify="right", no_wrap=True)
    for system, part in results.items():
        cells = [cell(part["at"][str(steps)]) for steps in case.read_at]
        asked = verdict(case, system, part)
        table.add_row(system, *cells, str(len(part["last"])), asked, f"{part['steps_per_second']:,.0f}")
    return table


def cell(values: Sequence[float]) -> str:
    """The mean over seeds, and the least and the most."""
    return f"{statistics.fmean(values):.3f} ({min(values):.3f} to {max(values):.3f})"


def verdict(case: Case, system: str, part: Mapping[str, Any]) -> str:
    """Whether a system that the bound is asked of keeps it."""
    if not case.bound or system not in case.held_to:
        return "–"
    return "yes" if part["reached"] else "no"


__all__ = ["CASES", "Case", "cell", "run", "sum_up", "value_at", "verdict"]
