"""A trial in a pack: its experiment, and its folder, which the pack holds."""

from __future__ import annotations

import contextlib
import time
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from jax_party.errors import TrainingDiverged
from jax_party.store.storage import store_of
from jax_party.trial.holding import held
from jax_party.trial.mirror import Mirror
from launcher.work.population import Inheritance

LOCK_WAIT_S = 60.0


class Member:
    """A trial in a pack."""

    def __init__(self, trial_id: str, inherited: Inheritance | None) -> None:
        self.trial_id = trial_id
        self.inherited = inherited
        self.experiment: Any = None
        self.folder: Path | None = None
        self.mirror: Mirror | None = None
        self.asked: Future[dict[str, Any]] | None = None
        self.over = False
        self.seen = time.monotonic()
        self.held = contextlib.ExitStack()

    def take(self, folder: Path) -> Path:
        """Hold the trial's folder, so that nobody else writes to it, and return the local folder to run it in."""
        self.held.enter_context(held(folder, timeout=LOCK_WAIT_S))
        self.folder = store_of(folder).on_disk(folder)
        if self.folder is None:
            self.mirror = Mirror(folder)
            self.folder = self.mirror.open()
        return self.folder

    def push(self) -> None:
        """Start to upload new files, if the trial's folder is on remote storage."""
        if self.mirror is not None:
            self.mirror.push()

    def put_away(self, outcome: dict[str, Any] | BaseException) -> dict[str, Any] | BaseException:
        """Start to upload a period's files, and wait for the upload at the end of the trial.

        Returns:
          The outcome of the period, or the error if the upload failed.
        """
        ended = isinstance(outcome, TrainingDiverged) or (isinstance(outcome, dict) and bool(outcome.get("finished")))
        if self.mirror is None or (isinstance(outcome, BaseException) and not ended):
            return outcome
        try:
            self.mirror.push()
            if ended:
                self.mirror.wait()
        except Exception as error:
            return error
        return outcome

    def close(self) -> None:
        """Close the experiment and release the trial's folder."""
        with self.held:
            experiment, self.experiment = self.experiment, None
            mirror, self.mirror = self.mirror, None
            try:
                if experiment is not None:
                    experiment.close()
            finally:
                if mirror is not None:
                    mirror.close()
