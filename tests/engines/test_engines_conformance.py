"""What every engine must do. One list, one suite."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from engine_trials import PLACES, places_of, vaults_of

import mava_configs
from jax_party.engines import ENGINES, Engine, engine_of, get_engine
from jax_party.errors import ConfigError, TrainingDiverged
from jax_party.training import recorder
from jax_party.trial.folder import update_record
from jax_party.trial.metrics import append_metrics, read_metrics
from jax_party.trial.states import State
from launcher.commands.rerun import compare
from sweeps.space import check_axes, find_spec, load_spec

pytestmark = pytest.mark.filterwarnings("ignore")  # an installed Mava's

FIELDS = {
    "done": (np.bool_, ()), "action": (np.int8, (3,)), "reward": (np.float32, (3,)),
    "observation": (np.float32, (3, 9)), "legal_action_mask": (np.bool_, (3, 3)),
}  # fmt: skip


def test_an_engine_has_its_name_and_a_version(engine: Engine) -> None:
    assert engine.name in ENGINES
    engine.check()
    assert engine.version()


@pytest.mark.parametrize("name", ["mavaa", ""])
def test_an_unknown_engine_is_named(name: str) -> None:
    with pytest.raises(ConfigError, match=f"engine: unknown {name!r}.*choose one of native, mava"):
        get_engine(name)


def test_a_composed_config_says_whose_it_is(engine: Engine) -> None:
    assert engine_of(mava_configs.compose("ff_mappo", [], engine.name)).name == engine.name


def test_the_outline_is_what_was_asked_for(engine: Engine) -> None:
    asked = ["env/scenario=p-5", "system.seed=7", "system.total_timesteps=262144", "arch.num_evaluation=8"]
    outline = engine.outline(engine.parse(mava_configs.compose("ff_mappo", asked, engine.name)))
    assert (outline.system, outline.environment, outline.scenario) == ("ff_mappo", "JaxParty", "p-5")
    assert (outline.seed, outline.num_seeds, outline.num_devices) == (7, 1, 1)
    assert (outline.budget.total_steps, outline.budget.num_evaluations) == (262_144, 8)
    assert outline.keeps_each_period and (outline.eval_metric, outline.eval_at) == ("episode_return", "final")


def test_what_a_single_run_is_judged_by_can_be_asked_for(engine: Engine) -> None:
    composed = mava_configs.compose("ff_mappo", ["env.eval_at=best"], engine.name)
    assert engine.outline(engine.parse(composed)).eval_at == "best"
    with pytest.raises(ConfigError, match=r"env\.eval_at: 'frist' is not valid"):
        engine.parse(mava_configs.compose("ff_mappo", ["env.eval_at=frist"], engine.name))


def test_what_is_not_there_is_refused_by_its_name(engine: Engine) -> None:
    for override, message in (
        ("system.actor_lrr=1", "system.actor_lrr: unknown; did you mean actor_lr?"),
        ("env/scenario=p-shor", "env/scenario=p-shor: unknown option; did you mean p-short?"),
    ):
        with pytest.raises(ConfigError, match=message.replace("?", r"\?")):
            mava_configs.compose("ff_mappo", [override], engine.name)
    composed = mava_configs.compose("ff_mappo", ["system.gamma=1.5"], engine.name)
    with pytest.raises(ConfigError, match=r"system\.gamma: 1\.5 is not valid"):
        engine.parse(composed)


def test_our_spaces_fit_the_systems(engine: Engine) -> None:
    for algorithm in mava_configs.ALGORITHMS:
        try:
            engine.check_algorithm(algorithm)
        except ConfigError:
            continue
        spec = load_spec(find_spec(algorithm))
        budget = [f"system.total_timesteps={spec.budget.total_timesteps}"]
        budget += [f"arch.num_evaluation={spec.budget.num_evaluation}"]
        composed = mava_configs.compose(algorithm, budget, engine.name)
        check_axes(spec, spec.axes_for(algorithm, "p-base"), composed, engine.parse)
        total = engine.outline(engine.parse(composed)).budget
        assert total.total_steps == spec.budget.total_timesteps, algorithm


def test_static_and_traced_names_are_apart(engine: Engine) -> None:
    config = engine.parse(mava_configs.compose("ff_mappo", [], engine.name))
    static, traced = engine.static_names(config), engine.traced_names(config)
    assert static and not {name for name in traced if any(name == s or name.startswith(f"{s}.") for s in static)}


def test_a_trial_leaves_what_the_design_says(make_trial: Callable[..., Any]) -> None:
    trial = make_trial("whole", "ff_mappo", "vault=both")
    results = trial.play()
    record, rows = trial.record, read_metrics(trial.folder)
    assert (record.state, record.engine, record.attempts) == (State.COMPLETE, trial.engine.name, 1)
    (span,) = record.spans
    assert record.started_at is not None and record.ended_at is not None
    assert span.start <= record.started_at <= record.ended_at <= span.end
    assert record.engine_version == trial.engine.version()
    assert (record.env_steps, record.total_steps, len(results)) == (768, 768, 3)
    assert places_of(trial) == PLACES and [row["evaluation"] for row in rows] == [0, 1, 2, 3, 3, 3]
    assert [result["env_steps"] for result in results] == [256, 512, 768]
    assert set(trial.engine.metrics(trial.config)) == set(rows[0]["evaluate"]) == set(record.absolute_metrics or ())
    assert set(trial.engine.metrics(trial.config)) <= set(results[-1]) and results[-1]["finished"]
    assert (record.final_metrics, record.absolute_metrics) == (rows[4]["evaluate"], rows[5]["evaluate"])
    assert [len(row["episodes"]["episode_return"]) for row in rows] == [4, 4, 4, 4, 8, 8]
    for row in rows:
        returns = np.array(row["episodes"]["episode_return"])
        assert row["se"] == {"episode_return": pytest.approx(np.std(returns, ddof=1) / np.sqrt(len(returns)))}
    assert all(np.isfinite(value) for row in rows for value in row["train"].values())
    assert [bool(row["train"]) for row in rows] == [False, True, True, True, False, False]
    assert record.compile_time_s and record.compile_time_s > 0 and record.steps_per_second
    assert record.checkpoint == "checkpoints/768" and (trial.folder / record.checkpoint).is_dir()
    assert (trial.folder / "metrics" / "metrics.json").is_file()
    assert trial.play() == []


def test_the_vaults_hold_what_was_played(make_trial: Callable[..., Any]) -> None:
    trial = make_trial("whole", "ff_mappo", "vault=both")
    trial.play()
    found = vaults_of(trial)
    for kind, steps in (("train", 192), ("test", 48)):
        for name, (dtype, shape) in FIELDS.items():
            field = found[kind][name]
            assert (field.dtype, field.shape) == (dtype, (4, steps, *shape)), (kind, name)
        fields = found[kind]
        begins = np.nonzero(fields["done"][0])[0]
        assert begins[0] == 0 or (kind == "train" and begins[0] < 16), "training may join an episode midway"
        assert np.array_equal(begins, np.arange(begins[0], steps, 16)), "episodes of 16 steps"
        chosen = np.take_along_axis(fields["legal_action_mask"], fields["action"][..., None].astype(int), axis=-1)
        assert chosen.all(), "an agent never plays what it may not"
    played = found["test"]["reward"].reshape(4, 3, 16, 3).sum(2).mean(-1)
    told = [row["episodes"]["episode_return"] for row in read_metrics(trial.folder)[1:4]]
    assert np.allclose(played.T, told, rtol=1e-5), "what is in the vault is what was evaluated"


def test_a_trial_that_was_stopped_goes_on_as_if_it_had_not_been(make_trial: Callable[..., Any]) -> None:
    whole, broken = (make_trial(name, "ff_ippo", "vault=both") for name in ("whole", "broken"))
    whole.play()
    broken.play(periods=1)
    broken.play(periods=1)
    broken.play()
    assert broken.record.attempts == len(broken.record.spans) == 3 and compare(whole.folder, broken.folder) is None
    ours, theirs = vaults_of(whole), vaults_of(broken)
    for kind, fields in ours.items():
        for name, field in fields.items():
            assert np.array_equal(field, theirs[kind][name]), (kind, name)


def test_a_trial_that_was_killed_at_its_end_ends_as_if_it_had_not_been(
    make_trial: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed before the absolute metric was written, killed again before the record was."""
    seeds = ("arch.num_seeds=2", "arch.batch=map")
    whole, broken = (make_trial(name, "ff_ippo", *seeds) for name in ("whole", "broken"))
    whole.play()
    append, update = append_metrics, update_record

    def killed_at_rows(folder: Path, *rows: Any) -> None:
        if any(row.get("absolute") for row in rows):
            raise InterruptedError
        append(folder, *rows)

    def killed_at_record(folder: Path, **changes: Any) -> Any:
        if changes.get("state") is State.COMPLETE:
            raise InterruptedError
        return update(folder, **changes)

    for name, killed, there in (
        ("append_metrics", killed_at_rows, PLACES[:-1]),
        ("update_record", killed_at_record, PLACES),
    ):
        with monkeypatch.context() as patched:
            patched.setattr(recorder, name, killed)
            with pytest.raises(InterruptedError):
                broken.play()
        assert places_of(broken, (42, 43)) == there and broken.record.state is State.RUNNING
    broken.play()
    assert places_of(broken, (42, 43)) == places_of(whole, (42, 43)) == PLACES
    assert compare(whole.folder, broken.folder) is None and broken.record.state is State.COMPLETE
    assert broken.record.final_metrics == whole.record.final_metrics is not None
    assert broken.record.absolute_metrics == whole.record.absolute_metrics is not None


def test_without_the_absolute_metric_no_episodes_are_played_at_the_end(make_trial: Callable[..., Any]) -> None:
    trial = make_trial("short", "ff_ippo", "arch.absolute_metric=false")
    trial.play()
    assert places_of(trial) == PLACES[:4] and trial.record.state is State.COMPLETE
    assert trial.record.final_metrics is trial.record.absolute_metrics is None


def test_each_kth_update_is_recorded(make_trial: Callable[..., Any]) -> None:
    every, second = (make_trial(f"every-{k}", "ff_ippo", f"vault.every={k}") for k in (1, 2))
    for trial in (every, second):
        trial.play()
    whole, part = (vaults_of(trial)["train"]["observation"] for trial in (every, second))
    updates = whole.reshape(4, 6, 32, 3, 9)[:, ::2]
    assert np.array_equal(part, updates.reshape(4, 96, 3, 9))


def test_several_seeds_are_those_of_single_trials(make_trial: Callable[..., Any]) -> None:
    together = make_trial("both", "ff_ippo", "arch.num_seeds=2", "arch.batch=map", "system.seed=5")
    alone = make_trial("alone", "ff_ippo", "system.seed=6")
    for trial in (together, alone):
        trial.play()
    assert places_of(together, (5, 6)) == places_of(alone, (6,)) == PLACES
    rows, single = (  # the absolute metric is of the step that is best for both
        [row for row in read_metrics(trial.folder) if row["seed"] == 6 and not row.get("absolute")]
        for trial in (together, alone)
    )
    assert [row["evaluate"] for row in rows] == [row["evaluate"] for row in single]


def test_shared_reward_is_everybodys_mean(make_trial: Callable[..., Any]) -> None:
    trial = make_trial("shared", "ff_ippo", "env.shared_reward=true", "vault=both")
    trial.play(periods=1)
    for fields in vaults_of(trial).values():
        assert np.ptp(fields["reward"], axis=-1).max() == 0 and fields["reward"].any()
    means = read_metrics(trial.folder)[0]["evaluate"]
    assert means["episode_return_agent_0"] == means["episode_return_agent_2"]
    assert 0.0 < means["equality"] <= 1.0


def test_a_loss_that_is_not_finite_fails_the_trial(make_trial: Callable[..., Any]) -> None:
    trial = make_trial("bad", "ff_ippo", "system.actor_lr=1e30")
    with pytest.raises(TrainingDiverged, match="tiny: "):
        trial.play()
    assert trial.record.state is State.FAILED and "TrainingDiverged" in (trial.record.error or "")


def test_a_folder_belongs_to_who_plays_in_it(make_trial: Callable[..., Any], tmp_path: Path) -> None:
    trial = make_trial("held", "ff_ippo")
    experiment = trial.engine.experiment()(trial.config, trial.folder)
    with pytest.raises(Exception, match="another process is writing it"):
        trial.engine.experiment()(trial.config, trial.folder)
    experiment.close()
    assert len(trial.play()) == 3
