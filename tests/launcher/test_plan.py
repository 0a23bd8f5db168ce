"""Plans are made of content: same seed, same trials; every scenario gets the same configurations."""

from __future__ import annotations

from collections import Counter
from datetime import datetime
from pathlib import Path

import pytest

from jax_party.errors import SweepError
from jax_party.trial.folder import read_config, read_record
from jax_party.trial.identity import label_of
from jax_party.trial.manifest import read_manifest
from jax_party.trial.states import State
from launcher.ask.parsing import parse_sweep_options
from launcher.ask.requested import SweepOptions
from launcher.plan.compose import read_study
from launcher.plan.read import study_from_manifest
from launcher.plan.study import PlannedTrial, Study
from launcher.plan.write import check_plan, create_sweep_folder, draw_plan, write_plan

MOMENT = datetime(2026, 1, 2, 3, 4, 5)
HEAD = "algorithms: [ff_mappo]\nscenarios: [p-base]\nbudget: {total_timesteps: 8192, num_evaluation: 2}\nspace:\n"
LR = "  system.actor_lr: {type: loguniform, low: 1.0e-4, high: 1.0e-3}\n"
EPOCHS = "  system.ppo_epochs: {type: int, low: 1, high: 3}\n"
GRID = "  system.gamma: {type: grid, values: [0.9, 0.99]}\n"
SEEDS = "  system.seed: {type: grid, values: [7, 8]}\n"


def study(*words: str, name: str = "sweep") -> tuple[Study, int]:
    return read_study(parse_sweep_options(["ALG=mappo", *words]), name)


def trials(*words: str) -> tuple[PlannedTrial, ...]:
    found, samples = study(*words)
    return draw_plan(found, samples)


def own_space(tmp_path: Path, *axes: str) -> str:
    path = tmp_path / "mine.yaml"
    path.write_text(HEAD + "".join(axes))
    return f"SPACE={path}"


def test_the_same_seed_draws_the_same_plan() -> None:
    first, again, other = (trials("SAMPLES=4", f"SEED={seed}") for seed in (1, 1, 2))
    assert [trial.trial_id for trial in first] == [trial.trial_id for trial in again]
    assert not {trial.trial_id for trial in first} & {trial.trial_id for trial in other}
    assert [trial.number for trial in first] == [0, 1, 2, 3]
    assert {trial.seed for trial in first} == {1}
    more = trials("SAMPLES=6", "SEED=1")
    assert [trial.trial_id for trial in more[:4]] == [trial.trial_id for trial in first]


def test_every_scenario_gets_the_same_configurations() -> None:
    found = trials("SAMPLES=3", "SCENARIO=p-base,p-no-rank,p-short")
    assert [trial.base.scenario for trial in found] == ["p-base", "p-no-rank", "p-short"] * 3
    for index in range(3):
        block = found[3 * index : 3 * index + 3]
        assert block[0].hyperparameters == block[1].hyperparameters == block[2].hyperparameters
    assert len({trial.trial_id for trial in found}) == 9


def test_sampled_values_are_in_the_config_and_its_budget() -> None:
    (trial,) = trials("SAMPLES=1", "TIMESTEPS=8192", "EVALUATIONS=2", "OVERRIDES=arch.num_envs=16 vault=none")
    config = trial.config()
    for key, value in trial.hyperparameters.items():
        group, name = key.split(".")
        assert config[group][name] == value
    assert (config["system"]["total_timesteps"], config["arch"]["num_evaluation"]) == (8192, 2)
    assert config["arch"]["num_envs"] == 16
    assert config["vault"]["record_train"] is False
    assert (trial.base.total_steps, trial.base.num_evaluations) == (8192, 2)


def test_values_stay_in_their_ranges(tmp_path: Path) -> None:
    found = trials(own_space(tmp_path, LR, EPOCHS), "SAMPLES=40")
    assert all(1e-4 <= trial.hyperparameters["system.actor_lr"] <= 1e-3 for trial in found)
    assert {trial.hyperparameters["system.ppo_epochs"] for trial in found} == {1, 2, 3}


def test_samples_are_constant_over_grids(tmp_path: Path) -> None:
    found = trials(own_space(tmp_path, LR, GRID), "SAMPLES=3")
    assert Counter(trial.hyperparameters["system.actor_lr"] for trial in found).most_common(1)[0][1] == 2
    assert len(found) == 6


def test_a_space_that_is_too_small_gives_fewer_trials(tmp_path: Path) -> None:
    found = trials(own_space(tmp_path, EPOCHS), "SAMPLES=9")
    assert sorted(trial.hyperparameters["system.ppo_epochs"] for trial in found) == [1, 2, 3]
    assert len(trials(own_space(tmp_path, GRID), "SEARCH=grid")) == 2


def test_the_seed_may_be_an_axis(tmp_path: Path) -> None:
    found = trials(own_space(tmp_path, GRID, SEEDS), "SEARCH=grid", "SEED=3")
    assert sorted(trial.seed for trial in found) == [7, 7, 8, 8]
    assert all(trial.config()["system"]["seed"] == trial.seed for trial in found)


def test_a_trial_may_have_several_seeds(tmp_path: Path) -> None:
    words = ("SEEDS=8", "AGGREGATE=iqm", "BATCH=map", "SAMPLES=2", "SEED=5")
    found, samples = study(*words)
    drawn = draw_plan(found, samples)
    for trial in drawn:
        arch = trial.config()["arch"]
        assert (trial.seed, arch["num_seeds"], arch["batch"]) == (5, 8, "map")
    write_plan(tmp_path, found, drawn, 2, parse_sweep_options(["ALG=mappo", *words]), "")
    record, manifest = read_record(tmp_path / drawn[0].trial_id), read_manifest(tmp_path)
    assert (record.num_seeds, record.objective.aggregate) == (manifest.num_seeds, manifest.objective.aggregate)
    assert (record.num_seeds, record.objective.aggregate) == (8, "iqm")
    again = study_from_manifest(tmp_path, manifest)
    assert [trial.trial_id for trial in draw_plan(again, 2)] == [trial.trial_id for trial in drawn]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("SEEDS=0",), "SEEDS: expected a whole number from 1, got '0'"),
        (("SEEDS=two",), "SEEDS: expected a whole number from 1, got 'two'"),
        (("AGGREGATE=best",), "AGGREGATE: unknown 'best' (known: mean, iqm, median, min)"),
        (("BATCH=pmap",), "BATCH: unknown 'pmap'; did you mean map? (known: auto, map, vmap)"),
        (("SEEDS=2", "OVERRIDES=arch.num_seeds=3"), "SEEDS=2: OVERRIDES says arch.num_seeds=3; leave one of them out"),
    ],
)
def test_bad_seeds_are_refused(words: tuple[str, ...], message: str) -> None:
    with pytest.raises(SweepError) as caught:
        study(*words)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("axes", "words", "message"),
    [
        ((SEEDS,), ("SEEDS=4",), "SEEDS=4: .*has system.seed as an axis; take that out, or leave SEEDS out"),
        (("  arch.num_seeds: {type: choice, values: [1, 2]}\n",), (), "arch.num_seeds: is no hyperparameter"),
    ],
)
def test_seeds_are_no_axis_beside_seeds(
    axes: tuple[str, ...], words: tuple[str, ...], message: str, tmp_path: Path
) -> None:
    with pytest.raises(SweepError, match=message):
        study(own_space(tmp_path, LR, *axes), *words)


def test_an_override_of_an_axis_fixes_it() -> None:
    (trial,) = trials("SAMPLES=1", "OVERRIDES=system.actor_lr=0.001")
    assert "system.actor_lr" not in trial.hyperparameters
    assert trial.config()["system"]["actor_lr"] == 0.001


@pytest.mark.parametrize("in_file", [False, True], ids=["OVERRIDES", "sweep file"])
def test_a_preset_lies_below_the_space_and_what_is_fixed(in_file: bool, tmp_path: Path) -> None:
    """As an override of the command line or of the sweep file; the sweep on disk is composed with it again."""
    text = HEAD.replace("space:", "overrides: {+preset: mava}\nspace:") if in_file else HEAD
    (tmp_path / "mine.yaml").write_text(text + LR)
    fixed = "OVERRIDES=system.rollout_length=64" + ("" if in_file else " +preset=mava")
    words = [f"SPACE={tmp_path / 'mine.yaml'}", fixed, "SAMPLES=1"]
    found, samples = study(*words)
    drawn = draw_plan(found, samples)
    config = drawn[0].config()
    assert config["system"]["actor_lr"] == drawn[0].hyperparameters["system.actor_lr"]
    assert (config["system"]["critic_lr"], config["system"]["rollout_length"]) == (2.5e-4, 64)
    assert (config["arch"]["num_envs"], config["arch"]["num_evaluation"]) == (16, 2)
    assert found.spec.overrides["+preset"] == "mava"
    write_plan(tmp_path / "sweep", found, drawn, 1, parse_sweep_options(["ALG=mappo", *words]), "")
    again = study_from_manifest(tmp_path / "sweep", read_manifest(tmp_path / "sweep"))
    assert [base.config for base in again.bases] == [base.config for base in found.bases]


def test_another_environment_has_its_own_scenario() -> None:
    (trial,) = trials("SAMPLES=1", "OVERRIDES=env=lbf")
    assert trial.base.environment == "LevelBasedForaging"


def test_sweep_folders_are_exclusive(tmp_path: Path) -> None:
    options = SweepOptions("mappo", out=tmp_path, name="first")
    name, folder = create_sweep_folder(options, "ff_mappo", MOMENT)
    assert name == "ff_mappo-20260102-030405-first"
    assert folder == tmp_path / "ff_mappo" / "2026-01-02" / "03-04-05-first"
    second, _ = create_sweep_folder(options, "ff_mappo", MOMENT)
    assert second == "ff_mappo-20260102-030406-first"


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(SweepError, match=r"^OUT: .*file: cannot make a folder there: "):
        create_sweep_folder(SweepOptions("mappo", out=tmp_path / "file"), "ff_mappo", MOMENT)


def test_the_plan_on_disk_makes_the_same_study(tmp_path: Path) -> None:
    words = ["SAMPLES=2", "SCENARIO=p-base,p-short", "SEED=5", "OVERRIDES=arch.num_envs=16 network.actor_network."
             "pre_torso.layer_sizes=[32,32]"]  # fmt: skip
    found, samples = study(*words, name="sweep-1")
    planned = draw_plan(found, samples)
    write_plan(tmp_path, found, planned, len(planned), parse_sweep_options(["ALG=mappo", *words]), "the command")
    manifest = read_manifest(tmp_path)
    assert (manifest.num_trials, manifest.seed, manifest.search) == (4, 5, "random")
    assert manifest.provenance["command"] == "the command"
    for trial in planned:
        record = read_record(tmp_path / trial.trial_id)
        assert (record.state, record.number, record.seed) == (State.PENDING, trial.number, 5)
        assert record.hyperparameters == trial.hyperparameters
        assert record.total_steps == trial.base.total_steps
        assert read_config(tmp_path / trial.trial_id) == trial.config()
    again = study_from_manifest(tmp_path, manifest)
    assert [again.trial(t.number, again.bases[t.number % 2], t.hyperparameters).trial_id for t in planned] == [
        trial.trial_id for trial in planned
    ]


# -- Several algorithms, and axes that exist for some ------------------------------------------------------------------


def test_several_algorithms_share_a_sweep(tmp_path: Path) -> None:
    """Each with the axes of its own file; configurations are shared where they can be."""
    found, samples = read_study(parse_sweep_options(["ALG=mappo,ippo,sable", "SAMPLES=2"]), "sweep")
    drawn = draw_plan(found, samples)
    assert found.label == "ff_mappo-ff_ippo-ff_sable"
    assert [trial.base.algorithm for trial in drawn] == ["ff_mappo", "ff_ippo", "ff_sable"] * 2
    mappo, ippo, sable = drawn[:3]
    assert mappo.hyperparameters == ippo.hyperparameters
    assert "system.critic_lr" not in sable.hyperparameters
    shared = mappo.hyperparameters.keys() & sable.hyperparameters.keys()
    same_range = {axis.key for axis in found.spec.axes if not axis.when}
    assert same_range and same_range <= shared
    assert all(mappo.hyperparameters[key] == sable.hyperparameters[key] for key in same_range)
    for trial in drawn:
        assert trial.config()["logger"]["system_name"] == trial.base.algorithm
    folder = tmp_path / "sweep"
    options = parse_sweep_options(["ALG=mappo,ippo,sable", "SAMPLES=2"])
    write_plan(folder, found, drawn, len(drawn), options, "")
    manifest = read_manifest(folder)
    assert manifest.algorithms == ("ff_mappo", "ff_ippo", "ff_sable")
    again = draw_plan(study_from_manifest(folder, manifest), 2)
    assert [trial.trial_id for trial in again] == [trial.trial_id for trial in drawn]
    assert {read_record(folder / trial.trial_id).algorithm for trial in drawn} == set(found.algorithms)


def test_what_differs_only_in_an_axis_that_does_not_exist_is_one_trial(tmp_path: Path) -> None:
    space = own_space(
        tmp_path,
        "  system.gamma: {type: grid, values: [0.9, 0.99]}\n",
        "  system.ent_coef: {type: grid, values: [0.0, 0.1, 0.2], when: {scenario: p-short}}\n",
    )
    drawn = trials(space, "SCENARIO=p-base,p-short", "SEARCH=grid")
    assert Counter(trial.base.scenario for trial in drawn) == {"p-base": 2, "p-short": 6}
    assert [trial.number for trial in drawn] == list(range(8))
    assert all(("system.ent_coef" in t.hyperparameters) == (t.base.scenario == "p-short") for t in drawn)


def test_an_axis_that_exists_for_none_makes_no_trials_differ(tmp_path: Path) -> None:
    space = own_space(
        tmp_path,
        "  system.gamma: {type: choice, values: [0.9, 0.99]}\n",
        "  system.clip_eps: {type: uniform, low: 0.1, high: 0.3, when: {algorithm: ff_ippo}}\n",
    )
    assert len(trials(space, "SAMPLES=8")) == 2


def test_a_range_whose_middle_cannot_be_run_is_refused(tmp_path: Path) -> None:
    space = own_space(tmp_path, "  system.num_minibatches: {type: int, low: 1, high: 8}\n")
    found, _ = study(space)
    message = r"trial \d+ \(system.num_minibatches=[357]\) cannot be run: system.num_minibatches: [357] does not divide"
    with pytest.raises(SweepError, match=message):
        check_plan(found, draw_plan(found, 8))


def test_four_algorithms_have_a_short_name() -> None:
    assert label_of(("a", "b", "c")) == "a-b-c"
    assert label_of(("a", "b", "c", "d")) == "a-and-3-more"


@pytest.mark.parametrize(
    ("words", "axes", "message"),
    [
        (["ALG=mappo,ff_mappo"], None, "ALG: ff_mappo is listed twice"),
        (["ALG=mappo,"], None, "ALG: expected different names by commas, got 'mappo,'"),
        (["ALG=mappo,sable"], (LR,), "algorithms: ff_sable is not among ff_mappo"),
        (
            ["ALG=mappo"],
            (LR, "  system.gamma: {type: choice, values: [0.9], when: {algorithm: ff_sabel}}\n"),
            "system.gamma: when: algorithm: ff_sabel",
        ),
        (
            ["ALG=mappo"],
            (LR, "  system.gamma: {type: choice, values: [0.9], when: {scenario: p-bas}}\n"),
            "system.gamma: when: scenario: unknown 'p-bas'; did you mean p-base?",
        ),
        (
            ["ALG=mappo", "SCENARIO=p-base,p-short"],
            ("  system.gamma: {type: choice, values: [0.9], when: {scenario: p-base}}\n",),
            "space: no axis exists for ff_mappo in p-short",
        ),
    ],
)
def test_bad_algorithms_and_conditions_are_refused(
    words: list[str], axes: tuple[str, ...] | None, message: str, tmp_path: Path
) -> None:
    space = [] if axes is None else [own_space(tmp_path, *axes)]
    with pytest.raises(SweepError) as caught:
        read_study(parse_sweep_options([*words, *space]))
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("words", "seeds"),
    [
        (["ALG=mappo"], 3),
        (["ALG=sable"], 1),
        (["ALG=mappo,sable"], 3),
        (["ALG=mappo", "SEEDS=1"], 1),
        (["ALG=mappo", "SEEDS=5"], 5),
        (["ALG=mappo", "OVERRIDES=arch.num_seeds=2"], 2),
    ],
    ids=str,
)
def test_the_sweep_file_says_how_many_seeds_unless_the_command_line_does(words: list[str], seeds: int) -> None:
    """Of several files the most counts, so that all algorithms are compared on as many."""
    study, _ = read_study(parse_sweep_options(words), "s")
    assert {base.config["arch"]["num_seeds"] for base in study.bases} == {seeds}
