"""How far a sweep is: one row a trial, kept by the driver from what Tune tells it."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from jax_party.records import FINISHED, Objective, State, TrialRecord
from launcher.outcome import better, is_number


@dataclass
class Row:
    """One trial as the console shows it."""

    trial_id: str
    number: int
    algorithm: str
    scenario: str
    hyperparameters: Mapping[str, Any]
    total_steps: int
    state: State = State.PENDING
    env_steps: int = 0
    last: float | None = None
    best: float | None = None
    steps_per_second: float | None = None
    retries: int = 0
    error: str | None = None
    num_seeds: int = 1

    @property
    def group(self) -> str:
        """Algorithm and scenario: what its results compare with."""
        return f"{self.algorithm} {self.scenario}"

    @property
    def fraction(self) -> float:
        """Share of its budget that is trained."""
        return min(1.0, self.env_steps / self.total_steps) if self.total_steps else 0.0


@dataclass(frozen=True)
class Snapshot:
    """The sweep at one moment."""

    name: str
    objective: Objective
    planned: int
    rows: tuple[Row, ...]
    best: Row | None
    elapsed_s: float
    eta_s: float | None
    several: bool = False
    budget: str = ""

    @property
    def counts(self) -> Counter[State]:
        """Trials in each state; those not yet drawn are PENDING."""
        counts = Counter(row.state for row in self.rows)
        counts[State.PENDING] += self.planned - len(self.rows)
        return counts

    def where(self, row: Row) -> str:
        """The row's scenario, with its algorithm where the sweep has several."""
        return row.group if self.several else row.scenario

    @property
    def ended(self) -> int:
        """Trials that will not run again."""
        return sum(self.counts[state] for state in FINISHED)


@dataclass
class Progress:
    """What is known of every trial. Written by the driver's loop, read by the console's thread."""

    name: str
    objective: Objective
    planned: int
    clock: Callable[[], float] = time.monotonic
    budget: Callable[[], str] = str
    _rows: dict[str, Row] = field(default_factory=dict)
    _lock: threading.RLock = field(default_factory=threading.RLock)
    _began: float = 0.0
    _working_since: float | None = None
    _steps_now: int = 0

    def __post_init__(self) -> None:
        self._began = self.clock()

    def add(self, record: TrialRecord, best: float | None = None) -> None:
        """A planned trial, new or from an earlier run of the sweep."""
        with self._lock:
            self._rows[record.trial_id] = Row(
                record.trial_id, record.number, record.algorithm, record.scenario, record.hyperparameters,
                record.total_steps, record.state, record.env_steps, best, best, record.steps_per_second, 0,
                record.error, record.num_seeds,
            )  # fmt: skip

    def start(self, trial_id: str) -> None:
        """A worker has taken the trial."""
        with self._lock:
            self._rows[trial_id].state = State.RUNNING
            if self._working_since is None:
                self._working_since = self.clock()

    def result(self, trial_id: str, result: Mapping[str, Any]) -> Row:
        """An evaluation has come in."""
        with self._lock:
            row = self._rows[trial_id]
            steps = int(result.get("env_steps", row.env_steps))
            self._steps_now += max(0, steps - row.env_steps)
            row.env_steps = max(steps, row.env_steps)
            value = result.get(self.objective.metric)
            if is_number(value):
                row.last = float(value)
                if row.best is None or better(row.last, row.best, self.objective):
                    row.best = row.last
            rate = result.get("steps_per_second")
            if is_number(rate):
                row.steps_per_second = float(rate)
            return replace(row)

    def retry(self, trial_id: str) -> Row:
        """The trial's worker has died or failed; it is tried again."""
        with self._lock:
            row = self._rows[trial_id]
            row.state, row.retries = State.PENDING, row.retries + 1
            return replace(row)

    def end(self, trial_id: str, state: State, error: str | None) -> Row:
        """The trial has ended."""
        with self._lock:
            row = self._rows[trial_id]
            row.state, row.error = state, error
            return replace(row)

    def where(self, row: Row) -> str:
        """The row's scenario, with its algorithm where the sweep has several."""
        with self._lock:
            return row.group if len({other.algorithm for other in self._rows.values()}) > 1 else row.scenario

    def steps(self) -> int:
        """Environment steps of all trials and seeds, whenever they were trained."""
        with self._lock:
            return sum(row.env_steps * row.num_seeds for row in self._rows.values())

    def group_of(self, trial_id: str) -> str:
        """The trial's algorithm and scenario."""
        with self._lock:
            return self._rows[trial_id].group

    def running(self) -> list[str]:
        """Trials that workers have now."""
        with self._lock:
            return [row.trial_id for row in self._rows.values() if row.state is State.RUNNING]

    def snapshot(self) -> Snapshot:
        """A copy of everything."""
        with self._lock:
            rows = tuple(replace(row) for row in sorted(self._rows.values(), key=lambda row: row.number))
            eta = self._eta(rows)
            elapsed = self.clock() - self._began
        best, several = best_row(rows, self.objective), len({row.algorithm for row in rows}) > 1
        return Snapshot(self.name, self.objective, self.planned, rows, best, elapsed, eta, several, self.budget())

    def _eta(self, rows: tuple[Row, ...]) -> float | None:
        """Seconds left at the rate since the first trial of this run began."""
        if not self._steps_now or self._working_since is None:
            return None
        left = sum(row.total_steps - row.env_steps for row in rows if row.state not in FINISHED)
        typical = rows[0].total_steps if rows else 0
        left += typical * (self.planned - len(rows))
        return max(0, left) * (self.clock() - self._working_since) / self._steps_now


def best_row(rows: Iterable[Row], objective: Objective) -> Row | None:
    """The row with the best evaluation so far; failed trials do not count."""
    found: Row | None = None
    for row in rows:
        if row.best is None or row.state is State.FAILED:
            continue
        if found is None or found.best is None or better(row.best, found.best, objective):
            found = row
    return found
