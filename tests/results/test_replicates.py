"""Sweeps with copies: each configuration, scenario and seed counts once, wherever numbers are pooled."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import report_sweep
from hypothesis import given
from hypothesis import strategies as st

import results
from jax_party.errors import RecordError
from jax_party.judging.replicates import Played, are_copies, means_over_scenarios, values_by_seed
from jax_party.trial.draws import Draws
from jax_party.trial.folder import update_record
from jax_party.trial.manifest import MANIFEST_FILE, read_manifest, write_manifest
from jax_party.trial.record import Takeover
from jax_party.trial.states import State
from results import command as show
from results.report.data import ALL, BEST
from results.report.hyperparameters import importance, table
from results.report.load import load

ROWS = st.lists(
    st.builds(
        Played, st.sampled_from("ab"), st.sampled_from(["p-base", "p-short"]), st.integers(0, 6), st.integers(1, 3)
    ),
    max_size=12,
)


def value(configuration: object, scenario: object, seed: int) -> float:
    return 100.0 * (configuration == "a") + 10.0 * (scenario == "p-base") + seed


@given(ROWS)
def test_a_seed_counts_once(rows: list[Played]) -> None:
    played = [one._replace(values=[value(one.configuration, one.scenario, seed) for seed in one.seeds]) for one in rows]
    found = values_by_seed(played)
    every = {(one.configuration, one.scenario, seed) for one in rows for seed in one.seeds}
    assert {(*place, seed) for place, of_seeds in found.items() for seed in of_seeds} == every
    assert all(number == value(*place, seed) for place, of_seeds in found.items() for seed, number in of_seeds.items())
    assert values_by_seed([*played, *played]) == found, "copies change nothing"
    for place, copy in enumerate(are_copies(rows)):
        before = {seed for one in rows[:place] if one[:2] == rows[place][:2] for seed in one.seeds}
        assert copy == (set(rows[place].seeds) <= before)


def test_the_first_value_of_a_seed_counts_and_one_of_several_seeds_stands_for_the_first() -> None:
    rows = [Played("a", "p", 3, 2, [1.0, 2.0]), Played("a", "p", 4, 2, [9.0, 3.0]), Played("a", "p", 9, 3, [5.0])]
    assert values_by_seed(rows) == {("a", "p"): {3: 1.0, 4: 2.0, 5: 3.0, 9: 5.0}}


def test_means_over_scenarios_are_of_the_seeds_that_all_have() -> None:
    assert means_over_scenarios([{1: 2.0, 0: 1.0, 2: 7.0}, {0: 3.0, 1: 5.0}]) == {1: 3.5, 0: 2.0}


def copied(folder: Path, copies: int = 2, scenario_mode: str = "grid") -> Path:
    """A sweep of three configurations in two scenarios with three seeds, the best of them there several times more."""
    report_sweep.make(folder, algorithms=("ff_mappo",), scenario_mode=scenario_mode)
    manifest = read_manifest(folder)
    number = manifest.num_trials
    for _ in range(copies):
        for where, scenario in enumerate(manifest.scenarios):
            finals = [report_sweep.final_return(0, where, 0, seed) for seed in range(3)]
            report_sweep.write_trial(folder, report_sweep.record_of(number, "ff_mappo", scenario, 0, 3), finals)
            number += 1
    write_manifest(folder, dataclasses.replace(manifest, num_trials=number))
    results.write_index(folder)
    return folder


@pytest.mark.parametrize("by", ["best", "configuration"])
@pytest.mark.parametrize("scenario_mode", ["grid", "mean"])
def test_a_comparison_has_as_many_values_as_seeds(scenario_mode: str, by: str, tmp_path: Path) -> None:
    with_copies = copied(tmp_path / "copies", scenario_mode=scenario_mode)
    without = copied(tmp_path / "none", copies=0, scenario_mode=scenario_mode)
    found, expected = (results.compare(folder, folder, by=by) for folder in (with_copies, without))
    assert found["n_a"].tolist() == [3] * len(found)
    assert len(found) == (3 if scenario_mode == "mean" else 2) * (1 if by == "best" else 3)
    assert found.equals(expected)
    assert (found["low_a"] < found["high_a"]).all()


def test_repeated_tests_on_fresh_seeds_count_their_seeds_once(tmp_path: Path) -> None:
    folder = report_sweep.make(tmp_path, algorithms=("ff_mappo",), scenarios=("p-base",), configurations=1)
    for number, seeds in ((100, 4), (101, 6)):
        record = report_sweep.record_of(
            number, "ff_mappo", "p-base", 0, seeds, promoted_from="demo-00000000", seed=1_000_000_000
        )
        report_sweep.write_trial(folder, record, [10.0 + seed for seed in range(seeds)])
    results.write_index(folder)
    (row,) = results.compare(folder, folder).to_dict("records")
    assert (row["n_a"], row["value_a"], row["seeds"]) == (6, 12.5, "fresh")


def test_seeds_drawn_later_are_replicates_and_match_over_scenarios(tmp_path: Path) -> None:
    """A repetition on new seeds of which one scenario's trial has failed does not cost the mean over scenarios."""
    folder = report_sweep.make(tmp_path, algorithms=("ff_mappo",), configurations=1, scenario_mode="mean")
    for number, scenario, state in ((2, "p-base", State.COMPLETE), (3, "p-no-rank", State.FAILED)):
        record = report_sweep.record_of(number, "ff_mappo", scenario, 0, 3, seed=3, state=state)
        report_sweep.write_trial(folder, record, [30.0, 31.0, 32.0])
    write_manifest(folder, dataclasses.replace(read_manifest(folder), num_trials=4))
    results.write_index(folder)
    found = results.compare(folder, folder).set_index("scenario")
    assert found["n_a"].to_dict() == {"p-base": 6, "p-no-rank": 3, "mean of p-base, p-no-rank": 3}
    (whole,) = (one for one in load(folder).contenders)
    assert len(whole.values) == 3


@pytest.mark.parametrize("scenario_mode", ["grid", "mean"])
def test_the_report_counts_and_draws_a_seed_once(scenario_mode: str, tmp_path: Path) -> None:
    data = load(copied(tmp_path / "copies", scenario_mode=scenario_mode))
    plain = load(copied(tmp_path / "none", copies=0, scenario_mode=scenario_mode))
    assert [(one.name, one.values, one.seeds, one.score) for one in data.contenders] == [
        (one.name, one.values, one.seeds, one.score) for one in plain.contenders
    ]
    assert len(data.best["ff_mappo", "p-base"].trials) == 3, "what copies have cost is still told"
    for view in (BEST, ALL):
        for scenario in data.scenarios:
            curves, expected = (one.curves(view, "ff_mappo", scenario, "episode_return") for one in (data, plain))
            assert curves.to_numpy().tolist() == expected.to_numpy().tolist()
    drawn, expected_rows = (table(one)["ff_mappo"]["trial"] for one in (data, plain))
    assert drawn == expected_rows and len(drawn) == (9 if scenario_mode == "mean" else 6)
    for scenario in data.scenarios:
        assert importance(data, "ff_mappo", scenario).why == "3 trials have a score; importances need 8"


def test_copies_have_their_mean_over_scenarios_also_on_fresh_seeds(tmp_path: Path) -> None:
    folder = copied(tmp_path, scenario_mode="mean")
    for place, scenario in enumerate(("p-base", "p-no-rank")):
        record = report_sweep.record_of(
            100 + place, "ff_mappo", scenario, 0, 3, promoted_from=f"demo-{place:08x}", seed=1_000_000_000
        )
        report_sweep.write_trial(folder, record, [40.0, 41.0, 42.0])
    results.write_index(folder)
    index = results.load_index(folder)
    searched = index[index["promoted_from"].isna()]
    assert searched["objective.over_scenarios"].notna().all() and searched["objective.feasible"].notna().all()
    assert (searched.groupby("configuration")["objective.over_scenarios"].nunique() == 1).all()
    best = searched[searched["configuration"] == searched["configuration"].iloc[0]]
    assert len(best) == 6 and best["objective.over_scenarios"].tolist() == pytest.approx([115.5] * 6)
    tested = index[index["fresh.over_scenarios.value"].notna()]
    assert set(tested["trial_id"]) == {"demo-00000000", "demo-00000001", "demo-00000064", "demo-00000065"}
    assert tested["fresh.over_scenarios.value"].tolist() == [41.0] * 4


def test_make_index_shows_no_copies_but_all_members_of_a_population(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = copied(tmp_path)
    assert show.show_main([str(folder), "--top", "20"]) == 0
    output = capsys.readouterr().out
    assert [output.count(f"demo-{number:08x}") for number in range(10)] == [1] * 6 + [0] * 4
    assert "4 trials that repeat another, seed for seed, are left out." in output
    for number in range(6, 10):
        lineage = (Takeover(200, "demo-00000000", 200, {"system.actor_lr": 0.5}),)
        update_record(folder / f"demo-{number:08x}", lineage=lineage)
    results.write_index(folder)
    assert show.show_main([str(folder), "--top", "20"]) == 0
    assert "left out" not in capsys.readouterr().out


def test_a_complete_trial_counts_before_one_that_was_stopped(tmp_path: Path) -> None:
    folder = copied(tmp_path, copies=1)
    update_record(folder / "demo-00000000", state=State.PRUNED)
    results.write_index(folder)
    data = load(folder)
    assert "demo-00000000" not in data.replicates and "demo-00000006" in data.replicates


def test_draws_without_a_trial_are_not_pending(tmp_path: Path) -> None:
    folder = report_sweep.make(tmp_path, algorithms=("ff_mappo",), scenarios=("p-base",))
    manifest = read_manifest(folder)
    write_manifest(folder, dataclasses.replace(manifest, num_trials=8, search="optuna", duplicates="reuse"))
    Draws({3: ("demo-00000000",), 5: ("demo-00000001",)}, {"ff_mappo p-base": (6,)}).write(folder)
    results.write_index(folder)
    index = results.load_index(folder)
    assert index.loc[index["state"] == "PENDING", "number"].tolist() == [4, 7]


def test_sweeps_of_before_have_the_default_and_unknown_answers_are_refused(tmp_path: Path) -> None:
    folder = report_sweep.make(tmp_path)
    path = folder / MANIFEST_FILE
    text = path.read_text()
    assert "duplicates: seeds\n" in text
    path.write_text(text.replace("duplicates: seeds\n", ""))
    assert read_manifest(folder).duplicates == "seeds"
    path.write_text(text.replace("duplicates: seeds\n", "duplicates: twice\n"))
    with pytest.raises(RecordError, match=r"duplicates: expected seeds, reuse or refuse, got 'twice'"):
        read_manifest(folder)
