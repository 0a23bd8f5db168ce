"""Run what is left of a sweep folder: the same for a new sweep and for one that was stopped."""

from __future__ import annotations

import dataclasses
import json
import logging
import shutil
import tempfile
import uuid
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from jax_party import records, storage
from jax_party.config import make_budget, parse_config, static_names
from jax_party.errors import RecordError, SweepError
from jax_party.records import FINISHED, State, SweepManifest, TrialRecord
from launcher import outcome
from launcher.address import our_versions, runtime_env
from launcher.budget import Spending
from launcher.collection import BackgroundCollector, collect
from launcher.console import make_display, plain, show_report
from launcher.options import Scheduler, Search
from launcher.pack import chosen_experiment
from launcher.plan import PlannedTrial, Study, complete_plan, study_from_manifest
from launcher.progress import Progress
from launcher.resources import Crew, start_ray
from launcher.trainable import ExperimentTrainable, PackWorker

LOG_FILE = "sweep.log"
MAX_FAILURES = 2
DYING_WORKER_S = 30.0
ALL_FAILED = 1
SHARE = 10_000
"""Ray counts shares of a CPU in ten-thousandths."""

logger = logging.getLogger(__name__)


@dataclass
class Sweep:
    """A sweep folder as its driver sees it."""

    folder: Path
    manifest: SweepManifest
    records: dict[str, TrialRecord]
    address: str | None = None

    @classmethod
    def read(cls, folder: Path) -> Sweep:
        """Read the manifest and every trial's record.

        Raises:
          SweepError: it is no sweep's folder, or something in it cannot be read.
        """
        try:
            storage.check(folder)
            if not storage.is_file(folder / records.MANIFEST_FILE):
                raise SweepError(
                    f"{folder}: no sweep's folder ({records.MANIFEST_FILE} is missing); give the path of one"
                )
            manifest = records.read_manifest(folder)
            found = storage.each(records.read_record, records.trial_folders(folder), storage.is_remote(folder))
        except RecordError as error:
            raise SweepError(str(error)) from error
        return cls(folder, manifest, {item.trial_id: item for item in sorted(found, key=lambda item: item.number)})

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
        return {
            algorithm: set(static_names(parse_config(records.read_config(self.folder / trial_id))))
            for algorithm, trial_id in first.items()
        }

    @property
    def searched(self) -> list[TrialRecord]:
        """The trials of the search itself, those that were promoted left out."""
        return [record for record in self.records.values() if record.promoted_from is None]

    @property
    def searching(self) -> bool:
        """Whether a trial of the search itself is still to be run or drawn."""
        return len(self.searched) < self.manifest.num_trials or any(r.state not in FINISHED for r in self.searched)

    @property
    def planned(self) -> int:
        """Trials in all, those not yet drawn among them."""
        return max(len(self.searched), self.manifest.num_trials) + len(self.records) - len(self.searched)

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
        """Write what a driver that was killed while planning did not; Optuna's trials are planned one by one."""
        if self.manifest.search != Search.OPTUNA and len(self.searched) < self.manifest.num_trials:
            complete_plan(self.folder, self.manifest)
            self.records = Sweep.read(self.folder).records

    def set_back(self, states: Sequence[State]) -> list[str]:
        """Make trials in these states PENDING; the ids of those that were.

        Waits for a worker that is still dying to let go of the trial's folder; on remote storage, where a trial is
        not locked, such a worker leaves the record to whoever comes next.
        """
        remote = storage.is_remote(self.folder)
        now = storage.each(lambda trial_id: records.read_record(self.folder / trial_id), self.records, remote)
        changed = []
        for trial_id in [record.trial_id for record in now if record.state in states]:
            folder = self.folder / trial_id
            with nullcontext() if remote else records.lock_folder(folder, timeout=DYING_WORKER_S):
                if records.read_record(folder).state in states:
                    record = records.update_record(folder, state=State.PENDING, error=None, ended_at=None)
                    self.records[trial_id] = record
                    changed.append(trial_id)
        return changed


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
      The exit code: 0; 1 where every trial failed; 128 and the signal's number where it was stopped.
    """
    from launcher.callback import Interrupt

    spending = Spending(sweep.folder, budget, crew.workers * crew.needs.devices_held(crew.machine))
    progress = make_progress(sweep)
    progress.budget = spending.describe
    ended = sum(record.state in FINISHED for record in sweep.records.values())
    if sweep.remaining and (spending.update(progress.steps()) or spending.allowed_trials(ended) == 0):
        spent = spending.reason or f"trials {ended} of {budget['trials']:g}"
        raise SweepError(
            f"BUDGET: is spent already ({spent}); give a larger one: make resume SWEEP={sweep.folder} BUDGET=…"
        )
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
    if sweep.remaining:
        spent = spending.reason or f"trials {sweep.planned - sweep.remaining} of {budget.get('trials', 0):g}"
        plain(console, f"The budget is spent ({spent}). Go on with: make resume SWEEP={sweep.folder} BUDGET=…")
    return _report(sweep, progress, console)


def make_progress(sweep: Sweep) -> Progress:
    """Progress with every trial that has a folder in it."""
    manifest = sweep.manifest
    progress = Progress(manifest.name, manifest.objective, sweep.planned)
    for record, evaluations in zip(sweep.records.values(), sweep.evaluations(sweep.records.values()), strict=True):
        progress.add(record, outcome.best([item.value for item in evaluations], manifest.objective))
    return progress


def _run_trials(
    sweep: Sweep, crew: Crew, console: Console, progress: Progress, interrupt: Any, spending: Spending
) -> None:
    from launcher.callback import Interrupted, SweepCallback

    log = _log_file(sweep.folder)
    ray = start_ray(crew, log, sweep.address, runtime_env() if sweep.address else None)
    interrupt.install()
    try:
        scheduler = make_scheduler(sweep, progress)
        display = make_display(console, progress)
        reasons = getattr(scheduler, "reasons", {})
        with ExitStack() as stack:
            stack.enter_context(BackgroundCollector(sweep.folder))
            stack.enter_context(display)
            callback = SweepCallback(sweep.folder, progress, display, interrupt, reasons.get, spending)
            if sweep.searching:
                planner = make_optuna(sweep, progress) if sweep.manifest.search == Search.OPTUNA else None
                ids = [record.trial_id for record in sweep.unfinished if record.promoted_from is None]
                _tune_run(sweep, crew, ids, scheduler, callback, spending, planner)
            # Winners are tested with their whole budget, and tell the search nothing.
            tests = [record.trial_id for record in sweep.unfinished if record.promoted_from is not None]
            if tests and spending.reason is None:
                _tune_run(sweep, crew, tests, None, callback, spending)
    except Interrupted:
        pass
    finally:
        spending.write()
        ray.shutdown()
        _keep_log(log, sweep.folder)
        sweep.records = Sweep.read(sweep.folder).records
        try:
            sweep.set_back([State.RUNNING])
        except RecordError as error:  # a worker that will not die; resume sets its trial back
            logger.warning("%s", error)


def _tune_run(
    sweep: Sweep,
    crew: Crew,
    ids: Sequence[str],
    scheduler: Any,
    callback: Any,
    spending: Spending,
    planner: Any = None,
) -> None:
    """Hand trials to Tune and wait: those that `planner` gives, or those of these ids."""
    import ray
    from ray import tune
    from ray.tune.execution import class_cache

    # Tune would put AWS's secrets where Ray shows them; each node has its own.
    class_cache.ENV_VARS_TO_PROPAGATE -= {name for name in class_cache.ENV_VARS_TO_PROPAGATE if "AWS_" in name}
    worker = {
        "sweep": str(sweep.folder),
        "size": crew.pack,
        "process": crew.settings(),
        "experiment": chosen_experiment(),
    }
    if sweep.address is not None:
        here = records.provenance()
        worker |= {"versions": our_versions(), "code": [here["git_sha"], here["git_dirty"]]}
    shared = _start_shared_workers(worker, crew) if crew.shared else {}
    config: dict[str, Any] = {
        "sweep": str(sweep.folder),
        "metric": sweep.manifest.objective.metric,
        "workers": list(shared),
        "worker": worker,
    }
    ended = sum(record.state in FINISHED for record in sweep.records.values())
    allowed = spending.allowed_trials(ended)
    search, number = None, 1
    if planner is not None:
        search = tune.search.ConcurrencyLimiter(planner, max_concurrent=crew.trials)
        number = planner.remaining if allowed is None else min(planner.remaining, allowed)
    else:
        config["trial_id"] = tune.grid_search(list(ids)[:allowed])
    tune.run(
        ExperimentTrainable,
        name="tune",
        **_tune_storage(sweep.folder),
        config=config,
        max_concurrent_trials=None if search is not None else crew.trials,
        num_samples=number,
        stop=lambda trial_id, result: spending.reason is not None,
        search_alg=search,
        scheduler=scheduler,
        resources_per_trial={"cpu": 1 / SHARE} if shared else crew.needs.resources(crew.machine),
        max_failures=MAX_FAILURES,
        reuse_actors=True,
        callbacks=[callback],
        verbose=0,
        raise_on_failed_trial=False,
        trial_dirname_creator=_our_id,
        trial_name_creator=_our_id,
        _remote=False,  # with ray:// Tune would move itself to the cluster
    )
    for name in shared:
        ray.kill(shared[name])


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
    return Path(tempfile.mkdtemp(prefix="jax_party-")) / LOG_FILE


def _keep_log(log: Path, folder: Path) -> None:
    """Put a log that was local behind the one on remote storage."""
    if not storage.is_remote(folder):
        return
    there = storage.read_version(folder / LOG_FILE)
    records.write_bytes_atomically(folder / LOG_FILE, (there.content if there else b"") + log.read_bytes())
    shutil.rmtree(log.parent)


def _start_shared_workers(settings: Mapping[str, Any], crew: Crew) -> dict[str, Any]:
    """Actors that trials share, by name; Ray starts one again that dies."""
    import ray

    resources = crew.needs.resources(crew.machine)
    # Trials take the smallest share of a CPU that Ray counts, wherever there is one: each worker leaves room for all.
    left = min(crew.trials / SHARE, 0.49)
    options = {
        "num_cpus": round(resources["cpu"] - left, 4), "num_gpus": resources.get("gpu", 0), "max_restarts": -1,
        "max_concurrency": 2 * crew.pack + 2,
    }  # fmt: skip
    actor = ray.remote(PackWorker)
    names = [f"worker-{uuid.uuid4().hex[:8]}" for _ in range(crew.workers)]
    return {name: actor.options(name=name, **options).remote(settings) for name in names}


def _our_id(trial: Any) -> str:
    return str(trial.config["trial_id"])


def make_scheduler(sweep: Sweep, progress: Progress) -> Any:
    """FIFO (None), or ASHA with every recorded evaluation replayed into its rungs."""
    from launcher.search import GroupedASHA

    if sweep.manifest.scheduler != Scheduler.ASHA:
        return None
    objective = sweep.manifest.objective
    groups: dict[str, tuple[int, int]] = {}
    for record in sweep.searched:
        group = progress.group_of(record.trial_id)
        if group not in groups:
            budget = make_budget(parse_config(records.read_config(sweep.folder / record.trial_id)))
            groups[group] = (budget.total_steps, budget.num_evaluations)
    if sweep.manifest.search == Search.OPTUNA:
        study = study_from_manifest(sweep.folder, sweep.manifest)
        groups = {f"{b.algorithm} {b.scenario}": (b.total_steps, b.num_evaluations) for b in study.bases}
    asha = GroupedASHA(objective.metric, objective.mode, groups, progress.group_of)
    for record, evaluations in zip(sweep.searched, sweep.evaluations(sweep.searched), strict=True):
        asha.remember(record.trial_id, evaluations)
    return asha


def make_optuna(sweep: Sweep, progress: Progress) -> Any:
    """The Optuna searcher, told of every trial that has ended, with the unfinished ones to be run first."""
    from launcher.search import OptunaPlanner

    study = study_from_manifest(sweep.folder, sweep.manifest)

    def write(trial: PlannedTrial) -> PlannedTrial:
        trial = dataclasses.replace(trial, trial_id=unused_id(sweep.folder, trial.trial_id))
        progress.add(study.write(sweep.folder, trial))
        return trial

    def score(trial_id: str) -> float | None:
        folder = sweep.folder / trial_id
        return outcome.score(folder, records.read_record(folder))

    unfinished = [_planned(study, record) for record in sweep.unfinished if record.promoted_from is None]
    numbers = [record.number for record in sweep.searched]
    planner = OptunaPlanner(study, sweep.manifest.num_trials, unfinished, numbers, write, score)
    for record in sweep.searched:
        if record.state in FINISHED:
            value = None if record.state is State.FAILED else score(record.trial_id)
            planner.remember(record.number, record.hyperparameters, value)
    return planner


def unused_id(folder: Path, trial_id: str) -> str:
    """The id, or with `-r2`, `-r3`, … where Optuna has suggested these very values before."""
    repeat, candidate = 1, trial_id
    while (folder / candidate).exists():
        repeat += 1
        candidate = f"{trial_id}-r{repeat}"
    return candidate


def _planned(study: Study, record: TrialRecord) -> PlannedTrial:
    base = study.bases[record.number % len(study.bases)]
    return PlannedTrial(record.number, record.trial_id, record.seed, record.hyperparameters, base)


def _report(sweep: Sweep, progress: Progress, console: Console) -> int:
    """Print what came out."""
    snapshot = progress.snapshot()
    scores = {}
    searched = {record.trial_id for record in sweep.searched}
    for row in snapshot.rows:
        if row.trial_id in searched and row.state in (State.COMPLETE, State.PRUNED):
            folder = sweep.folder / row.trial_id
            score = outcome.score(folder, records.read_record(folder))
            if score is not None:
                scores[row.trial_id] = score
    show_report(console, snapshot, scores, sweep.folder)
    failed = snapshot.counts[State.FAILED]
    return ALL_FAILED if failed and failed == len(snapshot.rows) else 0
