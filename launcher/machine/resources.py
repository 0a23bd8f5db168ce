"""What a sweep runs on: cores or accelerators, one a worker, and the local Ray that hands them out.

Cores are taken by advisory locks, one file a core, so that workers of all sweeps of a user on one machine
keep off each other; the kernel lets go of a lock when its process dies.
"""

from __future__ import annotations

import contextlib
import fcntl
import importlib.util
import logging
import os
import secrets
import shutil
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from jax_party.errors import SweepError
from jax_party.runtime import prepare_process
from jax_party.store.scratch import lives, make_scratch
from launcher.machine.preloading import Preloading

OBJECT_STORE_BYTES = 100 * 2**20
CORE_WAIT_S = 10.0
OURS = "jax_party"
"""In the folder of a Ray that a driver of ours has started, until its logs are kept."""
DYING_RAY_S = 300.0
"""Ray's processes may live on for a minute when their driver has been killed."""
JAX_MEMORY_FRACTION = 0.9
"""Of a GPU's memory that all its workers take together; JAX alone takes 0.75, and leaves room for what is not JAX."""
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
    """What workers run on: `cores` that this process may use, and `gpus` that JAX here can use.

    A cluster that was joined is one machine with the cores and GPUs of all its `nodes`.
    """

    cores: tuple[int, ...]
    gpus: int
    note: str | None = None
    nodes: tuple[Machine, ...] = ()

    @property
    def parts(self) -> tuple[Machine, ...]:
        """The machines of which each worker is on one."""
        return self.nodes or (self,)

    def describe(self, workers: int, needs: Needs) -> str:
        """In words, for the summary."""
        each = needs.describe(bool(self.gpus))
        if self.nodes:
            number = f"a cluster of {len(self.nodes)} node{'s' * (len(self.nodes) > 1)}"
            what = f"{self.gpus} GPUs" if self.gpus else f"{len(self.cores)} cores"
            return f"{number}, {what}, {each} a worker"
        if self.gpus:
            return f"{self.gpus} GPU{'s' * (self.gpus > 1)}, {each} a worker"
        shared = "" if workers * needs.devices <= len(self.cores) else ", shared: workers ask for more than there are"
        return f"CPU, {len(self.cores)} cores" + (shared or f", {each} a worker")


@dataclass(frozen=True)
class Needs:
    """What one worker takes.

    Attributes:
      devices: that an experiment is spread over (`arch.num_devices`): GPUs, or CPU cores.
      gpus: GPUs of each worker where JAX uses them, a whole number or a share of one.
    """

    devices: int = 1
    gpus: float = 1.0

    @classmethod
    def of(cls, machine: Machine, devices: int, gpus: float | None) -> Needs:
        """Check what was asked for.

        Raises:
          SweepError: the machine has not got it, or the two contradict each other.
        """
        if gpus is None:
            gpus = float(devices)
        elif not machine.gpus:
            raise SweepError(f"GPUS_PER_TRIAL={gpus:g}: there is no GPU here that JAX can use; leave it out")
        if machine.gpus and max(1.0, gpus) != devices:
            raise SweepError(
                f"GPUS_PER_TRIAL={gpus:g}: DEVICES_PER_TRIAL is {devices}; an experiment uses as many GPUs as it has "
                "devices: give one of the two"
            )
        most_gpus, most_cores = (max(map(count, machine.parts)) for count in (_gpus_of, _cores_of))
        of_node = " on a node" if machine.nodes else ""
        if gpus > (most_gpus or gpus):
            raise SweepError(f"GPUS_PER_TRIAL={gpus:g}: there are {most_gpus} GPUs{of_node}; ask for fewer")
        if not machine.gpus and devices > most_cores:
            raise SweepError(f"DEVICES_PER_TRIAL={devices}: there are {most_cores} CPU cores{of_node}; ask for fewer")
        return cls(devices, gpus)

    def slots(self, machine: Machine) -> int:
        """Workers that the machine has room for."""
        if machine.nodes:  # Ray gives each worker a CPU beside its GPUs
            working = [node for node in machine.nodes if bool(node.gpus) == bool(machine.gpus)]
            return sum(min(self.slots(node), len(node.cores)) for node in working)
        if machine.gpus:
            return machine.gpus * int(1.0 / self.gpus + 1e-9) if self.gpus < 1 else machine.gpus // int(self.gpus)
        return len(machine.cores) // self.devices

    def workers(self, machine: Machine, asked: int | None) -> int:
        """Workers at a time: as many as there is room for, or as many as asked for.

        Raises:
          SweepError: more were asked for than the GPUs have room for.
        """
        slots = self.slots(machine)
        if asked is not None and machine.gpus and asked > slots:
            raise SweepError(
                f"WORKERS={asked}: {machine.gpus} GPUs have room for {slots}, each with {self.describe(True)}; ask for "
                "fewer, or give each a share of one: GPUS_PER_TRIAL=0.25"
            )
        if machine.nodes and (asked or 1) > slots:
            raise SweepError(f"WORKERS={asked or 1}: the cluster has room for {slots}; ask for fewer, or add nodes")
        return asked or slots

    def resources(self, machine: Machine) -> dict[str, float]:
        """What Ray reserves for a worker."""
        if machine.gpus:
            return {"cpu": 1.0, "gpu": self.gpus}
        return {"cpu": float(self.devices) if machine.nodes else 1.0}

    def devices_held(self, machine: Machine) -> float:
        """GPUs, or CPU cores, that a worker keeps from others."""
        return self.gpus if machine.gpus else float(self.devices)

    def describe(self, gpu: bool) -> str:
        """In words."""
        if not gpu:
            return "one" if self.devices == 1 else str(self.devices)
        return "one" if self.gpus == 1 else f"{self.gpus:g}"

    def memory_fraction(self) -> float | None:
        """The share of a GPU's memory that JAX may take in a worker; None for JAX's own choice."""
        return JAX_MEMORY_FRACTION * self.gpus if self.gpus < 1 else None


@dataclass(frozen=True)
class Crew:
    """Who does a sweep's work: so many workers on a machine, each with up to `pack` trials at a time.

    A trial whose period takes longer than `period_timeout_s` is given up; None leaves that to the watchdog. A crew that
    `follows` a cluster grows as nodes join.
    """

    machine: Machine
    needs: Needs
    workers: int
    pack: int = 1
    period_timeout_s: float | None = None
    follows: bool = False

    @classmethod
    def of(
        cls, machine: Machine, workers: int | None, pack: int = 1, devices: int = 1, gpus: float | None = None
    ) -> Crew:
        """Check what was asked for.

        Raises:
          SweepError: the machine has not got it.
        """
        needs = Needs.of(machine, devices, gpus)
        follows = bool(machine.nodes) and workers is None
        return cls(machine, needs, needs.workers(machine, workers), pack, follows=follows)

    @property
    def shared(self) -> bool:
        """Whether trials share workers."""
        return self.pack > 1

    @property
    def trials(self) -> int:
        """Trials at a time."""
        return self.workers * self.pack

    @property
    def cpu_devices(self) -> int | None:
        """Devices of each experiment on a CPU machine; None where they are GPUs."""
        return None if self.machine.gpus else self.needs.devices

    def processes(self, trials: int | None) -> int:
        """Worker processes for so many trials, None for enough."""
        return self.workers if trials is None or self.shared else max(1, min(self.workers, trials))

    def settings(self) -> dict[str, Any]:
        """What `prepare_worker` is called with in each worker."""
        enough = bool(self.machine.nodes) or self.workers * self.needs.devices <= len(self.machine.cores)
        return {
            "cores": None if self.machine.nodes else list(self.machine.cores),
            "uses_gpu": bool(self.machine.gpus),
            "wait_s": CORE_WAIT_S if enough else 0.0,
            "devices": self.needs.devices,
            "memory_fraction": self.needs.memory_fraction(),
        }


def find_machine() -> Machine:
    """Look at this machine without importing JAX or starting Ray."""
    cores = tuple(sorted(os.sched_getaffinity(0)))
    present = _visible_gpus()
    if not present:
        return Machine(cores, 0)
    if any(importlib.util.find_spec(f"jax_cuda{version}_plugin") for version in (12, 13)):
        return Machine(cores, present)
    return Machine(cores, 0, f"{present} GPUs are not used: this JAX has no CUDA plugin (install jax-party[cuda13])")


def prepare_driver(joins: bool = False) -> None:
    """Set what Ray reads from the environment when it is imported, so call this before that.

    Every sweep's Ray asks for a token; unless the user has one, it is made here and lives as long as the driver.

    Args:
      joins: whether a cluster is to be joined, which has a token of its own, or the user's is to open a dashboard.
    """
    os.environ.update(TUNE_ENVIRONMENT)
    # Ray would run trials at niceness 15: held to a core each, they stand still beside any other process there.
    os.environ.setdefault("RAY_worker_niceness", "0")
    os.environ["RAY_AUTH_MODE"] = "token"
    if joins:
        return
    if not os.environ.get("RAY_AUTH_TOKEN_PATH"):
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))


def has_token() -> bool:
    """Whether the user has a token where Ray looks for it."""
    named = os.environ.get("RAY_AUTH_TOKEN") or os.environ.get("RAY_AUTH_TOKEN_PATH")
    return bool(named) or (Path.home() / ".ray" / "auth_token").is_file()


def check_token() -> None:
    """See that the file with the user's token can be read, before anything is made.

    Raises:
      SweepError: it cannot, or is empty.
    """
    named = os.environ.get("RAY_AUTH_TOKEN_PATH")
    if not named or os.environ.get("RAY_AUTH_TOKEN"):
        return
    try:
        empty = not Path(named).expanduser().read_bytes().strip()
    except OSError as error:
        raise SweepError(
            f"RAY_AUTH_TOKEN_PATH={named}: cannot be read ({error.strerror}); name the token's file, or unset it"
        ) from error
    if empty:
        raise SweepError(f"RAY_AUTH_TOKEN_PATH={named}: is empty; write a token into it, or unset it")


def start_ray(
    crew: Crew,
    log_file: Path,
    trials: int | None = None,
    preloading: Preloading | None = None,
    address: str | None = None,
    runtime_env: Any = None,
    dashboard: Mapping[str, Any] = MappingProxyType({"include_dashboard": False}),
) -> Any:
    """Start a Ray of our own on loopback, or join the one at `address`, and give the module.

    `prepare_driver` must have been called before Ray was imported.

    Args:
      crew: who is to work.
      log_file: where Ray's messages and ours go.
      trials: how many there are to play, None for enough: no more workers are started.
      preloading: has the workers of our own Ray load everything as they start.
      address: of a cluster, None for a Ray of our own.
      runtime_env: what a cluster's nodes get from us.
      dashboard: what a Ray of our own is started with for its dashboard; with one it has the user's token.
    """
    prepare_driver(joins=address is not None or dashboard["include_dashboard"])
    import ray

    if address is not None:
        # Ray has workers look for code in the driver's folder first, and a node may have another checkout there.
        with tempfile.TemporaryDirectory() as nowhere, contextlib.chdir(nowhere):
            ray.init(address=address, runtime_env=runtime_env, log_to_driver=False, logging_level=logging.ERROR)
        if address.startswith("ray://"):
            _give_tune_a_folder()
        _log_to_file(log_file)
        _log_messages(ray)
        return ray
    if preloading is not None:
        os.environ.update(preloading.environment)
    ray.init(
        address="local",
        _node_ip_address="127.0.0.1",
        log_to_driver=False,
        logging_level=logging.ERROR,
        num_cpus=crew.processes(trials),
        num_gpus=crew.machine.gpus,
        object_store_memory=OBJECT_STORE_BYTES,
        **dashboard,
    )
    _mark_session(Path(ray._private.worker._global_node.get_session_dir_path()))
    _log_to_file(log_file)
    _log_messages(ray)
    return ray


def stop_ray(ray: Any, keep_logs: bool) -> None:
    """End a Ray of our own, or leave a cluster.

    Args:
      ray: the module.
      keep_logs: leave the folder with the logs of a Ray of our own, some of its processes having failed.
    """
    node = ray._private.worker._global_node
    ours = node is not None and node.head
    session = Path(node.get_session_dir_path()) if ours else None
    ray.shutdown()
    if session is None:
        return
    if keep_logs:
        (session / OURS).unlink(missing_ok=True)
        logger.warning("the logs of Ray's processes are in %s", session / "logs")
        return
    shutil.rmtree(session, ignore_errors=True)
    latest = session.parent / "session_latest"
    if latest.is_symlink() and not latest.exists():
        latest.unlink(missing_ok=True)


def _mark_session(session: Path) -> None:
    """Say that Ray's folder is ours, and remove those of our drivers that were killed."""
    (session / OURS).touch()
    for other in session.parent.glob(f"session_*/{OURS}"):
        driver = other.parent.name.rpartition("_")[2]
        with contextlib.suppress(OSError):
            old = time.time() - other.stat().st_mtime > DYING_RAY_S
            if old and driver.isdigit() and not lives(int(driver)):
                shutil.rmtree(other.parent)


def _give_tune_a_folder() -> None:
    """Tune's driver keeps its files in its node's folder, and outside of a cluster there is no node."""
    from ray.train._internal import storage

    folder = str(make_scratch("tune"))
    storage._get_ray_train_session_dir = lambda: folder


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


def _gpus_of(machine: Machine) -> int:
    return machine.gpus


def _cores_of(machine: Machine) -> int:
    return len(machine.cores)


def _visible_gpus() -> int:
    """NVIDIA GPUs that the driver shows and CUDA_VISIBLE_DEVICES leaves."""
    driver = Path("/proc/driver/nvidia/gpus")
    present = len(list(driver.iterdir())) if driver.is_dir() else 0
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        return present
    return min(present, len([item for item in visible.split(",") if item.strip() not in ("", "-1")]))


class _LogFile(logging.FileHandler):
    """A log that a full disk leaves with gaps, and nothing on the terminal."""

    def handleError(self, record: logging.LogRecord) -> None:
        """Go on without this line."""


_LOGGED = (
    ("ray", logging.WARNING), ("launcher", logging.INFO), ("optuna", logging.WARNING), ("hyperopt", logging.WARNING),
    ("hpbandster", logging.WARNING), ("py.warnings", logging.WARNING),
)  # fmt: skip


def _log_messages(ray: Any) -> None:
    """Send what Ray's own processes have to say, such as that a worker has died, there too: Ray would print it."""

    def tell(data: Mapping[str, Any], ignore_prefix: bool = False) -> None:
        for line in data["lines"]:
            logger.warning("Ray: %s", " ".join(str(line).split()))

    ray._private.worker.print_to_stdstream = tell


def _log_to_file(path: Path) -> None:
    """Send Ray's and our warnings to a file, and nothing to the terminal."""
    logging.captureWarnings(True)
    handler = _LogFile(path)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    for name, level in _LOGGED:
        target = logging.getLogger(name)
        target.handlers = [handler]
        target.propagate = False
        target.setLevel(level)
    # Tune looks for the result files that it was told not to write.
    logging.getLogger("ray.tune.analysis").setLevel(logging.ERROR)
