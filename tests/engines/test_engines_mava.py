"""Mava's own systems, where Mava is there."""

from __future__ import annotations

import itertools
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from engine_trials import PLACES, Trial, places_of, vaults_of
from orbax.checkpoint import PyTreeCheckpointer

import mava_configs
from jax_party.engines import get_engine
from jax_party.engines.mava import experiment, session
from jax_party.engines.mava.config import OWN_CHECKPOINTS
from jax_party.errors import ConfigError
from jax_party.judging.objectives import Objective
from jax_party.judging.scores import ABSOLUTE, FINAL
from jax_party.trial.judged import judge_trial
from jax_party.trial.metrics import read_metrics
from jax_party.trial.states import State
from launcher.commands.rerun import compare

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
    rows = read_metrics(tmp_path)
    assert [row["evaluate"]["episode_length"] for row in rows] == [16.0] * 4
    assert trial.record.state is State.COMPLETE and trial.record.scenario == scenario


class Spy:
    """Notes what Mava's evaluator plays, in turn, and may change what it says of the returns.

    Attributes:
      played: parameters and keys.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch, told: Sequence[float] = ()) -> None:
        self.played: list[tuple[list[np.ndarray], bytes]] = []
        self._told = list(told)
        self._measure = session._measure
        monkeypatch.setattr(session, "_measure", self)

    def __call__(self, evaluator: Any, params: Any, key: Any, memory: Any) -> Any:
        metrics, episodes, seconds = self._measure(evaluator, params, key, memory)
        if len(self.played) < len(self._told):
            told = np.full_like(episodes["episode_return"], self._told[len(self.played)])
            episodes = episodes | {"episode_return": told}
        self.played.append(([np.asarray(leaf) for leaf in jax.tree.leaves(params)], np.asarray(key).tobytes()))
        return metrics, episodes, seconds

    def same(self, one: int, other: int) -> bool:
        """Whether two of the turns were of the same parameters."""
        pairs = zip(self.played[one][0], self.played[other][0], strict=True)
        return all(np.array_equal(ours, theirs) for ours, theirs in pairs)


def acting_params(trial: Trial, step: int) -> list[np.ndarray]:
    """What a checkpoint's learner acts with, as Mava's evaluator is given it."""
    kept = PyTreeCheckpointer().restore(trial.folder / "checkpoints" / str(step))["learners"][0]["state"]
    begun = trial.engine.experiment()(trial.config, trial.folder.parent / "empty")
    try:
        first = begun._learners[0].session.progress.state
        state = jax.tree.unflatten(jax.tree.structure(first), [kept[name] for name in sorted(kept)])
        return [np.asarray(leaf) for leaf in jax.tree.leaves(session.evaluated_params(state))]
    finally:
        begun.close()


@pytest.mark.parametrize("algorithm", slow_ones(("ff_ippo", "rec_iql"), ("ff_ippo",)))
def test_an_evaluation_is_of_what_its_period_ended_with(
    algorithm: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The untrained networks at step 0, each period's, and at the end the last ones; each with keys of its own."""
    spy = Spy(monkeypatch, told=[99.0, 3.0, 2.0, 1.0])
    engine = get_engine("mava")
    trial = Trial(engine, tmp_path / "trial", algorithm)
    trial.play()
    Trial(engine, tmp_path / "empty", algorithm)
    monkeypatch.undo()
    _, first, second, third, final, best = range(6)
    assert len(spy.played) == 6 and len({key for _, key in spy.played}) == 6
    for place, step in ((second, 512), (third, 768)):
        pairs = zip(spy.played[place][0], acting_params(trial, step), strict=True)
        assert all(np.array_equal(one, other) for one, other in pairs), step
    assert spy.same(final, third) and spy.same(best, first), "and the untrained ones, which are better, are no best"
    assert not any(spy.same(one, other) for one, other in itertools.combinations(range(4), 2))
    rows = read_metrics(trial.folder)
    assert [row["evaluate"]["episode_return"] for row in rows[:4]] == [99.0, 3.0, 2.0, 1.0]
    judged = judge_trial(trial.record, rows)
    assert judged is not None and (judged.step, judged.source) == (768, "final")
    assert judged.metrics["episode_return"] == rows[4]["evaluate"]["episode_return"]


@pytest.mark.parametrize(("mode", "best"), [("max", 512), ("min", 768)])
def test_the_best_step_is_the_objectives_and_the_same_for_all_seeds(
    mode: str, best: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both seeds together are best after period 2, the second one alone after period 1; least of all after period 3."""
    told = [0.0, 5.0, 0.0, 5.0, 9.0, 2.0, 1.0, 4.0]  # untrained and period 1 of each seed, periods 2 and 3 of both
    spy = Spy(monkeypatch, told)
    objective = Objective("episode_return", mode)
    trial = Trial(get_engine("mava"), tmp_path, "ff_ippo", "arch.num_seeds=2", objective=objective)
    trial.play(periods=2)
    trial.play()
    assert places_of(trial, (42, 43)) == PLACES
    final, absolute = (
        [row["episodes"] for row in read_metrics(tmp_path) if row.get(flag)] for flag in (FINAL, ABSOLUTE)
    )
    at_end = spy.played[len(told) :]
    if best == 768:  # the last ones are the best: they are played once
        assert len(at_end) == 2 and spy.same(8, 6) and spy.same(9, 7) and final == absolute
        return
    assert len(at_end) == 4 and spy.same(8, 6) and spy.same(10, 7)
    assert spy.same(9, 4) and spy.same(11, 5), "both of period 2"
    assert not any(ours == theirs for ours, theirs in zip(final, absolute, strict=True))


def test_an_objective_that_is_not_measured_is_refused(tmp_path: Path) -> None:
    trial = Trial(get_engine("mava"), tmp_path, "ff_ippo", objective=Objective("episode_retrun", "max"))
    with pytest.raises(ConfigError, match="objective: metric episode_retrun: not among the evaluation's metrics: "):
        trial.play()


def test_a_mava_that_keeps_its_parameters_elsewhere_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "evaluated_params", lambda state: state.params)
    with pytest.raises(ConfigError, match=r"ff_ippo: the parameters that it evaluates are not where .* README\.md"):
        Trial(get_engine("mava"), tmp_path, "ff_ippo").play()


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
        (["ALG=mappo", "PACK=2"], "PACK=2: ENGINE=mava runs one trial per worker; leave PACK out"),
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


def test_a_preset_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"^\+preset=mava: .*ENGINE=mava has Mava's own defaults; leave it out$"):
        mava_configs.compose("ff_mappo", ["+preset=mava"], "mava")


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
