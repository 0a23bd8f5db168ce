"""Trials that do no work, to measure the overhead of a sweep.

`JAX_PARTY_EXPERIMENT=launcher.work.no_work:NoWork` replaces training by them; `measure` does so and returns the
overhead. For benchmarks only.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from jax_party.config import ExperimentConfig, make_budget
from jax_party.errors import SweepError
from jax_party.trial.folder import read_record, update_record
from jax_party.trial.metrics import append_metrics
from jax_party.trial.provenance import utc_timestamp
from jax_party.trial.record import spans_until_now
from jax_party.trial.states import FINISHED, State
from launcher.ask.experiment_factory import EXPERIMENT_VARIABLE


class NoWork:
    """An experiment that trains nothing, but writes its folder like a real one except for checkpoints and vaults."""

    width = num_learners = 1

    def __init__(self, config: ExperimentConfig, folder: Path) -> None:
        self._folder = folder
        self._budget = make_budget(config)
        self._record = read_record(folder)
        self._since = utc_timestamp()
        if self._record.state not in FINISHED:
            self._record = update_record(
                folder, state=State.RUNNING, attempts=self._record.attempts + 1, started_at=self._since
            )

    def step(self) -> dict[str, Any]:
        """Record the next period as trained, and return its result."""
        if self._record.state not in FINISHED:
            steps = self._record.env_steps + self._budget.steps_per_evaluation
            row = {"evaluation": self._evaluation(steps), "step": steps, "seed": self._record.seed,
                   "evaluate": {"episode_return": 0.0}}  # fmt: skip
            append_metrics(self._folder, row)
            changes: dict[str, Any] = {"env_steps": steps}
            changes["spans"] = spans_until_now(self._record, self._since)
            if self._evaluation(steps) == self._budget.num_evaluations:
                changes |= {"state": State.COMPLETE, "ended_at": utc_timestamp()}
            self._record = update_record(self._folder, **changes)
        steps, finished = self._record.env_steps, self._record.state in FINISHED
        return {"evaluation": self._evaluation(steps), "env_steps": steps, "episode_return": 0.0, "finished": finished}

    def _evaluation(self, steps: int) -> int:
        return steps // self._budget.steps_per_evaluation

    def close(self) -> None:
        """Do nothing; there is nothing to close."""


@dataclass(frozen=True)
class Overhead:
    """The cost of a sweep of no-work trials, in seconds.

    `per_trial_s` is a worker's time from the end of one trial to the end of the next; `startup_s` is the time before
    the first trial starts; `wall_s` is the time of the whole command.
    """

    trials: int
    workers: int
    per_trial_s: float
    startup_s: float
    wall_s: float


def measure(out: Path, trials: int = 8, workers: int = 1, timeout_s: float = 300.0) -> Overhead:
    """Run a sweep of no-work trials under `out` as a user would, and time it.

    Raises:
      SweepError: the sweep failed, or there are not more trials than workers.
    """
    if trials <= workers:
        raise SweepError(f"trials: expected more than workers ({workers}), got {trials}")
    command = [sys.executable, "-m", "launcher.sweep", "ALG=mappo", f"SAMPLES={trials}", f"WORKERS={workers}",
               f"OUT={out}", "TIMESTEPS=1"]  # fmt: skip
    environment = os.environ | {EXPERIMENT_VARIABLE: "launcher.work.no_work:NoWork"}
    began, clock = time.time(), time.perf_counter()
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=timeout_s, check=False)
    wall = time.perf_counter() - clock
    found = [read_record(path.parent) for path in out.glob("*/*/*/*/record.json")]
    ended = sorted(_seconds(record.ended_at) for record in found if record.state is State.COMPLETE)
    if done.returncode or len(ended) != trials:
        raise SweepError(f"{len(ended)} of {trials} no-work trials completed: {done.stdout[-500:]}{done.stderr[-500:]}")
    startup = min(_seconds(record.started_at) for record in found) - began
    return Overhead(trials, workers, (ended[-1] - ended[0]) * workers / (trials - 1), startup, wall)


def _seconds(moment: str | None) -> float:
    assert moment is not None
    return datetime.fromisoformat(moment).timestamp()
