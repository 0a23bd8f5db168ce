"""QMIX: the mixing network, the team's loss, and what it asks of a config."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import hypothesis.extra.numpy as arrays
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jax_party.config import ExperimentConfig, parse_config, without_values
from jax_party.envs.adapter import Observation, make_environment
from jax_party.errors import ConfigError
from jax_party.networks.mixing import QMixer
from jax_party.ops.q_learning import greedy_action
from jax_party.systems.off_policy import Learning, Step, remembered
from jax_party.systems.q_learning import Params
from jax_party.systems.registry import system_class
from mava_configs import compose

AGENTS, ACTIONS, STATE, EMBED, HYPER = 3, 4, 5, 6, 7
MIXER = QMixer(EMBED, HYPER)


def _random(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


@jax.jit
def _mixer_params(seed: jax.Array, scale: jax.Array) -> Any:
    """Parameters with biases too, large or small."""
    shapes = jax.eval_shape(MIXER.init, jax.random.PRNGKey(0), jnp.zeros((1, AGENTS)), jnp.zeros((1, STATE)))
    leaves, structure = jax.tree.flatten(shapes)
    keys = jax.random.split(jax.random.PRNGKey(seed), len(leaves))
    drawn = [scale * jax.random.normal(key, leaf.shape) for key, leaf in zip(keys, leaves, strict=True)]
    return jax.tree.unflatten(structure, drawn)


mix = jax.jit(MIXER.apply)
slopes = jax.jit(jax.grad(lambda values, params, state: MIXER.apply(params, values, state)))


# -- The mixing network ------------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=200)
@given(
    st.integers(0, 2**16),
    st.floats(0.01, 3.0),
    arrays.arrays(np.float32, AGENTS, elements=st.floats(-50, 50, width=32)),
    arrays.arrays(np.float32, STATE, elements=st.floats(-5, 5, width=32)),
)
def test_the_teams_value_never_falls_with_an_agents(
    seed: int, scale: float, values: np.ndarray, state: np.ndarray
) -> None:
    params = _mixer_params(seed, scale)
    assert (np.asarray(slopes(values, params, state)) >= 0.0).all()


def test_the_slopes_are_not_all_zero_and_depend_on_the_state() -> None:
    params, values = _mixer_params(0, 1.0), _random(1, AGENTS)
    one, other = (np.asarray(slopes(values, params, _random(seed, STATE))) for seed in (2, 3))
    assert (one > 1e-3).any() and (np.abs(one - other) > 1e-3).any()


@pytest.mark.parametrize("seed", range(5))
def test_each_agents_best_action_makes_the_teams_best(seed: int) -> None:
    params, q, state = _mixer_params(seed, 1.0), _random(seed, AGENTS, ACTIONS), _random(seed + 50, STATE)
    legal = np.random.default_rng(seed).random((AGENTS, ACTIONS)) < 0.7
    legal[:, 0] = True
    joint = [
        action for action in itertools.product(range(ACTIONS), repeat=AGENTS) if legal[range(AGENTS), action].all()
    ]
    values = np.stack([q[range(AGENTS), action] for action in joint])
    team = np.asarray(mix(params, values, np.broadcast_to(state, (len(joint), STATE))))
    best = tuple(np.asarray(greedy_action(q, legal)))
    assert team[joint.index(best)] == team.max()
    assert team.max() > team.min()


def _plain_mix(params: Any, values: np.ndarray, state: np.ndarray) -> float:
    """One state, by the paper: hypernetworks with a hidden layer, absolute weights, ELU, a bias of two layers."""
    layers = {name: {part: np.asarray(leaf, np.float64) for part, leaf in layer.items()}
              for name, layer in params["params"].items()}  # fmt: skip
    state = (state - state.mean()) / np.sqrt(state.var() + 1e-6)

    def layer(name: str, x: np.ndarray, columns: slice = slice(None)) -> np.ndarray:
        return np.asarray(x @ layers[name]["kernel"][:, columns] + layers[name]["bias"][columns])

    def hidden(start: int, width: int) -> np.ndarray:
        return np.maximum(layer("hidden", state, slice(start, start + width)), 0.0)

    embed = layers["bias"]["bias"].size
    hyper = (layers["hidden"]["bias"].size - embed) // 2
    bias = layer("bias", state)
    weights = np.abs(layer("weights", hidden(0, hyper))).reshape(len(values), embed)
    last_weights = np.abs(layer("last_weights", hidden(hyper, hyper)))
    last_bias = layer("last_bias", hidden(2 * hyper, embed))[0]
    x = values @ weights + bias
    return float(np.where(x > 0, x, np.expm1(np.minimum(x, 0.0))) @ last_weights + last_bias)


def test_mixing_is_that_of_a_plain_rewrite() -> None:
    params, values, state = _mixer_params(7, 0.7), _random(8, 2, 9, AGENTS), _random(9, 2, 9, STATE)
    ours = np.asarray(mix(params, values, state))
    assert ours.shape == (2, 9)
    for index in np.ndindex(2, 9):
        np.testing.assert_allclose(ours[index], _plain_mix(params, values[index], state[index]), rtol=1e-4, atol=1e-5)


# -- The system --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def run(begin: Callable[..., Any]) -> Any:
    """A tiny QMIX in episodes of 5 steps; `params` differ; `batch` was played with `params.online`."""
    run = begin(
        "rec_qmix",
        "env.scenario.task_config.time_limit=5",
        "arch.stagger_episodes=false",
        "env.scenario.task_config.horizon=truncate",
    )
    leaves, structure = jax.tree.flatten(run.state.params)
    run.params = jax.tree.unflatten(structure, [x + 0.3 * _random(i, *x.shape) for i, x in enumerate(leaves)])
    state = run.state._replace(params=run.params)
    _, rollout = jax.jit(run.system.play)(run.hyper, state, jax.random.PRNGKey(2))
    run.batch = jax.tree.map(lambda leaf: jnp.swapaxes(leaf[3:11], 0, 1), remembered(rollout))
    return run


def _state(observation: Observation, *index: int) -> np.ndarray:
    return np.asarray(observation.agents_view)[index].ravel()


def test_the_error_is_that_of_the_teams_value(run: Any) -> None:
    steps, values, following = jax.jit(run.system.values)(run.params, run.batch)
    error, team = jax.jit(run.system.errors)(run.hyper, run.params, run.batch)
    assert error.shape == (6, 4)
    done = np.asarray(steps.done)
    assert done.any() and not done.all()
    for index in np.ndindex(*error.shape):
        value = _plain_mix(run.params.online.mixer, np.asarray(values)[index], _state(steps.observation, *index))
        v_t = _plain_mix(run.params.target.mixer, np.asarray(following)[index], _state(steps.next_observation, *index))
        reward = np.asarray(steps.reward)[index]
        assert (reward == reward[0]).all()
        np.testing.assert_allclose(team[index], value, rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(error[index], reward[0] + 0.99 * v_t - value, rtol=1e-4, atol=1e-4)


def test_nothing_follows_the_end_of_an_episode_that_ends_for_good(run: Any) -> None:
    ended = run.batch._replace(discount=run.batch.discount * ~run.batch.done[..., None])
    steps, values, following = jax.jit(run.system.values)(run.params, ended)
    error, _ = jax.jit(run.system.errors)(run.hyper, run.params, ended)
    done = np.asarray(steps.done)
    assert done.any() and not done.all()
    for index in np.ndindex(*error.shape):
        value = _plain_mix(run.params.online.mixer, np.asarray(values)[index], _state(steps.observation, *index))
        v_t = _plain_mix(run.params.target.mixer, np.asarray(following)[index], _state(steps.next_observation, *index))
        target = np.asarray(steps.reward)[index][0] + (0.0 if done[index] else 0.99 * v_t)
        np.testing.assert_allclose(error[index], target - value, rtol=1e-4, atol=1e-4)


def test_agents_values_are_those_of_recurrent_q_learning(run: Any, begin: Callable[..., Any]) -> None:
    alone = begin(
        "rec_iql",
        "env.scenario.task_config.time_limit=5",
        "arch.stagger_episodes=false",
        "env.scenario.task_config.horizon=truncate",
    )
    params = Params(run.params.online.agent, run.params.target.agent)
    ours, theirs = (
        jax.jit(system.values)(own, run.batch) for system, own in ((run.system, run.params), (alone.system, params))
    )
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)


def test_a_gradient_step_moves_all_networks(run: Any) -> None:
    def step(tau: float) -> Learning:
        hyper = run.hyper._replace(system=run.hyper.system | {"tau": jnp.float32(tau)})
        learning: Learning = learn(hyper, Learning(run.params, run.state.opt_state))
        return learning

    learn = jax.jit(lambda hyper, learning: run.system.learn_step(hyper, learning, run.batch, jax.random.PRNGKey(0))[0])
    for tau in (0.0, 1.0):
        after = step(tau).params
        moved = jax.tree.map(lambda a, b: bool((a != b).any()), after.online, run.params.online)
        assert all(jax.tree.leaves(moved))
        jax.tree.map(np.testing.assert_array_equal, after.target, after.online if tau else run.params.target)


def test_the_mixer_sees_every_agents_view(run: Any) -> None:
    steps: Step = jax.tree.map(lambda leaf: leaf[:, 0], run.batch)
    values = _random(4, 4, AGENTS)
    plain = run.system.mix(run.params.online, values, steps.observation)
    for agent in range(AGENTS):
        view = steps.observation.agents_view.at[:, agent].add(1.0)
        changed = run.system.mix(run.params.online, values, steps.observation._replace(agents_view=view))
        assert (np.asarray(plain) != np.asarray(changed)).all()


@pytest.mark.parametrize("scenario", ["env/scenario=p-base", "env=lbf env/scenario=8x8-2p-2f-coop"])
def test_a_teams_value_starts_small_whatever_the_units_of_the_state(scenario: str) -> None:
    """Against returns of at most 1 on LBF, whose views count grid cells."""
    config = without_values(parse_config(compose("rec_qmix", ["vault=none", *scenario.split()])))
    system = system_class("rec_qmix")(config, make_environment(config.env))
    key = jax.random.PRNGKey(0)
    observation = jax.jit(system.envs.reset)(key).observation
    nothing = jnp.zeros(observation.agents_view.shape[:2])

    @jax.jit
    def team(key: jax.Array) -> tuple[jax.Array, jax.Array]:
        networks = system.init_networks(key, jax.tree.map(lambda leaf: leaf[:1], observation))
        value = lambda values: system.mix(networks, values, observation)  # noqa: E731
        return value(nothing), jax.grad(lambda values: value(values).sum())(nothing)

    for seed in range(3):
        value, slope = team(jax.random.PRNGKey(seed))
        assert float(jnp.abs(value).max()) < 1.0
        assert 0.02 < float(slope.mean()) < 2.0


# -- Its config --------------------------------------------------------------------------------------------------------


def test_the_default_config_shares_the_reward() -> None:
    config = parse_config(compose("rec_qmix"))
    assert config.env.shared_reward
    assert parse_config(compose("rec_qmix", ["env=lbf"])).env.shared_reward
    assert not parse_config(compose("rec_iql")).env.shared_reward


def test_rewards_that_are_not_the_teams_are_refused(tiny_config: Callable[..., ExperimentConfig]) -> None:
    with pytest.raises(ConfigError) as caught:
        tiny_config("rec_qmix", "env.shared_reward=false")
    assert str(caught.value) == (
        "env.shared_reward: false, but rec_qmix learns one value for the whole team; set env.shared_reward=true "
        "(or env.use_individual_rewards=false for the sum), or use rec_iql"
    )
    assert not tiny_config("rec_qmix", "env.shared_reward=false", "env.use_individual_rewards=false").env.shared_reward
