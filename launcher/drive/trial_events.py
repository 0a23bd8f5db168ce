"""What the driver does when Tune reports that a trial has started, reported a result, failed or ended."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import ray
from ray.tune import Callback
from ray.tune.experiment import Trial

from jax_party.errors import RecordError
from jax_party.store.retry import patience_of
from jax_party.store.storage import lock_folder
from jax_party.trial import outcome
from jax_party.trial.folder import add_retry, read_record, update_record
from jax_party.trial.provenance import utc_timestamp
from jax_party.trial.record import TrialRecord
from jax_party.trial.states import FINISHED, State
from launcher.drive.deferred_writes import WRITE_S, DeferredWrites, refused
from launcher.drive.interrupt import Interrupt, Interrupted
from launcher.drive.spending import Spending
from launcher.drive.stalled_workers import StalledWorkers
from launcher.drive.standby import StandbyWorker
from launcher.machine.join import NodeRefused
from launcher.show.console import Display
from launcher.show.progress import Progress, Row
from launcher.work.failed_attempts import cause_of, describe_failure, died, last_error, reason_left

logger = logging.getLogger(__name__)


class BudgetSpent(Interrupted):
    """The sweep has spent its budget, and every trial that was running has finished its period."""


class SweepCallback(Callback):
    """Updates the progress, and the records of trials that cannot do so themselves: pruned and failed ones."""

    def __init__(
        self,
        folder: Path,
        progress: Progress,
        display: Display,
        interrupt: Interrupt,
        pruned: Callable[[str], str | None],
        spending: Spending,
        writes: DeferredWrites,
        stalled: StalledWorkers,
        standby: StandbyWorker | None = None,
    ) -> None:
        self._folder = folder
        self._progress = progress
        self._display = display
        self._interrupt = interrupt
        self._pruned = pruned
        self._spending = spending
        self._writes = writes
        self._stalled = stalled
        self._standby = standby
        self._in_period: set[str] | None = None
        self.shared: Any = None
        """The workers that trials share now (`SharedWorkers`), or None."""
        self.nodes: Any = None
        """The cluster's nodes (`Nodes`), or None."""

    def on_step_begin(self, iteration: int, trials: list[Any], **info: Any) -> None:
        """Do periodic work between events: stop if asked to, update the display, look after workers, check the budget.

        Raises:
          Interrupted: the user wants to stop.
          BudgetSpent: the budget is spent, and every trial that was running has finished its period.
        """
        self._interrupt.check()
        self._display.tick()
        self._writes.settle()
        if self._standby is not None:
            self._standby.tend()
        if self.shared is not None:
            self.shared.tend()
        else:
            running = (trial for trial in trials if trial.status == Trial.RUNNING)  # read once per second
            self._stalled.tend((t.config["trial_id"], t.temporary_state.ray_actor) for t in running)
        if self.nodes is not None:
            self.nodes.tend(self._spending.hold)
        if self._spending.update(self._progress.steps()) is not None:
            playing = {t.config["trial_id"] for t in trials if t.status == Trial.RUNNING and not t.is_saving}
            self._in_period = playing if self._in_period is None else self._in_period & playing
            if not self._in_period:
                raise BudgetSpent

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Note that a worker has the trial."""
        self._progress.start(trial.config["trial_id"])
        self._stalled.started(trial.config["trial_id"])

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: Mapping[str, Any], **info: Any
    ) -> None:
        """Record the result of an evaluation period."""
        self._progress.result(trial.config["trial_id"], result)
        self._stalled.heard(trial.config["trial_id"])
        self._period_over(trial)

    def on_trial_recover(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Record why the attempt failed; Tune tries the trial again."""
        self._period_over(trial)
        trial_id = trial.config["trial_id"]
        self._stalled.left(trial_id)
        reason = self._reason(trial)
        cause = cause_of(last_error(trial))
        if isinstance(cause, NodeRefused) and self.nodes is not None:  # not the trial's fault
            self.nodes.keep_off(cause.node_id)
        else:
            trial.config["failed"] = True
        if self._standby is not None:
            self._standby.taken()
        logger.warning("%s: tried again: %s", trial_id, reason)
        self._writes.add(f"{trial_id}: why it is tried again", lambda: add_retry(self._folder / trial_id, reason))
        self._display.retried(self._progress.retry(trial_id), reason)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Mark the trial FAILED after its last attempt."""
        self._period_over(trial)
        trial_id = trial.config["trial_id"]
        self._stalled.left(trial_id)
        reason = self._reason(trial)
        _let_go(trial)
        self._finish(trial_id, State.FAILED, reason, alone=True)
        forget(trial)

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Record how the trial ended: it finished, the scheduler stopped it, or the budget is spent."""
        trial_id = trial.config["trial_id"]
        reason = self._pruned(trial_id)
        self._stalled.left(trial_id)
        self._period_over(trial)
        if reason is not None:
            self._finish(trial_id, State.PRUNED, reason)
        elif self._spending.reason is not None:
            self._finish(trial_id, State.PENDING, None)
        else:
            failed = (trial.last_result or {}).get("failed")
            self._finish(trial_id, State.FAILED, failed or "ended without completing its budget")
        forget(trial)

    def _period_over(self, trial: Any) -> None:
        """Note that the trial is between periods, where a spent budget may stop it."""
        if self._in_period is not None:
            self._in_period.discard(trial.config["trial_id"])

    def _reason(self, trial: Any) -> str:
        """Return why an attempt failed; a process that ended itself has left the reason in the record."""
        error = last_error(trial)
        if (reason := self._stalled.reason(trial.config["trial_id"])) is not None and died(error):
            return reason
        with contextlib.suppress(RecordError), patience_of(WRITE_S):
            if left := reason_left(read_record(self._folder / trial.config["trial_id"]), error):
                return left
        return describe_failure(error)

    def _finish(self, trial_id: str, state: State, error: str | None, alone: bool = False) -> None:
        """Write how the trial ended, unless its record says so already.

        The display does not wait for the write; a later write corrects it.

        Args:
          trial_id: the trial.
          state: the state to write; PENDING if the trial is to be continued later.
          error: why it ended, or None.
          alone: write only while holding the folder's lock, that is, once no worker holds the folder.
        """
        folder = self._folder / trial_id
        rows: list[Row] = []

        def write() -> None:
            with lock_folder(folder, timeout=0.0) if alone else contextlib.nullcontext():
                record = read_record(folder)
                if record.state not in FINISHED:
                    at = None if state is State.PENDING else utc_timestamp()
                    record = update_record(folder, state=state, error=error, ended_at=at)
            rows.append(self._end(record))

        try:
            with patience_of(WRITE_S):
                record = read_record(folder)
        except RecordError as problem:
            if refused(problem) is None:
                logger.error("%s", problem)
                self._display.ended(self._progress.end(trial_id, State.FAILED, str(problem)))
                return
        else:
            if record.state in FINISHED:
                self._display.ended(self._end(record))
                return
        self._writes.add(f"{trial_id}: {state}", write)
        self._display.ended(rows[0] if rows else self._progress.end(trial_id, state, error))

    def _end(self, record: TrialRecord) -> Row:
        """End the trial in the progress as its record says; return its row."""
        candidate = None
        with contextlib.suppress(RecordError, OSError), patience_of(WRITE_S):
            candidate = outcome.complete_candidate(self._folder / record.trial_id, record)
        return self._progress.end(record.trial_id, record.state, record.error, outcome.quick_score(record), candidate)


def _let_go(trial: Any) -> None:
    """Tell the shared workers to release a trial whose trainable has failed or died."""
    prefix = trial.config["workers"]
    names = ray.util.list_named_actors() if prefix is not None else []
    for name in names:
        if name.startswith(prefix):
            with contextlib.suppress(ValueError):  # the worker has just ended
                ray.get_actor(name).leave.remote(trial.config["trial_id"])


def forget(trial: Any) -> None:
    """Drop Tune's running averages of a finished trial's metrics, which make up most of its memory."""
    trial.run_metadata.metric_analysis = {}
    trial.run_metadata.metric_n_steps = {}
