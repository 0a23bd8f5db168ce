"""What is ranked is ranked as one thing, in one order, in every table."""

from __future__ import annotations

from pathlib import Path

import optuna
import pytest
import report_sweep
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

import results
from jax_party.judging.objectives import Objective
from jax_party.trial.folder import read_record
from jax_party.trial.identity import configuration_id
from jax_party.trial.metrics import append_metrics, read_metrics
from jax_party.trial.record import Takeover
from jax_party.trial.states import State
from results.analysis import power
from results.collector.ranking import best_rows
from results.command import show_main
from results.live.journal import JOURNAL_FILE, update_journal
from results.report import comparison, hyperparameters, leaderboard
from results.report.data import BEST
from results.report.load import load


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
    results.write_index(folder)
    assert show_main([str(folder)]) == 0
    said = capsys.readouterr().out
    assert "The best of ff_ippo p-no-rank is provisional: no trial that it compares with is complete." in said
    assert "The best of ff_ippo p-base is provisional" not in said


def test_too_few_evaluations_to_tell_are_named_as_the_reason(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = report_sweep.make(tmp_path / "s", ["ff_ippo"], ["p-base"], configurations=1, seeds=1)
    trial = folder / "demo-00000000"
    rows = [row for row in read_metrics(trial) if row["step"] in (200, 400)]
    (trial / "metrics" / "metrics.jsonl").unlink()
    append_metrics(trial, *rows)
    results.write_index(folder)
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
    results.write_index(folder)
    names = [configuration_id(read_record(folder / f"demo-{number:08x}")) for number in range(3)]
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


def first_of_all(folder: Path, capsys: pytest.CaptureFixture[str]) -> dict[str, str]:
    """Instrument -> the algorithm that it puts first in p-base."""
    made = load(folder)
    assert show_main([str(folder), "--top", "1"]) == 0
    shown = capsys.readouterr().out
    index = results.load_index(folder)
    first = best_rows(index[index["promoted_from"].isna()], "score", str(index["objective.mode"].iloc[0]), 1)
    _, estimates = comparison.aggregates(made, BEST, "p-base", comparison.rivals(made, BEST, "p-base"))
    return {
        "table": first["algorithm"].item(),
        "sentence": shown.partition("best configurations of ")[2].split()[0],
        "leaders": str(results.leaders(folder)["algorithm"].iloc[0]),
        "leaderboard": leaderboard.rows(made)[0]["algorithm"],
        "chart": next(iter(estimates)),
    }


@pytest.mark.parametrize(
    ("aggregate", "ippo", "mappo", "better"),
    [
        ("min", [50.0, 50.0, 50.0], [40.0, 70.0, 70.0], "ff_ippo"),
        ("median", [50.0, 50.0, 50.0], [40.0, 40.0, 90.0], "ff_ippo"),
        ("mean", [50.0] * 8 + [-200.0] * 2, [40.0] * 10, "ff_mappo"),
        ("iqm", [50.0] * 8 + [-200.0] * 2, [40.0] * 10, "ff_ippo"),
    ],
)
def test_algorithms_go_by_the_sweeps_own_aggregate(
    aggregate: str, ippo: list[float], mappo: list[float], better: str,
    tmp_path: Path, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    objective = Objective("episode_return", "max", aggregate)
    folder = report_sweep.make(
        tmp_path / "s", scenarios=["p-base"], configurations=1, seeds=len(ippo), objective=objective
    )
    report_sweep.rewrite(folder, 0, ippo)
    report_sweep.rewrite(folder, 1, mappo)
    assert set(first_of_all(folder, capsys).values()) == {better}


def test_what_breaks_a_constraint_leads_nowhere(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    objective = Objective("episode_return", "max", constraints={"max_episode_return": 60.0})
    folder = report_sweep.make(tmp_path / "s", scenarios=["p-base"], configurations=1, seeds=3, objective=objective)
    report_sweep.rewrite(folder, 0, [50.0] * 3)
    report_sweep.rewrite(folder, 1, [70.0] * 3)
    assert set(first_of_all(folder, capsys).values()) == {"ff_ippo"}
    assert results.leaders(folder)["feasible"].tolist() == [True, False]
    assert show_main([str(folder)]) == 0
    assert "then ff_mappo 70 (breaks a constraint" in capsys.readouterr().out


def test_an_algorithm_without_a_complete_trial_changes_nothing_for_the_others(tmp_path: Path) -> None:
    folder = report_sweep.make(
        tmp_path / "s", ["ff_ippo", "ff_mappo", "ff_sable"], ["p-base"], configurations=1, seeds=5
    )
    report_sweep.rewrite(folder, 0, [0.0, 10.0, 10.0, 10.0, 10.0])
    report_sweep.rewrite(folder, 1, [9.0] * 5)
    report_sweep.rewrite(folder, 2, [20.0] * 5)
    report_sweep.change(folder / "demo-00000002", state=State.RUNNING)
    made = load(folder)
    estimator, found = comparison.aggregates(made, BEST, "p-base", comparison.rivals(made, BEST, "p-base"))
    assert estimator == "mean"
    assert {name: one.value for name, one in found.items()} == {"ff_mappo": 9.0, "ff_ippo": 8.0, "ff_sable": 20.0}
    assert list(found) == ["ff_mappo", "ff_ippo", "ff_sable"]


def test_a_trial_without_a_number_counts_nowhere_and_its_configuration_by_the_others(tmp_path: Path) -> None:
    """Two seeds of one configuration, in a trial each: one of them has learned itself to NaN."""
    folder = report_sweep.make(tmp_path / "s", ["ff_ippo"], ["p-base"], configurations=2, seeds=1)
    report_sweep.rewrite(folder, 0, [60.0])
    report_sweep.rewrite(folder, 1, [40.0])
    again = report_sweep.record_of(2, "ff_ippo", "p-base", 0, 1, seed=1)
    trial = report_sweep.write_trial(folder, again, [50.0])
    path = trial / "metrics" / "metrics.jsonl"
    rows = read_metrics(trial)
    for row in rows:
        row["evaluate"]["episode_return"] = None
    path.unlink()
    append_metrics(trial, *rows)
    report_sweep.change(trial, final_metrics={"episode_return": None}, absolute_metrics={"episode_return": None})
    made = load(folder)
    update_journal(folder)
    index = results.load_index(folder).set_index("number")
    assert index["score"].to_dict()[0] == 60.0 and index["standing"].to_dict()[0] == 1
    assert made.contenders[0].score == 60.0 and results.leaders(folder)["value"].tolist() == [60.0]
    assert study_of(folder, "ff_ippo p-base").best_trial.user_attrs["trial_id"] == "demo-00000000"


def study_of(folder: Path, name: str) -> optuna.Study:
    return optuna.load_study(study_name=name, storage=JournalStorage(JournalFileBackend(str(folder / JOURNAL_FILE))))


def test_a_mean_over_scenarios_is_of_the_seeds_that_were_played_in_all(tmp_path: Path) -> None:
    folder = report_sweep.make(tmp_path / "s", ["ff_ippo"], configurations=2, seeds=1, scenario_mode="mean")
    for number, final in enumerate([10.0, 10.0, 20.0, 20.0]):
        report_sweep.rewrite(folder, number, [final])
    lucky = report_sweep.record_of(4, "ff_ippo", "p-base", 0, 1, seed=1)
    report_sweep.write_trial(folder, lucky, [90.0])
    made = load(folder)
    index = results.load_index(folder).set_index("number")
    assert index["score"].to_dict() == {0: 10.0, 1: 10.0, 2: 20.0, 3: 20.0, 4: 10.0}
    assert made.contenders[0].score == 20.0
    of_mean = results.leaders(folder).set_index("scenario").loc["mean of p-base, p-no-rank"]
    assert of_mean["value"] == of_mean["score"] == 20.0


def test_optuna_names_the_settled_one_of_all_scenarios_where_the_scenario_is_an_axis(tmp_path: Path) -> None:
    folder = report_sweep.make(tmp_path / "s", ["ff_ippo"], configurations=1, seeds=1, scenario_mode="axis")
    for number, curve in enumerate([[100.0, 50.0, 50.0, 50.0, 50.0], [100.0, 94.0, 88.0, 82.0, 76.0]]):
        trial = folder / f"demo-{number:08x}"
        rows: list[dict[str, object]] = [
            {"evaluation": place, "step": 100 * place, "seed": 0, "evaluate": {"episode_return": value},
             "se": {"episode_return": 0.1}} | ({} if place else {"untrained": True})
            for place, value in enumerate(curve)
        ]  # fmt: skip
        rows.append({"step": 400, "seed": 0, "final": True, "evaluate": {"episode_return": curve[-1]},
                     "se": {"episode_return": 0.1}})  # fmt: skip
        (trial / "metrics" / "metrics.jsonl").unlink()
        append_metrics(trial, *rows)
    results.write_index(folder)
    update_journal(folder)
    assert study_of(folder, "ff_ippo").best_trial.user_attrs["trial_id"] == "demo-00000000"


def test_the_optimism_gap_is_of_all_seeds_that_chose_a_configuration(tmp_path: Path) -> None:
    folder = report_sweep.make(tmp_path / "s", ["ff_ippo"], ["p-base"], configurations=1, seeds=1)
    report_sweep.rewrite(folder, 0, [40.0])
    again = report_sweep.record_of(1, "ff_ippo", "p-base", 0, 1, seed=1)
    report_sweep.write_trial(folder, again, [60.0])
    test = report_sweep.record_of(2, "ff_ippo", "p-base", 0, 2, promoted_from="demo-00000000", seed=1_000_000_000)
    report_sweep.write_trial(folder, test, [49.0, 51.0])
    results.write_index(folder)
    assert results.load_index(folder)["optimism_gap"].dropna().tolist() == [0.0]


@pytest.mark.filterwarnings("ignore:PedAnova")
def test_importance_over_a_scenario_axis_is_that_of_the_study(tmp_path: Path) -> None:
    """Optuna's dashboard estimates over the study's COMPLETE trials, whatever their scenario."""
    folder = report_sweep.make(tmp_path / "s", ["ff_ippo"], configurations=30, seeds=1, scenario_mode="axis")
    made = load(folder)
    update_journal(folder)
    found = {one: hyperparameters.importance(made, "ff_ippo", one) for one in made.scenarios}
    assert found["p-base"] == found["p-no-rank"]
    study = study_of(folder, "ff_ippo")
    theirs = optuna.importance.get_param_importances(
        study,
        evaluator=optuna.importance.PedAnovaImportanceEvaluator(),
        target=lambda trial: -float(trial.value or 0.0),
    )
    assert len(found["p-base"].shares) == len(theirs)
    assert sorted(found["p-base"].shares.values()) == pytest.approx(sorted(theirs.values()))
