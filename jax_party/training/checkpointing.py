"""What a checkpoint holds, how often one is written, and how training resumes from it; `checkpoint_files` is on disk.

Whatever changes during training and is not in a checkpoint is lost when the trial resumes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from jax_party.config import Budget
from jax_party.config.experiment import CheckpointingConfig
from jax_party.systems.base import Hyper
from jax_party.training.learner import Learner, first_nonfinite
from jax_party.training.program import Program
from jax_party.training.recorder import VAULT_KINDS, Recorder, progress_target, vault_steps


def is_due(config: CheckpointingConfig, evaluations: int, budget: Budget) -> bool:
    """Return whether a checkpoint is written after so many evaluations: every few, and after the last one."""
    if not config.save_model:
        return False
    return evaluations % config.save_args.save_interval_steps == 0 or evaluations == budget.num_evaluations


def checkpoint_tree(learners: Sequence[Learner], recorder: Recorder) -> dict[str, Any]:
    """Return the contents of a checkpoint; `checkpoint_target` has the same structure."""
    of_learners = [
        {
            "state": learner.state,
            "best_params": learner.best_params,
            "best_value": np.asarray(learner.best_value, np.float64),
            "vault_steps": vault_steps(vaults),
        }
        for learner, vaults in zip(learners, recorder.vaults, strict=True)
    ]
    return {"learners": of_learners, "progress": recorder.progress()}


def checkpoint_target(program: Program, hyper: Hyper, num_learners: int) -> dict[str, Any]:
    """Return the structure of `checkpoint_tree`, with shapes for arrays."""
    shape = program.state_shape(hyper)
    learner = {
        "state": shape,
        "best_params": shape.params,
        "best_value": np.zeros((), np.float64),
        "vault_steps": dict.fromkeys(VAULT_KINDS, np.zeros((), np.int64)),
    }
    return {"learners": [learner] * num_learners, "progress": progress_target()}


def why_unfit(tree: dict[str, Any], recorder: Recorder) -> str | None:
    """Return why training cannot resume from a checkpoint; None if it can.

    It cannot if a parameter is not finite, or if a vault has lost steps since the checkpoint was saved.
    """
    for kept in tree["learners"]:
        parameter = first_nonfinite(kept["state"].params)
        if parameter is not None:
            return f"cannot continue: {parameter} is not finite"
    return recorder.behind(kept["vault_steps"] for kept in tree["learners"])


def take_up(tree: dict[str, Any], learners: Sequence[Learner], recorder: Recorder) -> None:
    """Put a checkpoint's contents into the learners and the recorder."""
    for learner, kept in zip(learners, tree["learners"], strict=True):
        learner.state, learner.best_params = kept["state"], kept["best_params"]
        learner.best_value = float(kept["best_value"])
    recorder.go_on_from(tree["progress"], [kept["vault_steps"] for kept in tree["learners"]])


__all__ = ["checkpoint_target", "checkpoint_tree", "is_due", "take_up", "why_unfit"]
