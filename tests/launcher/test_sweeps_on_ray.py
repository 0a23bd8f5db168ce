"""Real Ray sweeps of trials that do no work: faults, kills, stops, and what is on disk afterwards."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from jax_party.trial.folder import read_record
from jax_party.trial.metrics import read_metrics
from jax_party.trial.record import TrialRecord
from jax_party.trial.states import State
from tests.launcher.drivers import Driver, sweep_folder

pytestmark = pytest.mark.timeout(400)
Begin = Callable[..., Driver]


def trials(out: Path) -> dict[int, TrialRecord]:
    found = [read_record(path.parent) for path in out.glob("*/*/*/*/record.json")]
    assert len({record.number for record in found}) == len(found)
    return {record.number: record for record in sorted(found, key=lambda record: record.number)}


def steps(out: Path, record: TrialRecord) -> list[int]:
    return [row["step"] for row in read_metrics(sweep_folder(out) / record.trial_id)]


def planned(out: Path) -> bool:
    return any(out.glob("*/*/*/sweep.yaml"))


def started(out: Path) -> list[TrialRecord]:
    return [record for record in trials(out).values() if record.env_steps and record.state is State.RUNNING]


def test_faults_cost_one_trial_each_and_not_the_sweep(sweep: Begin, tmp_path: Path) -> None:
    """A killed worker and an error are retried; an error that stays, and a loss that is nan, fail their trial alone."""
    driver = sweep(
        "ALG=mappo", "SAMPLES=5", "TIMESTEPS=16384", "EVALUATIONS=4", f"OUT={tmp_path}", "WORKERS=2",
        delay_s=0.2, faults={"1": ["raise", 2], "2": ["diverge", 2], "3": ["raise_always", 1]},
    )  # fmt: skip
    driver.until(lambda: planned(tmp_path) and 0 in trials(tmp_path) and trials(tmp_path)[0].env_steps >= 4096)
    pid = int((sweep_folder(tmp_path) / trials(tmp_path)[0].trial_id / "pid").read_text())
    assert os.getpriority(os.PRIO_PROCESS, pid) == os.getpriority(os.PRIO_PROCESS, 0), "a busy core would starve it"
    os.kill(pid, signal.SIGKILL)
    assert driver.wait() == 0, driver.output()

    ended = trials(tmp_path)
    states = [ended[number].state for number in range(5)]
    assert states == [State.COMPLETE, State.COMPLETE, State.FAILED, State.FAILED, State.COMPLETE], driver.output()
    assert [ended[number].attempts for number in range(5)] == [2, 2, 1, 3, 1]
    assert ended[2].error == "TrainingDiverged: policy_loss is nan at 512 steps"
    assert ended[3].error == "RuntimeError: the disk is made of cheese"
    for number in (0, 1, 4):
        assert steps(tmp_path, ended[number]) == [4096, 8192, 12288, 16384]
        assert ended[number].device == "cpu:1", "a worker has one core of its own"
    output = driver.output()
    assert "trial 0 tried again (1): the worker process died" in output
    assert "3 COMPLETE, 2 FAILED" in output
    assert "Traceback" not in output and "WARNING" not in output, output
    assert (sweep_folder(tmp_path) / "index.csv").read_text().count("\n") == 6
    driver.assert_nothing_left()


def test_killed_driver_is_resumed_with_optuna(sweep: Begin, tmp_path: Path) -> None:
    """SIGKILL to the driver's whole group; `resume` runs what is left, and the study knows what has ended."""
    words = ("ALG=ippo", "SAMPLES=3", "SCENARIO=p-base,p-no-rank", "TIMESTEPS=8192", "EVALUATIONS=2",
             "SEARCH=optuna", "WORKERS=2", f"OUT={tmp_path}")  # fmt: skip
    driver = sweep(*words, delay_s=0.4)
    driver.until(lambda: planned(tmp_path) and len(trials(tmp_path)) >= 3 and started(tmp_path))
    before = {record.trial_id for record in trials(tmp_path).values()}
    os.killpg(driver.process.pid, signal.SIGKILL)
    driver.process.wait()
    driver.assert_nothing_left()

    resumed = sweep("resume", str(sweep_folder(tmp_path)), "WORKERS=2")
    assert resumed.wait() == 0, resumed.output()
    ended = trials(tmp_path)
    assert [record.state for record in ended.values()] == [State.COMPLETE] * 6
    assert before <= {record.trial_id for record in ended.values()}
    assert [record.scenario for record in ended.values()] == ["p-base", "p-no-rank"] * 3
    assert all(steps(tmp_path, record) == [4096, 8192] for record in ended.values())
    again = sweep("resume", str(sweep_folder(tmp_path)))
    assert again.wait() == 0
    assert "nothing left to run" in again.output()
    for driver in (resumed, again):
        assert "p-base: ranks never change (a place is worth 10 per step" in driver.output()
    resumed.assert_nothing_left()


def test_interrupted_asha_sweep_is_resumed(sweep: Begin, tmp_path: Path) -> None:
    """Ctrl-C, twice: exit code 130, no trial RUNNING, and `resume` ends the sweep with weak trials pruned."""
    driver = sweep(
        "ALG=mappo", "SAMPLES=6", "TIMESTEPS=16384", "EVALUATIONS=4", "SCHEDULER=asha", "WORKERS=2",
        f"OUT={tmp_path}", delay_s=0.3,
    )  # fmt: skip
    driver.until(lambda: planned(tmp_path) and started(tmp_path))
    os.kill(driver.process.pid, signal.SIGINT)
    driver.look()
    os.kill(driver.process.pid, signal.SIGINT)
    assert driver.wait(30) == 130, driver.output()
    folder = sweep_folder(tmp_path)
    assert f"make resume SWEEP={folder}" in driver.output()
    assert State.RUNNING not in {record.state for record in trials(tmp_path).values()}
    driver.assert_nothing_left()

    resumed = sweep("resume", str(folder), "WORKERS=2")
    assert resumed.wait() == 0, resumed.output()
    ended = trials(tmp_path)
    assert {record.state for record in ended.values()} == {State.COMPLETE, State.PRUNED}
    pruned = [record for record in ended.values() if record.state is State.PRUNED]
    assert all(re.match(r"asha: episode_return \S+ at [\d,]+ steps", record.error or "") for record in pruned)
    assert all(record.env_steps < 16384 for record in pruned)


def test_a_spent_budget_stops_between_periods_and_a_larger_one_goes_on(sweep: Begin, tmp_path: Path) -> None:
    driver = sweep(
        "ALG=mappo", "SAMPLES=5", "SEEDS=1", "TIMESTEPS=16384", "EVALUATIONS=4", f"OUT={tmp_path}", "WORKERS=2",
        "BUDGET=steps=20000", delay_s=0.3,
    )  # fmt: skip
    assert driver.wait() == 0, driver.output()
    folder = sweep_folder(tmp_path)
    assert f"Go on with: make resume SWEEP={folder} BUDGET=" in driver.output()
    before = trials(tmp_path)
    assert {record.state for record in before.values()} <= {State.COMPLETE, State.PENDING}
    assert sum(record.env_steps for record in before.values()) >= 20_000
    assert any(0 < record.env_steps < 16_384 for record in before.values()), "stopped in the middle of its budget"
    assert any(record.env_steps == 0 for record in before.values())
    driver.assert_nothing_left()

    refused = sweep("resume", str(folder))
    assert refused.wait() == 2
    assert "SweepError: BUDGET: is spent already (steps " in refused.output()
    resumed = sweep("resume", str(folder), "WORKERS=2", "BUDGET=steps=1e6,time=1h")
    assert resumed.wait() == 0, resumed.output()
    ended = trials(tmp_path)
    assert {record.state for record in ended.values()} == {State.COMPLETE}
    for number, record in ended.items():
        assert steps(tmp_path, record) == [4096, 8192, 12288, 16384]
        assert record.attempts == before[number].attempts + (before[number].state is State.PENDING)
    resumed.assert_nothing_left()


@pytest.mark.slow
def test_short_trials_do_not_keep_the_second_worker_from_starting(sweep: Begin, tmp_path: Path) -> None:
    driver = sweep("ALG=mappo", "SAMPLES=24", "TIMESTEPS=1", f"OUT={tmp_path}", "WORKERS=2")
    assert driver.wait() == 0, driver.output()
    ended = trials(tmp_path)
    assert [record.state for record in ended.values()] == [State.COMPLETE] * 24
    pids = [(sweep_folder(tmp_path) / record.trial_id / "pids").read_text().split() for record in ended.values()]
    assert all(len(of_trial) == 1 for of_trial in pids), "each trial is begun once"
    assert len({pid for of_trial in pids for pid in of_trial}) == 2


def test_the_overhead_of_trials_that_do_no_work_is_measured(tmp_path: Path) -> None:
    """The benchmark `launcher` says how large it is."""
    from launcher.work.no_work import measure

    overhead = measure(tmp_path, trials=3, workers=1)
    assert (overhead.trials, overhead.workers) == (3, 1)
    assert 0 < overhead.per_trial_s < overhead.wall_s
    assert 0 < overhead.startup_s < overhead.wall_s
