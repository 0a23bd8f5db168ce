"""`python -m results.power <folder>`: how many seeds would separate the top two of each algorithm and scenario."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any, Final

import pandas as pd

from jax_party.cli.arguments import BAD_INPUT, OneLineParser, print_error
from jax_party.errors import RecordError
from jax_party.judging.power import ALPHA, POWER, SeedsNeeded, seeds_needed
from results.analysis.comparison import MEAN_OF, Played, played_by_group
from results.collector.ranking import mode_of
from results.printing import print_table
from results.tables import load_index

COLUMNS: Final = (
    "algorithm", "scenario", "first", "second", "tried_on", "seeds_first", "seeds_second", "difference", "spread",
    "paired", "seeds_needed", "note",
)  # fmt: skip


def power(sweep: str | Path) -> pd.DataFrame:
    """Return how many seeds would separate the top two configurations of each algorithm and scenario.

    The top two are the best two on test seeds if at least two configurations were promoted, otherwise the first two of
    the sweep's standings. On test seeds, configurations are ranked by their mean difference from the one with the most
    test seeds, over the seeds that both have, because after a race they have played different numbers of seeds.
    Differences are paired if the two share seeds.

    Returns:
      `algorithm`, `scenario` (`mean of …` if configurations are ranked by their mean over scenarios), `first` and
      `second` (configurations), `tried_on` (`fresh` or `searched` seeds), `seeds_first`, `seeds_second` (how many),
      `difference` (first minus second, so negative if smaller scores are better), `spread`, `paired` (the number of
      common seeds), `seeds_needed` (NA if it cannot be known) and `note`.

    Raises:
      RecordError: the sweep is not collected, or no algorithm and scenario has two configurations with a score.
    """
    index = load_index(sweep)
    if "objective.seed_values" not in index:
        raise RecordError(
            f"{sweep}: its index lacks the objective of each seed; make it anew: make collect SWEEP={sweep}"
        )
    better = 1.0 if mode_of(index) == "max" else -1.0
    groups = played_by_group(index)
    averaged = any(one.over_scenarios for side in groups.values() for one in side)
    rows = []
    for algorithm, scenario in sorted((algorithm, scenario) for scenario, algorithm in groups):
        if averaged and not scenario.startswith(MEAN_OF):
            continue
        fresh, ranked = _ranked(groups[scenario, algorithm], better)
        if len(ranked) > 1:
            of_first, of_second = (one.fresh if fresh else one.searched for one in ranked[:2])
            found = seeds_needed(of_first, of_second)
            values = (
                algorithm, scenario, ranked[0].configuration, ranked[1].configuration,
                "fresh" if fresh else "searched", len(of_first), len(of_second),
                found.difference, found.spread, found.paired, found.seeds, _note(found, sweep),
            )  # fmt: skip
            rows.append(dict(zip(COLUMNS, values, strict=True)))
    if not rows:
        raise RecordError(
            f"{sweep}: no algorithm and scenario with two finished configurations; add some: make extend SWEEP={sweep} "
            "SAMPLES=…"
        )
    table = pd.DataFrame(rows, columns=list(COLUMNS))
    return table.astype({"seeds_needed": "Int64", "spread": "float64"})


def _ranked(configurations: Sequence[Played], better: float) -> tuple[bool, list[Played]]:
    """Return whether configurations are ranked on test seeds, and the ranked configurations, best first."""
    tested = [one for one in configurations if one.fresh]
    if len(tested) < 2:
        return False, sorted(configurations, key=lambda one: (one.standing, -better * one.score, one.configuration))
    most = max(tested, key=lambda one: len(one.fresh)).fresh

    def lead(one: Played) -> float:
        common = [seed for seed in one.fresh if seed in most]
        if not common:
            return fmean(one.fresh.values()) - fmean(most.values())
        return fmean(one.fresh[seed] - most[seed] for seed in common)

    return True, sorted(tested, key=lambda one: (not one.feasible, -better * lead(one), one.standing))


def _note(found: SeedsNeeded, sweep: str | Path) -> str:
    if found.spread is None:
        return (
            "one seed each: the spread between seeds is not known, so neither is this; "
            f"make promote SWEEP={sweep} TOP=2 SEEDS=5"
        )
    if found.seeds is None:
        return "no difference that a million seeds would show"
    return ""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return 0, or 2 if there is nothing to show."""
    parser = OneLineParser(
        "python -m results.power",
        description="Estimate how many seeds would separate the top two configurations.",
        variables={"folder": "SWEEP"},
    )
    parser.add_argument("folder", help="a sweep's folder")
    folder = parser.parse_args(arguments).folder
    try:
        table = power(folder)
    except (RecordError, OSError) as error:
        print_error(error)
        return BAD_INPUT
    rows = [[_text(row[name]) for name in COLUMNS] for row in table.astype(object).to_dict("records")]
    title = f"Seeds each that separate the top two with power {POWER:g} at alpha {ALPHA:g}, if they differ as it seems"
    print_table(COLUMNS, rows, left=("algorithm", "scenario", "first", "second", "note"), spare=(), title=title)
    return 0


def _text(value: Any) -> str:
    if pd.isna(value):
        return ""
    return f"{value:.5g}" if isinstance(value, float) else str(value)
