"""What a process must have in its environment before it imports JAX."""

from __future__ import annotations

import os
from pathlib import Path


def compilation_cache_dir() -> Path:
    """Where compiled programs are kept between processes: `JAX_COMPILATION_CACHE_DIR`, or the user's cache."""
    configured = os.environ.get("JAX_COMPILATION_CACHE_DIR")
    if configured:
        return Path(configured)
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "jax_party" / "xla"


def jax_environment(cpu_cores: int | None = None) -> dict[str, str]:
    """Environment variables for a process that will train.

    Args:
      cpu_cores: how many cores the process may use; None leaves XLA's own choice (all it can see).

    Returns:
      Variables to set before JAX is imported: the shared persistent compilation cache, quiet logs, and
      XLA's thread pools held to `cpu_cores`.
    """
    variables = {
        "JAX_COMPILATION_CACHE_DIR": str(compilation_cache_dir()),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
        "TF_CPP_MIN_LOG_LEVEL": "2",
    }
    if cpu_cores is not None:
        variables["NPROC"] = str(cpu_cores)
    return variables


def prepare_process(cpu_cores: int | None = None) -> None:
    """Put `jax_environment` into this process, leaving what the user has set."""
    for name, value in jax_environment(cpu_cores).items():
        os.environ.setdefault(name, value)
