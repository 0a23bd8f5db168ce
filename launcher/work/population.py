"""How a trial of a population continues from another trial's learner, on disk.

The trial takes over the whole newest checkpoint of the other trial. A copy of it is kept beside the trial's own
checkpoints as `takeover.<step>`, and the record says so before anything is trained with it, so that a killed trial
takes it over again.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jax_party.config import with_values
from jax_party.errors import SweepError
from jax_party.store.files import write_yaml_atomically
from jax_party.store.local import aside
from jax_party.trial.folder import CONFIG_FILE, read_config, read_record, takeover_folder, update_record
from jax_party.trial.record import Takeover, TrialRecord
from jax_party.trial.states import FINISHED


@dataclass(frozen=True)
class Inheritance:
    """The learner that a trial continues from.

    Attributes:
      source: the other trial's id.
      source_step: environment steps that its learner has trained.
      learner: a copy of its checkpoint, on this node.
      hyperparameters: the values to continue with.
    """

    source: str
    source_step: int
    learner: Path
    hyperparameters: Mapping[str, Any]


def checkpoint_step(record: TrialRecord) -> int:
    """Return the environment steps at the trial's newest checkpoint; 0 if there is none."""
    return int(Path(record.checkpoint).name) if record.checkpoint else 0


def copy_learner(folder: Path, to: Path) -> int:
    """Copy a trial's newest checkpoint.

    Returns:
      The environment steps that it has trained.

    Raises:
      SweepError: the trial has no checkpoint.
    """
    record = read_record(folder)
    if record.checkpoint is None:
        raise SweepError(f"{record.trial_id}: has no checkpoint for another trial to continue from")
    shutil.copytree(folder / record.checkpoint, to)
    return checkpoint_step(record)


def take_over(folder: Path, given: Inheritance) -> TrialRecord:
    """Make a trial continue from another trial's learner, unless it has done so already.

    The checkpoint is copied first, then the record is written, and finally the config (`settle`).

    Raises:
      OSError, RecordError: a file cannot be read or written.
    """
    record = read_record(folder)
    done = {(takeover.source, takeover.source_step) for takeover in record.lineage}
    if record.state in FINISHED or (given.source, given.source_step) in done:
        return record
    step = checkpoint_step(record)
    # After a damaged checkpoint the trial may be back at an earlier step; later takeovers are then undone.
    lineage = tuple(one for one in record.lineage if one.step <= step)
    undone = record.lineage[len(lineage) :]
    until_then = undone[0].hyperparameters if undone else record.hyperparameters
    place = takeover_folder(folder, step)
    shutil.rmtree(place, ignore_errors=True)
    with aside(place, durable=False, name=f".{place.name}.new") as copy:
        shutil.copytree(given.learner, copy)
    lineage = (*lineage, Takeover(step, given.source, given.source_step, dict(until_then)))
    record = update_record(folder, lineage=lineage, hyperparameters=dict(given.hyperparameters))
    return settle(folder, record)


def settle(folder: Path, record: TrialRecord) -> TrialRecord:
    """Write the record's hyperparameters into the config, in case a kill came between the two writes.

    A trial whose checkpoints have been removed starts over with its first hyperparameters.
    """
    began = record.lineage[0].hyperparameters if record.lineage else None
    if began is not None and not (folder / "checkpoints").is_dir():
        record = update_record(folder, lineage=(), hyperparameters=dict(began), checkpoint=None)
    if began is not None:
        config = read_config(folder)
        changed = with_values(config, record.hyperparameters)
        if changed != config:
            write_yaml_atomically(folder / CONFIG_FILE, changed)
    return record


__all__ = ["Inheritance", "checkpoint_step", "copy_learner", "settle", "take_over"]
