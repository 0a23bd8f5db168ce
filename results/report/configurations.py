"""A configuration as the report counts it: its trials, and what they scored."""

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

    Where it counts by its mean over scenarios, there is one more, of all scenarios (`EVERY_SCENARIO`): its scores are
    means.

    Attributes:
      score: of the seeds that it was searched with, by the sweep's own aggregate; None where none has been measured.
      seeds: the estimate over these with its 95 % interval.
      values: the score of each, a seed counted once, however many trials played it.
      by_seed: seed -> score.
      replicates: ids of the trials that hold these seeds: without copies.
      fresh_trials: the trials that tested it on fresh seeds.
      fresh: the estimate over these seeds, of which each counts once, and `fresh_values` the score of each.
      ranked_as: what it is ranked as (`judging.replicates.contender`).
      standing: its place among those that it compares with; infinite where it has none.
      behind: what it stands behind others for, whatever its score (`ranking.behind`), where an older index has no
        standings.
      settled: whether its trials have settled; None where that is unknown.
      provisional: whether it would be the best for the time being only.
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
        """The trials whose seeds speak for it: on fresh seeds where there are some."""
        return list(self.fresh_trials or self.replicates)

    @property
    def curve_values(self) -> tuple[float, ...]:
        """The scores of these trials' seeds."""
        return self.fresh_values or self.values


def together(parts: Sequence[Configuration]) -> Configuration:
    """A configuration's parts, one a scenario, as one of all scenarios."""
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
    """Of each seed, over scenarios."""
    return tuple(fmean(values) for values in zip(*of_scenarios, strict=False))
