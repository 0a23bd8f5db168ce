"""The commands `python -m results.collect` and `python -m results.index`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import pandas as pd

from jax_party.cli.arguments import BAD_INPUT, OneLineParser, print_error, whole_number
from jax_party.errors import RecordError
from jax_party.judging.objectives import At
from jax_party.judging.standings import MEAN_OVER_SCENARIOS
from jax_party.store.storage import as_folder, store_of
from jax_party.trial.manifest import MANIFEST_FILE, read_manifest
from jax_party.trial.states import State
from results.analysis.comparison import leaders_of
from results.analysis.importance import SCENARIO_AXIS, importance_in
from results.collector.index_columns import METRIC_PREFIXES, hyperparameter_columns
from results.collector.ranking import (
    EVERY_SCENARIO,
    JUDGED,
    OVER_SCENARIOS,
    SCORE,
    SCORES,
    best_rows,
    mode_of,
    provisional_notes,
    score_column,
    searched,
    settling_note,
    without_copies,
)
from results.collector.write import write_index
from results.live.journal import update_journal
from results.printing import print_table, say
from results.tables import load_index

_FRESH: Final = (
    "tests", "fresh.value", "optimism_gap", "fresh.over_scenarios.value", "optimism_gap.over_scenarios",
)  # fmt: skip

_VARIABLES: Final = {"folder": "SWEEP", "--top": "TOP", "--metric": "METRIC", "--mode": "MODE"}


def collect_main(arguments: Sequence[str] | None = None) -> int:
    """Write the index of each folder named on the command line; return 0, or 2 if any of them failed."""
    parser = OneLineParser(
        "python -m results.collect", description="Write the index of sweeps or runs.", variables={"folder": "SWEEP"}
    )
    parser.add_argument("folders", nargs="+", metavar="folder", help="a sweep's folder, or a single run's")
    exit_code = 0
    for folder in parser.parse_args(arguments).folders:
        try:
            paths = write_index(folder)
            index = load_index(folder)
            _update_journal(folder)
        except (RecordError, OSError) as error:
            print_error(error)
            exit_code = BAD_INPUT
        else:
            begun = "" if index.empty or index["folder"].notna().any() else ", none with a folder yet"
            say(f"{paths.index}: {_states(index)}{begun}")
    return exit_code


def _update_journal(folder: str) -> None:
    """Bring Optuna's journal up to date; the tables do not need it, so an error is printed and not raised."""
    try:
        update_journal(folder)
    except (RecordError, OSError) as error:
        print_error(error)


def show_main(arguments: Sequence[str] | None = None) -> int:
    """Print the best rows of a sweep's index; return 0, or 2 if that failed."""
    parser = OneLineParser(
        "python -m results.index", description="Print the best trials of a sweep.", variables=_VARIABLES
    )
    parser.add_argument("folder", help="a sweep's folder, a single run's, or an index.parquet")
    parser.add_argument("--top", type=whole_number(1), default=10, metavar="N", help="how many rows (10)")
    parser.add_argument(
        "--metric",
        help="a metric, or a column such as last.episode_return (the trial's score, "
        "objective.value; where scenarios are averaged objective.over_scenarios)",
    )
    parser.add_argument("--mode", choices=("max", "min"), help="which is better (the sweep's objective decides)")
    parser.add_argument("--promoted", action="store_true", help="also rank tests of winners on fresh seeds")
    options = parser.parse_args(arguments)
    try:
        index = load_index(options.folder)
        copies = len(index)
        index = without_copies(index)
        copies -= len(index)
        if not options.promoted:
            index = searched(index)
        column = _metric_column(index, options.metric, options.folder)
        if column in (SCORE, OVER_SCENARIOS):  # a test on fresh seeds uses its mean on them
            tested = index["fresh.over_scenarios.value"].fillna(index["fresh.value"])
            fresh = tested.where(index["promoted_from"].notna())
            index = index.assign(**{column: index[column].fillna(fresh)})
        mode = options.mode or mode_of(index)
        _print_index(index, column, mode, options.top, options.folder)
        if copies:
            say(f"{copies} trials that repeat another, seed for seed, are left out.")
    except (RecordError, OSError) as error:
        print_error(error)
        return BAD_INPUT
    return 0


def _metric_column(index: pd.DataFrame, metric: str | None, folder: str) -> str:
    """Return the column to sort by: a numeric column of that name, or `best.<metric>`; by default the sweep's score."""
    if metric is None and (column := score_column(index)) is not None:
        return column
    if metric in index.columns and pd.api.types.is_numeric_dtype(index[metric]):
        return str(metric)
    columns = [str(name) for name in index.columns if str(name).startswith(METRIC_PREFIXES)]
    wanted = metric or _first(index, "objective.metric")
    rule = _first(index, "objective.at") or At.BEST_PER_SEED.value
    judged = {At.FINAL: "final", At.BEST: "absolute"}.get(At(rule), "best" if rule == At.BEST_PER_SEED else "last")
    prefixes = dict.fromkeys((judged, "last", "best", "absolute"))
    for name in (f"{prefix}.{wanted}" for prefix in prefixes):
        if name in columns:
            return str(name)
    if not columns:
        raise RecordError(
            f"{folder}: no evaluations yet ({_states(index)}); wait for one, then make collect SWEEP={folder}"
        )
    known = sorted({name.split(".", 1)[1] for name in columns})
    raise RecordError(f"{folder}: no metric {wanted!r} in the index; use one of {', '.join(known)}")


def _first(index: pd.DataFrame, column: str) -> str | None:
    values = index[column].dropna().tolist() if column in index else []
    return str(values[0]) if values else None


def _states(index: pd.DataFrame) -> str:
    counts = index["state"].value_counts()
    counted = [f"{counts[state.value]} {state.value}" for state in State if state.value in counts]
    return f"{len(index)} trials ({', '.join(counted)})" if counted else "no trials"


_MOST_GROUPS: Final = 4
"""The number of groups of trials for which importances are printed."""
_MOST_SHARES: Final = 4


def _say_more(index: pd.DataFrame, folder: str) -> None:
    """Print the order of the algorithms if there are several, and the most important hyperparameters."""
    found = leaders_of(index)
    for scenario, of_scenario in found.groupby("scenario", sort=False) if len(found) else ():
        if len(of_scenario) > 1:
            seeds = of_scenario["seeds"].iloc[0]
            names = [
                f"{row.algorithm} {row.score:.5g}{_beware(bool(row.feasible), bool(row.provisional))}"
                for row in of_scenario.itertuples()
            ]
            say(f"{scenario}: best configurations of {', then '.join(names)} ({seeds} seeds)")
    place = as_folder(folder)
    place = place.parent if place.suffix == ".parquet" else place
    if not store_of(place).is_file(place / MANIFEST_FILE):
        return
    manifest, rows = read_manifest(place), without_copies(searched(index))
    groups = rows[["algorithm", "scenario"]].dropna().drop_duplicates().to_numpy().tolist()
    if manifest.scenario_mode in (MEAN_OVER_SCENARIOS, SCENARIO_AXIS):
        groups = [[algorithm, EVERY_SCENARIO] for algorithm in dict.fromkeys(algorithm for algorithm, _ in groups)]
    for algorithm, scenario in groups[:_MOST_GROUPS]:
        one = importance_in(rows, manifest, algorithm, scenario)
        averaged = "over scenarios" if manifest.scenario_mode == MEAN_OVER_SCENARIOS else "in all scenarios"
        where = averaged if scenario == EVERY_SCENARIO else scenario
        shares = ", ".join(f"{key.removeprefix('system.')} {share:.0%}" for key, share in one.shares.items() if share)
        if shares:
            first = ", ".join(shares.split(", ")[:_MOST_SHARES])
            say(f"{algorithm} {where}: importance ({one.evaluator}): {first}{f'; {one.why}' if one.why else ''}")


def _beware(feasible: bool, provisional: bool) -> str:
    words = [*([] if feasible else ["breaks a constraint"]), *(["provisional"] if provisional else [])]
    return f" ({', '.join(words)})" if words else ""


def _print_index(index: pd.DataFrame, column: str, mode: str, top: int, folder: str) -> None:
    chosen = best_rows(index, column, mode, top)
    varied = [name for name in hyperparameter_columns(index) if index[name].nunique(dropna=False) > 1]
    known = [name for name in ("algorithm", "scenario", *SCORES, *JUDGED) if name in index]
    judged = [name for name in known if index[name].nunique() > 1]
    judged = [name for name in judged if name not in SCORES or not index[name].equals(index[column])]
    judged += [name for name in _FRESH if name in index and index[name].fillna(0).ne(0).any()]
    shown = ["trial_id", "state", column, *judged, "best_step", "env_steps", "steps_per_second", *varied]
    shown = list(dict.fromkeys(shown))
    rows = [
        [str(place), *(_format(row[name]) for name in shown)] for place, (_, row) in enumerate(chosen.iterrows(), 1)
    ]
    headings = ["#", *(name.removeprefix("system.") for name in shown)]
    fixed = headings.index("state") + 2
    rules = ", ".join(sorted(set(index["objective.at"].dropna()))) if "objective.at" in index else At.BEST_PER_SEED
    title = f"{_states(index)}, by {column} ({mode}{f'; {rules}' if rules and column in SCORES else ''})"
    print_table(headings, rows, left=("trial_id", "state", "algorithm"), spare=headings[fixed:], title=title)
    if column in SCORES:
        if (note := settling_note(searched(index))) is not None:
            say(f"{note}.")
        for sentence in provisional_notes(searched(index)):
            say(sentence)
        reused = index["test_seeds_reused"].fillna(False) if "test_seeds_reused" in index else pd.Series(dtype=bool)
        if reused.any():
            ids = ", ".join(index.loc[reused.astype(bool), "trial_id"])
            say(f"Found after their test seeds had been seen, so their fresh scores may be too high: {ids}.")
        _say_more(index, folder)
    if len(chosen) < min(top, len(index)):
        say(f"{int(index[column].isna().sum())} trials have no {column}.")


def _format(value: Any) -> str:
    if pd.isna(value):
        return ""
    return f"{value:.5g}" if isinstance(value, float) else str(value)
