"""Test a sweep's claims on the seeds that were reserved before it ran."""

from __future__ import annotations

from rich.console import Console

from jax_party.errors import SweepError
from jax_party.trial.record import TrialRecord
from jax_party.trial.states import State
from launcher.ask.requested import (
    PromoteOptions,
)
from launcher.commands.claim import give_verdict, read_intact, show_verdict, write_tests
from launcher.commands.opening import crew_for, drive_alone, read_sweep
from launcher.show.console import plain


def verdict(options: PromoteOptions, console: Console) -> int:
    """Test a sweep's claims on the seeds that were reserved before it ran."""
    sweep = read_sweep(options.folder, options)
    content = read_intact(sweep.folder)
    if sweep.searching:
        raise SweepError(f"{sweep.folder}: its trials have not all ended; finish it: make resume SWEEP={sweep.folder}")
    crew = crew_for(sweep, options)
    tests: dict[tuple[str, str], TrialRecord] = {}

    def choose() -> None:
        sweep.set_back([State.RUNNING])
        tests.update(write_tests(sweep, content))
        number = content["seeds"]["number"]
        plain(console, f"Testing {len(tests)} configurations of {sweep.folder} on {number} seeds that it claimed")

    code = drive_alone(sweep, crew, console, {}, choose)
    if code == 0:
        show_verdict(give_verdict(sweep, content, tests), sweep.folder, console)
    return code
