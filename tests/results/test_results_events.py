"""TensorBoard's event files, as TensorBoard reads them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import synthetic_sweep

from jax_party.store.files import write_bytes_atomically
from jax_party.trial.folder import create_trial_folder
from jax_party.trial.metrics import append_metrics, truncate_metrics
from jax_party.trial.states import State
from results.live.events import EventFiles, run_name
from results.live.following import Follower

loading = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")


def scalars(run: Path) -> dict[str, list[tuple[int, float]]]:
    accumulator = loading.EventAccumulator(str(run))
    accumulator.Reload()
    return {tag: [(one.step, one.value) for one in accumulator.Scalars(tag)] for tag in accumulator.Tags()["scalars"]}


def hyperparameters(run: Path) -> dict[str, object]:
    from tensorboard.plugins.hparams import plugin_data_pb2

    accumulator = loading.EventAccumulator(str(run))
    accumulator.Reload()
    content = accumulator.PluginTagToContent("hparams")["_hparams_/session_start_info"]
    data = plugin_data_pb2.HParamsPluginData.FromString(content)
    kinds = {name: value.WhichOneof("kind") for name, value in data.session_start_info.hparams.items()}
    return {name: getattr(data.session_start_info.hparams[name], kind) for name, kind in kinds.items()}


def test_a_trial_is_a_run_with_scalars_and_hyperparameters(sweep: Callable[..., Path], tmp_path: Path) -> None:
    files = EventFiles(tmp_path / "events")
    files.update(Follower(sweep(1)).changed())
    record = synthetic_sweep.record_of(0)
    assert run_name(record) == f"ff_mappo/p-base/0000-{record.trial_id[-8:]}"
    run = tmp_path / "events" / run_name(record)
    assert scalars(run) == {
        "evaluate/episode_return": [(100, 1.0), (200, 5.0), (300, 3.0)],
        "evaluate/episode_length": [(100, 7.0), (200, 7.0), (300, 7.0)],
        "train/policy_loss": [(100, 0.5), (200, 0.5), (300, 0.5)],
        "absolute/episode_return": [(300, 3.0)],
        "absolute/episode_length": [(300, 7.0)],
    }
    assert hyperparameters(run) == {"system.actor_lr": 0.001, "algorithm": "ff_mappo", "scenario": "p-base"}


def test_a_trial_on_object_storage_has_its_run_here(
    sweep: Callable[..., Path], bucket: Path, tmp_path: Path
) -> None:  # fmt: skip
    folder = sweep(1)
    for path in (path for path in folder.rglob("*") if path.is_file()):
        write_bytes_atomically(bucket / "sweep" / str(path.relative_to(folder)), path.read_bytes())
    files = EventFiles(tmp_path / "events")
    files.update(Follower(bucket / "sweep").changed())
    run = tmp_path / "events" / run_name(synthetic_sweep.record_of(0))
    assert scalars(run)["absolute/episode_return"] == [(300, 3.0)]
    assert hyperparameters(run) == {"system.actor_lr": 0.001, "algorithm": "ff_mappo", "scenario": "p-base"}


def test_files_grow_by_what_is_new(trial: Path, tmp_path: Path) -> None:
    files, follower = EventFiles(tmp_path / "events"), Follower(trial)
    run = tmp_path / "events" / "24th" / run_name(synthetic_sweep.record_of(0))
    files.update(follower.changed(), "24th")
    assert not run.exists()  # nothing to draw yet
    for evaluation in (1, 2):
        append_metrics(trial, synthetic_sweep.row_of(0, evaluation))
        files.update(follower.changed(), "24th")
        assert follower.changed() == []
    assert scalars(run)["evaluate/episode_return"] == [(100, 1.0), (200, 5.0)]


def test_a_replay_after_a_kill_is_not_written_twice(trial: Path, tmp_path: Path) -> None:
    files, follower = EventFiles(tmp_path / "events"), Follower(trial)
    append_metrics(trial, synthetic_sweep.row_of(0, 1), synthetic_sweep.row_of(0, 2))
    files.update(follower.changed())
    truncate_metrics(trial, 100)
    files.update(follower.changed())
    append_metrics(trial, synthetic_sweep.row_of(0, 2), synthetic_sweep.row_of(0, 3))
    files.update(follower.changed())
    run = tmp_path / "events" / run_name(synthetic_sweep.record_of(0))
    assert [step for step, _ in scalars(run)["evaluate/episode_return"]] == [100, 200, 300]


def test_seeds_have_runs_of_their_own_below_their_mean(tmp_path: Path) -> None:
    folder = tmp_path / "trial"
    record = synthetic_sweep.record_of(0, num_seeds=2, state=State.RUNNING)
    create_trial_folder(folder, synthetic_sweep.config_of(0), record)
    row = synthetic_sweep.row_of(0, 1)
    append_metrics(folder, row, {**row, "seed": 43, "evaluate": {"episode_return": 4.0}})
    EventFiles(tmp_path / "events").update(Follower(folder).changed())
    run = tmp_path / "events" / run_name(record)
    found = {name: scalars(run / name)["evaluate/episode_return"] for name in ("", "s42", "s43")}
    assert found == {"": [(100, 2.5)], "s42": [(100, 1.0)], "s43": [(100, 4.0)]}
