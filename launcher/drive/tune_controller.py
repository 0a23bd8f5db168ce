"""Tune's controller, which counts a trial's attempts, with three corrections for workers that start or are reset.

First, Tune gives a worker that has finished a trial the next one. If no other trial waits, it takes a trial whose own
worker is just starting, and ends that worker. A sweep of trials shorter than a worker's start would run on one worker.

Second, Tune resets a worker before it runs the next trial, which does not count as running yet. If the worker dies
during the reset, Tune is told twice: of the actor's death and of the failed reset. It retries the trial the first time
and fails it for good the second time, even if attempts are left.

Third, Tune counts a node's refusal of a trial as a failure, and after the last attempt would not try another node.
"""

from __future__ import annotations

from typing import Any

from ray.exceptions import RayActorError
from ray.tune.execution.tune_controller import TuneController
from ray.tune.experiment import Trial

from launcher.ray_compat import set_controller
from launcher.work.failed_attempts import counts


class Controller(TuneController):
    """Keeps the worker that is starting for a trial, and counts each death of a worker as one failure."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._heard: set[Trial] = set()

    def _maybe_reuse_cached_actor(self, trial: Trial) -> bool:
        own = None if trial in self._resetting_trials else self._trial_to_actor.get(trial)
        if own is not None and self._actor_manager.is_actor_started(own):  # has its resources and only has to load
            return False
        reused: bool = super()._maybe_reuse_cached_actor(trial)
        return reused

    def _actor_started(self, tracked_actor: Any, log: str = "STARTED") -> None:
        self._heard.discard(self._actor_to_trial[tracked_actor])
        super()._actor_started(tracked_actor, log)

    def _actor_failed(self, tracked_actor: Any, exception: Exception) -> None:
        trial = self._actor_to_trial.get(tracked_actor)
        super()._actor_failed(tracked_actor, exception)
        if trial in self._resetting_trials:
            self._resetting_trials.discard(trial)
            self._heard.add(trial)

    def _trial_task_failure(self, trial: Trial, exception: Exception) -> None:
        if trial in self._heard and isinstance(exception, RayActorError):
            self._heard.discard(trial)
            return
        if trial in self._resetting_trials and not isinstance(exception, RayActorError):
            self._resetting_trials.discard(trial)
            self._unstage_trial_with_resources(trial)
            self._set_trial_status(trial, Trial.RUNNING)
        if not counts(exception):
            trial.run_metadata.num_failures -= 1  # Tune adds one
        super()._trial_task_failure(trial, exception)


def install_controller() -> None:
    """Make `tune.run` use `Controller`; `tune.run` has no argument for it."""
    set_controller(Controller)


__all__ = ["Controller", "install_controller"]
