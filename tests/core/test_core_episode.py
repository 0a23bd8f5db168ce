"""Episodes as animations, and `results.vaults` on the vaults of a real tiny trial: train and test, of two seeds."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from jax_party import episode
from jax_party.config import parse_config
from jax_party.errors import CheckpointError, ConfigError
from jax_party.judging.scores import ends_a_period
from jax_party.trial.folder import create_trial_folder, read_config, read_record
from jax_party.trial.identity import new_trial_id
from jax_party.trial.manifest import MANIFEST_FILE
from jax_party.trial.metrics import read_metrics
from jax_party.trial.record import TrialRecord
from results import vaults


@pytest.fixture(scope="module")
def trial(tiny_mapping: Callable[..., dict[str, Any]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished trial of two seeds with both kinds of vaults."""
    from jax_party.training.experiment import Experiment

    mapping = tiny_mapping("ff_ippo", "arch.num_seeds=2", "arch.batch=map", "vault=both", "arch.num_evaluation=2")
    folder = tmp_path_factory.mktemp("episode") / "trial"
    config = parse_config(mapping)
    record = TrialRecord(
        trial_id=new_trial_id("episode", mapping, config.system.seed), algorithm="ff_ippo",
        environment="JaxParty", scenario="p-short", seed=config.system.seed, num_seeds=2,
    )  # fmt: skip
    create_trial_folder(folder, mapping, record)
    experiment = Experiment(config, folder)
    try:
        while not experiment.finished:
            experiment.step()
    finally:
        experiment.close()
    return folder


def test_an_episode_is_played_and_drawn(trial: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "pictures" / "party.gif"
    assert episode.main([str(trial), "--steps", "3", "--seed", "7", "--out", str(out)]) == 0
    with Image.open(out) as image:
        assert (image.n_frames, image.size) == (4, (1100, 600))  # type: ignore[attr-defined]
    assert "3 steps by learner" in capsys.readouterr().out


def test_totals_are_what_was_paid(trial: Path) -> None:
    played = episode.play_episode(trial, seed=1, steps=100)
    assert len(played.rewards) == 24, "the whole episode"
    np.testing.assert_allclose(played.states[-1].totals, np.sum(played.rewards, axis=0), rtol=1e-5)
    again = episode.play_episode(trial, seed=1, steps=5)
    assert again.rewards == played.rewards[:5]
    assert episode.play_episode(trial, seed=2, steps=5).rewards != again.rewards
    seed = read_record(trial).seed
    assert [episode.play_episode(trial, steps=1, learner=seed + k).seed for k in (0, 1)] == [seed, seed + 1]


def test_what_cannot_be_shown_is_named(trial: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ConfigError, match="LEARNER=7: the trial has no such seed; choose one of 42, 43"):
        episode.play_episode(trial, learner=7)
    with pytest.raises(ConfigError, match="STEPS=0: give a number of 1 or more"):
        episode.play_episode(trial, steps=0)
    (tmp_path / MANIFEST_FILE).touch()
    for words, message in (
        (
            [str(tmp_path)],
            f"TRIAL={tmp_path}: is a sweep; name one of its trials, as make index SWEEP={tmp_path} lists",
        ),
        ([str(trial), "--out", "party.png"], "OUT=party.png: name a file that ends in .gif or .mp4"),
        (["nobody", "--root", str(tmp_path)], "TRIAL=nobody: no such trial, nor one of that id under"),
    ):
        assert episode.main(words) == 2
        assert message in capsys.readouterr().err
    foreign = tmp_path / "foreign"
    create_trial_folder(foreign, read_config(trial) | {"engine": "mava"}, read_record(trial))
    with pytest.raises(ConfigError, match="foreign: its policy is mava's, and only those of ENGINE=native are played"):
        episode.play_episode(foreign)
    empty = tmp_path / "empty"
    create_trial_folder(empty, read_config(trial), read_record(trial))
    with pytest.raises(CheckpointError, match="it has no checkpoint"):
        episode.play_episode(empty)


@pytest.mark.slow
@pytest.mark.parametrize("algorithm", [
    "ff_mappo", "rec_ippo", "rec_mappo", "ff_sable", "rec_sable", "mat", "ff_iql", "rec_iql", "rec_qmix", "ff_isac",
    "ff_masac", "ff_hasac",
])  # fmt: skip
def test_every_system_plays(algorithm: str, tiny_mapping: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    from jax_party.training.experiment import Experiment

    mapping = tiny_mapping(algorithm, "arch.num_evaluation=2")
    folder = tmp_path / "trial"
    record = TrialRecord(
        trial_id="t-1", algorithm=algorithm, environment="JaxParty", scenario="p-short", seed=42,
    )  # fmt: skip
    create_trial_folder(folder, mapping, record)
    experiment = Experiment(parse_config(mapping), folder)
    try:
        experiment.step()
    finally:
        experiment.close()
    played = episode.play_episode(folder, steps=6)
    assert (len(played.states), np.shape(played.rewards)) == (7, (6, 3))


def test_the_vaults_of_a_real_trial(trial: Path) -> None:
    """Metrics say what the test episodes returned; training rollouts and test episodes are whole and counted."""
    record = read_record(trial)
    places = vaults.find(trial)
    assert sorted((place.kind, place.uid[-8:]) for place in places) == sorted(
        (entry.kind, entry.uid[-8:]) for entry in record.vaults
    )
    rows = read_metrics(trial)
    with vaults.opened(places) as found:
        assert [vaults.verify(vault, place) for vault, place in zip(found, places, strict=True)] == [[]] * 4
        for vault in (one for one in found if one.kind == "test"):
            of_episodes = vaults.returns(vault, vaults.episodes(vault)).mean(axis=1).reshape(vault.rows, -1)
            told = [row["episodes"]["episode_return"] for row in rows
                    if row["seed"] == vault.metadata["seed"] and ends_a_period(row)]  # fmt: skip
            np.testing.assert_allclose(of_episodes.T, told, rtol=1e-5)
        of_training = next(one for one in found if one.kind == "train")
        train, first = vaults.card(of_training), of_training.read(["done"])["done"].argmax(axis=1)
    assert (train["transitions"], train["algorithm"], train["scenario"]) == (512, "ff_ippo", "p-short")
    assert train["episodes"]["whole"] == sum((128 - begins) // 24 for begins in first)
    assert sum(train["actions"][0].values()) == 512
