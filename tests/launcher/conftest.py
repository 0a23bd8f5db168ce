"""Sweeps as subprocesses: each in a session of its own, ended by its process group alone."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from launcher.machine.ray_session import prepare_driver

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))  # for tests.launcher.drivers, in any of pytest's import modes

from tests.launcher.drivers import Driver  # noqa: E402

STANDIN = "tests.launcher.standin:StandIn"

# Tests that import Ray in this process need the same settings as a driver.
prepare_driver()


@pytest.fixture
def sweep(tmp_path: Path) -> Iterator[Callable[..., Driver]]:
    """Start a sweep of stand-in trials; at the end its whole process group is killed."""
    drivers: list[Driver] = []

    def begin(*words: str, **steer: object) -> Driver:
        environment = os.environ | {"JAX_PARTY_EXPERIMENT": STANDIN, "JAX_PARTY_STANDIN": json.dumps(steer)}
        log = tmp_path / f"driver-{len(drivers)}.log"
        with log.open("w") as stream:
            process = subprocess.Popen(
                [sys.executable, "-m", "launcher.sweep", *words], cwd=ROOT, env=environment, text=True,
                stdout=stream, stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip
        drivers.append(Driver(process, log))
        return drivers[-1]

    yield begin
    for driver in drivers:
        driver.look()
        if driver.process.poll() is None:
            os.killpg(driver.process.pid, signal.SIGKILL)
            driver.process.wait()
