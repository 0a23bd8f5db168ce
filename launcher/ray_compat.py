"""Every private name of Ray that we use, in one place.

A new version of Ray may drop any of them without notice. `PRIVATE` lists what breaks without each one, and a test looks
up all of them, so that an upgrade shows at once what has to be fixed. Ray is imported only when a function is called.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

PRIVATE: Final[Mapping[str, str]] = {
    "ray._private.worker._global_node": "a local Ray's logs are neither kept nor removed",
    "ray._private.worker.get_dashboard_url": "the dashboard's address is not shown",
    "ray._private.worker.print_to_stdstream": "Ray's messages are printed over the live table",
    "ray._private.grpc_utils.init_grpc_channel": "no spare worker is started",
    "ray.core.generated.node_manager_pb2.PrestartWorkersRequest": "no spare worker is started",
    "ray.core.generated.node_manager_pb2_grpc.NodeManagerServiceStub": "no spare worker is started",
    "ray.train._internal.storage._get_ray_train_session_dir": "sweeps cannot join a cluster by ray://",
    "ray.tune.execution.class_cache.ENV_VARS_TO_PROPAGATE": "AWS's secrets show in Ray's state; no worker is reused",
    "ray.tune.execution.class_cache.DEFAULT_ENV_VARS": "no worker that Ray has started already is used",
    "ray.tune.tune.TuneController": "`Controller` is not used: a worker's death during a reset fails its trial",
    "ray.tune.execution.tune_controller.TuneController._maybe_reuse_cached_actor": "short trials run on one worker",
    "ray.tune.execution.tune_controller.TuneController._actor_started": "`Controller` misses workers' starts",
    "ray.tune.execution.tune_controller.TuneController._actor_failed": "`Controller` misses workers' deaths",
    "ray.tune.execution.tune_controller.TuneController._trial_task_failure": "a death during a reset is counted twice",
    "ray.tune.execution.tune_controller.TuneController._unstage_trial_with_resources": "the same",
    "ray.tune.execution.tune_controller.TuneController._set_trial_status": "the same",
    "ray.tune.schedulers.HyperBandScheduler._create_bracket": "hyperband waits for brackets that never fill",
    "ray.tune.schedulers.HyperBandScheduler._process_bracket": "the reason why hyperband stopped a trial is missing",
    "ray.tune.schedulers.PopulationBasedTraining._checkpoint_or_exploit": "a population's lineage is not recorded",
    "ray.tune.schedulers.PopulationBasedTraining._get_new_config": "a population's new values are not checked",
}
"""Private name -> what breaks without it."""


def find(name: str) -> Any:
    """Return the object that a dotted name refers to.

    Raises:
      AttributeError, ImportError: the name does not exist.
    """
    parts = name.split(".")
    for length in range(len(parts), 0, -1):
        try:
            found: Any = importlib.import_module(".".join(parts[:length]))
        except ModuleNotFoundError as error:
            if error.name is None or not name.startswith(error.name):
                raise  # the module exists, but one of its own imports is missing
            continue
        for part in parts[length:]:
            found = getattr(found, part)
        return found
    raise ImportError(f"{name}: there is no such module")


def own_session() -> Path | None:
    """Return the session folder of the Ray that this process started; None if it joined a cluster or has no Ray."""
    node = find("ray._private.worker._global_node")
    return Path(node.get_session_dir_path()) if node is not None and node.head else None


def dashboard_address() -> str | None:
    """Return host:port of the dashboard of the connected Ray, or None if it has no dashboard."""
    url = find("ray._private.worker.get_dashboard_url")()
    return str(url) if url else None


def tell_messages_to(tell: Callable[..., None]) -> None:
    """Send the output of Ray's processes to `tell(data)` instead of the terminal; the lines are in `data["lines"]`."""
    find("ray._private.worker").print_to_stdstream = tell


def give_tune_a_folder(folder: Path) -> None:
    """Make Tune's driver keep its files in `folder`; without a Ray node on this machine there is no session folder."""
    find("ray.train._internal.storage")._get_ray_train_session_dir = lambda: str(folder)


def hide_environment(hidden: Callable[[str], bool], everything: bool) -> None:
    """Stop Tune from passing variables of this process's environment on to workers.

    Args:
      hidden: whether to hold back the variable of this name.
      everything: hold back every variable.
    """
    class_cache = find("ray.tune.execution.class_cache")
    passed_on: set[str] = class_cache.ENV_VARS_TO_PROPAGATE
    passed_on -= {name for name in passed_on if everything or hidden(name)}
    if everything:
        class_cache.DEFAULT_ENV_VARS.clear()


def set_controller(controller: type) -> None:
    """Make `tune.run` use this controller; `tune.run` has no argument for it."""
    find("ray.tune.tune").TuneController = controller


def start_worker(address: str, job_id: str, kept_s: int, limit_s: float) -> None:
    """Make a node start a Python process for a job before any actor needs it.

    Args:
      address: host:port of the node's raylet.
      job_id: the job's id, in hex.
      kept_s: how long the idle process is kept, in seconds.
      limit_s: how long to wait for the node's answer, in seconds.

    Raises:
      grpc.RpcError: the node does not answer.
    """
    pb, stubs = find("ray.core.generated.node_manager_pb2"), find("ray.core.generated.node_manager_pb2_grpc")
    channel = find("ray._private.grpc_utils.init_grpc_channel")(address)
    try:
        request = pb.PrestartWorkersRequest(
            language=find("ray.core.generated.common_pb2").PYTHON,
            job_id=bytes.fromhex(job_id),
            num_workers=1,
            keep_alive_duration_secs=kept_s,
        )
        stubs.NodeManagerServiceStub(channel).PrestartWorkers(request, timeout=limit_s)
    finally:
        channel.close()
