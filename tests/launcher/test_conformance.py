"""Every searcher with every scheduler that it goes with, in real sweeps of a cheap experiment with a known optimum; and
those that do not go together, refused with the reason.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path

import pandas as pd
import pytest

from jax_party.trial.folder import read_config, update_record
from jax_party.trial.manifest import read_manifest
from jax_party.trial.metrics import read_metrics
from jax_party.trial.record import TrialRecord
from jax_party.trial.states import State
from launcher import sweep
from launcher.plan.sweep import Sweep
from results import load_index
from tests.launcher.drivers import start_driver, sweep_folder
from tests.launcher.synthetic import cooperation, gain

SPACE = """
algorithms: [ff_ippo, ff_mappo]
num_samples: 16
objective: {metric: episode_return, mode: max}
scenarios: [p-base]
budget: {total_timesteps: 65536, num_evaluation: 8}
space:
  system.actor_lr: {type: loguniform, low: 1.0e-4, high: 1.0e-2}
  system.ent_coef: {type: loguniform, low: 1.0e-4, high: 1.0e-2}
"""
GRID = SPACE.replace("{type: loguniform, low: 1.0e-4, high: 1.0e-2}", "{type: grid, values: [1.0e-4, 1.0e-3, 1.0e-2]}")
PERIODS = 8
GOOD = 0.75 * PERIODS

GO_TOGETHER = [
    *((f"SEARCH=random SCHEDULER={scheduler}") for scheduler in ("fifo", "asha", "median", "hyperband", "pbt", "pb2")),
    *((f"SEARCH=grid SCHEDULER={scheduler}") for scheduler in ("fifo", "asha", "median", "hyperband")),
    *((f"SEARCH=optuna SCHEDULER={scheduler}") for scheduler in ("fifo", "asha", "median")),
    *((f"SEARCH=optuna SAMPLER={sampler}") for sampler in ("cmaes", "nsga2", "gp")),
    *((f"SEARCH=hyperopt SCHEDULER={scheduler}") for scheduler in ("fifo", "asha", "median")),
    "SEARCH=bohb SCHEDULER=hyperband",
]
QUICK = ("SEARCH=random SCHEDULER=pbt",)


def play(tmp_path: Path, *words: str, space: str = SPACE, **environment: str) -> tuple[Path, pd.DataFrame]:
    """A sweep of the synthetic experiment; its folder and its index."""
    file = tmp_path / "space.yaml"
    file.write_text(space)
    given = ("ALG=mappo", f"SPACE={file}", f"OUT={tmp_path / 'out'}", "SEED=1", *words)
    stand_in = {"JAX_PARTY_EXPERIMENT": "tests.launcher.synthetic:Synthetic", **environment}
    driver = start_driver(given, tmp_path / "log", {**os.environ, **stand_in})
    assert driver.wait(500.0) == 0, driver.output()
    driver.assert_nothing_left()
    folder = sweep_folder(tmp_path / "out")
    return folder, load_index(folder)


@pytest.mark.parametrize(
    "words", [pytest.param(words, marks=[] if words in QUICK else pytest.mark.slow) for words in GO_TOGETHER]
)
def test_it_finds_the_optimum(words: str, tmp_path: Path) -> None:
    if "gp" in words:
        pytest.importorskip("torch", reason="SAMPLER=gp needs the extra `gp`")
    kind = dict(word.split("=") for word in words.split())
    scheduler = kind.get("SCHEDULER", "fifo")
    population = scheduler in ("pbt", "pb2")
    folder, index = play(
        tmp_path, *words.split(), *(["SAMPLES=6"] if population else []), space=GRID if "grid" in words else SPACE
    )
    assert len(index) == (6 if population else 9 if "grid" in words else 16)
    assert index["trial_id"].is_unique
    assert set(index["state"]) <= {"COMPLETE", "PRUNED"}
    assert index["best.episode_return"].max() >= (PERIODS - 1e-9 if "grid" in words else GOOD)
    found = Sweep.read(folder).records.values()
    pruned = [record for record in found if record.state is State.PRUNED]
    assert bool(pruned) == (scheduler in ("asha", "median", "hyperband"))
    assert all((record.error or "").startswith(f"{scheduler}: ") for record in pruned)
    for record in found:
        check_trial(folder, record, {one.trial_id: one for one in found})
    if population:
        assert index["lineage"].notna().sum() >= 2
        assert index["objective.value"].min() > GOOD / 2, "the weak have gone on from the good"
    else:
        assert index["lineage"].isna().all()


@pytest.mark.slow
@pytest.mark.parametrize("scheduler", ["pbt", "pb2"])
def test_a_population_of_a_seed_is_the_same_again(scheduler: str, tmp_path: Path) -> None:
    """Who takes over whom, when, and with which values; with one worker or two, which come in another order."""

    def lived(place: str, workers: int) -> list[tuple[object, ...]]:
        (tmp_path / place).mkdir()
        words = ("SEARCH=random", f"SCHEDULER={scheduler}", "SAMPLES=6", f"WORKERS={workers}")
        folder, _ = play(tmp_path / place, *words)
        found = sorted(Sweep.read(folder).records.values(), key=lambda record: record.number)
        numbers = {record.trial_id: record.number for record in found}
        return [
            (record.number, dict(record.hyperparameters),
             [(taken.step, numbers[taken.source], dict(taken.hyperparameters)) for taken in record.lineage])
            for record in found
        ]  # fmt: skip

    first = lived("first", 2)
    assert any(taken for _, _, taken in first)
    assert lived("again", 2) == first
    assert lived("alone", 1) == first


def check_trial(folder: Path, record: TrialRecord, others: Mapping[str, TrialRecord]) -> None:
    """Each evaluation is what its values give, on from what the trial had learned or taken over."""
    rows = read_metrics(folder / record.trial_id)
    assert [row["evaluation"] for row in rows] == list(range(1, len(rows) + 1))
    values = [taken.hyperparameters for taken in record.lineage] + [record.hyperparameters]
    config = read_config(folder / record.trial_id)
    assert config["system"]["actor_lr"] == record.hyperparameters["system.actor_lr"]
    learned, part = 0.0, 0
    taken_at = {taken.step: taken for taken in record.lineage}
    for row in rows:
        before = row["step"] - 8192
        if before in taken_at and before:
            taken, part = taken_at[before], part + 1
            (of_source,) = (one for one in read_metrics(folder / taken.source) if one["step"] == taken.source_step)
            learned = of_source["evaluate"]["episode_return"]
            assert others[taken.source].trial_id != record.trial_id
        learned += gain(values[part]["system.actor_lr"], values[part]["system.ent_coef"], record.scenario)
        assert math.isclose(row["evaluate"]["episode_return"], learned, rel_tol=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("scheduler", ["asha", "median", "hyperband", "pbt"])
def test_a_trial_that_diverges_holds_nobody_up(scheduler: str, tmp_path: Path) -> None:
    _, index = play(tmp_path, f"SCHEDULER={scheduler}", "SAMPLES=6", JAX_PARTY_DIVERGE=json.dumps([0, 5]))
    assert sorted(index.loc[index["state"] == "FAILED", "number"]) == [0, 5]
    assert set(index["state"]) <= {"COMPLETE", "PRUNED", "FAILED"}


@pytest.mark.slow
@pytest.mark.parametrize("words", ["SEARCH=optuna SCHEDULER=asha", "SCHEDULER=pbt", "SEARCH=bohb", "SCHEDULER=asha"])
def test_packed_and_in_two_algorithms_and_scenarios(words: str, tmp_path: Path) -> None:
    given = ("ALG=mappo,ippo", "SCENARIO=p-base,p-no-rank", "SAMPLES=5", "PACK=2", *words.split())
    _, index = play(tmp_path, *given)
    assert len(index) == 20
    assert index.groupby(["algorithm", "scenario"]).size().tolist() == [5] * 4
    assert set(index["state"]) <= {"COMPLETE", "PRUNED"}
    by_place = index.set_index("trial_id")[["algorithm", "scenario"]].apply(tuple, axis=1)
    for _, row in index[index["lineage"].notna()].iterrows():
        for taken in json.loads(row["lineage"]):
            assert by_place[taken["source"]] == (row["algorithm"], row["scenario"])


def test_one_configuration_for_all_scenarios_under_a_constraint(tmp_path: Path) -> None:
    """The best learning rates of the two scenarios are 1e-3 and 3e-3: their mean is best between."""
    given = ("SCENARIO=p-base,p-no-rank", "SCENARIO_MODE=mean", "SEARCH=optuna", "SAMPLES=24")
    folder, index = play(tmp_path, *given, "CONSTRAINTS=min_cooperation_rate=0.6", "EVALUATIONS=2")
    assert len(index) == 48
    sizes = index.groupby("configuration")["scenario"].nunique()
    assert sizes.tolist() == [2] * 24
    for _, of_configuration in index.groupby("configuration"):
        mean = of_configuration["objective.value"].mean()
        assert of_configuration["objective.over_scenarios"].tolist() == pytest.approx([mean, mean])
        able = cooperation(of_configuration["system.ent_coef"].iloc[0]) >= 0.6
        assert of_configuration["objective.feasible"].tolist() == [able, able]
    best = index[index["objective.feasible"]].nlargest(1, "objective.over_scenarios").iloc[0]
    assert 6e-4 < best["system.actor_lr"] < 5e-3
    output = (tmp_path / "log").read_text()
    assert "(mean of 2 scenarios)" in output and best["trial_id"] in output
    assert read_manifest(folder).objective.constraints == {"min_cooperation_rate": 0.6}


@pytest.mark.slow
def test_several_objectives_leave_their_front_and_warm_start_and_extension(tmp_path: Path) -> None:
    given = ("SEARCH=optuna", "METRIC=episode_return,equality", "SAMPLES=12", "EVALUATIONS=2")
    folder, index = play(tmp_path, *given)
    points = index[["objective.value", "final.equality"]].to_numpy()
    for point, on_front in zip(points, index["objective.pareto"], strict=True):
        beaten = ((points >= point).all(axis=1) & (points > point).any(axis=1)).any()
        assert on_front == (not beaten)
    assert 1 <= index["objective.pareto"].sum() < 12
    environment = {**os.environ, "JAX_PARTY_EXPERIMENT": "tests.launcher.synthetic:Synthetic"}
    driver = start_driver(("extend", str(folder), "SAMPLES=3"), tmp_path / "log-2", environment)
    assert driver.wait() == 0, driver.output()
    longer = load_index(folder)
    assert len(longer) == 15
    assert longer["trial_id"].tolist()[:12] == index["trial_id"].tolist()
    again = ("ALG=mappo", f"SPACE={tmp_path / 'space.yaml'}", *given, f"FROM={folder}", f"OUT={tmp_path / 'warm'}")
    driver = start_driver((*again, "SAMPLES=2"), tmp_path / "log-3", environment)
    assert driver.wait() == 0, driver.output()
    assert f"15 trials of {folder}" in driver.output()


REFUSED = [
    ("SEARCH=optuna SCHEDULER=hyperband", "judges a bracket of trials together"),
    ("SEARCH=hyperopt SCHEDULER=hyperband", "judges a bracket of trials together"),
    ("SEARCH=bohb SCHEDULER=asha", "SEARCH=bohb learns from the brackets of hyperband"),
    ("SEARCH=bohb SCHEDULER=fifo", "SEARCH=bohb learns from the brackets of hyperband"),
    ("SEARCH=optuna SCHEDULER=pbt", "it would learn of the wrong ones"),
    ("SEARCH=bohb SCHEDULER=pb2", "SEARCH=bohb learns from the brackets of hyperband"),
    ("SEARCH=random SAMPLER=gp", "SAMPLER=gp: is Optuna's"),
    ("SEARCH=hyperopt METRIC=episode_return,equality", "SEARCH=hyperopt looks for one objective"),
    ("SEARCH=optuna SAMPLER=cmaes METRIC=episode_return,equality", "SAMPLER=cmaes looks for one objective"),
    ("METRIC=episode_return,equality SCHEDULER=asha", "SCHEDULER=asha compares trials by one objective"),
    ("CONSTRAINTS=min_equality=0.5 SCHEDULER=median", "would favour those that break them"),
    ("CONSTRAINTS=min_equality=0.5 SEARCH=hyperopt", "SEARCH=hyperopt knows none"),
    ("CONSTRAINTS=min_equality=0.5 SEARCH=optuna SAMPLER=cmaes", "SAMPLER=cmaes knows none"),
    ("CONSTRAINTS=min_equallity=0.5", "did you mean equality"),
    ("CONSTRAINTS=equality=0.5", "expected min_ or max_ and a metric"),
    ("CONSTRAINTS=min_equality=much", "expected a finite number, got 'much'"),
    ("CONSTRAINTS=min_equality", "expected different bounds"),
    ("METRIC=episode_return,episode_return", "expected different names"),
    ("METRIC=episode_return,equality MODE=max,max,min", "expected one for all or 2"),
    ("SCENARIO_MODE=mean", "there is one scenario, p-base"),
    ("SCENARIO_MODE=axis", "there is one scenario, p-base"),
    ("SCENARIO_MODE=avg", "SCENARIO_MODE: unknown 'avg'"),
    ("SCENARIO=p-base,p-no-rank SCENARIO_MODE=mean SCHEDULER=asha", "needed for the mean over all"),
    ("SCENARIO=p-base,p-no-rank SCENARIO_MODE=axis SEARCH=bohb", "would compare returns of different scenarios"),
    ("SCHEDULER=hyperband EVALUATIONS=2", "has nothing to judge by"),
    ("SCHEDULER=pbt EVALUATIONS=1", "changes trials between them"),
    ("SCHEDULER=pbt SAMPLES=1", "needs a population"),
    ("SCHEDULER=pbt OVERRIDES=logger.checkpointing.save_model=false", "set save_model=true"),
    ("FROM=/nowhere SEARCH=random", "does not draw by what earlier trials scored"),
    ("FROM=/nowhere SEARCH=optuna", "FROM=/nowhere"),
]


@pytest.mark.parametrize(("words", "reason"), REFUSED, ids=[words for words, _ in REFUSED])
def test_what_makes_no_sense_is_refused(
    words: str, reason: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "space.yaml"
    file.write_text(SPACE)
    out = tmp_path / "out"
    assert sweep.main(["ALG=mappo", f"SPACE={file}", f"OUT={out}", "DRY_RUN=1", *words.split()]) == sweep.BAD_INPUT
    error = capsys.readouterr().err
    assert reason in error and len(error.splitlines()) == 1
    assert not out.exists()


@pytest.mark.parametrize(
    ("change", "words", "reason"),
    [
        (("ent_coef", "vf_coef"), "", "only one of the two varies system.ent_coef, system.vf_coef"),
        (("mode: max", "mode: min"), "", "objective.mode was max, here min"),
        (("low: 1.0e-4, high: 1.0e-2", "low: 2.0e-2, high: 3.0e-2"), "", "none of its 2 finished trials lies"),
        (("", ""), "SCENARIO=p-short", "none of its 2 finished trials lies in this space"),
    ],
)
def test_a_warm_start_from_another_space_is_refused(
    change: tuple[str, str], words: str, reason: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, out = tmp_path / "space.yaml", tmp_path / "out"
    file.write_text(SPACE)
    given = ["ALG=mappo", f"SPACE={file}", "SEARCH=optuna"]
    earlier = plan_of(["ALG=mappo", f"SPACE={file}", "SAMPLES=2"], tmp_path / "earlier")
    for record in Sweep.read(earlier).records.values():
        metrics = {"episode_return": 1.0}
        update_record(earlier / record.trial_id, state=State.COMPLETE, absolute_metrics=metrics)
    file.write_text(SPACE.replace(*change) if change[0] else SPACE)
    command = [*given, f"FROM={earlier}", f"OUT={out}", "DRY_RUN=1", *words.split()]
    assert sweep.main(command) == sweep.BAD_INPUT
    assert reason in capsys.readouterr().err


def plan_of(words: list[str], folder: Path) -> Path:
    from launcher.ask.parsing import parse_sweep_options
    from launcher.plan.compose import read_study
    from launcher.plan.write import draw_plan, write_plan

    options = parse_sweep_options(words)
    study, samples = read_study(options, "earlier")
    trials = draw_plan(study, samples)
    write_plan(folder, study, trials, len(trials), options, "", samples)
    return folder


@pytest.mark.parametrize(
    ("words", "reason"), [("SEARCH=grid", "has a trial for every point"), ("SCHEDULER=pbt", "train together from the")]
)
def test_what_cannot_be_extended(words: str, reason: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "space.yaml"
    file.write_text(GRID if "grid" in words else SPACE)
    folder = plan_of(["ALG=mappo", f"SPACE={file}", words], tmp_path / "sweep")
    assert sweep.main(["extend", str(folder), "SAMPLES=2"]) == sweep.BAD_INPUT
    assert reason in capsys.readouterr().err
    assert sweep.main(["extend", str(folder)]) == sweep.BAD_INPUT
    assert "SAMPLES: how many more" in capsys.readouterr().err
