"""Tune's own trials without Ray: as its controller makes them and its callbacks are told of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from ray.train._internal.storage import StorageContext
from ray.tune.experiment import Trial

MAX_FAILURES = 2


class Clock:
    """Seconds that pass only when a test says so."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def without_ray(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """Give Tune a folder for the driver's files, and the numbers that it would ask Ray for."""
    monkeypatch.setattr("ray.train._internal.storage._get_ray_train_session_dir", lambda: str(folder / "session"))
    monkeypatch.setenv("TUNE_MAX_PENDING_TRIALS_PG", "4")
    monkeypatch.setenv("TUNE_PRINT_ALL_TRIAL_ERRORS", "0")


def make_trial(folder: Path, trial_id: str, **config: Any) -> Trial:
    """A trial as `run_in_tune` has Tune make it, with the folder in which the driver keeps its errors."""
    trial = Trial(
        "no-trainable", stub=True, max_failures=MAX_FAILURES,
        config={"trial_id": trial_id, "workers": None, "failed": False} | config,
        storage=StorageContext(str(folder), "tune", trial_dir_name=trial_id),
    )  # fmt: skip
    trial.init_local_path()
    return trial
