"""What workers take of a machine, and what their processes have in their environment."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from jax_party.errors import ConfigError, SweepError
from launcher.ask.parsing import parse_sweep_options
from launcher.machine import ray_session
from launcher.machine.cores import take_core
from launcher.machine.crew import Crew, Machine
from launcher.plan.compose import read_study

ROOT = Path(__file__).parents[2]
THREE_CORES, TWO_GPUS = Machine((0, 1, 2), 0), Machine((0, 1, 2), 2)
CPU_NODES = Machine(tuple(range(7)), 0, None, (Machine((0, 1, 2), 0), Machine((0, 1, 2, 3), 0)))
GPU_NODES = Machine(tuple(range(11)), 6, None, (Machine((0, 1, 2), 0), TWO_GPUS, Machine((0, 1, 2, 3, 4), 4)))


def test_cores_are_taken_once_and_let_go(tmp_path: Path) -> None:
    first = take_core([0, 1], 0.0, tmp_path)
    second = take_core([0, 1], 0.0, tmp_path)
    assert first is not None and second is not None
    assert {first[0], second[0]} == {0, 1}
    assert take_core([0, 1], 0.1, tmp_path) is None
    first[1].close()
    third = take_core([0, 1], 0.0, tmp_path)
    assert third is not None and third[0] == first[0]
    second[1].close()
    third[1].close()


@pytest.mark.parametrize(
    ("machine", "asked", "workers", "resources", "described"),
    [
        (THREE_CORES, {}, 3, {"cpu": 1}, "CPU, 3 cores, one per worker"),
        (THREE_CORES, {"devices": 2}, 1, {"cpu": 1}, "CPU, 3 cores, 2 per worker"),
        (TWO_GPUS, {}, 2, {"cpu": 1, "gpu": 1}, "2 GPUs, one per worker"),
        (TWO_GPUS, {"gpus": 0.25}, 8, {"cpu": 1, "gpu": 0.25}, "2 GPUs, 0.25 per worker"),
        (TWO_GPUS, {"gpus": 0.4}, 4, {"cpu": 1, "gpu": 0.4}, "2 GPUs, 0.4 per worker"),
        (TWO_GPUS, {"devices": 2}, 1, {"cpu": 1, "gpu": 2}, "2 GPUs, 2 per worker"),
        (CPU_NODES, {}, 7, {"cpu": 1}, "a cluster of 2 nodes, 7 cores, one per worker"),
        (CPU_NODES, {"devices": 2}, 3, {"cpu": 2}, "a cluster of 2 nodes, 7 cores, 2 per worker"),
        (GPU_NODES, {}, 6, {"cpu": 1, "gpu": 1}, "a cluster of 3 nodes, 6 GPUs, one per worker"),
        (GPU_NODES, {"gpus": 0.5}, 8, {"cpu": 1, "gpu": 0.5}, "a cluster of 3 nodes, 6 GPUs, 0.5 per worker"),
        (GPU_NODES, {"devices": 4}, 1, {"cpu": 1, "gpu": 4}, "a cluster of 3 nodes, 6 GPUs, 4 per worker"),
    ],
)
def test_workers_follow_the_machine(
    machine: Machine, asked: dict[str, float], workers: int, resources: dict[str, float], described: str
) -> None:
    crew = Crew.of(machine, None, **asked)
    assert crew.workers == workers
    assert crew.needs.resources(machine) == resources
    assert machine.describe(workers, crew.needs) == described


def test_more_workers_than_cores_share_them() -> None:
    crew = Crew.of(THREE_CORES, 5, pack=4)
    assert (crew.workers, crew.trials, crew.settings()["wait_s"]) == (5, 20, 0.0)
    assert "shared" in THREE_CORES.describe(5, crew.needs)


@pytest.mark.parametrize(
    ("machine", "asked", "message"),
    [
        (TWO_GPUS, {"workers": 3}, "WORKERS=3: 2 GPUs have room for 2, each with one; ask for fewer, or give each a"),
        (TWO_GPUS, {"workers": 9, "gpus": 0.25}, "WORKERS=9: 2 GPUs have room for 8, each with 0.25"),
        (TWO_GPUS, {"devices": 4}, "GPUS_PER_TRIAL=4: there are 2 GPUs; ask for fewer"),
        (TWO_GPUS, {"devices": 2, "gpus": 0.5}, "GPUS_PER_TRIAL=0.5: DEVICES_PER_TRIAL is 2"),
        (TWO_GPUS, {"gpus": 2.0}, "GPUS_PER_TRIAL=2: DEVICES_PER_TRIAL is 1"),
        (THREE_CORES, {"devices": 4}, "DEVICES_PER_TRIAL=4: there are 3 CPU cores; ask for fewer"),
        (CPU_NODES, {"devices": 5}, "DEVICES_PER_TRIAL=5: there are 4 CPU cores on a node; ask for fewer"),
        (CPU_NODES, {"workers": 8}, "WORKERS=8: the cluster has room for 7; ask for fewer, or add nodes"),
        (GPU_NODES, {"devices": 5}, "GPUS_PER_TRIAL=5: there are 4 GPUs on a node; ask for fewer"),
        (THREE_CORES, {"gpus": 0.5}, "GPUS_PER_TRIAL=0.5: there is no GPU here that JAX can use; leave it out"),
    ],
)
def test_what_a_machine_has_not_got_is_refused(machine: Machine, asked: dict[str, float], message: str) -> None:
    with pytest.raises(SweepError) as caught:
        Crew.of(machine, **{"workers": None, **asked})
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize("value", ["0", "-1", "1.5", "half", "inf", "nan"])
def test_a_share_is_a_share(value: str) -> None:
    with pytest.raises(SweepError, match=rf"GPUS_PER_TRIAL: expected a share of one, .*, got '{value}'"):
        parse_sweep_options(["ALG=mappo", f"GPUS_PER_TRIAL={value}"])
    assert parse_sweep_options(["ALG=mappo", "GPUS_PER_TRIAL=0.25"]).gpus_per_trial == 0.25
    with pytest.raises(SweepError, match="PACK: expected a whole number from 1, got '0'"):
        parse_sweep_options(["ALG=mappo", "PACK=0"])


def test_devices_are_the_experiments_own(tmp_path: Path) -> None:
    study, _ = read_study(parse_sweep_options(["ALG=mappo", "DEVICES_PER_TRIAL=2"]))
    assert study.num_devices == study.bases[0].config["arch"]["num_devices"] == 2
    with pytest.raises(ConfigError, match=r"arch\.num_devices: 3 does not divide arch\.num_envs = 32"):
        read_study(parse_sweep_options(["ALG=mappo", "DEVICES_PER_TRIAL=3"]))
    with pytest.raises(ConfigError, match=r"arch\.batch: vmap, but arch\.num_devices = 2"):
        read_study(parse_sweep_options(["ALG=mappo", "DEVICES_PER_TRIAL=2", "BATCH=vmap", "SEEDS=2"]))


def in_worker(script: str, *arguments: str, **environment: str) -> list[str]:
    """Words that a fresh process prints."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("JAX", "XLA", "NPROC"))}
    done = subprocess.run(
        [sys.executable, "-c", script, *arguments],
        cwd=ROOT, env=kept | environment, capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    return done.stdout.split()


def test_a_share_of_a_gpu_is_a_share_of_its_memory() -> None:
    fraction = Crew.of(TWO_GPUS, None, gpus=0.25).settings()["memory_fraction"]
    assert fraction == pytest.approx(0.225)
    assert Crew.of(TWO_GPUS, None).settings()["memory_fraction"] is None
    script = (
        "import os, sys; from launcher.machine.worker_process import prepare_worker; "
        f"prepare_worker([0], True, memory_fraction={fraction}); "
        "print(os.environ['XLA_PYTHON_CLIENT_MEM_FRACTION'], 'jax' in sys.modules, 'NPROC' in os.environ)"
    )
    assert in_worker(script) == ["0.2250", "False", "False"]


def test_several_devices_on_a_cpu_are_several_cores(tmp_path: Path) -> None:
    """And more threads than devices: with as many, XLA's collectives wait for each other for ever."""
    script = (
        "import os, sys; from launcher.machine.worker_process import prepare_worker; "
        "cores = sorted(os.sched_getaffinity(0))[:2]; "
        "held = prepare_worker(cores, False, 0.0, devices=len(cores)); "
        "import jax; pinned = os.sched_getaffinity(0) == set(cores); "
        "print(len(held), len(cores), jax.device_count(), os.environ['NPROC'], pinned)"
    )
    held, cores, devices, threads, pinned = in_worker(script, TMPDIR=str(tmp_path))
    assert held == cores == devices
    assert (threads, pinned) == ("1" if devices == "1" else str(2 * int(devices)), "True")


# -- Ray's folders -----------------------------------------------------------------------------------------------------


def test_folders_of_rays_whose_driver_was_killed_are_removed_with_the_next(tmp_path: Path) -> None:
    dead = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, check=True)
    pid, now = int(dead.stdout), time.time()

    def make(name: str, ours: bool, age_s: float) -> Path:
        folder = tmp_path / name
        (folder / "logs").mkdir(parents=True)
        if ours:
            (folder / "jax_party").touch()
            os.utime(folder / "jax_party", (now - age_s, now - age_s))
        return folder

    gone = make(f"session_2026-01-01_00-00-00_1_{pid}", True, 1000.0)
    others = make(f"session_2026-01-01_00-00-00_2_{pid}", False, 1000.0)
    dying = make(f"session_2026-01-01_00-00-00_3_{pid}", True, 10.0)
    living = make(f"session_2026-01-01_00-00-00_4_{os.getppid()}", True, 1000.0)
    mine = make(f"session_2026-01-01_00-00-00_5_{os.getpid()}", False, 0.0)
    ray_session._mark_session(mine)
    assert not gone.exists()
    assert all(folder.exists() for folder in (others, dying, living)) and (mine / "jax_party").exists()
