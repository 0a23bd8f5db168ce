"""The callback that `-m hydra/launcher=ray` needs: safe settings before Ray starts, one core per run, and a clean exit.

`mava_configs/hydra/callbacks/ray.yaml` names it. With other launchers than hydra-ray-launcher it does nothing.
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
    """Hydra calls this in the driver when a multirun starts and ends, and in Ray's workers when a job starts.

    Args:
      init: default arguments of `ray.init`; the command line overrides them.
      remote: default resources of each job; the command line overrides them.
    """

    def __init__(self, init: Mapping[str, Any], remote: Mapping[str, Any]) -> None:
        self._defaults = {"init": dict(init), "remote": dict(remote)}

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        """Set the environment variables that Ray reads, and the options that it is started with."""
        if not _is_on_ray(config):
            return
        prepare_driver()
        os.environ["RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO"] = "1"  # a run that was assigned no GPU sees none
        for part, defaults in self._defaults.items():
            given = config.hydra.launcher.ray[part]
            asked = {key: value for key, value in given.items() if value is not None}
            with open_dict(given):
                given.update({**defaults, **asked})
        init = config.hydra.launcher.ray.init
        if init.address == "local" and init.num_cpus is None:
            init.num_cpus = len(os.sched_getaffinity(0))
        # Hydra does not call `on_multirun_end` when the launcher raises or after Ctrl-C.
        atexit.register(_end, Path(config.hydra.sweep.dir).parents[1])

    def on_job_start(self, config: DictConfig, **_: Any) -> None:
        """Prepare the worker process for JAX, once per process."""
        if _is_on_ray(config):
            import ray

            _prepare(bool(ray.get_gpu_ids()), config.arch.num_devices)

    def on_multirun_end(self, config: DictConfig, **_: Any) -> None:
        """Stop Ray so that the next multirun in this process starts fresh."""
        if _is_on_ray(config):
            import ray

            stop_ray(ray, keep_logs=False)


def _is_on_ray(config: DictConfig) -> bool:
    return bool(config.hydra.launcher._target_ == RAY_LAUNCHER)


@functools.cache
def _prepare(uses_gpu: bool, devices: int) -> Any:
    """Prepare the process, and return the object that reserves its cores for the life of the process."""
    return prepare_worker(sorted(os.sched_getaffinity(0)), uses_gpu, devices=devices)


def _end(folder: Path) -> None:
    """Stop Ray and set RUNNING trials back to PENDING, because nothing runs them any more."""
    import ray

    from launcher.plan.sweep import Sweep

    stop_ray(ray, keep_logs=True)
    Sweep.read(folder).set_back([State.RUNNING], stopped=True)
