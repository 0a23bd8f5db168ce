"""The nodes of a cluster while a sweep runs on it: some join, some leave, and some must not be used."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any, Final

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from launcher.machine.crew import Crew, Machine

LOOK_EVERY_S: Final = 5.0

logger = logging.getLogger(__name__)


class Nodes:
    """The cluster's nodes.

    Args:
      crew: the workers that run there.
      clock: returns the time in seconds.
    """

    def __init__(self, crew: Crew, clock: Callable[[], float] = time.monotonic) -> None:
        self._crew = crew
        self._clock = clock
        self._next = clock() + LOOK_EVERY_S
        self._holders: dict[str, list[Any]] = {}

    def tend(self, hold: Callable[[float], None]) -> None:
        """Report to `hold` how many devices the workers hold, if the crew follows the cluster; every few seconds."""
        if self._crew.follows and self._clock() >= self._next:
            self._next = self._clock() + LOOK_EVERY_S
            hold(self.slots() * self._crew.needs.devices_held(self._crew.machine))

    def slots(self) -> int:
        """Return the number of workers that the usable nodes have room for now."""
        parts = tuple(
            Machine(tuple(range(_amount(node, "CPU"))), _amount(node, "GPU") if self._crew.machine.gpus else 0)
            for node in ray.nodes()
            if node["Alive"] and _amount(node, "CPU") and node["NodeID"] not in self._holders
        )
        gpus = sum(part.gpus for part in parts)
        if not parts or (self._crew.machine.gpus and not gpus):
            return 0
        return self._crew.needs.slots(Machine((), gpus, nodes=parts))

    def keep_off(self, node_id: str) -> None:
        """Reserve every CPU of a node as it becomes free, so that no more trials are placed there."""
        if node_id in self._holders:
            return
        cpus = sum(_amount(node, "CPU") for node in ray.nodes() if node["NodeID"] == node_id)
        there = NodeAffinitySchedulingStrategy(node_id, soft=False)
        holder = ray.remote(num_cpus=1, max_restarts=0)(_Holder)
        self._holders[node_id] = [holder.options(scheduling_strategy=there).remote() for _ in range(cpus)]
        logger.warning("node %s is no longer used", node_id)


class _Holder:
    """An actor that only occupies a CPU."""


def _amount(node: dict[str, Any], resource: str) -> int:
    return int(node["Resources"].get(resource, 0))


__all__ = ["Nodes"]
