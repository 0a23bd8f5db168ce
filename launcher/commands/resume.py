"""Run the remaining trials of a sweep."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from jax_party.trial.states import State
from launcher.ask.quantities import parse_budget
from launcher.ask.requested import (
    ResumeOptions,
)
from launcher.commands.opening import crew_for, drive_alone, read_sweep
from launcher.show.console import plain


def resume(options: ResumeOptions, console: Console) -> int:
    """Run the remaining trials of a sweep."""
    sweep = read_sweep(options.folder, options)

    def take_up() -> None:
        sweep.complete_plan()
        sweep.set_back([State.RUNNING, State.FAILED] if options.retry_failed else [State.RUNNING])
        show_resume(sweep.remaining, len(sweep.records), crew.workers, sweep.folder, console)

    crew = crew_for(sweep, options)
    budget = parse_budget(options.budget) if options.budget else sweep.manifest.budget
    if not options.budget and not options.retry_failed and not sweep.searching:
        budget = {}  # only tests of winners are left, and the budget does not apply to them
    return drive_alone(sweep, crew, console, budget, take_up)


def show_resume(remaining: int, known: int, workers: int, folder: Path, console: Console) -> None:
    """Print how many trials remain, how many have folders, and the number of workers."""
    plain(console, f"Resuming {folder}: {remaining} trials to run, {known} have folders, {workers} workers")
