"""Checkpoints on disk, with Orbax: one folder per step, written whole or not at all."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import jax
import orbax.checkpoint as ocp

from jax_party.errors import CheckpointError
from jax_party.store.retry import refusal
from jax_party.trial.folder import TAKEOVER

_UNREADABLE: Final = (ValueError, KeyError, TypeError, AttributeError, OSError, EOFError)
"""What Orbax and TensorStore raise if a file of a checkpoint is missing, truncated, or holds something else."""

START_AGAIN: Final = "remove the trial's checkpoints, metrics and vaults to train it again"
"""The remedy when files are lost."""

_logger = logging.getLogger(__name__)


class Checkpoints:
    """A trial's checkpoints, `<folder>/<step>/`.

    Args:
      folder: where they are kept.
      max_to_keep: how many of the newest are kept.
      read_only: do not remove unfinished checkpoints, which another process may be writing.

    Attributes:
      passed_over: why the last `restore` skipped newer checkpoints, newest first.
    """

    def __init__(self, folder: Path, max_to_keep: int, *, read_only: bool = False) -> None:
        self.folder = folder.resolve()
        self.passed_over: list[str] = []
        self._max_to_keep = max_to_keep
        self._checkpointer = ocp.StandardCheckpointer()
        if not read_only:
            self._remove_unfinished()

    def steps(self) -> list[int]:
        """Return the steps that have a complete checkpoint, oldest first."""
        if not self.folder.is_dir():
            return []
        return sorted(int(path.name) for path in self.folder.iterdir() if path.name.isdigit())

    def save(self, step: int, tree: Any) -> Path:
        """Write a checkpoint and remove those beyond `max_to_keep`; the new one is on disk when this returns.

        Checkpoints of later steps, which `restore` skipped, are removed too.
        """
        path = self.folder / str(step)
        try:  # one fetch of the whole tree: Orbax would fetch arrays singly, with twice the files and CPU time
            self._checkpointer.save(path, jax.device_get(tree), force=True)
            self._checkpointer.wait_until_finished()
        except BaseException:
            self._remove_unfinished()
            raise
        steps = self.steps()
        kept = [other for other in steps if other <= step][-self._max_to_keep :]
        for old in {*steps} - {*kept}:
            shutil.rmtree(self.folder / str(old))
        for taken in self.folder.glob(f"{TAKEOVER}*"):  # a kept checkpoint may need it when the trial resumes from it
            if int(taken.name.removeprefix(TAKEOVER)) < kept[0]:
                shutil.rmtree(taken)
        return path

    def restore_from(self, path: Path, target: Any) -> Any:
        """Return the contents of another trial's checkpoint.

        Args:
          path: where a copy of it lies.
          target: as for `restore`.

        Raises:
          CheckpointError: it cannot be read.
        """
        try:
            return self._checkpointer.restore(path.resolve(), target)
        except _UNREADABLE as error:
            if refusal(error) is not None:
                raise
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise CheckpointError(
                f"{path}: the learner that was taken over cannot be read ({reason}); restore it, or {START_AGAIN}"
            ) from error

    def restore(self, target: Any, misfit: Callable[[Any], str | None] = lambda tree: None) -> tuple[int, Any] | None:
        """Return the newest checkpoint that can be read and fits, as (step, tree); None if there is none.

        A checkpoint that cannot be read, or does not fit, is skipped with a warning in favour of the one before it.

        Args:
          target: a tree of arrays or `jax.ShapeDtypeStruct`s of the same structure, with shardings.
          misfit: returns why a tree does not fit the other files in the trial's folder; None if it does.

        Raises:
          CheckpointError: there are checkpoints, and none can be read.
        """
        self.passed_over = []
        steps, unreadable = self.steps(), 0
        for step in reversed(steps):
            try:
                tree = self._checkpointer.restore(self.folder / str(step), target)
            except _UNREADABLE as error:
                if refusal(error) is not None:
                    raise
                unreadable += 1
                lines = str(error).splitlines() or [type(error).__name__]
                problem: str | None = f"cannot be read ({lines[0][:200]})"
            else:
                problem = misfit(tree)
                if problem is None:
                    return step, tree
            self.passed_over.append(f"checkpoint {step} {problem}")
            _logger.warning("%s: %s; trying the one before", self.folder, self.passed_over[-1])
        if steps and unreadable == len(steps):
            raise CheckpointError(
                f"{self.folder}: none of the checkpoints {steps} can be read; restore them, or {START_AGAIN}"
            )
        return None

    def _remove_unfinished(self) -> None:
        """Remove the remains of checkpoints that a kill or a full disk interrupted."""
        for path in self.folder.glob("*.orbax-checkpoint-tmp*"):
            shutil.rmtree(path, ignore_errors=True)

    def close(self) -> None:
        """Release Orbax's threads."""
        self._checkpointer.close()
