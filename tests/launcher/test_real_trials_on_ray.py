"""Real trials on Ray: a killed worker or driver changes no bit of what a sweep leaves on disk.

Trials of one plan are first run in one process, unbroken, on one core as a worker has it; sweeps of the same plan are
then broken and compared with that. Checkpoints are made every second period, so a kill in the fourth leaves metrics
and vaults that are ahead of the checkpoint.
"""

from __future__ import annotations

import ipaddress
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
import pandas as pd
import psutil
import pytest
from flashbax.vault import Vault

from jax_party.judging.seeds import fresh_seeds
from jax_party.store.protocol import LOCK_FILE
from jax_party.trial.folder import read_config, read_record
from jax_party.trial.metrics import METRICS_FILE, read_metrics
from jax_party.trial.record import TrialRecord
from jax_party.trial.states import State
from launcher.ask.parsing import parse_sweep_options
from launcher.plan.compose import read_study
from launcher.plan.write import draw_plan, write_plan
from mava_configs import ALGORITHMS
from tests.launcher.drivers import LIMIT_S, ROOT, Driver, kill_driver, start_driver, sweep_folder

pytestmark = [pytest.mark.timeout(400), pytest.mark.xdist_group("real trials")]  # `unbroken` is made once
Begin = Callable[..., Driver]

OVERRIDES = (
    "arch.num_envs=4", "arch.num_eval_episodes=4", "arch.num_absolute_metric_eval_episodes=4",
    "system.rollout_length=64", "system.ppo_epochs=2", "system.num_minibatches=2",
    "network.actor_network.pre_torso.layer_sizes=[16,16]", "network.critic_network.pre_torso.layer_sizes=[16,16]",
    "env.scenario.task_config.time_limit=24", "vault=both", "logger.use_console=false",
    "logger.checkpointing.save_args.save_interval_steps=2", "arch.batch=map",
)  # fmt: skip
EVALUATIONS, TRIALS = 6, 5
WORDS = (
    "ALG=mappo", "SCENARIO=p-short", f"SAMPLES={TRIALS}", "SEEDS=1", "TIMESTEPS=120000",
    f"EVALUATIONS={EVALUATIONS}", "SEED=3",
    f"OVERRIDES={shlex.join(OVERRIDES)}",
)  # fmt: skip
UNBROKEN = """
import os, sys
from pathlib import Path
from launcher.machine.worker_process import prepare_worker
core = prepare_worker(sorted(os.sched_getaffinity(0)), uses_gpu=False)
from jax_party.trial.folder import read_config
from jax_party.config import parse_config
from jax_party.training.experiment import Experiment
for folder in map(Path, sys.argv[1:]):
    experiment = Experiment(parse_config(read_config(folder)), folder)
    while not experiment.finished:
        experiment.step()
    experiment.close()
"""
LOOPBACK = {ipaddress.ip_address(address) for address in ("127.0.0.1", "::1", "::ffff:127.0.0.1")}


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """Every trial of the plan by its number, run without Ray and without a break."""
    sweep = tmp_path_factory.mktemp("unbroken")
    options = parse_sweep_options(WORDS)
    study, samples = read_study(options, "unbroken")
    trials = draw_plan(study, samples)
    write_plan(sweep, study, trials, len(trials), options, "a test")
    folders = {trial.number: sweep / trial.trial_id for trial in trials}
    done = subprocess.run(
        [sys.executable, "-c", UNBROKEN, *map(str, folders.values())],
        cwd=ROOT, capture_output=True, text=True, timeout=350,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return folders


@pytest.fixture
def real_sweep(tmp_path: Path) -> Iterator[Begin]:
    """Start a sweep of real experiments; at the end its whole process group is killed."""
    environment = {name: value for name, value in os.environ.items() if name != "JAX_PARTY_EXPERIMENT"}
    drivers: list[Driver] = []

    def begin(*words: str, **changes: str) -> Driver:
        log = tmp_path / f"driver-{len(drivers)}.log"
        drivers.append(start_driver(words, log, environment | changes))
        return drivers[-1]

    yield begin
    for driver in drivers:
        kill_driver(driver)


def trials(out: Path) -> dict[int, Path]:
    """The folders of the one sweep in `out`, by trial number."""
    folders = [path.parent for path in out.glob("*/*/*/*/record.json")]
    return {read_record(folder).number: folder for folder in folders}


def ahead_of_its_checkpoint(folder: Path) -> bool:
    """Whether the trial is in its fourth period: three are recorded, and the checkpoint is that of the second."""
    record = read_record(folder)
    period = record.total_steps // EVALUATIONS
    return (record.state, record.env_steps, record.checkpoint) == (
        State.RUNNING, 3 * period, f"checkpoints/{2 * period}",
    )  # fmt: skip


def worker_of(folder: Path, driver: Driver) -> int:
    """The pid of the process that holds the trial's folder: one of the driver's, with its lock open."""
    driver.look()
    lock = folder / LOCK_FILE
    pid = int(lock.read_text().split()[1])
    assert pid in driver.descendants
    assert str(lock) in {file.path for file in psutil.Process(pid).open_files()}
    return pid


# -- Comparing ---------------------------------------------------------------------------------------------------------


def metrics(folder: Path) -> list[dict[str, Any]]:
    """metrics.jsonl without what a clock wrote."""
    rows = read_metrics(folder)
    for row in rows:
        row.pop("wall_time_s")
        row.pop("evaluation_time_s", None)
        row["train"].pop("steps_per_second", None)
    return rows


def vault(folder: Path, uid: str) -> dict[str, np.ndarray]:
    """With Flashbax alone."""
    state = Vault(rel_dir=str(folder / "vaults"), vault_name="jax_party", vault_uid=uid).read()
    assert state is not None
    return {name: np.asarray(field) for name, field in state.experience.items()}


def checkpoint(folder: Path, record: TrialRecord) -> dict[str, Any]:
    """The last checkpoint's arrays by path, without what a clock wrote."""
    assert record.checkpoint is not None
    path = folder / record.checkpoint
    with ocp.PyTreeCheckpointer() as reader:
        leaves = reader.metadata(path).item_metadata.tree
        as_numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), leaves)
        tree = reader.restore(path, restore_args=as_numpy)
    for name in ("compile_seconds", "duration", "trained_seconds"):
        del tree["progress"][name]
    return {jax.tree_util.keystr(key): leaf for key, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def assert_same(folder: Path, other: Path) -> None:
    """Metrics, both vaults, learner and best parameters are equal bit for bit."""
    mine, theirs = read_record(folder), read_record(other)
    assert read_config(folder) == read_config(other)
    assert metrics(folder) == metrics(other)
    assert len(metrics(folder)) == EVALUATIONS + 3, "untrained networks, and the episodes at the end"
    for suffix in ("", "-test"):
        ours, whole = vault(folder, mine.trial_id + suffix), vault(other, theirs.trial_id + suffix)
        assert ours.keys() == whole.keys() and len(ours) >= 7
        for name, field in ours.items():
            np.testing.assert_array_equal(field, whole[name], err_msg=f"vault{suffix}: {name}")
    ours, whole = checkpoint(folder, mine), checkpoint(other, theirs)
    assert ours.keys() == whole.keys()
    assert any("params" in name for name in ours)
    for name, leaf in ours.items():
        np.testing.assert_array_equal(leaf, whole[name], err_msg=name)
    for name in (
        "state",
        "final_metrics",
        "absolute_metrics",
        "env_steps",
        "total_steps",
        "checkpoint",
        "device",
        "compile_signature",
    ):
        assert getattr(mine, name) == getattr(theirs, name), name
    assert [(e.kind, e.rows, e.steps) for e in mine.vaults] == [(e.kind, e.rows, e.steps) for e in theirs.vaults]


def assert_all_complete(out: Path, unbroken: dict[int, Path]) -> None:
    """One row of the index a trial, all COMPLETE, and every folder as if it had never been broken."""
    index = pd.read_parquet(sweep_folder(out) / "index.parquet")
    folders = trials(out)
    assert sorted(index["trial_id"]) == sorted(folder.name for folder in folders.values())
    assert list(index["state"]) == ["COMPLETE"] * TRIALS
    assert folders.keys() == unbroken.keys()
    for number, folder in folders.items():
        assert_same(folder, unbroken[number])


# -- Kills -------------------------------------------------------------------------------------------------------------


def test_a_killed_worker_costs_no_bit(real_sweep: Begin, tmp_path: Path, unbroken: dict[int, Path]) -> None:
    """SIGKILL to one trial's worker: the trial is taken up again, and the others share the compiled program."""
    driver = real_sweep(*WORDS, f"OUT={tmp_path}", "WORKERS=2")
    driver.until(lambda: 0 in trials(tmp_path) and ahead_of_its_checkpoint(trials(tmp_path)[0]))
    os.kill(worker_of(trials(tmp_path)[0], driver), signal.SIGKILL)
    assert driver.wait() == 0, driver.output()

    ended = {number: read_record(folder) for number, folder in trials(tmp_path).items()}
    assert [ended[number].attempts for number in range(TRIALS)] == [2, 1, 1, 1, 1], driver.output()
    assert {record.device for record in ended.values()} == {"cpu:1"}, "so the program of chunks is what ran"
    assert "trial 0 tried again (1): the worker process died" in driver.output()
    assert "Traceback" not in driver.output() and "WARNING" not in driver.output(), driver.output()
    assert_all_complete(tmp_path, unbroken)
    found = [ended[number].compile_cache for number in range(TRIALS)]
    # Three processes compiled, for six attempts at five trials: two trials at least found the program there.
    assert found.count("process") >= 2, found
    driver.assert_nothing_left()


@pytest.mark.slow
def test_packed_trials_lose_no_bit_with_their_worker(
    real_sweep: Begin, tmp_path: Path, unbroken: dict[int, Path]
) -> None:
    """SIGKILL to a worker that three trials share: all three are taken up again by the worker that takes its place."""
    driver = real_sweep(*WORDS, f"OUT={tmp_path}", "WORKERS=1", "PACK=3")
    driver.until(lambda: 0 in trials(tmp_path) and ahead_of_its_checkpoint(trials(tmp_path)[0]))
    running = [n for n, folder in trials(tmp_path).items() if read_record(folder).state is State.RUNNING]
    workers = {worker_of(trials(tmp_path)[number], driver) for number in running}
    assert (len(running), len(workers)) == (3, 1)
    os.kill(workers.pop(), signal.SIGKILL)
    assert driver.wait() == 0, driver.output()

    ended = {number: read_record(folder) for number, folder in trials(tmp_path).items()}
    for number, record in ended.items():
        again = number in running
        assert record.attempts == 1 + again, driver.output()
        assert [reason.split(" ", 1)[1] for reason in record.retries] == ["the worker process died"] * again
    assert "Traceback" not in driver.output() and "WARNING" not in driver.output(), driver.output()
    assert_all_complete(tmp_path, unbroken)
    driver.assert_nothing_left()


def test_a_killed_driver_costs_no_bit(real_sweep: Begin, tmp_path: Path, unbroken: dict[int, Path]) -> None:
    """SIGKILL to the driver's group once a trial is complete and another under way; `resume` does what is left."""
    driver = real_sweep(*WORDS, f"OUT={tmp_path}", "WORKERS=2")

    def midway() -> bool:
        folders = trials(tmp_path).values()
        return any(read_record(folder).state is State.COMPLETE for folder in folders) and any(
            map(ahead_of_its_checkpoint, folders)
        )

    driver.until(midway)
    os.killpg(driver.process.pid, signal.SIGKILL)
    driver.process.wait()
    driver.assert_nothing_left()
    before = {number: read_record(folder) for number, folder in trials(tmp_path).items()}
    assert len(before) == TRIALS
    assert State.RUNNING in {record.state for record in before.values()}

    resumed = real_sweep("resume", str(sweep_folder(tmp_path)), "WORKERS=2")
    assert resumed.wait() == 0, resumed.output()
    for number, folder in trials(tmp_path).items():
        again = before[number].state is State.RUNNING
        assert read_record(folder).attempts == max(1, before[number].attempts + again)
    assert_all_complete(tmp_path, unbroken)
    resumed.assert_nothing_left()


def test_a_trial_is_repeated_exactly(real_sweep: Begin, tmp_path: Path, unbroken: dict[int, Path]) -> None:
    driver = real_sweep("rerun", str(unbroken[0]), f"OUT={tmp_path}")
    assert driver.wait() == 0, driver.output()
    assert f"The same: {EVALUATIONS + 1} evaluations with the losses before them, and 2 lines" in driver.output()
    (again,) = tmp_path.glob("*/*/*-rerun")
    assert metrics(again) == metrics(unbroken[0])
    changed = tmp_path / "changed"
    shutil.copytree(unbroken[0], changed)
    path = changed / METRICS_FILE
    path.write_text(path.read_text().replace('"policy_loss": ', '"policy_loss": 7.0, "was": ', 1))
    driver = real_sweep("rerun", str(changed), f"OUT={tmp_path}")
    assert driver.wait() == 1, driver.output()
    assert "policy_loss was" in driver.output()


# -- Every system ------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_every_system_sweeps_at_its_defaults(algorithm: str, real_sweep: Begin, tmp_path: Path) -> None:
    """A row of the index a trial, with its numbers, and a vault of all that it played."""
    driver = real_sweep(f"ALG={algorithm}", "SAMPLES=2", "TIMESTEPS=8192", "EVALUATIONS=2", f"OUT={tmp_path}")
    assert driver.wait(350.0) == 0, driver.output()
    index = pd.read_parquet(sweep_folder(tmp_path) / "index.parquet")
    assert list(index["state"]) == ["COMPLETE"] * 2
    assert set(index["algorithm"]) == {algorithm}
    assert np.isfinite(index[["last.episode_return", "absolute.episode_return"]].to_numpy()).all()
    for _, row in index.iterrows():
        fields = vault(sweep_folder(tmp_path) / row["trial_id"], row["vault.train.uid"])
        assert fields["done"].shape == (row["vault.train.rows"], row["env_steps"] // row["vault.train.rows"])
        assert fields["legal_action_mask"].any(-1).all()
    driver.assert_nothing_left()


@pytest.mark.slow
def test_winners_are_played_again_on_fresh_seeds(real_sweep: Begin, tmp_path: Path) -> None:
    driver = real_sweep(*WORDS, "TIMESTEPS=8192", "EVALUATIONS=2", "SAMPLES=3", f"OUT={tmp_path}")
    assert driver.wait() == 0, driver.output()
    driver = real_sweep("promote", str(sweep_folder(tmp_path)), "TOP=2", "SEEDS=3", "PACK=2", "WORKERS=1")
    assert driver.wait() == 0, driver.output()
    index = pd.read_parquet(sweep_folder(tmp_path) / "index.parquet").set_index("trial_id")
    assert list(index["state"]) == ["COMPLETE"] * 5
    tests = index[index["promoted_from"].notna()]
    ranked = index[index["promoted_from"].isna()].sort_values("standing")
    assert sorted(tests["promoted_from"]) == sorted(ranked.index[:2])
    for trial_id, test in tests.iterrows():
        rows = [row for row in read_metrics(sweep_folder(tmp_path) / trial_id) if row.get("final")]
        assert [row["seed"] for row in rows] == list(fresh_seeds(index["sweep"].iloc[0])[:3])
        winner = index.loc[test["promoted_from"]]
        fresh = np.mean([row["evaluate"]["episode_return"] for row in rows])
        assert winner["fresh.value"] == pytest.approx(fresh)
        assert winner["optimism_gap"] == pytest.approx(winner["objective.value"] - fresh)
        assert winner["fresh.low"] < fresh < winner["fresh.high"]
    assert "optimism gap" in driver.output()
    driver.assert_nothing_left()


# -- Sockets -----------------------------------------------------------------------------------------------------------


def listening(driver: Driver) -> dict[str, str]:
    """Address -> process, of every socket that the driver's processes listen on."""
    driver.look()
    found = {}
    for pid in (driver.process.pid, *driver.descendants):
        try:
            process = psutil.Process(pid)
            for socket in process.net_connections("inet"):
                if socket.status == psutil.CONN_LISTEN:
                    found[f"{socket.laddr.ip} {socket.laddr.port}"] = process.name()
        except psutil.NoSuchProcess:
            continue
    return found


def test_a_sweep_listens_on_loopback_alone(sweep: Begin, tmp_path: Path) -> None:
    driver = sweep("ALG=mappo", "SAMPLES=2", "EVALUATIONS=4", f"OUT={tmp_path}", "WORKERS=2", delay_s=0.5)
    found: dict[str, str] = {}
    deadline = time.monotonic() + LIMIT_S
    while driver.process.poll() is None and time.monotonic() < deadline:
        found |= listening(driver)
        time.sleep(0.1)
    assert driver.wait() == 0, driver.output()
    assert found, "Ray listens on something"
    open_to_others = {key: name for key, name in found.items() if ipaddress.ip_address(key.split()[0]) not in LOOPBACK}
    assert not open_to_others
