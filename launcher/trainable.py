"""The Tune trainable: one step an evaluation period, one warm process for many trials.

A trial is played in the trainable's own process, or in a worker that several share (`PackWorker`); then the trainable
is no more than the trial's place in Tune. Tune's checkpoints hold only a marker: the trial's folder is the truth.
"""

from __future__ import annotations

import contextlib
import json
import logging
import math
import shutil
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import ray
from ray import tune

from jax_party import records
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
from jax_party.patience import refusal
from jax_party.records import State
from launcher.address import check_worker
from launcher.pack import Pack, load_factory
from launcher.population import Inheritance
from launcher.resources import prepare_worker

JOIN_WAIT_S = 60.0
MARKER_FILE = "trial.json"
LEARNER_FOLDER = "learner"

logger = logging.getLogger(__name__)


class ExperimentTrainable(tune.Trainable):
    """Runs planned trials by their ids.

    Config keys: `trial_id`; `sweep`, the sweep's folder; `metric`, the objective's; `workers`, the names of those that
    trials share, or none where each trainable is a worker of its own; `worker`, what those are made with
    (`make_pack`); `population`, whether trials may go on from one another's learners, which Tune's checkpoints then
    hold, and `hyperparameters`, the values that such a trial has then.
    """

    def setup(self, config: dict[str, Any]) -> None:
        """Find where trials are played; the trial itself is opened by the first step."""
        if not hasattr(self, "_room"):
            self._room: Room = SharedRoom(config["workers"]) if config["workers"] else OwnRoom(config["worker"])
        self._joined: str | None = None
        self._inherited: Inheritance | None = None
        self._last: dict[str, Any] = {"env_steps": 0}

    def step(self) -> dict[str, Any]:
        """Train and evaluate one period.

        A trial that would fail the same way again is done, and the result says why: `failed`.
        """
        trial_id = self.config["trial_id"]
        try:
            if self._joined is None:
                self._room.join(trial_id, self._inherited)
                self._joined = trial_id
            result = self._room.step(trial_id)
        except (CheckpointError, ConfigError, StorageRefused, TrainingDiverged) as error:
            logger.warning("%s: %s", trial_id, error)
            return {"done": True, "failed": self._fail(error), "env_steps": self._last["env_steps"]}
        self._check_metric(result)
        self._last = {key: value for key, value in result.items() if isinstance(value, (int, float))}
        return {**self._last, "done": bool(result["finished"])}

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Leave the trial and be ready for the next one, with everything that is warm kept."""
        self.cleanup()
        self.config = new_config
        self.setup(new_config)
        return True

    def cleanup(self) -> None:
        """Let go of the trial and its folder."""
        if self._joined is not None:  # Tune has put the next trial into `config` by now
            trial_id, self._joined = self._joined, None
            self._room.leave(trial_id)
        if self._inherited is not None:
            shutil.rmtree(self._inherited.learner.parent, ignore_errors=True)
            self._inherited = None

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """A marker: which trial, how far. The trial's folder has the checkpoint; of a population's there is a copy."""
        trial_id = self.config["trial_id"]
        marker = {"trial_id": trial_id, "env_steps": self._last["env_steps"]}
        if self.config["population"]:
            marker["env_steps"] = self._room.copy_learner(trial_id, Path(checkpoint_dir, LEARNER_FOLDER))
        Path(checkpoint_dir, MARKER_FILE).write_text(json.dumps(marker), encoding="utf-8")

    def load_checkpoint(self, checkpoint: Any) -> None:
        """Another trial's learner is kept, to go on from; a trial's own is in its folder."""
        folder = Path(str(checkpoint))
        marker = json.loads((folder / MARKER_FILE).read_text(encoding="utf-8"))
        if marker["trial_id"] == self.config["trial_id"]:
            return
        kept = Path(tempfile.mkdtemp(prefix="jax_party-learner-")) / LEARNER_FOLDER
        shutil.copytree(folder / LEARNER_FOLDER, kept)  # Tune's copy may go any time
        self._inherited = Inheritance(marker["trial_id"], marker["env_steps"], kept, self.config["hyperparameters"])

    def _fail(self, error: Exception) -> str:
        """See to it that the record says FAILED, and why; storage that refuses leaves it to the driver."""
        reason = f"{type(error).__name__}: {str(error).splitlines()[0]}"
        folder = records.as_folder(self.config["sweep"]) / self.config["trial_id"]
        try:
            if records.read_record(folder).state not in records.FINISHED:
                records.update_record(folder, state=State.FAILED, error=reason, ended_at=records.timestamp())
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
    """Where a trainable's trials are played."""

    def join(self, trial_id: str, inherited: Inheritance | None) -> None:
        """Take a trial in, which may be to go on from another's learner."""

    def step(self, trial_id: str) -> dict[str, Any]:
        """Play one evaluation period of it."""

    def copy_learner(self, trial_id: str, to: Path) -> int:
        """Copy its newest checkpoint; the environment steps that it has trained."""

    def leave(self, trial_id: str) -> None:
        """Let go of it and its folder."""


class OwnRoom:
    """This process."""

    def __init__(self, settings: Mapping[str, Any]) -> None:
        self._cores, self._pack = make_pack(settings)

    def join(self, trial_id: str, inherited: Inheritance | None) -> None:
        """There is room for one."""
        if not self._pack.join(trial_id, inherited):
            raise SweepError(f"{trial_id}: this worker has not let go of another trial")

    def step(self, trial_id: str) -> dict[str, Any]:
        """Play one evaluation period."""
        return self._pack.step(trial_id)

    def copy_learner(self, trial_id: str, to: Path) -> int:
        """Copy the trial's newest checkpoint."""
        return self._pack.copy_learner(trial_id, to)

    def leave(self, trial_id: str) -> None:
        """Let go of the trial and its folder."""
        self._pack.leave(trial_id)


class SharedRoom:
    """One of the workers that trials share, another for each trial.

    Args:
      names: of the workers.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self._workers = [ray.get_actor(name) for name in names]
        self._worker: Any = None

    def join(self, trial_id: str, inherited: Inheritance | None) -> None:
        """Find room, first with a worker that has trials already: packs are to be full.

        Raises:
          SweepError: nobody has room for a minute.
        """
        deadline, problem = time.monotonic() + JOIN_WAIT_S, "all are full"
        while time.monotonic() < deadline:
            members: list[tuple[int, Any]] = []
            for worker in self._workers:  # one may be starting again, or have the trial still, whose trainable has died
                try:
                    members.append((_ask(worker.leave.remote(trial_id)), worker))
                except ray.exceptions.RayActorError as error:
                    problem = str(error).strip().splitlines()[0]
            for _, worker in sorted(members, key=lambda pair: -pair[0]):
                with contextlib.suppress(ray.exceptions.RayActorError):
                    if _ask(worker.join.remote(trial_id, inherited)):
                        self._worker = worker
                        return
            time.sleep(0.2)
        raise SweepError(f"{trial_id}: no worker has had room for it for {JOIN_WAIT_S:g} s ({problem})")

    def step(self, trial_id: str) -> dict[str, Any]:
        """Play one evaluation period."""
        result: dict[str, Any] = _ask(self._worker.step.remote(trial_id))
        return result

    def copy_learner(self, trial_id: str, to: Path) -> int:
        """Copy the trial's newest checkpoint, to where both processes see it."""
        steps: int = _ask(self._worker.copy_learner.remote(trial_id, to))
        return steps

    def leave(self, trial_id: str) -> None:
        """Let go of the trial and its folder."""
        _ask(self._worker.leave.remote(trial_id))


def _ask(reference: Any) -> Any:
    """An actor's answer; an error of ours as itself."""
    try:
        return ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        raise error.cause if isinstance(error.cause, Exception) else error from None


class PackWorker:
    """A pack as a Ray actor: the trials that share this process."""

    def __init__(self, settings: Mapping[str, Any]) -> None:
        self._cores, self._pack = make_pack(settings)

    def join(self, trial_id: str, inherited: Inheritance | None) -> bool:
        """Take a trial in, if there is room."""
        return self._pack.join(trial_id, inherited)

    def step(self, trial_id: str) -> dict[str, Any]:
        """Play one evaluation period of a trial."""
        return self._pack.step(trial_id)

    def copy_learner(self, trial_id: str, to: Path) -> int:
        """Copy a trial's newest checkpoint."""
        return self._pack.copy_learner(trial_id, to)

    def leave(self, trial_id: str) -> int:
        """Let go of a trial, if it is here; the number of those that stay."""
        self._pack.leave(trial_id)
        return self._pack.members


def make_pack(settings: Mapping[str, Any]) -> tuple[Any, Pack]:
    """Make this process a worker.

    Args:
      settings: `sweep`, the sweep's folder; `size`, trials at a time; `process`, what `prepare_worker` is called with;
        `period_timeout_s`, how long a period may take; `engine`, the name of what runs the trials; `experiment`,
        `module:factory` of what to run in its place, or None (for tests and benchmarks: a factory takes a parsed config
        and a folder); and on a cluster that was
        joined `versions`, the driver's, and `code`, the commit of the code that it has sent.

    Returns:
      What holds its cores, to be kept, and the pack.
    """
    if settings.get("versions") is not None:
        check_worker(settings["versions"])
        records.set_code(*settings["code"])
    cores = prepare_worker(**settings["process"])
    chosen, engine = settings["experiment"], settings["engine"]
    factory = load_factory(chosen) if chosen else get_engine(engine).experiment()
    folder = records.as_folder(settings["sweep"])
    timeout_s = settings["period_timeout_s"]
    return cores, Pack(folder, settings["size"], factory, period_timeout_s=timeout_s, engine=engine)
