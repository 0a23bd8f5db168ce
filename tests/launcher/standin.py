"""An experiment that does no work but writes its folder as the real one does.

`JAX_PARTY_STANDIN` (JSON) steers it: `delay_s`, the length of a period, and `faults`: trial number -> [kind, period],
where kind is, in the first attempt alone, `raise`, `hang`, `freeze` (its process stands still), `oom_kill` (as the
kernel ends a process) or `exhaust` (as XLA says that a device's memory is full); or `outage` (storage refuses for
`outage_s` seconds), `raise_always`, `diverge`, or `die_leaving` (its process ends as it lets go of the trial).
"""

from __future__ import annotations

import errno
import json
import math
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

from jax_party.config import ExperimentConfig, make_budget
from jax_party.errors import TrainingDiverged
from jax_party.trial import folder as trial_folder
from jax_party.trial.folder import read_record, update_record
from jax_party.trial.metrics import append_metrics, read_metrics
from jax_party.trial.provenance import current_provenance, utc_timestamp
from jax_party.trial.states import FINISHED, State


class StandIn:
    """Its return rises with training towards a value that depends on the learning rate: best at 1e-3."""

    width = num_learners = 1

    def __init__(self, config: ExperimentConfig, folder: Path) -> None:
        self._folder = folder
        self._budget = make_budget(config)
        self._lr = config.system.actor_lr
        self._steer = json.loads(os.environ.get("JAX_PARTY_STANDIN", "{}"))
        record = read_record(folder)
        self._fault = self._steer.get("faults", {}).get(str(record.number), ["none", 0])
        self._attempt = record.attempts + 1
        self._periods = len(read_metrics(folder))
        self.finished = record.state in FINISHED
        (folder / "pid").write_text(str(os.getpid()))
        with (folder / "pids").open("a") as pids:
            pids.write(f"{os.getpid()}\n")
        if not self.finished:
            update_record(
                folder, state=State.RUNNING, attempts=self._attempt, error=None, device=f"cpu:{len(cores())}",
                started_at=record.started_at or utc_timestamp(), host=current_provenance()["host"],
            )  # fmt: skip

    def step(self) -> dict[str, Any]:
        assert "jax" not in sys.modules, "nothing before the experiment may import jax"
        time.sleep(self._steer.get("delay_s", 0.0))
        self._misbehave(self._periods + 1)
        if not self.finished:
            self._periods += 1
            self._record()
        steps = self._periods * self._budget.steps_per_evaluation
        return {
            "env_steps": steps, "evaluation": self._periods, "episode_return": self._value(),
            "steps_per_second": 10_000.0, "finished": self.finished,
        }  # fmt: skip

    def close(self) -> None:
        (self._folder / "pid").unlink(missing_ok=True)
        if self._fault[0] == "die_leaving":
            os.kill(os.getpid(), signal.SIGKILL)

    def _value(self) -> float:
        return (20.0 - 5.0 * abs(math.log10(self._lr) + 3.0)) * self._periods / self._budget.num_evaluations

    def _record(self) -> None:
        value, steps = self._value(), self._periods * self._budget.steps_per_evaluation
        row = {"evaluation": self._periods, "step": steps, "seed": 0, "wall_time_s": 0.1,
               "evaluate": {"episode_return": value}, "episodes": {"episode_return": [value]},
               "train": whereabouts(self._folder)}  # fmt: skip
        append_metrics(self._folder, row)
        changes: dict[str, Any] = {"env_steps": steps, "steps_per_second": 10_000.0, "duration_s": 0.1}
        if self._periods == self._budget.num_evaluations:
            self.finished = True
            changes |= {"state": State.COMPLETE, "ended_at": utc_timestamp()}
            changes |= {name: {"episode_return": value} for name in ("final_metrics", "absolute_metrics")}
        update_record(self._folder, **changes)

    def _misbehave(self, period: int) -> None:
        kind, when = self._fault
        if when != period:
            return
        if kind == "raise_always" or (kind == "raise" and self._attempt == 1):
            raise RuntimeError("the disk is made of cheese\nand this is its second line")
        first = self._attempt == 1
        if kind == "hang" and first:
            time.sleep(1e6)
        if kind == "freeze" and first:
            os.kill(os.getpid(), signal.SIGSTOP)
        if kind == "oom_kill" and first:
            os.kill(os.getpid(), signal.SIGKILL)
        if kind == "exhaust" and first:
            raise RuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 8589934592 bytes")
        if kind == "outage":
            began = self._folder / "outage"
            if not began.exists():
                began.touch()
            if time.time() - began.stat().st_mtime < self._steer["outage_s"]:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self._folder))
        if kind == "diverge":
            reason = "TrainingDiverged: policy_loss is nan at 512 steps"
            update_record(self._folder, state=State.FAILED, error=reason, ended_at=utc_timestamp())
            raise TrainingDiverged(reason)


def whereabouts(folder: Path) -> dict[str, str]:
    """What tells nodes apart that are processes of one machine, and where their code is from."""
    return {"folder": str(folder), "code": trial_folder.__file__, "key": os.environ.get("AWS_ACCESS_KEY_ID", "")}


def cores() -> set[int]:
    return os.sched_getaffinity(0)
