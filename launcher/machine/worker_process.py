"""Prepare a worker process before JAX is imported: its cores, or its share of a GPU."""

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
    """Prepare this worker process for JAX: set its environment, and on a CPU machine reserve cores.

    Args:
      cores: the cores to choose from, None for all that this process may use.
      uses_gpu: the worker uses GPUs, so reserve no cores.
      wait_s: how long to wait for each free core, in seconds.
      devices: on a CPU machine, the number of cores; JAX sees each as a device.
      memory_fraction: fraction of a GPU's memory that JAX may take, None for JAX's default.

    Returns:
      The locks of the cores; keep them for the life of the process. Empty if too few cores were free, or on a GPU
      machine.
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
