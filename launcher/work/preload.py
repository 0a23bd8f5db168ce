"""Load a worker's imports when its process starts, before its first trial.

JAX reads some environment variables when it is imported, so they are set here; `prepare_worker` sets them again.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any


def preload(wanted: dict[str, Any]) -> None:
    """Import the code that runs trials, and create a file that says so. This does not touch any device yet."""
    from jax_party.runtime import prepare_process

    prepare_process(cpu_devices=wanted["cpu_devices"])
    import launcher.work.trainable  # noqa: F401
    from jax_party.engines import get_engine
    from launcher.ask.experiment_factory import load_factory

    if wanted["experiment"]:
        load_factory(wanted["experiment"])
    else:
        get_engine(wanted["engine"]).experiment()
    if Path(wanted["ready"]).is_dir():
        Path(wanted["ready"], str(os.getpid())).touch()
