"""The Optuna journal of a sweep, as Optuna reads it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest
import synthetic_sweep
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

from jax_party.errors import RecordError
from jax_party.judging.objectives import Objective
from jax_party.store.files import write_bytes_atomically
from jax_party.trial.folder import change_record, create_trial_folder, update_record
from jax_party.trial.manifest import SweepManifest, write_manifest
from jax_party.trial.metrics import METRICS_FILE, append_metrics
from jax_party.trial.record import RECORD_FILE, Takeover, TrialRecord
from jax_party.trial.states import State
from results.live.following import Follower
from results.live.journal import JOURNAL_FILE, Journal, update_journal

SPACE = {
    "system.actor_lr": {"type": "loguniform", "low": 1e-4, "high": 1e-1},
    "system.layers": {"type": "choice", "values": [[64], [64, 64]]},
    "system.gamma": [
        {"type": "uniform", "low": 0.9, "high": 1.0, "when": {"scenario": "p-base"}},
        {"type": "choice", "values": [0.5, 0.6], "when": {"scenario": ["p-noisy"]}},
    ],
}


def manifest(**changes: Any) -> SweepManifest:
    values: dict[str, Any] = {
        "name": "demo", "algorithm": "ff_mappo", "algorithms": ("ff_mappo",), "created": "2026-01-02T03:04:05+00:00",
        "num_trials": 9, "objective": Objective("episode_return", "max", at="best"), "seed": 1, "search": "random",
        "space": SPACE, "overrides": {"env/scenario": ["p-base", "p-noisy"]},
    }  # fmt: skip
    return SweepManifest(**{**values, **changes})


def plan(folder: Path, number: int, **changes: Any) -> Path:
    trial = folder / synthetic_sweep.record_of(number).trial_id
    record = synthetic_sweep.record_of(number, **changes)
    create_trial_folder(trial, synthetic_sweep.config_of(number), record)
    return trial


def studies(journal: Path) -> dict[str, list[optuna.trial.FrozenTrial]]:
    storage = JournalStorage(JournalFileBackend(str(journal)))
    return {name: optuna.load_study(study_name=name, storage=storage).trials
            for name in optuna.get_all_study_names(storage)}  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_manifest(tmp_path / "sweep", manifest())
    return tmp_path / "sweep"


def test_a_complete_trial_is_there_whole(folder: Path) -> None:
    values = {"system.actor_lr": 0.002, "system.layers": [64, 64], "system.gamma": 0.95, "system.other": 3}
    trial = plan(folder, 1, hyperparameters=values)
    synthetic_sweep.complete(trial, 1)
    assert update_journal(folder) == folder / JOURNAL_FILE
    ((name, (found,)),) = studies(folder / JOURNAL_FILE).items()
    assert name == "ff_mappo p-base"
    assert found.state is TrialState.COMPLETE
    assert found.values == [13.0]  # the absolute metric
    assert found.intermediate_values == {1: 11.0, 2: 15.0, 3: 13.0}
    assert found.params == {"system.actor_lr": 0.002, "system.layers": "[64, 64]", "system.gamma (p-base)": 0.95}
    assert found.distributions["system.actor_lr"] == optuna.distributions.FloatDistribution(1e-4, 1e-1, log=True)
    assert found.user_attrs["system.other"] == 3  # what the space does not have
    assert found.user_attrs["vaults"] == [trial.name, f"{trial.name}-test"]
    assert (found.user_attrs["trial_id"], found.user_attrs["folder"]) == (trial.name, trial.name)


def test_it_follows_a_trial_and_never_repeats_itself(folder: Path) -> None:
    trial = plan(folder, 0)
    seen: list[tuple[TrialState, dict[int, float]]] = []

    def look() -> None:
        update_journal(folder)
        size = (folder / JOURNAL_FILE).stat().st_size
        update_journal(folder)
        assert (folder / JOURNAL_FILE).stat().st_size == size
        (found,) = studies(folder / JOURNAL_FILE)["ff_mappo p-base"]
        seen.append((found.state, dict(found.intermediate_values)))

    look()
    update_record(trial, state=State.RUNNING, attempts=1, started_at="2026-01-02T03:04:05+00:00")
    look()
    append_metrics(trial, synthetic_sweep.row_of(0, 1))
    look()
    update_record(trial, state=State.PENDING)  # set back: its worker has died
    look()
    update_record(trial, state=State.PRUNED, error="asha")
    look()
    one = {1: 1.0}
    assert seen == [(TrialState.WAITING, {}), (TrialState.RUNNING, {}), (TrialState.RUNNING, one),
                    (TrialState.WAITING, one), (TrialState.PRUNED, one)]  # fmt: skip


def test_a_failed_trial_that_is_played_again_has_a_second_row(folder: Path) -> None:
    trial = plan(folder, 0, state=State.FAILED, error="nan")
    update_journal(folder)
    update_record(trial, state=State.RUNNING, error=None)
    update_journal(folder)
    synthetic_sweep.complete(trial, 0)
    update_journal(folder)
    found = studies(folder / JOURNAL_FILE)["ff_mappo p-base"]
    assert [one.state for one in found] == [TrialState.FAIL, TrialState.COMPLETE]
    assert found[0].user_attrs["error"] == "nan"
    assert found[1].values == [3.0]


def test_a_complete_trial_without_a_number_counts_as_failed(folder: Path) -> None:
    plan(folder, 0, state=State.COMPLETE)
    update_journal(folder)
    (found,) = studies(folder / JOURNAL_FILE)["ff_mappo p-base"]
    assert (found.state, found.values) == (TrialState.FAIL, None)


@pytest.mark.parametrize(
    ("mode", "names", "scenarios"),
    [
        ("grid", ["ff_mappo p-base", "ff_mappo p-noisy"], []),
        ("axis", ["ff_mappo"], ["p-base", "p-noisy"]),
        ("mean", ["ff_mappo p-base", "ff_mappo p-noisy", "ff_mappo over scenarios"], []),
    ],
)
def test_a_study_for_each_search(folder: Path, mode: str, names: list[str], scenarios: list[str]) -> None:
    write_manifest(folder, manifest(scenario_mode=mode))
    for number, scenario in enumerate(("p-base", "p-noisy")):
        values = {"system.gamma": 0.95 if scenario == "p-base" else 0.5}
        plan(folder, number, scenario=scenario, hyperparameters=values)
    update_journal(folder)
    found = studies(folder / JOURNAL_FILE)
    assert list(found) == names
    trials = [trial for of_study in found.values() for trial in of_study]
    assert [trial.params.get("scenario") for trial in trials if "scenario" in trial.params] == scenarios
    assert {name for trial in trials for name in trial.params} - {"scenario"} == {
        "system.gamma (p-base)", "system.gamma (p-noisy)",
    }  # fmt: skip


def test_a_configuration_over_scenarios_is_one_trial_of_the_mean(folder: Path) -> None:
    """Once it has been played in every scenario."""
    objective = Objective("episode_return", "max", constraints={"min_episode_return": 9.0}, at="best")
    write_manifest(folder, manifest(scenario_mode="mean", objective=objective))
    for number, (scenario, rate) in enumerate([("p-base", 0.001), ("p-noisy", 0.001), ("p-base", 0.002)]):
        trial = plan(folder, number, scenario=scenario, hyperparameters={"system.actor_lr": rate}, seed=42,
                     objective=objective)  # fmt: skip
        if number != 1:
            synthetic_sweep.complete(trial, number)
    update_journal(folder)
    assert studies(folder / JOURNAL_FILE)["ff_mappo over scenarios"] == []
    of_second = folder / synthetic_sweep.record_of(1).trial_id
    synthetic_sweep.complete(of_second, 1)
    update_journal(folder)
    found = studies(folder / JOURNAL_FILE)
    (one,) = found["ff_mappo over scenarios"]
    parts = [found["ff_mappo p-base"][0], found["ff_mappo p-noisy"][0]]
    assert [part.values for part in parts] == [[3.0], [13.0]]
    assert (one.state, one.values) == (TrialState.COMPLETE, [8.0]) and one.params == {"system.actor_lr": 0.001}
    assert one.intermediate_values == {1: 6.0, 2: 10.0, 3: 8.0}  # of 1, 5, 3 and of 11, 15, 13
    assert one.system_attrs["constraints"] == [9.0 - 8.0]
    assert one.user_attrs["trials"] == [part.user_attrs["trial_id"] for part in parts]
    update_journal(folder)
    assert len(studies(folder / JOURNAL_FILE)["ff_mappo over scenarios"]) == 1, "once"


def test_a_populations_trial_has_the_values_of_its_best_evaluation(folder: Path) -> None:
    lineage = (Takeover(200, "other", 100, {"system.actor_lr": 0.01}),)
    trial = plan(folder, 1, hyperparameters={"system.actor_lr": 0.002}, lineage=lineage)
    synthetic_sweep.complete(trial, 1)  # its best evaluation is at step 200, when it had the first ones still
    update_journal(folder)
    (found,) = studies(folder / JOURNAL_FILE)["ff_mappo p-base"]
    assert found.params == {"system.actor_lr": 0.01}


def test_a_population_changes_its_values(folder: Path) -> None:
    trial = plan(folder, 0, state=State.RUNNING, hyperparameters={"system.actor_lr": 0.001})
    update_journal(folder)
    change_record(trial, lambda old: TrialRecord(**{**vars(old), "hyperparameters": {"system.actor_lr": 0.005}}))
    update_journal(folder)
    (found,) = studies(folder / JOURNAL_FILE)["ff_mappo p-base"]
    assert found.params == {"system.actor_lr": 0.005}


def test_several_objectives_have_their_names_directions_and_constraints(folder: Path) -> None:
    objective = Objective("episode_return", "max", others=(("episode_length", "min"),),
                          constraints={"min_episode_return": 4.0}, at="best")  # fmt: skip
    write_manifest(folder, manifest(objective=objective))
    trial = plan(folder, 0, objective=objective)
    for evaluation in (1, 2):
        append_metrics(trial, synthetic_sweep.row_of(0, evaluation))
    update_record(trial, state=State.COMPLETE)
    update_journal(folder)
    storage = JournalStorage(JournalFileBackend(str(folder / JOURNAL_FILE)))
    study = optuna.load_study(study_name="ff_mappo p-base", storage=storage)
    assert [direction.name for direction in study.directions] == ["MAXIMIZE", "MINIMIZE"]
    assert study.metric_names == ["episode_return", "episode_length"]
    assert study.trials[0].values == [5.0, 7.0]
    assert study.trials[0].system_attrs["constraints"] == [-1.0]


def test_what_a_kill_leaves_of_a_line_is_cut(folder: Path) -> None:
    plan(folder, 0)
    update_journal(folder)
    with (folder / JOURNAL_FILE).open("ab") as journal:
        journal.write(b'{"op_code": 4, "work')
    plan(folder, 1)
    update_journal(folder)
    assert len(studies(folder / JOURNAL_FILE)["ff_mappo p-base"]) == 2
    for line in (folder / JOURNAL_FILE).read_text().splitlines():
        json.loads(line)


def test_processes_side_by_side_write_each_trial_once(folder: Path) -> None:
    for number in range(20):
        plan(folder, number)
    command = [
        sys.executable,
        "-c",
        f"from results.live.journal import update_journal; update_journal({str(folder)!r})",
    ]
    running = [subprocess.Popen(command) for _ in range(3)]
    assert [process.wait(120) for process in running] == [0, 0, 0]
    found = studies(folder / JOURNAL_FILE)["ff_mappo p-base"]
    assert [trial.user_attrs["number"] for trial in found] == list(range(20))


def test_a_damaged_journal_is_named_with_its_remedy(folder: Path) -> None:
    plan(folder, 0)
    (folder / JOURNAL_FILE).write_text("no journal\n{}\n")
    with pytest.raises(RecordError, match=r"optuna\.journal: cannot be kept .*delete it"):
        update_journal(folder)


def test_a_single_run_and_remote_storage_have_none(sweep: Callable[..., Path], trial: Path) -> None:
    assert update_journal(trial) is None
    assert update_journal("s3://nowhere/at/all") is None
    with pytest.raises(RecordError, match="no such folder"):
        update_journal("nowhere")


def test_on_remote_storage_it_is_made_from_the_trials_there(bucket: Path, tmp_path: Path) -> None:
    local = tmp_path / "trial"
    create_trial_folder(local, synthetic_sweep.config_of(0), synthetic_sweep.record_of(0))
    synthetic_sweep.complete(local, 0)
    remote = bucket / "sweep"
    write_manifest(remote, manifest())
    for name in (RECORD_FILE, METRICS_FILE):
        write_bytes_atomically(remote / "one" / name, (local / name).read_bytes())
    follower = Follower(remote)
    journal = Journal(tmp_path / JOURNAL_FILE)
    journal.update(follower.manifest, follower.changed(), "here")
    assert follower.changed() == []
    (found,) = studies(tmp_path / JOURNAL_FILE)["here ff_mappo p-base"]
    assert found.intermediate_values == {1: 1.0, 2: 5.0, 3: 3.0}
