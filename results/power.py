"""`python -m results.power <folder>`: how many seeds would separate the top two of each algorithm and scenario."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any, Final

import pandas as pd

from jax_party.arguments import BAD_INPUT, OneLineParser, print_error
from jax_party.errors import RecordError
from jax_party.judging.aggregate import aggregate
from jax_party.judging.power import ALPHA, POWER, SeedsNeeded, seeds_needed
from jax_party.judging.seeds import pool
from results.index import load_index
from results.ranking import OVER_SCENARIOS, mode_of
from results.show import print_table

COLUMNS: Final = (
    "algorithm", "scenario", "first", "second", "tried_on", "seeds_first", "seeds_second", "difference", "spread",
    "paired", "seeds_needed", "note",
)  # fmt: skip
_Key = tuple[str, str]


def power(sweep: str | Path) -> pd.DataFrame:
    """Return how many seeds would separate the top two configurations of each algorithm and scenario.

    The top two are those with the best means on test seeds where two were promoted, else the first two of the
    sweep's standings. The differences are paired where the two share seeds.

    Returns:
      `algorithm`, `scenario` (`mean of …` where configurations count by their mean over scenarios), `first` and
      `second` (configurations), `tried_on` (`fresh` or `searched` seeds), `seeds_first`, `seeds_second` (how many),
      `difference` (the better's less the other's, so that it is negative where less is better), `spread`, `paired` (on
      how many common seeds), `seeds_needed` (NA where that cannot be known) and `note`.

    Raises:
      RecordError: the sweep is not collected, or nowhere are there two configurations with a score.
    """
    index = load_index(sweep)
    if "objective.seed_values" not in index:
        raise RecordError(
            f"{sweep}: its index tells no objective of each seed; make it anew: make collect SWEEP={sweep}"
        )
    better = 1.0 if mode_of(index) == "max" else -1.0
    rows = []
    for (algorithm, scenario), configurations in sorted(_configurations(index).items()):
        ranked = _ranked(configurations, better)
        if len(ranked) > 1:
            (first, of_first), (second, of_second) = ranked[:2]
            found = seeds_needed(of_first, of_second)
            values = (
                algorithm, scenario, first, second, _tried_on(configurations), len(of_first), len(of_second),
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


@dataclass(frozen=True)
class _Configuration:
    """The score of each seed of a configuration: of the search's seeds, and of fresh ones."""

    searched: Mapping[int, float]
    fresh: Mapping[int, float]
    aggregate: str
    feasible: bool
    over_scenarios: bool
    standing: float = math.inf

    @property
    def score(self) -> float:
        """What the search goes by."""
        return aggregate(list(self.searched.values()), self.aggregate)


def _configuration(rows: Sequence[Mapping[str, Any]]) -> _Configuration:
    searched = [row for row in rows if pd.isna(row["promoted_from"])]
    return _Configuration(
        _pooled(searched),
        _pooled([row for row in rows if pd.notna(row["promoted_from"])]),
        str(rows[0]["objective.aggregate"]),
        feasible=all(pd.isna(row["objective.feasible"]) or bool(row["objective.feasible"]) for row in searched),
        over_scenarios=any(pd.notna(row.get(OVER_SCENARIOS)) for row in searched),
        standing=min((float(row["standing"]) for row in searched if pd.notna(row.get("standing"))), default=math.inf),
    )


def _pooled(rows: Sequence[Mapping[str, Any]]) -> dict[int, float]:
    return pool((int(row["seed"]), json.loads(row["objective.seed_values"])) for row in rows)


def _configurations(index: pd.DataFrame) -> dict[_Key, dict[str, _Configuration]]:
    """(algorithm, scenario) -> configuration -> its seeds; those that count by their mean over scenarios by that."""
    chosen = dict(zip(index["trial_id"], index["configuration"], strict=True))
    rows: dict[tuple[str, str, str], list[Mapping[Any, Any]]] = {}
    complete = index[(index["state"] == "COMPLETE") & index["objective.seed_values"].notna()]
    for row in complete.to_dict("records"):
        name = chosen.get(row["promoted_from"], row["configuration"])
        rows.setdefault((row["algorithm"], row["scenario"], name), []).append(row)
    found: dict[_Key, dict[str, _Configuration]] = {}
    for (algorithm, scenario, name), of_configuration in rows.items():
        one = _configuration(of_configuration)
        if one.searched:
            found.setdefault((algorithm, scenario), {})[name] = one
    return _over_scenarios(found) or found


def _over_scenarios(groups: Mapping[_Key, Mapping[str, _Configuration]]) -> dict[_Key, dict[str, _Configuration]]:
    """The configurations that count by their mean over scenarios, each seed by its mean; none in other sweeps."""
    scenarios = sorted({scenario for _, scenario in groups})
    found: dict[_Key, dict[str, _Configuration]] = {}
    for algorithm in sorted({algorithm for algorithm, _ in groups}):
        of_scenarios = [groups.get((algorithm, scenario), {}) for scenario in scenarios]
        for name in of_scenarios[0]:
            parts = [of_scenario[name] for of_scenario in of_scenarios if name in of_scenario]
            if len(parts) == len(scenarios) and parts[0].over_scenarios:
                together = replace(
                    parts[0],
                    searched=_means([part.searched for part in parts]),
                    fresh=_means([part.fresh for part in parts]),
                    feasible=all(part.feasible for part in parts),
                )
                if together.searched:
                    found.setdefault((algorithm, f"mean of {', '.join(scenarios)}"), {})[name] = together
    return found


def _means(of_scenarios: Sequence[Mapping[int, float]]) -> dict[int, float]:
    common = sorted(set.intersection(*(set(values) for values in of_scenarios)))
    return {seed: fmean(values[seed] for values in of_scenarios) for seed in common}


def _tested(configurations: Mapping[str, _Configuration]) -> dict[str, _Configuration]:
    tested = {name: one for name, one in configurations.items() if one.fresh}
    return tested if len(tested) > 1 else {}


def _tried_on(configurations: Mapping[str, _Configuration]) -> str:
    return "fresh" if _tested(configurations) else "searched"


def _ranked(configurations: Mapping[str, _Configuration], better: float) -> list[tuple[str, Mapping[int, float]]]:
    """The configurations with their seeds, the best first: by test seeds, or by the sweep's standings."""
    if tested := _tested(configurations):
        ranked = sorted(tested, key=lambda name: (-better * fmean(tested[name].fresh.values()), name))
        return [(name, tested[name].fresh) for name in ranked]

    def place(name: str) -> tuple[float, bool, float, str]:
        one = configurations[name]
        return one.standing, not one.feasible, -better * one.score, name

    ranked = sorted(configurations, key=place)
    return [(name, configurations[name].searched) for name in ranked]


def _note(found: SeedsNeeded, sweep: str | Path) -> str:
    if found.spread is None:
        return (
            "one seed each: the spread between seeds is not known, so neither is this; "
            f"make promote SWEEP={sweep} TOP=2 SEEDS=5"
        )
    if found.seeds is None:
        return "no difference that a million seeds would tell"
    return ""


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; 0, or 2 where there is nothing to tell."""
    parser = OneLineParser(
        "python -m results.power",
        description="Say how many seeds would separate the top two configurations.",
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


if __name__ == "__main__":
    sys.exit(main())
