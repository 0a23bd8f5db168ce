"""Who is better: configurations in order, by hand."""

from __future__ import annotations

import dataclasses
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import given

from jax_party.judging.objectives import Objective
from jax_party.judging.standings import Candidate, ahead_unsettled, best_of, rank

FINAL = Objective("r", "max")
BEST = dataclasses.replace(FINAL, at="best")


def trial(number: int, *values: float, **changes: Any) -> Candidate:
    fields: dict[str, Any] = {
        "trial_id": f"t{number}", "number": number, "algorithm": "ff_ippo", "scenario": "p-base",
        "configuration": f"c{number}", "state": "COMPLETE", "first_seed": 0,
        "of_seeds": [{"r": value} for value in values], "settled": True,
    }  # fmt: skip
    return Candidate(**fields | changes)


def order(candidates: list[Candidate], objective: Objective = FINAL) -> list[str]:
    return [one.configuration for one in rank(candidates, objective)["ff_ippo p-base"]]


def test_the_settled_come_before_what_may_be_slower_learning() -> None:
    found = [trial(0, 9.0, settled=False), trial(1, 3.0), trial(2, 5.0), trial(3, 7.0, settled=None)]
    assert order(found) == ["c2", "c1", "c0", "c3"]
    first, *_ = ranked = rank(found, FINAL)["ff_ippo p-base"]
    assert (first.place, first.provisional, first.settled) == (1, False, True)
    assert [one.eligible for one in ranked] == [True, True, False, False]
    ahead = ahead_unsettled(ranked, FINAL)
    assert ahead is not None and ahead.configuration == "c0", "what stands higher and is still moving is told"


def test_where_none_has_settled_the_best_is_provisional() -> None:
    ranked = rank([trial(0, 9.0, settled=False), trial(1, 3.0, settled=None)], FINAL)["ff_ippo p-base"]
    assert [one.configuration for one in ranked] == ["c0", "c1"] and ranked[0].provisional
    assert ahead_unsettled(ranked, FINAL) is None


def test_networks_of_the_best_evaluation_need_not_have_settled() -> None:
    found = [trial(0, 9.0, settled=False), trial(1, 3.0)]
    ranked = rank(found, BEST)["ff_ippo p-base"]
    assert [one.configuration for one in ranked] == ["c0", "c1"] and not ranked[0].provisional


@pytest.mark.parametrize("at", ["final", "best"])
def test_pruned_trials_are_ranked_apart(at: str) -> None:
    found = [
        trial(0, 9.0, state="PRUNED"),
        trial(1, 3.0),
        trial(2, 5.0, state="RUNNING"),
        trial(3, 99.0, state="FAILED"),
    ]
    assert order(found, dataclasses.replace(FINAL, at=at)) == ["c1", "c2", "c0"]
    only = rank([found[0]], dataclasses.replace(FINAL, at=at))["ff_ippo p-base"]
    assert only[0].provisional and not only[0].complete


def test_a_configuration_counts_by_all_of_its_seeds_each_once() -> None:
    """10 on one seed alone is not better than 9 on two; a copy of a seed says nothing new."""
    lucky = [trial(0, 10.0, configuration="x"), trial(1, 4.0, configuration="x", first_seed=1)]
    copied = [
        trial(2, 9.0, configuration="y"),
        trial(3, 9.0, configuration="y"),
        trial(4, 8.0, first_seed=1, configuration="y"),
    ]
    first, second = rank([*lucky, *copied], FINAL)["ff_ippo p-base"]
    assert (first.configuration, first.score, first.num_seeds, first.trials) == ("y", 8.5, 2, ("t2", "t3", "t4"))
    assert (second.configuration, second.score, second.num_seeds) == ("x", 7.0, 2)


def test_a_pruned_copy_does_not_count_beside_a_complete_one() -> None:
    found = [trial(0, 1.0, configuration="x", state="PRUNED"), trial(1, 5.0, configuration="x", first_seed=1)]
    (one,) = rank(found, FINAL)["ff_ippo p-base"]
    assert (one.score, one.trials, one.others, one.complete) == (5.0, ("t1",), ("t0",), True)


def test_over_scenarios_the_mean_decides_once_all_are_there() -> None:
    found = [
        trial(number, value, configuration=name, scenario=scenario)
        for number, (name, scenario, value) in enumerate(
            [("x", "a", 10.0), ("x", "b", 0.0), ("y", "a", 6.0), ("y", "b", 6.0), ("z", "a", 99.0)]
        )
    ]
    (group,) = rank(found, FINAL, "mean", ["a", "b"]).items()
    assert group[0] == "ff_ippo"
    assert [(one.configuration, one.score) for one in group[1]] == [("y", 6.0), ("x", 5.0)]
    assert group[1][0].trials == ("t2", "t3")
    apart = rank(found, FINAL)
    assert [one.configuration for one in apart["ff_ippo a"]] == ["z", "x", "y"]


def test_constraints_come_first() -> None:
    bounded = dataclasses.replace(FINAL, constraints={"min_c": 0.5})
    found = [
        trial(0, of_seeds=[{"r": 9.0, "c": 0.1}]), trial(1, of_seeds=[{"r": 1.0, "c": 0.6}], settled=False),
        trial(2, of_seeds=[{"r": 5.0, "c": None}]),
    ]  # fmt: skip
    ranked = rank(found, bounded)["ff_ippo p-base"]
    assert [one.configuration for one in ranked] == ["c1", "c0", "c2"]
    assert best_of(ranked) is ranked[0]
    assert best_of(rank(found[:1], bounded)["ff_ippo p-base"]) is None


def test_the_front_is_of_those_that_could_be_the_best() -> None:
    both = Objective("r", "max", others=(("cost", "min"),))
    points = {0: (5.0, 1.0), 1: (9.0, 9.0), 2: (4.0, 2.0), 3: (99.0, 0.0)}
    found = [
        trial(number, of_seeds=[{"r": r, "cost": cost}], settled=number != 3) for number, (r, cost) in points.items()
    ]
    ranked = rank(found, both)["ff_ippo p-base"]
    assert [one.configuration for one in ranked if one.on_front] == ["c1", "c0"], "3 has not settled, 0 beats 2"
    assert [one.configuration for one in ranked] == ["c1", "c0", "c2", "c3"]


@given(
    st.lists(
        st.tuples(st.floats(-9, 9), st.booleans(), st.sampled_from(["COMPLETE", "PRUNED"])), min_size=1, max_size=8
    )
)
def test_every_order_of_trials_gives_the_same_places(drawn: list[tuple[float, bool, str]]) -> None:
    found = [trial(number, value, settled=settled, state=state) for number, (value, settled, state) in enumerate(drawn)]
    ranked = rank(found, FINAL)["ff_ippo p-base"]
    assert ranked == rank(list(reversed(found)), FINAL)["ff_ippo p-base"]
    assert [one.place for one in ranked] == list(range(1, len(found) + 1))
    best = ranked[0]
    able = [one for one in ranked if one.eligible]
    assert best.score == max(one.score for one in able)
    if any(settled and state == "COMPLETE" for _, settled, state in drawn):
        assert best.complete and best.settled and not best.provisional
