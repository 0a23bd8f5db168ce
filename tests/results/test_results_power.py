"""`make power`: how many seeds would separate the top two."""

from __future__ import annotations

from pathlib import Path

import pytest
import report_sweep

import results
from jax_party.errors import RecordError
from jax_party.judging.power import least_seeds, paired_power
from jax_party.trial.folder import read_record
from jax_party.trial.identity import configuration_id
from results.analysis import power


def test_seeds_that_both_have_are_paired(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = report_sweep.make(tmp_path / "s", ["ff_ippo"], ["p-base"], configurations=3, seeds=4)
    report_sweep.rewrite(folder, 0, [10.0, 21.0, 30.0, 41.0])
    report_sweep.rewrite(folder, 1, [9.0, 19.0, 29.0, 39.0])
    report_sweep.rewrite(folder, 2, [0.0, 1.0, 2.0, 3.0])
    results.write_index(folder)
    (row,) = power.power(folder).to_dict("records")
    spread = (1.0 / 3.0) ** 0.5
    assert (row["tried_on"], row["paired"], row["difference"]) == ("searched", 4, 1.5)
    assert row["spread"] == pytest.approx(spread)
    assert row["seeds_needed"] == least_seeds(lambda seeds: paired_power(1.5, spread, seeds))
    assert power.main([str(folder)]) == 0
    assert "paired" in capsys.readouterr().out


def test_fresh_seeds_count_where_two_have_them_and_those_of_all_rounds(tmp_path: Path) -> None:
    """The third, which was not tested, has the best score of the search."""
    folder = report_sweep.make(tmp_path / "s", ["ff_ippo"], ["p-base"], configurations=3, seeds=2)
    report_sweep.rewrite(folder, 2, [90.0, 91.0])
    rounds = {(0, 1000): [5.0, 7.0, 6.0], (0, 1003): [5.0], (1, 1000): [8.0, 9.0, 9.0], (1, 1002): [99.0, 8.5]}
    for number, ((origin, seed), finals) in enumerate(rounds.items(), start=100):
        test = report_sweep.record_of(
            number, "ff_ippo", "p-base", origin, len(finals), promoted_from=f"demo-{origin:08x}", seed=seed
        )
        report_sweep.write_trial(folder, test, finals)
    results.write_index(folder)
    (row,) = power.power(folder).to_dict("records")
    first = configuration_id(read_record(folder / "demo-00000001"))
    assert (row["first"], row["tried_on"], row["seeds_first"], row["paired"]) == (first, "fresh", 4, 4)
    assert row["difference"] == pytest.approx((8.0 + 9.0 + 9.0 + 8.5 - 23.0) / 4), "seed 1002 counts once, as 9"
    index = results.load_index(folder)
    assert index.set_index("trial_id").loc["demo-00000001", "fresh.value"] == pytest.approx(34.5 / 4)
    assert index.set_index("number")["tests"].to_dict() == {0: 1, 1: 2, 2: 0, 100: 1, 101: 1, 102: 2, 103: 2}
    table = results.compare(folder, folder, by="configuration")
    tested = table[table["seeds"] == "fresh"]
    assert sorted(tested["value_b"]) == pytest.approx([23.0 / 4, 34.5 / 4]) and set(tested["n_b"]) == {4}


def test_over_scenarios_a_seed_counts_by_its_mean(tmp_path: Path) -> None:
    folder = report_sweep.make(tmp_path / "s", ["ff_ippo"], configurations=2, seeds=3, scenario_mode="mean")
    results.write_index(folder)
    (row,) = power.power(folder).to_dict("records")
    assert row["scenario"] == "mean of p-base, p-no-rank" and row["paired"] == 3
    assert row["difference"] == pytest.approx((2.0 + 20.0) / 2) and row["seeds_needed"] == 2


def test_one_seed_each_tells_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = report_sweep.make(tmp_path / "s", ["ff_ippo"], ["p-base"], configurations=2, seeds=1)
    results.write_index(folder)
    assert power.power(folder)["seeds_needed"].isna().all()
    assert power.main([str(folder)]) == 0
    said = capsys.readouterr().out
    assert "one seed each: the spread between seeds is not known" in said and "make promote SWEEP=" in said


def test_where_there_is_nothing_to_tell(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = report_sweep.make(tmp_path / "s", ["ff_ippo"], ["p-base"], configurations=1)
    results.write_index(folder)
    with pytest.raises(RecordError, match="no algorithm and scenario with two finished configurations; add some"):
        power.power(folder)
    assert power.main([str(folder)]) == 2 and capsys.readouterr().err.count("\n") == 1
