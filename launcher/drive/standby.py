"""A worker process that waits for another one to die.

A new process imports Tune and JAX for seconds before it can go on with a killed worker's trial; one that has done so
already goes on at once. Ray starts such a process when it is asked to (`PrestartWorkers`, for which Ray's Python has no
call), and gives it to the next actor.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Final

from launcher.ray_compat import start_worker

AFTER_S: Final = 20.0
"""A sweep that is over by then needs none, and the first trials begin undisturbed."""
REFILL_S: Final = 10.0
KEPT_S: Final = 10**6
ASK_LIMIT_S: Final = 10.0

logger = logging.getLogger(__name__)


class SpareWorker:
    """One idle process of the Ray that this driver has started.

    Args:
      ask: makes Ray start one.
      clock: seconds.
    """

    def __init__(self, ask: Callable[[], None], clock: Callable[[], float] = time.monotonic) -> None:
        self._ask = ask
        self._clock = clock
        self._due: float | None = clock() + AFTER_S

    def taken(self) -> None:
        """A worker has died, so its trial goes on in the spare one: another is due, once that has begun."""
        self._due = self._clock() + REFILL_S

    def tend(self) -> None:
        """Have one started, if it is time. Without one a sweep does as well, only later."""
        if self._due is None or self._clock() < self._due:
            return
        self._due = None
        try:
            self._ask()
        except Exception as error:
            logger.warning("no spare worker: %s", error)


def ask_ray() -> None:
    """Have Ray start a process for this driver's job, on the driver's node.

    Raises:
      grpc.RpcError: Ray does not answer.
    """
    import ray

    (node,) = [node for node in ray.nodes() if node["Alive"]]
    address = f"{node['NodeManagerAddress']}:{node['NodeManagerPort']}"
    start_worker(address, ray.get_runtime_context().get_job_id(), KEPT_S, ASK_LIMIT_S)


__all__ = ["SpareWorker", "ask_ray"]
