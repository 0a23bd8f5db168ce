"""Prepare a worker's process: its core or its share of a GPU, before JAX is imported."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from jax_party.runtime import prepare_process
from launcher.machine.cores import CORE_WAIT_S, take_core
from launcher.machine.crew import logger


def prepare_worker(
    cores: Sequence[int] | None,
    uses_gpu: bool,
    wait_s: float = CORE_WAIT_S,
    devices: int = 1,
    memory_fraction: float | None = None,
) -> Any:
    """Make this worker process ready to import JAX: its environment, and on a CPU machine cores of its own.

    Args:
      cores: those to choose from, None for all that this process may use.
      uses_gpu: leave the cores alone.
      wait_s: how long to wait for each free core.
      devices: on a CPU machine, how many cores, each a device to JAX.
      memory_fraction: of a GPU's memory, None for JAX's own choice.

    Returns:
      What holds the cores; keep it for the life of the process. Empty where none was free, or none is needed.
    """
    if uses_gpu:
        if memory_fraction is not None:
            os.environ["XLA_PYTHON_CLIENT_MEM_FRACTION"] = f"{memory_fraction:.4f}"
        prepare_process()
        return []
    cores = sorted(os.sched_getaffinity(0)) if cores is None else cores
    held = [taken for taken in (take_core(cores, wait_s) for _ in range(devices)) if taken is not None]
    prepare_process(cpu_devices=devices)
    if len(held) < devices:
        logger.warning("no free core among %s: this worker shares cores", list(cores))
        return []
    os.sched_setaffinity(0, {core for core, _ in held})
    return [lock for _, lock in held]
