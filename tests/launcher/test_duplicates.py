"""A searcher that draws a configuration again: nothing is run twice, and everything still adds up."""

from __future__ import annotations

import dataclasses
import json
import os
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from jax_party.errors import RecordError
from jax_party.judging.seeds import FIRST_FRESH_SEED
from jax_party.trial.draws import DRAWS_FILE, Draws
from jax_party.trial.manifest import read_manifest
from jax_party.trial.states import State
from launcher import sweep
from launcher.ask.parsing import parse_sweep_options
from launcher.plan.compose import read_study
from launcher.plan.study import PlannedTrial, Study
from launcher.plan.sweep import Sweep
from launcher.search.searchers import Told
from launcher.search.suggested_trials import SuggestedTrials
from results import compare, load_index
from tests.launcher.drivers import Driver, kill_driver, start_driver, sweep_folder

SPACE = """
algorithms: [ff_ippo, ff_mappo]
num_samples: 12
objective: {metric: episode_return, mode: max}
scenarios: [p-base]
budget: {total_timesteps: 32768, num_evaluation: 4}
space:
  system.actor_lr: {type: choice, values: [1.0e-3, 2.0e-3]}
  system.ent_coef: {type: choice, values: [1.0e-3, 2.0e-3]}
"""
SEEDED = SPACE.replace("  system.ent_coef", "  system.seed: {type: choice, values: [3, 4]}\n  system.ent_coef").replace(
    "[1.0e-3, 2.0e-3]", "[1.0e-3]", 1
)
ENGINES = [("SEARCH=optuna",), ("SEARCH=optuna", "SAMPLER=nsga2"), ("SEARCH=hyperopt",)]


def make_study(tmp_path: Path, *words: str, space: str = SPACE) -> Study:
    file = tmp_path / "space.yaml"
    file.write_text(space)
    return read_study(parse_sweep_options(["ALG=mappo", f"SPACE={file}", "SEARCH=optuna", *words]), "sweep")[0]


class Book:
    """Stands for the sweep folder."""

    def __init__(self) -> None:
        self.trials: dict[str, PlannedTrial] = {}
        self.failed: set[str] = set()
        self.draws = Draws()
        self.kept = 0

    def write(self, trial: PlannedTrial) -> PlannedTrial:
        assert trial.trial_id not in self.trials, "run again bit for bit"
        self.trials[trial.trial_id] = trial
        return trial

    def reached(self, trial_id: str) -> Told | None:
        if trial_id in self.failed:
            return None
        return Told({}, {"episode_return": -self.trials[trial_id].hyperparameters["system.actor_lr"]}, 2)

    def keep(self) -> None:
        self.kept += 1


class Listening:
    """A suggested, and what its searchers are told of each draw."""

    def __init__(self, study: Study, book: Book, num_trials: int, workers: int = 1) -> None:
        groups = range(len(study.groups))
        self.suggested = SuggestedTrials(
            study, num_trials, groups, {}, (), book.write, book.reached, workers, book.draws, book.keep
        )
        self.told: dict[str, Any] = {}
        for searcher in self.suggested._searchers.values():
            self._listen(searcher)

    def _listen(self, searcher: Any) -> None:
        original: Callable[..., None] = searcher.on_trial_complete

        def on_trial_complete(key: str, result: Mapping[str, Any] | None = None, error: bool = False) -> None:
            self.told[key] = None if error else (result or {}).get("episode_return")
            original(key, result, error)

        searcher.on_trial_complete = on_trial_complete

    def play(self) -> None:
        count = 0
        while (suggestion := self.suggested.suggest(f"tune-{count}")) != "FINISHED":
            if suggestion is not None:
                self.suggested.on_trial_complete(f"tune-{count}", {"episode_return": 0.0})
            count += 1
            assert count < 1_000, "it goes on for ever"


@pytest.mark.parametrize("mode", ["grid", "axis", "mean"])
@pytest.mark.parametrize("words", ENGINES, ids=" ".join)
def test_seeds_of_a_repeated_configuration_are_the_next_ones(words: tuple[str, ...], mode: str, tmp_path: Path) -> None:
    study = make_study(tmp_path, *words, "SCENARIO=p-base,p-short", f"SCENARIO_MODE={mode}", "SEED=5", "SEEDS=3")
    book = Book()
    Listening(study, book, 12 * study.round_size).play()
    assert sorted(trial.number for trial in book.trials.values()) == list(range(12 * study.round_size))
    seeds: dict[str, list[int]] = {}
    for trial in sorted(book.trials.values(), key=lambda trial: trial.number):
        place = json.dumps([trial.base.scenario, trial.hyperparameters])
        seeds.setdefault(place, []).append(trial.seed)
        assert trial.config()["system"]["seed"] == trial.seed
    assert len(seeds) <= 8
    for of_place in seeds.values():
        assert of_place == [5 + 3 * repetition for repetition in range(len(of_place))]
    if mode == "mean":
        by_number = {trial.number: trial for trial in book.trials.values()}
        for number in range(0, len(by_number), 2):
            assert by_number[number].seed == by_number[number + 1].seed, "alike in every scenario"
    assert not book.draws.answered and not book.draws.left_out


@pytest.mark.parametrize("words", ENGINES, ids=" ".join)
def test_reused_draws_are_told_what_their_configuration_has_reached(words: tuple[str, ...], tmp_path: Path) -> None:
    study, book = make_study(tmp_path, *words, "DUPLICATES=reuse"), Book()
    found = Listening(study, book, 12)
    found.play()
    assert len(book.trials) <= 4
    assert len(book.trials) + len(book.draws.answered) == 12
    assert len(found.told) == 12
    assert None not in found.told.values()
    for number, (trial_id,) in book.draws.answered.items():
        told = book.reached(trial_id)
        assert told is not None and told.metrics is not None
        assert found.told[f"configuration-{number}"] == told.metrics["episode_return"]
    assert 1 <= book.kept <= 12


def test_a_draw_of_a_trial_that_is_running_is_answered_when_that_ends(tmp_path: Path) -> None:
    study, book = make_study(tmp_path, "DUPLICATES=reuse"), Book()
    found = Listening(study, book, 200, workers=3)
    running = [name for name in map(str, range(40)) if isinstance(found.suggested.suggest(name), dict)]
    assert 1 <= len(running) <= 3
    waiting = list(found.suggested._unanswered)
    assert len(waiting) <= 3, "a searcher that knows nothing is not asked for ever"
    assert not set(found.told) & {one.key for one in waiting}
    for name in running:
        book.failed |= {found.suggested._running[name][1].trial_id}
        found.suggested.on_trial_complete(name, None, error=True)
    assert not found.suggested._unanswered
    assert {found.told[one.key] for one in waiting} <= {None}, "as failed as the trial"
    found.play()
    assert len(book.trials) <= 4 and len(found.told) == 200


@pytest.mark.parametrize("words", ENGINES, ids=" ".join)
def test_a_space_whose_draws_are_refused_ends(words: tuple[str, ...], tmp_path: Path) -> None:
    study, book = make_study(tmp_path, *words, "DUPLICATES=refuse", "SCENARIO=p-base,p-short"), Book()
    found = Listening(study, book, 24)
    found.play()
    of_group = Counter(trial.base.scenario for trial in book.trials.values())
    assert all(count <= 4 for count in of_group.values())
    assert {name: len(left) for name, left in book.draws.left_out.items()} == {
        f"ff_mappo {name}": 12 - count for name, count in of_group.items()
    }
    assert book.draws.numbers == set(range(24)) - {trial.number for trial in book.trials.values()}
    assert found.suggested.remaining == 0
    (line,) = book.draws.describe()
    assert "exhausted" in line and "fewer of ff_mappo p-base" in line and "\n" not in line
    if words == ENGINES[0]:
        assert of_group == {"p-base": 4, "p-short": 4}, "what nothing is heard of keeps draws apart"


def test_where_the_seed_is_an_axis_or_none_is_left_draws_are_answered(tmp_path: Path) -> None:
    study, book = make_study(tmp_path, space=SEEDED), Book()
    Listening(study, book, 12).play()
    assert len(book.trials) <= 4 and len(book.trials) + len(book.draws.answered) == 12
    assert {trial.seed for trial in book.trials.values()} <= {3, 4}
    study = dataclasses.replace(make_study(tmp_path), seed=FIRST_FRESH_SEED - 2)
    book = Book()
    Listening(study, book, 30).play()
    assert {trial.seed for trial in book.trials.values()} == {FIRST_FRESH_SEED - 2, FIRST_FRESH_SEED - 1}
    assert len(book.trials) <= 8 and len(book.trials) + len(book.draws.answered) == 30


def test_what_draws_left_is_kept_and_checked(tmp_path: Path) -> None:
    assert Draws.read(tmp_path) == Draws()
    draws = Draws({4: ("a", "b"), 8: ("c", "d")})
    draws.leave_out("ff_mappo", [10, 11])
    draws.write(tmp_path)
    assert Draws.read(tmp_path) == draws
    assert draws.numbers == {4, 5, 8, 9, 10, 11} and len(draws) == 6
    draws.forget_missing({"a", "b", "c"})
    assert draws.answered == {4: ("a", "b")}
    assert draws.describe()[0].startswith("1 draw repeated")
    (tmp_path / DRAWS_FILE).write_text("{")
    with pytest.raises(RecordError, match=r"draws.json: cannot be read .* restore it, or remove it"):
        Draws.read(tmp_path)


def test_an_unknown_answer_to_duplicates_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert sweep.main(["ALG=mappo", f"OUT={tmp_path / 'out'}", "DUPLICATES=resue"]) == sweep.BAD_INPUT
    error = capsys.readouterr().err
    assert len(error.splitlines()) == 1
    assert "DUPLICATES: unknown 'resue'; did you mean reuse? (known: seeds, reuse, refuse)" in error
    assert not (tmp_path / "out").exists()


# -- Real sweeps of the synthetic experiment ---------------------------------------------------------------------------


def begin(tmp_path: Path, *words: str, space: str = SPACE) -> Driver:
    file = tmp_path / "space.yaml"
    file.write_text(space)
    given = ("ALG=mappo", f"SPACE={file}", f"OUT={tmp_path / 'out'}", "SEED=1", "SEARCH=optuna", *words)
    return start_driver(given, tmp_path / "log", environment())


def environment() -> dict[str, str]:
    return {**os.environ, "JAX_PARTY_EXPERIMENT": "tests.launcher.synthetic:Synthetic"}


def go_on(tmp_path: Path, *words: str) -> str:
    driver = start_driver(words, tmp_path / "log-2", environment())
    assert driver.wait() == 0, driver.output()
    return driver.output()


def ended(out: Path) -> int:
    return sum('"COMPLETE"' in path.read_text() for path in out.glob("*/*/*/*/record.json"))


def check(folder: Path, policy: str, output: str) -> None:
    """What holds of a sweep of twelve samples in a space of four configurations, however it came to its end."""
    index, found = load_index(folder), Sweep.read(folder)
    assert read_manifest(folder).duplicates == policy
    assert set(index["state"]) == {"COMPLETE"}
    assert not index.duplicated(["configuration", "scenario", "seed"]).any()
    assert not index["trial_id"].str.contains("-r").any()
    assert not found.searching and found.remaining == 0 and found.planned == len(index)
    if policy == "seeds":
        assert len(index) == 12
        assert not found.draws.answered and not found.draws.left_out
        table = compare(folder, folder, by="configuration")
        seeds = index.groupby("configuration")["seed"].nunique()
        assert dict(zip(table["configuration_a"], table["n_a"], strict=True)) == seeds.to_dict()
        return
    assert len(index) <= 4 and len(index) + len(found.draws) == 12
    assert f"{len(index)} COMPLETE" in output and "PENDING" not in output.split("Sweep ff_mappo")[-1]
    if policy == "reuse":
        assert f"{12 - len(index)} draws repeated a configuration" in output
    else:
        assert "The space counts as exhausted" in output and f"{12 - len(index)} fewer of ff_mappo p-base" in output


@pytest.mark.parametrize(
    "policy", ["seeds", *(pytest.param(policy, marks=pytest.mark.slow) for policy in ("reuse", "refuse"))]
)
def test_nothing_is_run_twice_also_after_a_kill(policy: str, tmp_path: Path) -> None:
    driver = begin(tmp_path, "SAMPLES=12", "WORKERS=1", f"DUPLICATES={policy}")
    out = tmp_path / "out"
    driver.until(lambda: ended(out) >= 2)
    kill_driver(driver)
    driver.assert_nothing_left()
    folder = sweep_folder(out)
    assert Sweep.read(folder).searching
    check(folder, policy, go_on(tmp_path, "resume", str(folder)))
    if policy == "reuse":
        before = load_index(folder)["trial_id"].tolist()
        again = go_on(tmp_path, "resume", str(folder))
        assert "nothing left to run" in again and f"{12 - len(before)} draws repeated" in again
        longer = go_on(tmp_path, "extend", str(folder), "SAMPLES=3")
        assert len(load_index(folder)) <= 4 and f"{15 - len(load_index(folder))} draws repeated" in longer
        assert load_index(folder)["trial_id"].tolist()[: len(before)] == before


@pytest.mark.slow
@pytest.mark.parametrize("policy", ["seeds", "reuse", "refuse"])
def test_in_one_go(policy: str, tmp_path: Path) -> None:
    driver = begin(tmp_path, "SAMPLES=12", "WORKERS=2", f"DUPLICATES={policy}")
    assert driver.wait() == 0, driver.output()
    check(sweep_folder(tmp_path / "out"), policy, driver.output())


@pytest.mark.slow
def test_a_budget_of_trials_counts_trials_not_draws(tmp_path: Path) -> None:
    driver = begin(tmp_path, "SAMPLES=12", "WORKERS=1", "DUPLICATES=reuse", "BUDGET=trials=2")
    assert driver.wait() == 0, driver.output()
    folder = sweep_folder(tmp_path / "out")
    found = Sweep.read(folder)
    assert [record.state for record in found.records.values()] == [State.COMPLETE] * 2
    assert "The budget is spent (trials 2 of 2)" in driver.output()
    check(folder, "reuse", go_on(tmp_path, "resume", str(folder), "BUDGET=trials=12"))


@pytest.mark.slow
@pytest.mark.parametrize("policy", ["reuse", "refuse"])
def test_hyperband_goes_on_with_fewer_than_its_brackets_hold(policy: str, tmp_path: Path) -> None:
    words = ("SAMPLES=12", "SEARCH=bohb", "WORKERS=2", "EVALUATIONS=8", "TIMESTEPS=65536", f"DUPLICATES={policy}")
    driver = begin(tmp_path, *words)
    assert driver.wait() == 0, driver.output()
    folder = sweep_folder(tmp_path / "out")
    index, found = load_index(folder), Sweep.read(folder)
    assert len(index) <= 4 and len(index) + len(found.draws) == 12
    assert set(index["state"]) <= {"COMPLETE", "PRUNED"}
