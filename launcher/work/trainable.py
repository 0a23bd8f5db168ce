"""The Tune trainable: one step per evaluation period, and one warm process for many trials.

A trial runs in the trainable's own process, or in a worker that several trials share (`PackWorker`); the trainable then
only represents the trial in Tune. Tune's checkpoints hold just a marker, because the trial's folder is the truth.
"""

from __future__ import annotations

import contextlib
import json
import logging
import math
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import ray
from ray import tune

from jax_party.engines import get_engine
from jax_party.errors import (
    CheckpointError,
    ConfigError,
    RecordError,
    StorageError,
    StorageRefused,
    SweepError,
    TrainingDiverged,
)
from jax_party.store.retry import patiently, refusal
from jax_party.store.scratch import make_scratch
from jax_party.store.storage import as_folder
from jax_party.trial.folder import add_retry, read_record, update_record
from jax_party.trial.provenance import set_code, utc_timestamp
from jax_party.trial.states import FINISHED, State
from launcher.ask.experiment_factory import load_factory
from launcher.machine.join import NodeRefused, check_worker
from launcher.machine.worker_process import prepare_worker
from launcher.work.failed_attempts import describe_failure, reason_left
from launcher.work.pack import Pack
from launcher.work.population import Inheritance

JOIN_WAIT_S = 60.0
ANSWER_S = 2.0
"""How long to wait for a worker's answer; one that takes longer is starting, hanging or gone."""
LEAVE_S = 10.0
SIGNS = "signs"
"""Ray's concurrency group of the threads that answer sign-of-life requests while a worker runs periods."""
MARKER_FILE = "trial.json"
LEARNER_FOLDER = "learner"

logger = logging.getLogger(__name__)


class ExperimentTrainable(tune.Trainable):
    """Runs planned trials, given by their ids.

    Config keys: `trial_id`; `sweep`, the sweep's folder; `metric`, the objective's metric; `workers`, the name prefix
    of shared workers, or None if each trainable is its own worker; `worker`, the settings of a worker (`make_pack`);
    `failed`, whether the trial has failed before; `population`, whether trials may continue from one another's
    learners, which Tune's checkpoints then contain; `hyperparameters`, the new values of a trial that does so.
    """

    def setup(self, config: dict[str, Any]) -> None:
        """Choose where trials run; the first step opens the trial itself."""
        own = config["workers"] is None
        self._room: Room = OwnRoom(config["worker"]) if own else SharedRoom(config["workers"], config["sweep"])
        self._begin()

    def _begin(self) -> None:
        self._joined: str | None = None
        self._inherited: Inheritance | None = None
        self._last: dict[str, Any] = {"env_steps": 0}

    def step(self) -> dict[str, Any]:
        """Train and evaluate one period.

        A trial that would fail again in the same way is done, and `failed` in the result says why.
        """
        trial_id = self.config["trial_id"]
        try:
            if self._joined is None:
                self._room.join(trial_id, self._inherited, self.config["failed"])
                self._joined = trial_id
            result = self._room.step(trial_id)
        except (CheckpointError, ConfigError, StorageRefused, TrainingDiverged) as error:
            logger.warning("%s: %s", trial_id, error)
            return {"done": True, "failed": self._fail(error), "env_steps": self._last["env_steps"]}
        self._check_metric(result)
        self._last = {key: value for key, value in result.items() if isinstance(value, (int, float))}
        return {**self._last, "done": bool(result["finished"])}

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Leave the trial and prepare for the next one in the same warm process."""
        self.cleanup()
        self.config = new_config
        self._begin()
        return True

    def cleanup(self) -> None:
        """Release the trial and its folder."""
        if self._joined is not None:  # not `config`: Tune may have put the next trial there already
            trial_id, self._joined = self._joined, None
            self._room.leave(trial_id)
        if self._inherited is not None:
            shutil.rmtree(self._inherited.learner.parent, ignore_errors=True)
            self._inherited = None

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Write a marker with the trial and its steps; for a population, also a copy of the trial's checkpoint."""
        trial_id = self.config["trial_id"]
        marker = {"trial_id": trial_id, "env_steps": self._last["env_steps"]}
        if self.config["population"]:
            marker["env_steps"] = self._room.copy_learner(trial_id, Path(checkpoint_dir, LEARNER_FOLDER))
        Path(checkpoint_dir, MARKER_FILE).write_text(json.dumps(marker), encoding="utf-8")

    def load_checkpoint(self, checkpoint: Any) -> None:
        """Keep another trial's learner to continue from; do nothing for the trial's own, which is in its folder."""
        folder = Path(str(checkpoint))
        marker = json.loads((folder / MARKER_FILE).read_text(encoding="utf-8"))
        if marker["trial_id"] == self.config["trial_id"]:
            return
        kept = make_scratch("learner") / LEARNER_FOLDER
        shutil.copytree(folder / LEARNER_FOLDER, kept)  # Tune may remove its copy at any time
        self._inherited = Inheritance(marker["trial_id"], marker["env_steps"], kept, self.config["hyperparameters"])

    def _fail(self, error: Exception) -> str:
        """Mark an unfinished record FAILED, and return the reason; if storage refuses, the driver marks it."""
        reason = f"{type(error).__name__}: {str(error).splitlines()[0]}"
        folder = as_folder(self.config["sweep"]) / self.config["trial_id"]
        try:
            if read_record(folder).state not in FINISHED:
                update_record(folder, state=State.FAILED, error=reason, ended_at=utc_timestamp())
        except (OSError, RecordError) as problem:
            if refusal(problem) is None and not isinstance(problem, StorageError):
                raise
        return reason

    def _check_metric(self, result: dict[str, Any]) -> None:
        metric = self.config["metric"]
        if metric not in result:
            known = ", ".join(sorted(key for key, value in result.items() if isinstance(value, float)))
            raise SweepError(f"objective {metric}: no such metric; choose one of {known}")
        if not math.isfinite(result[metric]):
            logger.warning("%s: %s is not finite", self.config["trial_id"], metric)


class Room(Protocol):
    """Where a trainable's trials run."""

    def join(self, trial_id: str, inherited: Inheritance | None, failed: bool) -> None:
        """Add a trial, which may continue from another trial's learner and may have failed before."""

    def step(self, trial_id: str) -> dict[str, Any]:
        """Run one evaluation period of the trial."""

    def copy_learner(self, trial_id: str, to: Path) -> int:
        """Copy the trial's newest checkpoint, and return the environment steps that it has trained."""

    def leave(self, trial_id: str) -> None:
        """Release the trial and its folder."""


class OwnRoom:
    """Runs one trial at a time in this process."""

    def __init__(self, settings: Mapping[str, Any]) -> None:
        self._refused: NodeRefused | None = None
        try:
            self._cores, self._pack = make_pack(settings)
        except NodeRefused as error:  # raised by `join`, because Tune would hide an error in the constructor
            self._refused = error

    def join(self, trial_id: str, inherited: Inheritance | None, failed: bool) -> None:
        """Add a trial; there is room for one.

        Raises:
          NodeRefused: this node is not usable.
          SweepError: another trial is still here.
        """
        if self._refused is not None:
            raise self._refused
        if not self._pack.join(trial_id, inherited):
            raise SweepError(f"{trial_id}: this worker still has another trial")

    def step(self, trial_id: str) -> dict[str, Any]:
        """Run one evaluation period."""
        return self._pack.step(trial_id)

    def copy_learner(self, trial_id: str, to: Path) -> int:
        """Copy the trial's newest checkpoint."""
        return self._pack.copy_learner(trial_id, to)

    def leave(self, trial_id: str) -> None:
        """Release the trial and its folder."""
        self._pack.leave(trial_id)


class SharedRoom:
    """Runs each trial in one of the shared workers, chosen when the trial joins.

    If a worker dies while several trials run in it, that is no failure of any of them: each joins another worker and
    continues. It then runs alone until it has finished a period, so that a trial that kills workers uses up only its
    own attempts.

    Args:
      workers: the prefix of the workers' names.
      sweep: the sweep's folder.
    """

    def __init__(self, workers: str, sweep: str) -> None:
        self._prefix = workers
        self._sweep = as_folder(sweep)
        self._alone = False
        self._worker: Any = None
        self._inherited: Inheritance | None = None

    def join(self, trial_id: str, inherited: Inheritance | None, failed: bool) -> None:
        """Wait for room in a worker; the fullest ones are tried first, so that packs fill up.

        Raises:
          SweepError: no workers are left.
        """
        self._inherited, self._alone = inherited, failed
        workers, began, told = Workers(self._prefix), time.monotonic(), False
        while not (worker := self._find_room(trial_id, workers)):
            if not told and time.monotonic() - began > JOIN_WAIT_S:
                told = True
                logger.warning("%s: no worker has had room for %g s", trial_id, JOIN_WAIT_S)
            time.sleep(0.2)
        self._worker = worker

    def _find_room(self, trial_id: str, workers: Workers) -> Any:
        """Return a worker that has added the trial, or None."""
        for _, has, worker in sorted(workers.look(trial_id), key=lambda found: -found[0]):
            with contextlib.suppress(ray.exceptions.RayActorError):
                if has:  # the trial's previous trainable died, and its period may still be running
                    _ask(worker.leave.remote(trial_id))
                try:
                    if _ask(worker.join.remote(trial_id, self._inherited), ANSWER_S):
                        return worker
                except ray.exceptions.GetTimeoutError:
                    worker.leave.remote(trial_id)  # in case it still adds the trial later
        return None

    def step(self, trial_id: str) -> dict[str, Any]:
        """Run one evaluation period, moving to another worker if one dies.

        Raises:
          RayActorError: the worker died while this trial ran alone.
        """
        while True:
            its_own = False
            try:
                if self._alone:
                    _ask(self._worker.take_turn.remote(trial_id))
                    its_own = True
                result: dict[str, Any] = _ask(self._worker.step.remote(trial_id))
            except ray.exceptions.RayActorError as error:
                if its_own:
                    raise
                self._go_on_elsewhere(trial_id, error)
            else:
                self._alone = False
                return result

    def _go_on_elsewhere(self, trial_id: str, error: BaseException) -> None:
        """Note in the record why the trial is retried, and join another worker."""
        reason = reason_left(read_record(self._sweep / trial_id), error) or describe_failure(error)
        logger.warning("%s: %s: %s", trial_id, reason, error)
        patiently()(add_retry, self._sweep / trial_id, f"{reason}, with others beside it")
        self.join(trial_id, self._inherited, failed=True)

    def copy_learner(self, trial_id: str, to: Path) -> int:
        """Copy the trial's newest checkpoint to a place that both processes have access to."""
        steps: int = _ask(self._worker.copy_learner.remote(trial_id, to))
        return steps

    def leave(self, trial_id: str) -> None:
        """Release the trial and its folder; a worker that does not answer has died, which released them."""
        with contextlib.suppress(ray.exceptions.RayActorError, ray.exceptions.GetTimeoutError):
            _, has = _ask(self._worker.look.remote(trial_id), LEAVE_S)
            if has:
                _ask(self._worker.leave.remote(trial_id))


class Workers:
    """The shared workers that exist now, as a trial sees them.

    Args:
      prefix: the prefix of their names.
    """

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix
        self._known: dict[str, Any] = {}
        self._asked: dict[str, Any] = {}

    def look(self, trial_id: str) -> list[tuple[int, bool, Any]]:
        """Return (number of trials, whether this one is among them, worker) for each worker that answers in time.

        One that does not answer is starting, or its node is gone; it is not asked again until it has answered.

        Raises:
          SweepError: no workers are left.
        """
        names = [name for name in ray.util.list_named_actors() if name.startswith(self._prefix)]
        if not names:
            raise SweepError(f"{trial_id}: no worker is left to run it; the sweep's log says why")
        for name in names:
            with contextlib.suppress(ValueError):  # the worker has just ended
                self._known.setdefault(name, ray.get_actor(name))
        self._known = {name: worker for name, worker in self._known.items() if name in names}
        for name, worker in self._known.items():
            if name not in self._asked:
                self._asked[name] = worker.look.remote(trial_id)
        ready, _ = ray.wait(list(self._asked.values()), num_returns=len(self._asked), timeout=ANSWER_S)
        answers = {name: self._asked.pop(name) for name, reference in list(self._asked.items()) if reference in ready}
        found = []
        for name, reference in answers.items():
            with contextlib.suppress(ray.exceptions.RayActorError, NodeRefused):
                members, has = _ask(reference)
                found.append((members, has, self._known[name]))
        return found


def _ask(reference: Any, timeout: float | None = None) -> Any:
    """Return an actor's answer, or raise the original error instead of Ray's wrapper."""
    try:
        return ray.get(reference, timeout=timeout)
    except ray.exceptions.RayTaskError as error:
        raise error.cause if isinstance(error.cause, Exception) else error from None


class PackWorker:
    """A pack as a Ray actor: a worker process that trials share."""

    def __init__(self, settings: Mapping[str, Any]) -> None:
        self._refused: NodeRefused | None = None
        try:
            self._cores, self._pack = make_pack(settings)
        except NodeRefused as error:  # raised by `look`, whereupon the driver ends this worker
            self._refused = error

    @ray.method(concurrency_group=SIGNS)  # type: ignore[untyped-decorator]
    def look(self, trial_id: str = "") -> tuple[int, bool]:
        """Return the number of trials here, and whether this one is among them."""
        if self._refused is not None:
            raise self._refused
        return self._pack.members, self._pack.has(trial_id)

    def join(self, trial_id: str, inherited: Inheritance | None) -> bool:
        """Add a trial if there is room, and return whether it is here."""
        return self._pack.join(trial_id, inherited)

    def take_turn(self, trial_id: str) -> None:
        """Wait until no trial is running, and reserve the next period for this one alone."""
        self._pack.take_turn(trial_id)

    def step(self, trial_id: str) -> dict[str, Any]:
        """Run one evaluation period of a trial."""
        return self._pack.step(trial_id)

    def copy_learner(self, trial_id: str, to: Path) -> int:
        """Copy a trial's newest checkpoint."""
        return self._pack.copy_learner(trial_id, to)

    def leave(self, trial_id: str) -> None:
        """Release a trial if it is here."""
        self._pack.leave(trial_id)


def make_pack(settings: Mapping[str, Any]) -> tuple[Any, Pack]:
    """Make this process a worker.

    Args:
      settings: `sweep`, the sweep's folder; `size`, trials at a time; `process`, the arguments of `prepare_worker`;
        `period_timeout_s`, how long a period may take; `engine`, the engine's name; `experiment`, `module:factory` of a
        stand-in for its experiment, or None (for tests and benchmarks; the factory takes a parsed config and a folder);
        and on a cluster `versions`, the driver's, and `code`, the commit of the code that the driver has sent and
        whether it had uncommitted changes.

    Returns:
      The locks of its cores, which must be kept, and the pack.

    Raises:
      NodeRefused: this node is not usable.
    """
    if settings.get("versions") is not None:
        check_worker(settings["versions"], as_folder(settings["sweep"]))
        set_code(*settings["code"])
    cores = prepare_worker(**settings["process"])
    chosen, engine = settings["experiment"], settings["engine"]
    factory = load_factory(chosen) if chosen else get_engine(engine).experiment()
    folder = as_folder(settings["sweep"])
    timeout_s = settings["period_timeout_s"]
    return cores, Pack(folder, settings["size"], factory, period_timeout_s=timeout_s, engine=engine)
