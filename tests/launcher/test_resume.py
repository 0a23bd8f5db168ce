"""What is read from, and put right in, the folder of a sweep that was stopped; no cluster is started."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from jax_party.errors import SweepError
from jax_party.store.storage import lock_folder
from jax_party.trial.folder import read_record, update_record
from jax_party.trial.metrics import append_metrics
from jax_party.trial.provenance import utc_timestamp
from jax_party.trial.states import State
from launcher import sweep
from launcher.ask.parsing import parse_sweep_options
from launcher.drive import passes, run
from launcher.plan.axes import Space
from launcher.plan.compose import read_study
from launcher.plan.sweep import Sweep
from launcher.plan.write import draw_plan, write_plan
from launcher.search.schedulers import GroupedStopping

WORDS = ["ALG=mappo", "SCENARIO=p-base,p-short", "SAMPLES=2", "SEEDS=1", "TIMESTEPS=16384", "EVALUATIONS=4"]


def write_sweep(folder: Path, *words: str) -> Sweep:
    options = parse_sweep_options([*WORDS, *words])
    study, samples = read_study(options, "sweep-1")
    trials = draw_plan(study, samples)
    write_plan(folder, study, trials, len(trials), options, "the command")
    return Sweep.read(folder)


def searcher_of(found: Sweep) -> Any:
    (part,) = passes.search_passes(found, run.make_progress(found), 9)
    return part.suggested


def trial_folder(found: Sweep, number: int) -> Path:
    return found.folder / list(found.records)[number]


def end(found: Sweep, number: int, state: State, value: float, **changes: Any) -> None:
    folder = trial_folder(found, number)
    append_metrics(folder, {"step": 4096, "evaluate": {"episode_return": value}})
    update_record(folder, state=state, env_steps=4096, **changes)


def test_reads_what_is_left_in_order(tmp_path: Path) -> None:
    found = write_sweep(tmp_path)
    end(found, 0, State.COMPLETE, 3.0)
    end(found, 2, State.RUNNING, 1.0)
    found = Sweep.read(tmp_path)
    assert [record.number for record in found.records.values()] == [0, 1, 2, 3]
    assert [record.number for record in found.unfinished] == [2, 1, 3], "what had begun comes first"
    assert found.remaining == 3


def test_trials_of_one_compiled_program_follow_each_other(tmp_path: Path) -> None:
    space = tmp_path / "mine.yaml"
    space.write_text(
        "algorithms: [ff_mappo]\nscenarios: [p-base, p-short]\nbudget: {total_timesteps: 8192, num_evaluation: 1}\n"
        "space:\n  system.actor_lr: {type: uniform, low: 0.0001, high: 0.001}\n"
        "  system.ppo_epochs: {type: grid, values: [1, 2]}\n"
    )
    options = parse_sweep_options(["ALG=mappo", f"SPACE={space}", "SAMPLES=2"])
    study, samples = read_study(options, "sweep-1")
    trials = draw_plan(study, samples)
    write_plan(tmp_path / "sweep", study, trials, len(trials), options, "the command")
    order = [
        (record.scenario, record.hyperparameters["system.ppo_epochs"], record.number)
        for record in Sweep.read(tmp_path / "sweep").unfinished
    ]
    assert order == [
        ("p-base", 1, 0), ("p-base", 1, 4), ("p-short", 1, 1), ("p-short", 1, 5),
        ("p-base", 2, 2), ("p-base", 2, 6), ("p-short", 2, 3), ("p-short", 2, 7),
    ]  # fmt: skip


def test_sets_back_the_dead_and_keeps_the_ended(tmp_path: Path) -> None:
    found = write_sweep(tmp_path)
    end(found, 0, State.COMPLETE, 3.0)
    end(found, 1, State.FAILED, 3.0, error="no", ended_at=utc_timestamp())
    end(found, 2, State.RUNNING, 1.0)
    found = Sweep.read(tmp_path)
    assert len(found.set_back([State.RUNNING])) == 1
    states = [read_record(trial_folder(found, number)).state for number in range(4)]
    assert states == [State.COMPLETE, State.FAILED, State.PENDING, State.PENDING]
    found.set_back([State.FAILED])
    again = read_record(trial_folder(found, 1))
    assert (again.state, again.error, again.ended_at) == (State.PENDING, None, None)
    assert [reason.split(" ", 1)[1] for reason in again.retries] == ["was FAILED, and RETRY_FAILED was asked for: no"]
    running = read_record(trial_folder(found, 2))
    assert [reason.split(" ", 1)[1] for reason in running.retries] == ["its driver had died"]


def test_a_driver_that_is_stopped_notes_nothing_of_it(tmp_path: Path) -> None:
    found = write_sweep(tmp_path)
    end(found, 0, State.RUNNING, 3.0)
    assert len(found.set_back([State.RUNNING], stopped=True)) == 1
    record = read_record(trial_folder(found, 0))
    assert (record.state, record.retries) == (State.PENDING, ())


def test_a_plan_half_written_is_written_to_its_end(tmp_path: Path) -> None:
    found = write_sweep(tmp_path)
    ids = set(found.records)
    shutil.rmtree(trial_folder(found, 1))
    (trial_folder(found, 3) / "record.json").unlink()
    end(found, 0, State.COMPLETE, 3.0)
    found = Sweep.read(tmp_path)
    assert len(found.records) == 2
    found.complete_plan()
    assert set(found.records) == ids
    assert found.records[min(found.records, key=lambda key: found.records[key].number)].state is State.COMPLETE


def test_asha_is_told_what_is_recorded(tmp_path: Path) -> None:
    found = write_sweep(tmp_path, "SCHEDULER=asha", "SAMPLES=4")
    for number, value in ((0, 10.0), (2, 11.0), (4, 12.0)):
        end(found, number, State.COMPLETE, value)
    found = Sweep.read(tmp_path)
    (part,) = passes.search_passes(found, run.make_progress(found), 2)
    scheduler = part.scheduler
    assert isinstance(scheduler, GroupedStopping)

    class Trial:
        config = {"trial_id": list(found.records)[6]}

    assert scheduler.on_trial_result(None, Trial(), {"env_steps": 4096, "episode_return": 1.0}) == "STOP"
    Trial.config = {"trial_id": list(found.records)[7]}
    assert scheduler.on_trial_result(None, Trial(), {"env_steps": 4096, "episode_return": 1.0}) == "CONTINUE"


def test_optuna_is_told_what_has_ended(tmp_path: Path) -> None:
    options = parse_sweep_options([*WORDS, "SEARCH=optuna"])
    study, _ = read_study(options, "sweep-1")
    write_plan(tmp_path, study, (), 4, options, "the command")
    found = Sweep.read(tmp_path)
    assert found.remaining == 4
    searcher = searcher_of(found)
    ids = [searcher.suggest(str(index))["trial_id"] for index in range(3)]
    found = Sweep.read(tmp_path)
    assert list(found.records) == ids
    end(found, 0, State.COMPLETE, 3.0)
    end(found, 1, State.FAILED, 3.0, error="no")
    found = Sweep.read(tmp_path)
    resumed = searcher_of(found)
    assert resumed.remaining == 2
    assert resumed.suggest("a")["trial_id"] == ids[2]
    assert resumed.suggest("b")["trial_id"] not in ids


ABSENT = """
algorithms: [ff_mappo]
scenarios: [p-base, p-short]
budget: {total_timesteps: 8192, num_evaluation: 2}
space:
  system.actor_lr: {type: loguniform, low: 0.0001, high: 0.01}
  system.ent_coef: {type: loguniform, low: 0.0001, high: 0.1, when: {scenario: p-base}}
  system.gamma: {type: uniform, low: 0.9, high: 0.999, when: {scenario: p-short}}
"""


def test_axes_that_did_not_exist_teach_a_resumed_searcher_nothing(tmp_path: Path) -> None:
    """It is told of other values than their lower ends, and each time of the same; what existed is as it was."""
    space = tmp_path / "space.yaml"
    space.write_text(ABSENT)
    words = ["ALG=mappo", f"SPACE={space}", "SAMPLES=9", "SEARCH=optuna", "SCENARIO_MODE=axis"]
    options = parse_sweep_options(words)
    study, samples = read_study(options, "sweep-1")
    write_plan(tmp_path / "sweep", study, (), samples * study.round_size, options, "the command", samples)
    searcher = searcher_of(Sweep.read(tmp_path / "sweep"))
    for index in range(8):
        searcher.suggest(str(index))
    asked = {one.key: dict(one.encoded) for one, _ in searcher._running.values()}
    found = Sweep.read(tmp_path / "sweep")
    known, again = (passes.known_configurations(found, study, lambda trial: trial) for _ in range(2))
    assert [one.values for one in known] == [one.values for one in again]
    told = {one.key: Space(study.groups[0].axes).encode(one.values) for one in known}
    assert set(told) == set(asked)
    absent = {"p-base": "system.gamma", "p-short": "system.ent_coef"}
    drawn: dict[str, list[float]] = {key: [] for key in absent.values()}
    for one in known:
        left_out = absent[one.values["scenario"]]
        assert {**told[one.key], left_out: None} == {**asked[one.key], left_out: None}
        drawn[left_out].append(told[one.key][left_out])
    for key, low, high in (("system.gamma", 0.9, 0.999), ("system.ent_coef", 0.0001, 0.1)):
        assert all(low < value < high for value in drawn[key])
        assert len(set(drawn[key])) == len(drawn[key]) > 0


def test_two_configurations_with_the_same_digits_have_folders_of_their_own(tmp_path: Path) -> None:
    assert passes.unused_id(tmp_path, "t") == "t"
    (tmp_path / "t").mkdir()
    assert passes.unused_id(tmp_path, "t") == "t", "a folder without a record is what a killed driver left of it"
    for name, following in (("t", "t-2"), ("t-2", "t-3")):
        (tmp_path / name).mkdir(exist_ok=True)
        (tmp_path / name / "record.json").touch()
        assert passes.unused_id(tmp_path, "t") == following


def test_a_second_driver_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_sweep(tmp_path)
    with lock_folder(tmp_path):
        assert sweep.main(["resume", str(tmp_path)]) == 2
    assert "holds this folder" in capsys.readouterr().err


def test_a_corrupt_record_is_named(tmp_path: Path) -> None:
    found = write_sweep(tmp_path)
    path = trial_folder(found, 0) / "record.json"
    path.write_text("{")
    with pytest.raises(SweepError, match=r"record.json: not JSON"):
        Sweep.read(tmp_path)
