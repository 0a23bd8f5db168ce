"""What a trial is judged by, rule by rule, on rows written by hand."""

from __future__ import annotations

import math
from typing import Any

import pytest

from jax_party.judging.objectives import RULES, At, Objective
from jax_party.judging.scores import Judgement, best_step, judge, trained_evaluations

NAME = "episode_return"


def row(step: int, value: float | None, seed: int = 0, **flags: Any) -> dict[str, Any]:
    return {"step": step, "seed": seed, "evaluate": {NAME: value, "other": -(value or 0.0)}, **flags}


def judged(at: str, rows: list[dict[str, Any]], num_seeds: int = 1, **more: Any) -> Judgement | None:
    return judge(Objective(NAME, more.pop("mode", "max"), at=at, **more), num_seeds, rows)


RETURNS = (8.0, 2.0, 4.0, 6.0, 5.0, 3.0, 1.0)
CURVE = [
    row(0, 99.0, untrained=True), *(row(10 * place, value) for place, value in enumerate(RETURNS, 1)),
    row(70, 1.5, final=True), row(70, 7.5, absolute=True),
]  # fmt: skip


@pytest.mark.parametrize(
    ("at", "value", "step", "source"),
    [
        ("final", 1.5, 70, "final"),
        ("last", 1.0, 70, "evaluation"),
        ("last-5-avg", (4 + 6 + 5 + 3 + 1) / 5, 70, "average"),
        ("last-10-avg", (8 + 2 + 4 + 6 + 5 + 3 + 1) / 7, 70, "average"),
        ("avg", (8 + 2 + 4 + 6 + 5 + 3 + 1) / 7, 70, "average"),
        ("best", 7.5, 10, "absolute"),
        ("best-per-seed", 7.5, 10, "absolute"),
    ],
)
def test_each_rule_takes_its_own_numbers(at: str, value: float, step: int, source: str) -> None:
    found = judged(at, CURVE)
    assert found is not None
    assert (found.metrics[NAME], found.step, found.source) == (pytest.approx(value), step, source)
    assert found.metrics["other"] == pytest.approx(-value), "every metric is of the same networks"
    assert found.values(NAME) == [pytest.approx(value)]


def test_every_rule_is_tested() -> None:
    assert set(RULES) == {"final", "last", "last-5-avg", "last-10-avg", "avg", "best"} == set(At) - {"best-per-seed"}


@pytest.mark.parametrize(("at", "value", "step"), [("final", 1.0, 70), ("best", 8.0, 10), ("best-per-seed", 8.0, 10)])
def test_what_was_not_played_again_is_judged_by_its_evaluation(at: str, value: float, step: int) -> None:
    """A trial that has not ended, or was pruned: the same parameters over fewer episodes."""
    found = judged(at, [one for one in CURVE if not (one.get("final") or one.get("absolute"))])
    assert found is not None
    assert (found.metrics[NAME], found.step, found.source) == (value, step, "evaluation")


@pytest.mark.parametrize("at", RULES)
def test_untrained_networks_are_never_judged(at: str) -> None:
    assert judged(at, [row(0, 99.0, untrained=True)]) is None
    assert judged(at, []) is None


def test_seeds_are_judged_at_the_same_step() -> None:
    """Each seed is best at a step of its own; their mean is best at the second, and that one counts for both."""
    values = {10: (9.0, 0.0), 20: (6.0, 6.0), 30: (0.0, 9.0)}
    rows = [row(step, value, seed) for step, pair in values.items() for seed, value in enumerate(pair)]
    found = judged("best", rows, num_seeds=2)
    assert found is not None and (found.step, found.values(NAME), found.metrics[NAME]) == (20, [6.0, 6.0], 6.0)
    lowest = judged("best", rows, num_seeds=2, mode="min", aggregate="min")
    assert lowest is not None and (lowest.step, lowest.metrics[NAME]) == (10, 0.0)


def test_a_step_that_some_seed_lacks_does_not_count() -> None:
    rows = [row(10, 1.0, 0), row(10, 2.0, 1), row(20, 5.0, 0)]
    found = judged("last", rows, num_seeds=2)
    assert found is not None and (found.step, found.values(NAME)) == (10, [1.0, 2.0])
    half = [*rows, row(20, 9.0, 0, final=True)]
    final = judged("final", half, num_seeds=2)
    assert final is not None and final.source == "evaluation", "the other seed's episodes are still to come"


def test_a_score_of_zero_is_a_score() -> None:
    found = judged("best", [row(10, -1.0), row(20, 0.0), row(20, 0.0, absolute=True)])
    assert found is not None and (found.source, found.metrics[NAME]) == ("absolute", 0.0)


def test_an_average_over_a_missing_number_is_missing() -> None:
    found = judged("avg", [row(10, 1.0), row(20, None)])
    assert found is not None and found.metrics[NAME] is None and found.values(NAME) == []


def test_the_standard_error_is_that_of_means_over_seeds_and_evaluations() -> None:
    errors = {(10, 0): 3.0, (10, 1): 4.0, (20, 0): 6.0, (20, 1): 8.0}
    rows = [row(step, 1.0, seed, se={NAME: error}) for (step, seed), error in errors.items()]
    last = judged("last", rows, num_seeds=2)
    assert last is not None and last.se == pytest.approx(math.sqrt(6**2 + 8**2) / 2)
    both = judged("avg", rows, num_seeds=2)
    assert both is not None and both.se == pytest.approx(math.sqrt((5 / 2) ** 2 + (10 / 2) ** 2) / 2)
    del rows[0]["se"]
    unknown = judged("avg", rows, num_seeds=2)
    assert unknown is not None and unknown.se is None


def test_the_best_step_is_the_earliest_of_equals() -> None:
    rows = [row(10, 1.0), row(20, 3.0), row(30, 3.0), row(40, None), row(50, math.nan)]
    assert best_step(trained_evaluations(rows, 1), Objective(NAME, "max")) == 20
    assert best_step(trained_evaluations(rows, 1), Objective(NAME, "min")) == 10
    assert best_step({}, Objective(NAME, "max")) is None


@pytest.mark.parametrize(("at", "value", "source"), [("final", 1.0, "evaluation"), ("best", 8.0, "evaluation")])
@pytest.mark.parametrize("flag", ["final", "absolute"])
def test_episodes_without_a_number_are_no_reason_to_leave_a_trial_out(
    at: str, value: float, source: str, flag: str
) -> None:
    """Both rules fall back to the evaluation of the same parameters."""
    rows = [row(70, None, **{name: True}) if one.get(name := "final") or one.get(name := "absolute") else one
            for one in CURVE]  # fmt: skip
    found = judged(at, rows)
    assert found is not None and (found.metrics[NAME], found.source) == (value, source)
    whole = [one for one in rows if not one.get(flag)]
    assert judged(at, whole) == found
