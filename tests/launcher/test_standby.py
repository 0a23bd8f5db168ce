"""Worker processes that have loaded everything before they are needed."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from launcher.drive.standby import AFTER_S, REFILL_S, StandbyWorker
from tests.launcher.drivers import ROOT

SCRIPT = """
import json, os, signal, sys, tempfile, time
from pathlib import Path
from launcher.machine.preloading import Preloading
from launcher.machine.crew import Crew, find_machine
from launcher.machine.ray_session import prepare_driver, start_ray
from launcher.drive.standby import ask_ray

prepare_driver()
crew = Crew.of(find_machine(), 1)
preloading = Preloading("tests.launcher.standin:StandIn", crew.cpu_devices)
ray = start_ray(crew, Path(tempfile.mkdtemp()) / "log", None, preloading)
preloading.wait(1)
ready = Path(json.loads(os.environ["JAX_PARTY_PRELOAD"])["ready"])
first = {path.name for path in ready.iterdir()}

class Worker:
    def look(self):
        return os.getpid(), sorted({"launcher.work.trainable", "tests.launcher.standin", "jax"} & set(sys.modules))

worker = ray.remote(num_cpus=1, max_restarts=-1, max_task_retries=-1)(Worker).remote()
begun = ray.get(worker.look.remote())
ask_ray()
deadline = time.monotonic() + 30.0
while len(list(ready.iterdir())) < 2 and time.monotonic() < deadline:
    time.sleep(0.05)
spare = {path.name for path in ready.iterdir()} - first
os.kill(begun[0], signal.SIGKILL)
after = ray.get(worker.look.remote())
ray.shutdown()
preloading.finish()
print(json.dumps([sorted(first), begun, sorted(spare), after, ready.exists()]))
"""


def test_the_first_trial_and_that_of_a_killed_worker_find_processes_that_have_loaded_everything() -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("JAX_PARTY_")}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stdout + done.stderr
    first, (begun, loaded), spare, (after, loaded_too), left = json.loads(done.stdout.splitlines()[-1])
    assert first == [str(begun)]
    assert spare == [str(after)]
    assert after != begun
    assert loaded == loaded_too == ["launcher.work.trainable", "tests.launcher.standin"]
    assert not left


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_spare_worker_is_asked_for_once_a_sweep_goes_on_and_again_when_it_was_taken() -> None:
    clock, asked = Clock(), []
    standby = StandbyWorker(lambda: asked.append(clock.now), clock)
    for clock.now in (0.0, AFTER_S - 0.1, AFTER_S, AFTER_S + 5.0):
        standby.tend()
    assert asked == [AFTER_S]
    standby.taken()
    taken = clock.now
    for clock.now in (taken, taken + REFILL_S, taken + REFILL_S + 1.0):
        standby.tend()
    assert asked == [AFTER_S, taken + REFILL_S]


def test_a_sweep_goes_on_where_ray_gives_no_spare_worker(caplog: pytest.LogCaptureFixture) -> None:
    clock = Clock()

    def refuse() -> None:
        raise ConnectionError("nobody listens")

    standby = StandbyWorker(refuse, clock)
    clock.now = AFTER_S
    standby.tend()
    assert "no spare worker: nobody listens" in caplog.text
    caplog.clear()
    standby.tend()
    assert not caplog.text
