"""Sweeps that are broken at random moments: they finish, with every trial once and no bit changed.

Moments are drawn with fixed seeds over most of a sweep: a share of its steps, and a moment within the period that
follows. Real trials are compared with those of an unbroken run; stand-ins are used where training is not the point.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np
import pandas as pd
import psutil
import pytest

from jax_party.store.protocol import LOCK_FILE
from jax_party.store.retry import PATIENCE_VARIABLE
from jax_party.trial.folder import read_record
from jax_party.trial.metrics import read_metrics
from jax_party.trial.record import TrialRecord
from jax_party.trial.states import FINISHED, State
from launcher.work.watchdog import TRACE_FILE
from tests.launcher import misbehaving
from tests.launcher.drivers import Driver, kill_driver, sweep_folder
from tests.launcher.test_real_trials_on_ray import (
    EVALUATIONS,
    TRIALS,
    WORDS,
    assert_all_complete,
    assert_same,
    real_sweep,
    trials,
    unbroken,
    vault,
)

__all__ = ["real_sweep", "unbroken"]  # fixtures

pytestmark = pytest.mark.timeout(1200)
Begin = Callable[..., Driver]
LIMIT_S = 400.0
UPDATES = 79
"""Of a real trial's period."""
VAULT_ARRAYS = 40
"""How often TensorStore opens one, at least, while a trial's two vaults are made."""
STANDINS = ("ALG=mappo", "SEEDS=1", "TIMESTEPS=24576", "EVALUATIONS=6")
DIED = "the worker process died"


def read(out: Path) -> dict[int, TrialRecord]:
    return {number: read_record(folder) for number, folder in trials(out).items()}


def trained(out: Path) -> float:
    """The share of the sweep's steps that is recorded."""
    found = read(out)
    return sum(record.env_steps for record in found.values()) / (TRIALS * 120_000) if len(found) == TRIALS else 0.0


def moments(generator: np.random.Generator, number: int) -> list[tuple[float, float]]:
    """Shares of a sweep's steps, one in each part of it, and seconds after that; its end comes too fast to be met."""
    parts = 0.8 * (np.arange(number) + generator.uniform(0.05, 0.95, number)) / number
    return list(zip(parts.tolist(), generator.uniform(0.0, 1.0, number).tolist(), strict=True))


def holder(folder: Path, driver: Driver) -> int | None:
    """The pid of the process that holds a trial's folder now, if one does."""
    driver.look()
    lock = folder / LOCK_FILE
    try:
        pid = int(lock.read_text().split()[1])
        held = str(lock) in {file.path for file in psutil.Process(pid).open_files()}
    except (OSError, IndexError, psutil.Error):
        return None
    return pid if held and pid in driver.descendants else None


def reasons(record: TrialRecord) -> list[str]:
    return [note.split(" ", 1)[1] for note in record.retries]


def index(out: Path) -> pd.DataFrame:
    """The sweep's index, one row a trial."""
    table = pd.read_parquet(sweep_folder(out) / "index.parquet")
    assert sorted(table["trial_id"]) == sorted(record.trial_id for record in read(out).values())
    return table.set_index("number")


def assert_retries_are_told(out: Path) -> None:
    """A reason in the index for every further attempt; a kill before an attempt has begun counts no attempt."""
    for _, row in index(out).iterrows():
        told = [] if row["retries"] is None or pd.isna(row["retries"]) else row["retries"].split("; ")
        assert len(told) >= row["attempts"] - 1, (row["attempts"], told)


# -- Workers -----------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(("seed", "pack"), [(0, 1), (1, 1), (2, 1), (3, 3)])
def test_killed_workers(real_sweep: Begin, tmp_path: Path, unbroken: dict[int, Path], seed: int, pack: int) -> None:
    """SIGKILL, two or three times in each sweep, to whoever plays a trial that was not hit twice before."""
    generator = np.random.default_rng(seed)
    driver = real_sweep(*WORDS, f"OUT={tmp_path}", "WORKERS=2" if pack == 1 else "WORKERS=1", f"PACK={pack}")
    hits, broken = dict.fromkeys(range(TRIALS), 0), dict.fromkeys(range(TRIALS), 0)
    for share, seconds in moments(generator, 2 if pack > 1 else 3):
        driver.until(lambda share=share: trained(tmp_path) >= share, LIMIT_S)
        time.sleep(seconds)
        pid, played = somebody_to_kill(driver, tmp_path, hits, generator)
        worker = psutil.Process(pid)
        worker.kill()
        psutil.wait_procs([worker], timeout=30)
        for number in played:
            hits[number] += 1
            broken[number] += read_record(trials(tmp_path)[number]).state not in FINISHED
    assert driver.wait(LIMIT_S) == 0, driver.output()
    assert_all_complete(tmp_path, unbroken)
    for number, record in read(tmp_path).items():
        assert all(reason.startswith(DIED) for reason in reasons(record)), record.retries
        # One that had just ended is tried again only where the driver did not know that yet. What died before the trial
        # had begun, as it joined a pack, hit nothing of it.
        assert record.started_at is not None
        begun = [note for note in record.retries if note.split(" ")[0] >= record.started_at]
        assert broken[number] <= len(begun) <= hits[number], (number, record.retries, broken, hits)
    assert_retries_are_told(tmp_path)
    assert "Traceback" not in driver.output(), driver.output()
    driver.assert_nothing_left()


def somebody_to_kill(
    driver: Driver, out: Path, hits: Mapping[int, int], generator: np.random.Generator
) -> tuple[int, list[int]]:
    """A process that plays trials none of which was hit twice before, once there is one; with their numbers."""
    found: dict[int, list[int]] = {}

    def somebody_plays() -> bool:
        found.clear()
        for number, folder in trials(out).items():
            if (pid := holder(folder, driver)) is not None:
                found.setdefault(pid, []).append(number)
        for pid in [pid for pid, numbers in found.items() if max(hits[number] for number in numbers) >= 2]:
            del found[pid]
        return bool(found)

    driver.until(somebody_plays, LIMIT_S)
    pid = int(generator.choice(sorted(found)))
    return pid, found[pid]


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_trials_that_misbehave(real_sweep: Begin, tmp_path: Path, unbroken: dict[int, Path], seed: int) -> None:
    """Five trials, a fault each: no memory twice over, a hang, a loss that is nan, a vault that is half made."""
    generator = np.random.default_rng(300 + seed)
    kinds = [str(kind) for kind in generator.permutation(["kill", "exhaust", "hang", "nan", "half_vault"])]
    faults = {number: fault(kind, generator) for number, kind in enumerate(kinds)}
    driver = real_sweep(
        *WORDS, f"OUT={tmp_path}", "WORKERS=2", "PERIOD_TIMEOUT=45s", JAX_PARTY_EXPERIMENT=misbehaving.FACTORY,
        **{misbehaving.VARIABLE: json.dumps(faults)},
    )  # fmt: skip
    assert driver.wait(LIMIT_S) == 0, driver.output()
    ended, table = read(tmp_path), index(tmp_path)
    for number, (kind, period, moment) in faults.items():
        record, folder = ended[number], trials(tmp_path)[number]
        if kind == "nan":
            update = (period - 1) * UPDATES + int(moment) + 1
            assert record.state is State.FAILED and record.retries == (), faults
            assert f"nan in update {update} " in table.loc[number, "error"]
            assert [row["evaluation"] for row in read_metrics(folder)] == list(range(period))
            assert_vaults_begin_alike(folder, unbroken[number])
        else:
            assert_same(folder, unbroken[number])
            (why,) = reasons(record)
            assert {"exhaust": misbehaving.EXHAUSTED, "hang": "PERIOD_TIMEOUT"}.get(kind, DIED) in why, (faults, why)
    assert_retries_are_told(tmp_path)
    assert "Traceback" not in driver.output(), driver.output()
    driver.assert_nothing_left()


def fault(kind: str, generator: np.random.Generator) -> tuple[str, int, int | str]:
    """What `misbehaving` is told, at a random moment; nan and half made vaults have moments of their own kind."""
    if kind == "half_vault":
        return kind, 1, int(generator.integers(VAULT_ARRAYS))
    if kind == "nan":
        return kind, int(generator.integers(2, EVALUATIONS + 1)), int(generator.integers(UPDATES))
    moment = generator.choice([*map(str, generator.integers(UPDATES, size=2)), "evaluated", "saved"])
    return kind, int(generator.integers(1, EVALUATIONS + 1)), int(moment) if moment.isdigit() else str(moment)


def assert_vaults_begin_alike(folder: Path, whole: Path) -> None:
    """A trial that failed midway has the rows of its periods, and no others."""
    entries = read_record(folder).vaults
    assert [entry.kind for entry in entries] == ["train", "test"]
    for entry, longer in zip(entries, read_record(whole).vaults, strict=True):
        mine, theirs = vault(folder, entry.uid), vault(whole, longer.uid)
        for name, field in mine.items():
            assert 0 < entry.steps <= field.shape[1] < theirs[name].shape[1], (entry, name)
            np.testing.assert_array_equal(field, theirs[name][:, : field.shape[1]], err_msg=f"{entry.uid}: {name}")


@pytest.mark.slow
def test_processes_that_run_out_of_memory(sweep: Begin, tmp_path: Path) -> None:
    """The kernel's way (SIGKILL), and XLA's; a loss that is nan beside them fails its own trial alone."""
    faults = {"0": ["oom_kill", 2], "1": ["exhaust", 3], "2": ["diverge", 2], "3": ["oom_kill", 5]}
    driver = sweep(*STANDINS, "SAMPLES=5", f"OUT={tmp_path}", "WORKERS=2", delay_s=0.2, faults=faults)
    assert driver.wait() == 0, driver.output()
    ended = read(tmp_path)
    assert [record.state for record in map(ended.__getitem__, range(5))] == [
        State.COMPLETE, State.COMPLETE, State.FAILED, State.COMPLETE, State.COMPLETE,
    ]  # fmt: skip
    assert reasons(ended[0]) == reasons(ended[3]) == [DIED]
    assert reasons(ended[1])[0].startswith("RuntimeError: RESOURCE_EXHAUSTED")
    assert index(tmp_path).loc[2, "error"] == "TrainingDiverged: policy_loss is nan at 512 steps"
    assert_retries_are_told(tmp_path)
    driver.assert_nothing_left()


def test_a_trial_that_hangs_is_given_up_and_retried(sweep: Begin, tmp_path: Path) -> None:
    check_hanging(sweep, tmp_path, {"1": ["hang", 2]}, 1)


@pytest.mark.slow
@pytest.mark.parametrize(("seed", "pack"), [(0, 1), (1, 1), (2, 2)])
def test_trials_that_hang_at_random_moments(sweep: Begin, tmp_path: Path, seed: int, pack: int) -> None:
    generator = np.random.default_rng(seed)
    hanging = generator.choice(5, 2, replace=False).tolist()
    faults = {str(number): ["hang", int(generator.integers(1, 7))] for number in hanging}
    check_hanging(sweep, tmp_path, faults, pack)


def check_hanging(sweep: Begin, out: Path, faults: dict[str, list[object]], pack: int) -> None:
    """Trials that never answer: each is tried again once, and says why and where it hung."""
    driver = sweep(
        *STANDINS, "SAMPLES=5", f"OUT={out}", "WORKERS=2" if pack == 1 else "WORKERS=1", f"PACK={pack}",
        "PERIOD_TIMEOUT=3s", delay_s=0.1, faults=faults,
    )  # fmt: skip
    assert driver.wait() == 0, driver.output()
    ended = read(out)
    assert {record.state for record in ended.values()} == {State.COMPLETE}
    for number, record in ended.items():
        if str(number) in faults:
            why = " ".join(reasons(record))
            assert "gave no result within" in why and "PERIOD_TIMEOUT" in why, record.retries
        elif pack == 1:
            assert record.retries == ()
        assert record.error is None
        assert [row["step"] for row in read_metrics(trials(out)[number])] == [4096 * k for k in range(1, 7)]
    stacks = [path.read_text() for path in out.glob(f"*/*/*/*/{TRACE_FILE}")]
    assert stacks and all("standin.py" in stack for stack in stacks)
    assert_retries_are_told(out)
    assert "Traceback" not in driver.output(), driver.output()
    driver.assert_nothing_left()


def test_a_worker_that_dies_between_trials_fails_neither(sweep: Begin, tmp_path: Path) -> None:
    """It dies as it lets go of one trial and is to be given the next, which then begins in another."""
    driver = sweep(
        *STANDINS, "SAMPLES=4", f"OUT={tmp_path}", "WORKERS=1",
        faults={"0": ["die_leaving", 0], "2": ["die_leaving", 0]},
    )  # fmt: skip
    assert driver.wait() == 0, driver.output()
    ended = read(tmp_path)
    assert [(ended[number].state, ended[number].attempts) for number in range(4)] == [(State.COMPLETE, 1)] * 4
    hit = [number for number in range(4) if reasons(ended[number])]
    assert len(hit) == 2 and 0 not in hit and all(reasons(ended[number]) == [DIED] for number in hit), hit
    assert "raylet" not in driver.output(), "Ray's messages are for the log"
    assert "Ray: A worker died or was killed" in (sweep_folder(tmp_path) / "sweep.log").read_text()
    driver.assert_nothing_left()


@pytest.mark.slow
@pytest.mark.parametrize("pack", [1, 2])
def test_a_process_that_stands_still_is_given_up_from_outside(
    sweep: Begin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pack: int
) -> None:
    """It runs no watchdog of its own."""
    monkeypatch.setenv(PATIENCE_VARIABLE, "1")
    driver = sweep(
        *STANDINS, "SAMPLES=4", f"OUT={tmp_path}", "WORKERS=1", f"PACK={pack}", "PERIOD_TIMEOUT=3s",
        delay_s=0.1, faults={"1": ["freeze", 3]},
    )  # fmt: skip
    assert driver.wait() == 0, driver.output()
    ended = read(tmp_path)
    assert {record.state for record in ended.values()} == {State.COMPLETE}
    (why,) = reasons(ended[1])
    assert ("had stood still for" if pack == 1 else DIED) in why, why
    assert_retries_are_told(tmp_path)
    driver.assert_nothing_left()


# -- The driver --------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1])
def test_killed_drivers(real_sweep: Begin, tmp_path: Path, unbroken: dict[int, Path], seed: int) -> None:
    """SIGKILL to the driver's process alone, three times; each time the sweep is resumed."""
    driver = real_sweep(*WORDS, f"OUT={tmp_path}", "WORKERS=2")
    interrupted: dict[int, set[int]] = {number: set() for number in range(TRIALS)}
    for share, seconds in moments(np.random.default_rng(100 + seed), 3):
        driver.until(lambda share=share: trained(tmp_path) >= share, LIMIT_S)
        time.sleep(seconds)
        driver.look()
        if driver.process.poll() is None:
            os.kill(driver.process.pid, signal.SIGKILL)
        driver.process.wait()
        driver.assert_nothing_left(150.0)  # Ray's own two agents look for the others for a minute
        for number, record in read(tmp_path).items():
            # One attempt of a trial is broken off once, even where the next driver dies before it has read that.
            if record.state is State.RUNNING:
                interrupted[number].add(record.attempts)
        driver = real_sweep("resume", str(sweep_folder(tmp_path)), "WORKERS=2")
    assert driver.wait(LIMIT_S) == 0, driver.output()
    assert_all_complete(tmp_path, unbroken)
    index(tmp_path)
    for number, record in read(tmp_path).items():
        assert len(record.retries) == len(interrupted[number]), (number, record.retries, interrupted)
        assert all("driver" in reason for reason in reasons(record)), record.retries
    assert_retries_are_told(tmp_path)
    driver.assert_nothing_left()


def checkpoints(folder: Path) -> list[Path]:
    """A trial's checkpoints, the newest last; none that is still being written."""
    return sorted((path for path in folder.glob("checkpoints/*") if path.name.isdigit()), key=lambda p: int(p.name))


def damage(checkpoint: Path, how: str) -> None:
    """Cut every file of a checkpoint to half its length, empty it, overwrite it, or remove it."""
    for path in [path for path in checkpoint.rglob("*") if path.is_file()]:
        content = path.read_bytes()
        if how == "removed":
            path.unlink()
        else:
            path.write_bytes({"halved": content[: len(content) // 2], "emptied": b""}.get(how, b"?" * len(content)))


def half_make_vaults(folder: Path) -> None:
    """As a kill leaves them: one aside that has no fields yet, and the other in its place with nothing in it."""
    vaults = folder / "vaults" / "jax_party"
    (vaults / f".{folder.name}.new").mkdir(parents=True)
    (vaults / f".{folder.name}.new" / "metadata.json").write_text("{")
    (vaults / f"{folder.name}-test").mkdir()


@pytest.mark.slow
@pytest.mark.parametrize(("seed", "how"), [(0, "halved"), (1, "emptied"), (2, "overwritten"), (3, "removed")])
def test_damaged_checkpoints_and_half_made_vaults(
    real_sweep: Begin, tmp_path: Path, unbroken: dict[int, Path], seed: int, how: str
) -> None:  # fmt: skip
    """While the driver is dead: a last checkpoint is damaged, and vaults are half made; `resume` mends both."""
    generator = np.random.default_rng(400 + seed)
    share = generator.uniform(0.05, 0.4)
    driver = real_sweep(*WORDS, f"OUT={tmp_path}", "WORKERS=2")

    def running() -> list[Path]:
        """The trials that run and have a checkpoint before their last one."""
        found = [f for f in trials(tmp_path).values() if read_record(f).state is State.RUNNING]
        return [folder for folder in found if len(checkpoints(folder)) >= 2]

    def waiting() -> list[Path]:
        """The trials that have not begun."""
        return [f for f in trials(tmp_path).values() if read_record(f).started_at is None]

    def midway() -> bool:
        return trained(tmp_path) >= share and bool(waiting()) and bool(running())

    while True:
        while not midway():  # a period takes half a second: little time to look at processes between
            assert driver.process.poll() is None, driver.output()
            driver.look() if not driver.descendants else time.sleep(0.01)
        kill_driver(driver)
        driver.assert_nothing_left()
        if running() and waiting():
            break
        driver = real_sweep("resume", str(sweep_folder(tmp_path)), "WORKERS=2")  # what ran ended as its driver died
    broken = running()[int(generator.integers(len(running())))]
    newest = checkpoints(broken)[-1]
    damage(newest, how)
    halved = waiting()[int(generator.integers(len(waiting())))]
    half_make_vaults(halved)

    driver = real_sweep("resume", str(sweep_folder(tmp_path)), "WORKERS=2")
    assert driver.wait(LIMIT_S) == 0, driver.output()
    assert_all_complete(tmp_path, unbroken)
    table = index(tmp_path).set_index("trial_id")
    assert f"checkpoint {newest.name} cannot be read" in table.loc[broken.name, "retries"]
    assert pd.isna(table.loc[halved.name, "retries"]), "it had lost nothing"
    assert_retries_are_told(tmp_path)
    driver.assert_nothing_left()


@pytest.mark.slow
def test_no_checkpoint_that_can_be_read_fails_its_trial_alone(real_sweep: Begin, tmp_path: Path) -> None:
    words = [*WORDS, "SAMPLES=2", f"OUT={tmp_path}", "WORKERS=1"]
    driver = real_sweep(*words)
    driver.until(lambda: 0 in trials(tmp_path) and bool(checkpoints(trials(tmp_path)[0])), LIMIT_S)
    kill_driver(driver)
    folder = trials(tmp_path)[0]
    for checkpoint in checkpoints(folder):
        damage(checkpoint, "emptied")
    driver = real_sweep("resume", str(sweep_folder(tmp_path)), "WORKERS=1")
    assert driver.wait(LIMIT_S) == 0, driver.output()
    ended = read(tmp_path)
    assert (ended[0].state, ended[1].state) == (State.FAILED, State.COMPLETE)
    assert ended[0].error is not None and "none of the checkpoints" in ended[0].error
    assert reasons(ended[0]) == ["its driver had died"]
    driver.assert_nothing_left()


# -- Storage -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own, 64 MB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", str(disk)], capture_output=True, text=True, check=False
    ) if shutil.which("mount") else None  # fmt: skip
    if done is None or done.returncode:
        pytest.skip(f"a tmpfs cannot be mounted here: {done.stderr.strip() if done else 'no mount'}")
    yield disk
    subprocess.run(["umount", "--lazy", str(disk)], check=True)


def fill(disk: Path) -> Path:
    """A file that leaves no byte free."""
    ballast = disk / "ballast"
    with ballast.open("wb", buffering=0) as file:
        for size in (2**20, 2**12, 1):
            try:
                while True:
                    file.write(b"\0" * size)
            except OSError:
                continue
    return ballast


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_disk_that_is_full_for_half_a_minute(
    real_sweep: Begin, small_disk: Path, unbroken: dict[int, Path], seed: int
) -> None:  # fmt: skip
    driver = real_sweep(*WORDS, f"OUT={small_disk}", "WORKERS=2")
    ((share, seconds),) = moments(np.random.default_rng(200 + seed), 1)
    driver.until(lambda: trained(small_disk) >= share, LIMIT_S)
    time.sleep(seconds)
    ballast = fill(small_disk)
    until = time.monotonic() + 30.0
    while time.monotonic() < until:
        assert driver.process.poll() is None, driver.output()
        time.sleep(0.5)
    ballast.unlink()
    assert driver.wait(LIMIT_S) == 0, driver.output()
    assert_all_complete(small_disk, unbroken)
    told = [note for record in read(small_disk).values() for note in reasons(record)]
    assert told and all("storage refused for" in note and "No space left on device" in note for note in told), told
    assert_retries_are_told(small_disk)
    assert "Traceback" not in driver.output(), driver.output()
    driver.assert_nothing_left()


@pytest.mark.slow
def test_storage_that_refuses_for_a_while(sweep: Begin, tmp_path: Path) -> None:
    """Injected, so that it runs everywhere: the trial goes on once storage takes writes again, and says so once."""
    driver = sweep(
        *STANDINS, "SAMPLES=3", f"OUT={tmp_path}", "WORKERS=2", delay_s=0.1, faults={"1": ["outage", 3]}, outage_s=4
    )
    assert driver.wait() == 0, driver.output()
    ended = read(tmp_path)
    assert {record.state for record in ended.values()} == {State.COMPLETE}
    assert len(ended[1].retries) == 1
    assert "(No space left on device), then went on" in reasons(ended[1])[0]
    assert ended[0].retries == ended[2].retries == ()
    driver.assert_nothing_left()


@pytest.mark.slow
def test_storage_that_never_comes_back_fails_its_trial_alone(
    sweep: Begin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(PATIENCE_VARIABLE, "3")
    driver = sweep(
        *STANDINS, "SAMPLES=3", f"OUT={tmp_path}", "WORKERS=2", delay_s=0.1, faults={"1": ["outage", 3]}, outage_s=1e6
    )
    assert driver.wait() == 0, driver.output()
    ended = read(tmp_path)
    assert [ended[number].state for number in range(3)] == [State.COMPLETE, State.FAILED, State.COMPLETE]
    assert ended[1].error is not None
    assert ended[1].error.startswith("StorageRefused: ") and "RETRY_FAILED=1" in ended[1].error
    assert all(record.state in FINISHED for record in ended.values())
    driver.assert_nothing_left()
