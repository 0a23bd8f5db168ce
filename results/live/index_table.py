"""A live table of a sweep in the terminal, from its index alone.

The sweep's driver rewrites the index every half minute; the table is drawn again when the index has changed.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, Final

import pandas as pd
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from jax_party.errors import RecordError
from jax_party.store.storage import store_of
from jax_party.trial.states import FINISHED, State
from results.collector.index_columns import INDEX_FILE, hyperparameter_columns
from results.collector.ranking import OVER_SCENARIOS, best_rows, mode_of, provisional_notes, score_column, searched
from results.tables import load_index

MAX_ROWS: Final = 25
_WIDE: Final = 100
"""The terminal width, in characters, below which the table drops optional columns."""
_STYLES: Final = {"RUNNING": "cyan", "COMPLETE": "green", "FAILED": "red", "PRUNED": "yellow"}
_ORDER: Final = [State.RUNNING, State.FAILED, State.COMPLETE, State.PRUNED, State.PENDING]


class IndexWatch:
    """A sweep's index, read again when it changes."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._mark: tuple[str, float] | None = None
        self._read_at = 0.0
        self.index = pd.DataFrame()

    def look(self) -> bool:
        """Read the index if it has changed; return whether it has.

        Raises:
          RecordError: there is no index, it has no rows, or it cannot be read.
        """
        mark = self._look_at_file()
        if mark is not None and self._mark is not None and mark[0] == self._mark[0]:
            return False
        self.index = load_index(self._folder)
        if self.index.empty:
            raise RecordError(f"{self._folder}: no trials in the index; run some: make resume SWEEP={self._folder}")
        self._mark = mark
        return True

    @property
    def age_s(self) -> float:
        """Seconds since the index was written."""
        return 0.0 if self._mark is None else max(0.0, time.time() - self._mark[1])

    @property
    def over(self) -> bool:
        """Whether every trial has ended."""
        return bool(self.index["state"].isin([str(state) for state in FINISHED]).all())

    def _look_at_file(self) -> tuple[str, float] | None:
        """Return the file's version tag and the time of its last write; None if there is no file."""
        file = self._folder / INDEX_FILE
        found = store_of(file).stamp(file)
        return None if found is None else (found.tag, time.time() - found.age_s)


def render(index: pd.DataFrame, age_s: float, width: int = 200, max_rows: int = MAX_ROWS) -> Group:
    """Render the table: the best trial, running trials, and others while there is room."""
    shown = _chosen(index, max_rows)
    over_scenarios = OVER_SCENARIOS in index and index[OVER_SCENARIOS].notna().any()
    bounded = "objective.feasible" in index and not index["objective.feasible"].fillna(True).all()
    names = [name for name in hyperparameter_columns(index) if index[name].nunique(dropna=False) > 1]
    names = names[: max(0, (width - 90) // 14)]
    places = [name for name in ("algorithm", "scenario") if width >= _WIDE or index[name].nunique() > 1]
    title = f"{_first(index, 'sweep') or 'run'}: {_counts(index)}; the index is {age_s:.0f} s old"
    table = Table(title=title, title_justify="left")
    metric = _first(index, "objective.metric") or "objective"
    scores = {metric: "objective.value"} | ({"over scenarios": OVER_SCENARIOS} if over_scenarios else {})
    scores |= {"keeps bounds": "objective.feasible"} if bounded else {}
    speed = ["steps/s"] if width >= _WIDE else []
    for heading in ("trial", *places):
        table.add_column(heading, no_wrap=True)
    for heading in (*(name.rpartition(".")[2] for name in names), "state", "progress", *scores, *speed):
        # Wrap headings before numbers.
        table.add_column(heading.replace("_", " "), justify="left" if heading == "state" else "right", min_width=8)
    for place, row in enumerate(shown.to_dict("records")):
        state = str(row["state"])
        cells = [_text(row[name]) for name in ("number", *places)]
        cells += [_text(row[name]) for name in names]
        values: list[Text | str] = [
            Text(state, _STYLES.get(state, "")),
            _progress(row),
            *(_text(row[column]) for column in scores.values()),
            *([_text(row["steps_per_second"])] if speed else []),
        ]
        table.add_row(*cells, *values, style="bold" if place == 0 and _is_best(row) else None)
    hidden = len(index) - len(shown)
    notes = [*([f"… {hidden} more"] if hidden else []), *provisional_notes(searched(index))]
    return Group(table, Text("\n".join(notes)))


def _is_best(row: Any) -> bool:
    """Return whether the first row has a score and does not break a constraint."""
    return bool(pd.notna(row["objective.value"])) and row.get("objective.feasible") is not False


def _chosen(index: pd.DataFrame, max_rows: int) -> pd.DataFrame:
    """Return the best trial, then the rest by `_ORDER` of their states, best first within each state."""
    mode, of_search = mode_of(index), searched(index)
    column = score_column(of_search)
    ranked = of_search.head(0) if column is None else best_rows(of_search, column, mode, len(index))
    others = index.drop(ranked.index).sort_values("objective.value", ascending=mode == "min", kind="stable")
    best, rest = ranked.head(1), pd.concat([ranked.iloc[1:], others])
    places = {str(state): place for place, state in enumerate(_ORDER)}
    rest = rest.assign(_place=rest["state"].map(places)).sort_values("_place", kind="stable")
    return pd.concat([best, rest[index.columns]]).head(max_rows)


def _counts(index: pd.DataFrame) -> str:
    counts = index["state"].value_counts()
    return ", ".join(f"{counts[str(state)]} {str(state).lower()}" for state in _ORDER if str(state) in counts)


def _first(index: pd.DataFrame, column: str) -> str | None:
    values = index[column].dropna().tolist() if column in index else []
    return str(values[0]) if values else None


def _progress(row: Any) -> str:
    if pd.isna(row["env_steps"]) or pd.isna(row["total_steps"]) or not row["total_steps"]:
        return ""
    return f"{100 * row['env_steps'] / row['total_steps']:.0f} %"


def _text(value: Any) -> str:
    if pd.isna(value):
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if not isinstance(value, float):
        return str(value)
    return f"{value:.4g}" if abs(value) < 10_000 else f"{value:.0f}"


def watch(folder: Path, console: Console) -> None:
    """Show the table until every trial has ended; if the console is not a terminal, print it after each change.

    Raises:
      RecordError: there is no index, or it cannot be read.
    """
    seen = IndexWatch(folder)
    seen.look()
    every_s = store_of(folder).look_every_s
    if not console.is_terminal:
        console.print(render(seen.index, seen.age_s, console.width))
        while not seen.over:
            time.sleep(every_s)
            if seen.look():
                console.print(render(seen.index, seen.age_s, console.width))
        return
    with Live(console=console, get_renderable=lambda: render(seen.index, seen.age_s, console.width)) as live:
        while not seen.over:
            time.sleep(every_s)
            seen.look()
        live.refresh()
