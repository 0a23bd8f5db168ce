"""Tracking with Weights & Biases or MLflow: Tune's own callbacks, with our names and values.

Nothing is sent unless `TRACK` asks for it. The packages themselves read their keys from the environment.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import logging
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from jax_party.errors import SweepError
from jax_party.store.storage import store_of
from launcher.ask.choices import Track
from launcher.show.progress import Progress

WANDB_KEY = "WANDB_API_KEY"
PROJECT = "jax-party"

logger = logging.getLogger(__name__)


def check_tracking(track: Track | None) -> None:
    """Check that the package is installed and, for W&B, has a key.

    Raises:
      SweepError: something is missing; the message says what to do.
    """
    if track is None:
        return
    if importlib.util.find_spec(track.value) is None:
        raise SweepError(f"TRACK={track}: the package {track} is not installed; make setup EXTRA={track}")
    sends = track is Track.WANDB and os.environ.get("WANDB_MODE") not in ("offline", "disabled")
    if sends and not os.environ.get(WANDB_KEY):
        raise SweepError(f"TRACK=wandb: {WANDB_KEY} is not set; set it, or WANDB_MODE=offline to keep runs here")


def make_tracker(track: Track, folder: Path, progress: Progress) -> Any:
    """Return the tracking callback for Tune.

    Args:
      track: the service.
      folder: the sweep's folder, where local files are written.
      progress: the sweep's progress.

    Raises:
      SweepError: MLflow has no server although the sweep's folder is remote.
    """

    def facts(trial: Any) -> dict[str, Any]:
        row = progress.row(trial.config["trial_id"])
        known = {"trial_id": row.trial_id, "number": row.number, "algorithm": row.algorithm, "scenario": row.scenario}
        return {**row.hyperparameters, **known}

    make = _make_wandb if track is Track.WANDB else _make_mlflow
    return make(folder, progress.name, facts)


def _make_wandb(folder: Path, sweep: str, facts: Callable[[Any], dict[str, Any]]) -> Any:
    from ray.air.integrations.wandb import WandbLoggerCallback

    class WandbTracker(WandbLoggerCallback):
        """Tune's callback, with the hyperparameters as the run's config."""

        def _start_logging_actor(self, trial: Any, exclude_results: list[str], **settings: Any) -> None:
            settings["config"] = facts(trial)
            with _hidden(WANDB_KEY):  # Ray would write it to its files; its processes inherit it
                super()._start_logging_actor(trial, exclude_results, **settings)

    here = store_of(folder).on_disk(folder)
    return WandbTracker(
        project=os.environ.get("WANDB_PROJECT", PROJECT),
        group=sweep,
        dir=os.environ.get("WANDB_DIR", here and str(here)),
    )


@contextlib.contextmanager
def _hidden(name: str) -> Iterator[None]:
    value = os.environ.pop(name, None)
    try:
        yield
    finally:
        if value is not None:
            os.environ[name] = value


def _make_mlflow(folder: Path, sweep: str, facts: Callable[[Any], dict[str, Any]]) -> Any:
    from ray.air.integrations.mlflow import MLflowLoggerCallback

    class MlflowTracker(MLflowLoggerCallback):
        """Tune's callback, with the hyperparameters as the run's parameters; a server's errors do not stop a sweep."""

        @_going_on
        def log_trial_start(self, trial: Any) -> None:
            """Start a run, unless the trial has one."""
            if trial not in self._trial_runs:
                name = trial.config["trial_id"]
                run = self.mlflow_util.start_run(tags={"sweep": sweep, "trial_name": name}, run_name=name)
                self._trial_runs[trial] = run.info.run_id
                self.mlflow_util.log_params(run_id=run.info.run_id, params_to_log=facts(trial))

        @_going_on
        def log_trial_result(self, iteration: int, trial: Any, result: dict[str, Any]) -> None:
            """Log the metrics of an evaluation."""
            super().log_trial_result(iteration, trial, result)

        @_going_on
        def log_trial_end(self, trial: Any, failed: bool = False) -> None:
            """End the run."""
            super().log_trial_end(trial, failed)

    here = store_of(folder).on_disk(folder)
    local = here and (here.absolute() / "mlruns").as_uri()
    where = os.environ.get("MLFLOW_TRACKING_URI") or local
    if where is None:
        raise SweepError(f"TRACK=mlflow: {folder} is remote; set MLFLOW_TRACKING_URI to MLflow's server")
    if where == local:
        os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
    return MlflowTracker(tracking_uri=where, experiment_name=os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT))


def _going_on(method: Callable[..., None]) -> Callable[..., None]:
    """Wrap a method so that its errors are logged instead of raised."""

    @functools.wraps(method)
    def call(*arguments: Any, **named: Any) -> None:
        try:
            method(*arguments, **named)
        except Exception as error:
            logger.warning("TRACK: %s: %s", method.__name__, error)

    return call
