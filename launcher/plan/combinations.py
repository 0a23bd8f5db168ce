"""Which searchers, samplers and schedulers can be combined, and why others cannot. Nothing here starts anything."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from typing import TYPE_CHECKING

from jax_party.errors import SweepError
from launcher.ask.choices import Sampler, Scheduler, Search
from sweeps.axes import AxisType
from sweeps.space import ScenarioMode

if TYPE_CHECKING:
    from launcher.plan.study import Study

MIN_RUNGS = 3
"""With fewer evaluations, hyperband's only bracket is the one that stops nothing."""
_SEARCHERS_OF_ONE_OBJECTIVE = (Search.HYPEROPT, Search.BOHB)
_TUNED_BY_CONSTRAINTS = (Sampler.TPE, Sampler.GP, Sampler.NSGA2)


def default_scheduler(search: Search) -> Scheduler:
    """Return the default scheduler: FIFO, or hyperband for BOHB, which requires it."""
    return Scheduler.HYPERBAND if search is Search.BOHB else Scheduler.FIFO


def default_sampler(search: Search, objectives: int) -> Sampler | None:
    """Return Optuna's default sampler; None for other searchers."""
    if search is not Search.OPTUNA:
        return None
    return Sampler.NSGA2 if objectives > 1 else Sampler.TPE


def check_combination(study: Study, samples: int) -> None:
    """Refuse choices that cannot be combined.

    Args:
      study: the sweep.
      samples: the number of configurations to draw.

    Raises:
      SweepError: with the reason and what to do instead.
    """
    for problem in _problems(study, samples):
        raise SweepError(problem)


def _problems(study: Study, samples: int) -> Iterator[str]:
    yield from _of_search_and_scheduler(study)
    yield from _of_axes(study)
    yield from _of_objectives(study)
    yield from _of_scenarios(study)
    yield from _of_early_stopping(study, samples)
    if study.sampler is Sampler.GP and importlib.util.find_spec("torch") is None:
        yield "SAMPLER=gp: needs PyTorch, which is not installed: make setup EXTRA=gp"
    if study.warm_start and not study.search.learns:
        yield (
            f"FROM: SEARCH={study.search} does not draw by what earlier trials scored; use SEARCH=optuna, hyperopt or "
            "bohb"
        )


def _of_search_and_scheduler(study: Study) -> Iterator[str]:
    search, scheduler = study.search, study.scheduler
    if study.sampler is not None and search is not Search.OPTUNA:
        yield f"SAMPLER={study.sampler}: is Optuna's; use SEARCH=optuna, or leave SAMPLER out"
    if search is Search.BOHB and scheduler is not Scheduler.HYPERBAND:
        yield (
            f"SCHEDULER={scheduler}: SEARCH=bohb learns from the brackets of hyperband; leave SCHEDULER out, or use "
            "SEARCH=optuna"
        )
    if search in (Search.OPTUNA, Search.HYPEROPT) and scheduler is Scheduler.HYPERBAND:
        yield (
            f"SCHEDULER=hyperband: judges a bracket of trials together, while SEARCH={search} draws each trial "
            "from the scores of earlier ones; use SEARCH=bohb, which is made for this, or SCHEDULER=asha"
        )
    if scheduler.is_population and search is not Search.RANDOM:
        changes = "a grid point must stay unchanged" if search is Search.GRID else "it would learn of the wrong ones"
        yield (
            f"SCHEDULER={scheduler}: changes the values of trials while they train, and with SEARCH={search} "
            f"{changes}; use SEARCH=random"
        )


def _of_axes(study: Study) -> Iterator[str]:
    axes = study.axes
    grids = [axis.key for axis in axes if axis.type is AxisType.GRID]
    others = [axis for axis in axes if axis.type is not AxisType.GRID]
    if study.search is Search.GRID and others:
        named = ", ".join(f"{axis.key} ({axis.type})" for axis in others)
        yield (
            f"{study.spec.source}: SEARCH=grid needs every axis to be a grid, which these are not: {named}; write them "
            "as {type: grid, values: [...]} in your own SPACE file, fix them with OVERRIDES, or use SEARCH=random"
        )
    if study.search.learns and grids:
        yield f"{study.spec.source}: {grids[0]}: SEARCH={study.search} has no grid; write it as type: choice"
    if study.sampler is Sampler.CMAES:
        for base in study.bases:
            numeric = [axis.key for axis in study.axes_of(base) if axis.type.is_range]
            if len(numeric) < 2:
                yield (
                    f"{study.spec.source}: SAMPLER=cmaes needs at least two ranges, and {base.algorithm} in "
                    f"{base.scenario} has {len(numeric)}; use SAMPLER=tpe"
                )
    if study.scheduler.is_population:
        yield from _of_population_axes(study)
    if study.scheduler.by_group:
        for base in study.bases:
            engine = study.engine
            if not engine.outline(engine.parse(base.config)).keeps_each_period:
                yield (
                    f"logger.checkpointing: SCHEDULER={study.scheduler} pauses trials and resumes "
                    "them from checkpoints; set save_model=true and save_args.save_interval_steps=1"
                )


def _of_population_axes(study: Study) -> Iterator[str]:
    for base in study.bases:
        traced = study.engine.traced_names(study.engine.parse(base.config))
        for axis in study.axes_of(base):
            place = f"{study.spec.source}: {axis.key}: SCHEDULER={study.scheduler}"
            if axis.key not in traced:
                yield (
                    f"{place} changes values while a trial trains, and this one is fixed from the start; fix it "
                    "with OVERRIDES, or use SCHEDULER=asha"
                )
            if axis.type is AxisType.GRID:
                yield f"{place} has no grid; write it as type: choice"
        if study.scheduler is Scheduler.PB2 and not any(axis.type.is_range for axis in study.axes_of(base)):
            yield (
                f"{study.spec.source}: SCHEDULER=pb2 changes ranges only, and {base.algorithm} in {base.scenario} "
                "has none; write one with low and high, or use SCHEDULER=pbt"
            )


def _of_objectives(study: Study) -> Iterator[str]:
    several = len(study.objective.metrics) > 1
    metrics = ", ".join(study.objective.metrics)
    if several and study.search in _SEARCHERS_OF_ONE_OBJECTIVE:
        yield (
            f"METRIC={metrics}: SEARCH={study.search} looks for one objective; use SEARCH=optuna, or name one and "
            "bound the others with CONSTRAINTS"
        )
    if several and study.sampler is Sampler.CMAES:
        yield f"METRIC={metrics}: SAMPLER=cmaes looks for one objective; use SAMPLER=nsga2"
    if several and study.scheduler is not Scheduler.FIFO:
        yield f"METRIC={metrics}: SCHEDULER={study.scheduler} compares trials by one objective; use SCHEDULER=fifo"
    if not study.objective.constraints:
        return
    named = ", ".join(study.objective.constraints)
    if study.search in _SEARCHERS_OF_ONE_OBJECTIVE:
        yield f"CONSTRAINTS={named}: SEARCH={study.search} knows none; use SEARCH=optuna or random"
    if study.search is Search.OPTUNA and study.sampler not in _TUNED_BY_CONSTRAINTS:
        yield f"CONSTRAINTS={named}: SAMPLER={study.sampler} knows none; use SAMPLER=tpe, gp or nsga2"
    if study.scheduler is not Scheduler.FIFO:
        yield (
            f"CONSTRAINTS={named}: SCHEDULER={study.scheduler} compares trials by the objective alone, and would "
            "favour those that break them; use SCHEDULER=fifo"
        )


def _of_scenarios(study: Study) -> Iterator[str]:
    mode = study.spec.scenario_mode
    if mode is ScenarioMode.GRID:
        return
    scenarios = dict.fromkeys(base.scenario for base in study.bases)
    if len(scenarios) < 2:
        yield f"SCENARIO_MODE={mode}: there is one scenario, {next(iter(scenarios))}; name several with SCENARIO=a,b"
    if mode is ScenarioMode.AXIS and study.search is Search.BOHB:
        yield "SCENARIO_MODE=axis: SEARCH=bohb would compare returns of different scenarios; use SEARCH=optuna"
    if mode is ScenarioMode.MEAN:
        conditional = [axis.key for axis in study.spec.axes if "scenario" in axis.when]
        if conditional:
            yield (
                f"{study.spec.source}: {conditional[0]}: SCENARIO_MODE=mean plays the same configuration in every "
                "scenario, and this axis exists only in some; remove `when: scenario`"
            )
        if study.scheduler is not Scheduler.FIFO:
            yield (
                f"SCENARIO_MODE=mean: SCHEDULER={study.scheduler} would stop a configuration in one scenario that is "
                "needed for the mean over all; use SCHEDULER=fifo"
            )


def _of_early_stopping(study: Study, samples: int) -> Iterator[str]:
    evaluations = min(base.num_evaluations for base in study.bases)
    if study.scheduler is Scheduler.HYPERBAND and evaluations < MIN_RUNGS:
        yield f"EVALUATIONS={evaluations}: SCHEDULER=hyperband has nothing to judge by; take at least {MIN_RUNGS}"
    if study.scheduler.is_population and evaluations < 2:
        yield f"EVALUATIONS={evaluations}: SCHEDULER={study.scheduler} changes trials between them; use at least 2"
    if study.scheduler.is_population and samples < 2:
        yield f"SAMPLES={samples}: SCHEDULER={study.scheduler} needs a population; use at least 2"


__all__ = ["check_combination", "default_sampler", "default_scheduler"]
