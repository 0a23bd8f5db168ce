"""The order of configurations, and which one is the best. The launcher's summary, the index, the report, Optuna's
journal, `compare` and promotions all use it.

A configuration is what trials of one algorithm share whatever their seed and scenario. It is ranked by all of its
seeds, each counted once. Trials that were stopped early rank behind those that have had their whole budget. If the rule
judges the end of training (`final`, `last`, averages), those that had not settled rank behind those that had.
`results.collector.ranking` puts the rows of an index in this order.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from jax_party.judging.aggregate import Aggregate, aggregate_metrics
from jax_party.judging.objectives import At, Objective, feasible, pareto_front
from jax_party.judging.settling import Trend

TIERS: Final = {"COMPLETE": 0, "RUNNING": 1, "PENDING": 1, "PRUNED": 2}
"""Trials of a lower tier come first; FAILED ones are not ranked."""

MEAN_OVER_SCENARIOS: Final = "mean"


@dataclass(frozen=True)
class Candidate:
    """A trial as it is judged.

    Attributes:
      trial_id: its id.
      number: its place in the plan.
      algorithm, scenario, configuration: what it played.
      state: the state in its record.
      first_seed: the first of its consecutive seeds.
      of_seeds: the metrics of each seed that it is judged by.
      settled: whether its learning curves have settled; None if unknown.
      trend: how the curve of the first objective ended, if known.
    """

    trial_id: str
    number: int
    algorithm: str
    scenario: str
    configuration: str
    state: str
    first_seed: int
    of_seeds: Sequence[Mapping[str, float | None]]
    settled: bool | None = None
    trend: Trend | None = None


@dataclass(frozen=True)
class Standing:
    """A configuration with its place.

    Attributes:
      group: what it is compared with: the configurations of its algorithm and, unless it is ranked by its mean over
        scenarios, of its scenario.
      place: from 1, the best.
      trials: ids of the trials that count, in the plan's order: those of the lowest tier among its trials.
      others: ids of its further trials.
      metrics: over all seeds, each counted once; if it is ranked by its mean over scenarios, the mean of these.
      score: the first objective among them.
      feasible: whether it satisfies the constraints.
      eligible: whether it may be the best: apart from its score, nothing ranks it behind the first one.
      on_front: whether it is eligible and no other eligible one dominates it.
      complete: whether its trials have had their whole budget.
      settled: whether all of its trials have settled; None if unknown for one of them.
      provisional: whether it can only be a provisional best, until a trial has settled or completed.
      num_seeds: the number of seeds that count, in each scenario.
    """

    group: str
    algorithm: str
    configuration: str
    place: int
    trials: tuple[str, ...]
    others: tuple[str, ...]
    metrics: Mapping[str, float | None]
    score: float
    feasible: bool
    eligible: bool
    on_front: bool
    complete: bool
    settled: bool | None
    provisional: bool
    num_seeds: int
    tier: int = field(default=0, repr=False)
    number: int = field(default=0, repr=False)


def judges_the_end(at: str) -> bool:
    """Return whether a rule judges the networks that training ended with, where an unsettled trial may mislead."""
    return At(at) not in (At.BEST, At.BEST_PER_SEED)


def rank(
    candidates: Iterable[Candidate], objective: Objective, scenario_mode: str = "grid", scenarios: Sequence[str] = ()
) -> dict[str, list[Standing]]:
    """Return the configurations of each group, best first. Trials that lack a value for an objective are left out.

    The order is by: feasibility; complete trials, then running ones, then pruned ones; settled ones first; the Pareto
    front of several objectives; the score; the place in the plan.

    Args:
      candidates: trials, without tests of winners.
      objective: what is better.
      scenario_mode: `mean` if configurations are ranked by their mean over scenarios.
      scenarios: those that a configuration must have been played in, with `mean`.
    """
    parts: dict[tuple[str, str], dict[str, list[Candidate]]] = {}
    for one in candidates:
        if one.state in TIERS and _is_measured(one, objective):
            of_scenarios = parts.setdefault((one.algorithm, one.configuration), {})
            of_scenarios.setdefault(one.scenario, []).append(one)
    groups: dict[str, list[Standing]] = {}
    for (algorithm, configuration), by_scenario in parts.items():
        pooled = {scenario: _pooled(trials, objective) for scenario, trials in by_scenario.items()}
        if scenario_mode == MEAN_OVER_SCENARIOS:
            if len(pooled) < max(1, len(scenarios)):
                continue
            found = {algorithm: _over_scenarios(list(pooled.values()), objective)}
        else:
            found = {f"{algorithm} {scenario}": one for scenario, one in pooled.items()}
        for group, pool in found.items():
            named = _named(pool, group, algorithm, configuration, objective)
            groups.setdefault(group, []).append(named)
    return {group: _placed(found, objective) for group, found in groups.items()}


@dataclass(frozen=True)
class _Pool:
    """A configuration's trials in one scenario, or in all of them; `of_seeds` has the metrics of each seed."""

    of_seeds: Mapping[int, Mapping[str, float | None]]
    metrics: Mapping[str, float | None]
    trials: tuple[Candidate, ...]
    others: tuple[Candidate, ...]
    num_seeds: int
    tier: int


def _pooled(trials: Sequence[Candidate], objective: Objective) -> _Pool:
    tier = min(TIERS[one.state] for one in trials)
    counted = sorted((one for one in trials if TIERS[one.state] == tier), key=lambda one: one.number)
    seeds: dict[int, Mapping[str, float | None]] = {}
    for one in counted:
        for place, metrics in enumerate(one.of_seeds):
            seeds.setdefault(one.first_seed + place, metrics)
    others = tuple(one for one in trials if TIERS[one.state] != tier)
    metrics = aggregate_metrics(list(seeds.values()), objective.aggregate)
    return _Pool(seeds, metrics, tuple(counted), others, len(seeds), tier)


def _is_measured(one: Candidate, objective: Objective) -> bool:
    """Return whether each seed has a number for each objective."""
    return bool(one.of_seeds) and all(of_seed.get(name) is not None for of_seed in one.of_seeds
                                      for name in objective.metrics)  # fmt: skip


def _over_scenarios(pools: Sequence[_Pool], objective: Objective) -> _Pool:
    """Return a configuration's mean over scenarios, on the seeds common to all of them; on all seeds if none is."""
    shared = [seed for seed in pools[0].of_seeds if all(seed in one.of_seeds for one in pools)]
    of_scenarios = [
        aggregate_metrics([one.of_seeds[seed] for seed in shared], objective.aggregate) if shared else one.metrics
        for one in pools
    ]
    return _Pool(
        {},
        aggregate_metrics(of_scenarios, Aggregate.MEAN),
        tuple(trial for one in pools for trial in one.trials),
        tuple(trial for one in pools for trial in one.others),
        len(shared) or min(one.num_seeds for one in pools),
        max(one.tier for one in pools),
    )


def _named(one: _Pool, group: str, algorithm: str, configuration: str, objective: Objective) -> Standing:
    told = [trial.settled for trial in one.trials]
    return Standing(
        group=group,
        algorithm=algorithm,
        configuration=configuration,
        place=0,
        trials=tuple(trial.trial_id for trial in one.trials),
        others=tuple(trial.trial_id for trial in one.others),
        metrics=one.metrics,
        score=float(one.metrics[objective.metric] or 0.0),
        feasible=feasible(objective, one.metrics),
        eligible=False,
        on_front=False,
        complete=one.tier == 0,
        settled=False if False in told else None if None in told else True,
        provisional=False,
        num_seeds=one.num_seeds,
        tier=one.tier,
        number=min(trial.number for trial in one.trials),
    )


def _placed(found: Sequence[Standing], objective: Objective) -> list[Standing]:
    ends = judges_the_end(objective.at)

    def rank_of(one: Standing) -> tuple[bool, int, bool]:
        return not one.feasible, one.tier, ends and one.settled is not True

    first = min(map(rank_of, found))
    able = [one for one in found if one.feasible and rank_of(one) == first]
    points = [[float(one.metrics[name] or 0.0) for name in objective.metrics] for one in able]
    front = {id(one) for one, on in zip(able, pareto_front(points, objective.modes), strict=True) if on}
    ordered = sorted(
        found, key=lambda one: (*rank_of(one), id(one) not in front, -objective.sign * one.score, one.number)
    )
    return [
        replace(
            one,
            place=place,
            eligible=rank_of(one) == first,
            on_front=id(one) in front,
            provisional=not one.complete or (ends and one.settled is not True),
        )
        for place, one in enumerate(ordered, start=1)
    ]


def best_of(standings: Sequence[Standing]) -> Standing | None:
    """Return the best of a group; None if none satisfies the constraints."""
    return standings[0] if standings and standings[0].feasible else None


def why_provisional(complete: bool, settled: bool | None) -> str:
    """Return why a configuration is only a provisional best.

    Args:
      complete: whether its trials have had their whole budget.
      settled: whether they have settled; None if unknown.
    """
    if not complete:
        return "no trial that it compares with is complete"
    if settled is False:
        return "no trial that it compares with had settled"
    return (
        "whether its curves had settled cannot be told; that takes an evaluation in each of the last two quarters, and "
        "its standard error: EVALUATIONS=4 or more"
    )


def ahead_unsettled(standings: Sequence[Standing], objective: Objective) -> Standing | None:
    """Return the complete configuration that scores more than the best but had not settled, if there is one."""
    best = best_of(standings)
    if best is None or best.provisional:
        return None
    rivals = [one for one in standings if one.feasible and one.complete and one.settled is not True]
    first = max(rivals, key=lambda one: objective.sign * one.score, default=None)
    return first if first and objective.sign * (first.score - best.score) > 0 else None


__all__ = ["TIERS", "Candidate", "Standing", "ahead_unsettled", "best_of", "judges_the_end", "rank", "why_provisional"]
