"""The real experiment, which misbehaves at a moment that a test has drawn.

`JAX_PARTY_MISBEHAVIOUR` (JSON) says what a trial's first attempt does: trial number -> [kind, period, moment]. Periods
count from 1. A moment is the number of an update, from 0; or `evaluated`, when nothing of the period is on disk; or
`saved`, when all but the record is. Kinds: `kill` (as the kernel ends a process that has no memory left), `exhaust` (as
XLA says that a device has none), `hang`, `nan` (in the losses of that update), and `half_vault`: the process is killed
before TensorStore opens its moment-th array, which are those of the vaults that are being made.
"""

from __future__ import annotations

import itertools
import json
import os
import signal
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import tensorstore

from jax_party.config import ExperimentConfig
from jax_party.training.experiment import Experiment
from jax_party.trial.folder import read_record

VARIABLE = "JAX_PARTY_MISBEHAVIOUR"
FACTORY = "tests.launcher.misbehaving:Misbehaving"
EXHAUSTED = "RESOURCE_EXHAUSTED: Out of memory while trying to allocate 8589934592 bytes"


class Misbehaving(Experiment):
    """Does what it does at its moment, and is the real experiment otherwise."""

    def __init__(self, config: ExperimentConfig, folder: Path, **options: Any) -> None:
        record = read_record(folder)
        given = json.loads(os.environ.get(VARIABLE, "{}")).get(str(record.number))
        self._kind, self._period, self._moment = given if given and not record.attempts else ("none", 0, 0)
        super().__init__(config, folder, **options)
        if self._kind == "half_vault":
            die_before_opening(self._moment)
        self._watch_updates()
        self._watch_record()

    def _watch_updates(self) -> None:
        """Misbehave at an update: what each gives is handed to the vault."""
        for vaults in self.recorder.vaults if self.learners else ():
            vault = vaults["train"]
            vault.submit = self._misbehaving(vault.submit)  # type: ignore[method-assign]

    def _misbehaving(self, submit: Callable[[Any], None]) -> Callable[[Any], None]:
        updates = itertools.count()

        def submit_and_misbehave(trajectory: Any) -> None:
            submit(trajectory)
            self._misbehave(next(updates) % self.budget.updates_per_evaluation, self.evaluations + 1)

        return submit_and_misbehave

    def _refuse_nonfinite(self, place: int, means: dict[str, float], of_updates: Sequence[dict[str, Any]]) -> None:
        if (self._kind, self._period) == ("nan", self.evaluations + 1):
            name, of_updates = next(iter(means)), [dict(losses) for losses in of_updates]
            of_updates[self._moment][name] = means[name] = float("nan")
        super()._refuse_nonfinite(place, means, of_updates)

    def _keep_best(self, means: Sequence[dict[str, float | None]]) -> None:
        self._misbehave("evaluated", self.evaluations)
        super()._keep_best(means)

    def _watch_record(self) -> None:
        """Misbehave before the record says what has been saved."""
        update = self.recorder.update

        def misbehave_and_update(**changes: Any) -> None:
            if "checkpoint" in changes:
                self._misbehave("saved", self.evaluations)
            update(**changes)

        self.recorder.update = misbehave_and_update  # type: ignore[method-assign]

    def _misbehave(self, moment: int | str, period: int) -> None:
        if (self._period, self._moment) != (period, moment):
            return
        if self._kind == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if self._kind == "exhaust":
            raise jax.errors.JaxRuntimeError(EXHAUSTED)
        if self._kind == "hang":
            time.sleep(1e6)


def die_before_opening(number: int) -> None:
    """Kill this process in the place of its next but `number`-th call of `tensorstore.open`."""
    whole, calls = tensorstore.open, iter(range(number))

    def count(*arguments: Any, **options: Any) -> Any:
        if next(calls, None) is None:
            os.kill(os.getpid(), signal.SIGKILL)
        return whole(*arguments, **options)

    tensorstore.open = count
