"""A sweep's console output: a summary before it, a live table or status lines during it, and a report after it."""

from __future__ import annotations

import heapq
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from jax_party.judging.objectives import At, Objective
from jax_party.judging.standings import ahead_unsettled, why_provisional
from jax_party.store.storage import store_of
from jax_party.trial.states import FINISHED, State
from launcher.show.progress import Progress, Row, Snapshot

if TYPE_CHECKING:
    from launcher.show.ranking import Entry, Ranking

MAX_ROWS = 20
FIXED_WIDTH = 66  # width of the table without its scenario and value columns
VALUE_WIDTH = 9
LINE_EVERY_S = 10.0
REFRESH_PER_SECOND = 2.0
STYLES = {State.RUNNING: "cyan", State.COMPLETE: "green", State.FAILED: "red", State.PRUNED: "yellow"}


class Display(Protocol):
    """Shows a running sweep."""

    def __enter__(self) -> Display:
        """Start to show the sweep."""

    def __exit__(self, *_: object) -> None:
        """Show the last state and stop."""

    def tick(self) -> None:
        """Update what depends on time; called regularly."""

    def ended(self, row: Row) -> None:
        """Show that a trial has ended."""

    def retried(self, row: Row, reason: str) -> None:
        """Show that a trial is retried."""


class LiveDisplay:
    """One table that redraws itself."""

    def __init__(self, console: Console, progress: Progress) -> None:
        self._progress = progress
        self._live = Live(
            console=console, get_renderable=lambda: render(progress.snapshot(), console.width),
            refresh_per_second=REFRESH_PER_SECOND, redirect_stdout=False, redirect_stderr=False,
        )  # fmt: skip

    def __enter__(self) -> LiveDisplay:
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def tick(self) -> None:
        """Do nothing; the table redraws itself."""

    def ended(self, row: Row) -> None:
        """Do nothing; the table shows it."""

    def retried(self, row: Row, reason: str) -> None:
        """Do nothing; the table shows it."""


class LineDisplay:
    """Prints lines, for logs and pipes: one per ended or retried trial, and a status line at most every ten seconds."""

    def __init__(self, console: Console, progress: Progress, every_s: float = LINE_EVERY_S) -> None:
        self._console = console
        self._progress = progress
        self._every_s = every_s
        self._next = every_s
        self._lock = threading.Lock()

    def __enter__(self) -> LineDisplay:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def tick(self) -> None:
        """Print a status line if the last one was long enough ago."""
        elapsed = self._progress.elapsed_s
        if elapsed >= self._next:
            self._next = elapsed + self._every_s
            self._print(status_line(self._progress.snapshot()))

    def ended(self, row: Row) -> None:
        """Print how the trial ended."""
        self._print(trial_line(row, self._progress.where(row)))

    def retried(self, row: Row, reason: str) -> None:
        """Print why the trial is retried."""
        self._print(f"trial {row.number} tried again ({row.retries}): {reason}")

    def _print(self, line: str) -> None:
        with self._lock:
            plain(self._console, line)


def make_display(console: Console, progress: Progress) -> Display:
    """Return a live table on a terminal, lines elsewhere."""
    return LiveDisplay(console, progress) if console.is_terminal else LineDisplay(console, progress)


def plain(console: Console, text: str) -> None:
    """Print a line unchanged: no markup, no wrapping."""
    console.print(text, markup=False, highlight=False, soft_wrap=True)


def show_facts(console: Console, title: str, facts: Mapping[str, str]) -> None:
    """Print a heading and one line per fact."""
    plain(console, title)
    width = max(map(len, facts))
    for name, value in facts.items():
        plain(console, f"  {name:<{width}}  {value}")


def render(snapshot: Snapshot, width: int = 200, max_rows: int = MAX_ROWS) -> Group:
    """Return the live table with at most `max_rows` trials, chosen by `choose_rows`.

    Columns of sampled values that do not fit into `width` characters are left out, starting from the last.
    """
    shown = choose_rows(snapshot, max_rows)
    places = max((len(snapshot.where(row)) for row in shown), default=0)
    keys = {key: None for row in shown for key in row.hyperparameters}
    names = fitting_names(keys, width - FIXED_WIDTH - places)
    table = Table(title=status_line(snapshot), title_justify="left", expand=False)
    for heading in ("trial", "scenario"):
        table.add_column(heading, no_wrap=True)
    for name in names.values():
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("state", no_wrap=True)
    for heading in ("progress", "last", "score", "steps/s"):
        table.add_column(heading, justify="right", no_wrap=True)
    for row in shown:
        best = snapshot.best is not None and row.trial_id == snapshot.best.trial_id
        table.add_row(*_cells(row, snapshot.where(row), list(names), best), style="bold" if best else None)
    hidden = snapshot.planned - len(shown)
    return Group(table, Text(f"… {hidden} more" if hidden > 0 else ""))


def choose_rows(snapshot: Snapshot, max_rows: int) -> list[Row]:
    """Return the most important rows, sorted by number: the best, then running, failed, other ended and waiting."""
    best = snapshot.best.trial_id if snapshot.best else None
    order = {State.RUNNING: 1, State.FAILED: 2, State.COMPLETE: 3, State.PRUNED: 3, State.PENDING: 4}

    def rank(row: Row) -> tuple[int, int]:
        newest_first = -row.number if row.state in FINISHED else row.number
        return (0 if row.trial_id == best else order[row.state], newest_first)

    return sorted(heapq.nsmallest(max_rows, snapshot.rows, key=rank), key=lambda row: row.number)


def status_line(snapshot: Snapshot) -> str:
    """Return one line with the counts, the best score so far and the time left."""
    counts = snapshot.counts
    words = [f"{counts[state]} {state.value.lower()}" for state in State if counts[state]]
    best, standing = snapshot.best, snapshot.standing
    parts = [f"{snapshot.ended}/{snapshot.planned} ended ({', '.join(words)})"]
    score = standing.score if standing is not None else best.score if best is not None else None
    if best is not None and score is not None:
        of = "" if standing is None or standing.num_seeds == 1 else f", {standing.num_seeds} seeds"
        provisional = ", provisional" if standing is not None and standing.provisional else ""
        parts.append(f"best so far {snapshot.objective.metric} {score:.4g} (trial {best.number}{of}{provisional})")
    parts.append(f"{duration(snapshot.elapsed_s)} gone, ETA {duration(snapshot.eta_s)}")
    if snapshot.budget:
        parts.append(f"budget: {snapshot.budget}")
    return "; ".join(parts)


def trial_line(row: Row, where: str) -> str:
    """Describe a trial in one line; `where` is its scenario, with the algorithm if there are several."""
    values = " ".join(
        f"{name}={value_text(row.hyperparameters[key])}" for key, name in short_names(row.hyperparameters).items()
    )
    words = [f"trial {row.number} {row.state.value} {where} {values}"]
    if row.score is not None:
        words.append(f"score {row.score:.4g}")
    if row.steps_per_second:
        words.append(f"{row.env_steps:,} steps at {row.steps_per_second:,.0f}/s")
    if row.error:
        words.append(row.error)
    return "; ".join(words)


def show_report(console: Console, snapshot: Snapshot, ranking: Ranking, folder: Path, ranks: str | None = None) -> None:
    """Print the results: counts, the best of each algorithm and scenario, failures, and where the tables are.

    Args:
      console: where to print.
      snapshot: the sweep's state.
      ranking: its ranked configurations.
      folder: the sweep's folder.
      ranks: a line about scenarios whose ranks cannot change; None if there are none.
    """
    counts = snapshot.counts
    facts = {"trials": ", ".join(f"{counts[state]} {state.value}" for state in State if counts[state])}
    if ranking.groups:
        facts["judged by"] = rule_text(snapshot.objective)
    for group, entries in ranking.groups.items():
        facts |= _best_of(group, entries, snapshot.objective, len(ranking.groups) == 1)
    if ranking.warning is not None:
        facts["note"] = ranking.warning
    if ranks is not None:
        facts["ranks"] = ranks
    failed = [row for row in snapshot.rows if row.state is State.FAILED]
    facts |= {f"failed {row.number}": row.error or "for no recorded reason" for row in failed[:5]}
    if len(failed) > 5:
        facts["failed"] = f"… {len(failed) - 5} more"
    facts["folder"] = str(folder)
    if store_of(folder).is_file(folder / "index.parquet"):  # written last; `evaluations.parquet` is a folder
        facts |= {name: str(folder / name) for name in ("index.csv", "index.parquet", "evaluations.parquet")}
    show_facts(console, f"Sweep {snapshot.name}", facts)


def rule_text(objective: Objective) -> str:
    """Describe which networks are judged."""
    return f"{objective.at} ({At(objective.at).meaning})"


def _best_of(group: str, entries: Sequence[Entry], objective: Objective, alone: bool) -> dict[str, str]:
    """Describe a group's best configuration; with several objectives, the first ten of its Pareto front."""
    of_group = "" if alone else f" of {group}"
    first = entries[0].standing
    if not first.feasible:
        bounds = ", ".join(f"{name} {bound:g}" for name, bound in objective.constraints.items())
        return {f"best{of_group}": f"none of {len(entries)} meets {bounds}"}
    if len(objective.metrics) > 1:
        front = [entry for entry in entries if entry.standing.on_front]
        return {f"front{of_group} {place}": _entry_text(one, objective) for place, one in enumerate(front[:10], 1)}
    best = entries[0]
    found = {f"best{of_group}": _entry_text(best, objective)}
    values = {key: value_text(value) for key, value in best.hyperparameters.items()}
    ahead = ahead_unsettled([entry.standing for entry in entries], objective)
    more = {}
    if ahead is not None:
        text = f"{ahead.score:.6g}, but had not settled: {', '.join(ahead.trials)}"
        more = {f"ahead{of_group}": text}
    if alone:
        return {**found, "scenario": ", ".join(record.scenario for record in best.trials), **values, **more}
    text = f"{_entry_text(best, objective)} ({', '.join(f'{k}={v}' for k, v in values.items())})"
    return {f"best{of_group}": text, **more}


def _entry_text(entry: Entry, objective: Objective) -> str:
    standing = entry.standing
    numbers = ", ".join(f"{name} {standing.metrics[name]:.6g}" for name in objective.metrics)
    scenarios = len({record.scenario for record in entry.trials})
    mean = f" (mean of {scenarios} scenarios)" if scenarios > 1 else ""
    seeds = f" over {standing.num_seeds} seeds" if standing.num_seeds > 1 else ""
    provisional = ""
    if standing.provisional:
        provisional = f"; provisional: {why_provisional(standing.complete, standing.settled)}"
    return f"{numbers}{seeds}{mean}: {', '.join(record.trial_id for record in entry.trials)}{provisional}"


def short_names(hyperparameters: Mapping[str, Any]) -> dict[str, str]:
    """Return dotted key -> its last part, or the whole key if two keys share the last part."""
    last = [key.rpartition(".")[2] for key in hyperparameters]
    return {key: name if last.count(name) == 1 else key for key, name in zip(hyperparameters, last, strict=True)}


def fitting_names(hyperparameters: Mapping[str, Any], width: int) -> dict[str, str]:
    """Return the first `short_names` that fit as columns into `width` characters."""
    fitting: dict[str, str] = {}
    for key, name in short_names(hyperparameters).items():
        width -= max(len(name), VALUE_WIDTH) + 3
        if width < 0:
            break
        fitting[key] = name
    return fitting


def value_text(value: Any) -> str:
    """Format a sampled value; floats get four significant digits."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def duration(seconds: float | None) -> str:
    """Format seconds as `3:05` or `1:02:03`, or None as `?`."""
    if seconds is None:
        return "?"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def _cells(row: Row, where: str, keys: list[str], best: bool) -> list[Text]:
    state = row.state.value + (f" (try {row.retries + 1})" if row.retries and row.state not in FINISHED else "")
    texts = [
        ("★ " if best else "") + str(row.number),
        where,
        *(value_text(row.hyperparameters[key]) if key in row.hyperparameters else "" for key in keys),
    ]
    numbers = ["" if value is None else f"{value:.4g}" for value in (row.last, row.score)]
    rate = f"{row.steps_per_second:,.0f}" if row.steps_per_second else ""
    return [
        *map(Text, texts), Text(state, style=STYLES.get(row.state, "")),
        Text(f"{row.fraction:.0%}"), *map(Text, numbers), Text(rate),
    ]  # fmt: skip
