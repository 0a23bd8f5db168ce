"""Run the best configurations of a sweep again on fresh seeds."""

from __future__ import annotations

from rich.console import Console

from jax_party.judging.seeds import fresh_seeds
from jax_party.trial.judged import contender_of
from jax_party.trial.record import TrialRecord
from jax_party.trial.states import State
from launcher.ask.requested import (
    PromoteOptions,
)
from launcher.commands.opening import crew_for, drive_alone, read_sweep
from launcher.show.console import plain


def promote(options: PromoteOptions, console: Console) -> int:
    """Run the best configurations of a sweep again on fresh seeds."""
    from launcher.commands.race import run_race
    from launcher.commands.winners import show_promotions, winners, write_promotions

    sweep = read_sweep(options.folder, options)
    crew = crew_for(sweep, options)
    if options.race is not None:
        return run_race(sweep, options, console, lambda prepare: drive_alone(sweep, crew, console, {}, prepare))
    promoted: list[TrialRecord] = []

    def choose() -> None:
        sweep.set_back([State.RUNNING])
        chosen = winners(sweep, options.top)
        promoted.extend(write_promotions(sweep, chosen, fresh_seeds(sweep.manifest.name)[: options.seeds]))
        number = len({(w.record.algorithm, contender_of(w.record)) for w in chosen})
        where = f" in {len(chosen) // number} scenarios" if sweep.manifest.scenario_mode == "mean" else ""
        plain(
            console,
            f"Promoting {number} configuration{'s' * (number != 1)}{where} of {sweep.folder}, "
            f"{options.seeds} fresh seeds each",
        )

    code = drive_alone(sweep, crew, console, {}, choose)
    if code == 0:
        show_promotions(sweep, promoted, console)
    return code
