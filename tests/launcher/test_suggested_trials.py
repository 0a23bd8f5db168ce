"""Tune's searchers behind our plans, without a cluster: what they are told, and what becomes of what they give."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence
from pathlib import Path

import pytest

from launcher.ask.parsing import parse_sweep_options
from launcher.plan.axes import draw_configurations
from launcher.plan.compose import read_study
from launcher.plan.study import PlannedTrial, Study
from launcher.plan.write import draw_plan
from launcher.search.searchers import Told
from launcher.search.suggested_trials import Configuration, SuggestedTrials
from results.analysis.space import _distribution
from sweeps.axes import Axis, AxisType

SPACE = Path(__file__).parent / "data" / "space.yaml"
WORDS = ("ALG=mappo", "SCENARIO=p-base,p-short", "SEED=4", f"SPACE={SPACE}")
RANGES = ("OVERRIDES=system.clip_eps=0.2 system.gamma=0.99",)
TWO = ("OVERRIDES=system.clip_eps=0.2 system.gamma=0.99 system.critic_lr=0.001 system.gae_lambda=0.95",)


def make_study(*words: str) -> Study:
    return read_study(parse_sweep_options([*WORDS, *words]), "sweep")[0]


class Book:
    """Stands for the sweep folder: what was written, and what each trial reached."""

    def __init__(self) -> None:
        self.trials: dict[str, PlannedTrial] = {}
        self.failed: set[str] = set()

    def write(self, trial: PlannedTrial) -> PlannedTrial:
        self.trials[trial.trial_id] = trial
        return trial

    def reached(self, trial_id: str) -> Told | None:
        if trial_id in self.failed:
            return None
        values = self.trials[trial_id].hyperparameters
        miss = abs(values["system.actor_lr"] - 1e-3)
        return Told({}, {"episode_return": -miss, "equality": -abs(values["system.actor_lr"] - 2e-3)}, 8)

    def score(self, trial: PlannedTrial) -> float:
        told = self.reached(trial.trial_id)
        assert told is not None and told.metrics is not None
        return float(told.metrics["episode_return"] or 0.0)


def suggested(
    study: Study, book: Book, num_trials: int, known: Sequence[Configuration] = (), history: Sequence[Told] = (),
    max_concurrent: int = 99,
) -> SuggestedTrials:  # fmt: skip
    groups = range(len(study.groups))
    told = dict.fromkeys(groups, history)
    return SuggestedTrials(study, num_trials, groups, told, known, book.write, book.reached, max_concurrent)


def play(found: SuggestedTrials, book: Book) -> list[PlannedTrial]:
    played = []
    for index in range(found.remaining):
        suggestion = found.suggest(f"tune-{index}")
        assert suggestion is not None
        played.append(book.trials[suggestion["trial_id"]])
        found.on_trial_complete(f"tune-{index}", {"episode_return": 0.0})
    assert found.suggest("one more") == "FINISHED"
    return played


def ended(study: Study, played: Sequence[PlannedTrial]) -> list[Configuration]:
    known: dict[tuple[int, int], list[PlannedTrial]] = {}
    for trial in played:
        configuration, group = study.place(trial.number)
        known.setdefault((group, study.first_number(configuration, group)), []).append(trial)
    return [
        Configuration(group, number, of[0].hyperparameters, of, ended={trial.trial_id for trial in of})
        for (group, number), of in known.items()
    ]


SEARCHERS = [
    ("SEARCH=optuna",),
    ("SEARCH=optuna", "SAMPLER=cmaes"),
    ("SEARCH=optuna", "SAMPLER=nsga2"),
    ("SEARCH=hyperopt",),
]


@pytest.mark.parametrize("words", [words for words in SEARCHERS if "SAMPLER=nsga2" not in words], ids=" ".join)
def test_searchers_learn_from_scores_and_from_earlier_trials(words: tuple[str, ...]) -> None:
    study, book = make_study(*words, *RANGES), Book()
    first = play(suggested(study, book, 60), book)
    assert [trial.number for trial in first] == list(range(60))
    assert [trial.base.scenario for trial in first] == ["p-base", "p-short"] * 30
    again = play(suggested(study, Book(), 60), book)
    assert [trial.trial_id for trial in again] == [trial.trial_id for trial in first], "seeded"
    second = play(suggested(study, book, 120, ended(study, first)), book)
    assert [trial.number for trial in second] == list(range(60, 120))
    assert not {trial.trial_id for trial in first} & {trial.trial_id for trial in second}
    halves = [sum(map(book.score, half)) for half in (first, second)]
    assert halves[1] > halves[0], "the second half knows the first"


def test_what_earlier_sweeps_reached_is_told_but_not_played() -> None:
    study, book = make_study("SEARCH=optuna", *RANGES), Book()
    good = [0.8e-3, 0.9e-3, 1.0e-3, 1.1e-3, 1.2e-3]
    bad = [1e-4, 2e-4, 2.2e-3, 2.5e-3, 2.9e-3]
    rest = {"system.critic_lr": 1e-3, "system.ent_coef": 1e-3, "system.gae_lambda": 0.95}
    history = [
        Told({"system.actor_lr": rate, **rest}, {"episode_return": -abs(rate - 1e-3)}) for rate in (*good, *bad) * 2
    ]
    cold, warm = Book(), Book()
    play(suggested(study, cold, 16), cold)
    played = play(suggested(study, warm, 16, history=history), warm)
    assert len(played) == 16
    assert sum(map(warm.score, played)) > sum(map(cold.score, cold.trials.values()))
    assert book.trials == {}


def test_unfinished_trials_come_first() -> None:
    study, book = make_study("SEARCH=optuna"), Book()
    values = {axis.name: axis.extremes()[0] for axis in study.groups[0].axes}
    (left,) = study.trials_of(study.groups[0], 0, values)
    found = suggested(study, book, 2, [Configuration(0, 0, values, [book.write(left)])])
    assert found.remaining == 2
    played = play(found, book)
    assert [trial.number for trial in played] == [0, 1]
    assert played[0] is left


def test_cma_es_goes_on_beside_choices() -> None:
    study, book = make_study("SEARCH=optuna", "SAMPLER=cmaes"), Book()
    first = play(suggested(study, book, 24), book)
    second = play(suggested(study, book, 32, ended(study, first)), book)
    assert [trial.number for trial in second] == list(range(24, 32))


def test_a_trial_that_crashes_is_told_as_failed_though_its_record_says_so_later() -> None:
    study, book = make_study("SEARCH=optuna"), Book()
    found, told = suggested(study, book, 2), list[Told]()
    found._tell = lambda searcher, key, encoded, what: told.append(what)  # type: ignore[method-assign]
    found.suggest("a")
    found.on_trial_complete("a", None, error=True)
    assert [what.metrics for what in told] == [None]


@pytest.mark.parametrize("words", SEARCHERS, ids=" ".join)
def test_searchers_are_told_of_failures(words: tuple[str, ...]) -> None:
    study, book = make_study(*words), Book()
    found = suggested(study, book, 6)
    for name in "abcdef":
        book.failed.add(found.suggest(name)["trial_id"])
        found.on_trial_complete(name, None, error=True)
    assert found.remaining == 0


@pytest.mark.parametrize("type_", AxisType)
def test_every_type_of_axis_can_be_drawn_and_judged(type_: AxisType) -> None:
    """A type that is missing in one of the places would be drawn as another, or left out of importances."""
    if type_.is_range:
        axis = Axis("system.ppo_epochs", type_, 2, 8, q=2 if type_ is AxisType.QUNIFORM else None)
    else:
        axis = Axis("system.ppo_epochs", type_, values=(1, 2, 8))
    for values in draw_configurations([axis], 4, seed=0):
        assert 1 <= values[axis.name] <= 8
        if type_.is_range:
            assert axis.nearest(values[axis.name]) == values[axis.name]
    assert _distribution(axis.to_mapping()) is not None


def test_lists_are_choices() -> None:
    key = "network.actor_network.pre_torso.layer_sizes"
    axis = Axis(key, AxisType.CHOICE, values=([64, 64], [128]))
    study = make_study("SEARCH=optuna")
    study = dataclasses.replace(study, spec=dataclasses.replace(study.spec, axes=(axis, *study.spec.axes)))
    book = Book()
    played = play(suggested(study, book, 8), book)
    assert {tuple(trial.hyperparameters[key]) for trial in played} == {(64, 64), (128,)}


def test_no_more_run_at_a_time_than_may() -> None:
    study, book = make_study("SEARCH=optuna"), Book()
    found = suggested(study, book, 4, max_concurrent=2)
    assert found.suggest("a") and found.suggest("b")
    assert found.suggest("c") is None
    found.on_pause("a")
    assert found.suggest("c"), "one that is paused does not count"
    assert found.suggest("d") is None
    found.on_trial_complete("b", {})
    assert found.suggest("d")


def test_a_configuration_is_played_in_every_scenario_and_told_by_its_mean() -> None:
    study, book = make_study("SEARCH=optuna", "SCENARIO_MODE=mean"), Book()
    assert [group.size for group in study.groups] == [2]
    found = suggested(study, book, 8)
    trials = [book.trials[found.suggest(name)["trial_id"]] for name in "ab"]
    assert [trial.base.scenario for trial in trials] == ["p-base", "p-short"]
    assert trials[0].hyperparameters == trials[1].hyperparameters
    told: list[Told] = []
    found._tell = lambda searcher, key, encoded, what: told.append(what)  # type: ignore[method-assign]
    reached = {trials[0].trial_id: 1.0, trials[1].trial_id: 4.0}
    book.reached = lambda trial_id: Told({}, {"episode_return": reached[trial_id]}, 8)  # type: ignore[method-assign]
    found._reached = book.reached
    found.on_trial_complete("a", {})
    assert not told
    found.on_trial_complete("b", {})
    assert [what.metrics for what in told] == [{"episode_return": 2.5}]


def test_a_scenario_is_drawn_with_the_configuration() -> None:
    study, book = make_study("SEARCH=optuna", "SCENARIO_MODE=axis"), Book()
    played = play(suggested(study, book, 12), book)
    assert {trial.base.scenario for trial in played} == {"p-base", "p-short"}
    assert all("scenario" not in trial.hyperparameters for trial in played)
    drawn = draw_plan(make_study("SCENARIO_MODE=axis"), 12)
    assert len(drawn) == 12
    assert {trial.base.scenario for trial in drawn} == {"p-base", "p-short"}


def test_constraints_are_told_to_the_searcher() -> None:
    """Where the best lies beyond a bound, draws gather within it."""
    bounded = make_study("SEARCH=optuna", "CONSTRAINTS=max_equality=-0.0015", *TWO)
    free, book, other = make_study("SEARCH=optuna", *TWO), Book(), Book()
    within = [
        sum(abs(trial.hyperparameters["system.actor_lr"] - 2e-3) >= 1.5e-3 for trial in play(found, of)[80:])
        for found, of in ((suggested(bounded, book, 160), book), (suggested(free, other, 160), other))
    ]
    assert within[0] > within[1] + 20


def test_several_objectives_gather_on_their_front() -> None:
    """Between 1e-3 and 2e-3 no learning rate is better than another in both."""
    study, book = make_study("SEARCH=optuna", "METRIC=episode_return,equality", *TWO), Book()
    assert study.sampler == "nsga2"
    played = play(suggested(study, book, 160), book)
    rates = [trial.hyperparameters["system.actor_lr"] for trial in played]
    resumed = play(suggested(study, book, 200, ended(study, played)), book)
    late = [trial.hyperparameters["system.actor_lr"] for trial in resumed]
    on_front = [sum(1e-3 <= rate <= 2e-3 for rate in part) for part in (rates[:40], rates[120:], late)]
    assert on_front[1] > on_front[0]
    assert on_front[2] > on_front[0], "it goes on from what it knew"


@pytest.mark.parametrize("mode", ["grid", "mean", "axis"])
def test_numbers_go_round_by_groups(mode: str) -> None:
    study = make_study("ALG=mappo,ippo", f"SCENARIO_MODE={mode}")
    places = [study.place(number) for number in range(2 * study.round_size)]
    assert places == sorted(places)
    for number, (configuration, group) in enumerate(places):
        first = study.first_number(configuration, group)
        assert first <= number < first + study.groups[group].size
    assert len(list(itertools.groupby(places))) == 2 * len(study.groups)


@pytest.mark.parametrize("known", [False, True], ids=["at once", "after a resume"])
@pytest.mark.parametrize("search", ["optuna", "hyperopt"])
def test_what_was_stopped_early_is_not_told_as_if_it_were_complete(search: str, known: bool) -> None:
    """Curves fall: what was cut while it stood high is not to be searched near."""
    study = make_study(f"SEARCH={search}", "SCENARIO=p-base", *RANGES)

    class Falling(Book):
        """Trials of small rates are stopped early, far above what any trial ends at."""

        prunes = True

        def reached(self, trial_id: str) -> Told:
            rate = self.trials[trial_id].hyperparameters["system.actor_lr"]
            cut = rate < 5e-4
            value = 100.0 - rate if cut else -abs(rate - 1e-3)
            return Told({}, {"episode_return": value}, 2 if cut else 8, pruned=cut and self.prunes)

    class AsIfComplete(Falling):
        prunes = False

    counts = []
    for book in (Falling(), AsIfComplete()):
        found = suggested(study, book, 60)
        played = play(found, book)
        if known:
            played = play(suggested(study, book, 100, ended(study, played)), book)
        counts.append(sum(trial.hyperparameters["system.actor_lr"] < 5e-4 for trial in played[-40:]))
    assert counts[0] < 10 < 25 < counts[1], counts
