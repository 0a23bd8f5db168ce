"""The step budget in whole updates and whole evaluation periods."""

from __future__ import annotations

import dataclasses
import math

from jax_party.config.experiment import ExperimentConfig


@dataclasses.dataclass(frozen=True)
class Budget:
    """The step budget in whole update periods.

    Attributes:
      steps_per_update: environment steps per update (all environments together).
      updates_per_evaluation: updates per evaluation period.
      num_evaluations: evaluation periods.
      requested_steps: the steps that the config requests.
    """

    steps_per_update: int
    updates_per_evaluation: int
    num_evaluations: int
    requested_steps: int

    @property
    def num_updates(self) -> int:
        """Updates in the whole budget."""
        return self.updates_per_evaluation * self.num_evaluations

    @property
    def total_steps(self) -> int:
        """Environment steps in the whole budget, at least as many as requested."""
        return self.num_updates * self.steps_per_update

    @property
    def steps_per_evaluation(self) -> int:
        """Environment steps per evaluation period."""
        return self.updates_per_evaluation * self.steps_per_update

    def note(self, asked_evaluations: int) -> str | None:
        """Return how the budget differs from the request, or None."""
        if self.total_steps == self.requested_steps and self.num_evaluations == asked_evaluations:
            return None
        return (
            f"budget of {self.requested_steps:,} steps in {asked_evaluations} evaluations becomes "
            f"{self.total_steps:,} steps in {self.num_evaluations}: whole updates of {self.steps_per_update:,} steps"
        )


def make_budget(config: ExperimentConfig) -> Budget:
    """Return the step budget of an experiment, in whole evaluation periods of whole updates."""
    system, arch = config.system, config.arch
    per_update = arch.num_envs * system.update_batch_size * system.rollout_length
    return whole_budget(per_update, system.total_timesteps, system.num_updates, arch.num_evaluation)


def whole_budget(per_update: int, total_timesteps: int | None, num_updates: int | None, num_evaluation: int) -> Budget:
    """Round a step budget up to whole evaluation periods of whole updates.

    Periods have equal length, at least one update each; there are fewer than `num_evaluation` of them if that many
    would overshoot the budget by a whole period or more.

    Args:
      per_update: environment steps per update.
      total_timesteps: the requested steps; None for `num_updates` updates.
      num_updates: read if `total_timesteps` is None.
      num_evaluation: the requested evaluations.
    """
    requested = total_timesteps
    if requested is None:
        assert num_updates is not None
        requested = num_updates * per_update
    updates = math.ceil(requested / per_update)
    per_evaluation = math.ceil(updates / min(num_evaluation, updates))
    return Budget(per_update, per_evaluation, math.ceil(updates / per_evaluation), requested)
