"""What the collector keeps from one time to the next changes nothing of what it writes."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
import pytest
import synthetic_sweep

import results
from jax_party.errors import RecordError
from jax_party.judging.objectives import Objective
from jax_party.store.files import write_yaml_atomically
from jax_party.store.storage import store_of
from jax_party.trial.folder import add_retry, create_trial_folder, update_record
from jax_party.trial.metrics import append_metrics, truncate_metrics
from jax_party.trial.states import State
from results.collector import incremental, packing
from results.collector import write as collector

ROOT = Path(__file__).parents[2]
SweepMaker = Callable[..., Path]
TRIALS = 7


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(incremental, "PART_TRIALS", 3)


def trial_of(folder: Path, number: int) -> Path:
    return folder / synthetic_sweep.record_of(number).trial_id


def tables(folder: Path) -> dict[str, bytes]:
    files = [folder / "index.parquet", folder / "index.csv", *sorted((folder / "evaluations.parquet").iterdir())]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def made_anew(folder: Path) -> dict[str, bytes]:
    """The tables of the same folders where nothing has been kept."""
    copy = folder.with_name("anew")
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(folder, copy, ignore=shutil.ignore_patterns(".index", "index.*", "evaluations.parquet"))
    results.write_index(copy)
    return tables(copy)


def trials_read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The trials that are read from now on."""
    names: list[str] = []
    read = collector.read_trial

    def counted(folder: Path, manifest: object, name: str) -> object:
        names.append(name)
        return read(folder, manifest, name)  # type: ignore[arg-type]

    monkeypatch.setattr(collector, "read_trial", counted)
    return names


def goes_on(folder: Path) -> None:
    append_metrics(trial_of(folder, 4), synthetic_sweep.row_of(4, 5))
    update_record(trial_of(folder, 4), env_steps=500)


def fails(folder: Path) -> None:
    update_record(trial_of(folder, 0), state=State.FAILED, error="boom")


def is_retried(folder: Path) -> None:
    truncate_metrics(trial_of(folder, 3), 100)
    add_retry(trial_of(folder, 3), "a worker died")
    update_record(trial_of(folder, 3), state=State.RUNNING, attempts=2)


def is_promoted(folder: Path) -> None:
    record = synthetic_sweep.record_of(9, promoted_from=trial_of(folder, 2).name, num_seeds=2)
    trial = folder / record.trial_id
    create_trial_folder(trial, synthetic_sweep.config_of(9), record)
    for seed in (51, 52):
        append_metrics(trial, synthetic_sweep.row_of(9, 1) | {"seed": seed, "absolute": True})
    update_record(trial, state=State.COMPLETE)


def is_new(folder: Path) -> None:
    record = synthetic_sweep.record_of(7)
    create_trial_folder(folder / record.trial_id, synthetic_sweep.config_of(7), record)
    synthetic_sweep.complete(folder / record.trial_id, 7)


def is_removed(folder: Path) -> None:
    shutil.rmtree(trial_of(folder, 5))


def a_part_is_removed(folder: Path) -> None:
    for number in (3, 4, 5):
        shutil.rmtree(trial_of(folder, number))


def is_corrupted(folder: Path) -> None:
    (trial_of(folder, 1) / "record.json").write_text("{half")


def loses_its_config(folder: Path) -> None:
    (trial_of(folder, 1) / "config.yaml").unlink()


def has_another_config(folder: Path) -> None:
    write_yaml_atomically(trial_of(folder, 1) / "config.yaml", {"system": {"actor_lr": "auto", "new": None}})


def has_other_values(folder: Path) -> None:
    update_record(trial_of(folder, 1), hyperparameters={"system.actor_lr": "auto", "system.new": [1]})


def is_of_no_metric(folder: Path) -> None:
    for number in range(TRIALS):
        update_record(trial_of(folder, number), objective=Objective("absent", "max"))


CHANGES = (
    goes_on, fails, is_retried, is_promoted, is_new, is_removed, a_part_is_removed, is_corrupted, loses_its_config,
    has_another_config, has_other_values, is_of_no_metric,
)  # fmt: skip


@pytest.mark.parametrize("change", CHANGES)
def test_after_a_change_the_tables_are_those_made_anew(sweep: SweepMaker, change: Callable[[Path], None]) -> None:
    folder = sweep(trials=TRIALS, planned=TRIALS + 2)
    results.write_index(folder)
    before = tables(folder)
    change(folder)
    results.write_index(folder)
    assert tables(folder) == made_anew(folder)
    assert tables(folder) != before
    results.write_index(folder)
    assert tables(folder) == made_anew(folder)


def test_a_trial_that_is_mended_has_its_row_again(sweep: SweepMaker) -> None:
    folder = sweep(trials=TRIALS)
    results.write_index(folder)
    before = tables(folder)
    whole = (trial_of(folder, 1) / "record.json").read_bytes()
    is_corrupted(folder)
    results.write_index(folder)
    (trial_of(folder, 1) / "record.json").write_bytes(whole)
    results.write_index(folder)
    assert tables(folder) == before


def test_changes_one_after_another_add_up(sweep: SweepMaker) -> None:
    folder = sweep(trials=TRIALS, planned=TRIALS + 2)
    for change in (goes_on, is_promoted, fails, has_other_values, is_removed, is_retried, is_corrupted):
        change(folder)
        results.write_index(folder)
    assert tables(folder) == made_anew(folder)


def test_only_what_has_changed_is_read(sweep: SweepMaker, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = sweep(trials=TRIALS)
    names = trials_read(monkeypatch)
    results.write_index(folder)
    assert sorted(names) == sorted(trial_of(folder, number).name for number in range(TRIALS))
    names.clear()
    results.write_index(folder)
    assert names == []
    goes_on(folder)
    results.write_index(folder)
    assert names == [trial_of(folder, 4).name]


@pytest.mark.parametrize("name", [incremental.kept_file(1), incremental.evaluations_file(1)])
@pytest.mark.parametrize("content", [b"", b"nonsense", None])
def test_a_damaged_part_is_made_anew(sweep: SweepMaker, name: str, content: bytes | None) -> None:
    folder = sweep(trials=TRIALS)
    results.write_index(folder)
    before = tables(folder)
    (folder / name).unlink() if content is None else (folder / name).write_bytes(content)
    results.write_index(folder)
    assert tables(folder) == before


def test_a_part_of_another_layout_is_made_anew(sweep: SweepMaker, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = sweep(trials=TRIALS)
    results.write_index(folder)
    names = trials_read(monkeypatch)
    monkeypatch.setattr(incremental, "LAYOUT", incremental.LAYOUT + 1)
    results.write_index(folder)
    assert len(names) == TRIALS


def test_the_parts_may_be_removed(sweep: SweepMaker) -> None:
    folder = sweep(trials=TRIALS)
    results.write_index(folder)
    before = tables(folder)
    shutil.rmtree(folder / ".index")
    assert len(results.load_index(folder)) == TRIALS
    results.write_index(folder)
    assert tables(folder) == before


def test_the_single_file_of_older_versions_is_read_and_replaced(sweep: SweepMaker) -> None:
    folder = sweep(trials=TRIALS)
    results.write_index(folder)
    long = results.load_evaluations(folder)
    shutil.rmtree(folder / "evaluations.parquet")
    long.to_parquet(folder / "evaluations.parquet", index=False)
    pd.testing.assert_frame_equal(results.load_evaluations(folder), long)
    results.write_index(folder)
    assert (folder / "evaluations.parquet").is_dir()
    pd.testing.assert_frame_equal(results.load_evaluations(folder), long)


def test_pandas_reads_the_folder_of_evaluations(sweep: SweepMaker) -> None:
    folder = sweep(trials=TRIALS)
    results.write_index(folder)
    assert len(list((folder / "evaluations.parquet").iterdir())) == 3
    plain = pd.read_parquet(folder / "evaluations.parquet")
    pd.testing.assert_frame_equal(plain, results.load_evaluations(folder))
    assert plain["trial_id"].unique().tolist() == [trial_of(folder, number).name for number in range(TRIALS)]


def test_evaluations_are_filtered(sweep: SweepMaker) -> None:
    folder = sweep(trials=TRIALS)
    results.write_index(folder)
    whole = results.load_evaluations(folder)
    ids = [trial_of(folder, 5).name, trial_of(folder, 1).name]
    found = results.load_evaluations(folder, trials=ids, metrics=["episode_return"], columns=["step", "value"])
    expected = whole[whole["trial_id"].isin(ids) & (whole["metric"] == "episode_return")][["step", "value"]]
    assert len(found) == 6
    pd.testing.assert_frame_equal(found, expected.reset_index(drop=True))
    assert len(results.load_evaluations(folder, trials=[])) == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"metrics": ["episode_retrun"]}, "no metric 'episode_retrun'; use one of episode_return"),
        ({"trials": ["absent"]}, "no evaluations of trial_id 'absent'; use one of demo-"),
        ({"columns": ["stepp"]}, "no column 'stepp'; use one of step"),
    ],
)
def test_evaluations_that_are_not_there_name_those_that_are(
    sweep: SweepMaker, arguments: dict[str, list[str]], message: str
) -> None:
    folder = sweep(trials=TRIALS)
    results.write_index(folder)
    with pytest.raises(RecordError, match=message):
        results.load_evaluations(folder, **arguments)


def test_tables_of_a_newer_version_are_refused(sweep: SweepMaker) -> None:
    folder = sweep(trials=1)
    results.write_index(folder)
    for name, load in (
        ("index.parquet", results.load_index),
        (incremental.evaluations_file(0), results.load_evaluations),
    ):
        table = pq.read_table(folder / name, partitioning=None)
        newer = str(packing.INDEX_VERSION + 1).encode()
        pq.write_table(table.replace_schema_metadata({packing.VERSION_KEY: newer}), folder / name)
        with pytest.raises(RecordError, match=r"of version 5, newer than 4, .*upgrade jax-party"):
            load(folder)


def test_two_collectors_at_once_leave_whole_tables(sweep: SweepMaker) -> None:
    folder = sweep(trials=TRIALS)
    command = [sys.executable, "-m", "results.collect", str(folder), str(folder), str(folder)]
    running = [subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL) for _ in range(2)]
    assert [process.wait(timeout=120) for process in running] == [0, 0]
    assert len(results.load_index(folder)) == TRIALS
    results.write_index(folder)
    assert tables(folder) == made_anew(folder)
    assert sorted(os.listdir(folder / ".index")) == [
        ".lock",
        "part-00000.arrow",
        "part-00001.arrow",
        "part-00002.arrow",
    ]


def test_many_trials_are_read_in_processes(sweep: SweepMaker, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = sweep(trials=TRIALS)
    expected = made_anew(folder)
    monkeypatch.setattr(incremental, "POOL_FROM", 2)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1})
    results.write_index(folder)
    assert tables(folder) == expected


def test_on_object_storage_the_same_is_read_and_kept(
    sweep: SweepMaker, bucket: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, remote = sweep(trials=TRIALS, planned=TRIALS + 2), bucket / "sweep"

    def upload() -> None:
        for path in folder.rglob("*"):
            if path.is_file():
                store_of(remote).write_bytes(remote / path.relative_to(folder).as_posix(), path.read_bytes())

    def there() -> dict[str, bytes]:
        names = [name for name in store_of(remote).files_below(remote) if name.startswith(("index.", "evaluations"))]
        return {name: store_of(remote).read_bytes(remote / name) for name in names}

    upload()
    store_of(remote).write_bytes(remote / "evaluations.parquet", b"of an older version")
    results.write_index(remote)
    assert there() == made_anew(folder)
    names = trials_read(monkeypatch)
    results.write_index(remote)
    assert names == []
    goes_on(folder)
    store_of(remote).remove(
        [remote / trial_of(folder, 5).name / name for name in ("record.json", "metrics/metrics.jsonl")]
    )
    shutil.rmtree(trial_of(folder, 5))
    upload()  # equal content has an equal tag
    results.write_index(remote)
    assert names == [trial_of(folder, 4).name]
    assert there() == made_anew(folder)
    assert len(results.load_index(remote)) == TRIALS + 2
    assert len(results.load_evaluations(remote, metrics=["episode_return"])) == 3 * (TRIALS - 1) + 1
    assert results.list_sweeps(bucket)["states"].tolist() == [f"3 PENDING, {TRIALS - 1} COMPLETE"]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"env_steps": 10**30}, "env_steps: 1000000000000000000000000000000 has more than 64 bits"),
        ({"device": "\ud800"}, "surrogates not allowed"),
    ],
)
def test_what_no_table_can_hold_costs_one_row(sweep: SweepMaker, changes: dict[str, object], reason: str) -> None:
    folder = sweep(trials=2)
    path = trial_of(folder, 1) / "record.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    results.write_index(folder)
    index = results.load_index(folder)
    assert index["state"].tolist() == ["COMPLETE", "FAILED"] and reason in index["error"][1]
