"""Tune's searchers, made for a space and told what is known."""

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
"""Told of a trial that was stopped early: worse than any that is complete."""
MAX_POPULATION = 50
MIN_POPULATION = 4


@dataclass(frozen=True)
class Told:
    """What a searcher is told of a configuration.

    Attributes:
      values: by the axes' names.
      metrics: what its trial reached, or the means over its trials; None where one failed.
      evaluation: at which they were reached.
      pruned: whether a trial of it was stopped before its budget was spent, so that they are not what the complete
        ones have reached.
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
    """One of Tune's searchers.

    Args:
      study: the sweep.
      group: what it draws for.
      points: encoded values that it is to give out first, each with the objective that it has reached already.
      seed: of its draws.
      rounds: configurations that it will be asked for, about.
      constraints: from a configuration's encoded values, by how much it misses each.
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
    """Optuna's, for which trials that it was given, not asked for, belong to a generation too."""

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
        # Optuna would have `set_constraint` called on its trials, which Tune keeps to itself; `source_trials` are new.
        warnings.simplefilter("ignore")
        if study.sampler is Sampler.CMAES:  # it learns nothing from trials that it was given; it can begin from them
            return CmaEsSampler(seed=seed, warn_independent_sampling=False, source_trials=ended or None)
        if study.sampler is Sampler.GP:
            return GPSampler(seed=seed, warn_independent_sampling=False, **bounded)
        if study.sampler is Sampler.NSGA2:
            population = min(MAX_POPULATION, max(MIN_POPULATION, rounds // 5))
            return _NSGAII(seed=seed, population_size=population, **bounded)
        # Several are asked for at a time: those that are not told of yet count as bad, so that they differ.
        return TPESampler(seed=seed, constant_liar=True, **bounded)


def bounded(objective: Objective, metrics: Mapping[str, float | None]) -> list[float]:
    """What Optuna counts: 0 or less where a constraint is kept; finite."""
    return [min(missed, 1e9) for missed in violations(objective, metrics)]
