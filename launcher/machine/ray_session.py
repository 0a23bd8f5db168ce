"""The Ray of a sweep: started on this machine or joined, and ended."""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import shutil
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from jax_party.store.scratch import lives, make_scratch
from launcher.machine.crew import Crew, logger
from launcher.machine.preloading import Preloading
from launcher.ray_compat import give_tune_a_folder, own_session, tell_messages_to

OBJECT_STORE_BYTES = 100 * 2**20
OURS = "jax_party"
"""In the folder of a Ray that a driver of ours has started, until its logs are kept."""
DYING_RAY_S = 300.0
"""Ray's processes may live on for a minute when their driver has been killed."""
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
            give_tune_a_folder(make_scratch("tune"))
        _log_to_file(log_file)
        _log_messages()
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
    session = own_session()
    assert session is not None
    _mark_session(session)
    _log_to_file(log_file)
    _log_messages()
    return ray


def stop_ray(ray: Any, keep_logs: bool) -> None:
    """End a Ray of our own, or leave a cluster.

    Args:
      ray: the module.
      keep_logs: leave the folder with the logs of a Ray of our own, some of its processes having failed.
    """
    session = own_session()
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


class _LogFile(logging.FileHandler):
    """A log that a full disk leaves with gaps, and nothing on the terminal."""

    def handleError(self, record: logging.LogRecord) -> None:
        """Go on without this line."""


_LOGGED = (
    ("ray", logging.WARNING), ("launcher", logging.INFO), ("optuna", logging.WARNING), ("hyperopt", logging.WARNING),
    ("hpbandster", logging.WARNING), ("py.warnings", logging.WARNING),
)  # fmt: skip


def _log_messages() -> None:
    """Send what Ray's own processes have to say, such as that a worker has died, there too: Ray would print it."""

    def tell(data: Mapping[str, Any], ignore_prefix: bool = False) -> None:
        for line in data["lines"]:
            logger.warning("Ray: %s", " ".join(str(line).split()))

    tell_messages_to(tell)


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
