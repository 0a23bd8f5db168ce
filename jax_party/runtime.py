"""What a process needs in its environment before it imports JAX, and the memory that it gives back afterwards."""

from __future__ import annotations

import ctypes
import os
from pathlib import Path


def compilation_cache_dir() -> Path:
    """Return the folder of compiled programs: `JAX_COMPILATION_CACHE_DIR`, or one in the user's cache."""
    configured = os.environ.get("JAX_COMPILATION_CACHE_DIR")
    if configured:
        return Path(configured)
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "jax_party" / "xla"


def jax_environment(cpu_devices: int | None = None) -> dict[str, str]:
    """Return environment variables for a process that will train.

    Args:
      cpu_devices: how many devices, one core each, the process may use for training on a CPU; None leaves it to XLA.

    Returns:
      Variables to set before JAX is imported: the shared persistent compilation cache, quiet logs, and XLA's thread
      pools limited to one thread for a single device. Collectives over several devices wait for each other in threads
      of one pool and deadlock if there are no more threads than devices: there are two per device.
    """
    variables = {
        "JAX_COMPILATION_CACHE_DIR": str(compilation_cache_dir()),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
        "TF_CPP_MIN_LOG_LEVEL": "2",
    }
    if cpu_devices is not None:
        variables["NPROC"] = str(1 if cpu_devices == 1 else 2 * cpu_devices)
        if cpu_devices > 1:
            variables["JAX_NUM_CPU_DEVICES"] = str(cpu_devices)
    return variables


def prepare_process(cpu_devices: int | None = None) -> None:
    """Set the variables of `jax_environment` in this process, without overriding the user's."""
    for name, value in jax_environment(cpu_devices).items():
        os.environ.setdefault(name, value)


def return_freed_memory() -> None:
    """Return freed memory to the system; does nothing if the C library is not glibc.

    XLA compiles in its own threads, and each leaves what it freed in an arena of glibc: 0.8 GB after a first program of
    PPO, and up to 0.35 GB more with each further program that other threads compile.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
