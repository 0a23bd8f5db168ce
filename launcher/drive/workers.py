"""The driver's side of the workers that trials share: it starts them and monitors them."""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Callable, Mapping
from typing import Any, Final

import ray

from launcher.machine.crew import Crew
from launcher.machine.join import NodeRefused
from launcher.machine.nodes import Nodes
from launcher.work.trainable import SIGNS, PackWorker

LOOK_EVERY_S: Final = 2.0
SHARE: Final = 10_000
"""Ray counts fractions of a CPU in ten-thousandths."""

logger = logging.getLogger(__name__)


class SharedWorkers:
    """Actors that trials share; Ray restarts one that dies.

    A trial reserves the smallest fraction of a CPU that Ray counts, and each worker leaves `room` of these fractions
    free. Usually that is enough for all trials, because they may be placed anywhere on a cluster; if nothing else
    limits the number of running trials, it is the number of the worker's places.

    Args:
      settings: the settings that `make_pack` creates a worker from.
      crew: how many workers to start, and what each reserves.
      room: the number of trials that each worker leaves room for.
      silent_s: after how many seconds without an answer a worker that has answered before is restarted.
      nodes: the cluster's nodes, None for this machine.
      clock: returns the time in seconds.
    """

    def __init__(
        self, settings: Mapping[str, Any], crew: Crew, room: int, silent_s: float, nodes: Nodes | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:  # fmt: skip
        self.prefix = f"worker-{uuid.uuid4().hex[:8]}-"
        self._settings = settings
        self._crew = crew
        self._silent_s = silent_s
        self._nodes = nodes
        self._clock = clock
        resources = crew.needs.resources(crew.machine)
        self._options = {
            "num_cpus": round(resources["cpu"] - min(room / SHARE, 0.49), 4), "num_gpus": resources.get("gpu", 0),
            "max_restarts": -1, "max_concurrency": 2 * crew.pack + 2,
        }  # fmt: skip
        self._workers: dict[str, Any] = {}
        self._asked: dict[str, tuple[Any, float]] = {}
        self._answered: set[str] = set()
        self._next = 0.0
        self._started = 0
        self._start(crew.workers)

    def places_now(self) -> int:
        """Return the number of trials that the workers have room for."""
        return len(self._workers) * self._crew.pack

    def tend(self) -> None:
        """Check that the workers answer, and start more if the crew follows the cluster; at most every few seconds."""
        if self._clock() < self._next:
            return
        self._next = self._clock() + LOOK_EVERY_S
        for name, worker in list(self._workers.items()):
            if name not in self._asked:
                self._asked[name] = (worker.look.remote(), self._clock())
        asked = [reference for reference, _ in self._asked.values()]
        answered = set(ray.wait(asked, num_returns=len(asked), timeout=0)[0]) if asked else set()
        for name, (reference, since) in list(self._asked.items()):
            if reference in answered:
                del self._asked[name]
                self._hear(name, reference)
            elif name in self._answered and self._clock() - since > self._silent_s:
                self._give_up(name)
        if self._nodes is not None and self._crew.follows:
            self._start(max(0, self._nodes.slots() - len(self._workers)))

    def stop(self) -> None:
        """Kill the workers."""
        for worker in self._workers.values():
            ray.kill(worker)
        self._workers.clear()
        self._asked.clear()

    def _start(self, number: int) -> None:
        actor = ray.remote(concurrency_groups={SIGNS: 2})(PackWorker)
        for _ in range(number):
            name = f"{self.prefix}{self._started}"
            self._started += 1
            self._workers[name] = actor.options(name=name, **self._options).remote(self._settings)

    def _hear(self, name: str, reference: Any) -> None:
        """Process a worker's answer or the error in its place."""
        try:
            ray.get(reference)
        except ray.exceptions.RayTaskError as error:
            if not isinstance(error.cause, NodeRefused) or self._nodes is None:
                raise
            logger.error("%s", error.cause)
            self._nodes.keep_off(error.cause.node_id)
            ray.kill(self._workers.pop(name))
            self._answered.discard(name)
            self._start(1)
        except ray.exceptions.ActorUnavailableError:
            self._answered.discard(name)
        except ray.exceptions.RayActorError as error:
            if name in self._answered:  # Ray restarts it
                self._answered.discard(name)
                return
            logger.error("%s cannot be started: %s", name, " ".join(str(error).split()))
            del self._workers[name]
        else:
            self._answered.add(name)

    def _give_up(self, name: str) -> None:
        logger.warning("%s: has not answered for %g s; restarting it", name, self._silent_s)
        self._answered.discard(name)
        ray.kill(self._workers[name], no_restart=False)


__all__ = ["SHARE", "SharedWorkers"]
