"""Add configurations to a sweep that has been planned or has ended."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from rich.console import Console

from jax_party.errors import SweepError
from jax_party.store.storage import store_of
from jax_party.trial.manifest import CLAIM_FILE, SweepManifest, write_manifest
from jax_party.trial.states import State
from launcher.ask.choices import Scheduler, Search
from launcher.ask.quantities import parse_budget
from launcher.ask.requested import ExtendOptions
from launcher.commands.opening import crew_for, drive_alone, read_sweep
from launcher.commands.resume import show_resume
from launcher.plan.numbers import check_number
from launcher.plan.read import study_from_manifest
from launcher.plan.write import check_plan, draw_plan

if TYPE_CHECKING:
    from launcher.plan.sweep import Sweep


def extended(sweep: Sweep, samples: int) -> SweepManifest:
    """Return the sweep's manifest with `samples` more configurations for each algorithm and scenario.

    A longer draw starts with the shorter one, so existing trials stay unchanged.

    Raises:
      SweepError: the sweep cannot be extended, or its space has no more configurations.
    """
    manifest = sweep.manifest
    if store_of(sweep.folder).is_file(sweep.folder / CLAIM_FILE):
        raise SweepError(
            f"{sweep.folder}: has claims on its {manifest.num_trials} trials; sweep anew with more: make claim …"
        )
    if manifest.search == Search.GRID:
        raise SweepError(
            f"{sweep.folder}: SEARCH=grid has a trial for every point; sweep a larger grid with make sweep SPACE=…"
        )
    if manifest.scheduler in (Scheduler.PBT, Scheduler.PB2):
        raise SweepError(
            f"{sweep.folder}: the trials of SCHEDULER={manifest.scheduler} train together from the start; begin a new "
            "sweep with more SAMPLES"
        )
    study = study_from_manifest(sweep.folder, manifest)
    before = manifest.samples or len(sweep.searched) // study.round_size
    check_number((before + samples) * study.round_size, before + samples)
    if Search(manifest.search).learns:
        num_trials = (before + samples) * study.round_size
    else:
        trials = draw_plan(study, before + samples)
        num_trials = len(trials)
        if num_trials <= manifest.num_trials:
            raise SweepError(
                f"SAMPLES={samples}: the space of {sweep.folder} has no more configurations than its "
                f"{manifest.num_trials} trials"
            )
        check_plan(study, trials[manifest.num_trials :])
    return dataclasses.replace(manifest, samples=before + samples, num_trials=num_trials)


__all__ = ["extended"]


def extend(options: ExtendOptions, console: Console) -> int:
    """Add configurations to a sweep and run them."""
    from launcher.drive.run import check_budget

    asked = options.resume
    sweep = read_sweep(asked.folder, asked)
    manifest = extended(sweep, options.samples)

    def take_up() -> None:
        check_budget(sweep, budget)
        write_manifest(sweep.folder, manifest)
        sweep.manifest = manifest
        sweep.complete_plan()
        sweep.set_back([State.RUNNING])
        show_resume(sweep.remaining, len(sweep.records), crew.workers, sweep.folder, console)

    crew = crew_for(sweep, asked)
    budget = parse_budget(asked.budget) if asked.budget else manifest.budget
    return drive_alone(sweep, crew, console, budget, take_up)
