"""Independent Q-learning, feed-forward and recurrent: kernels, exploring, replay, losses, target networks."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import rlax
import scipy.stats

from jax_party.config import ExperimentConfig, make_budget
from jax_party.envs.adapter import Observation
from jax_party.errors import ConfigError
from jax_party.ops.q_learning import (
    bootstrap_value,
    chosen_value,
    epsilon_greedy,
    epsilon_schedule,
    greedy_action,
    td_error,
)
from jax_party.ops.sampling import flat_gumbel
from jax_party.systems.off_policy import Learning, Step, remembered
from jax_party.systems.q_learning import Params
from jax_party.training.program import get_program, make_hyper

AGENTS, ACTIONS = 3, 3
SHORT = ("env.scenario.task_config.time_limit=5", "arch.stagger_episodes=false")
TRUNCATED = "env.scenario.task_config.horizon=truncate"


@pytest.fixture(scope="module")
def feed_forward(begin: Callable[..., Any]) -> Any:
    """A feed-forward system that learns from its second update on; `state` is to be copied before it is donated."""
    return begin("ff_iql", "system.min_buffer_size=128")


@pytest.fixture(scope="module")
def recurrent(begin: Callable[..., Any]) -> Any:
    """A recurrent system in episodes of 5 steps that are cut off; `rollout` was played with `params.online`."""
    run = begin("rec_iql", *SHORT, TRUNCATED)
    run.params = _apart(run.state.params)
    _, run.rollout = jax.jit(run.system.play)(run.hyper, run.state._replace(params=run.params), jax.random.PRNGKey(2))
    return run


@pytest.fixture(scope="module")
def variant(tiny_config: Callable[..., ExperimentConfig]) -> Callable[..., Any]:
    """`variant("ff_iql", "system.double_q=false")`: a system and its `hyper`, nothing compiled."""

    def make(*arguments: str) -> SimpleNamespace:
        config = tiny_config(*arguments)
        program = get_program(config)
        return SimpleNamespace(system=program.system, hyper=program.put(make_hyper(config, make_budget(config))))

    return make


def _random(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def _masks(seed: int, *shape: int) -> np.ndarray:
    """Legal actions: where an agent is idle the last alone, else the others."""
    idle = np.random.default_rng(seed).random(shape) < 0.3
    return np.where(idle[..., None], [False, False, True], [True, True, False])


# -- Kernels -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("double", [True, False])
def test_errors_are_those_of_rlax(double: bool) -> None:
    rows = 40
    q_tm1, q_t, selector = (_random(seed, rows, ACTIONS) for seed in (0, 1, 2))
    selector = selector if double else q_t
    r_t, legal = _random(3, rows), _masks(4, rows)
    discount_t = 0.9 * np.random.default_rng(5).integers(0, 2, rows).astype(np.float32)
    action = np.random.default_rng(6).integers(0, ACTIONS, rows)
    ours = td_error(chosen_value(q_tm1, action), r_t, discount_t, bootstrap_value(q_t, selector, legal))
    for row in range(rows):
        allowed = np.flatnonzero(legal[row])  # rlax knows no masks: it is shown the legal actions alone
        known = (q_tm1[row], action[row], r_t[row], discount_t[row], q_t[row, allowed])
        theirs = rlax.double_q_learning(*known, selector[row, allowed]) if double else rlax.q_learning(*known)
        np.testing.assert_allclose(ours[row], theirs, rtol=1e-6, atol=1e-6)


def test_errors_by_hand() -> None:
    legal = jnp.array([[True, True, False], [False, False, True]])
    target, online = jnp.array([[5.0, 2.0, 9.0], [1.0, 8.0, -3.0]]), jnp.array([[0.0, 1.0, 7.0], [4.0, 6.0, -9.0]])
    np.testing.assert_array_equal(bootstrap_value(target, online, legal), [2.0, -3.0])
    np.testing.assert_array_equal(bootstrap_value(target, target, legal), [5.0, -3.0])
    value, reward, following = jnp.array([1.0, 1.0, 1.0]), jnp.array([3.0, 3.0, 3.0]), jnp.array([10.0, 10.0, 10.0])
    discount = 0.5 * jnp.array([1.0, 0.0, 1.0])  # on, terminated, truncated
    np.testing.assert_array_equal(td_error(value, reward, discount, following), [7.0, 2.0, 7.0])


def test_no_gradient_goes_through_the_target() -> None:
    gradient = jax.grad(lambda v: td_error(2.0 * v, v, v, v))(3.0)
    assert float(gradient) == -2.0


def test_the_exploration_rate_falls_in_a_line() -> None:
    steps = jnp.array([0, 250, 500, 1000, 1_000_000])
    rates = jax.vmap(lambda step: epsilon_schedule(step, 0.1, 1000.0))(steps)
    np.testing.assert_allclose(rates, [1.0, 0.775, 0.55, 0.1, 0.1], rtol=1e-6)


def _explore(epsilon: float, legal: np.ndarray, q: np.ndarray, draws: int) -> np.ndarray:
    explore_key, choice_key = jax.random.split(jax.random.PRNGKey(0))
    shape = (draws, *q.shape[:-1])
    explore = jax.random.uniform(explore_key, shape)
    choice = flat_gumbel(choice_key, (*shape, q.shape[-1]))
    return np.asarray(epsilon_greedy(jnp.broadcast_to(q, choice.shape), legal, epsilon, explore, choice))


def test_exploring_is_uniform_over_legal_actions() -> None:
    legal = np.array([[True, True, True, True], [False, True, False, True], [False, False, True, False]])
    q = np.array([[9.0, 0.0, 0.0, 0.0], [99.0, 1.0, 99.0, 0.0], [9.0, 9.0, -9.0, 9.0]], np.float32)
    actions = _explore(1.0, legal, q, 40_000)
    for row, allowed in enumerate(legal):
        counts = np.bincount(actions[:, row], minlength=4)
        assert (counts[~allowed] == 0).all()
        assert allowed.sum() == 1 or scipy.stats.chisquare(counts[allowed]).pvalue > 0.01


def test_epsilon_is_the_share_of_exploring() -> None:
    legal, q = np.array([True, True, False]), np.array([1.0, 2.0, 3.0], np.float32)
    assert (_explore(0.0, legal, q, 1000) == 1).all()
    worse = int((_explore(0.3, legal, q, 20_000) == 0).sum())  # half of the exploring ones
    assert scipy.stats.binomtest(worse, 20_000, 0.15).pvalue > 0.01


# -- Acting ------------------------------------------------------------------------------------------------------------


def _observation(seed: int, system: Any, *shape: int) -> Observation:
    views = _random(seed, *shape, AGENTS, system.env.num_features)
    mask = _masks(seed + 1, *shape, AGENTS)
    return Observation(jnp.asarray(views), jnp.asarray(mask), jnp.zeros((*shape, AGENTS), jnp.int32))


@pytest.mark.parametrize("kind", ["feed_forward", "recurrent"])
def test_evaluation_is_greedy_and_legal(kind: str, request: pytest.FixtureRequest) -> None:
    run = request.getfixturevalue(kind)
    system, observation = run.system, _observation(3, run.system, 50)
    memory = jax.tree.map(lambda leaf: leaf + 0.5, system.initial_memory(50))
    after, action, known = system.act(run.state.params, memory, observation, jax.random.PRNGKey(0), greedy=False)
    q, legal = np.asarray(known["q_values"]), np.asarray(observation.action_mask)
    np.testing.assert_array_equal(action, np.argmax(np.where(legal, q, -np.inf), -1))
    assert np.isfinite(q).all() and (q.argmax(-1) != np.asarray(action)).any()
    again = system.act(run.state.params, memory, observation, jax.random.PRNGKey(1), greedy=True)
    jax.tree.map(np.testing.assert_array_equal, (after, action, known), again)


def test_training_explores_less_and_less_and_always_legally(begin: Callable[..., Any]) -> None:
    traced = ("system.eps_decay=256", "system.eps_min=0.0", "system.q_lr=1e-9")
    run = begin("ff_iql", "system.min_buffer_size=128", *traced)
    state, greedy = run.state, []
    for _ in range(6):
        state, output = run.program.update(run.hyper, state)
        q, legal, action = (np.asarray(output.trajectory[n]) for n in ("q_values", "legal_action_mask", "action"))
        assert np.take_along_axis(legal, action[..., None].astype(int), -1).all()
        choice = legal.sum(-1) > 1
        greedy.append((np.argmax(np.where(legal, q, -np.inf), -1) == action)[choice].mean())
    # Half of the exploring agents, with two actions each, hit the greedy one; after 256 steps none explores.
    assert greedy[0] < 0.75 and greedy[3] > 0.85
    assert greedy[4:] == [1.0, 1.0]


# -- Replay ------------------------------------------------------------------------------------------------------------


def _by_rows(steps: Step) -> Step:
    rows: Step = jax.tree.map(lambda leaf: jnp.swapaxes(leaf, 0, 1), steps)
    return rows


def _remember(run: Any, state: Any, key: jax.Array) -> tuple[Any, Any]:
    """Play a rollout into the buffer, and learn nothing."""
    position, rollout = run.system.play(run.hyper, state, key)
    replay = run.system.buffer.add(state.replay, _by_rows(remembered(rollout)))
    return state._replace(envs=position.envs, memory=position.memory, replay=replay), rollout


def _replay_by_hand(run: Any, state: Any, actions: np.ndarray) -> list[Any]:
    """What each step led to, before anything is reset, when the same actions are played a step at a time."""
    envs, led_to = run.system.envs_under(run.hyper), []
    step = jax.jit(
        lambda state, action: (envs.step(state, action)[0], jax.vmap(envs.env.step)(state.states, action)[1])
    )
    for time in range(actions.shape[1]):
        state, played = step(state, actions[:, time])
        led_to.append(jax.tree.map(np.asarray, played))
    return led_to


@pytest.mark.parametrize("horizon", ["truncate", "terminate"])
def test_what_is_sampled_was_played(horizon: str, recurrent: Any, variant: Callable[..., Any]) -> None:
    run = variant("rec_iql", *SHORT, f"env.scenario.task_config.horizon={horizon}")
    updates, kept, length = 5, 64, 8  # 80 steps of each environment, of which the buffer holds the last 64
    state, parts = recurrent.state, []
    remember = jax.jit(functools.partial(_remember, run))
    for update in range(updates):
        state, rollout = remember(state, jax.random.PRNGKey(update))
        parts.append(jax.tree.map(lambda leaf: np.swapaxes(leaf, 0, 1), rollout))
    played = jax.tree.map(lambda *leaves: np.concatenate(leaves, axis=1), *parts)
    led_to = _replay_by_hand(run, recurrent.state.envs, played.action)
    sample = jax.jit(run.system.buffer.sample)
    batches = [sample(state.replay, jax.random.PRNGKey(seed)).experience for seed in range(6)]
    batch: Step = jax.tree.map(lambda *leaves: np.concatenate(leaves), *batches)
    starts = set()
    for row in range(len(batch.done)):
        env, start = _find(batch.observation.agents_view[row], played.observation.agents_view)
        starts.add((env, start))
        assert 80 - kept <= start <= 80 - length
        part = slice(start, start + length)
        np.testing.assert_array_equal(batch.action[row], played.action[env, part])
        np.testing.assert_array_equal(batch.reward[row], played.reward[env, part])
        np.testing.assert_array_equal(batch.last_done[row], played.last_done[env, part])
        for index, time in enumerate(range(start, start + length)):
            ended = (time + 1) % 5 == 0
            expected = led_to[time]
            np.testing.assert_allclose(
                batch.next_observation.agents_view[row, index], expected.observation.agents_view[env], rtol=1e-6
            )
            np.testing.assert_array_equal(
                batch.next_observation.action_mask[row, index], expected.observation.action_mask[env]
            )
            assert bool(batch.done[row, index]) == ended
            assert (batch.next_observation.step_count[row, index] == time % 5 + 1).all()
            assert (batch.discount[row, index] == float(not ended or horizon == "truncate")).all()
            assert batch.memory[row, index].any() == (time % 5 != 0)
    assert len(starts) > 20 and {env for env, _ in starts} == set(range(4))


def _find(views: np.ndarray, played: np.ndarray) -> tuple[int, int]:
    """Environment and time at which a sequence of views begins; it is there once."""
    length = len(views)
    found = [
        (env, start)
        for env in range(played.shape[0])
        for start in range(played.shape[1] - length + 1)
        if (played[env, start : start + length] == views).all()
    ]
    assert len(found) == 1
    return found[0]


def test_nothing_is_learned_before_the_buffer_holds_enough(begin: Callable[..., Any]) -> None:
    run = begin("ff_iql", "system.min_buffer_size=128")
    before = jax.tree.map(np.asarray, run.state.params)
    state, output = run.program.update(run.hyper, run.state)
    jax.tree.map(np.testing.assert_array_equal, before, state.params)
    assert (float(output.losses["gradient_steps"]), float(output.losses["q_loss"])) == (0.0, 0.0)
    assert int(state.opt_state.steps) == 0
    state, output = run.program.update(run.hyper, state)
    assert (float(output.losses["gradient_steps"]), int(state.opt_state.steps)) == (2.0, 2)
    assert float(output.losses["q_loss"]) > 0.0
    changed = jax.tree.map(lambda old, new: bool((old != np.asarray(new)).any()), before, state.params)
    assert all(jax.tree.leaves(changed))


# -- Target networks ---------------------------------------------------------------------------------------------------


def _copy_and_step(run: Any, state: Any, times: int) -> tuple[list[Params], Any]:
    """Parameters before and after each of a few gradient steps on one batch."""
    system = run.system
    batch = _steps(7, system, 8, system.sequence_length)
    step = jax.jit(lambda learning: system.learn_step(run.hyper, learning, batch, jax.random.PRNGKey(0))[0])
    learning, seen = Learning(state.params, state.opt_state), [state.params]
    for _ in range(times):
        learning = step(learning)
        seen.append(learning.params)
    return seen, learning


def test_polyak_averages_move_by_tau(feed_forward: Any, variant: Callable[..., Any]) -> None:
    seen, _ = _copy_and_step(variant("ff_iql", "system.tau=0.25"), feed_forward.state, 3)
    for before, after in itertools.pairwise(seen):
        expected = jax.tree.map(lambda new, old: 0.25 * new + 0.75 * old, after.online, before.target)
        jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-7), after.target, expected)
    assert any(
        bool((a != b).any()) for a, b in zip(*map(jax.tree.leaves, (seen[0].target, seen[3].target)), strict=True)
    )


def test_hard_updates_copy_every_period(feed_forward: Any, variant: Callable[..., Any]) -> None:
    run = variant("ff_iql", "system.hard_update=true", "system.update_period=2")
    seen, learning = _copy_and_step(run, feed_forward.state, 5)
    assert int(learning.opt_state.steps) == 5
    for index, source in enumerate([0, 0, 2, 2, 4, 4]):
        jax.tree.map(np.testing.assert_array_equal, seen[index].target, seen[source].online)


# -- The feed-forward loss ---------------------------------------------------------------------------------------------


def _steps(seed: int, system: Any, rows: int, length: int) -> Step:
    """What a buffer might have given: episodes that go on, terminate and are cut off."""
    rng = np.random.default_rng(seed)
    observation, following = (_observation(seed + part, system, rows, length) for part in (0, 10))
    done = rng.random((rows, length)) < 0.4
    terminated = done & (rng.random((rows, length)) < 0.5)
    begins = np.concatenate([rng.random((rows, 1)) < 0.3, done[:, :-1]], axis=1)
    legal = np.asarray(observation.action_mask)
    action = np.argmax(np.where(legal, rng.random(legal.shape), -1.0), -1)
    memory = jax.tree.map(
        lambda leaf: jnp.asarray(0.5 * rng.normal(size=(rows, length, *leaf.shape[1:])), jnp.float32),
        system.initial_memory(1),
    )
    return Step(
        observation, following, jnp.asarray(action, jnp.int32),
        jnp.asarray(rng.normal(size=action.shape), jnp.float32),
        jnp.broadcast_to(1.0 - terminated[..., None], action.shape).astype(jnp.float32),
        jnp.asarray(done), jnp.asarray(begins), memory,
    )  # fmt: skip


def _dense(layer: dict[str, Any], x: jax.Array) -> jax.Array:
    return x @ layer["kernel"] + layer["bias"]


def _mlp(layers: dict[str, Any], x: jax.Array) -> jax.Array:
    for name in sorted(layers):
        x = jnp.maximum(_dense(layers[name], x), 0.0)
    return x


def _features(views: jax.Array) -> jax.Array:
    return jnp.concatenate([views, jnp.eye(AGENTS)], axis=-1)


def _best(q: jax.Array, legal: jax.Array) -> jax.Array:
    allowed = jnp.array([action for action in range(ACTIONS) if bool(legal[action])])
    return allowed[jnp.argmax(q[allowed])]


def _error(step: Any, agent: int, q: Any, q_target: Any, q_online: Any, double: bool, gamma: float) -> jax.Array:
    """One agent's TD error at one step, as the papers write it; values are (N, A)."""
    legal = step.next_observation.action_mask[agent]
    best = _best((q_online if double else q_target)[agent], legal)
    v_t = jax.lax.stop_gradient(q_target[agent, best])
    return step.reward[agent] + gamma * step.discount[agent] * v_t - q[agent, step.action[agent]]


def _plain_ff_loss(online: Any, target: Any, batch: Step, double: bool, gamma: float) -> jax.Array:
    def q(networks: Any, observation: Observation) -> jax.Array:
        layers = networks["params"]
        return _dense(layers["Dense_0"], _mlp(layers["torso"], _features(observation.agents_view)))

    errors = []
    for row in range(len(batch.done)):
        step = jax.tree.map(lambda leaf: leaf[row, 0], batch)  # noqa: B023
        values = q(online, step.observation)
        following = [q(networks, step.next_observation) for networks in (target, online)]
        errors += [_error(step, agent, values, *following, double, gamma) for agent in range(AGENTS)]
    return 0.5 * (jnp.stack(errors) ** 2).mean()


def _apart(params: Params) -> Params:
    """Online and target parameters that differ, large enough for values to matter."""
    leaves, structure = jax.tree.flatten(params)
    return jax.tree.unflatten(structure, [leaf + 0.3 * _random(i, *leaf.shape) for i, leaf in enumerate(leaves)])


def _close(gradient: Any, expected: Any) -> None:
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-3, atol=2e-5), gradient, expected)
    assert min(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(expected)) > 1e-3


def _loss(run: Any) -> Callable[..., Any]:
    """The system's own loss and gradient, by (online, target, batch)."""

    def loss(online: Any, target: Any, batch: Step) -> jax.Array:
        error, _ = run.system.errors(run.hyper, Params(online, target), batch)
        return 0.5 * (error**2).mean()

    return jax.jit(jax.value_and_grad(loss))


@pytest.mark.parametrize("double", [True, False])
def test_the_feed_forward_loss_is_that_of_a_plain_rewrite(
    double: bool, feed_forward: Any, variant: Callable[..., Any]
) -> None:
    run = variant("ff_iql", f"system.double_q={double}")
    batch, params = _steps(0, run.system, 10, 1), _apart(feed_forward.state.params)
    value, gradient = _loss(run)(params.online, params.target, batch)
    plain = jax.value_and_grad(_plain_ff_loss)(params.online, params.target, batch, double, 0.99)
    np.testing.assert_allclose(value, plain[0], rtol=1e-4)
    _close(gradient, plain[1])


@pytest.mark.parametrize(("algorithm", "kind"), [("ff_iql", "feed_forward"), ("rec_iql", "recurrent")])
def test_a_gradient_step_is_adams_on_the_loss_whatever_the_chunks(
    algorithm: str, kind: str, request: pytest.FixtureRequest, variant: Callable[..., Any]
) -> None:
    state = request.getfixturevalue(kind).state
    run, chunked = variant(algorithm), variant(algorithm, "arch.gradient_chunk_size=16")
    batch, params = _steps(1, run.system, 8, run.system.sequence_length), _apart(state.params)
    value, gradient = _loss(run)(params.online, params.target, batch)
    optimiser = optax.chain(optax.clip_by_global_norm(10.0), optax.adam(5e-4))
    updates, _ = optimiser.update(gradient, optimiser.init(params.online))
    expected = optax.apply_updates(params.online, updates)
    for one in (run, chunked):
        step = jax.jit(one.system.learn_step)
        learning, losses = step(run.hyper, Learning(params, state.opt_state), batch, jax.random.PRNGKey(0))
        np.testing.assert_allclose(losses["q_loss"], value, rtol=1e-4)
        moved = functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=2e-5)
        jax.tree.map(moved, learning.params.online, expected)


# -- Sequences ---------------------------------------------------------------------------------------------------------


def test_sequences_give_the_values_that_acting_had(recurrent: Any) -> None:
    steps, system = remembered(recurrent.rollout), recurrent.system
    unroll = jax.jit(system._unroll)
    for start in (0, 3, 7):
        part = jax.tree.map(lambda leaf: leaf[start : start + 8], steps)  # noqa: B023
        values, following = unroll(recurrent.params.online, part.memory[0], part)
        acted = recurrent.rollout.known["q_values"]
        np.testing.assert_allclose(values, acted[start : start + 8], rtol=1e-4, atol=1e-5)
        for index, time in enumerate(range(start, start + 8)):
            if (time + 1) % 5:
                np.testing.assert_allclose(following[index], acted[time + 1], rtol=1e-4, atol=1e-5)
        assert np.abs(np.diff(np.asarray(acted), axis=0)).max() > 0.1


def test_what_followed_a_cut_is_seen_from_the_state_there(recurrent: Any) -> None:
    steps, system = remembered(recurrent.rollout), recurrent.system
    part = jax.tree.map(lambda leaf: leaf[:10], steps)  # cut at times 4 and 9, the latter the last of the sequence
    np.testing.assert_array_equal(np.flatnonzero(part.done[:, 0]), [4, 9])
    _, following = jax.jit(system._unroll)(recurrent.params.online, part.memory[0], part)
    for time in (4, 9):
        at = jax.tree.map(lambda leaf: leaf[time], part)  # noqa: B023
        after, _ = system.q_values(recurrent.params.online, at.memory, at.observation)
        _, expected = system.q_values(recurrent.params.online, after, at.next_observation)
        np.testing.assert_allclose(following[time], expected, rtol=1e-4, atol=1e-5)
    fresh = recurrent.rollout.known["q_values"][5]
    assert np.abs(np.asarray(following[4] - fresh)).max() > 1e-2


def test_nothing_leaks_from_one_episode_into_the_next(recurrent: Any) -> None:
    system, batch = recurrent.system, _by_rows(jax.tree.map(lambda leaf: leaf[:8], remembered(recurrent.rollout)))
    errors = jax.jit(system.errors)
    changed = batch._replace(
        observation=batch.observation._replace(agents_view=batch.observation.agents_view.at[:, :5].add(1.0)),
        memory=batch.memory + 1.0,
    )
    before, after = (errors(recurrent.hyper, recurrent.params, one)[0] for one in (batch, changed))
    np.testing.assert_array_equal(before[3:], after[3:])  # two steps of burn-in; time 5 begins an episode
    assert (np.asarray(before[:3]) != np.asarray(after[:3])).all()


def test_burn_in_gives_the_state_and_takes_no_gradient(recurrent: Any, variant: Callable[..., Any]) -> None:
    plain = variant("rec_iql", *SHORT, TRUNCATED, "system.burn_in_length=0", "system.sample_sequence_length=6")
    online = recurrent.params.online
    whole = _by_rows(jax.tree.map(lambda leaf: leaf[5:13], remembered(recurrent.rollout)))
    rest = jax.tree.map(lambda leaf: leaf[:, 2:], whole)  # its stored states are those that the same parameters had
    value, gradient = _loss(recurrent)(online, online, whole)
    expected_value, expected = _loss(plain)(online, online, rest)
    np.testing.assert_allclose(value, expected_value, rtol=1e-4)
    _close(gradient, expected)
    forgetful = rest._replace(memory=jnp.zeros_like(rest.memory))
    assert abs(float(_loss(plain)(online, online, forgetful)[0] - value)) > 1e-4


def _cell(core: dict[str, Any], x: jax.Array, hidden: jax.Array) -> jax.Array:
    """https://arxiv.org/abs/1406.1078, gate by gate."""
    size = hidden.shape[-1]
    w = [core["project"]["kernel"][:, i * size : (i + 1) * size] for i in range(3)]
    b = [core["project"]["bias"][i * size : (i + 1) * size] for i in range(3)]
    u = [core["recurrent_kernel"][:, i * size : (i + 1) * size] for i in range(3)]
    reset, update = (jax.nn.sigmoid(x @ w[i] + b[i] + hidden @ u[i]) for i in (0, 1))
    candidate = jnp.tanh(x @ w[2] + b[2] + reset * (hidden @ u[2] + core["recurrent_bias"]))
    return (1.0 - update) * candidate + update * hidden


def _plain_step(networks: Any, hidden: jax.Array, observation: Observation) -> tuple[jax.Array, jax.Array]:
    layers = networks["params"]
    hidden = _cell(layers["core"], _mlp(layers["pre_torso"], _features(observation.agents_view)), hidden)
    return hidden, _dense(layers["head"]["Dense_0"], _mlp(layers["head"]["torso"], hidden))


def plain_sequence(online: Any, target: Any, steps: list[Step], burn_in: int) -> list[tuple[Step, Any, Any, Any]]:
    """Each step after burn-in with its values, and with both networks' values of its own next observation."""
    hidden = {"online": steps[0].memory, "target": steps[0].memory}
    found = []
    for time, step in enumerate(steps):
        if bool(step.last_done):
            hidden = {name: jnp.zeros_like(state) for name, state in hidden.items()}
        if time == burn_in:
            hidden = jax.lax.stop_gradient(hidden)
        hidden["online"], values = _plain_step(online, hidden["online"], step.observation)
        hidden["target"], _ = _plain_step(target, hidden["target"], step.observation)
        following = [
            jax.lax.stop_gradient(_plain_step(networks, hidden[name], step.next_observation)[1])
            for name, networks in (("target", target), ("online", online))
        ]
        found.append((step, values, *following))
    return found[burn_in:]


def in_sequence(batch: Step) -> Step:
    """Next observations made those of the following steps where the episode goes on, as a buffer has them."""

    def follow(seen: jax.Array, following: jax.Array) -> jax.Array:
        goes_on = ~batch.done[:, :-1].reshape(*batch.done[:, :-1].shape, *(1,) * (seen.ndim - 2))
        return following.at[:, :-1].set(jnp.where(goes_on, seen[:, 1:], following[:, :-1]))

    return batch._replace(next_observation=jax.tree.map(follow, batch.observation, batch.next_observation))


def single_steps(batch: Step, row: int) -> list[Step]:
    """The steps of one sequence."""
    return [jax.tree.map(lambda leaf: leaf[row, time], batch) for time in range(batch.done.shape[1])]  # noqa: B023


def _plain_recurrent_loss(online: Any, target: Any, batch: Step, burn_in: int, double: bool, gamma: float) -> jax.Array:
    errors = []
    for row in range(len(batch.done)):
        for step, *values in plain_sequence(online, target, single_steps(batch, row), burn_in):
            errors += [_error(step, agent, *values, double, gamma) for agent in range(AGENTS)]
    return 0.5 * (jnp.stack(errors) ** 2).mean()


@pytest.mark.parametrize("double", [True, False])
def test_the_recurrent_loss_is_that_of_a_plain_rewrite(
    double: bool, recurrent: Any, variant: Callable[..., Any]
) -> None:
    run = variant("rec_iql", f"system.double_q={double}", *SHORT, TRUNCATED)
    batch, params = in_sequence(_steps(4, run.system, 4, 8)), recurrent.params
    learned, going = np.asarray(batch.done[:, 2:]), np.asarray(batch.discount[:, 2:, 0]) > 0
    # Ends for good and cuts within and at the end of sequences, and sequences that go on.
    assert (learned & going)[:, :-1].any() and (learned & ~going)[:, :-1].any() and not learned[:, -1].all()
    assert (learned & going)[:, -1].any() and not learned[:, :-1].all(0).any()
    value, gradient = _loss(run)(params.online, params.target, batch)
    plain = jax.value_and_grad(_plain_recurrent_loss)(params.online, params.target, batch, 2, double, 0.99)
    np.testing.assert_allclose(value, plain[0], rtol=1e-4)
    _close(gradient, plain[1])


# -- Bad settings ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("algorithm", "overrides", "message"),
    [
        ("ff_iql", ("system.sample_batch_size=512",),
         "system.buffer_size: 256 is smaller than a batch of 512 steps, system.sample_batch_size = 512"),
        ("ff_iql", ("system.min_buffer_size=512",), "min_buffer_size: 512 is more than system.buffer_size = 256"),
        ("ff_iql", ("system.min_buffer_size=256", "system.total_timesteps=64"),
         "system.min_buffer_size: 256 is more than the whole budget of 64 steps (system.total_timesteps); nothing"),
        ("ff_iql", ("system.rollout_length=128",), "does not hold one rollout of 4 environments × 128 steps = 512"),
        ("ff_iql", ("system.buffer_size=255",), "choose 252"),
        ("ff_iql", ("network=mlp",), "network: mlp is not for ff_iql; choose network=q_mlp"),
        ("ff_iql", ("system.eps_min=1.5",), "system.eps_min"),
        ("ff_iql", ("system.eps_decay=0",), "system.eps_decay"),
        ("rec_iql", ("system.burn_in_length=8",), "leaves nothing of system.sample_sequence_length = 8"),
        ("rec_iql", ("system.sample_sequence_length=64",), "not more than system.sample_sequence_length = 64"),
    ],
)  # fmt: skip
def test_bad_settings_are_refused_before_anything_is_compiled(
    algorithm: str, overrides: tuple[str, ...], message: str, tiny_config: Callable[..., ExperimentConfig]
) -> None:
    tiny = None if "network=mlp" not in overrides else ()
    with pytest.raises(ConfigError) as caught:
        tiny_config(algorithm, *overrides, tiny=tiny)
    assert message in str(caught.value)


def test_greedy_action_takes_the_first_of_equals() -> None:
    legal = jnp.array([[False, True, True], [True, True, True]])
    np.testing.assert_array_equal(greedy_action(jnp.zeros((2, 3)), legal), [1, 0])
