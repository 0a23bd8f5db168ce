"""The Tune trainable: one step an evaluation period, one warm process for many trials.

The trial's folder is the truth: a worker that takes a trial resumes from what is in it, whoever had it
before. Tune's checkpoints hold only a marker.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import logging
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from ray import tune

from jax_party import records
from jax_party.errors import ConfigError, SweepError, TrainingDiverged
from jax_party.records import State
from launcher.resources import prepare_worker

EXPERIMENT_VARIABLE = "JAX_PARTY_EXPERIMENT"
DEFAULT_EXPERIMENT = "jax_party.training:Experiment"
LOCK_WAIT_S = 60.0
MARKER_FILE = "trial.json"

logger = logging.getLogger(__name__)


class ExperimentLike(Protocol):
    """What the trainable asks of an experiment; `jax_party.training.Experiment` is the real one."""

    def step(self) -> dict[str, Any]:
        """Play one evaluation period; a flat dict with `env_steps`, `finished` and the metrics."""

    def close(self) -> None:
        """Let go of files and threads; calling it again does nothing."""


class ExperimentTrainable(tune.Trainable):
    """Runs planned trials by their ids.

    Config keys: `trial_id`; `sweep`, the sweep's folder; `metric`, the objective's; `cores`, those to choose
    from, and `core_wait_s`, how long to wait for one; `uses_gpu`; and `experiment`, `module:factory` of what to
    run (for tests and benchmarks: a factory takes a parsed config and a folder).
    """

    def setup(self, config: dict[str, Any]) -> None:
        """Take a core; the trial itself is opened by the first step."""
        if not hasattr(self, "_core"):
            self._core = prepare_worker(config["cores"], config["uses_gpu"], config["core_wait_s"])
        self._experiment: ExperimentLike | None = None
        self._held = contextlib.ExitStack()
        self._last: dict[str, Any] = {"env_steps": 0}

    def step(self) -> dict[str, Any]:
        """Train and evaluate one period. A diverged trial is done, with its record FAILED already."""
        try:
            if self._experiment is None:
                self._experiment = self._open()
            result = self._experiment.step()
        except (ConfigError, TrainingDiverged) as error:  # trying again would give the same
            logger.warning("%s: %s", self.config["trial_id"], error)
            self._fail(error)
            return {"done": True, "diverged": True, "env_steps": self._last["env_steps"]}
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
        """Close the experiment and let go of the trial's folder."""
        with self._held:
            if self._experiment is not None:
                self._experiment.close()
                self._experiment = None

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """A marker: which trial, how far. The checkpoint itself is in the trial's folder."""
        marker = {"trial_id": self.config["trial_id"], "env_steps": self._last["env_steps"]}
        Path(checkpoint_dir, MARKER_FILE).write_text(json.dumps(marker), encoding="utf-8")

    def load_checkpoint(self, checkpoint: Any) -> None:
        """Nothing to load: the experiment resumes from the trial's folder."""

    def _open(self) -> ExperimentLike:
        from jax_party.config import parse_config

        folder = Path(self.config["sweep"]) / self.config["trial_id"]
        self._held.enter_context(records.lock_folder(folder, timeout=LOCK_WAIT_S))
        factory = load_factory(self.config.get("experiment") or DEFAULT_EXPERIMENT)
        return factory(parse_config(records.read_config(folder)), folder)

    def _fail(self, error: Exception) -> None:
        """See to it that the record says FAILED, and why."""
        folder = Path(self.config["sweep"]) / self.config["trial_id"]
        if records.read_record(folder).state not in records.FINISHED:
            reason = f"{type(error).__name__}: {str(error).splitlines()[0]}"
            records.update_record(folder, state=State.FAILED, error=reason, ended_at=records.timestamp())

    def _check_metric(self, result: dict[str, Any]) -> None:
        metric = self.config["metric"]
        if metric not in result:
            known = ", ".join(sorted(key for key, value in result.items() if isinstance(value, float)))
            raise SweepError(f"objective {metric}: no such metric; choose one of {known}")
        if not math.isfinite(result[metric]):
            logger.warning("%s: %s is not finite", self.config["trial_id"], metric)


def load_factory(name: str) -> Callable[..., ExperimentLike]:
    """What `module:factory` names.

    Raises:
      SweepError: there is no such thing.
    """
    module, _, attribute = name.partition(":")
    try:
        factory: Callable[..., ExperimentLike] = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise SweepError(f"{EXPERIMENT_VARIABLE}={name}: cannot be loaded: {error}") from error
    return factory


def chosen_experiment() -> str | None:
    """The stand-in that tests and benchmarks put into the environment, or None."""
    return os.environ.get(EXPERIMENT_VARIABLE) or None
