"""Which trials of an index come first."""

from __future__ import annotations

from typing import Any, Final

import pandas as pd

OVER_SCENARIOS: Final = "objective.over_scenarios"
SCORES: Final = (OVER_SCENARIOS, "objective.value")
"""What a sweep goes by: the first of these that the index has values of."""
JUDGED: Final = ("objective.feasible", "objective.pareto")


def score_column(index: pd.DataFrame) -> str | None:
    """The column that the sweep goes by; None where no trial has a score."""
    return next((name for name in SCORES if name in index and index[name].notna().any()), None)


def searched(index: pd.DataFrame) -> pd.DataFrame:
    """The rows of the search itself, without tests of winners on fresh seeds."""
    return index[index["promoted_from"].isna()]


def best_rows(index: pd.DataFrame, column: str, mode: str, top: int) -> pd.DataFrame:
    """The `top` rows of the index by `column`, the best first; rows without a value are left out.

    Rows that keep to the sweep's constraints come before those that do not, and those of a Pareto front before others.
    """
    measured = index[index[column].notna()].copy()
    measured["_worse"] = [
        (row.get("objective.feasible") is not True) + (row.get("objective.pareto") is not True)
        for row in measured[[name for name in JUDGED if name in measured]].astype(object).to_dict("records")
    ]
    order = ["_worse", column, "trial_id"]
    return measured.sort_values(order, ascending=[True, mode == "min", True], kind="stable").head(top)[index.columns]


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


__all__ = ["JUDGED", "OVER_SCENARIOS", "SCORES", "best_rows", "best_score", "mode_of", "score_column", "searched"]
