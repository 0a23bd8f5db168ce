"""What counts as a replicate: one seed of one configuration in one scenario, however often it was played.

A trial is a function of its configuration, scenario and seed. A second run of all three is a copy of the first: it adds
no information, but pooled as if it were independent it narrows intervals (pseudoreplication, Hurlbert 1984,
https://doi.org/10.2307/1942661). `docs/statistics.md` has the formula.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import NamedTuple


class Played(NamedTuple):
    """The seeds of a configuration that one trial has played in a scenario.

    Attributes:
      configuration: what its trials share, whatever their seeds.
      scenario: where it was played.
      first_seed: the first of consecutive seeds.
      num_seeds: how many seeds.
      values: one per seed, in their order; a single value for several seeds belongs to the first of them.
    """

    configuration: Hashable
    scenario: Hashable
    first_seed: int
    num_seeds: int = 1
    values: Sequence[float] = ()

    @property
    def seeds(self) -> range:
        """The seeds that were played."""
        return range(self.first_seed, self.first_seed + self.num_seeds)


def contender(configuration: str, trial_id: str, has_lineage: bool) -> str:
    """Return what a trial is ranked as: its configuration, which all its seeds share.

    A member of a population that has taken over another's learner has a past of its own, and is ranked as itself.
    """
    return trial_id if has_lineage else configuration


def pool_seeds(tests: Iterable[tuple[int, Sequence[float]]]) -> dict[int, float]:
    """Return the score of each seed, in the order of seeds, from trials of one configuration that may share seeds.

    Args:
      tests: the first seed of each trial with the scores of its consecutive seeds; a seed's first score counts.
    """
    found = values_by_seed(Played(None, None, first, len(values), values) for first, values in tests)
    return dict(sorted(found.get((None, None), {}).items()))


def values_by_seed(rows: Iterable[Played]) -> dict[tuple[Hashable, Hashable], dict[int, float]]:
    """Return the value of every seed, each counted once.

    Args:
      rows: those of trials; among several with the same configuration, scenario and seed the first counts.

    Returns:
      (configuration, scenario) -> seed -> value, in the order of the rows.
    """
    found: dict[tuple[Hashable, Hashable], dict[int, float]] = {}
    for row in rows:
        of_seeds = found.setdefault((row.configuration, row.scenario), {})
        for seed, value in zip(row.seeds, row.values, strict=False):
            of_seeds.setdefault(seed, value)
    return found


def are_copies(rows: Iterable[Played]) -> list[bool]:
    """Return for each row whether earlier rows hold all its seeds of its configuration and scenario."""
    known: dict[tuple[Hashable, Hashable], set[int]] = {}
    copies = []
    for row in rows:
        seeds = known.setdefault((row.configuration, row.scenario), set())
        copies.append(seeds.issuperset(row.seeds))
        seeds.update(row.seeds)
    return copies


def means_over_scenarios(of_scenarios: Sequence[Mapping[int, float]]) -> dict[int, float]:
    """Return seed -> the mean over scenarios of its values, for the seeds that have a value in every scenario."""
    first, *others = of_scenarios
    shared = [seed for seed in first if all(seed in other for other in others)]
    return {seed: math.fsum(values[seed] for values in of_scenarios) / len(of_scenarios) for seed in shared}


__all__ = ["Played", "are_copies", "contender", "means_over_scenarios", "pool_seeds", "values_by_seed"]
