"""The summary of a sweep that is printed before it starts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Console

from jax_party.engines import NATIVE, Engine
from launcher.ask.choices import Search
from launcher.ask.requested import SweepOptions
from launcher.machine.crew import Crew
from launcher.plan.estimate import estimate
from launcher.plan.fixed_ranks import note_of_plan
from launcher.plan.study import PlannedTrial, Study
from launcher.show.console import duration, plain, value_text
from sweeps.space import ScenarioMode


def facts_of(
    study: Study, options: SweepOptions, samples: int, num_trials: int, trials: Sequence[PlannedTrial],
    crew: Crew, folder: Path,
) -> Mapping[str, str]:  # fmt: skip
    """Return what is about to happen as name -> text."""
    scenarios = list(dict.fromkeys(base.scenario for base in study.bases))
    bases = [trial.base for trial in trials] or list(study.bases) * (num_trials // len(study.bases))
    steps = dict.fromkeys(study.algorithms, 0)
    for base in bases:
        steps[base.algorithm] += base.total_steps * study.num_seeds
    each = sorted({base.total_steps for base in study.bases})
    unit = "seed" if study.num_seeds > 1 else "trial"
    guess = estimate(options.root, steps, bool(crew.machine.gpus), num_trials, crew.workers, study.engine.name)
    seeds = sorted({trial.seed for trial in trials} or {study.seed})
    facts = {
        **({} if study.engine.name == NATIVE else {"engine": _engine(study.engine)}),
        "trials": _count(num_trials, study, scenarios),
        "search": _search(study),
        "space": ", ".join(study.spec.axis_keys()) + f" ({study.spec.source})",
        "seeds": _seeds(seeds, study),
        "steps": f"{' and '.join(f'{count:,}' for count in each)} per {unit}, {sum(steps.values()):,} in total",
        "evaluations": f"{' and '.join(map(str, sorted({base.num_evaluations for base in study.bases})))} per trial",
        "workers": str(crew.workers) + (f", each with up to {crew.pack} trials" if crew.shared else ""),
        **({"budget": options.budget} if options.budget else {}),
        "device": crew.machine.describe(crew.workers, crew.needs),
        "folder": str(folder),
        "time": f"about {duration(guess.seconds)} ({guess.source})",
    }
    notes = [note for base in study.bases[:1] for note in [base.note] if note]
    notes += [crew.machine.note] if crew.machine.note else []
    if options.search is Search.RANDOM and num_trials < samples * study.round_size:
        configurations = f"{num_trials / study.round_size:g}"
        notes.append(f"the space has no more than {configurations} different configurations; {samples} were asked for")
    ranks = note_of_plan(study, trials)
    return facts | ({"note": "; ".join(notes)} if notes else {}) | ({"ranks": ranks} if ranks else {})


def _engine(engine: Engine) -> str:
    """Return the engine's name, with its version if that is known."""
    version = engine.version()
    return f"{engine.name} ({version})" if version else engine.name


def _search(study: Study) -> str:
    """Describe how configurations are drawn and what they are optimized for."""
    sampler = f" ({study.sampler})" if study.sampler else ""
    looked_for = " and ".join(
        f"{mode} {metric}" for metric, mode in zip(study.objective.metrics, study.objective.modes, strict=True)
    )
    over = (
        f" over {len(study.bases) // len(study.algorithms)} scenarios, their mean"
        if (study.spec.scenario_mode is ScenarioMode.MEAN)
        else ""
    )
    bounds = "".join(f", {name} {bound:g}" for name, bound in study.objective.constraints.items())
    return f"{study.search}{sampler}, scheduler {study.scheduler}, {looked_for}{over}{bounds}"


def _count(num_trials: int, study: Study, scenarios: Sequence[str]) -> str:
    several = (
        f" × {len(study.algorithms)} algorithms ({', '.join(study.algorithms)})" if len(study.algorithms) > 1 else ""
    )
    where = f" × {len(scenarios)} scenarios ({', '.join(scenarios)})"
    if study.spec.scenario_mode is ScenarioMode.AXIS:
        return (
            f"{num_trials}, of configurations{several} with one of {len(scenarios)} scenarios ({', '.join(scenarios)})"
        )
    if num_trials % len(study.bases):
        return f"{num_trials}, of configurations{several}{where}, each different one once"
    return f"{num_trials} = {num_trials // len(study.bases)} configurations{several}{where}"


def _seeds(seeds: Sequence[int], study: Study) -> str:
    if study.num_seeds > 1:
        last = study.seed + study.num_seeds - 1
        return f"{study.seed} to {last} in each trial, scored by their {study.objective.aggregate}"
    return ", ".join(map(str, seeds[:8])) + (f", … {len(seeds) - 8} more" if len(seeds) > 8 else "")


def show_trials(trials: Sequence[PlannedTrial], console: Console) -> None:
    """Print one line per planned trial: its number, scenario and hyperparameters."""
    several = len({trial.base.algorithm for trial in trials}) > 1
    for trial in trials:
        values = " ".join(f"{key}={value_text(value)}" for key, value in trial.hyperparameters.items())
        algorithm = f"{trial.base.algorithm} " if several else ""
        plain(console, f"  {trial.number:>4} {algorithm}{trial.base.scenario} {values}")
