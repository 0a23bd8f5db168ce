"""What `compare` and `list_sweeps` say of sweeps."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
import report_sweep
import synthetic_sweep
from scipy import stats

import results
from jax_party.errors import RecordError
from jax_party.judging.objectives import Objective
from jax_party.trial.folder import read_record, update_record, write_record
from jax_party.trial.manifest import read_manifest, write_manifest
from jax_party.trial.metrics import append_metrics
from jax_party.trial.states import State
from results import ls


def sweep_of(folder: Path, seeds: dict[int, list[float]], mode: str = "max", algorithm: str = "ff_mappo") -> Path:
    """A collected sweep whose trials have these values, one a seed."""
    synthetic_sweep.make_sweep(folder, trials=len(seeds))
    objective = Objective("episode_return", mode, at="best")
    write_manifest(folder, dataclasses.replace(read_manifest(folder), objective=objective))
    for number, values in seeds.items():
        trial = folder / synthetic_sweep.record_of(number).trial_id
        changes = {"objective": objective, "num_seeds": len(values), "algorithm": algorithm}
        write_record(trial, dataclasses.replace(read_record(trial), **changes))
        rows = [{"step": 300, "seed": seed, "absolute": True, "evaluate": {"episode_return": value}}
                for seed, value in enumerate(values)]  # fmt: skip
        (trial / "metrics" / "metrics.jsonl").unlink()
        append_metrics(trial, *rows)
    results.write_index(folder)
    return folder


def test_few_seeds_are_compared_by_means_and_welchs_t(tmp_path: Path) -> None:
    a = sweep_of(tmp_path / "a", {0: [1.0, 2.0, 3.0], 1: [0.0, 0.0, 0.0]})
    b = sweep_of(tmp_path / "b", {0: [3.0, 4.0, 8.0], 1: [9.0, 1.0, 2.0]})
    (row,) = results.compare(a, b).to_dict("records")
    assert (row["value_a"], row["value_b"], row["difference"], row["estimator"]) == (2.0, 5.0, 3.0, "mean")
    assert row["low_a"] == pytest.approx(2 - 4.302653 / math.sqrt(3))
    # Welch by hand: variances 1/3 and 7/3, degrees of freedom (8/3)² / ((1/3)²/2 + (7/3)²/2)
    half = stats.t.ppf(0.975, (8 / 3) ** 2 / (((1 / 3) ** 2 + (7 / 3) ** 2) / 2)) * math.sqrt(8 / 3)
    assert (row["difference_low"], row["difference_high"]) == (pytest.approx(3 - half), pytest.approx(3 + half))
    assert row["probability_of_improvement"] == pytest.approx(8.5 / 9)
    assert (row["n_a"], row["n_b"], row["seeds"]) == (3, 3, "searched")


def test_less_is_better_where_the_objective_says_so(tmp_path: Path) -> None:
    a = sweep_of(tmp_path / "a", {0: [1.0, 2.0]}, "min")
    b = sweep_of(tmp_path / "b", {0: [3.0, 4.0]}, "min")
    assert results.compare(a, b)["probability_of_improvement"].tolist() == [0.0]


def test_ten_seeds_are_compared_by_interquartile_means(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    values = [rng.normal(mean, 1.0, 12).tolist() for mean in (0.0, 3.0)]
    a, b = (sweep_of(tmp_path / name, {0: of_sweep}) for name, of_sweep in zip("ab", values, strict=True))
    (row,) = results.compare(a, b).to_dict("records")
    expected = [np.sort(one)[3:9].mean() for one in values]
    assert (row["estimator"], row["difference"]) == ("iqm", pytest.approx(expected[1] - expected[0]))
    assert 1.5 < row["difference_low"] < row["difference"] < row["difference_high"] < 5.0


def test_configurations_that_both_have_are_compared_one_by_one(tmp_path: Path) -> None:
    a = sweep_of(tmp_path / "a", {0: [1.0], 1: [5.0]})
    b = sweep_of(tmp_path / "b", {0: [2.0], 1: [9.0], 2: [7.0]})
    table = results.compare(a, b, by="configuration")
    assert sorted(table["difference"]) == [1.0, 4.0] and table["configuration_a"].equals(table["configuration_b"])
    assert table["difference_low"].isna().all()


def test_sweeps_of_unlike_algorithms_are_compared_pair_by_pair(tmp_path: Path) -> None:
    a, b = (sweep_of(tmp_path / name, {0: [1.0, 2.0]}, algorithm=name) for name in ("ff_ippo", "ff_sable"))
    assert results.compare(a, b)[["algorithm_a", "algorithm_b"]].to_numpy().tolist() == [["ff_ippo", "ff_sable"]]


def test_fresh_seeds_are_compared_where_both_have_them(tmp_path: Path) -> None:
    folders = []
    for name, fresh in (("a", 4.0), ("b", 6.0)):
        folder = sweep_of(tmp_path / name, {0: [50.0, 51.0], 1: [fresh, fresh + 1]})
        trial = folder / synthetic_sweep.record_of(1).trial_id
        origin = synthetic_sweep.record_of(0).trial_id
        write_record(trial, dataclasses.replace(read_record(trial), promoted_from=origin))
        results.write_index(folder)
        folders.append(folder)
    (row,) = results.compare(*folders).to_dict("records")
    assert (row["seeds"], row["value_a"], row["value_b"]) == ("fresh", 4.5, 6.5)


def test_the_best_keeps_to_the_constraints(tmp_path: Path) -> None:
    a, b = (sweep_of(tmp_path / name, {0: [50.0, 51.0], 1: [4.0, 5.0]}) for name in "ab")
    bound = Objective("episode_return", "max", constraints={"max_episode_return": 20.0}, at="best")
    for folder in (a, b):
        write_manifest(folder, dataclasses.replace(read_manifest(folder), objective=bound))
        for number in (0, 1):
            update_record(folder / synthetic_sweep.record_of(number).trial_id, objective=bound)
        results.write_index(folder)
    (row,) = results.compare(a, b).to_dict("records")
    assert (row["value_a"], row["value_b"]) == (4.5, 4.5)
    (listed, _) = results.list_sweeps(tmp_path)["best"]
    assert listed == 4.5


def test_sweeps_over_scenarios_are_compared_by_the_best_over_scenarios(tmp_path: Path) -> None:
    """Which is another than that of one scenario; and by the means of each seed."""
    folders = []
    for name, more in (("a", 0.0), ("b", 1.0)):
        folder = report_sweep.make(tmp_path / name, ["ff_ippo"], configurations=2, scenario_mode="mean")
        report_sweep.rewrite(folder, 2, [24.0 + more, 25.0 + more, 26.0 + more])
        report_sweep.rewrite(folder, 0, [20.0 + more, 21.0 + more, 22.0 + more])
        results.write_index(folder)
        folders.append(folder)
    rows = {row["scenario"]: row for row in results.compare(*folders).to_dict("records")}
    assert set(rows) == {"p-base", "p-no-rank", "mean of p-base, p-no-rank"}
    assert len({row["configuration_a"] for row in rows.values()}) == 1
    assert (rows["p-base"]["value_a"], rows["p-base"]["value_b"]) == (21.0, 22.0), "not 25, of another one"
    of_mean = rows["mean of p-base, p-no-rank"]
    assert (of_mean["value_a"], of_mean["value_b"], of_mean["n_a"]) == (115.5, 116.0, 3)
    assert results.list_sweeps(tmp_path)["best"].tolist() == [116.0, 115.5]


def test_the_best_is_the_searchs_and_told_by_fresh_seeds(tmp_path: Path) -> None:
    """One that does better on its fresh seeds does not take its place: they would have chosen it."""
    folder = report_sweep.make(tmp_path / "s", ["ff_ippo"], ["p-base"], configurations=2, seeds=2)
    for number, finals in enumerate(([10.0, 11.0, 12.0], [15.0, 16.0, 17.0])):
        test = report_sweep.record_of(
            100 + number, "ff_ippo", "p-base", number, 3, promoted_from=f"demo-{number:08x}", seed=1000
        )
        report_sweep.write_trial(folder, test, finals)
    results.write_index(folder)
    (row,) = results.compare(folder, folder).to_dict("records")
    assert (row["value_a"], row["n_a"], row["seeds"]) == (11.0, 3, "fresh")
    assert results.compare(folder, folder, by="configuration")["value_b"].tolist() in ([11.0, 16.0], [16.0, 11.0])


def test_the_best_is_that_of_the_sweeps_aggregate(tmp_path: Path) -> None:
    objective = Objective("episode_return", "max", "min")
    folder = report_sweep.make(tmp_path / "s", ["ff_ippo"], ["p-base"], configurations=2, objective=objective)
    for number, finals in enumerate(([1.0, 50.0, 60.0], [20.0, 21.0, 22.0])):
        report_sweep.rewrite(folder, number, finals)
    results.write_index(folder)
    (row,) = results.compare(folder, folder).to_dict("records")
    assert row["value_a"] == 21.0, "whose worst seed is 20"


def test_what_cannot_be_compared_says_why(tmp_path: Path) -> None:
    a, b = sweep_of(tmp_path / "a", {0: [1.0]}), sweep_of(tmp_path / "b", {0: [1.0]}, "min")
    with pytest.raises(RecordError, match=r"looks for episode_return min, .* for episode_return max"):
        results.compare(a, b)
    with pytest.raises(RecordError, match="by: 'scenario' is no way to compare; use one of best, configuration"):
        results.compare(a, a, by="scenario")
    update_record(a / synthetic_sweep.record_of(0).trial_id, state=State.FAILED, error="boom")
    results.write_index(a)
    with pytest.raises(RecordError, match="in common; nothing to compare"):
        results.compare(a, a)


def test_sweeps_are_listed_the_newest_first(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    day = tmp_path / "ff_mappo" / "2026-01-02"
    sweep_of(day / "10-00-00-demo", {0: [1.0], 1: [5.0]})
    later = synthetic_sweep.make_sweep(day / "11-00-00-demo", trials=1)
    write_manifest(later, dataclasses.replace(read_manifest(later), created="2026-01-03T00:00:00+00:00"))
    found = results.list_sweeps(tmp_path)
    assert found["folder"].tolist() == [str(later), str(day / "10-00-00-demo")]
    assert found["states"].tolist() == ["not collected yet", "2 COMPLETE"]
    row = found.to_dict("records")[1]
    assert (row["name"], row["algorithms"], row["scenarios"], row["best"]) == ("demo", "ff_mappo", "p-base", 5.0)
    assert ls.main([str(tmp_path)]) == 0 and "2 COMPLETE" in capsys.readouterr().out
    assert ls.main([str(tmp_path / "absent")]) == 2
    assert capsys.readouterr().err == (
        f"error: {tmp_path}/absent: no such folder; give the one that holds the algorithms' folders\n"
    )
