"""Every private name of Ray that we use, in one place.

A new version of Ray may drop any of them without notice. `PRIVATE`, `ATTRIBUTES` and `PARAMETERS` say what breaks
without each one. A test looks up all of them, so that an upgrade shows at once what has to be fixed; another searches
the launcher for private names of Ray that are not listed. Ray is imported only when a function is called.
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
    "ray.core.generated.common_pb2.PYTHON": "no spare worker is started",
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
    "ray.tune.execution.tune_controller.TuneController._unstage_trial_with_resources": "a failed reset ends the sweep",
    "ray.tune.execution.tune_controller.TuneController._set_trial_status": "a failed reset ends the sweep",
    "ray.tune.schedulers.HyperBandScheduler._create_bracket": "hyperband waits for brackets that never fill",
    "ray.tune.schedulers.HyperBandScheduler._process_bracket": "the reason why hyperband stopped a trial is missing",
    "ray.tune.schedulers.hyperband._Bracket.filled": "hyperband waits for brackets that never fill",
    "ray.tune.schedulers.PopulationBasedTraining._checkpoint_or_exploit": "a population's lineage is not recorded",
    "ray.tune.schedulers.PopulationBasedTraining._get_new_config": "a population's new values are not checked",
    "ray.air.integrations.wandb.WandbLoggerCallback._start_logging_actor": "Ray writes W&B's key to its files",
    "ray._private.node.Node.get_session_dir_path": "a local Ray's logs are neither kept nor removed",
}
"""Private name -> what breaks without it."""

ATTRIBUTES: Final[Mapping[str, str]] = {
    "ray._private.node.Node.head": "a cluster's logs are taken for a local Ray's",
    "ray.core.generated.node_manager_pb2_grpc.NodeManagerServiceStub.PrestartWorkers": "no spare worker is started",
    "ray.tune.execution.tune_controller.TuneController._actor_manager": "the first free worker ends the sweep",
    "ray.tune.execution.tune_controller.TuneController._actor_to_trial": "the first worker that starts ends the sweep",
    "ray.tune.execution.tune_controller.TuneController._resetting_trials": "the first free worker ends the sweep",
    "ray.tune.execution.tune_controller.TuneController._trial_to_actor": "the first free worker ends the sweep",
    "ray.tune.schedulers.HyperBandScheduler._metric": "hyperband fails at the first result",
    "ray.tune.schedulers.HyperBandScheduler._metric_op": "hyperband fails at the first result",
    "ray.tune.schedulers.hyperband._Bracket._all_trials": "hyperband fails when it fills a bracket",
    "ray.tune.schedulers.hyperband._Bracket._n0": "hyperband fails when it fills a bracket",
    "ray.tune.schedulers.hyperband._Bracket.is_being_processed": "hyperband ignores trials that fail in a bracket",
    "ray.tune.schedulers.MedianStoppingRule._stopped_trials": "a sweep with the median rule cannot be resumed",
    "ray.tune.schedulers.PopulationBasedTraining._next_perturbation_sync": "a resumed population changes early",
    "ray.tune.schedulers.PopulationBasedTraining._perturbation_interval": "a failed trial ends its population",
    "ray.tune.schedulers.PopulationBasedTraining._trial_state": "a population fails at its first perturbation",
    "ray.air.integrations.mlflow.MLflowLoggerCallback._trial_runs": "nothing is sent to MLflow",
    "ray.air.integrations.mlflow.MLflowLoggerCallback.mlflow_util": "nothing is sent to MLflow",
}
"""Attribute of Ray's objects, by class -> what breaks without it. Ray's methods assign them; the class has none."""

PARAMETERS: Final[Mapping[str, str]] = {
    "ray.init._node_ip_address": "a local Ray listens on the network",
    "ray.tune.run._remote": "with ray:// Tune moves its driver to the cluster",
}
"""Private parameter, by function -> what breaks without it."""


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


def _replace(name: str, value: Any) -> None:
    """Make a dotted name of a module refer to another object."""
    module, _, last = name.rpartition(".")
    setattr(find(module), last, value)


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
    _replace("ray._private.worker.print_to_stdstream", tell)


def give_tune_a_folder(folder: Path) -> None:
    """Make Tune's driver keep its files in `folder`; without a Ray node on this machine there is no session folder."""
    _replace("ray.train._internal.storage._get_ray_train_session_dir", lambda: str(folder))


def hide_environment(hidden: Callable[[str], bool], everything: bool) -> None:
    """Stop Tune from passing variables of this process's environment on to workers.

    Args:
      hidden: whether to hold back the variable of this name.
      everything: hold back every variable.
    """
    passed_on: set[str] = find("ray.tune.execution.class_cache.ENV_VARS_TO_PROPAGATE")
    passed_on -= {name for name in passed_on if everything or hidden(name)}
    if everything:
        find("ray.tune.execution.class_cache.DEFAULT_ENV_VARS").clear()


def set_controller(controller: type) -> None:
    """Make `tune.run` use this controller; `tune.run` has no argument for it."""
    _replace("ray.tune.tune.TuneController", controller)


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
    channel = find("ray._private.grpc_utils.init_grpc_channel")(address)
    try:
        request = find("ray.core.generated.node_manager_pb2.PrestartWorkersRequest")(
            language=find("ray.core.generated.common_pb2.PYTHON"),
            job_id=bytes.fromhex(job_id),
            num_workers=1,
            keep_alive_duration_secs=kept_s,
        )
        stub = find("ray.core.generated.node_manager_pb2_grpc.NodeManagerServiceStub")(channel)
        stub.PrestartWorkers(request, timeout=limit_s)
    finally:
        channel.close()
