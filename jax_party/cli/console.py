"""The terminal output of a single run: a header, a progress bar, a table of results."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from jax_party.config import Budget
from jax_party.engines import Outline
from jax_party.trial.record import TrialRecord


class RunConsole:
    """The output of one run; silent when `enabled` is false."""

    def __init__(self, enabled: bool) -> None:
        self._console = Console(quiet=not enabled, highlight=False)

    def header(self, outline: Outline, record: TrialRecord, folder: str) -> None:
        """Print what is about to run, and where its files go."""
        last = record.seed + record.num_seeds - 1
        seeds = f"seed {record.seed}" if record.num_seeds == 1 else f"seeds {record.seed} to {last}, each"
        budget = outline.budget
        self._console.print(
            f"[bold]{record.algorithm}[/bold] on {record.environment}/{record.scenario}, {seeds}: "
            f"{budget.total_steps:,} steps in {budget.num_evaluations} evaluations"
        )
        note = budget.note(outline.num_evaluation)
        if note:
            self._console.print(f"note: {note}")
        self._console.print(f"folder: {folder}", soft_wrap=True)

    def say(self, line: str) -> None:
        """Print one line."""
        self._console.print(line, markup=False, soft_wrap=True)

    @contextmanager
    def progress(self, budget: Budget, done: int) -> Iterator[Any]:
        """Show a progress bar over evaluation periods; yield a function to call with each period's result."""
        columns = (
            TextColumn("training"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn(),
            TextColumn("{task.fields[status]}"),
        )  # fmt: skip
        with Progress(*columns, console=self._console) as progress:
            task = progress.add_task("training", total=budget.num_evaluations, completed=done, status="compiling")

            def update(result: Mapping[str, Any]) -> None:
                status = f"return {result['episode_return']:.3f}  {result['steps_per_second']:,.0f} steps/s"
                progress.update(task, completed=result["evaluation"], status=status)
                if not self._console.is_terminal:
                    progress.console.print(f"step {result['env_steps']:>12,}  {status}")

            yield update

    def results(self, record: TrialRecord, last: Mapping[str, Any]) -> None:
        """Print the table of results."""
        absolute, final = record.absolute_metrics or {}, record.final_metrics or {}
        headings = ("metric", "last evaluation", "final (last parameters)", "absolute (best parameters)")
        table = Table(*headings, title=f"{record.trial_id}")
        for name, value in last.items():
            if name in ("evaluation", "env_steps", "steps_per_second", "finished"):
                continue
            played = ["" if (one := of.get(name)) is None else f"{one:.4f}" for of in (final, absolute)]
            table.add_row(name, f"{value:.4f}", *played)
        self._console.print(table)
        self._console.print(
            f"compile time {record.compile_time_s or 0.0:.1f} s, "
            f"training {record.steps_per_second or 0.0:,.0f} steps/s, "
            f"{record.duration_s:.1f} s in total on {record.device}"
        )

    def error(self, message: str) -> None:
        """Print an error on stderr."""
        Console(stderr=True, highlight=False).print(message, markup=False, soft_wrap=True)
