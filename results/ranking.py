"""Which trials of an index come first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import pandas as pd

from jax_party.judging.replicates import Played, are_copies
from jax_party.judging.settling import Motion, in_words, summarise
from jax_party.judging.standings import TIERS, judges_the_end

EVERY_SCENARIO: Final = "*"
"""The scenario of what is of all of them together."""
OVER_SCENARIOS: Final = "objective.over_scenarios"
SCORE: Final = "score"
SCORES: Final = (SCORE, OVER_SCENARIOS, "objective.value")
"""What a sweep goes by: the first of these that the index has values of; older indexes and single runs lack a score."""
JUDGED: Final = ("objective.feasible", "settled", "objective.pareto")


def score_column(index: pd.DataFrame) -> str | None:
    """The column that the sweep goes by; None where no trial has a score."""
    return next((name for name in SCORES if name in index and index[name].notna().any()), None)


def searched(index: pd.DataFrame) -> pd.DataFrame:
    """The rows of the search itself, without tests of winners on fresh seeds."""
    return index[index["promoted_from"].isna()]


def played(row: Mapping[Any, Any], values: Sequence[float] = ()) -> Played:
    """What a row of the index has played: by what it counts as a replicate, or as a copy of one.

    A member of a population has a past of its own: it is no copy of another that has come to the same values.
    """
    has_past = pd.notna(row["lineage"]) if "lineage" in row else False
    configuration = (row["configuration"], row["trial_id"] if has_past else None)
    number = 1 if pd.isna(row["num_seeds"]) else int(row["num_seeds"])
    return Played(configuration, row["scenario"], int(row["seed"]), number, values)


def without_copies(index: pd.DataFrame) -> pd.DataFrame:
    """The rows of an index but for trials of the search that play a configuration, scenario and seed once more.

    Sweeps of before `DUPLICATES` have such; the first counts, of those that are complete if there are some.
    """
    known = searched(index)
    known = known[known["seed"].notna() & known["configuration"].notna()]
    order = (known["state"] != "COMPLETE").sort_values(kind="stable").index
    rows = known.loc[order].to_dict("records")
    copies = {row["trial_id"] for row, copy in zip(rows, are_copies(map(played, rows)), strict=True) if copy}
    return index[~index["trial_id"].isin(copies)] if copies else index


def best_rows(index: pd.DataFrame, column: str, mode: str, top: int) -> pd.DataFrame:
    """The `top` rows of the index by `column`, the best first; rows without a value are left out.

    Rows that keep to the sweep's constraints come before those that do not, and those of a Pareto front before others.
    By the sweep's own score, complete trials come before running and pruned ones, and where the end of training is
    judged, those that have settled before those that have not.
    """
    measured = index[index[column].notna()].copy()
    names = [name for name in (*JUDGED, "state", "provisional") if name in measured]
    rows = measured[names].astype(object).to_dict("records")
    by_score = column in SCORES and SCORE in index
    measured["_worse"] = [behind(row) if by_score else (sum(_bounds(row)),) for row in rows]
    order = ["_worse", column, "trial_id"]
    return measured.sort_values(order, ascending=[True, mode == "min", True], kind="stable").head(top)[index.columns]


def behind(row: Mapping[Any, Any]) -> tuple[int, ...]:
    """What a row of the index stands behind others for, whatever its score, as `judging.standings` ranks them."""
    infeasible, off_front = _bounds(row)
    return infeasible, TIERS.get(str(row["state"]), len(TIERS)), row.get("provisional") is True, off_front


def _bounds(row: Mapping[Any, Any]) -> tuple[bool, bool]:
    """Whether a row breaks a constraint, and whether it is off the Pareto front; without either, both are true."""
    return row.get("objective.feasible") is not True, row.get("objective.pareto") is not True


def best_score(index: pd.DataFrame) -> float | None:
    """The score of the first of the search's trials; None where none has one, or none keeps to the constraints."""
    of_search = searched(index)
    column = score_column(of_search)
    if column is None:
        return None
    (best,) = best_rows(of_search, column, mode_of(index), 1).astype(object).to_dict("records")
    return None if best.get("objective.feasible") is False else float(best[column])


def mode_of(index: pd.DataFrame) -> str:
    """Which is better: `max` or `min`."""
    modes: list[Any] = index["objective.mode"].dropna().unique().tolist()
    return str(modes[0]) if modes else "max"


def is_provisional(index: pd.DataFrame) -> bool:
    """Whether some best configuration is named for the time being only: none that it compares with has settled."""
    best = index[index["standing"].eq(1).fillna(False)] if "standing" in index else index.head(0)
    return bool(best["provisional"].fillna(False).any()) if len(best) else False


def settling_note(index: pd.DataFrame) -> str | None:
    """The warning about complete trials that had not settled; None where there is nothing to warn of."""
    if "motion" not in index:
        return None
    rules = index["objective.at"].dropna().unique()
    if not any(judges_the_end(str(rule)) for rule in rules):
        return None
    rows = index[(index["state"] == "COMPLETE") & index["motion"].notna()]
    enough = [None if pd.isna(steps) else int(steps) for steps in rows["enough_steps"]]
    verdict = summarise(zip(map(Motion, rows["motion"]), enough, strict=True))
    return in_words(verdict, mode_of(index))


__all__ = [
    "EVERY_SCENARIO", "JUDGED", "OVER_SCENARIOS", "SCORE", "SCORES", "behind", "best_rows", "best_score",
    "is_provisional", "mode_of", "played", "score_column", "searched", "settling_note", "without_copies",
]  # fmt: skip
