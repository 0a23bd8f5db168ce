"""Value normalisation: its statistics, that values keep their meaning, and that the unit of reward does not matter."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_party.config import parse_config
from jax_party.errors import ConfigError
from jax_party.ops import value_scale
from jax_party.ops.value_scale import ValueScale, for_network, from_network, no_statistics, with_targets
from jax_party.systems.on_policy import Learned
from jax_party.training.checkpointing import checkpoint_tree
from jax_party.training.experiment import Experiment
from jax_party.training.learner import first_nonfinite
from jax_party.trial.folder import read_record

SYSTEMS = ["ff_ippo", "ff_mappo", "rec_ippo", "rec_mappo", "ff_sable", "rec_sable", "mat"]


def test_statistics_of_the_first_batches_are_those_of_all_targets() -> None:
    rng = np.random.default_rng(0)
    batches = [rng.normal(1_000.0 + 50.0 * place, 3.0 + place, size=(4, 8)).astype(np.float32) for place in range(6)]
    scale = no_statistics()
    for place, batch in enumerate(batches, start=1):
        scale = with_targets(scale, jnp.asarray(batch))
        seen = np.concatenate(batches[:place]).astype(np.float64)
        assert int(scale.updates) == place
        assert float(scale.mean) == pytest.approx(seen.mean(), rel=1e-6)
        assert float(scale.std) == pytest.approx(seen.std(), rel=1e-4)


def test_after_a_hundred_batches_the_newest_counts_a_hundredth() -> None:
    before = ValueScale(jnp.float32(10.0), jnp.float32(4.0), jnp.float32(500))
    after = with_targets(before, jnp.asarray([20.0, 24.0]))
    assert float(after.mean) == pytest.approx(0.99 * 10.0 + 0.01 * 22.0)
    assert float(after.variance) == pytest.approx(0.99 * 4.0 + 0.01 * 4.0 + 0.01 * 0.99 * 12.0**2, rel=1e-5)


def test_there_and_back_again() -> None:
    scale = ValueScale(jnp.float32(-300.0), jnp.float32(2_500.0), jnp.float32(3))
    value = jnp.asarray([-400.0, -300.0, 0.0])
    np.testing.assert_allclose(for_network(scale, value), [-2.0, 0.0, 6.0])
    np.testing.assert_allclose(from_network(scale, for_network(scale, value)), value, rtol=1e-6)
    np.testing.assert_array_equal(from_network(None, value), value)
    np.testing.assert_array_equal(from_network(no_statistics(), value), np.zeros(3))  # nothing is known yet


def test_returns_that_are_all_alike_stay_finite() -> None:
    scale = with_targets(no_statistics(), jnp.zeros((3, 2)))
    assert float(scale.std) == pytest.approx(1e-4)
    assert np.isfinite(for_network(with_targets(scale, jnp.ones((3, 2))), jnp.ones(3))).all()


@pytest.mark.parametrize("algorithm", SYSTEMS)
def test_values_in_units_of_reward_survive_a_change_of_statistics(algorithm: str, begin: Callable[..., Any]) -> None:
    run = begin(algorithm)
    system, networks = run.system, run.state.params.networks
    before = ValueScale(jnp.float32(5.0), jnp.float32(9.0), jnp.float32(7))
    after = ValueScale(jnp.float32(-400.0), jnp.float32(1e5), jnp.float32(8))
    memory, observation = run.state.memory, run.state.envs.observation
    value = jax.jit(system.bootstrap)

    def in_reward(scale: ValueScale, networks: Any) -> np.ndarray:
        return np.asarray(from_network(scale, value(networks, memory, observation)))

    changed = value_scale.rescale(networks, before, after)
    np.testing.assert_allclose(in_reward(after, changed), in_reward(before, networks), rtol=1e-3, atol=1e-3)
    different = [bool((a != b).any()) for a, b in zip(*map(jax.tree.leaves, (networks, changed)), strict=True)]
    assert sum(different) == 2, "the last layer's weights and bias, and nothing of the policy"


@pytest.mark.parametrize("algorithm", SYSTEMS)
def test_the_unit_of_reward_does_not_matter(
    algorithm: str, begin: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """After three updates policies are the same, and values are as many times as large as rewards."""
    run = begin(algorithm)
    system, play = run.system, run.system.play

    def in_unit(unit: Any, state: Any) -> Any:
        def scaled(hyper: Any, state: Any, key: Any) -> Any:
            position, memories, rollout = play(hyper, state, key)
            return position, memories, rollout._replace(reward=unit * rollout.reward)

        monkeypatch.setattr(system, "play", scaled)
        return system.update(run.hyper, state)[0]

    update, ends = jax.jit(in_unit), {}
    for unit in (1.0, 0.01, 100.0):
        state = run.state
        for _ in range(3):
            state = update(unit, state)
        ends[unit] = state
    shape = run.state.envs.observation.action_mask.shape
    seen, noise = run.state.envs.observation, jnp.zeros(shape)
    for unit in (0.01, 100.0):
        one, other = ends[1.0], ends[unit]
        assert float(other.params.scale.std) == pytest.approx(unit * float(one.params.scale.std), rel=1e-2)
        acts = [system.step(state.params.networks, run.state.memory, seen, noise)[2] for state in (one, other)]
        np.testing.assert_allclose(acts[0]["log_prob"], acts[1]["log_prob"], atol=2e-2)
        values = [
            np.asarray(from_network(s.params.scale, system.bootstrap(s.params.networks, run.state.memory, seen)))
            for s in (one, other)
        ]
        spread = np.abs(values[0]).max()
        np.testing.assert_allclose(values[1] / unit, values[0], atol=0.05 * spread)


def test_without_it_critics_give_values_in_units_of_reward(begin: Callable[..., Any]) -> None:
    run = begin("ff_ippo", "system.normalize_values=false")
    assert run.state.params.scale is None
    state, output = run.program.update(run.hyper, run.state)
    assert isinstance(state.params, Learned) and state.params.scale is None
    assert np.isfinite(output.losses["value_loss"])


def test_the_vault_has_values_in_units_of_reward(begin: Callable[..., Any]) -> None:
    run = begin("ff_mappo")
    state, first = run.program.update(run.hyper, run.state)
    assert not np.asarray(first.trajectory["value"]).any(), "before the first targets nothing is known"
    mean, std = float(state.params.scale.mean), float(state.params.scale.std)
    _, second = run.program.update(run.hyper, state)
    value = np.asarray(second.trajectory["value"])
    assert abs(value.mean() - mean) < 3.0 * std and std > 1.0


@pytest.mark.parametrize(("value", "why"), [("0", "greater than 0"), ("-0.2", "greater than 0"), ("nan", "finite")])
def test_a_value_clip_that_clips_everything_or_nothing_is_refused_by_name(
    value: str, why: str, tiny_mapping: Callable[..., Any]
) -> None:
    with pytest.raises(ConfigError, match=rf"system\.vf_clip_eps: {value} .*{why}"):
        parse_config(tiny_mapping("ff_ippo", f"system.vf_clip_eps={value}"))


def test_statistics_that_are_not_finite_are_named() -> None:
    scale = ValueScale(jnp.zeros(()), jnp.float32(np.inf), jnp.float32(2))
    assert first_nonfinite(Learned({"layer": jnp.ones(2)}, no_statistics())) is None
    assert first_nonfinite(Learned({"layer": jnp.ones(2)}, scale)) == "parameter scale.variance"


def test_a_checkpoint_whose_statistics_are_not_finite_is_passed_over_before_anything_is_compiled(
    tmp_path: Path, tiny_mapping: Callable[..., Any], make_folder: Callable[..., Path]
) -> None:
    mapping = tiny_mapping("ff_ippo", "vault=none")
    folder = make_folder(tmp_path / "trial", mapping)
    config = parse_config(mapping)
    experiment = Experiment(config, folder)
    experiment.step()
    first = experiment.env_steps
    state = experiment.learners[0].state
    broken = state.params.scale._replace(mean=jnp.float32(np.nan))
    experiment.learners[0].state = state._replace(params=state.params._replace(scale=broken))
    experiment._checkpoints.save(2 * first, checkpoint_tree(experiment.learners, experiment.recorder))
    experiment.close()
    again = Experiment(config, folder)
    assert again.env_steps == first
    assert "parameter scale.mean is not finite" in read_record(folder).retries[-1]
    again.close()
