"""Workers that load everything while a Ray of our own starts."""

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
"""The module that Ray imports in each worker process as it starts."""
LOADING_LIMIT_S: Final = 20.0


class Preloading:
    """Workers of a Ray that is about to start, which load everything meanwhile.

    Args:
      experiment: `module:factory` of what they will run, None for the real thing.
      cpu_devices: of each on a CPU machine, None where workers use GPUs.
      engine: the real thing's name.
    """

    def __init__(self, experiment: str | None, cpu_devices: int | None, engine: str = NATIVE) -> None:
        self._ready = make_scratch("ready")
        wanted = {
            "experiment": experiment, "engine": engine, "cpu_devices": cpu_devices, "ready": str(self._ready)
        }  # fmt: skip
        ours = str(Path(__file__).resolve().parents[2])  # a worker does not know the driver's path yet
        path = [ours, *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
        self.environment = {
            "RAY_preload_python_modules": ENTRY_POINT,
            "RAY_enable_worker_prestart": "1",  # with the raylet, not once the driver is there
            "PYTHONPATH": os.pathsep.join(dict.fromkeys(path)),
            VARIABLE: json.dumps(wanted),
        }

    def wait(self, workers: int) -> None:
        """Wait for the preloaded workers; a trial submitted earlier would make Ray start another process."""
        deadline = time.monotonic() + LOADING_LIMIT_S
        while len(list(self._ready.iterdir())) < workers and time.monotonic() < deadline:
            time.sleep(0.02)

    def finish(self) -> None:
        """Remove what it has on disk."""
        shutil.rmtree(self._ready, ignore_errors=True)
