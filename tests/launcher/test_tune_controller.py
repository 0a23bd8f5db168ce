"""Tune's controller as we have changed it: which trial gets a free worker, and what a worker's death costs a trial.

The controller and its trials are real. Only the actor manager is replaced: it records what it is asked to do, and
reports failures as Ray's does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ray.exceptions import RayActorError, RayTaskError
from ray.train._internal.storage import StorageContext
from ray.tune import Callback
from ray.tune.experiment import Trial

from launcher.drive.tune_controller import Controller, install_controller
from launcher.machine.join import NodeRefused
from tests.launcher.tuned import MAX_FAILURES, make_trial, without_ray


class Handle:
    """A worker's actor handle; Tune asks each new one for the fields that all its results share."""

    get_auto_filled_metrics = SimpleNamespace(remote=lambda **options: {})


class Actor:
    """A worker as the controller knows it."""

    def set_on_stop(self, on_stop: Any) -> None:
        pass

    def set_on_error(self, on_error: Any) -> None:
        pass


class Manager:
    """Starts no actors; keeps the callbacks for a task's success and failure."""

    num_actor_tasks = 0

    def __init__(self) -> None:
        self.asked: list[tuple[Actor, str]] = []
        self.removed: list[Actor] = []
        self.started: set[Actor] = set()
        self._callbacks: dict[Actor, tuple[Any, Any]] = {}
        self._live_actors_to_ray_actors_resources: dict[Actor, tuple[Handle, None]] = {}

    def start(self) -> Actor:
        actor = Actor()
        self.started.add(actor)
        self._live_actors_to_ray_actors_resources[actor] = (Handle(), None)
        return actor

    def is_actor_started(self, actor: Actor) -> bool:
        return actor in self.started

    def is_actor_failed(self, actor: Actor) -> bool:
        return False

    def schedule_actor_task(
        self, tracked_actor: Actor, method_name: str, on_result: Any = None, on_error: Any = None, **options: Any
    ) -> None:
        self.asked.append((tracked_actor, method_name))
        self._callbacks[tracked_actor] = (on_result, on_error)

    def clear_actor_task_futures(self, tracked_actor: Actor) -> None:
        """Keep the futures: a result that has arrived is still delivered."""

    def remove_actor(self, tracked_actor: Actor, kill: bool, stop_future: Any = None) -> bool:
        self.removed.append(tracked_actor)
        return True

    def done(self, actor: Actor, answer: Any) -> None:
        """Report that the worker has finished its last task."""
        self._callbacks[actor][0](actor, answer)

    def fail(self, controller: Controller, actor: Actor, error: Exception) -> None:
        """Report that the worker has failed at its last task; a death is reported for the actor and for the task."""
        _, on_error = self._callbacks[actor]
        if isinstance(error, RayActorError):
            controller._actor_failed(actor, error)
        on_error(actor, error)


class Told(Callback):
    """Records the events of trials that Tune reports to its callbacks, in order."""

    def __init__(self) -> None:
        self.events: list[str] = []

    def on_trial_start(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        self.events.append("start")

    def on_trial_recover(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        self.events.append("recover")

    def on_trial_error(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        self.events.append("error")


class Run:
    """A controller with one trial that waits for a worker."""

    def __init__(self, folder: Path) -> None:
        self.told = Told()
        self.controller = Controller(
            callbacks=[self.told], reuse_actors=True, storage=StorageContext(str(folder), "tune"), checkpoint_period=1e9
        )
        self.manager = self.controller._actor_manager = Manager()
        self.trial = make_trial(folder, "trial")
        self.controller.add_trial(self.trial)
        self._stage()

    def _stage(self) -> None:
        """Make the trial wait for a worker."""
        self.controller._staged_trials.add(self.trial)
        self.controller._actor_cache.increase_max(self.trial.placement_group_factory)

    def give(self, actor: Actor) -> None:
        """Make this worker the one that Tune has requested for the trial."""
        self.controller._trial_to_actor[self.trial] = actor
        self.controller._actor_to_trial[actor] = self.trial

    def free(self) -> Actor:
        """Return a worker that has ended another trial and is kept for the next one."""
        actor = self.manager.start()
        assert self.controller._actor_cache.cache_object(self.trial.placement_group_factory, actor)
        return actor

    def reset(self) -> Actor:
        """Return such a worker, which is being reset for the trial."""
        if self.trial not in self.controller._staged_trials:
            self._stage()
        actor = self.free()
        assert self.controller._maybe_reuse_cached_actor(self.trial)
        assert self.manager.asked[-1] == (actor, "reset")
        return actor


def task_error(message: str, kind: Callable[[str], Exception] = RuntimeError) -> RayTaskError:
    return RayTaskError("reset", f"Traceback\n{message}", kind(message)).as_instanceof_cause()


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Run]:
    without_ray(monkeypatch, tmp_path)
    yield Run(tmp_path)


def test_a_trial_keeps_its_own_worker_once_that_has_started(run: Run) -> None:
    own, free = run.manager.start(), run.free()
    run.give(own)
    assert not run.controller._maybe_reuse_cached_actor(run.trial)
    assert run.controller._trial_to_actor[run.trial] is own
    assert (run.manager.asked, run.manager.removed) == ([], [])
    assert run.controller._actor_cache.pop_cached_object(run.trial.placement_group_factory) is free


def test_a_trial_whose_worker_has_not_started_takes_a_free_one(run: Run) -> None:
    own, free = Actor(), run.free()
    run.give(own)
    assert run.controller._maybe_reuse_cached_actor(run.trial)
    assert run.controller._trial_to_actor[run.trial] is free
    assert (free, "reset") in run.manager.asked
    assert run.manager.removed == [own]


def test_a_trial_without_a_worker_takes_one_free_worker_only(run: Run) -> None:
    assert not run.controller._maybe_reuse_cached_actor(run.trial), "no worker is free"
    actor = run.reset()
    assert run.controller._maybe_reuse_cached_actor(run.trial), "it has one that has started and is being reset"
    assert run.manager.asked == [(actor, "reset")]


def test_a_worker_trains_after_its_reset(run: Run) -> None:
    actor = run.reset()
    run.manager.done(actor, True)
    assert (run.trial.status, run.told.events) == (Trial.RUNNING, ["start"])
    assert run.manager.asked[-1] == (actor, "train")


def test_a_death_during_a_reset_counts_once_and_the_trial_is_retried(run: Run) -> None:
    for failures in range(1, MAX_FAILURES + 1):
        run.manager.fail(run.controller, run.reset(), RayActorError())
        assert run.trial.run_metadata.num_failures == failures
        assert run.trial.status == Trial.PENDING
        assert run.told.events == ["recover"] * failures
        assert run.trial not in run.controller._trial_to_actor, "Tune looks for another worker"
    run.manager.done(run.reset(), True)
    assert run.trial.status == Trial.RUNNING


def test_a_death_without_attempts_left_fails_the_trial_once(run: Run) -> None:
    for _ in range(MAX_FAILURES + 1):
        run.manager.fail(run.controller, run.reset(), RayActorError())
    assert run.trial.status == Trial.ERROR
    assert run.told.events == ["recover"] * MAX_FAILURES + ["error"]


def test_a_death_while_training_counts_although_one_during_a_reset_came_before(run: Run) -> None:
    run.manager.fail(run.controller, run.reset(), RayActorError())
    actor = run.reset()
    run.manager.done(actor, True)
    run.manager.fail(run.controller, actor, RayActorError())
    assert run.trial.run_metadata.num_failures == 2
    assert (run.trial.status, run.told.events) == (Trial.PENDING, ["recover", "start", "recover"])


def test_a_reported_death_is_forgotten_when_the_next_worker_starts(run: Run) -> None:
    run.controller._actor_failed(run.reset(), RayActorError())
    actor = run.reset()
    run.manager.done(actor, True)
    run.manager.fail(run.controller, actor, RayActorError())
    assert run.trial.run_metadata.num_failures == 2
    assert (run.trial.status, run.told.events) == (Trial.PENDING, ["recover", "start", "recover"])


def test_an_error_in_the_reset_after_a_death_counts(run: Run) -> None:
    run.controller._actor_failed(run.reset(), RayActorError())
    run.manager.fail(run.controller, run.reset(), task_error("cannot let go"))
    assert run.trial.run_metadata.num_failures == 2
    assert (run.trial.status, run.told.events) == (Trial.PENDING, ["recover", "recover"])


def test_a_trial_whose_reset_failed_is_retried_in_another_worker(run: Run) -> None:
    actor = run.reset()
    run.manager.fail(run.controller, actor, task_error("cannot let go"))
    assert (run.trial.status, run.told.events) == (Trial.PENDING, ["recover"])
    assert run.trial.run_metadata.num_failures == 1
    assert run.manager.removed == [actor]
    assert run.trial not in run.controller._resetting_trials, "else Tune would look for no worker"
    assert run.trial not in run.controller._staged_trials, "else its resources would be reserved twice"
    run.manager.done(run.reset(), True)
    assert run.trial.status == Trial.RUNNING


def test_tune_handles_a_failed_reset_as_that_of_a_running_trial(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    passed = []
    monkeypatch.setattr(
        "ray.tune.execution.tune_controller.TuneController._trial_task_failure",
        lambda self, trial, exception: passed.append((trial.status, str(exception))),
    )
    run.reset()
    run.controller._trial_task_failure(run.trial, task_error("cannot let go"))
    ((status, message),) = passed
    assert status == Trial.RUNNING
    assert "cannot let go" in message


def test_a_failure_while_training_is_counted_by_tune(run: Run) -> None:
    actor = run.reset()
    run.manager.done(actor, True)
    run.manager.fail(run.controller, actor, task_error("the disk is made of cheese"))
    assert run.trial.run_metadata.num_failures == 1
    assert (run.trial.status, run.told.events) == (Trial.PENDING, ["start", "recover"])


def test_a_refusal_by_a_node_costs_the_trial_no_attempt(run: Run) -> None:
    """Nor does it fail a trial that has no attempt left."""
    refused = task_error("jax 0.9, here 0.10", lambda message: NodeRefused(message, "a1b2"))
    for failures in range(MAX_FAILURES + 1):
        for _ in range(2):
            run.manager.done(actor := run.reset(), True)
            run.manager.fail(run.controller, actor, refused)
            assert (run.trial.run_metadata.num_failures, run.trial.status) == (failures, Trial.PENDING)
        run.manager.done(actor := run.reset(), True)
        run.manager.fail(run.controller, actor, task_error("the disk is made of cheese"))
    assert run.trial.status == Trial.ERROR
    assert "error" not in run.told.events[:-1]


def test_tune_uses_our_controller_once_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    from ray.tune import tune

    monkeypatch.setattr(tune, "TuneController", tune.TuneController)  # restored afterwards
    install_controller()
    assert tune.TuneController is Controller
