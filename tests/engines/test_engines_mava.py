"""Mava's own systems, where Mava is there."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from engine_trials import Trial, vaults_of
from orbax.checkpoint import PyTreeCheckpointer

import mava_configs
from jax_party import records
from jax_party.engines import get_engine
from jax_party.engines.mava import experiment
from jax_party.engines.mava.config import OWN_CHECKPOINTS
from jax_party.errors import ConfigError
from jax_party.records import State
from launcher.rerun import compare

pytestmark = [pytest.mark.needs_mava, pytest.mark.filterwarnings("ignore")]

SYSTEMS = ("ff_ippo", "ff_mappo", "rec_ippo", "rec_mappo", "ff_sable", "rec_sable", "mat", "rec_iql", "rec_qmix")
FAST = ("ff_mappo", "mat", "rec_iql")


def slow_ones(names: tuple[str, ...], fast: tuple[str, ...]) -> list[object]:
    """All names; those that are not among the fast as slow tests."""
    return [name if name in fast else pytest.param(name, marks=pytest.mark.slow) for name in names]


@pytest.mark.parametrize("algorithm", slow_ones(SYSTEMS, FAST))
def test_every_system_plays_and_goes_on_where_it_was_stopped(algorithm: str, tmp_path: Path) -> None:
    engine = get_engine("mava")
    whole, broken = (Trial(engine, tmp_path / name, algorithm, "vault=both") for name in ("whole", "broken"))
    whole.play()
    broken.play(periods=2)
    broken.play()
    assert whole.record.state is broken.record.state is State.COMPLETE
    assert compare(whole.folder, broken.folder) is None
    for kind, fields in vaults_of(whole).items():
        theirs = vaults_of(broken)[kind]
        assert all(np.array_equal(field, theirs[name]) for name, field in fields.items()), kind


@pytest.mark.parametrize("algorithm", slow_ones(("ff_ippo", "rec_iql"), ("ff_ippo",)))
def test_mavas_own_checkpoints_are_those_of_an_unbroken_run(algorithm: str, tmp_path: Path) -> None:
    """Where they are asked for, in the trial's folder, and with what our own have."""
    engine = get_engine("mava")
    asked = ("logger.checkpointing.save_model=true", "logger.checkpointing.save_args.max_to_keep=null")
    whole, broken = (Trial(engine, tmp_path / name, algorithm, *asked) for name in ("whole", "broken"))
    whole.play()
    broken.play(periods=2)
    broken.play()
    steps = ("256", "512", "768")
    folders = [trial.folder / OWN_CHECKPOINTS / algorithm / f"seed-{trial.outline.seed}" for trial in (whole, broken)]
    for step in steps:
        ours, theirs = (jax.tree.leaves(PyTreeCheckpointer().restore(folder / step / "default")) for folder in folders)
        assert len(ours) == len(theirs) > 0
        assert all(np.array_equal(one, other) for one, other in zip(ours, theirs, strict=True)), step
    assert [sorted(path.name for path in folder.iterdir() if path.name.isdigit()) for folder in folders] == [
        [*steps]
    ] * 2

    last = PyTreeCheckpointer().restore(folders[1] / steps[-1] / "default")["learner_state"]["params"]
    state = PyTreeCheckpointer().restore(broken.folder / broken.record.checkpoint)["learners"][0]["state"]
    trained = {np.asarray(leaf[0, 0]).tobytes() for leaf in state.values() if np.ndim(leaf) >= 2}
    assert {np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(last)} <= trained


def test_without_being_asked_mava_leaves_no_checkpoints(tmp_path: Path) -> None:
    trial = Trial(get_engine("mava"), tmp_path, "ff_ippo")
    trial.play(periods=1)
    assert not (tmp_path / OWN_CHECKPOINTS).exists() and not trial.outline.own_checkpoints


@pytest.mark.slow
@pytest.mark.parametrize("scenario", [name for name in mava_configs.scenarios("jaxparty") if name != "p-short"])
def test_every_scenario_is_played(scenario: str, tmp_path: Path) -> None:
    trial = Trial(get_engine("mava"), tmp_path, "ff_mappo", f"env/scenario={scenario}", "arch.absolute_metric=false")
    trial.play()
    rows = records.read_metrics(tmp_path)
    assert [row["evaluate"]["episode_length"] for row in rows] == [16.0, 16.0, 16.0]
    assert trial.record.state is State.COMPLETE and trial.record.scenario == scenario


def test_the_first_evaluation_is_of_parameters_before_any_update(tmp_path: Path) -> None:
    """As Mava has it: what an evaluation plays with is what the period began with."""
    engine = get_engine("mava")
    gentle, harsh = (
        Trial(engine, tmp_path / name, "ff_ippo", f"system.actor_lr={rate}")
        for name, rate in (("gentle", 1e-4), ("harsh", 1e-1))
    )
    for trial in (gentle, harsh):
        trial.play()
    first, second = (
        [records.read_metrics(trial.folder)[place]["evaluate"] for trial in (gentle, harsh)] for place in (0, 1)
    )
    assert first[0] == first[1] and second[0] != second[1]


def test_trials_are_judged_by_trained_networks(tmp_path: Path) -> None:
    """Also where the untrained ones of the first evaluation fare best, and Mava would take them."""
    engine = get_engine("mava")
    harsh = ("system.actor_lr=1e-1", "system.seed=2", "env/scenario=p-base", "env.scenario.task_config.time_limit=16")
    trial = Trial(engine, tmp_path / "ppo", "ff_ippo", *harsh)
    trial.play()
    rows = records.read_metrics(trial.folder)
    assert [row.get("untrained", False) for row in rows] == [True, False, False, False]
    returns = [row["evaluate"]["episode_return"] for row in rows[:3]]
    assert returns[0] > max(returns[1:])
    kept = PyTreeCheckpointer().restore(trial.folder / trial.record.checkpoint)["learners"][0]
    first = Trial(engine, tmp_path / "first", "ff_ippo", *harsh)
    begun = engine.experiment()(first.config, first.folder)
    try:
        untrained = jax.tree.leaves(experiment._evaluated_params(begun._learners[0].session.progress.state))
    finally:
        begun.close()
    best = [kept["best_params"][name] for name in sorted(kept["best_params"])]
    assert len(best) == len(untrained)
    assert not any(np.array_equal(one, other) for one, other in zip(best, untrained, strict=True) if np.any(other))
    assert records.score_metrics(trial.record, rows) == trial.record.absolute_metrics

    learner = Trial(engine, tmp_path / "q", "rec_iql")
    learner.play(periods=1)
    assert "untrained" not in records.read_metrics(learner.folder)[0]


def test_qmix_has_a_shared_reward() -> None:
    assert mava_configs.compose("rec_qmix", [], "mava")["env"]["shared_reward"] is True
    assert mava_configs.compose("rec_iql", [], "mava")["env"]["shared_reward"] is False


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("arch.num_devices=2", "arch.num_devices: 2 is not valid: .* plays each trial on one device"),
        ("arch.batch=vmap", "arch.batch: 'vmap' is not valid: .* plays the seeds of a trial one after another"),
        ("logger.use_neptune=true", "logger.use_neptune: True is not valid: .* leave Mava's loggers off"),
        ("logger.use_json=true", "logger.use_json: True is not valid: .*is always written"),
        ("logger.checkpointing.load_model=true", "load_model: True is not valid: .*trials begin with new networks"),
        ("+logger.checkpointing.save_args.rel_dir=x", "rel_dir: 'x' is not valid: .*lie in the trial's folder"),
        ("system.num_minibatches=3", "system.num_minibatches: 3 does not divide arch.num_envs = 4"),
        ("arch.num_evaluation=6", "arch.num_evaluation: 6 evaluations of 6 updates: Mava's ff_mappo wants more than"),
        ("system.total_timesteps=null", None),
    ],
)
def test_what_mava_would_refuse_is_told_before(override: str, message: str | None, tmp_path: Path) -> None:
    if message is None:
        trial = Trial(get_engine("mava"), tmp_path, "ff_mappo", override, "system.num_updates=12")
        assert trial.outline.budget.num_updates == 12
        return
    with pytest.raises(ConfigError, match=message):
        Trial(get_engine("mava"), tmp_path, "ff_mappo", override)


@pytest.mark.parametrize(
    ("algorithm", "message"),
    [
        ("ff_isac", "continuous actions, JaxParty's are discrete; ENGINE=native has a discrete ff_isac"),
        ("ff_masac", "ENGINE=native has a discrete ff_masac"),
        ("ff_hasac", "ENGINE=native has a discrete ff_hasac"),
        ("ff_iql", "the Mava that is installed has no such system; did you mean"),
    ],
)
def test_systems_that_mava_lacks_are_refused(algorithm: str, message: str) -> None:
    with pytest.raises(ConfigError, match=f"ENGINE=mava: {algorithm}: .*{message}"):
        get_engine("mava").check_algorithm(algorithm)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["ALG=mappo", "PACK=2"], "PACK=2: ENGINE=mava has one trial a worker; leave PACK out"),
        (["ALG=mappo", "SCHEDULER=pbt", "SAMPLES=4"], "SCHEDULER=pbt changes values while a trial trains"),
        (["ALG=mappo", "DEVICES_PER_TRIAL=2"], "plays each trial on one device"),
        (["ALG=mappo", "BATCH=vmap"], "plays the seeds of a trial one after another"),
        (["ALG=sac"], "ENGINE=native has a discrete ff_isac"),
        (["ALG=mappo", "OVERRIDES=system.actor_lrr=1"], "system.actor_lrr: unknown; did you mean actor_lr?"),
        (
            ["ALG=mappo", "OVERRIDES=logger.checkpointing.save_model=true", "STORAGE=s3://bucket/sweeps"],
            "mava's own checkpoints do not get to STORAGE=s3://bucket/sweeps; leave it out",
        ),
        (["ALG=mappo", "EVALUATIONS=64"], "take fewer (EVALUATIONS), or at least 524,288 steps (TIMESTEPS)"),
    ],
)
def test_a_sweep_that_cannot_be_run_is_refused_in_one_line(words: list[str], message: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "launcher.sweep", "ENGINE=mava", *words], cwd=tmp_path, capture_output=True, text=True,
        timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 2 and message in done.stderr and len(done.stderr.splitlines()) == 1, done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_trial_leaves_no_programs_behind(tmp_path: Path) -> None:
    """A process can map so many parts of its memory only, and dies of more."""
    counts = []
    for number in range(3):
        trial = Trial(get_engine("mava"), tmp_path / str(number), "ff_ippo", f"system.actor_lr={1e-3 * (number + 1)}")
        trial.play(periods=1)
        counts.append(len(Path("/proc/self/maps").read_text().splitlines()))
    assert counts[2] - counts[1] < 300, counts


def test_more_seeds_than_a_process_can_map_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    limit = tmp_path / "max_map_count"
    limit.write_text("4000\n")
    monkeypatch.setattr(experiment, "_MOST_MAPPINGS", limit)
    trial = Trial(get_engine("mava"), tmp_path / "trial", "ff_ippo", "arch.num_seeds=40")
    with pytest.raises(
        ConfigError, match=r"40 seeds: each has [\d,]+ memory mappings .* at most 4,000; take \d+ seeds"
    ):
        trial.play()
    assert trial.record.state is State.FAILED and "take" in str(trial.record.error)
    Trial(get_engine("mava"), tmp_path / "one", "ff_ippo").play(periods=1)


@pytest.mark.slow
def test_a_sweep_ends_with_a_full_index(tmp_path: Path) -> None:
    import results

    few = "arch.num_eval_episodes=4 arch.num_absolute_metric_eval_episodes=8"
    small = f"OVERRIDES=env.scenario.task_config.time_limit=16 {few}"
    done = subprocess.run(
        [
            sys.executable, "-m", "launcher.sweep", "ALG=mappo", "ENGINE=mava", "SAMPLES=2", "SCENARIO=p-short",
            "TIMESTEPS=32768", "EVALUATIONS=2", "SEEDS=2", small, f"OUT={tmp_path}",
        ],
        capture_output=True, text=True, timeout=500, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    (folder,) = tmp_path.glob("*/*/*")
    index = results.load_index(folder)
    assert list(index["state"]) == ["COMPLETE", "COMPLETE"] and set(index["engine"]) == {"mava"}
    assert set(index["engine_version"]) == {get_engine("mava").version()}
    assert index["objective.value"].notna().all() and index["vault.train.steps"].notna().all()
