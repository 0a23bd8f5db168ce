"""A trial that is repeated is compared number by number, and what is not as it was is named."""

from __future__ import annotations

import dataclasses
import io
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from jax_party.errors import SweepError
from jax_party.trial.folder import create_trial_folder, read_config, read_record, update_record
from jax_party.trial.metrics import METRICS_FILE, append_metrics
from jax_party.trial.provenance import current_provenance
from jax_party.trial.record import Takeover, TrialRecord
from jax_party.trial.states import State
from launcher.ask.parsing import parse_rerun_options
from launcher.ask.requested import RerunOptions
from launcher.commands import rerun


def make_trial(folder: Path, *values: float, state: State = State.COMPLETE, error: str | None = None) -> Path:
    """A trial with an evaluation each value, the last of them absolute."""
    record = TrialRecord(
        trial_id=folder.name, algorithm="ff_ippo", environment="JaxParty", scenario="p-short", seed=3,
        hyperparameters={"system.actor_lr": 0.1}, versions=current_provenance()["versions"],
        git_sha=current_provenance()["git_sha"], git_dirty=False, host=current_provenance()["host"],
    )  # fmt: skip
    create_trial_folder(folder, {"system": {"seed": 3}}, record)
    for index, value in enumerate(values):
        row: dict[str, Any] = {
            "step": 10 * index, "seed": 3, "wall_time_s": float(index), "evaluate": {"episode_return": value},
            "train": {"policy_loss": 2 * value, "steps_per_second": 1e4 + index},
        }  # fmt: skip
        append_metrics(folder, row | ({"absolute": True} if index == len(values) - 1 else {}))
    update_record(folder, state=state, error=error)
    return folder


def test_equal_numbers_are_the_same_whatever_the_clock_says(tmp_path: Path) -> None:
    one, other = make_trial(tmp_path / "one", 1.0, 2.0, 3.0), make_trial(tmp_path / "other", 1.0, 2.0, 3.0)
    path = other / METRICS_FILE
    path.write_text(path.read_text().replace('"wall_time_s": 1.0', '"wall_time_s": 9.0').replace("10001.0", "7.0"))
    assert "9.0" in path.read_text()
    assert rerun.compare(one, other) is None
    assert rerun.summary(one) == "2 evaluations with the losses before them, and 1 lines of episodes at the end"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ((1.0, 2.5, 3.0), "Differs: evaluation at step 10, seed 3: episode_return was 2.0, is 2.5"),
        ((1.0, 2.0, 4.0), "Differs: absolute episodes, seed 3: episode_return was 3.0, is 4.0"),
        ((1.0,), "Differs: evaluation at step 0, seed 3: episode_return was 1.0, is None"),
    ],
)
def test_the_first_number_that_differs_is_named(values: tuple[float, ...], message: str, tmp_path: Path) -> None:
    one, other = make_trial(tmp_path / "one", 1.0, 2.0, 3.0), make_trial(tmp_path / "other", *values)
    assert rerun.compare(one, other) == message


def test_a_trial_with_others_learners_is_refused(tmp_path: Path) -> None:
    trial = make_trial(tmp_path / "one", 1.0, 2.0)
    update_record(trial, lineage=(Takeover(10, "other", 10, {"system.actor_lr": 0.2}),))
    with pytest.raises(
        SweepError, match=r"learners of others of its population \(other\), and cannot be repeated alone"
    ):
        rerun.rerun(RerunOptions(str(trial), tmp_path / "out"), Console(file=io.StringIO()))
    assert not (tmp_path / "out").exists()


def test_a_failure_is_repeated_too(tmp_path: Path) -> None:
    one, same, other = (
        make_trial(tmp_path / name, 1.0, 2.0, state=state, error=error)
        for name, state, error in (
            ("one", State.FAILED, "nan"), ("same", State.FAILED, "nan"), ("other", State.COMPLETE, None),
        )
    )  # fmt: skip
    assert rerun.compare(one, same) is None
    assert rerun.compare(one, other) == "Differs: it was FAILED (nan), is COMPLETE (None)"


def test_what_is_not_as_it_was_is_named(tmp_path: Path) -> None:
    record = read_record(make_trial(tmp_path / "one", 1.0))
    dirty = current_provenance()["git_dirty"]
    assert list(rerun.differences(record)) == (["the code had changes that were not committed (now)"] if dirty else [])
    older = dataclasses.replace(
        record, versions={**record.versions, "jax": "0.4.30"}, git_sha="abc", host="elsewhere", batch="vmap"
    )
    found = list(rerun.differences(older))
    assert found[0].startswith("jax was 0.4.30, is ")
    assert found[1].startswith("the code was at commit abc, is at ")
    assert found[2].startswith("the machine was elsewhere, is ")
    assert "batched program" in found[3]


def test_trials_are_found_by_folder_and_by_id(tmp_path: Path) -> None:
    folder = make_trial(tmp_path / "ff_ippo" / "2026-01-01" / "00-00-00" / "trial-1", 1.0)
    assert rerun.find_trial(str(folder), Path("nowhere")) == folder
    assert rerun.find_trial("trial-1", tmp_path) == folder
    with pytest.raises(SweepError, match=r"TRIAL=trial-2: no such trial under .*; did you mean trial-1\?"):
        rerun.find_trial("trial-2", tmp_path)
    make_trial(tmp_path / "ff_ippo" / "2026-01-02" / "00-00-00" / "trial-1", 1.0)
    with pytest.raises(SweepError, match="TRIAL=trial-1: there are 2 of that id; give the path of one"):
        rerun.find_trial("trial-1", tmp_path)


def test_a_repetition_is_a_run_of_its_own(tmp_path: Path) -> None:
    folder = make_trial(tmp_path / "trial-1", 1.0)
    record = dataclasses.replace(read_record(folder), batch="map", num_seeds=2, sweep="s", number=7)
    first, second = (rerun.create_rerun(folder, record, tmp_path / "out") for _ in range(2))
    assert first != second and first.parent.parent == tmp_path / "out" / "ff_ippo"
    again = read_record(first)
    assert (again.trial_id, again.state, again.sweep) == ("trial-1-rerun", State.PENDING, None)
    assert (again.seed, again.num_seeds, again.batch) == (3, 2, "map")
    assert read_config(first) == read_config(folder)


def test_options() -> None:
    assert parse_rerun_options(["trial-1"]) == RerunOptions("trial-1")
    assert parse_rerun_options(["trial-1", "OUT=there"]) == RerunOptions("trial-1", Path("there"))
    with pytest.raises(SweepError, match="rerun: expected one trial's id or folder, got 0"):
        parse_rerun_options([])
    with pytest.raises(SweepError, match="TOP: unknown option"):
        parse_rerun_options(["trial-1", "TOP=1"])
