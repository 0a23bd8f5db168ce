"""What `-m hydra/launcher=ray` needs around hydra-ray-launcher: safe settings before Ray starts, a core for each run,
and nothing left behind. `mava_configs/hydra/callbacks/ray.yaml` names it; with other launchers it does nothing.
"""

from __future__ import annotations

import atexit
import functools
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig, open_dict

from jax_party.trial.states import State
from launcher.machine.ray_session import prepare_driver, stop_ray
from launcher.machine.worker_process import prepare_worker

RAY_LAUNCHER = "hydra_plugins.hydra_ray_launcher.ray_launcher.RayLauncher"


class OnRay(Callback):
    """Called by Hydra in the driver when a multirun starts and ends, and in Ray's workers when a job starts.

    Args:
      init: what `ray.init` is given where the command line says nothing else.
      remote: likewise what each job takes.
    """

    def __init__(self, init: Mapping[str, Any], remote: Mapping[str, Any]) -> None:
        self._defaults = {"init": dict(init), "remote": dict(remote)}

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        """Set what Ray reads from the environment, and what it is started with."""
        if not _is_on_ray(config):
            return
        prepare_driver()
        os.environ["RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO"] = "1"  # runs that were given no GPU see none
        for part, defaults in self._defaults.items():
            given = config.hydra.launcher.ray[part]
            asked = {key: value for key, value in given.items() if value is not None}
            with open_dict(given):
                given.update({**defaults, **asked})
        init = config.hydra.launcher.ray.init
        if init.address == "local" and init.num_cpus is None:
            init.num_cpus = len(os.sched_getaffinity(0))
        # Hydra does not call `on_multirun_end` where the launcher raises, nor after Ctrl-C.
        atexit.register(_end, Path(config.hydra.sweep.dir).parents[1])

    def on_job_start(self, config: DictConfig, **_: Any) -> None:
        """Prepare the worker's process for JAX, once in its life."""
        if _is_on_ray(config):
            import ray

            _prepare(bool(ray.get_gpu_ids()), config.arch.num_devices)

    def on_multirun_end(self, config: DictConfig, **_: Any) -> None:
        """End Ray, so that another multirun of this process starts afresh."""
        if _is_on_ray(config):
            import ray

            stop_ray(ray, keep_logs=False)


def _is_on_ray(config: DictConfig) -> bool:
    return bool(config.hydra.launcher._target_ == RAY_LAUNCHER)


@functools.cache
def _prepare(uses_gpu: bool, devices: int) -> Any:
    """What holds this process's cores, for the life of the process."""
    return prepare_worker(sorted(os.sched_getaffinity(0)), uses_gpu, devices=devices)


def _end(folder: Path) -> None:
    """End Ray and set back what was running: nobody runs it now."""
    import ray

    from launcher.plan.sweep import Sweep

    stop_ray(ray, keep_logs=True)
    Sweep.read(folder).set_back([State.RUNNING], stopped=True)
