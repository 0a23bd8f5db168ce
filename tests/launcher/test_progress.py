"""The sums that are kept while a sweep runs are those that counting anew gives."""

from __future__ import annotations

from collections import Counter
from typing import Any

import hypothesis.strategies as st
from hypothesis import given

from jax_party.judging.objectives import Objective
from jax_party.judging.standings import Candidate
from jax_party.trial.record import TrialRecord
from jax_party.trial.states import FINISHED, State
from launcher.show.console import status_line
from launcher.show.progress import Progress, Snapshot, best_row

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


def candidate(number: int, value: float, settled: bool | None = True, **changes: Any) -> Candidate:
    values: dict[str, Any] = {
        "trial_id": f"t-{number}", "number": number, "algorithm": "ff_ippo", "scenario": "p-base",
        "configuration": f"c{number}", "state": "COMPLETE", "first_seed": 0,
        "of_seeds": [{"score": value, "cost": value}], "settled": settled,
    }  # fmt: skip
    return Candidate(**{**values, **changes})


def complete(progress: Progress, one: Candidate) -> None:
    if one.number not in {row.number for row in progress.snapshot().rows}:
        progress.add(record(one.number))
    progress.end(one.trial_id, State.COMPLETE, None, one.of_seeds[0]["score"], one)


def test_the_best_so_far_is_the_first_of_the_standings() -> None:
    progress = Progress("sweep", Objective("score", "max", constraints={"max_cost": 50.0}), PLANNED)
    complete(progress, candidate(0, 90.0))
    assert progress.snapshot().best is None, "it breaks the constraint"
    complete(progress, candidate(1, 30.0, settled=False))
    found = progress.snapshot()
    assert found.best is not None and found.best.number == 1 and found.standing is not None
    assert "best so far score 30 (trial 1, provisional)" in status_line(found)
    complete(progress, candidate(2, 20.0))
    assert "best so far score 20 (trial 2)" in status_line(progress.snapshot()), "it has settled"
    complete(progress, candidate(3, 26.0, configuration="c2", first_seed=1))
    assert "best so far score 23 (trial 2, 2 seeds)" in status_line(progress.snapshot())


def test_a_configuration_that_counts_by_its_mean_is_named_once_it_is_whole() -> None:
    progress = Progress(
        "sweep", Objective("score", "max"), PLANNED, scenario_mode="mean", scenarios=("p-base", "p-short")
    )
    complete(progress, candidate(0, 90.0))
    assert progress.snapshot().standing is None
    complete(progress, candidate(2, 10.0, configuration="c0", scenario="p-short"))
    assert "best so far score 50 (trial 0)" in status_line(progress.snapshot())
