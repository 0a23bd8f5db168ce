"""What the report says, against what was put into a synthetic sweep."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import report_sweep
import yaml
from scipy import stats

import results
from jax_party.errors import RecordError
from jax_party.judging.objectives import Objective
from jax_party.store.storage import store_of
from jax_party.trial.folder import read_record
from jax_party.trial.record import Span, Takeover
from jax_party.trial.states import State
from results.report import (
    comparison,
    game,
    health,
    hyperparameters,
    leaderboard,
    learning,
    page,
    paper,
    population,
    theme,
)
from results.report.data import ALL, BEST, SweepData
from results.report.load import load
from results.report.write import main, write_report

ROOT = Path(__file__).parents[2]
SCENARIOS = ROOT / "mava_configs" / "env" / "scenario"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = report_sweep.make(tmp_path_factory.mktemp("report") / "sweep")
    report_sweep.add_incidents(made)
    return made


@pytest.fixture(scope="module")
def data(folder: Path) -> SweepData:
    return load(folder)


def payload_of(text: str) -> dict[str, Any]:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)
    assert found is not None
    decoded: dict[str, Any] = json.loads(found[1])
    return decoded


# -- The leaderboard ---------------------------------------------------------------------------------------------------


def test_the_leaderboard_orders_configurations_and_tells_their_seeds(data: SweepData) -> None:
    rows = leaderboard.rows(data)
    assert [(row["place"], row["algorithm"], row["scenario"]) for row in rows[:6]] == [
        (1, "ff_mappo", "p-base"), (1, "ff_mappo", "p-no-rank"), (2, "ff_mappo", "p-base"),
        (2, "ff_mappo", "p-no-rank"), (3, "ff_mappo", "p-base"), (3, "ff_mappo", "p-no-rank"),
    ]  # fmt: skip
    # ff_mappo scores 25, 26, 27, ten times as much there; t(0.975, 2) = 4.3027, s = 10.
    half = 4.302653 * 10 / np.sqrt(3)
    assert rows[1]["score"] == (f"260 [{260 - half:.4g}, {260 + half:.4g}]", 260.0)
    assert rows[1]["seeds"] == 3 and rows[1]["state"] == "COMPLETE"
    assert rows[1]["cost"] == ("2 min", pytest.approx(1 / 30))


@pytest.fixture(scope="module")
def robust(tmp_path_factory: pytest.TempPathFactory) -> SweepData:
    """A sweep in which configurations count by their mean over scenarios; the first was tested on fresh seeds."""
    folder = report_sweep.make(
        tmp_path_factory.mktemp("robust") / "s", ["ff_ippo"], configurations=9, scenario_mode="mean"
    )
    # The second configuration is best in p-base (25 for 21), and in the mean over scenarios far from it.
    report_sweep.rewrite(folder, 2, [24.0, 25.0, 26.0])
    for number, origin, finals in ((100, 0, [10.0, 14.0]), (101, 1, [150.0, 170.0])):
        scenario = ("p-base", "p-no-rank")[origin]
        fresh = report_sweep.record_of(number, "ff_ippo", scenario, 0, 2, promoted_from=f"demo-{origin:08x}", seed=1000)
        report_sweep.write_trial(folder, fresh, finals)
    return load(folder)


def test_a_leaderboard_over_scenarios_has_a_row_a_configuration(robust: SweepData) -> None:
    rows = leaderboard.rows(robust)
    assert [row["place"] for row in rows] == list(range(1, 10)) and {row["scenario"] for row in rows} == {"*"}
    assert [row["score"][1] for row in rows[:3]] == [115.5, 107.5, 93.5]  # of 21 and 210; 25 and 190; 17 and 170
    # Seeds of p-base are 1 apart, those of p-no-rank 10: (1 + 100) / 3 of the means' variances, Welch's freedom.
    freedom = (1 / 3 + 100 / 3) ** 2 / ((1 / 3) ** 2 / 2 + (100 / 3) ** 2 / 2)
    half = stats.t.ppf(0.975, freedom) * np.sqrt(101 / 3) / 2
    assert rows[0]["score"][0] == f"115.5 [{115.5 - half:.4g}, {115.5 + half:.4g}]" and rows[0]["seeds"] == 3
    assert (rows[0]["fresh_value"], rows[0]["fresh_seeds"], rows[0]["gap"][1]) == (86.0, 2, 29.5)
    assert rows[0]["state"] == "2 COMPLETE" and rows[0]["cost"][0] == "4 min"
    assert {"p-base config", "p-no-rank checkpoint"} <= set(dict(rows[0]["links"]))


def test_the_best_over_scenarios_is_the_same_in_each(robust: SweepData) -> None:
    assert len({one.name for one in robust.best.values()}) == 1 and len(robust.best) == 2
    assert robust.best["ff_ippo", "p-base"].score == 21.0, "another one is better there"
    charts = {chart.name: chart for chart in leaderboard.leaderboard_charts(robust)}
    assert charts["leaders-mean-over-scenarios"].scenario == "*"
    assert charts["leaders-mean-over-scenarios"].figure.data[0].x == (115.5,)


def test_hyperparameters_are_seen_by_the_mean_over_scenarios(robust: SweepData) -> None:
    table = hyperparameters.table(robust)["ff_ippo"]
    assert table["scenario"][:9] == ["*"] * 9 and table["score"][0] == 115.5 and len(table["score"]) == 27
    found = hyperparameters.importances(robust)["ff_ippo"]
    assert set(found) == {"*", "p-base", "p-no-rank"} and found["*"].evaluator == "PED-ANOVA"


def test_a_configuration_that_is_not_played_everywhere_yet_comes_last(tmp_path: Path) -> None:
    folder = report_sweep.make(tmp_path / "s", ["ff_ippo"], scenario_mode="mean")
    report_sweep.change(folder / "demo-00000001", state=State.FAILED, error="oops")
    rows = leaderboard.rows(load(folder))
    assert [row["scenario"] for row in rows] == ["*", "*", "p-base", "p-no-rank"]
    assert [row["place"] for row in rows] == [1, 2, 1, 1]


def test_a_front_over_scenarios_is_one_of_means(tmp_path: Path) -> None:
    objective = Objective("episode_return", "max", others=(("equality", "max"),))
    made = load(report_sweep.make(tmp_path / "s", ["ff_ippo"], objective=objective, scenario_mode="mean"))
    (chart,) = game.front_charts(made)
    points, front = chart.figure.data
    assert chart.scenario == "*" and sorted(points.x) == [93.5, 104.5, 115.5] and front.x == (115.5,)


def test_a_promoted_configuration_has_its_fresh_score_and_gap(data: SweepData) -> None:
    row = next(row for row in leaderboard.rows(data) if row["fresh_seeds"])
    assert (row["algorithm"], row["scenario"], row["fresh_seeds"]) == ("ff_ippo", "p-base", 10)
    assert row["fresh_value"] == 22.5 and row["fresh"].startswith("22.5 [")  # the middle six of 18 to 27
    assert row["gap"][1] == pytest.approx(21 - 22.5)  # the search's seeds were 20, 21, 22


def test_links_lead_from_the_page_to_the_trials_files(data: SweepData, folder: Path) -> None:
    of_first = dict(leaderboard.rows(data)[0]["links"])
    assert (folder / of_first["config"]).is_file() and (folder / of_first["record"]).is_file()
    assert of_first["checkpoint"].endswith("checkpoints/400")


def test_another_aggregate_than_the_intervals_is_told(tmp_path: Path) -> None:
    objective = Objective("episode_return", "max", "min")
    made = load(report_sweep.make(tmp_path / "s", configurations=1, objective=objective))
    row = next(row for row in leaderboard.rows(made) if (row["algorithm"], row["scenario"]) == ("ff_ippo", "p-base"))
    assert row["score"][0].startswith("20; mean 21 [") and row["score"][1] == 20.0


# -- Curves ------------------------------------------------------------------------------------------------------------


def test_the_best_configurations_curve_is_over_its_fresh_seeds(data: SweepData) -> None:
    steps, band = learning.band_of(data, BEST, "ff_ippo", "p-base", "episode_return")
    assert steps.tolist() == [100, 200, 300, 400]
    assert band.value == pytest.approx([22.5 / 4, 22.5 / 2, 22.5 * 3 / 4, 22.5])
    steps, band = learning.band_of(data, BEST, "ff_mappo", "p-base", "episode_return")
    assert band.value[-1] == pytest.approx(26.0)
    assert band.high[-1] - 26.0 == pytest.approx(4.302653 / np.sqrt(3), rel=1e-5)


def test_all_configurations_are_in_the_other_curve(data: SweepData) -> None:
    _, band = learning.band_of(data, ALL, "ff_mappo", "p-no-rank", "episode_return")
    assert band.value[-1] == pytest.approx(240.0)  # 260, 240 and 220: none is cut of three
    assert (band.low[-1], band.high[-1]) == (pytest.approx(230.0), pytest.approx(250.0))


def test_a_trial_that_ended_early_keeps_its_last_value_and_a_running_one_does_not(tmp_path: Path) -> None:
    made = report_sweep.make(tmp_path / "s", algorithms=["ff_ippo"], scenarios=["p-base"], configurations=1, seeds=1)
    for number, state in ((1, State.PRUNED), (2, State.RUNNING)):
        record = report_sweep.record_of(number, "ff_ippo", "p-base", number, 1, state=state, ended_at=None)
        report_sweep.write_trial(made, record, [8.0], steps=(100, 200))
    table = load(made).curves(ALL, "ff_ippo", "p-base", "episode_return")
    assert table["demo-00000001"].tolist() == [2.0, 4.0, 4.0, 4.0]
    assert table["demo-00000002"].dropna().tolist() == [2.0, 4.0]


def test_sample_efficiency_is_the_first_step_that_far_up(data: SweepData) -> None:
    found = learning.efficiency(data, BEST, "p-no-rank")
    # Curves of ff_mappo go 65, 130, 195, 260, and of ff_ippo 52.5, 105, 157.5, 210: 0 is 52.5, 1 is 260.
    shares = [round(float(one), 2) for one in learning.FRACTIONS]
    assert found["ff_mappo"][shares.index(0.05)] == 100 and found["ff_mappo"][shares.index(0.35)] == 200
    assert found["ff_mappo"][shares.index(1.0)] == 400
    assert found["ff_ippo"][shares.index(0.75)] == 400 and np.isnan(found["ff_ippo"][shares.index(0.8)])


# -- Comparison --------------------------------------------------------------------------------------------------------


def test_algorithms_are_compared_on_scores_that_are_scaled_a_scenario(data: SweepData) -> None:
    found = comparison.rivals(data, ALL, "*")
    assert found.scaled
    # p-base: ff_ippo 21, 19 (the third failed), 17 would be; ff_mappo 26, 24, 22.
    ippo, mappo = found.scores["ff_ippo"], found.scores["ff_mappo"]
    assert mappo[1] == pytest.approx([1.0, 7 / 9, 5 / 9]) and ippo[1] == pytest.approx([4 / 9, 2 / 9, 0.0])
    raw = comparison.rivals(data, BEST, "p-base")
    assert not raw.scaled and raw.scores["ff_mappo"][0].tolist() == [25.0, 26.0, 27.0]


def test_the_likelier_of_a_pair_stands_first(data: SweepData) -> None:
    found = comparison.improvements(comparison.rivals(data, BEST, "p-no-rank"))
    assert {pair: one.value for pair, one in found.items()} == {("ff_mappo", "ff_ippo"): 1.0}


def test_less_is_better_where_the_objective_says_so(tmp_path: Path) -> None:
    objective = Objective("episode_return", "min")
    made = load(report_sweep.make(tmp_path / "s", objective=objective))
    assert leaderboard.rows(made)[0]["score"][1] == 17.0  # ff_ippo's last configuration in p-base: 16, 17, 18
    found = comparison.improvements(comparison.rivals(made, BEST, "p-base"))
    assert list(found) == [("ff_ippo", "ff_mappo")]
    row = comparison.heat_map(made)[0]
    assert [(cell.value, cell.place) for cell in row] == [(17.0, 1.0), (22.0, 0.0)]


def test_the_heat_map_has_a_cell_for_each_algorithm_and_scenario(data: SweepData) -> None:
    rows = comparison.heat_map(data)
    assert [[cell.value for cell in row] for row in rows] == [[21.0, 26.0], [210.0, 260.0]], "one alone was promoted"
    assert [[cell.place for cell in row] for row in rows] == [[0.0, 1.0], [0.0, 1.0]]


# -- Hyperparameters ---------------------------------------------------------------------------------------------------


def test_axes_are_as_the_search_space_has_them(data: SweepData) -> None:
    found = {axis.name: (axis.kind, axis.log) for axis in hyperparameters.axes(data, "ff_ippo")}
    assert found == {"actor_lr": ("number", True), "clip_eps": ("category", False), "gae_lambda": ("number", False)}


@pytest.mark.parametrize("trials", [24, 120])
def test_what_decides_the_score_is_the_most_important(trials: int, tmp_path: Path) -> None:
    made = report_sweep.make(tmp_path / "s", ["ff_ippo"], ["p-base"], configurations=0)
    rng = np.random.default_rng(0)
    for number in range(trials):
        values = {"system.actor_lr": 10 ** rng.uniform(-4, -1), "system.clip_eps": float(rng.choice([0.1, 0.2, 0.3])),
                  "system.gae_lambda": rng.uniform(0.9, 1.0)}  # fmt: skip
        record = report_sweep.record_of(number, "ff_ippo", "p-base", 0, 1, hyperparameters=values)
        report_sweep.write_trial(made, record, [-abs(np.log10(values["system.actor_lr"]) + 2.5)])
    found = hyperparameters.importance(load(made), "ff_ippo", "p-base")
    assert found.evaluator == "PED-ANOVA" and ("uncertain below 50" in found.why) == (trials == 24)
    assert next(iter(found.shares)) == "system.actor_lr" and found.shares["system.actor_lr"] > 0.6
    assert sum(found.shares.values()) == pytest.approx(1.0)


def test_few_trials_have_no_importance(data: SweepData) -> None:
    found = hyperparameters.importance(data, "ff_ippo", "p-no-rank")
    assert not found.shares and found.why == "3 trials have a score; importances need 8"


# -- The game, and health ----------------------------------------------------------------------------------------------


def test_ranks_that_cannot_change_are_named_by_the_settings_of_the_trials(tmp_path: Path) -> None:
    made = report_sweep.make(tmp_path / "sweep", scenarios=("p-base", "p-contest"), configurations=2, seeds=1)
    assert game.ranks(load(made)) is None, "configs that do not tell"
    for number, record in enumerate(map(read_record, sorted(made.glob("demo-*")))):
        scenario = yaml.safe_load((SCENARIOS / f"{record.scenario}.yaml").read_text())
        if number == 0:
            scenario["task_config"]["rank_reward"] = 1.0  # of one of p-base's four trials
        config = {"system": {"name": record.algorithm}, "arch": {"num_devices": 1}, "env": {"scenario": scenario}}
        (made / record.trial_id / "config.yaml").write_text(yaml.safe_dump(config))
    data = load(made)
    note = (
        "p-base: ranks never change in 3 of 4 trials (a place is worth 10 per step, payoffs differ by at most 5); "
        "begin a new study with p-contest"
    )
    assert game.ranks(data) == note
    assert f'<h2>The game</h2>\n<p class="note">{note}.</p>' in page.render(data)
    columns = [name for name in data.index.columns if name.startswith("config.env.scenario.task_config.payoff")]
    assert len(columns) == 4
    assert game.ranks(dataclasses.replace(data, index=data.index.drop(columns=columns))) is None


def test_outcome_shares_are_the_final_ones(data: SweepData) -> None:
    found = game.outcome_shares(data, BEST, "p-base")
    expected = {"outcome_share_cc": 0.7, "outcome_share_cd": 0.2, "outcome_share_dd": 0.1}
    assert found == {"ff_ippo": pytest.approx(expected), "ff_mappo": pytest.approx(expected)}


def test_the_front_of_several_objectives_is_drawn(tmp_path: Path) -> None:
    objective = Objective("episode_return", "max", others=(("equality", "max"),))
    made = load(report_sweep.make(tmp_path / "s", ["ff_ippo"], ["p-base"], objective=objective))
    (chart,) = game.front_charts(made)
    front = chart.figure.data[-1]
    assert list(front.text) == ["demo-00000000"] and front.x[0] == pytest.approx(21.0)


def test_lanes_are_as_few_as_trials_go_on_at_once() -> None:
    assert health.lanes([(0, 5), (1, 2), (2, 3), (3, 9), (4, 6), (5, 7)]) == [0, 1, 1, 1, 2, 0]


def test_the_timeline_is_in_minutes_since_the_first_start(data: SweepData) -> None:
    """Of records that tell no spans: as if the host had had one worker."""
    rows = health.timeline(data).set_index("trial_id")
    third = rows.loc["demo-00000002"]
    assert (third["start"], third["end"], third["worker"]) == (2.0, 4.0, "alpha · 1.1")
    assert set(rows["worker"]) == {"alpha · 1.1", "alpha · 1.2"}


def test_the_timeline_has_a_row_a_worker_and_gaps_for_pauses(tmp_path: Path) -> None:
    def span(worker: str, start: int, end: int) -> Span:
        return Span(worker, *(f"2026-01-02T03:{minute:02d}:00+00:00" for minute in (start, end)))

    folder = report_sweep.make(tmp_path / "s", ["ff_ippo"], ["p-base"])
    spans = {
        0: (span("alpha:11", 4, 6), span("alpha:11", 8, 9)),  # paused
        1: (span("alpha:11", 6, 8), span("beta:11", 9, 10)),  # its worker died
        2: (span("alpha:12", 4, 9),),
    }
    for number, of_trial in spans.items():
        report_sweep.change(folder / f"demo-{number:08x}", spans=of_trial)
    report_sweep.change(folder / "demo-00000001", spans=(*spans[1], span("alpha:12", 5, 7)))  # side by side
    rows = health.timeline(load(folder))
    found = {(row["worker"], row["trial_id"][-1], row["start"], row["end"]) for row in rows.to_dict("records")}
    assert found == {
        ("alpha · 1", "0", 0.0, 2.0), ("alpha · 1", "1", 2.0, 4.0), ("alpha · 1", "0", 4.0, 5.0),
        ("alpha · 2.1", "2", 0.0, 5.0), ("alpha · 2.2", "1", 1.0, 3.0), ("beta · 1", "1", 5.0, 6.0),
    }  # fmt: skip


def test_tiles_and_the_table_tell_what_went_wrong(data: SweepData) -> None:
    tiles = {tile.what: tile.value for tile in health.tiles(data)}
    assert (tiles["COMPLETE"], tiles["FAILED"], tiles["tried again after a fault"]) == ("12", "1", "1")
    assert tiles["GPU time"] == "none" and tiles["device time"] == "26 min"
    assert tiles["compile cache hits (last starts)"] == "12 of 13"
    rows = health.trial_rows(data, 500)
    assert [row["trial"] for row in rows[:2]] == ["demo-00000004", "demo-00000005"]
    assert "out of memory" in rows[0]["why"] and "died" in rows[1]["why"] and len(rows) == 13


def test_lineage_is_told(data: SweepData) -> None:
    (one,) = population.lineage(data)
    assert (one["trial"], one["source"], one["step"], one["source_step"]) == (
        "demo-00000006", "demo-0000000a", 200, 300,
    )  # fmt: skip
    (chart,) = population.lineage_charts(data)
    lives, joins, marks = chart.figure.data
    assert joins.x == (300, 200, None) and joins.y == ("trial 10", "trial 6", None)
    assert marks.x == (200,) and marks.y == ("trial 6",) and "from trial 10 at its step 300" in marks.text[0]
    assert set(lives.y) - {None} == set(chart.figure.layout.yaxis.categoryarray)


# -- Looks -------------------------------------------------------------------------------------------------------------

#: Machado, Oliveira and Fernandes 2009, severity 1: how linear RGB looks to colour-blind readers.
BLINDNESS = {
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "tritanopia": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
}


def lab(colour: str, matrix: Any) -> np.ndarray:
    """CIE L*a*b* of a colour as a colour-blind reader sees it."""
    rgb = np.array([int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)])
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    seen = np.clip(np.asarray(matrix) @ linear, 0, 1)
    xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]) @ seen
    scaled = xyz / [0.9505, 1.0, 1.089]
    f = np.where(scaled > 0.008856, np.cbrt(scaled), 7.787 * scaled + 16 / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


@pytest.mark.parametrize("blindness", BLINDNESS)
def test_colour_blind_readers_tell_the_palette_apart(blindness: str) -> None:
    seen = [lab(colour, BLINDNESS[blindness]) for colour in theme.COLOURS]
    distances = [np.linalg.norm(a - b) for place, a in enumerate(seen) for b in seen[:place]]
    assert min(distances) > 8  # a difference of 2.3 is just seen


def test_thirteen_algorithms_differ_by_colour_or_dash() -> None:
    found = theme.styles([f"algorithm {number}" for number in range(18)])
    assert len({(style.colour, style.dash) for style in found.values()}) == 18


@pytest.mark.parametrize("theme_name", theme.SCALES)
@pytest.mark.parametrize("blindness", BLINDNESS)
def test_scores_are_told_apart_by_their_lightness(blindness: str, theme_name: str) -> None:
    lightness = [lab(colour, BLINDNESS[blindness])[0] for _, colour in theme.SCALES[theme_name]]
    assert min(np.diff(lightness)) > 10


def test_axes_of_shares_go_from_0_to_1(tmp_path: Path) -> None:
    folder = report_sweep.make(tmp_path / "sweep", configurations=2, objective=Objective("cooperation_rate", "max"))
    found = load(folder)
    charts = page.charts_of(found)
    ends: dict[str, set[Any]] = {}
    for chart in (chart for of_section in charts.values() for chart in of_section):
        for axis in (chart.figure.layout.xaxis, chart.figure.layout.yaxis):
            ends.setdefault(axis.title.text, set()).add(axis.range)
    share = {(-0.02, 1.02)}
    assert ends["cooperation rate<br>(share of actions)"] == ends["leader changes<br>(changes / step)"] == share
    assert ends["τ: cooperation rate<br>(share of actions)"] == share
    assert ends["welfare<br>(payoff / step, all agents)"] == {None}
    named = [chart.name for chart in charts["leaderboard"] if chart.figure.layout.xaxis.range == (-0.02, 1.02)]
    assert named == ["leaders-p-base", "leaders-p-no-rank"]
    payload = payload_of(page.render(found))
    assert payload["objective"]["range"] == [-0.02, 1.02]
    of_metrics = payload["charts"]["curves-best-p-base"]["metrics"]
    assert of_metrics["outcome_share_dd"]["range"] == [-0.02, 1.02] and of_metrics["episode_return"]["range"] is None
    on_paper = paper._curves(found, BEST, "cooperation_rate")
    assert on_paper is not None and {axis.get_ylim() for axis in on_paper.axes} == share


@pytest.mark.parametrize("place", [0.0, 0.25, 0.5, 0.75, 1.0])
def test_numbers_are_read_on_every_cell(place: float) -> None:
    background, text = page.cell_colours(place)
    luminances = sorted(lab(colour, np.eye(3))[0] for colour in (background, text))
    assert luminances[1] - luminances[0] > 40


def test_short_names_tell_keys_apart() -> None:
    found = theme.short_names(["system.actor_lr", "network.actor.size", "network.critic.size"])
    assert list(found.values()) == ["actor_lr", "actor.size", "critic.size"]


# -- The page ----------------------------------------------------------------------------------------------------------


def test_a_report_is_one_file_and_pictures(folder: Path) -> None:
    paths = write_report(folder)
    text = paths.page.read_text()
    names = {path.name for path in paths.plots}
    assert {"learning_episode_return.svg", "learning_episode_return.png", "profiles.svg", "heatmap.png"} <= names
    assert all(path.read_bytes()[:5] in (b"<?xml", b"\x89PNG\r") for path in paths.plots)
    outside = text.replace(page.get_plotlyjs(), "")
    assert "http://" not in outside and "https://" not in outside and "<script src" not in text
    assert "</script><b>" not in text and "&lt;/script&gt;&lt;b&gt;" in text


def test_equal_folders_give_equal_reports(folder: Path) -> None:
    first = {path: path.read_bytes() for path in (lambda one: [one.page, *one.plots])(write_report(folder))}
    write_report(folder)
    assert {path: path.read_bytes() for path in first} == first


def test_the_page_has_the_numbers(data: SweepData) -> None:
    payload = payload_of(page.render(data))
    table = payload["hyperparameters"]["ff_ippo"]
    assert table["score"] == [21.0, 210.0, 190.0, 17.0, 170.0]
    assert payload["charts"]["curves-best-p-base"]["metrics"]["cooperation_rate"]["title"].startswith(
        "cooperation rate<br>("
    )
    assert payload["importances"]["ff_ippo"]["p-base"]["why"].startswith("2 trials have a score")


def test_the_command_repeats_the_sweep() -> None:
    assert page.command("python -m launcher.sweep ALG=ippo SAMPLES=4") == "make sweep ALG=ippo SAMPLES=4"
    assert page.command("/some/.venv/bin/python -m launcher.sweep ALG=ippo") == "make sweep ALG=ippo"
    assert page.command("python -m jax_party.run -m system.seed=1,2") == "python -m jax_party.run -m system.seed=1,2"


@pytest.mark.parametrize(
    "options",
    [
        {"algorithms": ["ff_ippo"]},
        {"scenarios": ["p-base"]},
        {"algorithms": ["ff_ippo"], "scenarios": ["p-base"], "configurations": 1, "seeds": 1},
        {"seeds": 12, "configurations": 1},
        {"lineage": (Takeover(200, "demo-00000007", 300, {"system.actor_lr": 0.5}),)},
        {"objective": Objective("episode_return", "max", others=(("equality", "max"),))},
        {"scenario_mode": "mean"},
    ],
    ids=["one algorithm", "one scenario", "one trial", "many seeds", "population", "two objectives", "robust"],
)
def test_every_sweep_has_a_report(options: dict[str, Any], tmp_path: Path) -> None:
    made = load(report_sweep.make(tmp_path / "s", **options))
    payload = payload_of(page.render(made))
    assert f"curves-best-{made.scenarios[0]}" in payload["charts"]
    assert ("efficiency-best-all" in payload["charts"]) == (len(made.scenarios) > 1)
    assert (f"improvement-best-{made.scenarios[0]}" in payload["charts"]) == (len(made.algorithms) > 1)
    assert (f"front-{made.scenarios[0]}" in payload["charts"]) == (len(made.objective.metrics) > 1)


def test_a_sweep_of_failures_has_a_report(tmp_path: Path) -> None:
    made = report_sweep.make(tmp_path / "s", configurations=1)
    for trial in sorted(made.glob("demo-*")):
        report_sweep.change(trial, state=State.FAILED, error="no GPU")
    text = page.render(load(made))
    assert "No trial has a score yet." in text and text.count("no GPU") >= 4


def test_a_single_run_has_a_report(tmp_path: Path) -> None:
    record = report_sweep.record_of(0, "ff_ippo", "p-base", 0, 1, sweep=None)
    trial = report_sweep.write_trial(tmp_path, record, [20.0])
    paths = write_report(trial)
    assert "curves-best-p-base" in payload_of(paths.page.read_text())["charts"]


def test_tables_alone_are_enough(folder: Path, tmp_path: Path) -> None:
    results.write_index(folder)
    for name in ("index.parquet", "sweep.yaml"):
        shutil.copy(folder / name, tmp_path)
    shutil.copytree(folder / "evaluations.parquet", tmp_path / "evaluations.parquet")
    made = load(tmp_path)
    assert leaderboard.rows(made)[0]["score"] == ("26", 26.0)  # of three seeds, whose folder is not here


def test_a_sweep_on_object_storage_has_its_report_there(bucket: Path, tmp_path: Path) -> None:
    made = report_sweep.make(tmp_path / "s", ["ff_ippo"], ["p-base"], configurations=2)
    for path in (path for path in made.rglob("*") if path.is_file()):
        store_of(bucket).write_bytes(bucket / "s" / str(path.relative_to(made)), path.read_bytes())
    paths = write_report(str(bucket / "s"))
    assert "curves-best-p-base" in payload_of(store_of(paths.page).read_bytes(paths.page).decode())["charts"]
    assert "plots/profiles.svg" in store_of(bucket).files_below(bucket / "s")


# -- What cannot be reported -------------------------------------------------------------------------------------------


def test_what_is_no_sweep_is_one_line_and_exit_code_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], folder: Path
) -> None:
    empty, waiting = tmp_path / "empty", tmp_path / "waiting"
    empty.mkdir()
    report_sweep.make(waiting, configurations=1)
    for trial in waiting.glob("demo-*"):
        (trial / "metrics" / "metrics.jsonl").unlink()
        report_sweep.change(trial, state=State.RUNNING, absolute_metrics=None)
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "index.parquet").write_bytes(b"of a version to come")
    for place, expected in (
        (tmp_path / "nowhere", "no such folder; give a sweep's folder"),
        (empty, "no trials in it"),
        (waiting, "no evaluations yet (4 RUNNING); wait for one, then make report"),
        (broken, "make it anew: make collect"),
    ):
        assert main([str(place)]) == 2
        error = capsys.readouterr().err
        assert error.startswith("error: ") and expected in error and error.count("\n") == 1
        assert not (place / "report.html").exists()


def test_a_sweep_whose_plan_alone_is_there_says_so(tmp_path: Path) -> None:
    report_sweep.make(tmp_path / "s", configurations=0)
    with pytest.raises(RecordError, match="no trials in it; run the sweep first"):
        load(tmp_path / "s")


def test_it_needs_neither_jax_nor_ray(folder: Path) -> None:
    script = f"""
import sys
from results.report import write_report
write_report({str(folder)!r})
print(sorted({{"jax", "ray", "jumanji", "flax"}} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.stdout == "[]\n", done.stderr


def test_seeds_of_all_rounds_speak_for_a_configuration_once(tmp_path: Path) -> None:
    folder = report_sweep.make(tmp_path / "s", ["ff_ippo"], ["p-base"], configurations=2, seeds=2)
    for number, (seed, finals) in enumerate(((1000, [5.0, 7.0]), (1001, [99.0, 6.0])), start=100):
        test = report_sweep.record_of(number, "ff_ippo", "p-base", 0, 2, promoted_from="demo-00000000", seed=seed)
        report_sweep.write_trial(folder, test, finals)
    of_sweep = load(folder)
    (one,) = [one for one in of_sweep.configurations if one.fresh is not None]
    assert one.fresh_values == (5.0, 7.0, 6.0) and one.fresh is not None and one.fresh.value == 6.0
    curves = of_sweep.curves("best", "ff_ippo", "p-base", "episode_return")
    assert sorted(curves.iloc[-1]) == [5.0, 6.0, 7.0]
