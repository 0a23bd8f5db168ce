"""What a worker needs of its process before its first trial: imported by Ray as the process starts.

A Ray of our own names this module to its worker processes (`RAY_preload_python_modules`); what they are to do stands in
`JAX_PARTY_PRELOAD`. Nothing is decided here that `prepare_worker` does not decide again: JAX only reads some of its
environment when it is imported.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from pathlib import Path
from typing import Any, Final

from jax_party.engines import NATIVE
from jax_party.scratch import make_scratch

VARIABLE: Final = "JAX_PARTY_PRELOAD"
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
        ours = str(Path(__file__).resolve().parents[1])  # a worker does not know the driver's path yet
        path = [ours, *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
        self.environment = {
            "RAY_preload_python_modules": __name__,
            "RAY_enable_worker_prestart": "1",  # with the raylet, not once the driver is there
            "PYTHONPATH": os.pathsep.join(dict.fromkeys(path)),
            VARIABLE: json.dumps(wanted),
        }

    def wait(self, workers: int) -> None:
        """Until so many have loaded everything: for a trial that comes sooner Ray would start a further process."""
        deadline = time.monotonic() + LOADING_LIMIT_S
        while len(list(self._ready.iterdir())) < workers and time.monotonic() < deadline:
            time.sleep(0.02)

    def finish(self) -> None:
        """Remove what it has on disk."""
        shutil.rmtree(self._ready, ignore_errors=True)


def preload(wanted: dict[str, Any]) -> None:
    """Import what plays trials. No device is touched yet."""
    from jax_party.runtime import prepare_process

    prepare_process(cpu_devices=wanted["cpu_devices"])
    import launcher.trainable  # noqa: F401
    from jax_party.engines import get_engine
    from launcher.pack import load_factory

    if wanted["experiment"]:
        load_factory(wanted["experiment"])
    else:
        get_engine(wanted["engine"]).experiment()
    if Path(wanted["ready"]).is_dir():
        Path(wanted["ready"], str(os.getpid())).touch()


if VARIABLE in os.environ:
    preload(json.loads(os.environ[VARIABLE]))
