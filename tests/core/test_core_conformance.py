"""What every system must do: shapes, purity, and resuming as if nothing had happened. One list, one suite."""

from __future__ import annotations

import json
import logging
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from flashbax.vault import Vault

from jax_party.config import parse_config
from jax_party.errors import CheckpointError, TrainingDiverged, VaultError
from jax_party.training.checkpoint_files import Checkpoints
from jax_party.training.experiment import Experiment
from jax_party.training.vault import VaultWriter, _chunk_steps
from jax_party.trial.folder import read_record
from jax_party.trial.metrics import read_metrics
from mava_configs import ALGORITHMS

ROOT = Path(__file__).parents[2]
RECORDED = ("vault=both", "arch.stagger_episodes=true")
FIELDS = {
    "done": (np.bool_, ()), "action": (np.int8, (3,)), "reward": (np.float32, (3,)),
    "observation": (np.float32, (3, None)), "legal_action_mask": (np.bool_, (3, 3)),
}  # fmt: skip
ON_POLICY = {"value": (np.float32, (3,)), "log_prob": (np.float32, (3,))}
Q_LEARNING = {"q_values": (np.float32, (3, 3))}
SAC = {"log_prob": (np.float32, (3,))}
KNOWN: dict[str, dict[str, Any]] = {
    **dict.fromkeys(("ff_ippo", "ff_mappo", "rec_ippo", "rec_mappo", "ff_sable", "rec_sable", "mat"), ON_POLICY),
    **dict.fromkeys(("ff_iql", "rec_iql", "rec_qmix"), Q_LEARNING),
    **dict.fromkeys(("ff_isac", "ff_masac", "ff_hasac"), SAC),
}
"""What each system knows of its actions, recorded besides."""
LOSSES = {
    "value": {"policy_loss", "value_loss", "entropy"},
    "q_values": {"q_loss", "mean_q"},
    "log_prob": {"policy_loss", "q_loss", "entropy", "alpha"},
}
"""Training metrics that a system must give, by the first thing that it knows of its actions."""
ENVS, STEPS, TIME_LIMIT, EPISODES, PERIODS = 4, 128, 24, 4, 4


@pytest.fixture(scope="module", params=ALGORITHMS)
def algorithm(request: pytest.FixtureRequest) -> str:
    """Every system that has a config."""
    name: str = request.param
    return name


def _run(experiment: Experiment) -> list[dict[str, Any]]:
    results = []
    while not experiment.finished:
        results.append(experiment.step())
    return results


class Unbroken:
    """A whole experiment, run without interruption."""

    def __init__(self, folder: Path, mapping: dict[str, Any]) -> None:
        self.folder, self.mapping = folder, mapping
        experiment = Experiment(parse_config(mapping), folder)
        self.results = _run(experiment)
        self.params = [np.asarray(leaf) for leaf in jax.tree.leaves(experiment.learners[0].state)]
        self.last = experiment.step()
        experiment.close()


@pytest.fixture(scope="module")
def mapping(algorithm: str, tiny_mapping: Callable[..., Any]) -> dict[str, Any]:
    """The config of the experiments here: both vaults."""
    made: dict[str, Any] = tiny_mapping(algorithm, *RECORDED)
    return made


@pytest.fixture(scope="module")
def unbroken(
    mapping: dict[str, Any], make_folder: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Unbroken]:
    """One whole run of each system."""
    yield Unbroken(make_folder(tmp_path_factory.mktemp("unbroken") / "trial", mapping), mapping)


@pytest.fixture(scope="module")
def halfway(
    mapping: dict[str, Any], make_folder: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A run closed after two periods; copy it before taking it up."""
    folder = make_folder(tmp_path_factory.mktemp("halfway") / "trial", mapping)
    experiment = Experiment(parse_config(mapping), folder)
    experiment.step()
    experiment.step()
    experiment.close()
    return folder


def _read_vault(folder: Path, uid: str) -> dict[str, np.ndarray]:
    """With Flashbax alone."""
    state = Vault(rel_dir=str(folder / "vaults"), vault_name="jax_party", vault_uid=uid).read()
    assert state is not None
    return {name: np.asarray(field) for name, field in state.experience.items()}


def _rows(folder: Path) -> list[dict[str, Any]]:
    """metrics.jsonl without what a clock wrote."""
    rows = read_metrics(folder)
    for row in rows:
        row.pop("wall_time_s")
        row.pop("evaluation_time_s", None)
        row["train"].pop("steps_per_second", None)
    return rows


def _same(folder: Path, unbroken: Unbroken) -> None:
    """Metrics and vaults are, bit for bit, those of the unbroken run."""
    assert _rows(folder) == _rows(unbroken.folder)
    uid = read_record(folder).trial_id
    for vault in (uid, f"{uid}-test"):
        ours, theirs = _read_vault(folder, vault), _read_vault(unbroken.folder, vault)
        assert ours.keys() == theirs.keys()
        for name, field in ours.items():
            np.testing.assert_array_equal(field, theirs[name], err_msg=f"{vault}: {name}")
    mine, other = read_record(folder), read_record(unbroken.folder)
    for name in ("state", "absolute_metrics", "vaults", "env_steps", "total_steps", "checkpoint"):
        assert getattr(mine, name) == getattr(other, name), name
    assert _marl_eval(folder) == _marl_eval(unbroken.folder)


def _marl_eval(folder: Path) -> Any:
    """What marl-eval's file holds, but for the times."""

    def without_times(node: Any) -> Any:
        if not isinstance(node, dict):
            return node
        return {key: without_times(value) for key, value in node.items() if key != "elapsed_time"}

    found = without_times(json.loads((folder / "metrics" / "metrics.json").read_text()))
    (runs,) = [seeds for tasks in found.values() for systems in tasks.values() for seeds in systems.values()]
    assert all(run["absolute_metrics"] for run in runs.values())
    return found


def _resume(folder: Path, unbroken: Unbroken, open_experiment: Callable[[Path], Experiment]) -> Experiment:
    experiment = open_experiment(folder)
    _run(experiment)
    for mine, other in zip(jax.tree.leaves(experiment.learners[0].state), unbroken.params, strict=True):
        np.testing.assert_array_equal(np.asarray(mine), other)
    experiment.close()
    _same(folder, unbroken)
    return experiment


# -- Shapes, dtypes, purity --------------------------------------------------------------------------------------------


def test_shapes_and_dtypes(algorithm: str, begin: Callable[..., Any]) -> None:
    run = begin(algorithm, *RECORDED)
    shape = run.program.state_shape(run.hyper)
    describe = lambda leaf: (leaf.shape, leaf.dtype)  # noqa: E731
    assert jax.tree.map(describe, run.state) == jax.tree.map(describe, shape)
    assert {leaf.dtype for leaf in jax.tree.leaves(run.state.params)} == {np.dtype(np.float32)}
    assert {leaf.shape[0] for leaf in jax.tree.leaves(run.state.memory)} <= {ENVS}
    state, output = run.program.update(run.hyper, run.state)
    assert jax.tree.map(describe, state) == jax.tree.map(describe, shape)
    assert (int(state.updates), int(run.program.update(run.hyper, state)[0].updates)) == (1, 2)
    assert {describe(loss) for loss in output.losses.values()} == {((), np.dtype(np.float32))}
    _check_fields(algorithm, output.trajectory, ENVS, 16)


def _check_fields(algorithm: str, fields: dict[str, Any], rows: int, steps: int) -> None:
    expected = FIELDS | KNOWN[algorithm]
    assert fields.keys() == expected.keys()
    for name, (dtype, shape) in expected.items():
        assert fields[name].dtype == dtype, name
        assert fields[name].shape[:2] == (rows, steps), name
        trailing = fields[name].shape[2:]
        assert len(trailing) == len(shape), name
        assert all(want in (None, got) for want, got in zip(shape, trailing, strict=True)), name


def test_update_and_evaluation_are_pure(algorithm: str, begin: Callable[..., Any]) -> None:
    outcomes = []
    for _ in range(2):
        run = begin(algorithm, *RECORDED, seed=3)
        evaluation = run.program.evaluate(run.hyper, run.state.params, jax.random.PRNGKey(1))
        outcomes.append(jax.tree.map(np.asarray, (evaluation, run.program.update(run.hyper, run.state))))
    jax.tree.map(np.testing.assert_array_equal, *outcomes)
    other = begin(algorithm, *RECORDED, seed=4)
    assert any(
        (np.asarray(a) != b).any()
        for a, b in zip(jax.tree.leaves(other.state.params), jax.tree.leaves(outcomes[0][1][0].params), strict=True)
    )


# -- A whole run -------------------------------------------------------------------------------------------------------


def test_each_step_is_a_period(unbroken: Unbroken) -> None:
    assert [result["evaluation"] for result in unbroken.results] == [1, 2, 3, 4]
    assert [result["env_steps"] for result in unbroken.results] == [128, 256, 384, 512]
    assert [result["finished"] for result in unbroken.results] == [False, False, False, True]
    assert unbroken.last == unbroken.results[-1]
    record = read_record(unbroken.folder)
    assert (record.state, record.error, record.attempts) == ("COMPLETE", None, 1)
    assert (record.env_steps, record.total_steps, record.checkpoint) == (512, 512, "checkpoints/512")
    assert record.steps_per_second is not None and record.steps_per_second > 0
    assert record.duration_s > 0 and record.ended_at is not None
    assert sorted(path.name for path in (unbroken.folder / "checkpoints").iterdir()) == ["384", "512"]


def test_metrics_rows(unbroken: Unbroken, algorithm: str) -> None:
    rows = read_metrics(unbroken.folder)
    untrained, *evaluations, final, absolute = rows
    assert (untrained["evaluation"], untrained["step"], untrained["untrained"]) == (0, 0, True)
    assert "untrained" not in {name for row in evaluations for name in row}, "drawn, and never judged"
    assert [(row["evaluation"], row["step"], row["seed"]) for row in evaluations] == [
        (1, 128, 42), (2, 256, 42), (3, 384, 42), (4, 512, 42),
    ]  # fmt: skip
    for row in evaluations:
        for name, values in row["episodes"].items():
            assert len(values) == EPISODES
            assert row["evaluate"][name] == pytest.approx(np.mean(values), rel=1e-5, abs=1e-6)
        assert row["episodes"]["episode_length"] == [TIME_LIMIT] * EPISODES
        per_agent = [row["evaluate"][f"episode_return_agent_{i}"] for i in range(3)]
        assert row["evaluate"]["episode_return"] == pytest.approx(np.mean(per_agent), rel=1e-5)
        assert LOSSES[next(iter(KNOWN[algorithm]))] <= row["train"].keys()
    assert (final["final"], absolute["absolute"]) == (True, True)
    for closing in (final, absolute):
        assert all(len(values) == 6 for values in closing["episodes"].values())
    record = read_record(unbroken.folder)
    assert (record.final_metrics, record.absolute_metrics) == (final["evaluate"], absolute["evaluate"])
    best = max(evaluations, key=lambda row: row["evaluate"]["episode_return"])
    assert (final["episodes"] == absolute["episodes"]) == (best["step"] == 512), "the same networks are played once"
    returns = np.array(final["episodes"]["episode_return"])
    assert final["se"] == {"episode_return": pytest.approx(np.std(returns, ddof=1) / np.sqrt(6))}


def test_marl_evals_file(unbroken: Unbroken, algorithm: str) -> None:
    tree = json.loads((unbroken.folder / "metrics/metrics.json").read_text())
    run = tree["JaxParty"]["p-short"][algorithm]["seed_42"]
    assert list(run) == ["step_0", "step_1", "step_2", "step_3", "absolute_metrics"]
    rows = read_metrics(unbroken.folder)
    for index, row in enumerate(rows[1:5]):
        assert run[f"step_{index}"]["step_count"] == row["step"]
        assert run[f"step_{index}"]["episode_return"] == row["episodes"]["episode_return"]
    assert run["absolute_metrics"]["episode_return"] == rows[-1]["episodes"]["episode_return"]


def test_the_train_vault_holds_every_step_trained(unbroken: Unbroken, algorithm: str) -> None:
    record = read_record(unbroken.folder)
    fields = _read_vault(unbroken.folder, record.trial_id)
    _check_fields(algorithm, fields, ENVS, STEPS)
    assert [(e.uid, e.kind, e.rows, e.steps) for e in record.vaults] == [
        (record.trial_id, "train", ENVS, STEPS),
        (f"{record.trial_id}-test", "test", EPISODES, PERIODS * TIME_LIMIT),
    ]
    assert record.env_steps == ENVS * STEPS
    first = fields["done"].argmax(axis=1)[:, None]  # training joins the episodes that run then at other steps each
    assert (first < TIME_LIMIT).all() and len(np.unique(first)) == ENVS
    np.testing.assert_array_equal(fields["done"], (np.arange(STEPS) - first) % TIME_LIMIT == 0)
    legal = np.take_along_axis(fields["legal_action_mask"], fields["action"][..., None].astype(int), -1)
    assert legal.all()
    rollouts = fields["observation"].reshape(ENVS * STEPS // 16, 16, -1)
    assert len(np.unique(rollouts.reshape(len(rollouts), -1), axis=0)) == len(rollouts)  # nothing twice
    # Ranking rewards sum to zero, so a step's rewards sum to the welfare of one meeting: 2, 5 or 6.
    assert set(np.round(fields["reward"].sum(-1)).ravel()) <= {2.0, 5.0, 6.0}


def test_the_test_vault_holds_the_evaluations_episodes(unbroken: Unbroken, algorithm: str) -> None:
    fields = _read_vault(unbroken.folder, f"{read_record(unbroken.folder).trial_id}-test")
    _check_fields(algorithm, fields, EPISODES, PERIODS * TIME_LIMIT)
    starts = np.arange(PERIODS * TIME_LIMIT) % TIME_LIMIT == 0
    np.testing.assert_array_equal(fields["done"], np.broadcast_to(starts, (EPISODES, PERIODS * TIME_LIMIT)))
    returns = fields["reward"].mean(-1).reshape(EPISODES, PERIODS, TIME_LIMIT).sum(-1)
    for period, row in enumerate(read_metrics(unbroken.folder)[1:-2]):
        np.testing.assert_allclose(returns[:, period], row["episodes"]["episode_return"], rtol=1e-4, atol=1e-3)


def test_the_vaults_metadata(unbroken: Unbroken, algorithm: str) -> None:
    record = read_record(unbroken.folder)
    metadata = json.loads((unbroken.folder / "vaults/jax_party" / record.trial_id / "metadata.json").read_text())
    ours = metadata["jax_party"]
    assert (ours["trial_id"], ours["kind"]) == (record.trial_id, "train")
    assert set(json.loads(ours["fields"])) == set(FIELDS | KNOWN[algorithm])


def test_a_vaults_chunks_are_whole_rollouts() -> None:
    megabyte = 2**20
    assert _chunk_steps(128, 100) == 128
    assert _chunk_steps(300, 100) == 300
    assert _chunk_steps(8, 100) == 128  # short rollouts share a chunk
    assert _chunk_steps(24, 100) == 144
    assert _chunk_steps(128, megabyte) == 4  # at most 4 MiB, a divisor of the rollout
    assert _chunk_steps(2, megabyte) == 4
    assert _chunk_steps(7, megabyte) == 1
    assert _chunk_steps(1, 100 * megabyte) == 1


# -- Resume ------------------------------------------------------------------------------------------------------------


def test_a_closed_run_goes_on_as_if_unbroken(
    unbroken: Unbroken, halfway: Path, tmp_path: Path, open_experiment: Callable[[Path], Experiment]
) -> None:
    folder = Path(shutil.copytree(halfway, tmp_path / "trial"))
    assert len(read_metrics(folder)) == 3
    _resume(folder, unbroken, open_experiment)
    assert read_record(folder).attempts == 2


def test_a_run_killed_before_its_checkpoint_goes_on_as_if_unbroken(
    unbroken: Unbroken, halfway: Path, tmp_path: Path, open_experiment: Callable[[Path], Experiment],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    folder = Path(shutil.copytree(halfway, tmp_path / "trial"))
    experiment = open_experiment(folder)
    with monkeypatch.context() as patched:
        patched.setattr(Checkpoints, "save", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            experiment.step()
    experiment.close()
    # Vault and metrics are a period ahead of the checkpoint, and a line was cut short.
    assert len(read_metrics(folder)) == 4
    assert _read_vault(folder, read_record(folder).trial_id)["done"].shape == (ENVS, 96)
    with (folder / "metrics/metrics.jsonl").open("a") as file:
        file.write('{"evaluation": 4, "st')
    _resume(folder, unbroken, open_experiment)


def test_a_run_killed_before_its_end_is_recorded_goes_on_as_if_unbroken(
    unbroken: Unbroken, halfway: Path, tmp_path: Path, open_experiment: Callable[[Path], Experiment],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    folder = Path(shutil.copytree(halfway, tmp_path / "trial"))
    experiment = open_experiment(folder)
    update = experiment.recorder.update

    def die(**changes: Any) -> None:
        if changes.get("state") == "COMPLETE":
            raise KeyboardInterrupt
        update(**changes)

    with monkeypatch.context() as patched:
        patched.setattr(experiment.recorder, "update", die)
        with pytest.raises(KeyboardInterrupt):
            _run(experiment)
    experiment.close()
    assert read_metrics(folder)[-1]["absolute"] is True
    _resume(folder, unbroken, open_experiment)


def test_a_killed_first_attempt_begins_anew(
    unbroken: Unbroken, tmp_path: Path, make_folder: Callable[..., Path], open_experiment: Callable[[Path], Experiment],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    folder = make_folder(tmp_path / "trial", unbroken.mapping)
    experiment = open_experiment(folder)
    with monkeypatch.context() as patched:
        patched.setattr(Checkpoints, "save", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            experiment.step()
    experiment.close()
    _resume(folder, unbroken, open_experiment)


def test_a_corrupt_checkpoint_is_passed_over(
    unbroken: Unbroken, halfway: Path, tmp_path: Path, open_experiment: Callable[[Path], Experiment],
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    folder = Path(shutil.copytree(halfway, tmp_path / "trial"))
    _damage(folder / "checkpoints" / "256")
    with caplog.at_level(logging.WARNING):
        experiment = open_experiment(folder)
    assert f"{folder / 'checkpoints'}: checkpoint 256 cannot be read" in caplog.text
    assert experiment.evaluations == 1
    (told,) = read_record(folder).retries
    assert "checkpoint 256 cannot be read (" in told and told.endswith(": went on from checkpoint 128")
    experiment.close()
    _resume(folder, unbroken, open_experiment)


def _damage(checkpoint: Path) -> None:
    for path in checkpoint.rglob("*"):
        if path.is_file():
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def test_no_whole_checkpoint_is_an_error_that_frees_the_folder(
    halfway: Path, tmp_path: Path, open_experiment: Callable[[Path], Experiment]
) -> None:
    folder = Path(shutil.copytree(halfway, tmp_path / "trial"))
    for step in ("128", "256"):
        _damage(folder / "checkpoints" / step)
    for _ in range(2):  # the second attempt is not refused for a lock that the first one left
        with pytest.raises(CheckpointError, match=r"none of the checkpoints \[128, 256\] can be read"):
            open_experiment(folder)


# -- Ends --------------------------------------------------------------------------------------------------------------


def test_a_complete_experiment_gives_its_last_result(
    unbroken: Unbroken, open_experiment: Callable[[Path], Experiment]
) -> None:
    experiment = open_experiment(unbroken.folder)
    assert experiment.finished
    assert experiment.step() == unbroken.last
    assert read_record(unbroken.folder).attempts == 1


def test_a_diverged_run_has_failed(
    algorithm: str, tiny_mapping: Callable[..., Any], tmp_path: Path, make_folder: Callable[..., Path],
    open_experiment: Callable[[Path], Experiment],
) -> None:  # fmt: skip
    rates = [key for key in tiny_mapping(algorithm)["system"] if key.endswith("_lr")]
    mapping = tiny_mapping(algorithm, *RECORDED, *(f"system.{rate}=1e38" for rate in rates))
    folder = make_folder(tmp_path / "trial", mapping)
    experiment = open_experiment(folder)
    with pytest.raises(TrainingDiverged, match="try a smaller learning rate"):
        _run(experiment)
    experiment.close()
    record = read_record(folder)
    assert record.state == "FAILED"
    assert record.error is not None and record.error.startswith("TrainingDiverged: ")
    assert "in update 1 (step 64)" in record.error
    again = open_experiment(folder)
    assert again.finished and again.step()["finished"]


# -- Vault options and faults ------------------------------------------------------------------------------------------


def test_every_other_update_up_to_a_limit(
    unbroken: Unbroken, tmp_path: Path, make_folder: Callable[..., Path], open_experiment: Callable[[Path], Experiment]
) -> None:
    mapping = json.loads(json.dumps(unbroken.mapping))
    mapping["vault"] |= {"every": 2, "max_transitions": 40 * ENVS + 3}
    folder = make_folder(tmp_path / "trial", mapping)
    experiment = open_experiment(folder)
    experiment.step()
    experiment.step()
    experiment.close()
    _run(open_experiment(folder))
    record = read_record(folder)
    ours, whole = _read_vault(folder, record.trial_id), _read_vault(
        unbroken.folder, read_record(unbroken.folder).trial_id)  # fmt: skip
    kept = [*range(16), *range(32, 48), *range(64, 72)]  # updates 1, 3 and half of 5
    for name, field in ours.items():
        np.testing.assert_array_equal(field, whole[name][:, kept], err_msg=name)
    assert [entry.steps for entry in record.vaults] == [40, 40]


def test_a_second_writer_is_refused(tmp_path: Path) -> None:
    first = VaultWriter(tmp_path, "uid", {})
    with pytest.raises(VaultError, match="another process is writing it; stop that one first"):
        VaultWriter(tmp_path, "uid", {})
    VaultWriter(tmp_path, "other", {}).close()
    first.close()
    first.close()
    VaultWriter(tmp_path, "uid", {}).close()


def test_a_half_written_vault_is_made_anew(
    unbroken: Unbroken, halfway: Path, tmp_path: Path, open_experiment: Callable[[Path], Experiment]
) -> None:
    """No checkpoint fits a vault that holds nothing: the trial begins again, and says so."""
    folder = Path(shutil.copytree(halfway, tmp_path / "trial"))
    uid = read_record(folder).trial_id
    metadata = folder / "vaults/jax_party" / f"{uid}-test" / "metadata.json"
    metadata.write_bytes(metadata.read_bytes()[:20])
    experiment = open_experiment(folder)
    assert experiment.evaluations == 0
    experiment.close()
    (told,) = read_record(folder).retries
    assert f"is ahead of vault {uid}-test, which holds 0 of" in told and told.endswith(": went on from the start")
    assert (metadata.parent.parent / f".{uid}-test.broken").is_dir(), "put aside, not removed"
    _resume(folder, unbroken, open_experiment)


def test_a_vault_shorter_than_its_checkpoint_is_refused(tmp_path: Path) -> None:
    writer = VaultWriter(tmp_path, "uid", {})
    writer.submit({"done": np.zeros((2, 5), bool)})
    assert writer.flush() == 5
    with pytest.raises(VaultError, match="holds 5 steps but its checkpoint was saved after 6"):
        writer.truncate(6)
    writer.truncate(3)
    writer.submit({"done": np.ones((2, 1), bool)})
    assert writer.flush() == 4
    writer.close()
    np.testing.assert_array_equal(_read_vault(tmp_path, "uid")["done"], [[False, False, False, True]] * 2)


def test_what_a_killed_process_was_still_writing_damages_nothing(tmp_path: Path) -> None:
    """TensorStore takes up a file it finds under the name it writes to, and does not cut it to length."""
    writer = VaultWriter(tmp_path, "uid", {})
    writer.submit({"done": np.zeros((2, 3), bool)})
    writer.flush()
    writer.close()
    for name in ("manifest.ocdbt.__lock", "metadata.json.__lock"):
        (tmp_path / "vaults/jax_party/uid" / name).write_bytes(b"x" * 5000)
    writer = VaultWriter(tmp_path, "uid", {})
    writer.submit({"done": np.ones((2, 1), bool)})
    assert writer.flush() == 4
    writer.close()
    np.testing.assert_array_equal(_read_vault(tmp_path, "uid")["done"], [[False, False, False, True]] * 2)


# -- A real kill -------------------------------------------------------------------------------------------------------


def test_a_killed_process_resumes_as_if_unbroken(
    unbroken: Unbroken, tmp_path: Path, make_folder: Callable[..., Path], algorithm: str
) -> None:
    if algorithm not in ("ff_ippo", "rec_iql"):
        pytest.skip("one system without and one with memory and replay are enough for real processes")
    folder = make_folder(tmp_path / "trial", unbroken.mapping)
    command = [sys.executable, "-m", "jax_party.run", "--resume", str(folder)]
    log = tmp_path / "log"
    with log.open("w") as stream:
        process = subprocess.Popen(command, cwd=ROOT, stdout=stream, stderr=subprocess.STDOUT, env=os.environ | {})
        deadline = time.monotonic() + 240
        while not (folder / "checkpoints/128").exists() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.005)
        time.sleep(random.random() * 0.2)
        process.send_signal(signal.SIGKILL)
        process.wait()
    there = [path.name for path in (folder / "checkpoints").glob("*") if path.name.isdigit()]
    assert there and process.returncode == -signal.SIGKILL, (there, process.returncode, log.read_text())
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stdout + done.stderr
    _same(folder, unbroken)
