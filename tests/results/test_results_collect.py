"""What the collector and the sweep index promise."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import synthetic_sweep

import results
from jax_party.errors import RecordError
from jax_party.judging.objectives import Objective
from jax_party.trial.folder import create_trial_folder, read_record, update_record, write_record
from jax_party.trial.manifest import read_manifest, write_manifest
from jax_party.trial.metrics import append_metrics
from jax_party.trial.states import State
from results import command as show
from results.collector import ranking
from results.collector.index_columns import hyperparameter_columns

ROOT = Path(__file__).parents[2]
SweepMaker = Callable[..., Path]


def tables(folder: Path) -> dict[str, bytes]:
    files = [folder / "index.parquet", folder / "index.csv", *sorted((folder / "evaluations.parquet").glob("part-*"))]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def collected(folder: Path) -> pd.DataFrame:
    results.write_index(folder)
    return results.load_index(folder)


def rows_of(folder: Path) -> list[dict[str, Any]]:
    """The collected index, a dictionary a row."""
    return [{str(name): value for name, value in row.items()} for row in collected(folder).to_dict("records")]


def best_of(folder: Path) -> tuple[float, int]:
    row = rows_of(folder)[0]
    return row["best.episode_return"], row["best_step"]


def trial_of(folder: Path, number: int) -> Path:
    return folder / synthetic_sweep.record_of(number).trial_id


# -- Rows and columns --------------------------------------------------------------------------------------------------


def test_a_row_holds_what_the_trial_left(sweep: SweepMaker) -> None:
    folder = sweep()
    row = rows_of(folder)[1]
    trial_id = synthetic_sweep.record_of(1).trial_id
    assert row["trial_id"] == row["folder"] == trial_id
    expected = {
        "sweep": "demo", "number": 1, "engine": "native", "algorithm": "ff_mappo", "environment": "JaxParty",
        "scenario": "p-base", "seed": 43, "system.actor_lr": 0.002, "state": "COMPLETE", "attempts": 1,
        "duration_s": 12.5, "device": "cpu:1",
        "git_dirty": False, "jax_version": "0.10.2", "compile_time_s": 1.5, "steps_per_second": 2000.0,
        "env_steps": 300, "total_steps": 300, "objective.metric": "episode_return", "evaluations": 3, "best_step": 200,
        "last.episode_return": 13.0, "best.episode_return": 15.0, "best.episode_length": 7.0,
        "absolute.episode_return": 13.0, "vault.train.uid": trial_id, "vault.train.rows": 16, "vault.train.steps": 300,
        "vault.train.path": f"{trial_id}/vaults/jax_party/{trial_id}", "vault.test.uid": f"{trial_id}-test",
        "vault.test.rows": 8, "vault.test.steps": 40, "checkpoint": f"{trial_id}/checkpoints/300",
        "config.system.actor_lr": 0.002, "config.system.ppo_epochs": 4, "config.system.add_agent_id": True,
        "config.network.layers": "[64, 64]", "config.network.activation": "relu",
    }  # fmt: skip
    assert {name: row[name] for name in expected} == expected
    assert pd.isna(row["error"]) and pd.isna(row["ended_at"]) and pd.isna(row["config.system.decay"])


def test_columns_come_in_their_groups(sweep: SweepMaker) -> None:
    index = collected(sweep())
    assert hyperparameter_columns(index) == ["system.actor_lr"]
    names = list(index.columns)
    groups = ["seed", "system.actor_lr", "state", "best_step", "last.episode_length", "vault.train.uid", "folder"]
    assert sorted(names.index(name) for name in groups) == [names.index(name) for name in groups]
    assert names[names.index("folder") + 1].startswith("config.")
    assert str(index["number"].dtype) == "Int64" and str(index["git_dirty"].dtype) == "boolean"


def test_every_column_is_in_the_docs(sweep: SweepMaker) -> None:
    docs = (ROOT / "docs" / "results_format.md").read_text()
    names = [str(name) for name in collected(sweep()).columns]
    fixed = [
        name for name in names if not name.startswith(("last.", "best.", "final.", "absolute.", "config.", "system."))
    ]
    assert [name for name in fixed if f"`{name}`" not in docs] == []


def test_csv_and_parquet_agree(sweep: SweepMaker) -> None:
    folder = sweep()
    index = collected(folder)
    csv = pd.read_csv(folder / "index.csv")
    assert list(csv.columns) == list(index.columns)
    assert csv["best.episode_return"].tolist() == index["best.episode_return"].tolist() == [5.0, 15.0, 25.0]


def test_best_follows_the_objective_and_takes_the_earliest_of_equals(sweep: SweepMaker) -> None:
    folder = sweep(trials=1)
    trial = trial_of(folder, 0)
    append_metrics(trial, synthetic_sweep.row_of(0, 5) | {"step": 500})
    assert best_of(folder) == (5.0, 200)
    update_record(trial, objective=Objective("episode_return", "min"))
    assert best_of(folder) == (1.0, 100)
    update_record(trial, objective=Objective("absent", "max"))
    row = rows_of(folder)[0]
    assert row["last.episode_return"] == 5.0
    assert "best.episode_return" not in row and pd.isna(row["best_step"])


def test_untrained_networks_are_no_best(sweep: SweepMaker) -> None:
    folder = sweep(trials=1)
    trial = trial_of(folder, 0)
    append_metrics(trial, {"step": 500, "evaluate": {"episode_return": 99.0}, "untrained": True})
    row = rows_of(folder)[0]
    assert row["best.episode_return"] == 5.0 and row["last.episode_return"] == 99.0
    append_metrics(trial, {"step": 600, "evaluate": {"outcome": {"win": 0.25}}})  # a line that is read in full
    assert best_of(folder) == (5.0, 200)


def test_nulls_are_no_best_and_lists_become_columns(sweep: SweepMaker) -> None:
    folder = sweep(trials=1)
    means = {"episode_return": math.nan, "agent_return": [1.0, 2.0], "outcome": {"win": 0.25}}
    append_metrics(trial_of(folder, 0), {"step": 400, "evaluate": means})
    row = rows_of(folder)[0]
    assert row["best.episode_return"] == 5.0 and math.isnan(row["last.episode_return"])
    assert [row[f"last.{name}"] for name in ("agent_return.0", "agent_return.1", "outcome.win")] == [1.0, 2.0, 0.25]


def test_seeds_are_aggregated_and_their_spread_is_told(sweep: SweepMaker) -> None:
    folder = sweep(trials=2)
    trial = trial_of(folder, 0)
    (trial / "metrics" / "metrics.jsonl").unlink()
    objective = Objective("episode_return", "max", "median", at="best")
    write_record(trial, dataclasses.replace(read_record(trial), num_seeds=3, objective=objective))
    values = {100: (1.0, 9.0, 2.0), 200: (4.0, 3.0, 3.5)}
    for step, returns in values.items():
        rows = [{"step": step, "seed": s, "evaluate": {"episode_return": r}} for s, r in enumerate(returns)]
        append_metrics(trial, *rows)
    append_metrics(trial, {"step": 300, "seed": 0, "evaluate": {"episode_return": 99.0}})  # others to come
    row = rows_of(folder)[0]
    assert (row["best.episode_return"], row["best_step"], row["last.episode_return"]) == (3.5, 200, 3.5)
    assert row["evaluations"] == 2
    spread = {name: row[f"objective.{name}"] for name in ("value", "min", "max", "std")}
    assert spread == {"value": 3.5, "min": 3.0, "max": 4.0, "std": pytest.approx(0.5)}
    append_metrics(trial, {"step": 300, "seed": 1, "evaluate": {"episode_return": 1.0}})
    rows = [
        {"step": 300, "seed": s, "evaluate": {"episode_return": r}, "absolute": True} for s, r in enumerate((5, 7, 9))
    ]
    append_metrics(trial, *rows)
    row = rows_of(folder)[0]
    assert (row["objective.value"], row["objective.std"], row["num_seeds"]) == (7.0, 2.0, 3)
    long = results.load_evaluations(folder)
    of_trial = long[long["trial_id"] == trial.name]
    assert list(zip(of_trial["seed"], of_trial["step"], of_trial["value"], strict=True))[:3] == [
        (0, 100, 1.0), (1, 100, 9.0), (2, 100, 2.0),
    ]  # fmt: skip


@pytest.mark.parametrize(("mode", "gap"), [("max", 2.0), ("min", -2.0)])
def test_a_promotion_stands_in_the_winners_row_too(mode: str, gap: float, sweep: SweepMaker) -> None:
    folder = sweep(trials=2, planned=1)
    origin, test = trial_of(folder, 0), trial_of(folder, 1)
    for trial, changes in ((origin, {}), (test, {"promoted_from": origin.name, "num_seeds": 3})):
        objective = Objective("episode_return", mode, at="best")
        write_record(trial, dataclasses.replace(read_record(trial), objective=objective, **changes))
        (trial / "metrics" / "metrics.jsonl").unlink()
    append_metrics(origin, {"step": 1, "seed": 42, "evaluate": {"episode_return": 4.0}, "absolute": True})
    for seed, value in enumerate((1.0, 2.0, 3.0)):
        row = {"step": 1, "seed": seed, "evaluate": {"episode_return": value}, "absolute": True}
        append_metrics(test, row)
    winner, tested = rows_of(folder)
    for row in (winner, tested):
        assert (row["fresh.value"], row["fresh.num_seeds"], row["fresh.estimator"]) == (2.0, 3, "mean")
        assert (row["fresh.low"], row["fresh.high"]) == (
            pytest.approx(-0.484, abs=1e-3),
            pytest.approx(4.484, abs=1e-3),
        )
    assert (winner["objective.value"], winner["optimism_gap"]) == (4.0, gap)
    assert tested["promoted_from"] == winner["trial_id"]
    assert math.isnan(tested["optimism_gap"])


def test_unlike_hyperparameters_share_a_column_as_text(sweep: SweepMaker) -> None:
    folder = sweep()
    for number, value in enumerate(("relu", 3, [1, 2])):
        update_record(trial_of(folder, number), hyperparameters={"system.x": value, "seed": number})
    index = collected(folder)
    assert index["system.x"].tolist() == ["relu", "3", "[1, 2]"]
    assert index["hyperparameters.seed"].tolist() == [0, 1, 2] and index["seed"].tolist() == [42, 43, 44]


def test_evaluations_are_long_and_without_the_absolute_one(sweep: SweepMaker) -> None:
    folder = sweep()
    results.write_index(folder)
    long = results.load_evaluations(folder)
    assert list(long.columns) == ["trial_id", "seed", "step", "metric", "value"]
    assert len(long) == 3 * synthetic_sweep.EVALUATIONS * 2
    of_second = long[(long["seed"] == 43) & (long["metric"] == "episode_return")]
    assert of_second["step"].tolist() == [100, 200, 300] and of_second["value"].tolist() == [11.0, 15.0, 13.0]
    assert [str(dtype) for dtype in long.dtypes] == ["str", "int64", "int64", "str", "float64"]


# -- Every planned trial has a row -------------------------------------------------------------------------------------


def test_planned_trials_without_a_folder_are_pending(sweep: SweepMaker) -> None:
    folder = sweep(trials=3, planned=5)
    shutil.rmtree(trial_of(folder, 1))
    index = collected(folder)
    assert index["number"].tolist() == [0, 1, 2, 3, 4]
    assert index["state"].tolist() == ["COMPLETE", "PENDING", "COMPLETE", "PENDING", "PENDING"]
    assert index["trial_id"].tolist()[3:] == ["demo-pending-3", "demo-pending-4"]
    assert index["algorithm"].tolist() == ["ff_mappo"] * 5 and index.loc[3, "attempts"] == 0


def test_a_sweep_that_has_not_begun_is_all_pending(sweep: SweepMaker) -> None:
    folder = sweep(trials=0, planned=2)
    assert collected(folder)["state"].tolist() == ["PENDING", "PENDING"]
    assert len(results.load_evaluations(folder)) == 0


def test_tables_outlive_their_trials(sweep: SweepMaker, capsys: pytest.CaptureFixture[str]) -> None:
    folder = sweep(trials=3, planned=4)
    before = collected(folder)
    evaluations = results.load_evaluations(folder)
    for number in range(3):
        shutil.rmtree(trial_of(folder, number))
    assert show.collect_main([str(folder)]) == show.BAD_INPUT
    (line,) = capsys.readouterr().err.splitlines()
    assert "the folders of all 3 trials of its index are gone, demo-" in line and "put them back, or, to begin" in line
    pd.testing.assert_frame_equal(results.load_index(folder), before)
    pd.testing.assert_frame_equal(results.load_evaluations(folder), evaluations)
    (folder / "index.parquet").unlink()
    assert show.collect_main([str(folder)]) == 0
    assert "4 trials (4 PENDING), none with a folder yet" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("record.json", "{half", "record.json: not JSON"),
        ("record.json", '{"schema_version": 9}', "schema_version: 9 is newer than 6"),
        ("record.json", None, "record.json: no such file"),
        ("config.yaml", "a: [", "config.yaml: not YAML"),
        ("metrics/metrics.jsonl", "nonsense\n", "metrics.jsonl: line 1: not JSON"),
        ("metrics/metrics.jsonl", '{"step": 1, "evaluate": {"r": "x"}}\n', "r: expected a number or null, got 'x'"),
        ("metrics/metrics.jsonl", '{"step": 1}\n', "step 1: evaluate: no mapping"),
    ],
)
def test_a_corrupt_file_costs_one_row(sweep: SweepMaker, name: str, content: str | None, reason: str) -> None:
    folder = sweep(trials=3, planned=4)
    path = trial_of(folder, 1) / name
    path.unlink() if content is None else path.write_text(content)
    rows = rows_of(folder)
    assert len(rows) == 4
    (row,) = (row for row in rows if row["trial_id"] == synthetic_sweep.record_of(1).trial_id)
    assert row["state"] == "FAILED" and reason in row["error"] and str(folder) not in row["error"]
    assert sorted(row["state"] for row in rows) == ["COMPLETE", "COMPLETE", "FAILED", "PENDING"]


def test_a_half_written_last_line_is_no_error(sweep: SweepMaker) -> None:
    folder = sweep(trials=1)
    path = trial_of(folder, 0) / "metrics" / "metrics.jsonl"
    path.write_text(path.read_text() + '{"step": 400, "evalu')
    row = rows_of(folder)[0]
    assert row["state"] == "COMPLETE" and row["evaluations"] == 3


def test_a_folder_that_is_being_created_is_not_yet_a_trial(sweep: SweepMaker) -> None:
    folder = sweep(trials=1, planned=2)
    (folder / "demo-new").mkdir()
    (folder / "demo-new" / "config.yaml").write_text("a: 1\n")
    assert collected(folder)["state"].tolist() == ["COMPLETE", "PENDING"]


def test_a_single_run_is_a_sweep_of_one(tmp_path: Path) -> None:
    folder = tmp_path / "12-00-00"
    create_trial_folder(folder, synthetic_sweep.config_of(0), synthetic_sweep.record_of(0, sweep=None))
    synthetic_sweep.complete(folder, 0)
    (row,) = rows_of(folder)
    assert pd.isna(row["sweep"])
    assert (row["folder"], row["checkpoint"]) == (".", "checkpoints/300")
    assert row["vault.train.path"] == f"vaults/jax_party/{row['trial_id']}"
    assert len(results.load_evaluations(folder)) == 6


# -- Files -------------------------------------------------------------------------------------------------------------


def test_equal_folders_give_equal_bytes(sweep: SweepMaker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = sweep(planned=5)
    results.write_index(folder)
    first = tables(folder)
    listing = Path.iterdir
    monkeypatch.setattr(Path, "iterdir", lambda self: iter(sorted(listing(self), reverse=True)))
    results.write_index(folder)
    assert tables(folder) == first
    copy = tmp_path / "elsewhere"
    shutil.copytree(folder, copy)
    results.write_index(copy)
    assert tables(copy) == first


def test_the_collector_touches_nothing_but_its_tables(sweep: SweepMaker) -> None:
    folder = sweep()

    def contents() -> Iterator[tuple[str, bytes]]:
        for path in sorted(folder.rglob("*")):
            made = path.parent.name in (".index", "evaluations.parquet") or path.name.startswith("index.")
            if path.is_file() and not made:
                yield str(path), path.read_bytes()

    results.write_index(folder)
    before = list(contents())
    results.write_index(folder)
    assert list(contents()) == before
    added = {path.name for path in folder.iterdir()} - {synthetic_sweep.record_of(n).trial_id for n in range(3)}
    assert added == {"sweep.yaml", "index.parquet", "index.csv", "evaluations.parquet", ".index"}


def test_a_crash_while_writing_leaves_the_old_index(sweep: SweepMaker, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = sweep()
    results.write_index(folder)
    before = tables(folder)
    update_record(trial_of(folder, 0), state=State.FAILED, error="boom")

    def crash(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", crash)
    with pytest.raises(OSError, match="No space left"):
        results.write_index(folder)
    assert tables(folder) == before


def test_it_runs_while_the_sweep_does(sweep: SweepMaker) -> None:
    folder = sweep(trials=2)
    trial = trial_of(folder, 0)
    code = (
        "import sys; from pathlib import Path; f = Path(sys.argv[1]); step = 400\n"
        "from jax_party.trial.folder import update_record\n"
        "from jax_party.trial.metrics import append_metrics\n"
        "print('go', flush=True)\n"
        "while True:\n"
        "  append_metrics(f, {'step': step, 'evaluate': {'episode_return': 1.0}}); step += 1\n"
        "  update_record(f, env_steps=step)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code, str(trial)], cwd=ROOT, stdout=subprocess.PIPE) as writer:
        assert writer.stdout is not None and writer.stdout.readline() == b"go\n"
        states = [collected(folder)["state"].tolist() for _ in range(15)]
        writer.kill()
    assert states == [["COMPLETE", "COMPLETE"]] * 15


def test_a_thousand_trials_are_all_in_the_tables(tmp_path: Path) -> None:
    folder = synthetic_sweep.make_large_sweep(tmp_path, trials=1000, evaluations=10)
    results.write_index(folder)
    assert len(results.load_index(folder)) == 1000
    assert len(results.load_evaluations(folder)) == 999 * 10 * 22 + 6


# -- Reading back ------------------------------------------------------------------------------------------------------


def test_an_index_that_is_not_there_names_the_remedy(sweep: SweepMaker, tmp_path: Path) -> None:
    folder = sweep()
    for load in (results.load_index, results.load_evaluations):
        with pytest.raises(RecordError, match=f"no such file; make it with: make collect SWEEP={folder}$"):
            load(folder)
        with pytest.raises(RecordError, match="no such folder"):
            load(tmp_path / "absent")


def test_a_corrupt_index_names_the_remedy(sweep: SweepMaker) -> None:
    folder = sweep()
    results.write_index(folder)
    (folder / "index.parquet").write_bytes(b"PAR1 nonsense")
    with pytest.raises(RecordError, match=r"index\.parquet: not a Parquet table .*make collect"):
        results.load_index(folder)
    shutil.copy(folder / "evaluations.parquet" / "part-00000.parquet", folder / "index.parquet")
    with pytest.raises(RecordError, match=r"index\.parquet: no column 'sweep'"):
        results.load_index(folder / "index.parquet")


@pytest.fixture
def experiments(tmp_path: Path) -> Path:
    """Two sweeps and a single run of one algorithm, and a folder that is no run."""
    root = tmp_path / "experiment_results"
    day = root / "ff_mappo" / "2026-01-02"
    synthetic_sweep.make_sweep(day / "10-00-00-demo", trials=2, planned=3)
    synthetic_sweep.make_sweep(day / "09-00-00-demo", trials=1)
    run = synthetic_sweep.record_of(0, trial_id="solo-1", sweep=None, hyperparameters={"system.actor_lr": "auto"})
    create_trial_folder(root / "ff_mappo" / "2026-01-03" / "08-00-00", synthetic_sweep.config_of(0), run)
    (day / "11-00-00").mkdir()
    return root


def test_aggregate_makes_one_table_of_all_runs(experiments: Path) -> None:
    table = results.aggregate_outputs("ff_mappo", root=experiments)
    day = f"{experiments}/ff_mappo/2026-01-02"
    folders = [f"{day}/09-00-00-demo", *[f"{day}/10-00-00-demo"] * 3, f"{experiments}/ff_mappo/2026-01-03/08-00-00"]
    assert table["sweep_folder"].tolist() == folders
    assert table["state"].tolist() == ["COMPLETE", "COMPLETE", "COMPLETE", "PENDING", "PENDING"]
    assert table["system.actor_lr"].tolist()[:3] == ["0.001", "0.001", "0.002"]
    for folder in set(folders):
        assert len(results.load_index(folder)) == folders.count(folder)
    assert (experiments / "ff_mappo" / "2026-01-02" / "11-00-00").exists()


def test_aggregate_keeps_one_trial_or_one_sweep(experiments: Path) -> None:
    wanted = synthetic_sweep.record_of(1).trial_id
    assert results.aggregate_outputs("ff_mappo", experiments, run_id=wanted)["trial_id"].tolist() == [wanted]
    assert len(results.aggregate_outputs("ff_mappo", experiments, run_id="demo")) == 4
    with pytest.raises(RecordError, match=r"no trial or sweep 'dem'; near it: .*demo"):
        results.aggregate_outputs("ff_mappo", experiments, run_id="dem")


def test_aggregate_names_the_algorithms_that_are_there(experiments: Path, tmp_path: Path) -> None:
    with pytest.raises(RecordError, match=r"no algorithm 'mappo' in it; use one of ff_mappo$"):
        results.aggregate_outputs("mappo", experiments)
    with pytest.raises(RecordError, match="no experiments in it"):
        results.aggregate_outputs("ff_mappo", tmp_path / "absent")
    (experiments / "ff_ippo").mkdir()
    with pytest.raises(RecordError, match="ff_ippo: no runs in it"):
        results.aggregate_outputs("ff_ippo", experiments)


# -- Command line ------------------------------------------------------------------------------------------------------


def run_module(name: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "error", "-m", name, *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)


def test_collect_and_index_as_commands(sweep: SweepMaker) -> None:
    folder = sweep(planned=4)
    done = run_module("results.collect", folder)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"{folder}/index.parquet: 4 trials (1 PENDING, 3 COMPLETE)\n"
    shown = run_module("results.index", folder, "--top", 2)
    assert (shown.returncode, shown.stderr) == (0, "")
    lines = [line for line in shown.stdout.splitlines() if "demo-" in line]
    assert [synthetic_sweep.record_of(number).trial_id in line for number, line in zip((2, 1), lines, strict=True)] == [
        True
    ] * 2
    assert "by score (max; best)" in shown.stdout and "0.003" in lines[0]


def test_collect_of_a_bad_folder_is_one_line_and_code_2(tmp_path: Path) -> None:
    done = run_module("results.collect", tmp_path / "absent")
    assert (done.returncode, done.stdout) == (2, "")
    message = f"error: {tmp_path}/absent: no such folder; give a sweep's folder or a single run's\n"
    assert done.stderr == message


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--metric", "nonsense"], "no metric 'nonsense' in the index; use one of episode_length, episode_return"),
        (["/absent"], "error: /absent: no such folder"),
    ],
)
def test_index_with_bad_input(
    sweep: SweepMaker, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    folder = sweep()
    results.write_index(folder)
    assert show.show_main(arguments if arguments[0] == "/absent" else [str(folder), *arguments]) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and message in captured.err and captured.err.count("\n") == 1


def test_a_folder_without_trials_and_a_corrupt_manifest(
    sweep: SweepMaker, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, empty = sweep(), tmp_path / "empty"
    empty.mkdir()
    (folder / "sweep.yaml").write_text("a: [")
    assert show.collect_main([str(empty), str(folder)]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2 and "no trials in it" in lines[0] and "sweep.yaml: not YAML" in lines[1]


def test_an_index_without_evaluations_says_so(sweep: SweepMaker, capsys: pytest.CaptureFixture[str]) -> None:
    folder = sweep(trials=0, planned=2)
    results.write_index(folder)
    assert show.show_main([str(folder)]) == 2
    assert "no evaluations yet (2 trials (2 PENDING))" in capsys.readouterr().err


def test_ids_stay_whole_in_a_narrow_terminal(
    sweep: SweepMaker, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = sweep(trials=2)
    results.write_index(folder)
    monkeypatch.setenv("FORCE_COLOR", "1")
    shown = {}
    for columns in ("60", "500"):
        monkeypatch.setenv("COLUMNS", columns)
        assert show.show_main([str(folder)]) == 0
        shown[columns] = re.sub(r"\x1b\[[0-9;]*m", "", capsys.readouterr().out)
        assert all(trial_of(folder, number).name in shown[columns] for number in range(2))
    assert "actor_lr" in shown["500"] and "A wider terminal" not in shown["500"]
    narrow, said = shown["60"].split("A wider terminal, or a pipe, shows ")
    assert max(map(len, narrow.splitlines())) <= 60 and "actor_lr" not in narrow and "actor_lr" in said


def scored(folder: Path, number: int, best: float, score: float, **changes: Any) -> None:
    """End a trial whose best evaluation gave `best` and whose absolute metric is `score`."""
    trial = trial_of(folder, number)
    (trial / "metrics" / "metrics.jsonl").unlink()
    rows = [{"step": 100, "evaluate": {"episode_return": best}}]
    rows.append({"step": 300, "evaluate": {"episode_return": score}, "absolute": True})
    append_metrics(trial, *({"seed": 42, **row} for row in rows))
    update_record(trial, seed=42, absolute_metrics={"episode_return": score}, **changes)


def shown_first(folder: Path, capsys: pytest.CaptureFixture[str], *words: str) -> list[str]:
    """The trial ids in the order in which `make index` gives them."""
    results.write_index(folder)
    assert show.show_main([str(folder), *words]) == 0
    return re.findall(r"demo-[0-9a-f]{8}", capsys.readouterr().out)


def test_the_best_are_those_that_the_sweep_goes_by(sweep: SweepMaker, capsys: pytest.CaptureFixture[str]) -> None:
    """By the absolute metric, not by the luckiest evaluation; tests of winners only where they are asked for."""
    folder = sweep(trials=4)
    ids = [trial_of(folder, number).name for number in range(4)]
    scored(folder, 0, 9.0, 1.0)
    scored(folder, 1, 2.0, 3.0)
    scored(folder, 2, 3.0, 2.0)
    scored(folder, 3, 99.0, 99.0, promoted_from=ids[1])
    assert shown_first(folder, capsys) == [ids[1], ids[2], ids[0]]
    assert shown_first(folder, capsys, "--promoted") == [ids[3], ids[1], ids[2], ids[0]]
    assert shown_first(folder, capsys, "--metric", "best.episode_return") == [ids[0], ids[2], ids[1]]


def test_where_scenarios_are_averaged_the_best_have_the_best_mean(
    sweep: SweepMaker, capsys: pytest.CaptureFixture[str]
) -> None:
    """One scenario's 10 is not the sweep's best: the mean with the other's 0 is 5, and 6 and 6 have 6."""
    folder = sweep(trials=4)
    manifest = read_manifest(folder)
    scenarios = {"env/scenario": ["a", "b"]}
    write_manifest(folder, dataclasses.replace(manifest, scenario_mode="mean", overrides=scenarios))
    for number, score in enumerate((10.0, 0.0, 6.0, 6.0)):
        values = {"system.actor_lr": 0.1 * (1 + number // 2)}
        scored(folder, number, score, score, scenario="ab"[number % 2], hyperparameters=values)
    ids = [trial_of(folder, number).name for number in range(4)]
    assert set(shown_first(folder, capsys, "--top", "2")) == {ids[2], ids[3]}


def test_best_rows_go_by_mode_and_leave_out_the_unmeasured(sweep: SweepMaker) -> None:
    index = collected(sweep(planned=4))
    seeds = [ranking.best_rows(index, "last.episode_return", mode, 9)["seed"].tolist() for mode in ("max", "min")]
    assert seeds == [[44, 43, 42], [42, 43, 44]]


def test_importing_results_and_records_imports_neither_jax_nor_ray() -> None:
    code = (
        "import sys, json, jax_party.trial.folder; light = sorted(sys.modules)\n"
        "import results; results.write_index; results.load_index; import results.command\n"
        "print(json.dumps([light, sorted(sys.modules)]))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    light, all_modules = json.loads(done.stdout)
    assert {"jax", "jaxlib", "ray", "pandas", "numpy", "hydra"}.isdisjoint(light)
    assert {"jax", "jaxlib", "ray", "hydra", "flax"}.isdisjoint(all_modules)


def test_the_example_in_the_docs_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    docs = (ROOT / "docs" / "results_format.md").read_text()
    code = docs.split("```python\n")[1].split("```")[0]
    monkeypatch.chdir(tmp_path)
    folder = Path("experiment_results/ff_mappo/2026-01-02/10-00-00-demo")
    results.write_index(synthetic_sweep.make_sweep(folder))
    names: dict[str, Any] = {}
    exec(code, names)
    assert names["best"]["best.episode_return"].tolist() == [25.0, 15.0, 5.0]
    assert names["curves"].shape == (3, 3)
    assert len(names["every_run"]) == len(names["one_sweep"]) == 3
