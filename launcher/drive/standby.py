"""A spare worker process that replaces one that dies.

A new process needs seconds to import Tune and JAX before it can continue a killed worker's trial; a spare one continues
at once. Ray starts such a process on request (`PrestartWorkers`, which has no Python API) and gives it to the next
actor.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Final

from launcher.ray_compat import start_worker

AFTER_S: Final = 20.0
"""Delay of the first spare: a sweep that ends earlier needs none, and starting it would slow the first trials down."""
REFILL_S: Final = 10.0
KEPT_S: Final = 10**6
ASK_LIMIT_S: Final = 10.0

logger = logging.getLogger(__name__)


class StandbyWorker:
    """One idle process of the Ray that this driver has started.

    Args:
      ask: makes Ray start a process.
      clock: returns the time in seconds.
    """

    def __init__(self, ask: Callable[[], None], clock: Callable[[], float] = time.monotonic) -> None:
        self._ask = ask
        self._clock = clock
        self._due: float | None = clock() + AFTER_S

    def taken(self) -> None:
        """Schedule a new spare, because a worker has died and its trial takes the current one."""
        self._due = self._clock() + REFILL_S

    def tend(self) -> None:
        """Start a spare if one is due. A failure is harmless: without a spare the sweep only recovers more slowly."""
        if self._due is None or self._clock() < self._due:
            return
        self._due = None
        try:
            self._ask()
        except Exception as error:
            logger.warning("no spare worker: %s", error)


def ask_ray() -> None:
    """Make Ray start a process for this driver's job on the driver's node.

    Raises:
      grpc.RpcError: Ray does not answer.
    """
    import ray

    (node,) = [node for node in ray.nodes() if node["Alive"]]
    address = f"{node['NodeManagerAddress']}:{node['NodeManagerPort']}"
    start_worker(address, ray.get_runtime_context().get_job_id(), KEPT_S, ASK_LIMIT_S)


__all__ = ["StandbyWorker", "ask_ray"]
