"""What a sweep runs on: cores or GPUs, and the number of workers that share them."""

from __future__ import annotations

import importlib.util
import logging
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jax_party.errors import SweepError
from launcher.machine.cores import CORE_WAIT_S

JAX_MEMORY_FRACTION = 0.9
"""Fraction of a GPU's memory that its workers take together. JAX's default, 0.75, leaves room for other processes."""
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Machine:
    """The hardware that workers run on: `cores` that this process may use, and the number of `gpus` that JAX can use.

    A cluster is one machine with the cores and GPUs of all its `nodes`.
    """

    cores: tuple[int, ...]
    gpus: int
    note: str | None = None
    nodes: tuple[Machine, ...] = ()

    @property
    def parts(self) -> tuple[Machine, ...]:
        """The machines that workers are placed on; each worker runs on one of them."""
        return self.nodes or (self,)

    def describe(self, workers: int, needs: Needs) -> str:
        """Describe the machine for the summary."""
        each = needs.describe(bool(self.gpus))
        if self.nodes:
            number = f"a cluster of {len(self.nodes)} node{'s' * (len(self.nodes) > 1)}"
            what = f"{self.gpus} GPUs" if self.gpus else f"{len(self.cores)} cores"
            return f"{number}, {what}, {each} per worker"
        if self.gpus:
            return f"{self.gpus} GPU{'s' * (self.gpus > 1)}, {each} per worker"
        shared = "" if workers * needs.devices <= len(self.cores) else ", shared: more are requested than exist"
        return f"CPU, {len(self.cores)} cores" + (shared or f", {each} per worker")


@dataclass(frozen=True)
class Needs:
    """The resources of one worker.

    Attributes:
      devices: number of devices that an experiment is spread over (`arch.num_devices`): GPUs, or CPU cores.
      gpus: GPUs per worker on a GPU machine: a whole number, or a share of one.
    """

    devices: int = 1
    gpus: float = 1.0

    @classmethod
    def of(cls, machine: Machine, devices: int, gpus: float | None) -> Needs:
        """Check the request and return it.

        Args:
          machine: the machine to run on.
          devices: devices per experiment.
          gpus: GPUs per worker, None for one per device.

        Raises:
          SweepError: the machine has too few devices, or `devices` and `gpus` contradict each other.
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
        """Return the number of workers that the machine has room for."""
        if machine.nodes:  # Ray gives each worker a CPU in addition to its GPUs
            working = [node for node in machine.nodes if bool(node.gpus) == bool(machine.gpus)]
            return sum(min(self.slots(node), len(node.cores)) for node in working)
        if machine.gpus:
            return machine.gpus * int(1.0 / self.gpus + 1e-9) if self.gpus < 1 else machine.gpus // int(self.gpus)
        return len(machine.cores) // self.devices

    def workers(self, machine: Machine, asked: int | None) -> int:
        """Return the number of workers at a time: the number asked for, or by default all that fit.

        Raises:
          SweepError: more were asked for than the GPUs or the cluster have room for.
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
        """Return the resources that Ray reserves for a worker."""
        if machine.gpus:
            return {"cpu": 1.0, "gpu": self.gpus}
        return {"cpu": float(self.devices) if machine.nodes else 1.0}

    def devices_held(self, machine: Machine) -> float:
        """Return the number of GPUs, or CPU cores, that a worker occupies."""
        return self.gpus if machine.gpus else float(self.devices)

    def describe(self, gpu: bool) -> str:
        """Describe the devices of one worker."""
        if not gpu:
            return "one" if self.devices == 1 else str(self.devices)
        return "one" if self.gpus == 1 else f"{self.gpus:g}"

    def memory_fraction(self) -> float | None:
        """Return the fraction of a GPU's memory that JAX may take in a worker; None for JAX's default."""
        return JAX_MEMORY_FRACTION * self.gpus if self.gpus < 1 else None


@dataclass(frozen=True)
class Crew:
    """The workers of a sweep: `workers` of them on a machine, each with up to `pack` trials at a time.

    An attempt whose period takes longer than `period_timeout_s` is killed; None leaves the limit to the watchdog. A
    crew that `follows` a cluster grows as nodes join.
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
        """Check the request and return the crew.

        Raises:
          SweepError: the machine has too few devices.
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
        """The number of trials at a time."""
        return self.workers * self.pack

    @property
    def cpu_devices(self) -> int | None:
        """Devices per experiment on a CPU machine; None on a GPU machine."""
        return None if self.machine.gpus else self.needs.devices

    def processes(self, trials: int | None) -> int:
        """Return the number of worker processes for this number of trials; None means enough trials for all workers."""
        return self.workers if trials is None or self.shared else max(1, min(self.workers, trials))

    def settings(self) -> dict[str, Any]:
        """Return the arguments of `prepare_worker` in each worker."""
        enough = bool(self.machine.nodes) or self.workers * self.needs.devices <= len(self.machine.cores)
        return {
            "cores": None if self.machine.nodes else list(self.machine.cores),
            "uses_gpu": bool(self.machine.gpus),
            "wait_s": CORE_WAIT_S if enough else 0.0,
            "devices": self.needs.devices,
            "memory_fraction": self.needs.memory_fraction(),
        }


def find_machine() -> Machine:
    """Return this machine, without importing JAX or starting Ray."""
    cores = tuple(sorted(os.sched_getaffinity(0)))
    present = _visible_gpus()
    if not present:
        return Machine(cores, 0)
    if any(importlib.util.find_spec(f"jax_cuda{version}_plugin") for version in (12, 13)):
        return Machine(cores, present)
    return Machine(cores, 0, f"{present} GPUs are not used: this JAX has no CUDA plugin (install jax-party[cuda13])")


def _gpus_of(machine: Machine) -> int:
    return machine.gpus


def _cores_of(machine: Machine) -> int:
    return len(machine.cores)


def _visible_gpus() -> int:
    """Return the number of NVIDIA GPUs that the driver lists and CUDA_VISIBLE_DEVICES allows."""
    driver = Path("/proc/driver/nvidia/gpus")
    present = len(list(driver.iterdir())) if driver.is_dir() else 0
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        return present
    return min(present, len([item for item in visible.split(",") if item.strip() not in ("", "-1")]))
