"""Give Tune trials that are already planned, in their order."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from ray.tune.schedulers import FIFOScheduler
from ray.tune.search import Searcher

FINISHED: Any = Searcher.FINISHED


class GivenTrials(Searcher):
    """Suggests the planned trials in order, by their ids.

    Tune's `grid_search` would do the same, but copies the whole list of ids for each trial.

    Args:
      ids: the ids of the trials.
      most: returns how many trials may run now; None leaves that to Tune.
    """

    def __init__(self, ids: Iterable[str], most: Callable[[], int] | None = None) -> None:
        super().__init__()
        self._ids = deque(ids)
        self._most = most
        self._running: set[str] = set()

    @property
    def remaining(self) -> int:
        """The number of trials not suggested yet."""
        return len(self._ids)

    def set_search_properties(self, metric: str | None, mode: str | None, config: dict[str, Any], **spec: Any) -> bool:
        """Accept anything, because nothing is searched for."""
        return True

    def suggest(self, trial_id: str) -> Any:
        """Return the next trial's config; None if Tune should ask again later, `FINISHED` after the last one."""
        if not self._ids:
            return FINISHED
        if self._most is not None and len(self._running) >= self._most():
            return None
        self._running.add(trial_id)
        return {"trial_id": self._ids.popleft()}

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Note that there is room for another trial; nothing is learnt from the result."""
        self._running.discard(trial_id)

    def save(self, checkpoint_path: str) -> None:
        """Write an empty file, because the trial folders are the truth."""
        Path(checkpoint_path).touch()

    def restore(self, checkpoint_path: str) -> None:
        """Do nothing; there is nothing to restore."""


class InOrder(FIFOScheduler):
    """First in, first out; a trial keeps the worker that is starting for it.

    Tune's own FIFO gives such a trial to the next free worker and ends the one that was starting. A sweep of trials
    shorter than a worker's start would then run on a single worker.
    """

    def choose_trial_to_run(self, tune_controller: Any) -> None:
        """Return None; Tune itself starts pending trials in their order."""
