"""Tune's searchers and schedulers behind our plans, without a cluster."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from launcher import plan
from launcher.options import parse_sweep_options
from launcher.outcome import Evaluation
from launcher.plan import PlannedTrial, Study
from launcher.search import GroupedASHA, OptunaPlanner, draw_configurations, tune_domain
from sweeps.space import Axis, AxisType


@pytest.fixture(scope="module")
def study() -> Study:
    words = ["ALG=mappo", "SCENARIO=p-base,p-short", "SEARCH=optuna", "SEED=4"]
    return plan.read_study(parse_sweep_options(words), "sweep")[0]


class Book:
    """Stands for the sweep folder: what was written, and how each trial scored."""

    def __init__(self) -> None:
        self.trials: dict[str, PlannedTrial] = {}

    def write(self, trial: PlannedTrial) -> PlannedTrial:
        self.trials[trial.trial_id] = trial
        return trial

    def score(self, trial_id: str) -> float | None:
        return -abs(self.trials[trial_id].hyperparameters["system.actor_lr"] - 1e-3)


def planner(study: Study, book: Book, num_trials: int, known: list[PlannedTrial] | None = None) -> OptunaPlanner:
    numbers = [trial.number for trial in known or []]
    return OptunaPlanner(study, num_trials, [], numbers, book.write, book.score)


def play(found: OptunaPlanner, book: Book) -> list[PlannedTrial]:
    played = []
    for index in range(found.remaining):
        suggestion = found.suggest(f"tune-{index}")
        assert suggestion is not None
        played.append(book.trials[suggestion["trial_id"]])
        found.on_trial_complete(f"tune-{index}", {"episode_return": 0.0})
    assert found.suggest("one more") == "FINISHED"
    return played


def test_optuna_has_one_study_a_scenario_in_turn(study: Study) -> None:
    book = Book()
    played = play(planner(study, book, 6), book)
    assert [trial.number for trial in played] == list(range(6))
    assert [trial.base.scenario for trial in played] == ["p-base", "p-short"] * 3
    again = play(planner(study, Book(), 6), book)
    assert [trial.trial_id for trial in again] == [trial.trial_id for trial in played]


def test_optuna_learns_from_scores_and_from_earlier_trials(study: Study) -> None:
    book = Book()
    first = play(planner(study, book, 40), book)
    resumed = planner(study, book, 80, first)
    for trial in first:
        resumed.remember(trial.number, trial.hyperparameters, book.score(trial.trial_id))
    second = play(resumed, book)
    assert [trial.number for trial in second] == list(range(40, 80))
    assert not {trial.trial_id for trial in first} & {trial.trial_id for trial in second}
    scores = [[book.score(trial.trial_id) or 0.0 for trial in half] for half in (first, second)]
    assert sum(scores[1]) > sum(scores[0]), "the second half knows the first"


def test_optuna_runs_unfinished_trials_first(study: Study) -> None:
    book = Book()
    values = {axis.key: axis.extremes()[0] for axis in study.spec.axes}
    left = book.write(study.trial(0, study.bases[0], values))
    found = OptunaPlanner(study, 2, [left], [0], book.write, book.score)
    assert found.remaining == 2
    assert [trial.number for trial in play(found, book)] == [0, 1]


def test_optuna_is_told_of_failures(study: Study) -> None:
    book = Book()
    found = OptunaPlanner(study, 2, [], [], book.write, lambda trial_id: None)
    found.suggest("a")
    found.on_trial_complete("a", None, error=True)
    found.suggest("b")
    found.on_trial_complete("b", {"env_steps": 3})
    assert found.remaining == 0


def test_optuna_takes_lists_as_choices(study: Study) -> None:
    key = "network.actor_network.pre_torso.layer_sizes"
    axis = Axis(key, AxisType.CHOICE, values=([64, 64], [128]))
    spec = dataclasses.replace(study.spec, axes=(axis, *study.spec.axes))
    book = Book()
    played = play(planner(dataclasses.replace(study, spec=spec), book, 8), book)
    assert {tuple(trial.hyperparameters[key]) for trial in played} == {(64, 64), (128,)}


def test_domains() -> None:
    assert tune_domain(Axis("k", AxisType.INT, 1, 3)).upper == 4
    draws = draw_configurations([Axis("k", AxisType.INT, 1, 3)], 3, seed=0)
    assert sorted(draw["k"] for draw in draws) == [1, 2, 3]
    assert all(type(draw["k"]) is int for draw in draws)


class Trial:
    def __init__(self, trial_id: str) -> None:
        self.config = {"trial_id": trial_id}


def asha() -> GroupedASHA:
    scenarios = {"easy": (900, 9), "hard": (900, 9)}
    return GroupedASHA("score", "max", scenarios, lambda trial_id: trial_id.split("-")[0])


def test_whole_numbers_by_ratio_and_numbers_by_steps() -> None:
    sizes, rates = Axis("size", AxisType.LOGINT, 8, 512), Axis("rate", AxisType.QUNIFORM, 0.1, 0.7, q=0.2 / 2)
    drawn = draw_configurations([sizes, rates, Axis("rest", AxisType.UNIFORM, 0.0, 1.0)], 300, seed=0)
    values = [one["size"] for one in drawn]
    assert all(isinstance(value, int) for value in values)
    assert (min(values) < 10, max(values) <= 512, max(values) > 400) == (True, True, True)
    assert 0.4 < sum(value < 64 for value in values) / len(values) < 0.6, "64 is the middle of 8 to 512"
    assert {one["rate"] for one in drawn} == {0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7}


def judge(scheduler: GroupedASHA, trial_id: str, steps: int, score: Any) -> str:
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
