"""Run the remaining trials of a sweep folder; a new sweep and a stopped one are handled alike."""

from __future__ import annotations

import importlib
import logging
import shutil
import sys
import threading
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from rich.console import Console

from jax_party.errors import SweepError
from jax_party.store.files import write_bytes_atomically
from jax_party.store.protocol import FolderHeld
from jax_party.store.retry import patiently
from jax_party.store.scratch import make_scratch
from jax_party.store.storage import store_of
from jax_party.trial import outcome
from jax_party.trial.states import FINISHED, State
from launcher.ask.experiment_factory import chosen_experiment
from launcher.drive.collection import BackgroundCollector, collect
from launcher.drive.dashboards import callbacks, dashboard_lines, ray_settings
from launcher.drive.deferred_writes import DeferredWrites
from launcher.drive.interrupt import Interrupt, Interrupted
from launcher.drive.passes import all_passes
from launcher.drive.spending import Spending
from launcher.drive.stalled_workers import StalledWorkers
from launcher.drive.standby import StandbyWorker, ask_ray
from launcher.drive.tune import run_in_tune
from launcher.machine.crew import Crew
from launcher.machine.join import runtime_env
from launcher.machine.preloading import Preloading
from launcher.machine.ray_session import start_ray, stop_ray
from launcher.plan.fixed_ranks import note_of_trials
from launcher.plan.sweep import Sweep
from launcher.show.console import make_display, plain, show_report
from launcher.show.progress import Progress
from launcher.show.ranking import rank

LOG_FILE = "sweep.log"
MAX_RAY_REASON = 300
ALL_FAILED = 1
LEFT_OVER = 3
logger = logging.getLogger(__name__)


def run_sweep(sweep: Sweep, crew: Crew, console: Console, budget: Mapping[str, float]) -> int:
    """Run every remaining trial, then collect and report.

    Args:
      sweep: the sweep to run.
      crew: the workers that run it.
      console: where progress is shown.
      budget: kind -> limit on what the sweep may spend.

    Returns:
      The exit code: 0 on success; 1 if every trial failed; 3 if trials remain although the budget is not spent;
      128 plus the signal's number if the sweep was stopped.

    Raises:
      SweepError: the budget is spent already.
    """
    spending = Spending(sweep.folder, budget, crew.workers * crew.needs.devices_held(crew.machine))
    progress = make_progress(sweep)
    progress.budget = spending.describe
    spending.update(progress.steps())
    if sweep.remaining:
        _refuse_spent(sweep, spending)
    with Interrupt() as interrupt:
        if sweep.remaining:
            _run_trials(sweep, crew, console, progress, interrupt, spending)
        else:
            plain(console, f"Sweep {sweep.manifest.name}: nothing left to run")
        problem = collect(sweep.folder)
    if problem:
        plain(
            console,
            f"The tables could not be written: {problem}; `python -m results.collect {sweep.folder}` tries again",
        )
    if interrupt.signal is not None:
        plain(console, f"Stopped. Finish it with: make resume SWEEP={sweep.folder}")
        return 128 + interrupt.signal
    spent = _spent(sweep, spending)
    if sweep.remaining and spent is not None:
        plain(console, f"The budget is spent ({spent}). Go on with: make resume SWEEP={sweep.folder} BUDGET=…")
    code = _report(sweep, progress, console)
    for line in sweep.draws.describe():
        plain(console, line)
    if sweep.remaining and spent is None:
        plain(
            console,
            f"Not ended: {sweep.remaining} of {sweep.planned} trials; {sweep.folder / LOG_FILE} says why. Go on with: "
            f"make resume SWEEP={sweep.folder}",
        )
        return LEFT_OVER
    return code


def check_budget(sweep: Sweep, budget: Mapping[str, float]) -> None:
    """Check that some budget is left before a sweep gets more trials.

    Raises:
      SweepError: the budget is spent already.
    """
    spending = Spending(sweep.folder, budget, 0.0)
    spending.update(make_progress(sweep).steps())
    _refuse_spent(sweep, spending, more=True)


def _refuse_spent(sweep: Sweep, spending: Spending, more: bool = False) -> None:
    spent = _spent(sweep, spending, more)
    if spent is not None:
        raise SweepError(
            f"BUDGET: is spent already ({spent}); give a larger one: make resume SWEEP={sweep.folder} BUDGET=…"
        )


def _spent(sweep: Sweep, spending: Spending, more: bool = False) -> str | None:
    """Describe which limit is spent, or return None; a budget of trials does not count tests of winners.

    Args:
      sweep: the sweep.
      spending: its budget.
      more: whether the search is about to get more trials.
    """
    ended = sum(record.state in FINISHED for record in sweep.searched)
    if spending.reason is None and (more or sweep.searching) and spending.allowed_trials(ended) == 0:
        return f"trials {ended} of {spending.limits['trials']:g}"
    return spending.reason


def make_progress(sweep: Sweep) -> Progress:
    """Return a progress that already contains every trial with a folder."""
    manifest = sweep.manifest
    progress = Progress(
        manifest.name, manifest.objective, sweep.planned,
        scenario_mode=manifest.scenario_mode, scenarios=manifest.scenarios,
    )  # fmt: skip
    known = list(sweep.records.values())
    found = store_of(sweep.folder).each(lambda one: outcome.so_far(sweep.folder / one.trial_id, one), known)
    for record, facts in zip(known, found, strict=True):
        progress.add(record, *facts)
    return progress


def _run_trials(
    sweep: Sweep, crew: Crew, console: Console, progress: Progress, interrupt: Any, spending: Spending
) -> None:
    # Load Tune's slowest import while Ray's processes start; not Ray itself, which the main thread is importing.
    loading = threading.Thread(target=importlib.import_module, args=("pandas",))
    loading.start()
    log = _log_file(sweep.folder)
    # With packs each trial has its own small process besides the worker; that one needs nothing preloaded.
    engine, several = sweep.manifest.engine, bool(sweep.address) or crew.shared
    alone = None if several else Preloading(chosen_experiment(), crew.cpu_devices, engine)
    try:
        ray = _begin_ray(sweep, crew, log, alone)
    finally:
        loading.join()
    for line in dashboard_lines(ray, sweep.watching, sweep.address):
        plain(console, line)
    others = callbacks(sweep.watching, sweep.address, sweep.folder, progress)
    from launcher.drive.trial_events import SweepCallback
    from launcher.machine.nodes import Nodes

    nodes = Nodes(crew) if sweep.address else None
    if alone is not None:
        alone.wait(crew.processes(sweep.remaining))
    interrupt.install()
    writes = DeferredWrites()
    standby = None if alone is None else StandbyWorker(ask_ray)
    try:
        display = make_display(console, progress)
        with ExitStack() as stack:
            stack.enter_context(BackgroundCollector(sweep.folder))
            stack.enter_context(display)
            tested = sum(r.promoted_from is not None and r.state in FINISHED for r in sweep.records.values())
            for part in all_passes(sweep, progress, crew.trials):
                counts = progress.snapshot().counts
                ended = sum(counts[state] for state in FINISHED) - tested
                allowed = None if part.tests else spending.allowed_trials(ended)
                if spending.reason is None and allowed != 0:
                    stalled = StalledWorkers(crew.period_timeout_s, ray.kill)
                    callback = SweepCallback(
                        sweep.folder, progress, display, interrupt, part.reason, spending, writes, stalled, standby
                    )
                    run_in_tune(sweep, crew, part, callback, others, spending, allowed, nodes)
    except Interrupted:
        pass
    finally:
        stop_ray(ray, keep_logs=sys.exc_info()[0] is not None or progress.troubled)
        if alone is not None:
            alone.finish()
        writes.finish(lambda: interrupt.signal is not None)
        spending.write()
        _keep_log(log, sweep.folder)
        patiently()(set_back_running, sweep)


def _begin_ray(sweep: Sweep, crew: Crew, log: Path, alone: Preloading | None) -> Any:
    """Start Ray or join a cluster, and return the `ray` module.

    Raises:
      SweepError: Ray cannot be started or joined; the plan stays.
    """
    sent = runtime_env() if sweep.address else None
    try:
        settings = ray_settings(sweep.watching)
        return start_ray(crew, log, sweep.remaining, alone, sweep.address, sent, settings)
    except Exception as error:  # Ray raises many types, its own and its dependencies'
        _keep_log(log, sweep.folder)
        reason = " ".join(str(error).split())[:MAX_RAY_REASON] or type(error).__name__
        raise SweepError(
            f"{sweep.folder}: Ray cannot be started ({reason}); mend that, then: make resume SWEEP={sweep.folder}"
        ) from error


def set_back_running(sweep: Sweep) -> None:
    """Set RUNNING trials back to PENDING, because no worker has them any more."""
    sweep.records = Sweep.read(sweep.folder).records
    try:
        sweep.set_back([State.RUNNING], stopped=True)
    except FolderHeld as error:  # a worker that does not die; resume sets its trial back
        logger.warning("%s", error)


def _log_file(folder: Path) -> Path:
    """Return the path of the sweep's log; for a sweep on remote storage, a local file until the sweep ends."""
    return (store_of(folder).on_disk(folder) or make_scratch("log")) / LOG_FILE


def _keep_log(log: Path, folder: Path) -> None:
    """Append a local log to the one on remote storage, and remove the local one."""
    if log == folder / LOG_FILE:
        return
    there = store_of(folder).read_version(folder / LOG_FILE)
    new = log.read_bytes() if log.exists() else b""
    write_bytes_atomically(folder / LOG_FILE, (there.content if there else b"") + new)
    shutil.rmtree(log.parent)


def _report(sweep: Sweep, progress: Progress, console: Console) -> int:
    """Print the results and return the exit code: 1 if every trial failed, else 0."""
    snapshot = progress.snapshot()
    scored = [record for record in sweep.searched if record.env_steps and record.state is not State.FAILED]
    ranks = note_of_trials(sweep.folder, sweep.records.values())
    show_report(console, snapshot, rank(sweep.folder, sweep.manifest, scored), sweep.folder, ranks)
    failed = snapshot.counts[State.FAILED]
    return ALL_FAILED if failed and failed == len(snapshot.rows) else 0
