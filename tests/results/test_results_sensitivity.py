"""The sensitivity card of sweeps: what counts, the tables, the command, the report's section."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import report_sweep

import results
from jax_party.errors import RecordError
from jax_party.judging.objectives import Objective
from jax_party.trial.folder import read_record
from jax_party.trial.record import Takeover
from jax_party.trial.states import State
from results.analysis.sensitivity import cards_of, main
from results.report.load import load
from results.report.page import render
from results.report.sensitivity import section, sensitivity_charts

EXACT = 1e-9
#: Configuration -> its score in each scenario. By hand: 25/24 tuned per scenario, 5/8 for one, 5/12 of sensitivity.
BY_HAND = [[0.0, 6.0], [10.0, 5.0], [20.0, 2.0]]
SCENARIOS = ("p-base", "p-no-rank")


def number_of(configuration: int, where: int, algorithms: int = 1, place: int = 0) -> int:
    return (configuration * algorithms + place) * len(SCENARIOS) + where


def make(folder: Path, scores: Any = BY_HAND, sign: float = 1.0, **settings: Any) -> Path:
    """A sweep of one algorithm whose three seeds are a tenth above, at, and below each of these scores."""
    settings = {"algorithms": ("ff_ippo",), "configurations": len(scores), **settings}
    report_sweep.make(folder, **settings)
    for configuration, of_scenarios in enumerate(scores):
        for where, score in enumerate(of_scenarios):
            finals = [sign * (score + tenth) for tenth in (-0.1, 0.0, 0.1)]
            report_sweep.rewrite(folder, number_of(configuration, where), finals)
    return folder


def collected(folder: Path) -> Path:
    results.write_index(folder)
    return folder


def again(folder: Path, number: int, of: int, finals: list[float], **changes: Any) -> None:
    """A further trial of another's configuration and scenario."""
    record = read_record(folder / f"demo-{of:08x}")
    other = dataclasses.replace(record, trial_id=f"demo-{number:08x}", number=number, **changes)
    report_sweep.write_trial(folder, other, finals)


def test_a_sweep_gives_what_a_hand_computation_gives(tmp_path: Path) -> None:
    folder = collected(make(tmp_path / "demo"))
    (row,) = results.sensitivity_card(folder).to_dict("records")
    assert (row["algorithm"], row["scenarios"], row["configurations"], row["seeds"]) == ("ff_ippo", 2, 3, 3)
    assert row["tuned_per_scenario"] == pytest.approx(25 / 24, abs=EXACT)
    assert row["one_for_all"] == pytest.approx(5 / 8, abs=EXACT)
    assert row["sensitivity"] == pytest.approx(5 / 12, abs=EXACT)
    assert row["sensitivity_low"] < row["sensitivity"] < row["sensitivity_high"]
    assert (row["left_out"], row["method"]) == (0, None) and "too few" in row["why"]
    by_scenario = results.sensitivity_card(folder, by="scenario").set_index("scenario")
    assert by_scenario["best_score"].tolist() == pytest.approx([20.0, 6.0], abs=EXACT)
    assert by_scenario["score"].tolist() == pytest.approx([10.0, 5.0], abs=EXACT)
    assert by_scenario["loss"].tolist() == pytest.approx([10 / 18, 1 / 3.6], abs=EXACT)
    index = results.load_index(folder).set_index("trial_id")
    assert set(by_scenario["configuration"]) == {index.loc[f"demo-{number_of(1, 0):08x}", "configuration"]}


def test_where_less_is_better_the_lowest_scores_are_best(tmp_path: Path) -> None:
    folder = collected(make(tmp_path / "demo", sign=-1.0, objective=Objective("episode_return", "min")))
    assert results.sensitivity_card(folder)["sensitivity"].tolist() == pytest.approx([5 / 12], abs=EXACT)
    by_scenario = results.sensitivity_card(folder, by="scenario")
    assert by_scenario["best_score"].tolist() == pytest.approx([-20.0, -6.0], abs=EXACT)


def test_a_seed_counts_once_and_further_seeds_are_pooled(tmp_path: Path) -> None:
    folder = make(tmp_path / "demo")
    again(folder, 50, of=0, finals=[-0.1, 0.0, 0.1])  # the same seeds
    again(folder, 51, of=0, finals=[3.0, 3.0, 3.0], seed=100)
    found = cards_of(results.load_index(collected(folder)), folder).played["ff_ippo"]
    assert sorted(len(seeds) for of_scenarios in found.scores for seeds in of_scenarios) == [3, 3, 3, 3, 3, 6]
    (pooled,) = (seeds for of_scenarios in found.scores for seeds in of_scenarios if len(seeds) == 6)
    assert sorted(pooled) == pytest.approx([-0.1, 0.0, 0.1, 3.0, 3.0, 3.0])


def test_what_was_not_played_to_the_end_in_every_scenario_is_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = make(tmp_path / "demo", [*BY_HAND, [99.0, 99.0], [88.0, 88.0]])
    report_sweep.change(folder / f"demo-{number_of(3, 1):08x}", state=State.FAILED, error="OOM")
    moved = (Takeover(200, "demo-00000000", 300, {"system.actor_lr": 0.5}),)
    report_sweep.change(folder / f"demo-{number_of(4, 0):08x}", lineage=moved)
    again(folder, 60, of=0, finals=[500.0], promoted_from="demo-00000000", seed=1000, num_seeds=1)
    collected(folder)
    (row,) = results.sensitivity_card(folder).to_dict("records")
    assert (row["configurations"], row["left_out"]) == (3, 2)
    assert row["sensitivity"] == pytest.approx(5 / 12, abs=EXACT)
    assert main([str(folder)]) == 0
    assert "ff_ippo: 2 configurations are left out: not played to the end in every scenario." in capsys.readouterr().out


def grid_of(folder: Path) -> Path:
    """A 2 × 2 grid whose two hyperparameters have to be tuned for one scenario each."""
    scores = [[0.8, 0.8], [0.2, 1.0], [1.0, 0.2], [0.0, 0.0]]
    report_sweep.make(folder, algorithms=("ff_ippo",), configurations=4)
    for configuration, of_scenarios in enumerate(scores):
        for where, score in enumerate(of_scenarios):
            number = number_of(configuration, where)
            record = read_record(folder / f"demo-{number:08x}")
            values = {"system.actor_lr": (0.1, 0.2)[configuration // 2], "system.clip_eps": "xy"[configuration % 2]}
            report_sweep.change(folder / record.trial_id, hyperparameters=values)
            report_sweep.rewrite(folder, number, [score] * 3)
    return collected(folder)


def test_a_grid_tells_what_hangs_on_each_hyperparameter(tmp_path: Path) -> None:
    folder = grid_of(tmp_path / "demo")
    (row,) = results.sensitivity_card(folder).to_dict("records")
    assert (row["dimensions"], row["hyperparameters"], row["method"]) == (2.0, 2, "grid")
    assert row["tuned"] == "system.actor_lr, system.clip_eps"
    effects = results.sensitivity_card(folder, by="hyperparameter")
    assert effects["hyperparameter"].tolist() == ["system.actor_lr", "system.clip_eps"]
    assert effects["swing"].tolist() == pytest.approx([0.2 / 0.94] * 2, abs=EXACT)
    assert effects["left_alone_high"].tolist() == pytest.approx([0.1 / 0.94] * 2, abs=EXACT)
    curve = results.sensitivity_card(folder, by="tuned")
    assert curve["score"].tolist() == pytest.approx([(x - 0.03) / 0.94 for x in (0.8, 0.9, 1.0)], abs=EXACT)


def test_the_command_prints_the_card(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(grid_of(tmp_path / "demo"))]) == 0
    said = capsys.readouterr().out
    assert "Sensitivity over p-base, p-no-rank" in said and "0.213 [0.213, 0.213]" in said
    assert (
        "ff_ippo: 95 % is reached by tuning 2 of 2 hyperparameters per scenario: system.actor_lr, system.clip_eps "
        "(of configurations that were played)." in said
    )


def test_algorithms_are_normalised_together(tmp_path: Path) -> None:
    folder = collected(report_sweep.make(tmp_path / "demo", configurations=4))
    table = results.sensitivity_card(folder).set_index("algorithm")
    # MAPPO is 5 above IPPO; of 15, 17, 19, 20, 21, 22, 24, 26 the percentiles are 15.7 and 25.3.
    gap = table.loc["ff_mappo", "one_for_all"] - table.loc["ff_ippo", "one_for_all"]
    assert gap == pytest.approx(5 / 9.6, abs=EXACT)
    assert table["sensitivity"].tolist() == pytest.approx([0.0, 0.0], abs=EXACT)


def test_one_scenario_is_one_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = collected(report_sweep.make(tmp_path / "demo", scenarios=("p-base",)))
    assert main([str(folder)]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == (
        f"error: {folder}: one scenario, p-base; sensitivity is told over several: make sweep SCENARIO=a,b\n"
    )


def test_no_configuration_in_common_is_an_error(tmp_path: Path) -> None:
    folder = make(tmp_path / "demo")
    for configuration in range(2):
        report_sweep.change(folder / f"demo-{number_of(configuration, 1):08x}", state=State.FAILED, error="OOM")
    with pytest.raises(RecordError, match="no algorithm has 2 configurations that were played to the end in all of p-"):
        results.sensitivity_card(collected(folder))


def test_an_unknown_table_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match="by: 'seed' is no table of the sensitivity card; use one of algorithm, "):
        results.sensitivity_card(tmp_path, by="seed")


def test_the_report_has_a_section_where_there_are_scenarios(tmp_path: Path) -> None:
    data = load(grid_of(tmp_path / "several"))
    charts = list(sensitivity_charts(data, section(data)))
    assert [chart.name for chart in charts] == ["sensitivity-plane", "sensitivity-tuned", "sensitivity-effects"]
    (point, line), (curve,), (effects,) = (chart.figure.data for chart in charts)
    assert (point.x[0], point.y[0]) == pytest.approx((0.2 / 0.94, 0.97 / 0.94), abs=EXACT)
    assert line.y[0] == pytest.approx(0.77 / 0.94, abs=EXACT)
    assert list(curve.x) == [0, 1, 2] and list(effects.y) == ["actor_lr", "clip_eps"]
    page = render(data)
    assert '<section id="sensitivity">' in page and '<a href="#sensitivity">' in page
    assert "2 [2, 2] of 2" in page and 'data-chart="sensitivity-plane"' in page
    alone = render(load(report_sweep.make(tmp_path / "alone", scenarios=("p-base",))))
    assert "sensitivity" not in alone.split("<script", 1)[0]


def test_the_section_says_why_it_is_empty(tmp_path: Path) -> None:
    data = load(make(tmp_path / "demo", BY_HAND[:1]))
    found = section(data)
    assert found is not None and found.cards is None and list(sensitivity_charts(data, found)) == []
    assert found.why.startswith("no algorithm has 2 configurations")
    assert f'<p class="note">{found.why}</p>' in render(data)
