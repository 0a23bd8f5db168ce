"""What a process must have in its environment before it imports JAX, and what it gives back afterwards."""

from __future__ import annotations

import ctypes
import os
from pathlib import Path


def compilation_cache_dir() -> Path:
    """Where compiled programs are kept between processes: `JAX_COMPILATION_CACHE_DIR`, or the user's cache."""
    configured = os.environ.get("JAX_COMPILATION_CACHE_DIR")
    if configured:
        return Path(configured)
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "jax_party" / "xla"


def jax_environment(cpu_devices: int | None = None) -> dict[str, str]:
    """Environment variables for a process that will train.

    Args:
      cpu_devices: on how many devices, a core each, the process may train on a CPU; None leaves it to XLA.

    Returns:
      Variables to set before JAX is imported: the shared persistent compilation cache, quiet logs, and
      XLA's thread pools held to one thread for one device. Collectives of several devices wait for each other in
      threads of one pool, and with no more threads than devices for ever: there are two for each.
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
    """Put `jax_environment` into this process, leaving what the user has set."""
    for name, value in jax_environment(cpu_devices).items():
        os.environ.setdefault(name, value)


def return_freed_memory() -> None:
    """Give the system back what this process has freed; nothing where the C library is not glibc.

    XLA compiles in threads of its own, and each leaves what it freed in an arena of glibc's: 0.8 GB after a first
    program of PPO's, and with every further one that other threads compile up to 0.35 GB more.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
