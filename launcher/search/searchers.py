"""Create Tune's searchers for a space, with what is known already."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import optuna
from optuna.distributions import CategoricalDistribution as Categorical
from optuna.samplers import BaseSampler, CmaEsSampler, GPSampler, NSGAIISampler, TPESampler
from optuna.trial import FrozenTrial, TrialState
from ray.tune.search import Searcher

from jax_party.judging.objectives import Objective, violations
from launcher.ask.choices import Sampler, Search
from launcher.plan.axes import Space
from launcher.plan.study import Group, Study

WORST = 1e30
"""The value reported for a trial that was stopped early: worse than that of any complete one."""
MAX_POPULATION = 50
MIN_POPULATION = 4


@dataclass(frozen=True)
class Told:
    """What a searcher is told about a configuration.

    Attributes:
      values: its values, by axis name.
      metrics: its trial's metrics, or the means over its trials; None if one failed or has not ended.
      evaluation: the number of evaluations at which they were measured.
      pruned: whether one of its trials was stopped early, so that the metrics do not compare with complete ones.
    """

    values: Mapping[str, Any]
    metrics: Mapping[str, float | None] | None
    evaluation: int = 0
    pruned: bool = False


def make_searcher(
    study: Study,
    group: Group,
    points: Sequence[tuple[Mapping[str, Any], float | None]],
    seed: int,
    rounds: int,
    constraints: Callable[[Mapping[str, Any]], Sequence[float]],
) -> Searcher:
    """Return one of Tune's searchers.

    Args:
      study: the sweep.
      group: the group that it draws for.
      points: encoded values to suggest first, each with its objective if that is known.
      seed: the seed of its draws.
      rounds: the approximate number of configurations that it will be asked for.
      constraints: returns by how much a configuration violates each constraint, given its encoded values.
    """
    domains = Space(group.axes).domains()
    objective = study.objective
    first = [dict(point) for point, _ in points] or None
    if study.search is Search.HYPEROPT:
        from ray.tune.search.hyperopt import HyperOptSearch

        return HyperOptSearch(
            HyperOptSearch.convert_search_space(domains), objective.metric, objective.mode, points_to_evaluate=first,
            n_initial_points=min(20, max(5, rounds // 4)), random_state_seed=seed,
        )  # fmt: skip
    if study.search is Search.BOHB:
        from ray.tune.search.bohb import TuneBOHB

        space = TuneBOHB.convert_search_space(domains)
        return TuneBOHB(space, metric=objective.metric, mode=objective.mode, points_to_evaluate=first, seed=seed)
    from ray.tune.search.optuna import OptunaSearch

    several = len(objective.metrics) > 1
    distributions = OptunaSearch.convert_search_space(domains)
    numeric = {name: of_axis for name, of_axis in distributions.items() if not isinstance(of_axis, Categorical)}
    ended = [
        optuna.trial.create_trial(params={name: point[name] for name in numeric}, distributions=numeric, value=value)
        for point, value in points
        if value is not None and not several
    ]
    return OptunaSearch(
        distributions,
        metric=list(objective.metrics) if several else objective.metric,
        mode=list(objective.modes) if several else objective.mode,
        points_to_evaluate=first,
        sampler=_sampler(study, seed, rounds, constraints, ended),
        study_name=group.name,
    )


class _NSGAII(NSGAIISampler):
    """Optuna's NSGA-II, which also assigns a generation to trials that were added rather than suggested by it."""

    def after_trial(
        self, study: optuna.Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None
    ) -> None:
        self.get_trial_generation(study, trial)
        super().after_trial(study, trial, state, values)


def _sampler(
    study: Study,
    seed: int,
    rounds: int,
    constraints: Callable[[Mapping[str, Any]], Sequence[float]],
    ended: list[FrozenTrial],
) -> BaseSampler:
    bounded: dict[str, Any] = {}
    if study.objective.constraints:
        bounded["constraints_func"] = lambda trial: constraints(trial.params)
    with warnings.catch_warnings():
        # Optuna wants `set_constraint` to be called on its trials, which Tune hides; `source_trials` is experimental.
        warnings.simplefilter("ignore")
        if study.sampler is Sampler.CMAES:  # cannot learn from added trials, but can start from them
            return CmaEsSampler(seed=seed, warn_independent_sampling=False, source_trials=ended or None)
        if study.sampler is Sampler.GP:
            return GPSampler(seed=seed, warn_independent_sampling=False, **bounded)
        if study.sampler is Sampler.NSGA2:
            population = min(MAX_POPULATION, max(MIN_POPULATION, rounds // 5))
            return _NSGAII(seed=seed, population_size=population, **bounded)
        # Several trials run at a time; pending ones count as bad, so that suggestions differ.
        return TPESampler(seed=seed, constant_liar=True, **bounded)


def bounded(objective: Objective, metrics: Mapping[str, float | None]) -> list[float]:
    """Return the violation of each constraint as Optuna expects it: finite, and at most 0 if it is satisfied."""
    return [min(missed, 1e9) for missed in violations(objective, metrics)]
