"""What a sweep runs on: cores or accelerators, one a worker, and the local Ray that hands them out.

Cores are taken by advisory locks, one file a core, so that workers of all sweeps of a user on one machine
keep off each other; the kernel lets go of a lock when its process dies.
"""

from __future__ import annotations

import fcntl
import importlib.util
import logging
import os
import secrets
import tempfile
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jax_party.errors import SweepError
from jax_party.runtime import prepare_process

OBJECT_STORE_BYTES = 100 * 2**20
CORE_WAIT_S = 10.0
# Tune's own files and messages are of no use here: folders and records say it all.
TUNE_ENVIRONMENT = {
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # else Ray turns a loopback address into the host's own
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",
    "TUNE_GLOBAL_CHECKPOINT_S": "1000000000",
    "TUNE_WARN_THRESHOLD_S": "60",
    "TUNE_FORCE_TRIAL_CLEANUP_S": "10",
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_TRAIN_ENABLE_V2_MIGRATION_WARNINGS": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_DEDUP_LOGS": "0",
}

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Machine:
    """What trials run on: `cores` that this process may use, and `gpus` that JAX here can use."""

    cores: tuple[int, ...]
    gpus: int
    note: str | None = None

    @property
    def slots(self) -> int:
        """Trials at a time by default: one an accelerator, or one a core."""
        return self.gpus or len(self.cores)

    def workers(self, asked: int | None) -> int:
        """Trials at a time.

        Raises:
          SweepError: more were asked for than there are accelerators.
        """
        if asked is not None and self.gpus and asked > self.gpus:
            raise SweepError(f"WORKERS={asked}: there are {self.gpus} accelerators, and each trial takes one")
        return asked or self.slots

    def describe(self, workers: int) -> str:
        """In words, for the summary."""
        if self.gpus:
            return f"{self.gpus} GPU{'s' * (self.gpus > 1)}, one a trial"
        shared = "" if workers <= len(self.cores) else ", shared: more workers than cores"
        return f"CPU, {len(self.cores)} cores" + (shared or ", one a trial")

    def trial_resources(self) -> dict[str, float]:
        """What Tune reserves for a trial."""
        return {"cpu": 1, "gpu": 1} if self.gpus else {"cpu": 1}


def find_machine() -> Machine:
    """Look at this machine without importing JAX or starting Ray."""
    cores = tuple(sorted(os.sched_getaffinity(0)))
    present = _visible_gpus()
    if not present:
        return Machine(cores, 0)
    if any(importlib.util.find_spec(f"jax_cuda{version}_plugin") for version in (12, 13)):
        return Machine(cores, present)
    return Machine(cores, 0, f"{present} GPUs are not used: this JAX has no CUDA plugin (install jax-party[cuda13])")


def prepare_driver() -> None:
    """Set what Ray reads from the environment when it is imported, so call this before that.

    Every sweep's Ray asks for a token; unless the user has one, it is made here and lives as long as the driver.
    """
    os.environ.update(TUNE_ENVIRONMENT)
    # Ray would run trials at niceness 15: held to a core each, they stand still beside any other process there.
    os.environ.setdefault("RAY_worker_niceness", "0")
    os.environ["RAY_AUTH_MODE"] = "token"
    if not os.environ.get("RAY_AUTH_TOKEN_PATH"):
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))


def start_ray(machine: Machine, workers: int, log_file: Path) -> Any:
    """Start a Ray of our own on loopback and give the module; its messages go to `log_file`.

    `prepare_driver` must have been called before Ray was imported.
    """
    prepare_driver()
    import ray

    ray.init(
        address="local",
        _node_ip_address="127.0.0.1",
        include_dashboard=False,
        log_to_driver=False,
        logging_level=logging.ERROR,
        num_cpus=workers,
        num_gpus=machine.gpus,
        object_store_memory=OBJECT_STORE_BYTES,
    )
    _log_to_file(log_file)
    return ray


def prepare_worker(cores: Sequence[int], uses_gpu: bool, wait_s: float = CORE_WAIT_S) -> Any:
    """Make this worker process ready to import JAX: its environment, and a core of its own on a CPU machine.

    Args:
      cores: those to choose from.
      uses_gpu: leave the cores alone.
      wait_s: how long to wait for a free core.

    Returns:
      What holds the core; keep it for the life of the process. None where no core was free, or none is needed.
    """
    if uses_gpu:
        prepare_process()
        return None
    held = take_core(cores, wait_s)
    prepare_process(cpu_cores=1)
    if held is None:
        logger.warning("no free core among %s: this worker shares cores", list(cores))
        return None
    core, lock = held
    os.sched_setaffinity(0, {core})
    return lock


def take_core(cores: Iterable[int], wait_s: float = CORE_WAIT_S, folder: Path | None = None) -> tuple[int, Any] | None:
    """Lock one free core; None where all are taken for `wait_s` seconds.

    Returns:
      The core's number and the open lock file.
    """
    folder = folder or core_locks_folder()
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    wanted = tuple(cores)
    deadline = time.monotonic() + wait_s
    while True:
        for core in wanted:
            lock = (folder / str(core)).open("a")
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                lock.close()
            else:
                return core, lock
        if time.monotonic() >= deadline:
            return None
        time.sleep(0.05)


def core_locks_folder() -> Path:
    """Where the lock files of this user's cores are."""
    return Path(tempfile.gettempdir()) / f"jax_party-{os.getuid()}" / "cores"


def _visible_gpus() -> int:
    """NVIDIA GPUs that the driver shows and CUDA_VISIBLE_DEVICES leaves."""
    driver = Path("/proc/driver/nvidia/gpus")
    present = len(list(driver.iterdir())) if driver.is_dir() else 0
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        return present
    return min(present, len([item for item in visible.split(",") if item.strip() not in ("", "-1")]))


def _log_to_file(path: Path) -> None:
    """Send Ray's and our warnings to a file, and nothing to the terminal."""
    handler = logging.FileHandler(path)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    for name, level in (("ray", logging.WARNING), ("launcher", logging.INFO), ("optuna", logging.WARNING)):
        target = logging.getLogger(name)
        target.handlers = [handler]
        target.propagate = False
        target.setLevel(level)
    # Tune looks for the result files that it was told not to write.
    logging.getLogger("ray.tune.analysis").setLevel(logging.ERROR)
