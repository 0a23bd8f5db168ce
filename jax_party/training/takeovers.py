"""Takeovers in a population, which a trial that resumes before them repeats exactly."""

from __future__ import annotations

import logging
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jax_party.errors import CheckpointError
from jax_party.training.checkpoint_files import START_AGAIN, Checkpoints
from jax_party.training.learner import Learner, with_keys_of
from jax_party.trial.folder import takeover_folder
from jax_party.trial.record import TrialRecord

_logger = logging.getLogger(__name__)


class Takeovers:
    """The takeovers in a trial's lineage at the step where it resumes, and those that come later.

    Args:
      folder: the trial's folder.
      record: its record.
      env_steps: where the trial resumes.

    Raises:
      CheckpointError: the learner of one of them no longer exists.
    """

    def __init__(self, folder: Path, record: TrialRecord, env_steps: int) -> None:
        self._folder = folder
        self._to_come = [takeover for takeover in record.lineage if takeover.step >= env_steps]
        for takeover in self._to_come:
            learner = takeover_folder(folder, takeover.step)
            if not learner.is_dir():
                raise CheckpointError(
                    f"{learner}: the learner that was taken over after step {env_steps} is missing; restore it, "
                    f"or {START_AGAIN}"
                )

    def __bool__(self) -> bool:
        """Return whether any are left."""
        return bool(self._to_come)

    def follow(
        self, env_steps: int, record: TrialRecord, learners: Sequence[Learner], checkpoints: Checkpoints, target: Any
    ) -> Mapping[str, Any] | None:
        """Repeat the takeover recorded at this step, if any.

        Args:
          env_steps: where the trial is.
          record: the trial's record.
          learners: the trial's learners, which continue from the other trial's.
          checkpoints: those of the trial.
          target: the structure of a checkpoint (`checkpoint_target`).

        Returns:
          The hyperparameters that the trial had from here on; None if they are the present ones.
        """
        here = [takeover for takeover in self._to_come if takeover.step == env_steps]
        later = [takeover for takeover in self._to_come if takeover.step > env_steps]
        if here:
            tree = checkpoints.restore_from(takeover_folder(self._folder, env_steps), target)
            own = zlib.crc32(record.trial_id.encode())  # its own random numbers, also for the environments
            for learner, taken in zip(learners, tree["learners"], strict=True):
                learner.state = with_keys_of(taken["state"], own)
            _logger.info("%s: took over %s at step %d", record.trial_id, here[-1].source, env_steps)
        self._to_come = later
        if not here and not later:
            return None
        return later[0].hyperparameters if later else record.hyperparameters


__all__ = ["Takeovers"]
