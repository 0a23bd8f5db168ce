"""Trials that are planned already, as Tune takes them: handed out in their order, each to a worker of its own."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from ray.tune.schedulers import FIFOScheduler
from ray.tune.search import Searcher

FINISHED: Any = Searcher.FINISHED


class PlannedTrials(Searcher):
    """Gives out trials by their ids, in order.

    Tune's `grid_search` would do the same, but copies the list of all of them for each.

    Args:
      ids: of the trials.
      most: how many may run now; None leaves that to Tune.
    """

    def __init__(self, ids: Iterable[str], most: Callable[[], int] | None = None) -> None:
        super().__init__()
        self._ids = deque(ids)
        self._most = most
        self._running: set[str] = set()

    @property
    def remaining(self) -> int:
        """How many trials it has still to give out."""
        return len(self._ids)

    def set_search_properties(self, metric: str | None, mode: str | None, config: dict[str, Any], **spec: Any) -> bool:
        """Nothing is searched for."""
        return True

    def suggest(self, trial_id: str) -> Any:
        """The next trial; None where it is to be asked later, `FINISHED` after the last."""
        if not self._ids:
            return FINISHED
        if self._most is not None and len(self._running) >= self._most():
            return None
        self._running.add(trial_id)
        return {"trial_id": self._ids.popleft()}

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Nothing is learnt from it but that there is room for another."""
        self._running.discard(trial_id)

    def save(self, checkpoint_path: str) -> None:
        """Nothing to save: the folders are the truth."""
        Path(checkpoint_path).touch()

    def restore(self, checkpoint_path: str) -> None:
        """Nothing to restore."""


class InOrder(FIFOScheduler):
    """First in, first out, and a trial that waits for a worker to start keeps it.

    Tune's own gives such a trial to the next worker that is free, and ends the one that was starting: a sweep of trials
    that are shorter than a worker's start then runs on a single worker.
    """

    def choose_trial_to_run(self, tune_controller: Any) -> None:
        """None: Tune starts the trials that are pending by itself, in their order."""
