"""What is ranked is ranked as one thing, in one order, in every table."""

from __future__ import annotations

from pathlib import Path

import pytest
import report_sweep

import results
from jax_party import records
from jax_party.records import Objective, State, Takeover
from results import power
from results.ranking import best_rows
from results.report import comparison, leaderboard
from results.report.data import BEST, load
from results.show import show_main


def population(folder: Path) -> Path:
    """Two members that took over the same values, on the same seed: 10 below and above the third."""
    report_sweep.make(folder, ["ff_ippo"], ["p-base"], configurations=3, seeds=1)
    for number, final in enumerate([30.0, 10.0, 20.0]):
        report_sweep.rewrite(folder, number, [final])
        lineage = (Takeover(200, "demo-00000002", 200, {"system.actor_lr": 0.5}),)
        if number < 2:
            report_sweep.change(
                folder / f"demo-{number:08x}", lineage=lineage, hyperparameters=report_sweep.hyperparameters(7)
            )
    return folder


def test_members_of_a_population_that_came_to_equal_values_stay_apart(tmp_path: Path) -> None:
    folder = population(tmp_path / "s")
    made = load(folder)
    index = results.load_index(folder)
    assert index.set_index("number")["standing"].to_dict() == {0: 1, 2: 2, 1: 3}
    assert index["configuration"].nunique() == 2
    assert [one.score for one in made.contenders] == [30.0, 20.0, 10.0]
    assert len(leaderboard.rows(made)) == 3
    assert results.leaders(folder)[["n", "value"]].to_numpy().tolist() == [[1, 30.0]]
    (row,) = power.power(folder).to_dict("records")
    assert row["difference"] == 10.0
    assert results.compare(folder, folder)["value_a"].tolist() == [30.0]


def test_a_test_of_a_member_counts_for_that_member_alone(tmp_path: Path) -> None:
    folder = population(tmp_path / "s")
    test = report_sweep.record_of(9, "ff_ippo", "p-base", 7, 3, promoted_from="demo-00000001", seed=1_000_000_000)
    report_sweep.write_trial(folder, test, [11.0, 12.0, 13.0])
    made = load(folder)
    assert {one.score: one.fresh_values for one in made.contenders} == {
        30.0: (),
        20.0: (),
        10.0: (11.0, 12.0, 13.0),
    }
    index = results.load_index(folder).set_index("number")
    assert index["tests"].to_dict() == {0: 0, 1: 1, 2: 0, 9: 1}


def test_a_mean_over_scenarios_of_which_one_is_running_comes_after_whole_ones(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = report_sweep.make(tmp_path / "s", ["ff_ippo"], configurations=2, seeds=1, scenario_mode="mean")
    for number, final in ((0, 900.0), (1, 900.0)):
        report_sweep.rewrite(folder, number, [final])
    report_sweep.change(folder / "demo-00000001", state=State.RUNNING)
    made = load(folder)
    index = results.load_index(folder)
    assert index.set_index("number")["standing"].to_dict() == {0: 2, 1: 2, 2: 1, 3: 1}
    first = best_rows(index, "score", "max", 4)["number"].tolist()
    assert first == [2, 3, 0, 1]
    assert made.contenders[0].score == pytest.approx((18.0 + 180.0) / 2)
    assert show_main([str(folder), "--top", "1"]) == 0
    assert "demo-00000002" in capsys.readouterr().out


def test_the_chart_and_the_heat_map_have_the_order_of_the_leaders(tmp_path: Path) -> None:
    """The mean of [0, 10, 10, 10, 10] is 8, its interquartile mean 10; the other algorithm has 9 on every seed."""
    folder = report_sweep.make(tmp_path / "s", scenarios=["p-base"], configurations=1, seeds=5)
    report_sweep.rewrite(folder, 0, [0.0, 10.0, 10.0, 10.0, 10.0])
    report_sweep.rewrite(folder, 1, [9.0] * 5)
    made = load(folder)
    table = results.leaders(folder)
    assert table[["algorithm", "value", "estimator"]].to_numpy().tolist() == [
        ["ff_mappo", 9.0, "mean"],
        ["ff_ippo", 8.0, "mean"],
    ]
    estimator, estimates = comparison.aggregates(made, BEST, "p-base", comparison.rivals(made, BEST, "p-base"))
    assert estimator == "mean"
    assert [(name, one.value) for name, one in estimates.items()] == [("ff_mappo", 9.0), ("ff_ippo", 8.0)]
    for row in table.itertuples():
        assert estimates[row.algorithm].low == pytest.approx(row.low)
    (cells,) = comparison.heat_map(made)
    assert [(cell.algorithm, cell.value) for cell in cells] == [("ff_ippo", 8.0), ("ff_mappo", 9.0)]


def test_only_a_best_that_is_provisional_is_called_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = report_sweep.make(tmp_path / "s", ["ff_ippo"], configurations=1, seeds=1, objective=Objective(
        "episode_return", "max", at="best"))  # fmt: skip
    report_sweep.change(folder / "demo-00000001", state=State.RUNNING)
    results.collect(folder)
    assert show_main([str(folder)]) == 0
    said = capsys.readouterr().out
    assert "The best of ff_ippo p-no-rank is provisional: no trial that it compares with is complete." in said
    assert "The best of ff_ippo p-base is provisional" not in said


def test_too_few_evaluations_to_tell_are_named_as_the_reason(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = report_sweep.make(tmp_path / "s", ["ff_ippo"], ["p-base"], configurations=1, seeds=1)
    trial = folder / "demo-00000000"
    rows = [row for row in records.read_metrics(trial) if row["step"] in (200, 400)]
    (trial / "metrics" / "metrics.jsonl").unlink()
    records.append_metrics(trial, *rows)
    results.collect(folder)
    assert show_main([str(folder)]) == 0
    assert "cannot be told" in (said := capsys.readouterr().out) and "EVALUATIONS=4" in said


def test_after_a_race_the_top_two_are_those_that_stayed_longest_in_it(tmp_path: Path) -> None:
    """What was stopped played easy seeds only; by its mean over these it would be the first."""
    folder = report_sweep.make(tmp_path / "s", ["ff_ippo"], ["p-base"], configurations=3, seeds=1)
    seeds = [50.0, 49.0, 51.0, 10.0, 11.0, 9.0]
    for number, (gap, played) in enumerate([(0.0, 6), (-1.0, 6), (-5.0, 3)]):
        test = report_sweep.record_of(
            10 + number, "ff_ippo", "p-base", number, played, promoted_from=f"demo-{number:08x}", seed=1_000_000_000
        )
        report_sweep.write_trial(folder, test, [value + gap + 0.1 * (place % 2) * number
                                                for place, value in enumerate(seeds[:played])])  # fmt: skip
    results.collect(folder)
    names = [records.configuration_id(records.read_record(folder / f"demo-{number:08x}")) for number in range(3)]
    (row,) = power.power(folder).to_dict("records")
    assert (row["first"], row["second"]) == (names[0], names[1])
    assert row["paired"] == 6 and row["difference"] == pytest.approx(0.95)


def test_under_averages_a_report_shows_the_average_that_is_judged(tmp_path: Path) -> None:
    objective = Objective("episode_return", "max", at="last-5-avg")
    folder = report_sweep.make(tmp_path / "s", ["ff_ippo"], ["p-base"], configurations=1, seeds=1, objective=objective)
    made = load(folder)
    (row,) = made.trials.to_dict("records")
    assert row["objective.value"] == pytest.approx(20.0 * (0.25 + 0.5 + 0.75 + 1) / 4)
    assert made.final(row, "episode_return") == pytest.approx(row["objective.value"])
    assert made.final(row, "cooperation_rate") == pytest.approx(0.2 + 0.6 * 0.625)
