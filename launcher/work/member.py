"""A trial in a pack: its folder, held, and its experiment."""

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
        """Take the trial, so that nobody else writes in its folder; the local folder to play it in."""
        self.held.enter_context(held(folder, timeout=LOCK_WAIT_S))
        self.folder = store_of(folder).on_disk(folder)
        if self.folder is None:
            self.mirror = Mirror(folder)
            self.folder = self.mirror.open()
        return self.folder

    def push(self) -> None:
        """Begin to put what is new in the folder where it belongs."""
        if self.mirror is not None:
            self.mirror.push()

    def put_away(self, outcome: dict[str, Any] | BaseException) -> dict[str, Any] | BaseException:
        """Put what a period gave where it belongs, and at the trial's end wait for it; the outcome, or what failed."""
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
        """Close the experiment and let go of the trial's folder."""
        with self.held:
            experiment, self.experiment = self.experiment, None
            mirror, self.mirror = self.mirror, None
            try:
                if experiment is not None:
                    experiment.close()
            finally:
                if mirror is not None:
                    mirror.close()
