"""An experiment that does no work but writes its folder as the real one does.

`JAX_PARTY_STANDIN` (JSON) steers it: `delay_s` a period; `die_at`, `raise_at`, `diverge_at`: a period in which
the first attempt of trial `number` (default 0) kills its process, raises, or diverges.
"""

from __future__ import annotations

import json
import math
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

from jax_party import records
from jax_party.config import ExperimentConfig, make_budget
from jax_party.errors import TrainingDiverged
from jax_party.records import State


class StandIn:
    """Its return rises with training towards a value that depends on the learning rate."""

    def __init__(self, config: ExperimentConfig, folder: Path) -> None:
        self._folder = folder
        self._budget = make_budget(config)
        self._lr = config.system.actor_lr
        self._steer = json.loads((folder.parent / "standin.json").read_text()) if (
            folder.parent / "standin.json"
        ).exists() else json.loads(os.environ.get("JAX_PARTY_STANDIN", "{}"))
        rows = records.read_metrics(folder)
        self._done = len(rows)
        record = records.read_record(folder)
        self._attempt = record.attempts + 1
        self._chosen = record.number == self._steer.get("number", 0)
        self.finished = record.state is State.COMPLETE
        if not self.finished:
            records.update_record(
                folder, state=State.RUNNING, attempts=self._attempt, device="cpu:1", error=None,
                started_at=record.started_at or records.timestamp(),
                host=records.provenance()["host"],
            )

    def step(self) -> dict[str, Any]:
        self._misbehave()
        time.sleep(self._steer.get("delay_s", 0.0))
        if not self.finished:
            self._done += 1
            self._record()
        steps = self._done * self._budget.steps_per_evaluation
        return {
            "env_steps": float(steps), "evaluation": float(self._done), "episode_return": self._value(),
            "steps_per_second": 10_000.0, "finished": self.finished,
        }  # fmt: skip

    def close(self) -> None:
        (self._folder / "closed").touch()

    def _value(self) -> float:
        target = 20.0 - 5.0 * abs(math.log10(self._lr) + 3.0)
        return target * (self._done / self._budget.num_evaluations)

    def _record(self) -> None:
        steps = self._done * self._budget.steps_per_evaluation
        row = {"evaluation": self._done, "step": steps, "seed": 0, "wall_time_s": 0.1 * self._done,
               "evaluate": {"episode_return": self._value()}, "episodes": {"episode_return": [self._value()]}}  # fmt: skip
        records.append_metrics(self._folder, row)
        changes: dict[str, Any] = {"env_steps": steps, "steps_per_second": 10_000.0, "duration_s": 0.1 * self._done}
        if self._done == self._budget.num_evaluations:
            self.finished = True
            changes |= {"state": State.COMPLETE, "ended_at": records.timestamp()}
            changes["absolute_metrics"] = {"episode_return": self._value()}
        records.update_record(self._folder, **changes)

    def _misbehave(self) -> None:
        period = self._done + 1
        if "jax" in sys.modules and self._steer.get("forbid_jax"):
            raise AssertionError("jax is imported")
        if not self._chosen:
            return
        if self._steer.get("raise_always") == period:
            raise RuntimeError("the disk is made of cheese\nand more lines")
        if self._attempt > 1:
            return
        if self._steer.get("die_at") == period:
            os.kill(os.getpid(), signal.SIGKILL)
        if self._steer.get("raise_at") == period:
            raise RuntimeError("the disk is made of cheese")
        if self._steer.get("diverge_at") == period:
            reason = "policy_loss is nan at 512 steps"
            records.update_record(self._folder, state=State.FAILED, error=reason, ended_at=records.timestamp())
            raise TrainingDiverged(reason)
