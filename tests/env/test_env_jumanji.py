"""JaxParty as a Jumanji environment: specs, registration, purity, jit, vmap, keys, and no recompilation."""

from __future__ import annotations

import copy
import pickle
from functools import partial
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jumanji.registration import make, registered_environments
from jumanji.testing.env_not_smoke import check_env_does_not_smoke, check_env_specs_does_not_smoke
from jumanji.testing.pytrees import assert_is_jax_array_tree
from jumanji.wrappers import AutoResetWrapper, VmapWrapper

import jax_party
from jax_party.env.env import JaxParty
from jax_party.env.settings import FEATURES, PayoffSettings
from jax_party.env.types import GameParams

GAMES: list[dict[str, Any]] = [
    {},
    {
        "matching": "round_robin",
        "observe": FEATURES,
        "totals_scale": "raw",
        "horizon": "truncate",
        "action_noise": 0.5,
    },
    {"num_agents": 4, "matching": "random_matching", "observe": FEATURES, "rank_by": "payoff"},
    {"num_agents": 4, "matching": "all_pairs", "observe": FEATURES, "payoff": {"reward": -2.3, "sucker": -7.1}},
]


def host(tree: Any) -> Any:
    return jax.tree.map(lambda x: np.asarray(jax.random.key_data(x) if _is_key(x) else x), tree)


def _is_key(x: Any) -> bool:
    return bool(jnp.issubdtype(x.dtype, jax.dtypes.prng_key))


@pytest.fixture(params=GAMES, ids=lambda game: game.get("matching", "defaults"), scope="module")
def env(request: pytest.FixtureRequest) -> JaxParty:
    return JaxParty(time_limit=25, **request.param)


def test_jumanji_checks(env: JaxParty) -> None:
    check_env_does_not_smoke(env)
    check_env_specs_does_not_smoke(env)


def test_everything_passes_its_spec(env: JaxParty) -> None:
    n = env.num_agents
    reset, step = jax.jit(env.reset), jax.jit(env.step)
    state, timestep = reset(jax.random.key(0))
    first = host(timestep)
    assert_is_jax_array_tree(host(state) and state.replace(key=jax.random.key_data(state.key)))
    rng = np.random.default_rng(0)
    while True:
        env.observation_spec.validate(timestep.observation)
        env.reward_spec.validate(timestep.reward)
        env.discount_spec.validate(timestep.discount)
        chex.assert_trees_all_equal_shapes_and_dtypes(host(timestep), first)
        mask = np.asarray(timestep.observation.action_mask)
        assert mask.any(axis=1).all()
        np.testing.assert_array_equal(mask, np.where(np.asarray(state.active)[:, None], [1, 1, 0], [0, 0, 1]))
        if timestep.last():
            break
        action = np.array([rng.choice(np.flatnonzero(row)) for row in mask], np.int32)
        env.action_spec.validate(jnp.asarray(action))
        state, timestep = step(state, action)
    assert int(state.step_count) == env.time_limit == 25
    assert state.totals.shape == state.payoff_totals.shape == (n,)
    dtypes = {
        "active": bool,
        "meeting": bool,
        "totals": "f4",
        "payoff_totals": "f4",
        "ranks": "i4",
        "last_meeting": "i1",
    }
    assert all(getattr(state, name).dtype == dtype for name, dtype in dtypes.items())


def test_specs_say_the_shapes() -> None:
    env = JaxParty(num_agents=4, observe=FEATURES, time_limit=9)
    spec: Any = env.observation_spec
    assert spec.agents_view.shape == (4, 4 + 4 + 4 + 5 * 3 + 1)
    assert spec.action_mask.shape == (4, 3) and spec.action_mask.dtype == bool
    assert spec.step_count.shape == (4,) and int(spec.step_count.maximum) == 9
    assert env.action_spec.num_values.tolist() == [3] * 4 and env.action_spec.dtype == jnp.int32
    assert env.reward_spec.shape == env.discount_spec.shape == (4,)
    low, high = spec.agents_view.minimum, spec.agents_view.maximum
    np.testing.assert_allclose(low[4:8], -10, rtol=2e-3)
    np.testing.assert_allclose(high[4:8], 15, rtol=2e-3)
    assert (high[8:12] == 3).all() and (high[:4] == 1).all() and (high[12:] == 1).all()
    with pytest.raises(ValueError, match="agents_view"):
        spec.validate(env.reset(jax.random.key(0))[1].observation._replace(agents_view=jnp.full((4, 28), 99.0)))


def test_registration_is_idempotent_and_takes_settings() -> None:
    jax_party.register_JaxParty()
    jax_party.register_JaxParty()
    assert "JaxParty-v0" in registered_environments()
    env: Any = make("JaxParty-v0", num_agents=5, payoff={"reward": 4.0}, observe=["ranks"])
    assert env.settings.payoff == PayoffSettings(4.0, 0.0, 5.0, 1.0)
    assert JaxParty(payoff=PayoffSettings(4.0, 0.0, 3.0, 2.0)).settings.payoff.temptation == 3.0
    assert "num_agents=5" in repr(env)


def test_reset_and_step_change_nothing() -> None:
    env = JaxParty(observe=FEATURES)
    key = jax.random.key(4)
    state, _ = env.reset(key)
    action = np.ones(env.num_agents, np.int32)
    before = copy.deepcopy((host(key), host(state), action))
    first = env.step(state, action)
    again = env.step(state, action)
    chex.assert_trees_all_equal((host(key), host(state), action), before)
    chex.assert_trees_all_equal(host(first), host(again))
    chex.assert_trees_all_equal(host(env.reset(key)[0]), host(state))


ODD_PAYOFF = {"reward": 0.1, "sucker": -0.37, "temptation": 1.7, "punishment": 0.03}


@pytest.mark.parametrize(
    "game",
    [
        {"num_agents": 4, "matching": "all_pairs"},
        {"num_agents": 4, "matching": "random_matching"},
        {"num_agents": 3, "matching": "random_pair"},
    ],
    ids=lambda game: game["matching"],
)
def test_same_episode_with_and_without_jit_and_vmap(play: Any, game: dict[str, Any]) -> None:
    # Numbers that float32 cannot hold: a rounding that differs would soon rank agents differently.
    env = JaxParty(payoff=ODD_PAYOFF, rank_reward=0.77, observe=FEATURES, action_noise=0.1, **game)
    actions = np.random.default_rng(1).integers(0, 2, (40, env.num_agents)).astype(np.int32)
    scanned = play(env, actions, seed=9)
    plain = env.reset(jax.random.key(9))[0]
    batch = jax.jit(jax.vmap(env.reset))(jnp.stack([jax.random.key(seed) for seed in (3, 9)]))[0]
    batch_step = jax.jit(jax.vmap(env.step))
    for t, action in enumerate(actions):
        batch, batched = batch_step(batch, np.stack([action, action]))
        expected = host(jax.tree.map(lambda x, t=t: x[t], scanned.timesteps))
        chex.assert_trees_all_equal(jax.tree.map(lambda x: x[1], host(batched)), expected)
        if t < 20:
            plain, plain_step = env.step(plain, action)
            chex.assert_trees_all_equal(host(plain_step), expected)
            chex.assert_trees_all_equal(host(plain), jax.tree.map(lambda x: x[1], host(batch)))


def test_legacy_and_typed_keys_play_the_same() -> None:
    env = JaxParty()
    typed, legacy = env.reset(jax.random.key(7))[0], env.reset(jax.random.PRNGKey(7))[0]
    action = np.zeros(3, np.int32)
    for _ in range(3):
        assert _is_key(typed.key) and legacy.key.dtype == jnp.uint32 and legacy.key.shape == (2,)
        chex.assert_trees_all_equal(host(typed), host(legacy))
        typed, legacy = env.step(typed, action)[0], env.step(legacy, action)[0]
    other = env.reset(jax.random.key(7, impl="rbg"))[0]
    assert str(jax.random.key_impl(env.step(other, action)[0].key)) == "rbg"


def test_sweeping_the_numbers_does_not_recompile() -> None:
    env = JaxParty(time_limit=10)
    traces = 0

    @jax.jit
    def returns(params: GameParams, key: Any, actions: Any) -> Any:
        nonlocal traces
        traces += 1
        game = env.with_params(params)
        return jax.lax.scan(lambda s, a: (game.step(s, a)[0], None), game.reset(key)[0], actions)[0].totals

    actions = np.zeros((10, 3), np.int32)
    key = jax.random.key(0)
    for reward, rank_reward, noise in [(3.0, 10.0, 0.0), (4.5, 0.0, 0.0), (1.0, -2.5, 0.5), (-3.0, 1.0, 1.0)]:
        fixed = JaxParty(time_limit=10, payoff={"reward": reward}, rank_reward=rank_reward, action_noise=noise)
        totals = returns(fixed.params, key, actions)
        np.testing.assert_allclose(totals, _totals(fixed, key, actions), rtol=1e-6)
    assert traces == 1


def _totals(env: JaxParty, key: Any, actions: Any) -> Any:
    state = env.reset(key)[0]
    step = jax.jit(env.step)
    for action in actions:
        state, _ = step(state, action)
    return state.totals


def test_params_are_float32_scalars_and_vmap() -> None:
    env = JaxParty(payoff={"sucker": -1}, action_noise=0.25)
    assert env.params == GameParams(3.0, -1.0, 5.0, 1.0, 10.0, 0.25)
    assert all(value.dtype == jnp.float32 and value.shape == () for value in env.params)
    assert env.with_params(env.params).params == env.params

    def reward(rank_reward: Any) -> Any:
        game = env.with_params(env.params._replace(rank_reward=rank_reward))
        state, _ = game.reset(jax.random.key(0))
        return game.step(state, jnp.full((3,), 2))[1].reward

    rewards = jax.jit(jax.vmap(reward))(jnp.asarray([0.0, 1.0, 5.0]))
    np.testing.assert_array_equal(np.sort(rewards, axis=1), [[0, 0, 0], [-1, 0, 1], [-5, 0, 5]])


def test_specs_under_traced_params_hold_for_any_numbers() -> None:
    env = JaxParty(observe=FEATURES)

    @jax.jit
    def bounds(params: GameParams) -> Any:
        spec: Any = env.with_params(params).observation_spec
        return spec.agents_view.minimum, spec.agents_view.maximum

    low, high = bounds(env.params)
    assert (low[3:6] == -np.inf).all() and (high[3:6] == np.inf).all()
    assert (high[:3] == 1).all() and (high[6:9] == 2).all()
    game = env.with_params(env.params._replace(rank_reward=1e6))
    _, timestep = game.step(game.reset(jax.random.key(0))[0], jnp.zeros(3, jnp.int32))
    game.observation_spec.validate(timestep.observation)
    game.reward_spec.validate(timestep.reward)
    own: Any = env.observation_spec
    assert np.isfinite(own.agents_view.maximum).all()


def test_jumanji_wrappers_and_pickle() -> None:
    env = JaxParty(time_limit=3)
    wrapped = VmapWrapper(AutoResetWrapper(env))
    state, _ = jax.jit(wrapped.reset)(jax.random.split(jax.random.key(0), 2))
    step = jax.jit(wrapped.step)
    counts = []
    for _ in range(4):
        state, _ = step(state, jnp.zeros((2, 3), jnp.int32))
        counts.append(int(state.step_count[0]))
    assert counts == [1, 2, 0, 1]
    again = pickle.loads(pickle.dumps(partial(JaxParty, num_agents=4)))()
    assert again.num_agents == 4
    assert pickle.loads(pickle.dumps(env)).settings == env.settings
    assert copy.deepcopy(env).settings == env.settings
