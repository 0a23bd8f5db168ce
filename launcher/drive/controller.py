"""Tune's controller, but for what it does with trials whose workers are only about to play them.

A worker that has ended a trial is given the next one, and where no other waits, one whose own worker is just starting,
which is ended then: a sweep of trials that are shorter than a worker's start would run on a single one.

Before that it is reset for the next trial, which Tune counts as not running yet. It hears of the death of such a worker
twice, as the actor's and as the reset's failure: it tries the trial again at the first, and fails it for good at the
second, whatever attempts are left.

A trial that a node refuses has not been tried: Tune counts that as a failure, too, and after the last attempt it would
not look for another node.
"""

from __future__ import annotations

from typing import Any

from ray.exceptions import RayActorError
from ray.tune.execution.tune_controller import TuneController
from ray.tune.experiment import Trial

from launcher.drive.callback import cause_of
from launcher.machine.join import NodeRefused
from launcher.ray_compat import set_controller


class Controller(TuneController):
    """Lets a trial have the worker that is starting for it, and tries one again whose worker dies, once a death."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._heard: set[Trial] = set()

    def _maybe_reuse_cached_actor(self, trial: Trial) -> bool:
        own = None if trial in self._resetting_trials else self._trial_to_actor.get(trial)
        if own is not None and self._actor_manager.is_actor_started(own):  # it has its place, and only has to load
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
        if isinstance(cause_of(exception), NodeRefused):
            trial.run_metadata.num_failures -= 1  # Tune adds one
        super()._trial_task_failure(trial, exception)


def install_controller() -> None:
    """Have `tune.run` use it, which takes none as an argument."""
    set_controller(Controller)


__all__ = ["Controller", "install_controller"]
