"""A configuration as the report counts it: its trials and their scores."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean

import pandas as pd

from jax_party.judging.intervals import Interval, stratified_interval
from jax_party.judging.replicates import means_over_scenarios
from results.collector.ranking import EVERY_SCENARIO


@dataclass(frozen=True)
class Configuration:
    """A configuration of an algorithm in a scenario: its trials, and the scores of their seeds.

    If configurations are ranked by their mean over scenarios, there is one more for all scenarios together
    (`EVERY_SCENARIO`), whose scores are means.

    Attributes:
      score: the sweep's own aggregate over the seeds of the search; None if no seed has been measured.
      seeds: the estimate over these seeds with its 95 % interval.
      values: the score of each of these seeds; a seed counts once, however many trials played it.
      by_seed: seed -> score.
      replicates: ids of the trials that played these seeds, without copies.
      fresh_trials: the trials that tested it on fresh seeds.
      fresh: the estimate over the fresh seeds, each counted once; `fresh_values` has the score of each.
      ranked_as: the contender it is ranked as (`judging.replicates.contender`).
      standing: its place among those it is compared with; infinite if it has none.
      behind: the criteria that rank it before its score does (`ranking.behind`), for an older index without standings.
      settled: whether its trials have settled; None if unknown.
      provisional: whether it could only be a provisional best.
    """

    algorithm: str
    scenario: str
    name: str
    trials: pd.DataFrame
    score: float | None
    values: tuple[float, ...]
    seeds: Interval | None
    fresh_trials: tuple[str, ...] = ()
    fresh: Interval | None = None
    fresh_values: tuple[float, ...] = ()
    feasible: bool = True
    ranked_as: str = ""
    standing: float = math.inf
    behind: tuple[int, ...] = ()
    settled: bool | None = None
    provisional: bool = False
    by_seed: Mapping[int, float] = field(default_factory=dict)
    replicates: tuple[str, ...] = ()

    @property
    def curve_trials(self) -> list[str]:
        """The trials whose seeds represent it: those on fresh seeds if there are any."""
        return list(self.fresh_trials or self.replicates)

    @property
    def curve_values(self) -> tuple[float, ...]:
        """The scores of these trials' seeds."""
        return self.fresh_values or self.values


def together(parts: Sequence[Configuration]) -> Configuration:
    """Return a configuration's parts, one per scenario, as one configuration of all scenarios."""
    first = parts[0]
    tested = [one.fresh_values for one in parts]
    rows = pd.concat([one.trials for one in parts])
    return Configuration(
        first.algorithm, EVERY_SCENARIO, first.name, rows,
        score=fmean(one.score for one in parts if one.score is not None),
        values=tuple(means_over_scenarios([one.by_seed for one in parts]).values()),
        seeds=stratified_interval([one.values for one in parts]),
        fresh_trials=first.fresh_trials if all(tested) else (),
        fresh=stratified_interval(tested) if all(tested) else None,
        fresh_values=_means(tested) if all(tested) else (), feasible=all(one.feasible for one in parts),
        ranked_as=first.ranked_as, standing=min(one.standing for one in parts), behind=max(one.behind for one in parts),
        settled=None if None in (told := [one.settled for one in parts]) else all(told),
        provisional=any(one.provisional for one in parts),
        replicates=tuple(trial for one in parts for trial in one.replicates),
    )  # fmt: skip


def _means(of_scenarios: Sequence[Sequence[float]]) -> tuple[float, ...]:
    """Return the mean over scenarios for each seed."""
    return tuple(fmean(values) for values in zip(*of_scenarios, strict=False))
