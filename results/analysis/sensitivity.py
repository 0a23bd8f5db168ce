"""The sensitivity card of a sweep over several scenarios; `python -m results.sensitivity <folder>` prints it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pandas as pd
from rich.console import Console

from jax_party.cli.arguments import BAD_INPUT, OneLineParser, print_error
from jax_party.errors import RecordError
from jax_party.judging.intervals import Interval
from jax_party.judging.sensitivity import PEAK_SHARE, Card, Dimensionality, Played, assess
from jax_party.trial.states import State
from results.collector.index_columns import hyperparameter_columns
from results.collector.ranking import mode_of, searched
from results.printing import print_table
from results.tables import load_index

BY: Final = ("algorithm", "scenario", "hyperparameter", "tuned")
FEWEST_CONFIGURATIONS: Final = 2

_SEED: Final = "system.seed"
_METHODS: Final = {
    "grid": "of configurations that were played",
    "forest": "predicted by a forest of the configurations that were played",
}


@dataclass(frozen=True)
class SensitivityCards:
    """The sensitivity cards of a sweep.

    Attributes:
      scenarios: the scenarios, in the order of the cards' arrays.
      mode: `max` or `min`: whether larger or smaller scores are better. In the cards, larger is always better.
      played: algorithm -> its configurations that were played to the end in every scenario.
      left_out: algorithm -> how many configurations were not.
      cards: algorithm -> its card; algorithms with too few configurations have none.
    """

    scenarios: list[str]
    mode: str
    played: dict[str, Played]
    left_out: dict[str, int]
    cards: dict[str, Card]

    @property
    def sign(self) -> float:
        """The factor that turns a card's score into one of the sweep."""
        return 1.0 if self.mode == "max" else -1.0

    def table(self, by: str) -> pd.DataFrame:
        """Return one of the tables of `sensitivity_card`."""
        rows_of: dict[str, Callable[[str], list[dict[str, Any]]]] = {
            "algorithm": self._algorithm,
            "scenario": self._scenarios,
            "hyperparameter": self._hyperparameters,
            "tuned": self._tuned,
        }
        return pd.DataFrame([row for name in self.cards for row in rows_of[by](name)])

    def _algorithm(self, name: str) -> list[dict[str, Any]]:
        card, played = self.cards[name], self.played[name]
        found = card.dimensionality
        return [
            {
                "algorithm": name,
                "scenarios": len(self.scenarios),
                "configurations": len(played.configurations),
                "left_out": self.left_out[name],
                "seeds": min(len(seeds) for of_scenarios in played.scores for seeds in of_scenarios),
                **_columns("tuned_per_scenario", card.tuned_per_scenario),
                **_columns("one_for_all", card.one_for_all),
                **_columns("sensitivity", card.sensitivity),
                "configuration": played.configurations[card.best],
                "hyperparameters": len(found.effects) if found is not None else None,
                **_columns("dimensions", found.dimensions if found is not None else None),
                "tuned": ", ".join(found.tuned) if found is not None else None,
                "method": found.method if found is not None else None,
                "r_squared": found.r_squared if found is not None else None,
                "why": card.why or None,
            }
        ]

    def _scenarios(self, name: str) -> list[dict[str, Any]]:
        card, names = self.cards[name], self.played[name].configurations
        return [
            {
                "algorithm": name,
                "scenario": scenario,
                "best_configuration": names[best],
                "best_score": self.sign * float(card.raw[best, place]),
                "configuration": names[card.best],
                "score": self.sign * float(card.raw[card.best, place]),
                "loss": float(card.scores[best, place] - card.scores[card.best, place]),
            }
            for place, (scenario, best) in enumerate(zip(self.scenarios, card.best_in, strict=True))
        ]

    def _hyperparameters(self, name: str) -> list[dict[str, Any]]:
        found = self.cards[name].dimensionality
        return [
            {
                "algorithm": name,
                "hyperparameter": one.name,
                **_columns("swing", one.swing),
                **_columns("tuned_alone", one.tuned_alone),
                **_columns("left_alone", one.left_alone),
            }
            for one in (found.effects if found is not None else ())
        ]

    def _tuned(self, name: str) -> list[dict[str, Any]]:
        found = self.cards[name].dimensionality
        return [
            {"algorithm": name, "tuned": count, "hyperparameters": ", ".join(names), "score": score}
            for count, (names, score) in enumerate(found.curve if found is not None else ())
        ]


def sensitivity_card(folder: str | Path, by: str = "algorithm") -> pd.DataFrame:
    """Return how the score depends on the hyperparameters, and how well one configuration does in every scenario.

    The sweep must have been collected. A configuration counts if it was played to the end in every scenario, by the
    sweep's own aggregate of its seeds; promotions, and trials of a population that changed their values, do not count.
    Scores are normalised within each scenario, so that its 5th percentile becomes 0 and its 95th 1, and larger is
    better (https://arxiv.org/abs/2412.07165; `docs/statistics.md` has the formulas). Columns that end in `_low` and
    `_high` are the ends of 95 % intervals, NaN if a configuration has a single seed.

    Args:
      folder: the sweep's folder, or its index.parquet.
      by: `algorithm`: one row per algorithm with `tuned_per_scenario`, `one_for_all`, their difference `sensitivity`,
        `dimensions` (how many hyperparameters must be tuned per scenario to reach 95 % of the peak) and `tuned`
        (which); `scenario`: what the single configuration that is best on average loses in each scenario;
        `hyperparameter`: `swing`, `tuned_alone` and `left_alone` of each; `tuned`: the best score for each number of
        tuned hyperparameters.

    Raises:
      RecordError: the sweep cannot be read, has one scenario, or no algorithm has two configurations that were played
        to the end in every scenario.
    """
    if by not in BY:
        raise RecordError(f"by: {by!r} is no table of the sensitivity card; use one of {', '.join(BY)}")
    return cards_of(load_index(folder), folder).table(by)


def cards_of(index: pd.DataFrame, folder: str | Path) -> SensitivityCards:
    """Return the cards of an index; `folder` is where it lies, for messages.

    Raises:
      RecordError: as for `sensitivity_card`.
    """
    if "objective.seed_values" not in index:
        raise RecordError(
            f"{folder}: its index lacks the objective of each seed; make it anew: make collect SWEEP={folder}"
        )
    rows = searched(index)
    scenarios = sorted(rows["scenario"].dropna().unique())
    if len(scenarios) < 2:
        named = f"one scenario, {scenarios[0]}" if scenarios else "no scenario yet"
        raise RecordError(f"{folder}: {named}; sensitivity is told over several: make sweep SCENARIO=a,b")
    mode = mode_of(index)
    found = _played(rows, scenarios, 1.0 if mode == "max" else -1.0)
    played = {name: one for name, (one, _) in found.items() if len(one.configurations) >= FEWEST_CONFIGURATIONS}
    if not played:
        raise RecordError(
            f"{folder}: no algorithm has {FEWEST_CONFIGURATIONS} configurations that were played to the end in all of "
            f"{', '.join(scenarios)}; use SCENARIO_MODE=grid or mean, and finish the sweep: make resume SWEEP={folder}"
        )
    how = str(rows["objective.aggregate"].dropna().iloc[0])
    left_out = {name: left for name, (_, left) in found.items()}
    return SensitivityCards(scenarios, mode, played, left_out, assess(played, how))


def _played(index: pd.DataFrame, scenarios: Sequence[str], sign: float) -> dict[str, tuple[Played, int]]:
    """Return algorithm -> its configurations that were played to the end in every scenario, and how many were not."""
    names = [name for name in hyperparameter_columns(index) if name != _SEED]
    cells: dict[str, dict[str, dict[str, dict[int, float]]]] = {}
    values: dict[str, dict[str, Any]] = {}
    for row in index[index["algorithm"].notna() & index["configuration"].notna()].to_dict("records"):
        of_scenarios = cells.setdefault(row["algorithm"], {}).setdefault(row["configuration"], {})
        if row["state"] != State.COMPLETE or pd.isna(row["objective.seed_values"]) or pd.notna(row["lineage"]):
            continue
        values[row["configuration"]] = {name: None if pd.isna(row[name]) else row[name] for name in names}
        seeds = of_scenarios.setdefault(row["scenario"], {})
        for seed, value in enumerate(json.loads(row["objective.seed_values"]), int(row["seed"])):
            seeds.setdefault(seed, sign * float(value))
    found = {}
    for algorithm, of_configurations in sorted(cells.items()):
        whole = sorted(name for name, of_one in of_configurations.items() if set(of_one) == set(scenarios))
        scores = [[list(of_configurations[name][one].values()) for one in scenarios] for name in whole]
        varied = _varied([values[name] for name in whole])
        found[algorithm] = Played(whole, varied, scores), len(of_configurations) - len(whole)
    return found


def _varied(of_configurations: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    names = list(of_configurations[0]) if of_configurations else []
    table = {name: [values[name] for values in of_configurations] for name in names}
    return {name: column for name, column in table.items() if len(set(column)) > 1}


def _columns(name: str, interval: Interval | None) -> dict[str, float | None]:
    value, low, high = interval[:3] if interval is not None else (None, None, None)
    return {name: value, f"{name}_low": low, f"{name}_high": high}


# -- The command -------------------------------------------------------------------------------------------------------


def main(arguments: Sequence[str] | None = None) -> int:
    """Print a sweep's sensitivity card; return 0, or 2 if there is none."""
    parser = OneLineParser(
        "python -m results.sensitivity", variables={"folder": "SWEEP"},
        description="Print how much performance depends on the hyperparameters, and how well one "
        "configuration serves every scenario.",
    )  # fmt: skip
    parser.add_argument("folder", help="a sweep's folder, or an index.parquet")
    folder = parser.parse_args(arguments).folder
    try:
        found = cards_of(load_index(folder), folder)
    except (RecordError, OSError) as error:
        print_error(error)
        return BAD_INPUT
    _print_algorithms(found)
    _print_scenarios(found)
    _print_hyperparameters(found)
    for line in sentences(found):
        Console(soft_wrap=True).print(line, markup=False, highlight=False)
    return 0


def sentences(found: SensitivityCards) -> list[str]:
    """Return the tables summarised in sentences: one line per algorithm, and one per caveat."""
    lines = []
    for name, card in found.cards.items():
        one, dimensionality = found.played[name].configurations[card.best], card.dimensionality
        lines.append(
            f"{name}: {one} is best on average and reaches {card.one_for_all.value:.3g}; tuning per scenario reaches "
            f"{card.tuned_per_scenario.value:.3g}, {card.sensitivity.value:.3g} more."
        )
        if dimensionality is None:
            lines.append(f"{name}: no result for single hyperparameters: {card.why}.")
        else:
            lines.append(_of_dimensions(name, dimensionality))
        if card.sensitivity.low is None:
            lines.append(f"{name}: a configuration has only one seed, so there are no intervals; use SEEDS=3.")
        if left := found.left_out[name]:
            lines.append(f"{name}: {left} configurations are left out: not played to the end in every scenario.")
    absent = [name for name in found.left_out if name not in found.cards]
    wanted = f"fewer than {FEWEST_CONFIGURATIONS} configurations were played to the end in every scenario"
    return lines + [f"{name}: no card: {wanted}." for name in absent]


def _of_dimensions(name: str, found: Dimensionality) -> str:
    how = _METHODS[found.method] + (f", R² {found.r_squared:.2f}" if found.r_squared is not None else "")
    if found.dimensions is None:
        return f"{name}: its best normalised score is not above 0, so a share of it is meaningless ({how})."
    share, count, of = f"{100 * PEAK_SHARE:.0f} %", len(found.tuned), len(found.effects)
    if not count:
        return f"{name}: {share} is reached without tuning any of {of} hyperparameters per scenario ({how})."
    which = ", ".join(found.tuned)
    return f"{name}: {share} is reached by tuning {count} of {of} hyperparameters per scenario: {which} ({how})."


def _print_algorithms(found: SensitivityCards) -> None:
    headings = [
        "algorithm", "configurations", "seeds", "tuned per scenario", "one for all", "sensitivity", "to tune", "of",
    ]  # fmt: skip
    rows = []
    for row, card in zip(found.table("algorithm").to_dict("records"), found.cards.values(), strict=True):
        dimensions = card.dimensionality.dimensions if card.dimensionality is not None else None
        rows.append(
            [row["algorithm"], str(row["configurations"]), str(row["seeds"]), text(card.tuned_per_scenario),
             text(card.one_for_all), text(card.sensitivity), text(dimensions),
             str(len(card.dimensionality.effects)) if card.dimensionality is not None else ""]
        )  # fmt: skip
    title = f"Sensitivity over {', '.join(found.scenarios)}: normalised scores [95 %]"
    print_table(headings, rows, left=("algorithm",), spare=("configurations", "seeds"), title=title)


def _print_scenarios(found: SensitivityCards) -> None:
    table = found.table("scenario")
    headings = ["algorithm", "scenario", "best there", "score", "one for all", "its score", "loss"]
    rows = [
        [row["algorithm"], row["scenario"], row["best_configuration"], f"{row['best_score']:.5g}",
         row["configuration"], f"{row['score']:.5g}", f"{row['loss']:.3g}"]
        for row in table.to_dict("records")
    ]  # fmt: skip
    title = "One configuration in every scenario: scores, and its loss in normalised score"
    print_table(headings, rows, left=("algorithm", "scenario", "best there", "one for all"), spare=(), title=title)


def _print_hyperparameters(found: SensitivityCards) -> None:
    headings = ["algorithm", "hyperparameter", "swing", "gain if tuned alone", "loss if left alone"]
    rows = [
        [name, one.name, text(one.swing), text(one.tuned_alone), text(one.left_alone)]
        for name, card in found.cards.items()
        for one in (card.dimensionality.effects if card.dimensionality is not None else ())
    ]
    if rows:
        title = "Effect of each hyperparameter: normalised score [95 %]"
        print_table(headings, rows, left=("algorithm", "hyperparameter"), spare=headings[3:], title=title)


def text(interval: Interval | None) -> str:
    """Return an estimate with its interval, as tables show it."""
    if interval is None:
        return ""
    if interval.low is None or interval.high is None:
        return f"{interval.value:.3g}"
    return f"{interval.value:.3g} [{interval.low:.3g}, {interval.high:.3g}]"
