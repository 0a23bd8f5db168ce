"""The order of the trials of an index, best first."""

from __future__ import annotations

import heapq
import itertools
import math
from collections.abc import Mapping
from typing import Any, Final

import pandas as pd

from jax_party.judging.replicates import Played, are_copies, contender
from jax_party.judging.settling import Motion, in_words, summarise
from jax_party.judging.standings import TIERS, judges_the_end, why_provisional

EVERY_SCENARIO: Final = "*"
"""The scenario of a value that covers all scenarios together."""
OVER_SCENARIOS: Final = "objective.over_scenarios"
SCORE: Final = "score"
SCORES: Final = (SCORE, OVER_SCENARIOS, "objective.value")
"""Columns to rank a sweep by, in order of preference; older indexes and single runs lack a score."""
JUDGED: Final = ("objective.feasible", "settled", "objective.pareto")


def score_column(index: pd.DataFrame) -> str | None:
    """Return the column that the sweep is ranked by; None if no trial has a score."""
    return next((name for name in SCORES if name in index and index[name].notna().any()), None)


def searched(index: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of the search itself, without tests of winners on fresh seeds."""
    return index[index["promoted_from"].isna()]


def played(row: Mapping[Any, Any]) -> Played:
    """Return what a row of the index has played, by which it counts as a replicate or as a copy of one."""
    number = 1 if pd.isna(row["num_seeds"]) else int(row["num_seeds"])
    return Played(ranked_as(row), row["scenario"], int(row["seed"]), number)


def ranked_as(row: Mapping[Any, Any]) -> str:
    """Return the contender that the trial of an index row is ranked as (`judging.replicates.contender`)."""
    return contender(str(row["configuration"]), str(row["trial_id"]), isinstance(row.get("lineage"), str))


def contenders(index: pd.DataFrame) -> dict[str, str]:
    """Return trial id -> the contender it is ranked as; a test of a winner is ranked as that winner."""
    names = [name for name in ("trial_id", "configuration", "lineage", "promoted_from") if name in index]
    rows = index.loc[index["configuration"].notna(), names].to_dict("records")
    own = {str(row["trial_id"]): ranked_as(row) for row in rows}
    return own | {
        str(row["trial_id"]): own.get(str(row["promoted_from"]), own[str(row["trial_id"])])
        for row in rows
        if isinstance(row.get("promoted_from"), str)
    }


def without_copies(index: pd.DataFrame) -> pd.DataFrame:
    """Return the index without trials of the search that repeat a configuration, scenario and seed.

    Sweeps from before `DUPLICATES` have such copies. The first of them is kept, or the first complete one if there is
    any.
    """
    known = searched(index)
    known = known[known["seed"].notna() & known["configuration"].notna()]
    order = (known["state"] != "COMPLETE").sort_values(kind="stable").index
    rows = known.loc[order].to_dict("records")
    copies = {row["trial_id"] for row, copy in zip(rows, are_copies(map(played, rows)), strict=True) if copy}
    return index[~index["trial_id"].isin(copies)] if copies else index


def best_rows(index: pd.DataFrame, column: str, mode: str, top: int) -> pd.DataFrame:
    """Return the `top` rows of the index by `column`, best first; rows without a value are left out.

    If `column` is a score of the sweep, each algorithm's and scenario's rows keep the order of their standings, and
    these groups are merged by their first rows. For any other column, rows that satisfy the sweep's constraints come
    before those that do not, and rows on a Pareto front before others.
    """
    measured = index[index[column].notna()]
    names = [name for name in _RANKED_BY if name in measured]
    rows = measured[list(dict.fromkeys([*names, column]))].astype(object).to_dict("records")
    by_score = column in SCORES and SCORE in index and mode == mode_of(index)
    sign = -1.0 if mode == "max" else 1.0

    def key(place: int) -> tuple[tuple[int, ...], float, str]:
        row = rows[place]
        return (behind(row) if by_score else (sum(_bounds(row)),)), sign * float(row[column]), str(row["trial_id"])

    if not by_score or "standing" not in index:
        return measured.iloc[sorted(range(len(rows)), key=key)[:top]]
    groups: dict[tuple[Any, ...], list[int]] = {}
    for place, row in enumerate(rows):
        scenario = EVERY_SCENARIO if _is_number(row.get(OVER_SCENARIOS)) else row["scenario"]
        groups.setdefault((row["algorithm"], scenario, isinstance(row.get("promoted_from"), str)), []).append(place)
    ordered = [sorted(group, key=lambda place: (standing_of(rows[place]), key(place))) for group in groups.values()]
    return measured.iloc[list(itertools.islice(heapq.merge(*ordered, key=key), top))]


_RANKED_BY: Final = (
    "trial_id", "algorithm", "scenario", "promoted_from", "state", "provisional", "standing", OVER_SCENARIOS, *JUDGED,
)  # fmt: skip


def standing_of(row: Mapping[Any, Any]) -> float:
    """Return the place of a row's configuration among those it is compared with; infinite if it has none."""
    place: Any = row.get("standing")
    return float(place) if _is_number(place) else math.inf


def _is_number(value: Any) -> bool:
    return value is not None and not pd.isna(value)


def behind(row: Mapping[Any, Any]) -> tuple[int, ...]:
    """Return the criteria that rank a row of the index before its score does, as in `judging.standings`."""
    infeasible, off_front = _bounds(row)
    return infeasible, TIERS.get(str(row["state"]), len(TIERS)), row.get("provisional") is True, off_front


def _bounds(row: Mapping[Any, Any]) -> tuple[bool, bool]:
    """Return whether a row breaks a constraint and whether it is off the Pareto front; both are true if unknown."""
    return row.get("objective.feasible") is not True, row.get("objective.pareto") is not True


def best_score(index: pd.DataFrame) -> float | None:
    """Return the score of the best trial of the search; None if there is no score or the best breaks a constraint."""
    of_search = searched(index)
    column = score_column(of_search)
    if column is None:
        return None
    (best,) = best_rows(of_search, column, mode_of(index), 1).astype(object).to_dict("records")
    return None if best.get("objective.feasible") is False else float(best[column])


def mode_of(index: pd.DataFrame) -> str:
    """Return which scores are better: `max` or `min`."""
    modes: list[Any] = index["objective.mode"].dropna().unique().tolist()
    return str(modes[0]) if modes else "max"


def provisional_notes(index: pd.DataFrame) -> list[str]:
    """Return sentences that name the provisional best configurations and say why they are provisional."""
    if "standing" not in index:
        return []
    first = index[index["standing"].eq(1).fillna(False)]
    averaged = OVER_SCENARIOS in first and first[OVER_SCENARIOS].notna().any()
    groups = list(first.groupby(["algorithm"] if averaged else ["algorithm", "scenario"], sort=False))
    notes = []
    for name, rows in groups:
        if rows["provisional"].fillna(False).any():
            settled = [None if pd.isna(one) else bool(one) for one in rows["settled"]]
            why = why_provisional(
                bool(rows["state"].eq("COMPLETE").all()),
                False if False in settled else None if None in settled else True,
            )
            whose = "" if len(groups) == 1 else f" of {' '.join(map(str, name))}"
            notes.append(f"The best{whose} is provisional: {why}.")
    return notes


def settling_note(index: pd.DataFrame) -> str | None:
    """Return the warning about complete trials that had not settled; None if there is nothing to warn about."""
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
    "contenders", "mode_of", "played", "provisional_notes", "ranked_as", "score_column", "searched", "settling_note",
    "standing_of", "without_copies",
]  # fmt: skip
