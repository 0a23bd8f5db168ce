"""An experiment with a known optimum, for searchers and schedulers: cheap, with a state that can be taken over.

What it has learned is a sum over periods. A period adds `gain(hyperparameters)`, at most 1, which it is at a learning
rate and an entropy coefficient of 1e-3. In scenario p-no-rank the best learning rate is 3e-3.
"""

from __future__ import annotations

import json
import math
import os
import shutil
from pathlib import Path
from typing import Any

from jax_party.config import ExperimentConfig, make_budget
from jax_party.errors import TrainingDiverged
from jax_party.trial.folder import read_record, takeover_folder, update_record
from jax_party.trial.metrics import append_metrics, truncate_metrics
from jax_party.trial.provenance import utc_timestamp
from jax_party.trial.states import FINISHED, State


def gain(actor_lr: float, ent_coef: float, scenario: str = "p-base") -> float:
    best = math.log10(3e-3) if scenario == "p-no-rank" else -3.0
    return math.exp(-2.0 * (math.log10(actor_lr) - best) ** 2 - 0.5 * (math.log10(ent_coef) + 3.0) ** 2)


def cooperation(ent_coef: float) -> float:
    """From 0 at 1e-4 to 1 at 1e-2: at the optimum of `gain` it is a half."""
    return (math.log10(ent_coef) + 4.0) / 2.0


def equality(actor_lr: float) -> float:
    """From 1 at 1e-4 to 0 at 1e-2: what favours it takes from `gain` below 1e-3."""
    return -(math.log10(actor_lr) + 2.0) / 2.0


class Synthetic:
    width = num_learners = 1

    def __init__(self, config: ExperimentConfig, folder: Path) -> None:
        self._folder = folder
        self._config = config
        self._budget = make_budget(config)
        self._record = read_record(folder)
        self.learned = 0.0
        self.periods = 0
        if self._record.checkpoint:
            self.periods, self.learned = _read(folder / self._record.checkpoint)
        lineage = self._record.lineage
        if lineage and lineage[-1].step == self._step():
            _, self.learned = _read(takeover_folder(folder, self._step()))
        truncate_metrics(folder, self._step())
        if self._record.state not in FINISHED:
            self._update(state=State.RUNNING, attempts=self._record.attempts + 1, started_at=utc_timestamp())

    def step(self) -> dict[str, Any]:
        if self._record.state not in FINISHED:
            self._play()
        return {"env_steps": self._step(), "evaluation": self.periods, **self._metrics(),
                "steps_per_second": 1000.0, "finished": self._record.state in FINISHED}  # fmt: skip

    def close(self) -> None:
        pass

    def _play(self) -> None:
        system = self._config.system
        if self._record.number in json.loads(os.environ.get("JAX_PARTY_DIVERGE", "[]")) and self.periods == 1:
            self._update(state=State.FAILED, error="TrainingDiverged: nan", ended_at=utc_timestamp())
            raise TrainingDiverged("nan")
        self.learned += gain(system.actor_lr, system.ent_coef, self._config.env.scenario.task_name)
        self.periods += 1
        metrics = self._metrics()
        row = {"evaluation": self.periods, "step": self._step(), "seed": 0, "wall_time_s": 0.0,
               "evaluate": metrics, "episodes": {}, "train": {}}  # fmt: skip
        append_metrics(self._folder, row)
        checkpoint = self._folder / "checkpoints" / str(self._step())
        shutil.rmtree(checkpoint, ignore_errors=True)
        checkpoint.mkdir(parents=True)
        (checkpoint / "state.json").write_text(json.dumps([self.periods, self.learned]))
        changes: dict[str, Any] = {"env_steps": self._step(), "checkpoint": f"checkpoints/{self._step()}"}
        if self.periods == self._budget.num_evaluations:
            changes |= {"state": State.COMPLETE, "ended_at": utc_timestamp()}
            changes |= dict.fromkeys(("final_metrics", "absolute_metrics"), metrics)
        self._update(**changes)

    def _metrics(self) -> dict[str, float]:
        system = self._config.system
        return {"episode_return": self.learned, "equality": equality(system.actor_lr),
                "cooperation_rate": cooperation(system.ent_coef)}  # fmt: skip

    def _step(self) -> int:
        return self.periods * self._budget.steps_per_evaluation

    def _update(self, **changes: Any) -> None:
        self._record = update_record(self._folder, **changes)


def _read(folder: Path) -> tuple[int, float]:
    periods, learned = json.loads((folder / "state.json").read_text())
    return periods, learned
