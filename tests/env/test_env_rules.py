"""The rules, against values worked out by hand and properties that must hold."""

from __future__ import annotations

from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from jax_party.env.env import JaxParty
from jax_party.env.payoffs import play as play_meetings
from jax_party.env.ranking import places, rank_rewards
from jax_party.env.settings import FEATURES

C, D, NOOP = 0, 1, 2
RANK_REWARDS = st.one_of(st.just(0.0), st.integers(-10_000, 10_000).map(lambda k: k / 8))


def state_of(env: JaxParty, meeting: Any, ranks: list[int], totals: list[float] | None = None) -> Any:
    """A state in which the given meetings come next."""
    state: Any = env.reset(jax.random.key(0))[0]
    meets = np.zeros((env.num_agents, env.num_agents), bool)
    for i, j in meeting:
        meets[i, j] = meets[j, i] = True
    active = meets.any(axis=1)
    return state.replace(
        meeting=jnp.asarray(meets),
        active=jnp.asarray(active),
        ranks=jnp.asarray(ranks, jnp.int32),
        totals=state.totals if totals is None else jnp.asarray(totals, jnp.float32),
    )


@pytest.mark.parametrize(
    ("actions", "payoff"),
    [
        ([C, C, NOOP], [3, 3, 0]),
        ([C, D, NOOP], [0, 5, 0]),
        ([D, C, NOOP], [5, 0, 0]),
        ([D, D, NOOP], [1, 1, 0]),
        ([D, D, D], [1, 1, 0]),  # the idle agent's action is ignored
        ([D, NOOP, C], [0, 0, 0]),  # a forfeit
        ([C, 9, NOOP], [0, 0, 0]),  # no action at all: a forfeit
    ],
)
def test_rewards_by_hand(actions: list[int], payoff: list[float]) -> None:
    env = JaxParty()
    state = state_of(env, [(0, 1)], ranks=[2, 0, 1], totals=[-10.0, 10.0, 0.0])
    next_state, timestep = env.step(state, jnp.asarray(actions))
    np.testing.assert_array_equal(timestep.reward, np.add(payoff, [-10, 10, 0]))
    np.testing.assert_array_equal(next_state.totals, np.add(payoff, [-20, 20, 0]))
    np.testing.assert_array_equal(next_state.payoff_totals, payoff)
    np.testing.assert_array_equal(next_state.ranks, [2, 0, 1])
    assert timestep.reward.dtype == jnp.float32


def test_rank_rewards_follow_the_ranks_that_were_seen() -> None:
    # Agent 2 trails by one point and is paid as the last, although its 5 points make it the leader.
    env = JaxParty(rank_reward=1.0)
    state = state_of(env, [(1, 2)], ranks=[0, 1, 2], totals=[2.0, 1.5, 1.0])
    next_state, timestep = env.step(state, jnp.asarray([NOOP, C, D]))
    np.testing.assert_array_equal(timestep.reward, [1, 0, 4])
    np.testing.assert_array_equal(next_state.ranks, [1, 2, 0])
    assert timestep.extras["metrics"]["leader_changed"]
    np.testing.assert_array_equal(timestep.extras["metrics"]["leader"], [False, False, True])


def test_rank_is_a_place_not_an_order() -> None:
    # Scores whose argsort is not its own inverse: the mistake that this game replaces.
    ranks = places(jnp.asarray([1.0, 3.0, 2.0, 0.0, 4.0]), jnp.zeros(5, jnp.uint32))
    np.testing.assert_array_equal(ranks, [3, 1, 2, 4, 0])


def test_all_pairs_by_hand() -> None:
    env = JaxParty(num_agents=4, matching="all_pairs", rank_reward=0.0)
    state, _ = env.reset(jax.random.key(0))
    state, timestep = env.step(state, jnp.asarray([C, C, D, NOOP]))
    # 0 meets C, D and a forfeit: (3 + 0 + 0) / 3; 2 meets C, C and a forfeit: (5 + 5 + 0) / 3.
    np.testing.assert_allclose(timestep.reward, [1, 1, 10 / 3, 0], rtol=1e-6)
    metrics = timestep.extras["metrics"]
    assert [int(metrics[name]) for name in ("cooperations", "defections", "cc", "cd", "dd")] == [2, 1, 1, 2, 0]
    expected = [[-1, C, C, -1], [C, -1, C, -1], [D, D, -1, -1], [-1, -1, -1, -1]]
    np.testing.assert_array_equal(state.last_meeting, expected)
    # A forfeit leaves the memory of the meeting before it.
    state, _ = env.step(state, jnp.asarray([NOOP, D, C, C]))
    expected = [[-1, C, C, -1], [C, -1, D, D], [D, C, -1, C], [-1, C, C, -1]]
    np.testing.assert_array_equal(state.last_meeting, expected)


def test_memory_view_by_hand() -> None:
    env = JaxParty(observe=["memory"])
    state, timestep = env.reset(jax.random.key(0))
    np.testing.assert_array_equal(timestep.observation.agents_view, [[0, 0, 0, 0, 1] * 2] * 3)
    state = state_of(env, [(0, 1)], ranks=[0, 1, 2])
    _, timestep = env.step(state, jnp.asarray([C, D, NOOP]))
    never, cd, dc = [0, 0, 0, 0, 1], [0, 1, 0, 0, 0], [0, 0, 1, 0, 0]
    # Agent 0 sees 1 then 2; agent 1 sees 2 then 0; agent 2 sees 0 then 1.
    np.testing.assert_array_equal(timestep.observation.agents_view, [cd + never, never + dc, never + never])


def test_view_by_hand() -> None:
    env = JaxParty(observe=["step", "ranks", "totals", "active"], totals_scale="per_step", time_limit=4)
    state = state_of(env, [(0, 1)], ranks=[0, 1, 2], totals=[5.0, 0.0, -9.0])
    next_state, timestep = env.step(state.replace(step_count=jnp.int32(1)), jnp.asarray([C, C, NOOP]))
    active = np.asarray(next_state.active, float)
    for i in range(3):
        order = [i, (i + 1) % 3, (i + 2) % 3]
        expected = [*active[order], *np.array([9.0, 1.5, -9.5])[order], *np.array([0, 1, 2])[order], 0.5]
        np.testing.assert_array_equal(timestep.observation.agents_view[i], expected)


@pytest.mark.parametrize(("policy", "mean"), [("C", 2.0), ("D", 2 / 3), ("DC", 5 / 3)])
def test_mean_reward_of_fixed_policies(play: Any, policy: str, mean: float) -> None:
    env = JaxParty()
    if policy == "DC":  # of every pair the lower index defects against a cooperator: any D-C meeting pays 5
        run = jax.jit(lambda key: jax.lax.scan(lambda s, _: _lower_defects(env, s), env.reset(key)[0], None, 4000)[1])
        reward = np.asarray(run(jax.random.key(3)))
    else:
        actions = np.full((4000, 3), C if policy == "C" else D, np.int32)
        reward = play(env, actions).timesteps.reward
    np.testing.assert_array_equal(reward.sum(axis=1), np.full(4000, 3 * mean, np.float32))
    assert reward.sum(dtype=np.float64) / reward.size == pytest.approx(mean, abs=1e-9)


def _lower_defects(env: JaxParty, state: Any) -> Any:
    first = jnp.argmax(state.active)
    state, timestep = env.step(state, jnp.where(jnp.arange(3) == first, D, C))
    return state, timestep.reward


@cache
def _episode_returns() -> Any:
    env = JaxParty()

    @jax.jit
    def run(rank_reward: Any, key: Any, actions: Any) -> Any:
        game = env.with_params(env.params._replace(rank_reward=rank_reward))
        state, _ = game.reset(key)
        return jax.lax.scan(lambda s, a: (game.step(s, a)[0], None), state, actions)[0].totals

    return run


@settings(max_examples=20, deadline=None)
@given(rank_reward=st.floats(-100, 100, width=32), defection=st.floats(0, 1), seed=st.integers(0, 2**31 - 1))
def test_mean_return_stays_in_its_range(rank_reward: float, defection: float, seed: int) -> None:
    actions = (np.random.default_rng(seed).random((4000, 3)) < defection).astype(np.int32)
    totals = np.asarray(_episode_returns()(rank_reward, jax.random.key(seed), actions), np.float64)
    slack = 4000 * 1e-5 * (10 + abs(rank_reward))
    assert 4000 * 2 / 3 - slack <= totals.mean() <= 8000 + slack


@settings(max_examples=50, deadline=None)
@given(num_agents=st.sampled_from([2, 3, 4, 10]), rank_reward=RANK_REWARDS, seed=st.integers(0, 1000))
def test_rank_rewards_are_linear_and_sum_to_zero(num_agents: int, rank_reward: float, seed: int) -> None:
    ranks = np.random.default_rng(seed).permutation(num_agents).astype(np.int32)
    paid = np.asarray(rank_rewards(jnp.asarray(ranks), jnp.float32(rank_reward)))
    expected = rank_reward * (1 - 2 * ranks / (num_agents - 1))
    np.testing.assert_allclose(paid, expected, rtol=1e-5, atol=1e-6 * abs(rank_reward))
    assert abs(paid.sum()) <= 1e-5 * abs(rank_reward)
    assert paid[ranks == 0] == np.float32(rank_reward) and paid[ranks == num_agents - 1] == -np.float32(rank_reward)


@settings(max_examples=60, deadline=None)
@given(
    scores=st.sampled_from([2, 3, 4, 10]).flatmap(
        lambda n: hnp.arrays(np.float32, n, elements=st.floats(-4, 4, width=16))
    ),
    word=st.sampled_from(["same", "random"]),
)
def test_ranks_are_a_permutation_that_respects_scores(scores: np.ndarray, word: str) -> None:
    words = np.random.default_rng(0).integers(0, 2**32, len(scores), dtype=np.uint32)
    ranks = np.asarray(places(jnp.asarray(scores), jnp.asarray(words if word == "random" else words * 0)))
    assert sorted(ranks) == list(range(len(scores)))
    assert (np.diff(scores[np.argsort(ranks)]) <= 0).all()


def relabel(state: Any, order: np.ndarray) -> Any:
    """Agent k of the new state is agent order[k] of the old one."""
    return state.replace(
        **{
            name: np.asarray(getattr(state, name))[order]
            for name in ("active", "totals", "payoff_totals", "ranks", "action_mask")
        },
        **{name: np.asarray(getattr(state, name))[np.ix_(order, order)] for name in ("meeting", "last_meeting")},
    )


@cache
def _game(matching: str) -> tuple[JaxParty, Any, Any, Any]:
    env = JaxParty(num_agents=5, matching=matching, observe=FEATURES, rank_reward=4.0)
    return env, jax.jit(env.reset), jax.jit(env.step), jax.jit(env._observer)


def by_agent(views: np.ndarray, num_agents: int) -> np.ndarray:
    """Views with their agent-wise features re-ordered from cyclic to by agent; [i, j] is i's view of j."""
    views = np.asarray(views)
    cyclic = (np.arange(num_agents)[:, None] + np.arange(num_agents)) % num_agents
    parts = [views[:, k * num_agents : (k + 1) * num_agents, None] for k in range(3)]
    memory = views[:, 3 * num_agents : -1].reshape(num_agents, num_agents - 1, 5)
    parts.append(np.concatenate([np.zeros((num_agents, 1, 5)), memory], axis=1))
    seen = np.concatenate(parts, axis=2)
    out = np.empty_like(seen)
    np.put_along_axis(out, cyclic[:, :, None], seen, axis=1)
    return out


@pytest.mark.parametrize("matching", ["random_pair", "random_matching", "all_pairs"])
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_relabelling_agents_relabels_everything(matching: str, data: st.DataObject) -> None:
    env, reset, step, observe = _game(matching)
    n = env.num_agents
    rng = np.random.default_rng(data.draw(st.integers(0, 2**31 - 1)))
    order = np.array(data.draw(st.permutations(range(n))))
    actions = np.array(data.draw(st.lists(st.sampled_from([C, D, NOOP]), min_size=n, max_size=n)))
    state, _ = reset(jax.random.key(int(rng.integers(2**31))))
    last = np.triu(rng.integers(-1, 2, (n, n)), 1)
    last = np.where(last < 0, -1, last)
    reverse = np.where(last.T < 0, -1, rng.integers(0, 2, (n, n)))
    memory = np.where(np.triu(np.ones((n, n)), 1) > 0, last, reverse) - np.eye(n) * (1 + np.diag(reverse))
    state = state.replace(
        totals=rng.normal(0, 100, n).astype(np.float32),
        payoff_totals=rng.normal(0, 100, n).astype(np.float32),
        last_meeting=memory.astype(np.int8),
        step_count=np.int32(7),
    )
    one, one_step = step(state, actions)
    two, two_step = step(relabel(state, order), actions[order])
    assume(len(set(np.asarray(one.totals).tolist())) == n)

    np.testing.assert_array_equal(two_step.reward, one_step.reward[order])
    for name in ("totals", "payoff_totals", "ranks"):
        np.testing.assert_array_equal(getattr(two, name), getattr(one, name)[order])
    np.testing.assert_array_equal(two.last_meeting, one.last_meeting[np.ix_(order, order)])
    for name in ("cooperations", "defections", "cc", "cd", "dd", "leader_changed"):
        assert two_step.extras["metrics"][name] == one_step.extras["metrics"][name]
    # Chance has drawn the next meetings by label; give both games the same ones before their views are compared.
    relabelled = relabel(one, order)
    views, moved = observe(one).agents_view, observe(relabelled).agents_view
    np.testing.assert_array_equal(by_agent(moved, n), by_agent(views, n)[np.ix_(order, order)])
    np.testing.assert_array_equal(two.totals, relabelled.totals)
    shift = np.roll(np.arange(n), int(order[0]))
    np.testing.assert_array_equal(observe(relabel(one, shift)).agents_view, views[shift])


@pytest.mark.parametrize("horizon", ["terminate", "truncate"])
def test_horizon(play: Any, horizon: str) -> None:
    env = JaxParty(time_limit=5, horizon=horizon)
    timesteps = play(env, np.zeros((5, 3), np.int32)).timesteps
    assert timesteps.step_type.tolist() == [1, 1, 1, 1, 2]
    assert (timesteps.discount[:4] == 1).all()
    assert (timesteps.discount[4] == (0 if horizon == "terminate" else 1)).all()
    _, first = env.reset(jax.random.key(0))
    assert int(first.step_type) == 0 and (first.reward == 0).all() and (first.discount == 1).all()


@pytest.mark.parametrize(("action_noise", "expected"), [(0.0, 0.0), (1.0, 1.0), (0.25, 0.25)])
def test_noise_flips_each_agent_on_its_own(play: Any, action_noise: float, expected: float) -> None:
    env = JaxParty(num_agents=4, matching="all_pairs", action_noise=action_noise)
    memory = play(env, np.zeros((2000, 4), np.int32), seed=5).states.last_meeting[1:]
    flips = memory[:, [0, 1, 2, 3], [1, 2, 3, 0]].astype(float)
    assert flips.mean() == pytest.approx(expected, abs=0.02)
    if 0 < action_noise < 1:
        assert np.abs(np.corrcoef(flips.T) - np.eye(4)).max() < 0.1


def test_noise_leaves_forfeits_alone() -> None:
    env = JaxParty(action_noise=1.0, rank_reward=0.0)
    state = state_of(env, [(0, 1)], ranks=[0, 1, 2])
    _, timestep = env.step(state, jnp.asarray([NOOP, C, C]))
    metrics = timestep.extras["metrics"]
    assert (timestep.reward == 0).all()
    # The other played: its C was flipped to D. The meeting is no outcome.
    counted = [int(metrics[name]) for name in ("cooperations", "defections", "cc", "cd", "dd")]
    assert counted == [0, 1, 0, 0, 0]


def test_equal_play_earns_exactly_equal_payoffs() -> None:
    # Payoffs that float32 cannot hold, in another order of opponents for each agent: ties must still be ties.
    params = JaxParty(payoff={"reward": 0.1, "sucker": -0.7, "temptation": 1.3, "punishment": 0.3}).params
    played = jnp.asarray([C, D, C, D, C, D, C], jnp.int32)
    payoff = np.asarray(play_meetings(played, ~jnp.eye(7, dtype=bool), params).payoff)
    assert len(set(payoff[::2].tolist())) == 1 and len(set(payoff[1::2].tolist())) == 1
