"""Tune's stopping rules behind our ids and groups, without a cluster."""

from __future__ import annotations

from typing import Any

import pytest

from jax_party.trial.outcome import Evaluation
from launcher.ask.choices import Scheduler
from launcher.search.schedulers import GroupedStopping, Length, arrived, make_population, travelling
from sweeps.axes import Axis, AxisType


class Trial:
    def __init__(self, trial_id: str) -> None:
        self.config = {"trial_id": trial_id}


def stopping(kind: Scheduler) -> GroupedStopping:
    groups = {"easy": Length(900, 9), "hard": Length(900, 9)}
    return GroupedStopping(kind, "score", "max", groups, lambda trial_id: trial_id.split("-")[0])


def asha() -> GroupedStopping:
    return stopping(Scheduler.ASHA)


def judge(scheduler: GroupedStopping, trial_id: str, steps: int, score: Any) -> str:
    return scheduler.on_trial_result(None, Trial(trial_id), {"env_steps": steps, "score": score})


def test_asha_compares_within_a_scenario() -> None:
    scheduler = asha()
    for index in range(3):
        assert judge(scheduler, f"easy-{index}", 100, 100.0 + index) == "CONTINUE"
    assert judge(scheduler, "hard-0", 100, 1.0) == "CONTINUE", "a hard scenario's first is not weak"
    assert judge(scheduler, "easy-9", 100, 1.0) == "STOP"
    assert scheduler.reasons == {
        "easy-9": "asha: score 1 at 100 steps is not in the best 1/3 of its algorithm and scenario"
    }


def test_asha_goes_on_from_recorded_evaluations() -> None:
    scheduler = asha()
    for index in range(3):
        scheduler.remember(f"easy-{index}", [Evaluation(100, 10.0 + index), Evaluation(200, 20.0)])
    assert judge(scheduler, "easy-3", 100, 1.0) == "STOP"
    assert judge(scheduler, "easy-2", 200, 20.0) == "CONTINUE", "it has passed this rung already"
    assert judge(scheduler, "easy-4", 100, float("nan")) == "CONTINUE", "nan is the trainer's to judge"
    assert judge(scheduler, "easy-4", 100, None) == "CONTINUE"


def test_asha_asks_again_of_a_trial_that_is_back() -> None:
    scheduler = asha()
    scheduler.remember("easy-0", [Evaluation(100, 10.0)])
    assert judge(scheduler, "easy-0", 100, 0.0) == "CONTINUE"


def test_the_median_rule_compares_within_a_scenario() -> None:
    rule = stopping(Scheduler.MEDIAN)
    for index in range(3):
        rule.remember(f"easy-{index}", [Evaluation(100, 10.0 * index), Evaluation(200, 10.0 * index)])
    assert judge(rule, "hard-0", 100, 1.0) == "CONTINUE"
    assert judge(rule, "easy-8", 100, 11.0) == "CONTINUE", "the median of 0, 10 and 20 is 10"
    assert judge(rule, "easy-9", 100, 9.0) == "STOP"
    assert "median: score 9 at 100 steps" in rule.reasons["easy-9"]


def test_the_median_rule_goes_on_from_recorded_evaluations() -> None:
    """A trial that reported first, before there was a median, is not judged by those that came after."""
    rule = stopping(Scheduler.MEDIAN)
    for index in range(3):
        rule.remember(f"easy-{index}", [Evaluation(100, 10.0 + index), Evaluation(200, 20.0)])
    rule.remember("easy-3", [Evaluation(100, 1.0), Evaluation(200, 5.0)])
    assert judge(rule, "easy-3", 300, 30.0) == "CONTINUE"
    assert judge(rule, "easy-4", 100, 1.0) == "STOP"


def test_a_population_that_is_resumed_waits_for_the_last() -> None:
    axis = Axis("k", AxisType.UNIFORM, 0.0, 1.0)
    for kind in (Scheduler.PBT, Scheduler.PB2):
        assert make_population(kind, "score", "max", Length(800, 8), [axis])._next_perturbation_sync == 100
        assert make_population(kind, "score", "max", Length(800, 8), [axis], 600)._next_perturbation_sync == 700


@pytest.mark.parametrize(
    ("axis", "moved", "value"),
    [
        (Axis("k", AxisType.LOGUNIFORM, 1e-4, 1e-2), -3.0, 1e-3),
        (Axis("k", AxisType.LOGUNIFORM, 1e-4, 1e-2), -1.0, 1e-2),
        (Axis("k", AxisType.QUNIFORM, 0.2, 1.0, q=0.2), 0.51, 0.6),
        (Axis("k", AxisType.INT, 1, 5), 2.6, 3),
        (Axis("k", AxisType.CHOICE, values=(1, 2)), 2, 2),
    ],
)
def test_a_value_that_pb2_has_moved_lies_on_its_axis(axis: Axis, moved: float, value: Any) -> None:
    assert arrived(axis, moved) == value
    assert arrived(axis, travelling(axis, value)) == pytest.approx(value)
