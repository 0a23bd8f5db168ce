"""Worker processes that load their imports while our own Ray starts."""

from __future__ import annotations

import json
import os
import shutil
import time
from pathlib import Path
from typing import Final

from jax_party.engines import NATIVE
from jax_party.store.scratch import make_scratch

VARIABLE: Final = "JAX_PARTY_PRELOAD"
ENTRY_POINT: Final = "launcher.work.preload_entry"
"""The module that Ray imports in each worker process when it starts."""
LOADING_LIMIT_S: Final = 20.0


class Preloading:
    """Makes the workers of a Ray that is about to start load their imports before the first trial.

    Args:
      experiment: `module:factory` of a stand-in that they will run, None for the engine's own experiment.
      cpu_devices: devices per worker on a CPU machine, None if workers use GPUs.
      engine: the engine's name.
    """

    def __init__(self, experiment: str | None, cpu_devices: int | None, engine: str = NATIVE) -> None:
        self._ready = make_scratch("ready")
        wanted = {
            "experiment": experiment, "engine": engine, "cpu_devices": cpu_devices, "ready": str(self._ready)
        }  # fmt: skip
        ours = str(Path(__file__).resolve().parents[2])  # workers do not know the driver's path yet
        path = [ours, *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
        self.environment = {
            "RAY_preload_python_modules": ENTRY_POINT,
            "RAY_enable_worker_prestart": "1",  # start workers with the raylet, before the driver connects
            "PYTHONPATH": os.pathsep.join(dict.fromkeys(path)),
            VARIABLE: json.dumps(wanted),
        }

    def wait(self, workers: int) -> None:
        """Wait for the preloaded workers; a trial submitted earlier would make Ray start another process."""
        deadline = time.monotonic() + LOADING_LIMIT_S
        while len(list(self._ready.iterdir())) < workers and time.monotonic() < deadline:
            time.sleep(0.02)

    def finish(self) -> None:
        """Remove the files that mark workers as ready."""
        shutil.rmtree(self._ready, ignore_errors=True)
