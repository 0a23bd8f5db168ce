"""A trial goes on from the learner of another: whole, with its own random numbers, and the same after any kill."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from flashbax.vault import Vault

from jax_party.config import parse_config, with_values
from jax_party.errors import CheckpointError
from jax_party.systems.base import LearnerState
from jax_party.training.experiment import Experiment
from jax_party.trial.folder import (
    CONFIG_FILE,
    create_trial_folder,
    read_config,
    read_record,
    takeover_folder,
    update_record,
    write_record,
)
from jax_party.trial.metrics import read_metrics
from jax_party.trial.record import TrialRecord
from jax_party.trial.states import State
from launcher.work.population import Inheritance, checkpoint_step, copy_learner, settle, take_over

LR = "system.actor_lr"
RATES = {"weak": 1e-3, "good": 2e-3}


def _open(folder: Path) -> Experiment:
    settle(folder, read_record(folder))
    return Experiment(parse_config(read_config(folder)), folder)


def _play(folder: Path, periods: int) -> Experiment:
    experiment = _open(folder)
    for _ in range(periods):
        experiment.step()
    experiment.close()
    return experiment


def _equal(one: Any, other: Any) -> None:
    for left, right in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        np.testing.assert_array_equal(np.asarray(left), np.asarray(right))


def _keys(state: LearnerState) -> tuple[np.ndarray, ...]:
    """The learner's key and those of its environments: of this episode, and of the next reset."""
    return np.asarray(state.key), np.asarray(state.envs.states.key), np.asarray(state.envs.keys)


def _without_keys(state: LearnerState) -> LearnerState:
    states = dataclasses.replace(state.envs.states, key=0)
    return state._replace(key=0, envs=state.envs._replace(states=states, keys=0))


@pytest.fixture
def population(tmp_path: Path, tiny_mapping: Callable[..., Any], make_folder: Callable[..., Path]) -> dict[str, Path]:
    """Two trials of other seeds and values, each after a period."""
    folders = {}
    for index, (name, rate) in enumerate(RATES.items()):
        mapping = with_values(tiny_mapping("ff_ippo", f"system.seed={index}", "vault=train"), {LR: rate})
        folders[name] = make_folder(tmp_path / name, mapping)
        update_record(folders[name], hyperparameters={LR: rate})
        record = read_record(folders[name])
        write_record(folders[name], dataclasses.replace(record, trial_id=name))
        _play(folders[name], 1)
    return folders


def _inherit(population: dict[str, Path], tmp_path: Path, rate: float) -> Inheritance:
    steps = copy_learner(population["good"], tmp_path / "learner")
    return Inheritance("good", steps, tmp_path / "learner", {LR: rate})


def test_a_learner_is_taken_over_whole(population: dict[str, Path], tmp_path: Path) -> None:
    weak, good = population["weak"], population["good"]
    step = checkpoint_step(read_record(weak))
    before = read_metrics(weak)
    record = take_over(weak, _inherit(population, tmp_path, 4e-3))
    assert (record.lineage[0].step, record.lineage[0].source, record.lineage[0].source_step) == (step, "good", step)
    assert record.lineage[0].hyperparameters == {LR: RATES["weak"]}
    assert read_config(weak)["system"]["actor_lr"] == 4e-3 == record.hyperparameters[LR]
    ours, theirs = _open(weak), _open(good)
    state, source = ours.learners[0].state, theirs.learners[0].state
    _equal(_without_keys(state), _without_keys(source))
    for own, others in zip(_keys(state), _keys(source), strict=True):
        assert not np.any(np.all(own == others, axis=-1)), "its random numbers are its own, the environments' too"
    assert read_metrics(weak) == before, "what it has measured stays"
    assert ours.env_steps == step
    ours.close()
    theirs.close()


def test_a_takeover_is_the_same_after_a_kill(population: dict[str, Path], tmp_path: Path) -> None:
    """Whether training goes on at once, or after kills before and after the next checkpoint."""
    weak = population["weak"]
    given = _inherit(population, tmp_path, 4e-3)
    take_over(weak, given)
    unbroken = _play(weak, 3)
    vault = Vault(rel_dir=str(weak / "vaults"), vault_name="jax_party", vault_uid=unbroken.record.trial_id).read()
    rows = [row["evaluate"] for row in read_metrics(weak)]
    again = population["good"].with_name("again")
    mapping = with_values(read_config(weak), {LR: RATES["weak"]})
    create_trial_folder(
        again, mapping, dataclasses.replace(_fresh(read_record(weak)), hyperparameters={LR: RATES["weak"]})
    )
    _play(again, 1)
    take_over(again, given)
    _open(again).close()
    take_over(again, given)
    assert len(read_record(again).lineage) == 1, "Tune may give the same learner again"
    _play(again, 1)
    _play(again, 2)
    assert [row["evaluate"] for row in read_metrics(again)] == rows
    uid = unbroken.record.trial_id
    same = Vault(rel_dir=str(again / "vaults"), vault_name="jax_party", vault_uid=uid).read()
    _equal(same.experience, vault.experience)


def _damage_newest(folder: Path) -> int:
    """Empty the files of the trial's newest checkpoint; its step."""
    newest = max((folder / "checkpoints").glob("[0-9]*"), key=lambda path: int(path.name))
    for path in newest.rglob("*"):
        if path.is_file():
            path.write_bytes(b"")
    return int(newest.name)


def _same_results(one: Path, other: Path) -> None:
    rows, again = ([row["evaluate"] for row in read_metrics(folder)] for folder in (one, other))
    assert rows == again
    uid = read_record(one).trial_id
    vaults = [Vault(rel_dir=str(at / "vaults"), vault_name="jax_party", vault_uid=uid).read() for at in (one, other)]
    _equal(vaults[0].experience, vaults[1].experience)


@pytest.mark.parametrize("takeovers", [1, 2])
def test_a_takeover_is_made_again_where_the_checkpoint_beside_it_is_damaged(
    population: dict[str, Path], tmp_path: Path, takeovers: int
) -> None:
    """From the checkpoint before, with the values of then, up to the step of the takeover: the same, bit for bit."""
    weak = population["weak"]
    given = _inherit(population, tmp_path, 4e-3)
    if takeovers == 2:
        take_over(weak, given)
    _play(weak, 1)
    second = Inheritance("another", given.source_step, given.learner, {LR: 3e-3})
    take_over(weak, second)
    unbroken = tmp_path / "unbroken"
    shutil.copytree(weak, unbroken)
    _play(unbroken, 2)
    step = _damage_newest(weak)
    experiment = _play(weak, 3)
    assert experiment.record.env_steps == read_record(unbroken).env_steps > step
    (note,) = experiment.record.retries
    assert f"checkpoint {step} cannot be read" in note
    assert f"to take over another at step {step} again" in note
    assert len(experiment.record.lineage) == takeovers
    _same_results(weak, unbroken)


def test_a_learner_taken_over_that_is_lost_is_an_error(population: dict[str, Path], tmp_path: Path) -> None:
    weak = population["weak"]
    _play(weak, 1)
    take_over(weak, _inherit(population, tmp_path, 4e-3))
    step = _damage_newest(weak)
    shutil.rmtree(takeover_folder(weak, step))
    with pytest.raises(CheckpointError, match=rf"takeover\.{step}: the learner .* is missing; restore it, or remove"):
        _open(weak)


def test_a_trial_without_its_checkpoints_begins_as_it_first_began(
    population: dict[str, Path], tmp_path: Path
) -> None:  # fmt: skip
    weak = population["weak"]
    first = [row["evaluate"] for row in read_metrics(weak)]
    take_over(weak, _inherit(population, tmp_path, 4e-3))
    for name in ("checkpoints", "metrics", "vaults"):
        shutil.rmtree(weak / name)
    experiment = _play(weak, 1)
    assert (experiment.record.lineage, experiment.record.hyperparameters) == ((), {LR: RATES["weak"]})
    assert [row["evaluate"] for row in read_metrics(weak)] == first


def test_a_takeover_of_a_trial_that_was_put_back_undoes_later_ones(
    population: dict[str, Path], tmp_path: Path
) -> None:  # fmt: skip
    weak = population["weak"]
    given = _inherit(population, tmp_path, 4e-3)
    begun = checkpoint_step(read_record(weak))
    _play(weak, 1)
    take_over(weak, given)
    update_record(weak, checkpoint=f"checkpoints/{begun}")
    record = take_over(weak, Inheritance("another", given.source_step, given.learner, {LR: 3e-3}))
    assert [(one.step, one.source) for one in record.lineage] == [(begun, "another")]
    assert record.lineage[0].hyperparameters == {LR: RATES["weak"]}


def _fresh(record: TrialRecord) -> TrialRecord:
    return dataclasses.replace(
        record, state=State.PENDING, lineage=(), env_steps=0, checkpoint=None, vaults=(), attempts=0, ended_at=None
    )


def test_a_kill_between_record_and_config_is_put_right(population: dict[str, Path], tmp_path: Path) -> None:
    weak = population["weak"]
    old = (weak / CONFIG_FILE).read_text()
    take_over(weak, _inherit(population, tmp_path, 4e-3))
    (weak / CONFIG_FILE).write_text(old)
    experiment = _open(weak)
    assert experiment.config.system.actor_lr == 4e-3
    assert read_config(weak)["system"]["actor_lr"] == 4e-3
    experiment.close()


def test_what_lies_beside_kept_checkpoints_goes_with_them(population: dict[str, Path], tmp_path: Path) -> None:
    weak = population["weak"]
    take_over(weak, _inherit(population, tmp_path, 4e-3))
    taken = takeover_folder(weak, checkpoint_step(read_record(weak)))
    assert taken.is_dir()
    experiment = _open(weak)
    while not experiment.finished:
        experiment.step()
    experiment.close()
    kept = [int(path.name) for path in (weak / "checkpoints").iterdir() if path.name.isdigit()]
    assert taken.is_dir() == (min(kept) <= experiment.record.lineage[0].step)
