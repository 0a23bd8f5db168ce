"""A pack: the trials that share a worker process and run their evaluation periods side by side.

A trial joins, requests one period after another, and leaves. The pack runs periods that are requested within a moment
of each other together, so that trials with the same compiled program can run as one batched program. A trial's folder
is the truth: a pack continues a trial from what is in the folder, whichever worker had it before. A folder on remote
storage is mirrored in a local one (`jax_party.trial.mirror`)."""

from __future__ import annotations

import contextlib
import logging
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from jax_party.engines import NATIVE, get_engine
from jax_party.errors import StorageRefused, SweepError
from jax_party.store.retry import patience_s, patiently, refusal
from jax_party.store.storage import store_of
from jax_party.trial.folder import add_retry, read_config, read_record, update_record
from jax_party.trial.provenance import utc_timestamp
from launcher.work.member import Member
from launcher.work.population import Inheritance, copy_learner, settle, take_over
from launcher.work.watchdog import TRACE_FILE, Watchdog

GATHER_S = 1.0
IDLE_S = 30.0
OUT_OF_MEMORY = "RESOURCE_EXHAUSTED"  # from XLA's error message; its type is JAX's, which only training code may import
logger = logging.getLogger(__name__)


class Pack:
    """The trials of one process.

    Args:
      sweep: the sweep's folder.
      size: the maximum number of trials at a time.
      factory: creates an experiment (`jax_party.engines.Experiment`) from a parsed config and a folder.
      gather_s: how long to wait, in seconds, for other trials to request their period too.
      idle_s: after how many seconds without a request a trial may lose its place.
      period_timeout_s: how long a trial's period may take, in seconds; None for the watchdog's default.
      engine: the name of the engine that the trials' configs are for.
      clock: returns a time in seconds, of which only differences count.
    """

    def __init__(
        self,
        sweep: Path,
        size: int,
        factory: Callable[..., Any],
        gather_s: float = GATHER_S,
        idle_s: float = IDLE_S,
        period_timeout_s: float | None = None,
        engine: str = NATIVE,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.size = size
        self._engine = get_engine(engine)
        self._sweep = sweep
        self._factory = factory
        self._gather_s = gather_s
        self._idle_s = idle_s
        self._clock = clock
        self._watchdog = Watchdog(period_timeout_s)
        self._members: dict[str, Member] = {}
        self._changed = threading.Condition()
        self._busy = False
        self._turn: str | None = None
        self._most_at_once: int | None = None
        self._side_by_side = getattr(factory, "side_by_side", None)

    @property
    def members(self) -> int:
        """The number of trials in the pack."""
        return len(self._members)

    def join(self, trial_id: str, inherited: Inheritance | None = None) -> bool:
        """Add a trial if there is room, and return whether it is in the pack.

        A trial without a request for `idle_s` seconds is removed to make room, because its trainable has died.

        Args:
          trial_id: the trial.
          inherited: another trial's learner to continue from, or None.
        """
        with self._changed:
            if trial_id in self._members:
                return True
            if len(self._members) < self.size:
                member = self._members[trial_id] = Member(trial_id, inherited)
                member.seen = self._clock()
                return True
            now = self._clock()
            idle = [m.trial_id for m in self._members.values() if m.asked is None and now - m.seen > self._idle_s]
        for gone in idle:
            logger.warning("%s: idle for %g s; its place is taken", gone, self._idle_s)
            self.leave(gone)
        return self.join(trial_id, inherited) if idle else False

    def leave(self, trial_id: str) -> None:
        """Remove a trial and release its folder once its period is over; do nothing if it is not in the pack."""
        if trial_id not in self._members:
            return
        with self._undisturbed(lambda: True):
            with self._changed:
                member = self._members.pop(trial_id, None)
                self._end_turn(trial_id)
            if member is not None:
                with self._watched([member], self._watchdog.storing_s()):
                    self._close(member)
                if member.asked is not None:
                    member.asked.set_exception(SweepError(f"{trial_id}: left while its period was asked for"))

    def has(self, trial_id: str) -> bool:
        """Return whether a trial is in the pack."""
        return trial_id in self._members

    def take_turn(self, trial_id: str) -> None:
        """Wait until no trial is running, and reserve the next period for this trial alone.

        If the process dies before that period is over, this trial is the cause.
        """
        with self._changed:
            self._changed.wait_for(lambda: not self._busy and self._turn in (None, trial_id))
            self._turn = trial_id

    def _end_turn(self, trial_id: str) -> None:
        with self._changed:
            if self._turn == trial_id:
                self._turn = None
            self._changed.notify_all()

    @contextlib.contextmanager
    def _undisturbed(self, ready: Callable[[], bool]) -> Iterator[None]:
        """Hold the pack while no trial is running and the condition is true."""
        with self._changed:
            self._changed.wait_for(lambda: not self._busy and ready())
            self._busy = True
        try:
            yield
        finally:
            with self._changed:
                self._busy = False
                self._changed.notify_all()

    def copy_learner(self, trial_id: str, to: Path) -> int:
        """Copy the newest checkpoint of a trial in the pack, and return the environment steps that it has trained."""
        folder = self._members[trial_id].folder
        assert folder is not None, "it has played a period"
        return copy_learner(folder, to)

    def step(self, trial_id: str) -> dict[str, Any]:
        """Run one evaluation period of a trial that has joined, and return its result.

        While storage refuses, the period is repeated from what is in the trial's folder.

        Raises:
          StorageRefused: storage has refused for longer than `patience_s`.
          Exception: the error of this trial, or of all trials that ran with it.
        """
        outage: list[tuple[float, BaseException]] = []
        told: list[str] = []

        def play() -> dict[str, Any]:
            if outage:
                self._note_outage(trial_id, outage, told)
            return self._step(trial_id)

        try:
            return patiently(before_pause=lambda error: outage.append((self._clock(), error)))(play)
        except Exception as error:
            reason = refusal(error)
            if reason is None:
                raise
            raise StorageRefused(
                f"{self._sweep / trial_id}: storage has refused for {patience_s():g} s ({reason}); free space "
                f"or fix it, then: make resume SWEEP={self._sweep} RETRY_FAILED=1"
            ) from error
        finally:
            self._end_turn(trial_id)

    def _note_outage(self, trial_id: str, outage: list[tuple[float, BaseException]], told: list[str]) -> None:
        """Note in the record how long storage has refused; a later note of the same outage replaces this one."""
        seconds, reason = self._clock() - outage[0][0], refusal(outage[0][1])
        folder = self._sweep / trial_id
        kept = [note for note in read_record(folder).retries if note not in told]
        note = f"{utc_timestamp()} storage refused for {seconds:.0f} s ({reason}), then went on"
        update_record(folder, retries=(*kept, note))
        told[:] = [note]
        logger.warning("%s: %s", trial_id, note)

    def _step(self, trial_id: str) -> dict[str, Any]:
        """Run one period, without retries."""
        with self._changed:
            if trial_id not in self._members:
                raise SweepError(f"{trial_id}: has not joined, or was idle for so long that its place was taken")
            asked = self._members[trial_id].asked = Future()
            self._changed.notify_all()
        # The first thread to get here runs the periods of all trials that have requested one by then.
        with self._undisturbed(lambda: asked.done() or self._turn in (None, trial_id)):
            if not asked.done():
                self._play(self._gather())
        return asked.result()

    def close(self) -> None:
        """Remove all trials."""
        for trial_id in list(self._members):
            self.leave(trial_id)

    def _gather(self) -> list[Member]:
        """Return the trials that have requested a period, once all have or time is up; a trial in its turn is alone."""
        with self._changed:
            if self._turn is not None:
                return [self._members[self._turn]]
            self._changed.wait_for(
                lambda: all(member.asked or member.over for member in self._members.values()), self._gather_s
            )
            return [member for member in self._members.values() if member.asked is not None]

    def _play(self, members: list[Member]) -> None:
        """Run a period of each trial and deliver the outcomes."""
        try:
            outcomes = [
                self._put_away(member, outcome)
                for member, outcome in zip(members, self._outcomes(members), strict=True)
            ]
        except BaseException as error:
            outcomes = [error] * len(members)
        for member, outcome in zip(members, outcomes, strict=True):
            asked, member.asked, member.seen = member.asked, None, self._clock()
            assert asked is not None
            member.over = isinstance(outcome, BaseException) or bool(outcome.get("finished"))
            if isinstance(outcome, BaseException):
                with self._watched([member], self._watchdog.storing_s()):
                    self._close(member)  # its state in memory may differ from its folder
                asked.set_exception(outcome)
            else:
                asked.set_result(outcome)

    def _put_away(self, member: Member, outcome: dict[str, Any] | BaseException) -> dict[str, Any] | BaseException:
        with self._watched([member], self._watchdog.storing_s()):
            return member.put_away(outcome)

    def _close(self, member: Member) -> None:
        """Close a trial's experiment; an error is only logged: the folder is the truth, and other trials continue."""
        try:
            member.close()
        except Exception as error:
            logger.warning("%s: could not be closed: %s", member.trial_id, error)

    def _outcomes(self, members: list[Member]) -> list[dict[str, Any] | BaseException]:
        """Run a period of each trial, and return each result or error."""
        while True:
            try:
                with self._watched(members, self._watchdog.opening_s()):
                    opened = [self._open(member) for member in members]
                well = [member for member, error in zip(members, opened, strict=True) if error is None]
                turns, began = _turns(well), self._clock()
                with self._watched(well, turns * self._watchdog.period_s()):
                    played = iter(self._advance([member.experiment for member in well]))
                self._watchdog.played((self._clock() - began) / turns)
                return [next(played) if error is None else error for error in opened]
            except Exception as error:
                if not _out_of_memory(error) or not self._make_smaller(members, error):
                    raise

    def _watched(self, members: Sequence[Member], limit_s: float) -> contextlib.AbstractContextManager[None]:
        """End this process if the block takes longer than `limit_s`, and write the reason to the trials' records."""

        def tell(reason: str) -> None:
            for member in members:
                update_record(self._sweep / member.trial_id, error=reason)

        if not members:
            return contextlib.nullcontext()
        first = members[0].trial_id
        trace, place = store_of(self._sweep).on_disk(self._sweep / first / TRACE_FILE), TRACE_FILE
        if trace is None:
            trace = Path(tempfile.gettempdir()) / f"{first}-{TRACE_FILE}"
            place = f"{trace} on {socket.gethostname()}"
        return self._watchdog.watch(limit_s, trace, tell, place)

    def _advance(self, experiments: list[Any]) -> list[dict[str, Any] | BaseException]:
        """Run one period of each experiment: side by side if the engine can, else one after another."""
        if self._side_by_side is not None:
            played: list[dict[str, Any] | BaseException] = self._side_by_side(experiments)
            return played
        outcomes: list[dict[str, Any] | BaseException] = []
        for experiment in experiments:
            try:
                outcomes.append(experiment.step())
            except Exception as error:
                outcomes.append(error)
        return outcomes

    def _open(self, member: Member) -> Exception | None:
        """Open the trial's folder and experiment unless they are open; return the error if only this trial fails.

        Raises:
          Exception: the device is out of memory, which concerns all trials.
        """
        if member.experiment is not None:
            return None
        try:
            folder = member.take(self._sweep / member.trial_id)
            if member.inherited is not None:
                take_over(folder, member.inherited)
            settle(folder, read_record(folder))
            config = self._engine.parse(read_config(folder))
            options = {"company": self.size, "most_at_once": self._most_at_once} if self._side_by_side else {}
            member.experiment = self._factory(config, folder, **options)
            member.push()
        except Exception as error:
            self._close(member)
            if _out_of_memory(error):
                raise
            return error
        return None

    def _make_smaller(self, members: Sequence[Member], error: Exception) -> bool:
        """Halve the batch width and close the trials, which reopen from their checkpoints; False if the width is 1."""
        open_ones = [member.experiment for member in members if member.experiment is not None]
        widths = [experiment.width for experiment in open_ones if experiment.num_learners]
        before = max(widths, default=self._most_at_once or self.size)  # unknown if opening a trial failed
        for member in members:
            self._close(member)
        if before == 1:
            return False
        self._most_at_once = before // 2
        reason = f"out of memory with {before} at once ({str(error).splitlines()[0][:200]}): {before // 2} from now on"
        for member in members:
            logger.warning("%s: %s", member.trial_id, reason)
            add_retry(self._sweep / member.trial_id, reason)
        return True


def _turns(members: Sequence[Member]) -> int:
    """Return how many periods run one after another when these trials run together."""
    trials = [member.experiment for member in members]
    learners = [trial.num_learners for trial in trials]
    if not all(learners):
        return max(1, len(trials))
    widths = [trial.width for trial in trials]
    batched = max(widths, default=1) > 1
    return max(1, -(-sum(learners) // (min(widths) * max(learners))) if batched else len(trials))


def _out_of_memory(error: Exception) -> bool:
    """Return whether the device is out of memory; TensorStore uses the same words for a full disk."""
    return OUT_OF_MEMORY in str(error) and refusal(error) is None
