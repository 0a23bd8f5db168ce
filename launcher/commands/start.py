"""Plan a sweep, write the plan, and run it."""

from __future__ import annotations

import dataclasses
from datetime import datetime

from rich.console import Console

from launcher.ask.quantities import parse_budget
from launcher.ask.requested import (
    SweepOptions,
)
from launcher.commands.claim import facts as claim_facts
from launcher.commands.claim import read_claims, write_claim
from launcher.commands.opening import check_pack, check_sweep_storage, drive_alone, find_workers_machine, read_sweep
from launcher.commands.plan_summary import facts_of, show_trials
from launcher.drive.dashboards import check_watching
from launcher.machine.crew import Crew
from launcher.plan.compose import read_study
from launcher.plan.write import check_plan, create_sweep_folder, draw_plan, sweep_name_and_folder, write_plan
from launcher.search.warm_start import check_warm_start
from launcher.show.console import show_facts


def start(options: SweepOptions, command: str, console: Console, claim: str | None = None) -> int:
    """Plan a sweep, write the plan, and run it; with a claim, write the claim beside the plan and run nothing."""
    budget = parse_budget(options.budget) if options.budget else {}
    check_watching(options.watching, options.address)
    study, samples = read_study(options)
    claims = None if claim is None else read_claims(claim, study)
    earlier = check_warm_start(study)
    check_sweep_storage(options.root, writing=not options.dry_run)
    machine = find_workers_machine(options.address, options.root, shared=options.storage is not None)
    crew = Crew.of(machine, options.workers, options.pack, study.num_devices, options.gpus_per_trial)
    check_pack(study.scheduler, crew, options.address, options.root, study.engine)
    crew = dataclasses.replace(crew, period_timeout_s=options.period_timeout)
    name, folder = sweep_name_and_folder(options, study.label, datetime.now())
    if not options.dry_run:
        name, folder = create_sweep_folder(options, study.label)
    study = dataclasses.replace(study, name=name)
    trials = () if study.search.learns else draw_plan(study, samples)
    check_plan(study, trials)
    num_trials = len(trials) or samples * study.round_size
    facts = facts_of(study, options, samples, num_trials, trials, crew, folder)
    known = {"from": earlier.describe(study)} if earlier.trials else {}
    claimed = {} if claim is None or claims is None else claim_facts(claims, claim)
    show_facts(console, f"Sweep {name}", {**facts, **known, **claimed})
    if options.dry_run:
        show_trials(trials, console)
        return 0
    write_plan(folder, study, trials, num_trials, options, command, samples)
    if claims is not None:
        write_claim(folder, claims, console)
        return 0
    return drive_alone(read_sweep(folder, options), crew, console, budget)
