"""The Ray of a sweep: start it on this machine or join a cluster, and stop it."""

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
"""A file that marks the session folder of a Ray that our driver started; removed if the logs are to be kept."""
DYING_RAY_S = 300.0
"""After this time a killed driver's session folder may be removed; Ray's processes may outlive it by a minute."""
# Tune's own files and messages are not needed: the trial folders and records hold the same information.
TUNE_ENVIRONMENT = {
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # else Ray replaces a loopback address by the host's own
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
    """Set the environment variables that Ray reads when it is imported; call this before importing Ray.

    Every sweep's Ray requires a token. Unless the user has set one, this creates one that lives as long as the driver.

    Args:
      joins: do not create a token: either a cluster with its own is joined, or the user's opens the dashboard.
    """
    os.environ.update(TUNE_ENVIRONMENT)
    # Ray would run trials at niceness 15: pinned to one core each, they would starve beside any other process on it.
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
    """Start our own Ray on loopback, or join the one at `address`, and return the `ray` module.

    `prepare_driver` must have been called before Ray was imported.

    Args:
      crew: the workers of the sweep.
      log_file: where Ray's messages and ours go.
      trials: the number of trials to run, which limits the number of workers; None for no such limit.
      preloading: makes the workers of our own Ray load their imports when they start.
      address: the cluster's address, None for our own Ray.
      runtime_env: the code and variables that are sent to a cluster's nodes.
      dashboard: the dashboard's arguments of `ray.init` for our own Ray; a dashboard uses the user's token.
    """
    prepare_driver(joins=address is not None or dashboard["include_dashboard"])
    import ray

    if address is not None:
        # Ray makes workers look for code in the driver's folder first, and a node may have another checkout there.
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
    """Stop our own Ray, or disconnect from a cluster.

    Args:
      ray: the module.
      keep_logs: keep the folder with the logs of our own Ray, because some of its processes have failed.
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
    """Mark Ray's session folder as ours, and remove the folders of our drivers that were killed."""
    (session / OURS).touch()
    for other in session.parent.glob(f"session_*/{OURS}"):
        driver = other.parent.name.rpartition("_")[2]
        with contextlib.suppress(OSError):
            old = time.time() - other.stat().st_mtime > DYING_RAY_S
            if old and driver.isdigit() and not lives(int(driver)):
                shutil.rmtree(other.parent)


class _LogFile(logging.FileHandler):
    """A log file that drops lines on a full disk instead of printing errors on the terminal."""

    def handleError(self, record: logging.LogRecord) -> None:
        """Drop the line."""


_LOGGED = (
    ("ray", logging.WARNING), ("launcher", logging.INFO), ("optuna", logging.WARNING), ("hyperopt", logging.WARNING),
    ("hpbandster", logging.WARNING), ("py.warnings", logging.WARNING),
)  # fmt: skip


def _log_messages() -> None:
    """Send the messages of Ray's processes, such as a worker's death, to the log too; Ray would print them."""

    def tell(data: Mapping[str, Any], ignore_prefix: bool = False) -> None:
        for line in data["lines"]:
            logger.warning("Ray: %s", " ".join(str(line).split()))

    tell_messages_to(tell)


def _log_to_file(path: Path) -> None:
    """Send Ray's and our log messages to a file, and none to the terminal."""
    logging.captureWarnings(True)
    handler = _LogFile(path)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    for name, level in _LOGGED:
        target = logging.getLogger(name)
        target.handlers = [handler]
        target.propagate = False
        target.setLevel(level)
    # Tune warns about missing result files that it was told not to write.
    logging.getLogger("ray.tune.analysis").setLevel(logging.ERROR)
