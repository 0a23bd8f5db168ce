"""The progress of a sweep: one row per trial, which the driver updates from Tune's events."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

from jax_party.judging.objectives import At, Objective
from jax_party.judging.scores import is_number
from jax_party.judging.standings import MEAN_OVER_SCENARIOS, Candidate, Standing, best_of, rank
from jax_party.trial.outcome import better
from jax_party.trial.record import TrialRecord
from jax_party.trial.states import FINISHED, State


@dataclass(frozen=True)
class Row:
    """The state of one trial at one moment, as the console shows it."""

    trial_id: str
    number: int
    algorithm: str
    scenario: str
    hyperparameters: Mapping[str, Any]
    total_steps: int
    state: State = State.PENDING
    env_steps: int = 0
    last: float | None = None
    score: float | None = None  # the score so far
    steps_per_second: float | None = None
    retries: int = 0
    error: str | None = None
    num_seeds: int = 1
    is_test: bool = False  # tests a winner on fresh seeds

    @property
    def group(self) -> str:
        """Algorithm and scenario; results compare only within this group."""
        return f"{self.algorithm} {self.scenario}"

    @property
    def fraction(self) -> float:
        """Fraction of its budget that has been trained."""
        return min(1.0, self.env_steps / self.total_steps) if self.total_steps else 0.0


@dataclass(frozen=True)
class Snapshot:
    """The state of the sweep at one moment.

    `counts` are the trials in each state; those not drawn yet count as PENDING. `best` is the first trial of the best
    complete configuration, whose standing is `standing`; until one is complete, it is the trial with the best score so
    far.
    """

    name: str
    objective: Objective
    planned: int
    rows: tuple[Row, ...]
    best: Row | None
    standing: Standing | None
    elapsed_s: float
    eta_s: float | None
    counts: Counter[State]
    several: bool = False
    budget: str = ""

    def where(self, row: Row) -> str:
        """Return the row's scenario, preceded by its algorithm if the sweep has several."""
        return row.group if self.several else row.scenario

    @property
    def ended(self) -> int:
        """The number of trials that have ended."""
        return sum(self.counts[state] for state in FINISHED)


@dataclass
class Progress:
    """What is known about every trial. The driver's loop writes it, and the console's thread reads it.

    Sums are updated row by row, so that queries at each of Tune's events take no longer in a sweep of ten thousand
    trials than in one of ten.
    """

    name: str
    objective: Objective
    planned: int
    clock: Callable[[], float] = time.monotonic
    budget: Callable[[], str] = str
    scenario_mode: str = "grid"
    scenarios: Sequence[str] = ()
    _rows: dict[str, Row] = field(default_factory=dict)
    _lock: threading.RLock = field(default_factory=threading.RLock)
    _began: float = 0.0
    _working_since: float | None = None
    _steps_now: int = 0
    _counts: Counter[State] = field(default_factory=Counter)
    _algorithms: Counter[str] = field(default_factory=Counter)
    _running: dict[str, None] = field(default_factory=dict)
    _steps: int = 0
    _steps_left: int = 0
    _best: Row | None = None
    _candidates: dict[str, Candidate] = field(default_factory=dict)
    _standing: Standing | None = None
    _ranked: int = 0
    _in_order: bool = True

    def __post_init__(self) -> None:
        self._began = self.clock()

    @property
    def elapsed_s(self) -> float:
        """Seconds since this run of the sweep started."""
        return self.clock() - self._began

    @property
    def troubled(self) -> bool:
        """Whether any trial was retried or has failed."""
        with self._lock:
            return any(row.retries or row.state is State.FAILED for row in self._rows.values())

    def add(
        self,
        record: TrialRecord,
        score: float | None = None,
        last: float | None = None,
        candidate: Candidate | None = None,
    ) -> None:
        """Add a planned trial, new or from an earlier run of the sweep; `candidate` is set if it is COMPLETE."""
        row = Row(
            record.trial_id, record.number, record.algorithm, record.scenario, record.hyperparameters,
            record.total_steps, record.state, record.env_steps, last, score, record.steps_per_second, 0, record.error,
            record.num_seeds, record.promoted_from is not None,
        )  # fmt: skip
        with self._lock:
            newest = next(reversed(self._rows.values()), None)
            self._in_order = self._in_order and (newest is None or newest.number <= row.number)
            self._put(row)
            if candidate is not None:
                self._candidates[record.trial_id] = candidate

    def start(self, trial_id: str) -> None:
        """Note that a worker has taken the trial."""
        with self._lock:
            self._put(replace(self._rows[trial_id], state=State.RUNNING))
            if self._working_since is None:
                self._working_since = self.clock()

    def result(self, trial_id: str, result: Mapping[str, Any]) -> Row:
        """Update the trial with the result of an evaluation, and return its row."""
        with self._lock:
            row = self._rows[trial_id]
            steps = int(result.get("env_steps", row.env_steps))
            self._steps_now += max(0, steps - row.env_steps)
            changes: dict[str, Any] = {"env_steps": max(steps, row.env_steps)}
            value = result.get(self.objective.metric)
            if is_number(value):
                changes["last"] = float(value)
                if not result.get("untrained") and (row.score is None or self._is_judged(float(value), row.score)):
                    changes["score"] = float(value)
            rate = result.get("steps_per_second")
            if is_number(rate):
                changes["steps_per_second"] = float(rate)
            return self._put(replace(row, **changes))

    def retry(self, trial_id: str) -> Row:
        """Note that the trial is retried after an error or its worker's death, and return its row."""
        with self._lock:
            row = self._rows[trial_id]
            return self._put(replace(row, state=State.PENDING, retries=row.retries + 1))

    def end(
        self,
        trial_id: str,
        state: State,
        error: str | None,
        score: float | None = None,
        candidate: Candidate | None = None,
    ) -> Row:
        """Note that the trial has ended, with its score and candidate if they are known, and return its row."""
        with self._lock:
            if candidate is not None:
                self._candidates[trial_id] = candidate
            row = self._rows[trial_id]
            return self._put(replace(row, state=state, error=error, score=row.score if score is None else score))

    def _is_judged(self, value: float, before: float) -> bool:
        """Return whether a new evaluation replaces the score so far; rules that average do so only at a trial's end."""
        by_best = At(self.objective.at) in (At.BEST, At.BEST_PER_SEED)
        return not by_best or better(value, before, self.objective)

    def where(self, row: Row) -> str:
        """Return the row's scenario, preceded by its algorithm if the sweep has several."""
        with self._lock:
            return row.group if len(self._algorithms) > 1 else row.scenario

    def row(self, trial_id: str) -> Row:
        """Return the trial's current row."""
        with self._lock:
            return self._rows[trial_id]

    def steps(self) -> int:
        """Return the environment steps of all trials and seeds, including those of earlier runs."""
        with self._lock:
            return self._steps

    def group_of(self, trial_id: str) -> str:
        """Return the trial's algorithm and scenario."""
        with self._lock:
            return self._rows[trial_id].group

    def running(self) -> list[str]:
        """Return the ids of the running trials."""
        with self._lock:
            return list(self._running)

    def snapshot(self) -> Snapshot:
        """Return the current state of the sweep."""
        with self._lock:
            if not self._in_order:
                self._rows = {row.trial_id: row for row in sorted(self._rows.values(), key=lambda row: row.number)}
                self._in_order = True
            rows = tuple(self._rows.values())
            counts = Counter(self._counts)
            counts[State.PENDING] += self.planned - len(rows)
            several, eta, elapsed = len(self._algorithms) > 1, self._eta(), self.elapsed_s
            best, standing = self._leader()
        return Snapshot(
            self.name, self.objective, self.planned, rows, best, standing, elapsed, eta, counts, several, self.budget()
        )

    def _leader(self) -> tuple[Row | None, Standing | None]:
        """Return the best trial so far, and the standing of its configuration if that is complete."""
        if len(self._candidates) > self._ranked:
            self._ranked = len(self._candidates)
            ranked = rank(self._candidates.values(), self.objective, self.scenario_mode, self.scenarios)
            firsts = filter(None, map(best_of, ranked.values()))
            self._standing = min(
                firsts, key=lambda one: (one.provisional, -self.objective.sign * one.score, one.number), default=None
            )
        if self._standing is not None:
            return self._rows[self._standing.trials[0]], self._standing
        return (None if self._ranked and self.scenario_mode != MEAN_OVER_SCENARIOS else self._best), None

    def _put(self, row: Row) -> Row:
        """Replace a trial's row or add a new one, and update the sums."""
        before = self._rows.get(row.trial_id)
        if before is not None:
            self._count(before, -1)
        self._rows[row.trial_id] = row
        self._count(row, 1)
        if row.state is State.RUNNING:
            self._running[row.trial_id] = None
        else:
            self._running.pop(row.trial_id, None)
        self._compare(row)
        return row

    def _compare(self, row: Row) -> None:
        """Update the best row. All rows are compared only if the best one has become worse or has failed."""
        best = self._best
        if best is None or best.trial_id != row.trial_id:
            self._best = best_row([one for one in (best, row) if one is not None], self.objective)
        elif best_row([row], self.objective) is None or best_row([row, best], self.objective) is best:
            self._best = best_row(self._rows.values(), self.objective)
        else:
            self._best = row

    def _count(self, row: Row, sign: int) -> None:
        """Add a row to the sums (`sign` 1) or subtract it (`sign` -1)."""
        self._counts[row.state] += sign
        self._algorithms[row.algorithm] += sign
        if not self._algorithms[row.algorithm]:
            del self._algorithms[row.algorithm]
        self._steps += sign * row.env_steps * row.num_seeds
        if row.state not in FINISHED:
            self._steps_left += sign * (row.total_steps - row.env_steps)

    def _eta(self) -> float | None:
        """Return the seconds left at the average rate since the first trial of this run started, or None."""
        if not self._steps_now or self._working_since is None:
            return None
        typical = next(iter(self._rows.values())).total_steps if self._rows else 0
        left = self._steps_left + typical * (self.planned - len(self._rows))
        return max(0, left) * (self.clock() - self._working_since) / self._steps_now


def best_row(rows: Iterable[Row], objective: Objective) -> Row | None:
    """Return the row with the best score so far; of equal ones, the one with the lowest number.

    Complete trials come before running ones, and running ones before pruned ones. Trials that failed or test a winner
    do not count.
    """
    sign = -1.0 if objective.mode == "max" else 1.0
    counted = (row for row in rows if row.score is not None and row.state is not State.FAILED and not row.is_test)
    return min(counted, key=lambda row: (_TIERS[row.state], sign * (row.score or 0.0), row.number), default=None)


_TIERS: Final = {State.COMPLETE: 0, State.RUNNING: 1, State.PENDING: 1, State.PRUNED: 2}
