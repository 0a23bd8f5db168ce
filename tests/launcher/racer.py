"""An experiment of one step whose score on a seed is known: for races. It does no work, and writes its folder.

`JAX_PARTY_RACER` (JSON): `noise`, the spread of the seeds; `fail`, trial numbers that fail.
"""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

import numpy as np

from jax_party.config import ExperimentConfig, make_budget
from jax_party.errors import TrainingDiverged
from jax_party.trial.folder import read_record, update_record
from jax_party.trial.metrics import append_metrics
from jax_party.trial.provenance import utc_timestamp
from jax_party.trial.states import FINISHED, State


def score(actor_lr: float, seed: int, noise: float = 1.0) -> float:
    """20 at a learning rate of 1e-3, 10 less for each factor of ten; and noise that belongs to seed and rate."""
    generator = np.random.default_rng([seed, round(actor_lr * 1e9)])
    return 20.0 - 10.0 * abs(math.log10(actor_lr) + 3.0) + noise * float(generator.normal())


class Racer:
    width = num_learners = 1

    def __init__(self, config: ExperimentConfig, folder: Path) -> None:
        self._config, self._folder = config, folder
        self._steps = make_budget(config).num_evaluations * make_budget(config).steps_per_evaluation
        record = read_record(folder)
        if record.state not in FINISHED:
            update_record(folder, state=State.RUNNING, attempts=record.attempts + 1, started_at=utc_timestamp())

    def step(self) -> dict[str, Any]:
        steer = json.loads(os.environ.get("JAX_PARTY_RACER", "{}"))
        record = read_record(self._folder)
        if record.state not in FINISHED:
            if record.number in steer.get("fail", []):
                update_record(self._folder, state=State.FAILED, error="TrainingDiverged: nan")
                raise TrainingDiverged("nan")
            rate, noise = self._config.system.actor_lr, steer.get("noise", 1.0)
            seeds = range(record.seed, record.seed + record.num_seeds)
            scores = {seed: score(rate, seed, noise) for seed in seeds}
            rows = [
                {"evaluation": 1, "step": self._steps, "seed": seed, "evaluate": {"episode_return": value}} | flags
                for flags in ({}, {"final": True}, {"absolute": True})
                for seed, value in scores.items()
            ]
            append_metrics(self._folder, *rows)
            mean = float(np.mean(list(scores.values())))
            update_record(
                self._folder, state=State.COMPLETE, env_steps=self._steps, ended_at=utc_timestamp(),
                final_metrics={"episode_return": mean}, absolute_metrics={"episode_return": mean},
            )  # fmt: skip
        return {"env_steps": self._steps, "evaluation": 1, "episode_return": 0.0, "steps_per_second": 1.0,
                "finished": True}  # fmt: skip

    def close(self) -> None:
        pass
