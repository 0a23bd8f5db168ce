"""What the driver does at each of Tune's events: what it writes into the trial's folder, shows, and keeps in mind.

Folders, progress, budget, deferred writes and the watch over workers are real, and so are Tune's trials; time passes as
the test says. No Ray runs: a trial's failures are what Tune's own trial keeps of them.
"""

from __future__ import annotations

import errno
import logging
import signal
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import ray
from ray import cloudpickle
from ray.exceptions import ActorDiedError, RayActorError, RayTaskError
from ray.tune.experiment import Trial

from jax_party.errors import SweepError
from jax_party.store.local import LOCAL
from jax_party.store.retry import PATIENCE_VARIABLE
from jax_party.store.storage import lock_folder
from jax_party.trial.folder import create_trial_folder, read_record, update_record
from jax_party.trial.record import RECORD_FILE, TrialRecord
from jax_party.trial.states import State
from launcher.drive.deferred_writes import DeferredWrites
from launcher.drive.interrupt import Interrupt, Interrupted
from launcher.drive.spending import Spending
from launcher.drive.stalled_workers import StalledWorkers
from launcher.drive.standby import AFTER_S, REFILL_S, StandbyWorker
from launcher.drive.trial_events import BudgetSpent, SweepCallback, forget
from launcher.machine.join import NodeRefused
from launcher.show.progress import Progress, Row
from launcher.work.failed_attempts import MAX_REASON, describe_failure, died, last_error
from launcher.work.watchdog import GRACE_S, OPENING_S
from tests.launcher.tuned import Clock, make_trial, without_ray
from tests.results.synthetic_sweep import complete, config_of, record_of

PERIOD_TIMEOUT_S = 3.0
PATIENCE_S = 10.0
WITHIN_S = 2 * PERIOD_TIMEOUT_S + 2 * PATIENCE_S + GRACE_S
"""A period, putting it away, patience with storage, and grace: then a worker is stalled."""
DIED = "the worker process died"
EARLIER = "2026-01-01T00:00:00+00:00"


class Shown:
    """A display that keeps what it is told."""

    def __init__(self) -> None:
        self.ticks = 0
        self.rows: list[Row] = []
        self.retries: list[tuple[Row, str]] = []

    def __enter__(self) -> Shown:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def tick(self) -> None:
        self.ticks += 1

    def ended(self, row: Row) -> None:
        self.rows.append(row)

    def retried(self, row: Row, reason: str) -> None:
        self.retries.append((row, reason))


class Nodes:
    """A cluster whose workers hold four devices."""

    def __init__(self) -> None:
        self.refused: list[str] = []

    def tend(self, hold: Callable[[float], None]) -> None:
        hold(4.0)

    def keep_off(self, node_id: str) -> None:
        self.refused.append(node_id)


class Sweep:
    """Trials that are planned, in real folders, and the callback that Tune tells of them."""

    def __init__(self, folder: Path, trials: int = 1, standby: StandbyWorker | None = None, **limits: float) -> None:
        self.folder = folder / "sweep"
        self.clock = Clock()
        self.shown = Shown()
        self.interrupt = Interrupt()
        self.pruned: dict[str, str] = {}
        self.hours = Clock()  # of its own, for what is spent is written every few seconds
        self.spending = Spending(folder, limits, 1.0, self.hours)
        self.writes = DeferredWrites(self.clock)
        self.ended: list[Any] = []
        self.stalled = StalledWorkers(PERIOD_TIMEOUT_S, self.ended.append, self.clock)
        self.progress = Progress("demo", record_of(0).objective, trials, self.clock)
        self.trials: list[Trial] = []
        for number in range(trials):
            record = record_of(number)
            create_trial_folder(self.folder / record.trial_id, config_of(number), record)
            self.progress.add(record)
            self.trials.append(make_trial(folder, record.trial_id))
        self.callback = SweepCallback(
            self.folder, self.progress, self.shown, self.interrupt, self.pruned.get, self.spending, self.writes,
            self.stalled, standby,
        )  # fmt: skip

    def step(self, seconds: float = 0.0) -> None:
        """Time passes, and Tune comes to its next event."""
        self.clock.now += seconds
        self.callback.on_step_begin(0, self.trials)

    def start(self, number: int = 0) -> None:
        """A worker takes a trial, says so in its record, and is at its first period."""
        trial = self.trials[number]
        self.callback.on_trial_start(0, self.trials, trial)
        trial.set_status(Trial.RUNNING)
        trial.temporary_state.ray_actor = f"actor {number}"
        update_record(self.place(number), state=State.RUNNING, attempts=1)

    def result(self, number: int = 0, **result: Any) -> None:
        """A period has ended."""
        self.callback.on_trial_result(0, self.trials, self.trials[number], result)

    def fail(self, error: Exception, number: int = 0) -> None:
        """An attempt fails, and Tune tries the trial again."""
        trial = self.trials[number]
        trial.handle_error(error)
        trial.set_status(Trial.PENDING)
        self.callback.on_trial_recover(0, self.trials, trial)

    def fail_for_good(self, error: Exception, number: int = 0) -> None:
        """The last attempt fails."""
        trial = self.trials[number]
        trial.handle_error(error)
        trial.set_status(Trial.ERROR)
        self.callback.on_trial_error(0, self.trials, trial)

    def complete(self, number: int = 0, last: Mapping[str, Any] | None = None) -> None:
        """Tune is done with a trial."""
        trial = self.trials[number]
        trial.run_metadata.last_result = dict(last or {})
        trial.set_status(Trial.TERMINATED)
        self.callback.on_trial_complete(0, self.trials, trial)

    def id(self, number: int = 0) -> str:
        return str(self.trials[number].config["trial_id"])

    def place(self, number: int = 0) -> Path:
        return self.folder / self.id(number)

    def record(self, number: int = 0) -> TrialRecord:
        return read_record(self.place(number))

    def row(self, number: int = 0) -> Row:
        return self.progress.row(self.id(number))

    def reasons(self, number: int = 0) -> list[str]:
        """Why it was tried again, as its record has it."""
        return [note.partition(" ")[2] for note in self.record(number).retries]


def raised(cause: Exception) -> RayTaskError:
    """What Ray tells of an error that a worker has raised."""
    return RayTaskError("step", f"Traceback\n{cause!r}", cause).as_instanceof_cause()


BROKEN = RuntimeError("the disk is made of cheese\nand this is its second line")
WHY_BROKEN = "RuntimeError: the disk is made of cheese"


@pytest.fixture(autouse=True)
def tune(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    without_ray(monkeypatch, tmp_path)
    monkeypatch.setenv(PATIENCE_VARIABLE, f"{PATIENCE_S:g}")


@pytest.fixture
def sweep(tmp_path: Path) -> Sweep:
    return Sweep(tmp_path)


@pytest.fixture
def refuse(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """Have storage refuse to take, or to give, anything: `refuse()`; and no longer: `refuse(False)`."""
    now = {"write_bytes": False, "read_bytes": False}

    def guard(name: str, code: int) -> None:
        does = getattr(LOCAL, name)

        def guarded(*given: Any, **options: Any) -> Any:
            if now[name]:
                raise OSError(code, "refused")
            return does(*given, **options)

        monkeypatch.setattr(LOCAL, name, guarded)

    guard("write_bytes", errno.ENOSPC)
    guard("read_bytes", errno.EIO)

    def say(it: bool = True, reading: bool = False) -> None:
        now.update(write_bytes=it, read_bytes=it and reading)

    yield say


# Start, results, and the watch over workers


def test_a_trial_runs_once_a_worker_has_it(sweep: Sweep) -> None:
    assert sweep.row().state is State.PENDING
    sweep.start()
    assert sweep.row().state is State.RUNNING
    assert sweep.progress.running() == [sweep.id()]


def test_an_evaluation_comes_into_the_row(sweep: Sweep) -> None:
    sweep.start()
    sweep.result(env_steps=100, episode_return=5.0, steps_per_second=2000.0)
    sweep.result(env_steps=200, episode_return=3.0, steps_per_second=1000.0)
    row = sweep.row()
    assert (row.env_steps, row.last, row.score, row.steps_per_second) == (200, 3.0, 5.0, 1000.0)
    assert (row.state, sweep.record().env_steps) == (State.RUNNING, 0), "the record is the worker's"
    assert sweep.shown.rows == []


def tend(sweep: Sweep, seconds: float) -> None:
    for _ in range(int(seconds / 4.0)):
        sweep.step(4.0)


def test_a_worker_that_is_not_heard_of_is_ended(sweep: Sweep) -> None:
    sweep.start()
    sweep.result(env_steps=100)
    tend(sweep, WITHIN_S)
    assert sweep.ended == []
    tend(sweep, 8.0)
    assert sweep.ended == ["actor 0"]


def test_a_first_period_may_take_longer(sweep: Sweep) -> None:
    sweep.start()
    tend(sweep, 2 * WITHIN_S)
    assert sweep.ended == [], "it may compile"
    tend(sweep, OPENING_S)
    assert sweep.ended == ["actor 0"]


def test_each_evaluation_gives_a_worker_more_time(sweep: Sweep) -> None:
    sweep.start()
    for period in range(1, 4):
        sweep.result(env_steps=100 * period)
        tend(sweep, WITHIN_S)
    assert sweep.ended == []


@pytest.mark.parametrize("how", ["fail", "fail_for_good", "complete"])
def test_a_trial_that_no_worker_has_is_not_waited_for(sweep: Sweep, how: str) -> None:
    sweep.start()
    sweep.result(env_steps=100)
    sweep.complete() if how == "complete" else getattr(sweep, how)(raised(BROKEN))
    sweep.trials[0].set_status(Trial.RUNNING)  # as Tune might say by mistake
    tend(sweep, 2 * WITHIN_S)
    assert sweep.ended == []


def test_only_running_trials_have_workers_to_end(sweep: Sweep) -> None:
    sweep.start()
    sweep.result(env_steps=100)
    sweep.trials[0].set_status(Trial.PAUSED)
    tend(sweep, 2 * WITHIN_S)
    assert sweep.ended == []


def test_workers_that_trials_share_are_looked_after_in_another_way(sweep: Sweep) -> None:
    looked: list[float] = []
    sweep.callback.shared = SimpleNamespace(tend=lambda: looked.append(sweep.clock.now))
    sweep.start()
    sweep.result(env_steps=100)
    tend(sweep, 2 * WITHIN_S)
    assert sweep.ended == []
    assert len(looked) == int(2 * WITHIN_S / 4.0)


# Between events


def test_time_passes_on_the_display(sweep: Sweep) -> None:
    sweep.step()
    sweep.step()
    assert sweep.shown.ticks == 2


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_who_wants_to_stop_is_heard_before_anything_else(sweep: Sweep, number: int) -> None:
    with sweep.interrupt:
        sweep.step()
        signal.raise_signal(number)
        with pytest.raises(Interrupted) as stopped:
            sweep.step()
    assert not isinstance(stopped.value, BudgetSpent)
    assert (sweep.shown.ticks, sweep.interrupt.signal) == (1, number)


def test_a_cluster_says_how_many_devices_are_held(sweep: Sweep) -> None:
    sweep.callback.nodes = Nodes()
    sweep.step()
    sweep.hours.now += 3600.0
    assert sweep.spending.amounts()["device_hours"] == pytest.approx(4.0)


def test_a_spare_worker_is_asked_for_at_first_and_when_one_is_taken(tmp_path: Path) -> None:
    asked: list[float] = []
    clock = Clock()
    sweep = Sweep(tmp_path, standby=StandbyWorker(lambda: asked.append(clock.now), clock))
    sweep.step()
    assert asked == []
    clock.now += AFTER_S
    sweep.step()
    sweep.start()
    clock.now += REFILL_S
    sweep.step()
    assert len(asked) == 1
    sweep.fail(RayActorError())
    clock.now += REFILL_S
    sweep.step()
    assert len(asked) == 2


# Tried again


def test_a_trial_that_is_tried_again_says_why(sweep: Sweep) -> None:
    sweep.start()
    sweep.fail(raised(BROKEN))
    row = sweep.row()
    assert (row.state, row.retries, row.error) == (State.PENDING, 1, None)
    assert sweep.shown.retries == [(row, WHY_BROKEN)]
    assert sweep.shown.rows == [], "it has not ended"
    assert sweep.reasons() == [WHY_BROKEN]
    record = sweep.record()
    assert (record.state, record.error, record.ended_at) == (State.RUNNING, None, None)
    assert sweep.trials[0].config["failed"] is True, "its next worker plays it with nobody beside it"
    assert sweep.trials[0].run_metadata.num_failures == 1


def test_each_attempt_has_a_reason_of_its_own(sweep: Sweep) -> None:
    for error in (raised(BROKEN), RayActorError()):
        sweep.start()
        sweep.fail(error)
    assert sweep.reasons() == [WHY_BROKEN, DIED]
    assert [row.retries for row, _ in sweep.shown.retries] == [1, 2]


@pytest.mark.parametrize("error", [RayActorError(), ActorDiedError(), raised(RayActorError())])
def test_a_process_that_died_may_have_left_the_reason_in_its_record(sweep: Sweep, error: Exception) -> None:
    sweep.start()
    update_record(sweep.place(), error="gave no result within 3 s and was given up")
    sweep.fail(error)
    assert sweep.reasons() == ["gave no result within 3 s and was given up"]


def test_a_process_that_left_no_reason_just_died(sweep: Sweep) -> None:
    sweep.start()
    sweep.fail(RayActorError())
    assert sweep.reasons() == [DIED]


def test_what_an_earlier_driver_wrote_is_not_why_a_process_died(sweep: Sweep) -> None:
    sweep.start()
    update_record(sweep.place(), state=State.PENDING, error="an older story")
    sweep.fail(RayActorError())
    assert sweep.reasons() == [DIED]


def test_a_process_that_lives_says_itself_why(sweep: Sweep) -> None:
    sweep.start()
    update_record(sweep.place(), error="an older story")
    sweep.fail(raised(BROKEN))
    assert sweep.reasons() == [WHY_BROKEN]


def let_it_stand_still(sweep: Sweep) -> None:
    sweep.start()
    sweep.result(env_steps=100)
    tend(sweep, WITHIN_S + 8.0)
    assert sweep.ended == ["actor 0"]


def test_a_worker_that_was_ended_from_here_had_stood_still(sweep: Sweep) -> None:
    let_it_stand_still(sweep)
    update_record(sweep.place(), error="what it says itself")
    sweep.fail(RayActorError())
    (reason,) = sweep.reasons()
    assert "had stood still" in reason and "PERIOD_TIMEOUT" in reason
    assert sweep.shown.retries[0][1] == reason


def test_standing_still_is_no_reason_where_the_attempt_failed_otherwise(sweep: Sweep) -> None:
    let_it_stand_still(sweep)
    sweep.fail(raised(BROKEN))
    sweep.start()
    sweep.fail(RayActorError())
    assert sweep.reasons() == [WHY_BROKEN, DIED]


def test_a_node_that_refuses_is_kept_off_and_is_no_failure_of_the_trial(sweep: Sweep) -> None:
    """That Tune does not count it, either, is the controller's doing."""
    nodes = sweep.callback.nodes = Nodes()
    sweep.start()
    sweep.fail(raised(NodeRefused("node n-1: jax 0.9, here 0.10", "a1b2")))
    assert nodes.refused == ["a1b2"]
    assert sweep.trials[0].config["failed"] is False, "it may be played beside others"
    assert sweep.reasons() == ["NodeRefused: node n-1: jax 0.9, here 0.10"]
    sweep.fail(raised(BROKEN))
    assert sweep.trials[0].config["failed"] is True
    assert nodes.refused == ["a1b2"]


def test_a_refusal_without_a_cluster_is_a_failure(sweep: Sweep) -> None:
    sweep.start()
    sweep.fail(raised(NodeRefused("node n-1: jax 0.9, here 0.10", "a1b2")))
    assert sweep.trials[0].config["failed"] is True


# Ended


def test_a_trial_that_failed_for_good_says_so(sweep: Sweep) -> None:
    sweep.start()
    sweep.fail_for_good(raised(BROKEN))
    record, row = sweep.record(), sweep.row()
    assert (record.state, record.error, record.retries) == (State.FAILED, WHY_BROKEN, ())
    assert record.ended_at is not None
    assert (row.state, row.error) == (State.FAILED, WHY_BROKEN)
    assert (sweep.shown.rows, sweep.shown.retries) == ([row], [])


def test_a_worker_that_died_last_may_have_left_the_reason(sweep: Sweep) -> None:
    sweep.start()
    update_record(sweep.place(), error="gave no result within 3 s and was given up")
    sweep.fail_for_good(RayActorError())
    assert sweep.record().error == sweep.row().error == "gave no result within 3 s and was given up"


def test_a_trial_that_the_scheduler_stopped_is_pruned(sweep: Sweep) -> None:
    sweep.start()
    sweep.result(env_steps=100, episode_return=5.0)
    sweep.pruned[sweep.id()] = "below the median at 100 steps"
    sweep.complete(last={"failed": "is not asked for"})
    record, row = sweep.record(), sweep.row()
    assert (record.state, record.error) == (State.PRUNED, "below the median at 100 steps")
    assert record.ended_at is not None
    assert (row.state, row.error, row.score) == (State.PRUNED, "below the median at 100 steps", 5.0)
    assert sweep.shown.rows == [row]


@pytest.mark.parametrize(
    ("last", "error"),
    [
        ({"failed": "StorageRefused: for 300 s"}, "StorageRefused: for 300 s"),
        ({}, "ended without completing its budget"),
    ],
)
def test_a_trial_that_ended_early_has_failed(sweep: Sweep, last: dict[str, str], error: str) -> None:
    sweep.start()
    sweep.complete(last=last)
    record, row = sweep.record(), sweep.row()
    assert (record.state, record.error, row.state, row.error) == (State.FAILED, error, State.FAILED, error)
    assert record.ended_at is not None


def test_a_trial_whose_record_says_complete_stays_so_with_its_score(sweep: Sweep) -> None:
    sweep.start()
    sweep.result(env_steps=300, episode_return=2.0)
    complete(sweep.place(), 0)
    before = sweep.record()
    sweep.complete(last={"failed": "not so"})
    row, found = sweep.row(), sweep.progress.snapshot()
    assert sweep.record() == before
    assert (row.state, row.error, row.score) == (State.COMPLETE, None, 3.0), "of the episodes that it ended with"
    assert sweep.shown.rows == [row]
    assert found.standing is not None and found.standing.trials == (sweep.id(),), "it is ranked"


@pytest.mark.parametrize("how", ["pruned", "spent", "failed for good"])
def test_nothing_undoes_what_a_record_says_of_its_end(tmp_path: Path, how: str) -> None:
    sweep = Sweep(tmp_path, steps=100.0)
    sweep.start()
    complete(sweep.place(), 0)
    if how == "failed for good":
        sweep.fail_for_good(RayActorError())
    else:
        sweep.pruned |= {sweep.id(): "weak"} if how == "pruned" else {}
        sweep.spending.update(0 if how == "pruned" else 100)
        sweep.complete()
    assert sweep.record().state is sweep.row().state is State.COMPLETE


def test_a_trial_that_failed_by_its_own_record_keeps_its_reason(sweep: Sweep) -> None:
    sweep.start()
    update_record(sweep.place(), state=State.FAILED, error="TrainingDiverged: nan", ended_at=EARLIER)
    sweep.complete()
    row = sweep.row()
    assert (row.state, row.error, row.score) == (State.FAILED, "TrainingDiverged: nan", None)
    assert sweep.record().ended_at == EARLIER
    assert sweep.progress.snapshot().standing is None


def test_a_record_that_cannot_be_read_is_a_failure_that_is_told(
    sweep: Sweep, caplog: pytest.LogCaptureFixture
) -> None:  # fmt: skip
    sweep.start()
    (sweep.place() / RECORD_FILE).write_text("{")
    sweep.complete()
    row = sweep.row()
    assert row.state is State.FAILED and row.error is not None and "not JSON" in row.error
    assert sweep.shown.rows == [row]
    assert sweep.writes.owed == 0
    assert "not JSON" in caplog.text
    assert (sweep.place() / RECORD_FILE).read_text() == "{"


@pytest.mark.parametrize("how", ["complete", "fail_for_good"])
def test_of_an_ended_trial_little_is_kept(sweep: Sweep, how: str) -> None:
    sweep.start()
    trial = sweep.trials[0]
    for step in range(5):
        trial.run_metadata.update_metric("episode_return", float(step), step)
    assert trial.run_metadata.metric_analysis
    sweep.complete() if how == "complete" else sweep.fail_for_good(raised(BROKEN))
    assert (trial.run_metadata.metric_analysis, trial.run_metadata.metric_n_steps) == ({}, {})


def test_of_a_trial_that_is_tried_again_everything_is_kept(sweep: Sweep) -> None:
    sweep.start()
    trial = sweep.trials[0]
    trial.run_metadata.update_metric("episode_return", 1.0, 1)
    sweep.fail(raised(BROKEN))
    assert "episode_return" in trial.run_metadata.metric_analysis


# Workers that trials share


@pytest.fixture
def workers(sweep: Sweep, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str, State]]:
    """Two workers of ours, one that has just ended, and another sweep's: who is told to let go, and of whom."""
    told: list[tuple[str, str, State]] = []

    def get_actor(name: str) -> Any:
        if name == "worker-1-gone":
            raise ValueError(name)
        leave = SimpleNamespace(remote=lambda trial_id: told.append((name, trial_id, sweep.record().state)))
        return SimpleNamespace(leave=leave)

    names = ["worker-1-0", "worker-1-gone", "worker-1-1", "worker-2-0"]
    monkeypatch.setattr(ray.util, "list_named_actors", lambda: names)
    monkeypatch.setattr(ray, "get_actor", get_actor)
    return told


def test_workers_let_go_of_a_trial_that_failed_for_good(sweep: Sweep, workers: list[Any]) -> None:
    sweep.trials[0].config["workers"] = "worker-1-"
    sweep.start()
    sweep.fail(RayActorError())
    assert workers == [], "who takes the trial up again asks them itself"
    sweep.fail_for_good(RayActorError())
    assert workers == [(name, sweep.id(), State.RUNNING) for name in ("worker-1-0", "worker-1-1")]
    assert sweep.record().state is State.FAILED


def test_a_worker_of_its_own_is_not_told(sweep: Sweep, workers: list[Any]) -> None:
    sweep.start()
    sweep.fail_for_good(RayActorError())
    assert workers == []


def test_a_failed_trial_is_written_once_no_worker_is_at_it(sweep: Sweep) -> None:
    sweep.start()
    with lock_folder(sweep.place()):
        sweep.fail_for_good(RayActorError())
        assert (sweep.record().state, sweep.writes.owed) == (State.RUNNING, 1)
        assert sweep.row().state is State.FAILED, "what is shown does not wait"
        sweep.step(2.0)
        assert sweep.record().state is State.RUNNING
    sweep.step(2.0)
    record = sweep.record()
    assert (record.state, record.error, sweep.writes.owed) == (State.FAILED, DIED, 0)


def test_a_worker_that_completes_the_trial_as_it_lets_go_is_believed(
    sweep: Sweep, monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    take = LOCAL.lock

    def lock(folder: Path, timeout: float) -> Any:
        complete(folder, 0)
        return take(folder, timeout)

    sweep.start()
    monkeypatch.setattr(LOCAL, "lock", lock)
    sweep.fail_for_good(RayActorError())
    assert (sweep.record().state, sweep.record().error) == (State.COMPLETE, None)
    assert (sweep.row().state, sweep.row().error, sweep.row().score) == (State.COMPLETE, None, 3.0)
    assert sweep.progress.snapshot().standing is not None, "it is ranked"
    assert sweep.shown.rows == [sweep.row()]


def test_a_trial_that_was_stopped_is_written_at_once(sweep: Sweep) -> None:
    sweep.start()
    sweep.pruned[sweep.id()] = "weak"
    with lock_folder(sweep.place()):
        sweep.complete()
        assert sweep.record().state is State.PRUNED


# A budget that is spent


def test_a_trial_that_a_spent_budget_stopped_is_pending_without_an_error(tmp_path: Path) -> None:
    sweep = Sweep(tmp_path, steps=100.0)
    sweep.start()
    update_record(sweep.place(), error="why it was tried again", ended_at=EARLIER)
    sweep.result(env_steps=100, episode_return=5.0)
    assert sweep.spending.update(sweep.progress.steps()) is not None
    sweep.complete()
    record, row = sweep.record(), sweep.row()
    assert (record.state, record.error, record.ended_at) == (State.PENDING, None, None)
    assert (row.state, row.error, row.env_steps) == (State.PENDING, None, 100)
    assert sweep.shown.rows == [row]


def spend(folder: Path, trials: int) -> Sweep:
    """A sweep whose budget is spent as its trials are in their periods."""
    sweep = Sweep(folder, trials, steps=100.0)
    for number in range(trials):
        sweep.start(number)
    sweep.step()
    sweep.progress.result(sweep.id(trials - 1), {"env_steps": 100})
    sweep.step()
    assert sweep.spending.reason is not None
    return sweep


@pytest.mark.parametrize("how", ["result", "fail", "fail_for_good", "complete"])
def test_the_sweep_ends_once_every_trial_has_ended_its_period(tmp_path: Path, how: str) -> None:
    sweep = spend(tmp_path, 3)
    sweep.result(0, env_steps=10)
    sweep.step()
    sweep.result(1, env_steps=10)
    sweep.step()
    sweep.result(1, env_steps=20)
    sweep.step()
    event = getattr(sweep, how)
    event(number=2) if how in ("result", "complete") else event(raised(BROKEN), number=2)
    sweep.trials[2].set_status(Trial.RUNNING)
    with pytest.raises(BudgetSpent):
        sweep.step()
    assert issubclass(BudgetSpent, Interrupted), "so that Tune does not wait for workers"


def test_without_a_limit_nothing_ends(tmp_path: Path) -> None:
    sweep = Sweep(tmp_path, steps=101.0)
    sweep.start()
    sweep.result(env_steps=100)
    sweep.step()
    sweep.step()


def test_nobody_is_waited_for_who_has_come_since(tmp_path: Path) -> None:
    sweep = spend(tmp_path, 2)
    sweep.trials.append(make_trial(tmp_path, record_of(7).trial_id))
    sweep.trials[2].set_status(Trial.RUNNING)
    sweep.result(0)
    sweep.step()
    sweep.result(1)
    with pytest.raises(BudgetSpent):
        sweep.step()


def test_a_trial_that_is_only_storing_is_not_waited_for(tmp_path: Path) -> None:
    sweep = spend(tmp_path, 2)
    sweep.result(0)
    sweep.trials[1].temporary_state.saving_to = object()
    with pytest.raises(BudgetSpent):
        sweep.step()


def test_a_trial_that_was_paused_is_not_waited_for(tmp_path: Path) -> None:
    sweep = spend(tmp_path, 2)
    sweep.result(0)
    sweep.trials[1].set_status(Trial.PAUSED)
    with pytest.raises(BudgetSpent):
        sweep.step()


def test_a_budget_that_is_spent_while_nobody_plays_ends_the_sweep(tmp_path: Path) -> None:
    sweep = Sweep(tmp_path, time=60.0)
    sweep.hours.now += 59.0
    sweep.step()
    sweep.hours.now += 1.0
    with pytest.raises(BudgetSpent):
        sweep.step()


# Storage that refuses


def test_why_a_trial_is_tried_again_is_written_later(sweep: Sweep, refuse: Callable[..., None]) -> None:
    sweep.start()
    refuse()
    sweep.fail(raised(BROKEN))
    assert (sweep.row().retries, sweep.shown.retries[0][1]) == (1, WHY_BROKEN), "what is shown does not wait"
    assert (sweep.reasons(), sweep.writes.owed) == ([], 1)
    sweep.step(1.5)
    assert sweep.reasons() == []
    refuse(False)
    sweep.step(5.0)
    assert (sweep.reasons(), sweep.writes.owed) == ([WHY_BROKEN], 0)


def test_how_a_trial_ended_is_written_later_and_in_order(sweep: Sweep, refuse: Callable[..., None]) -> None:
    sweep.start()
    refuse()
    sweep.fail(RayActorError())
    sweep.fail_for_good(raised(BROKEN))
    row = sweep.row()
    assert (row.state, row.error, sweep.shown.rows) == (State.FAILED, WHY_BROKEN, [row])
    assert (sweep.record().state, sweep.writes.owed) == (State.RUNNING, 2)
    refuse(False)
    sweep.step(5.0)
    record = sweep.record()
    assert (record.state, record.error, sweep.reasons()) == (State.FAILED, WHY_BROKEN, [DIED])


def test_a_record_that_is_not_given_now_is_asked_for_later(sweep: Sweep, refuse: Callable[..., None]) -> None:
    sweep.start()
    sweep.pruned[sweep.id()] = "weak"
    refuse(reading=True)
    sweep.complete()
    assert (sweep.row().state, sweep.row().error, sweep.writes.owed) == (State.PRUNED, "weak", 1)
    refuse(False)
    assert sweep.record().state is State.RUNNING
    sweep.step(5.0)
    assert (sweep.record().state, sweep.record().error) == (State.PRUNED, "weak")


def test_what_is_owed_does_not_undo_an_end(sweep: Sweep, refuse: Callable[..., None]) -> None:
    sweep.start()
    refuse()
    sweep.complete()
    refuse(False)
    complete(sweep.place(), 0)
    sweep.step(5.0)
    assert (sweep.record().state, sweep.writes.owed) == (State.COMPLETE, 0)


def test_what_was_shown_is_corrected_once_the_record_can_be_read(sweep: Sweep, refuse: Callable[..., None]) -> None:
    sweep.start()
    complete(sweep.place(), 0)
    refuse(reading=True)
    sweep.complete()
    assert (sweep.row().state, sweep.row().error) == (State.FAILED, "ended without completing its budget")
    refuse(False)
    sweep.step(5.0)
    found = sweep.progress.snapshot()
    assert (sweep.row().state, sweep.row().error, sweep.row().score) == (State.COMPLETE, None, 3.0)
    assert found.standing is not None and found.standing.trials == (sweep.id(),)
    assert len(sweep.shown.rows) == 1


# Errors


@pytest.mark.parametrize(
    ("error", "gone", "text"),
    [
        (RayActorError(), True, DIED),
        (ActorDiedError(), True, DIED),
        (RayTaskError("step", "Traceback\nRayActorError", RayActorError()), True, DIED),
        (raised(RayActorError()), True, DIED),
        (RayTaskError("step", "Traceback", BROKEN), False, WHY_BROKEN),
        (raised(BROKEN), False, WHY_BROKEN),
        (raised(ValueError()), False, "ValueError()"),
        (raised(ValueError(" \n ")), False, r"ValueError(' \n ')"),
        (RayTaskError("step", "Traceback\n  line\nKeyError: 'x'\n", None), False, "RayTaskError: KeyError: 'x'"),
        (SweepError("no worker is left"), False, "SweepError: no worker is left"),
        (raised(ValueError("x" * 1000)), False, "ValueError: " + "x" * (MAX_REASON - len("ValueError: "))),
    ],
)
def test_why_an_attempt_failed_is_one_line(error: Exception, gone: bool, text: str) -> None:
    assert (died(error), describe_failure(error)) == (gone, text)


def test_nothing_has_died_without_an_error() -> None:
    assert not died(None)


def with_file(path: Path | None) -> Any:
    return SimpleNamespace(pickled_error_file=None if path is None else str(path))


def test_the_last_error_is_the_one_that_tune_keeps(sweep: Sweep) -> None:
    trial = sweep.trials[0]
    assert last_error(trial) is None
    trial.handle_error(raised(BROKEN))
    trial.handle_error(raised(NodeRefused("why", "a1b2")))
    found = last_error(trial)
    assert isinstance(found, RayTaskError) and isinstance(found.cause, NodeRefused)
    assert (found.cause.node_id, str(found.cause)) == ("a1b2", "why")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        cloudpickle.dumps("no error"),
        b"cno_such_module\nerror\n.",
        b"cos\nno_such_error\n.",
        cloudpickle.dumps(RayActorError())[:-9],
    ],
    ids=["empty", "no error", "module is gone", "class is gone", "cut off"],
)
def test_an_error_that_cannot_be_read_is_none(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "error").write_bytes(content)
    assert last_error(with_file(tmp_path / "error")) is None


def test_a_reason_that_cannot_be_read_is_said_to_be_so(sweep: Sweep) -> None:
    sweep.start()
    trial = sweep.trials[0]
    trial.handle_error(raised(BROKEN))
    Path(trial.pickled_error_file).write_bytes(b"")
    sweep.callback.on_trial_recover(0, sweep.trials, trial)
    assert sweep.reasons() == ["for a reason that could not be read"]


def test_where_no_error_is_kept_there_is_none(tmp_path: Path) -> None:
    assert last_error(with_file(tmp_path / "nowhere")) is None
    assert last_error(with_file(None)) is None


def test_forgetting_keeps_the_last_result(sweep: Sweep) -> None:
    metadata = sweep.trials[0].run_metadata
    metadata.update_metric("episode_return", 1.0, 1)
    metadata.last_result = {"env_steps": 7}
    forget(sweep.trials[0])
    assert (metadata.metric_analysis, metadata.metric_n_steps) == ({}, {})
    assert metadata.last_result == {"env_steps": 7}


def test_retries_are_logged(sweep: Sweep, caplog: pytest.LogCaptureFixture) -> None:
    sweep.start()
    with caplog.at_level(logging.WARNING):
        sweep.fail(raised(BROKEN))
    assert f"{sweep.id()}: tried again: {WHY_BROKEN}" in caplog.text
