"""Load what a worker needs before its first trial, as its process starts.

Nothing is decided here that `prepare_worker` does not decide again: JAX only reads some of its environment when it is
imported.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any


def preload(wanted: dict[str, Any]) -> None:
    """Import what plays trials. No device is touched yet."""
    from jax_party.runtime import prepare_process

    prepare_process(cpu_devices=wanted["cpu_devices"])
    import launcher.work.trainable  # noqa: F401
    from jax_party.engines import get_engine
    from launcher.ask.experiment import load_factory

    if wanted["experiment"]:
        load_factory(wanted["experiment"])
    else:
        get_engine(wanted["engine"]).experiment()
    if Path(wanted["ready"]).is_dir():
        Path(wanted["ready"], str(os.getpid())).touch()
