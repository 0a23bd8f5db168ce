"""Run what is left of a sweep folder: the same for a new sweep and for one that was stopped."""

from __future__ import annotations

import dataclasses
import importlib
import json
import logging
import os
import random
import shutil
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from jax_party.engines import get_engine
from jax_party.errors import RecordError, SweepError
from jax_party.store import storage
from jax_party.store.files import write_bytes_atomically
from jax_party.store.locks import FolderHeld, lock_folder
from jax_party.store.retry import patience_s, patiently
from jax_party.store.scratch import make_scratch
from jax_party.trial.draws import Draws
from jax_party.trial.folder import change_record, read_config, read_record, trial_folders
from jax_party.trial.manifest import MANIFEST_FILE, SweepManifest, read_manifest
from jax_party.trial.provenance import current_provenance, utc_timestamp
from jax_party.trial.record import RECORD_FILE, TrialRecord
from jax_party.trial.states import FINISHED, State
from launcher.ask.experiment import chosen_experiment
from launcher.ask.options import Scheduler, Search, Watching
from launcher.drive.collection import BackgroundCollector, collect
from launcher.drive.dashboards import callbacks, dashboard_lines, ray_settings
from launcher.drive.deferred import Notes
from launcher.drive.interrupt import Interrupt, Interrupted
from launcher.drive.overdue import Overdue
from launcher.drive.spending import Spending
from launcher.drive.standby import SpareWorker, ask_ray
from launcher.machine.join import our_versions, runtime_env
from launcher.machine.preloading import Preloading
from launcher.machine.resources import Crew, start_ray, stop_ray
from launcher.plan import outcome
from launcher.plan.fixed_ranks import note_of_trials
from launcher.plan.read import study_from_manifest
from launcher.plan.study import SCENARIO_AXIS, PlannedTrial, Study
from launcher.plan.write import complete_plan
from launcher.show.console import make_display, plain, show_report
from launcher.show.progress import Progress
from launcher.show.ranking import rank
from launcher.work.watchdog import Watchdog
from sweeps.space import ScenarioMode

LOG_FILE = "sweep.log"
MAX_FAILURES = 2
DYING_WORKER_S = 30.0
STORING_S = 60
MAX_RAY_REASON = 300
ALL_FAILED = 1
LEFT_OVER = 3
KEPT_LEARNERS = 3
"""Of each trial of a population: as many as the others may still take over."""

logger = logging.getLogger(__name__)


@dataclass
class Sweep:
    """A sweep folder as its driver sees it."""

    folder: Path
    manifest: SweepManifest
    records: dict[str, TrialRecord]
    address: str | None = None
    watching: Watching = field(default_factory=Watching)
    draws: Draws = field(default_factory=Draws)

    @classmethod
    def read(cls, folder: Path) -> Sweep:
        """Read the manifest and every trial's record.

        Raises:
          SweepError: it is no sweep's folder, or something in it cannot be read.
        """
        try:
            storage.check(folder)
            if not storage.is_file(folder / MANIFEST_FILE):
                raise SweepError(f"{folder}: no sweep's folder ({MANIFEST_FILE} is missing); give the path of one")
            manifest = read_manifest(folder)
            found = storage.each(read_record, trial_folders(folder), storage.is_remote(folder))
            draws = Draws.read(folder)
        except RecordError as error:
            raise SweepError(str(error)) from error
        by_id = {item.trial_id: item for item in sorted(found, key=lambda item: item.number)}
        draws.forget_missing(by_id)
        return cls(folder, manifest, by_id, draws=draws)

    @property
    def unfinished(self) -> list[TrialRecord]:
        """Trials to run: those that had begun come first, then by compiled program, in the plan's order otherwise."""
        left = [record for record in self.records.values() if record.state not in FINISHED]
        keys = self._static_keys(left)
        programs = {record.trial_id: _program_of(record, keys[record.algorithm]) for record in left}
        first = {program: number for number, program in reversed(list(enumerate(programs.values())))}
        return sorted(left, key=lambda r: (r.env_steps == 0, first[programs[r.trial_id]], r.number))

    def _static_keys(self, trials: Sequence[TrialRecord]) -> dict[str, set[str]]:
        """The keys, by algorithm, of which every value has a compiled program of its own."""
        first = {record.algorithm: record.trial_id for record in reversed(trials)}
        engine = get_engine(self.manifest.engine)
        return {
            algorithm: set(engine.static_names(engine.parse(read_config(self.folder / trial_id))))
            for algorithm, trial_id in first.items()
        }

    @property
    def searched(self) -> list[TrialRecord]:
        """The trials of the search itself, those that were promoted left out."""
        return [record for record in self.records.values() if record.promoted_from is None]

    @property
    def undrawn(self) -> int:
        """How many trials of the search may still be drawn: draws that no trial was made for are not among them."""
        return max(0, self.manifest.num_trials - len(self.draws) - len(self.searched))

    @property
    def searching(self) -> bool:
        """Whether a trial of the search itself is still to be run or drawn."""
        return self.undrawn > 0 or any(record.state not in FINISHED for record in self.searched)

    @property
    def planned(self) -> int:
        """Trials in all, those not yet drawn among them."""
        return len(self.records) + self.undrawn

    @property
    def remaining(self) -> int:
        """Trials still to run, those not yet drawn among them."""
        left = sum(record.state not in FINISHED for record in self.records.values())
        return left + self.planned - len(self.records)

    def evaluations(self, trials: Iterable[TrialRecord]) -> list[list[outcome.Evaluation]]:
        """The recorded evaluations of each; none of those that have not begun, which are not looked for."""

        def read(record: TrialRecord) -> list[outcome.Evaluation]:
            return (
                outcome.evaluations(self.folder / record.trial_id, record)
                if record.attempts or record.env_steps
                else []
            )

        return storage.each(read, trials, storage.is_remote(self.folder))

    def complete_plan(self) -> None:
        """Write what a driver that was killed while planning did not; searchers that learn plan one by one."""
        if not Search(self.manifest.search).learns and len(self.searched) < self.manifest.num_trials:
            complete_plan(self.folder, self.manifest)
            self.records = Sweep.read(self.folder).records

    def set_back(self, states: Sequence[State], stopped: bool = False) -> list[str]:
        """Make trials in these states PENDING; the ids of those that were. Why they are tried again is noted, but
        for those that this driver was playing when it was `stopped`.

        Waits for a worker that is still dying to let go of the trial's folder; on remote storage, where a trial is
        not locked, such a worker leaves the record to whoever comes next.
        """
        remote = storage.is_remote(self.folder)
        now = storage.each(lambda trial_id: read_record(self.folder / trial_id), self.records, remote)
        changed = []
        for trial_id in [record.trial_id for record in now if record.state in states]:
            folder = self.folder / trial_id
            with nullcontext() if remote else lock_folder(folder, timeout=DYING_WORKER_S):
                if read_record(folder).state in states:
                    self.records[trial_id] = change_record(folder, lambda one: _again(one, stopped))
                    changed.append(trial_id)
        return changed


def _again(record: TrialRecord, stopped: bool) -> TrialRecord:
    """The record of a trial that no worker has, as it is to be tried again; its `error` goes into the reason."""
    reason = "its driver had died" + (f" (before that: {record.error})" if record.error else "")
    if record.state is State.FAILED:
        reason = f"was FAILED, and RETRY_FAILED was asked for: {record.error or 'for no recorded reason'}"
    retries = record.retries if stopped else (*record.retries, f"{utc_timestamp()} {reason}")
    return dataclasses.replace(record, state=State.PENDING, error=None, ended_at=None, retries=retries)


def _program_of(record: TrialRecord, static: set[str]) -> str:
    """What trials with equal compiled programs have in common."""
    axes = {
        key: value
        for key, value in record.hyperparameters.items()
        if any(key == name or key.startswith(f"{name}.") for name in static)
    }
    return json.dumps([record.algorithm, record.scenario, axes], sort_keys=True)


def run_sweep(sweep: Sweep, crew: Crew, console: Console, budget: Mapping[str, float]) -> int:
    """Run every trial that is left, then collect and report.

    Args:
      sweep: what to run.
      crew: who does the work.
      console: where progress is shown.
      budget: what the sweep may spend, by kind.

    Returns:
      The exit code: 0; 1 where every trial failed; 3 where trials are left that a budget does not hold back; 128 and
      the signal's number where it was stopped.

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
    """See that there is something left for a sweep that is to have more trials.

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
    """What is spent, in words, or None; tests of winners are none of the trials that a budget counts.

    Args:
      more: whether the search is to have more trials than it has now.
    """
    ended = sum(record.state in FINISHED for record in sweep.searched)
    if spending.reason is None and (more or sweep.searching) and spending.allowed_trials(ended) == 0:
        return f"trials {ended} of {spending.limits['trials']:g}"
    return spending.reason


def make_progress(sweep: Sweep) -> Progress:
    """Progress with every trial that has a folder in it."""
    manifest = sweep.manifest
    progress = Progress(
        manifest.name, manifest.objective, sweep.planned,
        scenario_mode=manifest.scenario_mode, scenarios=manifest.scenarios,
    )  # fmt: skip
    known = list(sweep.records.values())
    remote = storage.is_remote(sweep.folder)
    found = storage.each(lambda one: outcome.so_far(sweep.folder / one.trial_id, one), known, remote)
    for record, facts in zip(known, found, strict=True):
        progress.add(record, *facts)
    return progress


def _run_trials(
    sweep: Sweep, crew: Crew, console: Console, progress: Progress, interrupt: Any, spending: Spending
) -> None:
    # While Ray's processes start: what of Tune's takes longest to load, and nothing of Ray's, which is loading itself.
    loading = threading.Thread(target=importlib.import_module, args=("pandas",))
    loading.start()
    log = _log_file(sweep.folder)
    # With packs each trial has a process of its own, which needs none of what the worker does.
    engine, several = sweep.manifest.engine, bool(sweep.address) or crew.shared
    alone = None if several else Preloading(chosen_experiment(), crew.cpu_devices, engine)
    try:
        ray = _begin_ray(sweep, crew, log, alone)
    finally:
        loading.join()
    for line in dashboard_lines(ray, sweep.watching, sweep.address):
        plain(console, line)
    others = callbacks(sweep.watching, sweep.address, sweep.folder, progress)
    from launcher.drive.callback import SweepCallback
    from launcher.machine.nodes import Nodes

    nodes = Nodes(crew) if sweep.address else None
    if alone is not None:
        alone.wait(crew.processes(sweep.remaining))
    interrupt.install()
    notes = Notes()
    spare = None if alone is None else SpareWorker(ask_ray)
    try:
        display = make_display(console, progress)
        with ExitStack() as stack:
            stack.enter_context(BackgroundCollector(sweep.folder))
            stack.enter_context(display)
            tested = sum(r.promoted_from is not None and r.state in FINISHED for r in sweep.records.values())
            for part in _passes(sweep, progress, crew.trials):
                counts = progress.snapshot().counts
                ended = sum(counts[state] for state in FINISHED) - tested
                allowed = None if part.tests else spending.allowed_trials(ended)
                if spending.reason is None and allowed != 0:
                    overdue = Overdue(crew.period_timeout_s, ray.kill)
                    callback = SweepCallback(
                        sweep.folder, progress, display, interrupt, part.reason, spending, notes, overdue, spare
                    )
                    _tune_run(sweep, crew, part, callback, others, spending, allowed, nodes)
    except Interrupted:
        pass
    finally:
        stop_ray(ray, keep_logs=sys.exc_info()[0] is not None or progress.troubled)
        if alone is not None:
            alone.finish()
        notes.finish(lambda: interrupt.signal is not None)
        spending.write()
        _keep_log(log, sweep.folder)
        patiently()(_set_back_running, sweep)


def _begin_ray(sweep: Sweep, crew: Crew, log: Path, alone: Preloading | None) -> Any:
    """Ray, started or joined.

    Raises:
      SweepError: it cannot be; the plan stays.
    """
    sent = runtime_env() if sweep.address else None
    try:
        settings = ray_settings(sweep.watching)
        return start_ray(crew, log, sweep.remaining, alone, sweep.address, sent, settings)
    except Exception as error:  # Ray's own kinds, and whatever its parts raise
        _keep_log(log, sweep.folder)
        reason = " ".join(str(error).split())[:MAX_RAY_REASON] or type(error).__name__
        raise SweepError(
            f"{sweep.folder}: Ray cannot be started ({reason}); mend that, then: make resume SWEEP={sweep.folder}"
        ) from error


def _set_back_running(sweep: Sweep) -> None:
    """Trials that no worker has any more are PENDING."""
    sweep.records = Sweep.read(sweep.folder).records
    try:
        sweep.set_back([State.RUNNING], stopped=True)
    except FolderHeld as error:  # a worker that will not die; resume sets its trial back
        logger.warning("%s", error)


def _passes(sweep: Sweep, progress: Progress, max_concurrent: int) -> Iterator[Pass]:
    """The search, and then the tests of its winners: they play their whole budget, and tell the search nothing."""
    if sweep.searching:
        yield from search_passes(sweep, progress, max_concurrent)
    tests = [record.trial_id for record in sweep.unfinished if record.promoted_from is not None]
    if tests:
        yield Pass(tests, tests=True)


@dataclass(frozen=True)
class Pass:
    """A part of a sweep that goes to Tune at once.

    Attributes:
      ids: of the trials to play, unless a planner draws them.
      scheduler: Tune's; None for first in, first out.
      planner: draws the trials.
      values: of a population, what Tune may change, by trial id.
      group: whose trials these are, where it is those of one.
      tests: whether they are tests of winners.
    """

    ids: Sequence[str] = ()
    scheduler: Any = None
    planner: Any = None
    values: Mapping[str, Mapping[str, Any]] | None = None
    group: str | None = None
    tests: bool = False

    @property
    def reason(self) -> Callable[[str], str | None]:
        """Why the scheduler has stopped a trial, by our id."""
        reasons: Mapping[str, str] = getattr(self.scheduler, "reasons", {})
        return reasons.get


def _tune_run(
    sweep: Sweep,
    crew: Crew,
    part: Pass,
    callback: Any,
    others: Sequence[Any],
    spending: Spending,
    allowed: int | None,
    nodes: Any,
) -> None:
    """Hand trials to Tune, at most so many as are allowed, and wait; `others` are called besides `callback`."""
    from ray import tune

    from launcher.drive.controller import install_controller
    from launcher.drive.workers import SHARE, SharedWorkers
    from launcher.search.planned import InOrder
    from launcher.work.trainable import ExperimentTrainable

    install_controller()
    _keep_environment(sweep)
    worker = _worker_settings(sweep, crew)
    by_group = Scheduler(sweep.manifest.scheduler).by_group
    room, silent_s = crew.pack if by_group else crew.trials, Watchdog(crew.period_timeout_s).silent_s()
    shared = SharedWorkers(worker, crew, room, silent_s, nodes) if crew.shared else None
    callback.shared, callback.nodes = shared, nodes
    most = (shared.places_now if shared else _as_ray_has_room) if crew.follows else None
    config: dict[str, Any] = {
        "sweep": str(sweep.folder),
        "metric": sweep.manifest.objective.metric,
        "workers": shared.prefix if shared else None,
        "worker": worker,
        "failed": False,
        "population": part.values is not None,
    }
    search, number = _choose_trials(part, by_group, allowed, config, most)
    tune.run(
        ExperimentTrainable,
        name="tune",
        **_tune_storage(sweep.folder),
        config=config,
        # Whoever judges trials together, or draws them, must see them all; else Tune makes them as they are needed.
        max_concurrent_trials=None if by_group or part.planner is not None or most is not None else crew.trials,
        num_samples=number,
        stop=lambda trial_id, result: spending.reason is not None,
        search_alg=search,
        scheduler=part.scheduler or InOrder(),
        resources_per_trial={"cpu": 1 / SHARE} if shared else crew.needs.resources(crew.machine),
        checkpoint_config=tune.CheckpointConfig(num_to_keep=KEPT_LEARNERS if part.values is not None else None),
        max_failures=MAX_FAILURES,
        reuse_actors=True,
        callbacks=[callback, *others],
        verbose=0,
        raise_on_failed_trial=False,
        trial_dirname_creator=_our_id,
        trial_name_creator=_our_id,
        _remote=False,  # with ray:// Tune would move itself to the cluster
    )
    if shared:
        shared.stop()


def _keep_environment(sweep: Sweep) -> None:
    """Have Tune wait for workers that store, and give them nothing of our environment that they have not got, or must
    not be shown.
    """
    from ray.tune.execution import class_cache

    if storage.is_remote(sweep.folder):  # a worker that is let go of may still be storing a trial's last period
        os.environ["TUNE_FORCE_TRIAL_CLEANUP_S"] = str(round(patience_s()) + STORING_S)

    # Tune would put AWS's secrets where Ray shows them; each node has its own. Workers of our own Ray have all of our
    # environment, and one that asks for more of it could not be one that Ray has started already.
    class_cache.ENV_VARS_TO_PROPAGATE -= {name for name in class_cache.ENV_VARS_TO_PROPAGATE if "AWS_" in name}
    if sweep.address is None:
        class_cache.ENV_VARS_TO_PROPAGATE.clear()
        class_cache.DEFAULT_ENV_VARS.clear()


def _worker_settings(sweep: Sweep, crew: Crew) -> dict[str, Any]:
    """What `make_pack` makes a worker with."""
    settings = {
        "sweep": str(sweep.folder),
        "size": crew.pack,
        "process": crew.settings(),
        "engine": sweep.manifest.engine,
        "experiment": chosen_experiment(),
        "period_timeout_s": crew.period_timeout_s,
    }
    if sweep.address is not None:
        here = current_provenance()
        settings |= {"versions": our_versions(), "code": [here["git_sha"], here["git_dirty"]]}
    return settings


def _as_ray_has_room() -> int:
    """Where each trial takes its worker's resources, Tune asks for no more than one that has to wait for them."""
    return sys.maxsize


def _choose_trials(
    part: Pass, by_group: bool, allowed: int | None, config: dict[str, Any], most: Callable[[], int] | None
) -> tuple[Any, int]:
    """Who gives Tune its trials, and how many samples that is; what varies between them goes into `config`.

    Args:
      part: the pass.
      by_group: whether its scheduler judges all of them together.
      allowed: how many may still be played, None for all.
      config: of Tune's trials.
      most: how many may run now, where that follows a cluster.
    """
    from ray import tune

    from launcher.search.planned import PlannedTrials

    if part.planner is not None:
        part.planner.most = most or part.planner.most
        left = part.planner.remaining
        return part.planner, left if allowed is None else min(left, allowed)
    ids = list(part.ids)[:allowed]
    if not by_group:
        planned = PlannedTrials(ids, most)
        return planned, planned.remaining
    config["trial_id"] = tune.grid_search(ids)
    if part.values is not None:
        values = {trial_id: dict(part.values[trial_id]) for trial_id in ids}
        config["values"] = tune.sample_from(lambda drawn: values[drawn["trial_id"]])
    return None, 1


def _tune_storage(folder: Path) -> dict[str, Any]:
    """Where Tune keeps its own files, which workers may write, too: beside the trials."""
    if not storage.is_remote(folder):
        return {"storage_path": str(folder)}
    from pyarrow.fs import FSSpecHandler, PyFileSystem

    remote: Any = folder
    return {"storage_path": remote.path, "storage_filesystem": PyFileSystem(FSSpecHandler(remote.fs))}


def _log_file(folder: Path) -> Path:
    """The sweep's log; of a sweep on remote storage in a local folder while it runs."""
    if not storage.is_remote(folder):
        return folder / LOG_FILE
    return make_scratch("log") / LOG_FILE


def _keep_log(log: Path, folder: Path) -> None:
    """Put a log that was local behind the one on remote storage."""
    if not storage.is_remote(folder):
        return
    there = storage.read_version(folder / LOG_FILE)
    new = log.read_bytes() if log.exists() else b""
    write_bytes_atomically(folder / LOG_FILE, (there.content if there else b"") + new)
    shutil.rmtree(log.parent)


def _our_id(trial: Any) -> str:
    return str(trial.config["trial_id"])


def search_passes(sweep: Sweep, progress: Progress, max_concurrent: int) -> Iterator[Pass]:
    """The passes of the search itself, each made once those before it have ended."""
    manifest = sweep.manifest
    search, scheduler = Search(manifest.search), Scheduler(manifest.scheduler)
    if scheduler is Scheduler.FIFO and not search.learns:
        yield Pass([record.trial_id for record in sweep.unfinished if record.promoted_from is None])
        return
    study = study_from_manifest(sweep.folder, manifest)
    if not scheduler.by_group:
        planner = make_planner(sweep, study, progress, max_concurrent) if search.learns else None
        ids = [record.trial_id for record in sweep.unfinished if record.promoted_from is None]
        yield Pass(ids, make_stopping(sweep, study, scheduler, progress), planner)
        return
    groups = dict.fromkeys(f"{base.algorithm} {base.scenario}" for base in study.bases)
    for name in groups:
        ids = [
            record.trial_id
            for record in sweep.unfinished
            if record.promoted_from is None and f"{record.algorithm} {record.scenario}" == name
        ]
        part = group_pass(sweep, study, name, ids, progress, max_concurrent)
        if part.ids or (part.planner is not None and part.planner.remaining):
            yield part


def group_pass(
    sweep: Sweep, study: Study, name: str, ids: Sequence[str], progress: Progress, max_concurrent: int
) -> Pass:
    """The pass of one algorithm and scenario, whose trials a scheduler looks at together."""
    from launcher.plan.axes import seed_of
    from launcher.search import schedulers

    base = next(base for base in study.bases if f"{base.algorithm} {base.scenario}" == name)
    length = schedulers.Length(base.total_steps, base.num_evaluations)
    objective, scheduler = study.objective, study.scheduler
    seed = seed_of(study.seed, *name.encode(), len(ids))
    random.seed(seed)  # what BOHB draws from
    np.random.seed(seed)
    if not scheduler.is_population:
        planner = None
        if study.search.learns:
            (group,) = [index for index, one in enumerate(study.groups) if base in one.bases]
            planner = make_planner(sweep, study, progress, max_concurrent, [group])
        hyperband = schedulers.make_hyperband(study.search is Search.BOHB, objective.metric, objective.mode, length)
        return Pass(() if planner else ids, hyperband, planner, group=name)
    axes = study.axes_of(base)
    values = {
        trial_id: {
            axis.key: schedulers.travelling(axis, value) if scheduler is Scheduler.PB2 else value
            for axis in axes
            for value in [sweep.records[trial_id].hyperparameters[axis.key]]
        }
        for trial_id in ids
    }
    trained = max((sweep.records[trial_id].env_steps for trial_id in ids), default=0)
    own = seed_of(study.seed, *name.encode())
    population = schedulers.make_population(scheduler, objective.metric, objective.mode, length, axes, trained, own)
    return Pass(ids, population, values=values, group=name)


def make_stopping(sweep: Sweep, study: Study, kind: Scheduler, progress: Progress) -> Any:
    """ASHA or the median rule with every recorded evaluation replayed into it; None for FIFO."""
    if kind is Scheduler.FIFO:
        return None
    from launcher.search.schedulers import GroupedStopping, Length

    groups = {f"{b.algorithm} {b.scenario}": Length(b.total_steps, b.num_evaluations) for b in study.bases}
    stopping = GroupedStopping(kind, study.objective.metric, study.objective.mode, groups, progress.group_of)
    for record, evaluations in zip(sweep.searched, sweep.evaluations(sweep.searched), strict=True):
        stopping.remember(record.trial_id, evaluations)
    return stopping


def make_planner(
    sweep: Sweep, study: Study, progress: Progress, max_concurrent: int, groups: Sequence[int] | None = None
) -> Any:
    """A planner that knows every trial of the sweep, and of those that it begins from; for these groups, or all."""
    from launcher.search.planner import Planner, Told
    from launcher.search.warm_start import earlier_trials

    def write(trial: PlannedTrial) -> PlannedTrial:
        trial = dataclasses.replace(trial, trial_id=unused_id(sweep.folder, trial.trial_id))
        progress.add(patiently()(study.write, sweep.folder, trial))
        return trial

    def reached(trial_id: str) -> Told | None:
        folder = sweep.folder / trial_id
        record = patiently()(read_record, folder)
        if record.state is State.FAILED:
            return None
        found = outcome.evaluations(folder, record)
        pruned = record.state is not State.COMPLETE and record.env_steps < record.total_steps
        return Told({}, outcome.metrics(folder, record), len(found), pruned)

    def keep() -> None:
        patiently()(sweep.draws.write, sweep.folder)
        progress.planned = sweep.planned

    chosen = list(range(len(study.groups))) if groups is None else list(groups)
    return Planner(
        study,
        sweep.manifest.num_trials,
        chosen,
        earlier_trials(study),
        known_configurations(sweep, study, write),
        write,
        reached,
        max_concurrent,
        sweep.draws,
        keep,
    )


def known_configurations(sweep: Sweep, study: Study, write: Callable[[PlannedTrial], PlannedTrial]) -> list[Any]:
    """What a searcher has drawn already, by number; trials of it that a killed driver did not write are written."""
    from launcher.plan.axes import seed_of, with_absent
    from launcher.search.planner import Configuration

    of_configuration: dict[tuple[int, int], list[TrialRecord]] = {}
    for record in sorted(sweep.searched, key=lambda record: record.number):
        configuration, group = study.place(record.number)
        of_configuration.setdefault((study.first_number(configuration, group), group), []).append(record)
    for number, ids in sweep.draws.answered.items():
        if all(trial_id in sweep.records for trial_id in ids):  # else drawn by this driver, for an earlier pass
            of_configuration[number, study.place(number)[1]] = [sweep.records[trial_id] for trial_id in ids]
    known = []
    for (number, group), found in sorted(of_configuration.items()):
        values = {
            axis.name: record.hyperparameters[axis.key]
            for record in found
            for axis in study.axes_of(study.base_of(record))
        }
        if study.spec.scenario_mode is ScenarioMode.AXIS:
            values[SCENARIO_AXIS] = found[0].scenario
        values = with_absent(study.groups[group].axes, values, seed_of(study.seed, group, number))
        there = {(record.algorithm, record.scenario): record for record in found}
        trials = []
        for trial in study.trials_of(study.groups[group], number, values, found[0].seed):
            planned = there.get((trial.base.algorithm, trial.base.scenario))
            trials.append(write(trial) if planned is None else _planned(study, planned))
        ended = {record.trial_id for record in found if record.state in FINISHED}
        repeats = number in sweep.draws.answered
        known.append(Configuration(group, number, values, trials, ended=ended, repeats=repeats))
    return known


def unused_id(folder: Path, trial_id: str) -> str:
    """The id, or with `-2`, `-3`, … where another configuration's digits are the same.

    Among ten thousand trials that is a chance of one in a hundred.
    """
    count, candidate = 1, trial_id
    while storage.is_file(folder / candidate / RECORD_FILE):
        count += 1
        candidate = f"{trial_id}-{count}"
    return candidate


def _planned(study: Study, record: TrialRecord) -> PlannedTrial:
    base = study.base_of(record)
    return PlannedTrial(record.number, record.trial_id, record.seed, record.hyperparameters, base)


def _report(sweep: Sweep, progress: Progress, console: Console) -> int:
    """Print what came out."""
    snapshot = progress.snapshot()
    scored = [record for record in sweep.searched if record.env_steps and record.state is not State.FAILED]
    ranks = note_of_trials(sweep.folder, sweep.records.values())
    show_report(console, snapshot, rank(sweep.folder, sweep.manifest, scored), sweep.folder, ranks)
    failed = snapshot.counts[State.FAILED]
    return ALL_FAILED if failed and failed == len(snapshot.rows) else 0
