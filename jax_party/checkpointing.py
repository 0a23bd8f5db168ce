"""Checkpoints: Orbax, one folder a step, whole or not there."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp

from jax_party.errors import CheckpointError
from jax_party.records import TAKEOVER

_logger = logging.getLogger(__name__)


class Checkpoints:
    """A trial's checkpoints, `<folder>/<step>/`.

    Args:
      folder: where they are kept.
      max_to_keep: how many of the newest stay.
    """

    def __init__(self, folder: Path, max_to_keep: int) -> None:
        self.folder = folder.resolve()
        self._max_to_keep = max_to_keep
        self._checkpointer = ocp.StandardCheckpointer()

    def steps(self) -> list[int]:
        """The steps that have a whole checkpoint, oldest first."""
        if not self.folder.is_dir():
            return []
        return sorted(int(path.name) for path in self.folder.iterdir() if path.name.isdigit())

    def save(self, step: int, tree: Any) -> Path:
        """Write a checkpoint and remove those past `max_to_keep`; the new one is on disk when this returns."""
        path = self.folder / str(step)
        # Fetched here at once: Orbax would fetch device arrays one by one, into twice the files and CPU time.
        self._checkpointer.save(path, jax.device_get(tree), force=True)
        self._checkpointer.wait_until_finished()
        steps = self.steps()
        for old in steps[: -self._max_to_keep]:
            shutil.rmtree(self.folder / str(old))
        for taken in self.folder.glob(f"{TAKEOVER}*"):  # a checkpoint that is kept may be taken up again with it
            if int(taken.name.removeprefix(TAKEOVER)) < steps[-self._max_to_keep :][0]:
                shutil.rmtree(taken)
        return path

    def restore_from(self, path: Path, target: Any) -> Any:
        """What another trial's checkpoint holds.

        Args:
          path: where a copy of it lies.
          target: as for `restore`.

        Raises:
          CheckpointError: it cannot be read.
        """
        try:
            return self._checkpointer.restore(path.resolve(), target)
        except Exception as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise CheckpointError(
                f"{path}: the learner that was taken over cannot be read ({reason}); restore it, or remove the trial's "
                "folder to train it again"
            ) from error

    def restore(self, target: Any) -> tuple[int, Any] | None:
        """The newest checkpoint that can be read, as (step, tree); None where there is none.

        A checkpoint that cannot be read is passed over with a warning, for the one before it.

        Args:
          target: a tree of arrays or `jax.ShapeDtypeStruct`s of the same structure, with shardings.

        Raises:
          CheckpointError: there are checkpoints, and none can be read.
        """
        steps = self.steps()
        for step in reversed(steps):
            try:
                return step, self._checkpointer.restore(self.folder / str(step), target)
            except Exception as error:
                reason = str(error).splitlines()[0] if str(error) else type(error).__name__
                _logger.warning(
                    "%s: checkpoint cannot be read (%s); trying the one before", self.folder / str(step), reason
                )
        if steps:
            raise CheckpointError(
                f"{self.folder}: none of the checkpoints {steps} can be read; restore them, or remove the trial's "
                "folder to train it again"
            )
        return None

    def close(self) -> None:
        """Release Orbax's threads."""
        self._checkpointer.close()
