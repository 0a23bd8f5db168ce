"""The sums that are kept while a sweep runs are those that counting anew gives."""

from __future__ import annotations

from collections import Counter
from typing import Any

import hypothesis.strategies as st
from hypothesis import given

from jax_party.records import FINISHED, Objective, State, TrialRecord
from launcher.progress import Progress, Snapshot, best_row

TRIALS = 5
PLANNED = 7
EVENTS = st.lists(
    st.tuples(
        st.sampled_from(["add", "start", "result", "nothing", "retry", *FINISHED]),
        st.integers(0, TRIALS - 1),
        st.integers(0, 9),
    ),
    max_size=40,
)


def record(number: int) -> TrialRecord:
    return TrialRecord(
        trial_id=f"t-{number}", number=number, algorithm=("ff_ippo", "ff_mappo")[number % 2], environment="JaxParty",
        scenario="p-base", seed=0, num_seeds=1 + number, total_steps=100, env_steps=10 * number,
        promoted_from="t-0" if number == TRIALS - 1 else None,
    )  # fmt: skip


def play(progress: Progress, events: list[tuple[str, int, int]]) -> set[str]:
    """Tell of what happens, in any order, to trials that are known; gives their ids."""
    known: set[str] = set()
    for kind, number, amount in events:
        trial_id = f"t-{number}"
        if kind == "add":
            if trial_id not in known:
                progress.add(record(number), None if amount == 0 else float(amount))
                known.add(trial_id)
        elif trial_id not in known:
            continue
        elif kind == "start":
            progress.start(trial_id)
        elif kind == "retry":
            progress.retry(trial_id)
        elif kind in ("result", "nothing"):
            result: dict[str, Any] = {"env_steps": 10 * amount}
            progress.result(trial_id, result | ({"score": float(amount)} if kind == "result" else {}))
        else:
            progress.end(trial_id, State(kind), None)
    return known


@given(EVENTS, st.sampled_from(["max", "min"]))
def test_sums_are_those_of_the_rows(events: list[tuple[str, int, int]], mode: str) -> None:
    seconds = iter(range(10_000))
    progress = Progress("sweep", Objective("score", mode), PLANNED, lambda: float(next(seconds)))
    known = play(progress, events)
    found = progress.snapshot()

    assert [row.number for row in found.rows] == sorted(int(trial_id[2:]) for trial_id in known)
    counts = Counter(row.state for row in found.rows)
    counts[State.PENDING] += PLANNED - len(known)
    assert +found.counts == +counts
    assert found.ended == sum(row.state in FINISHED for row in found.rows)
    assert progress.steps() == sum(row.env_steps * row.num_seeds for row in found.rows)
    assert sorted(progress.running()) == [row.trial_id for row in found.rows if row.state is State.RUNNING]
    assert found.best == best_row(found.rows, progress.objective)
    assert found.best is None or found.best.number != TRIALS - 1, "a test of a winner is not the best"
    assert found.several == (len({row.algorithm for row in found.rows}) > 1)
    assert (found.eta_s == 0) == (found.eta_s is not None and steps_left(found) <= 0)


def steps_left(found: Snapshot) -> int:
    left = sum(row.total_steps - row.env_steps for row in found.rows if row.state not in FINISHED)
    return left + 100 * (PLANNED - len(found.rows))


@given(EVENTS)
def test_a_snapshot_stays_as_it_was(events: list[tuple[str, int, int]]) -> None:
    progress = Progress("sweep", Objective("score", "max"), PLANNED, lambda: 1.0)
    play(progress, events)
    before = progress.snapshot()
    kept = before.rows, Counter(before.counts), before.best
    for number in {row.number for row in before.rows}:
        progress.result(f"t-{number}", {"score": 99.0, "env_steps": 100})
        progress.end(f"t-{number}", State.COMPLETE, None)
    assert (before.rows, before.counts, before.best) == kept


def test_untrained_networks_are_not_the_best_so_far() -> None:
    progress = Progress("sweep", Objective("score", "max"), PLANNED)
    progress.add(record(0))
    assert progress.result("t-0", {"env_steps": 10, "score": 9.0, "untrained": True}).score is None
    row = progress.result("t-0", {"env_steps": 20, "score": 3.0})
    assert (row.score, row.last) == (3.0, 3.0)
