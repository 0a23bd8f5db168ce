"""What every system's acting must do: legal actions, no memory across episodes, what relabelling the agents changes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_party.envs.adapter import Observation
from jax_party.systems.off_policy import OffPolicySystem
from jax_party.systems.on_policy import Learned, OnPolicySystem
from mava_configs import ALGORITHMS

AUTOREGRESSIVE = ("ff_sable", "rec_sable", "mat")
"""An agent sees what those before it do: their policy depends on the order, their values do not."""
OWN_PARAMETERS = ("ff_hasac",)
"""An agent has its own network: who is who decides, ids or none."""
RECURRENT = tuple(name for name in ALGORITHMS if name.startswith("rec_"))
AGENTS = 3


@pytest.fixture(scope="module", params=ALGORITHMS)
def algorithm(request: pytest.FixtureRequest) -> str:
    """Every system that has a config."""
    name: str = request.param
    return name


def _observation(seed: int, rows: int, system: Any, *, idle: bool = True) -> Observation:
    """Random views; with `idle`, in each row one agent of three has one legal action, as in the game."""
    rng = np.random.default_rng(seed)
    views = rng.normal(size=(rows, AGENTS, system.env.num_features)).astype(np.float32)
    sits = (rng.integers(0, AGENTS, rows)[:, None] == np.arange(AGENTS)) & idle
    mask = np.where(sits[..., None], [False, False, True], [True, True, False])
    return Observation(jnp.asarray(views), jnp.asarray(mask), jnp.zeros((rows, AGENTS), jnp.int32))


def _loud(params: Any) -> Any:
    """Parameters whose policy has strong preferences, so that what is illegal is often what is preferred."""
    return jax.tree.map(lambda leaf: 5.0 * leaf, params)


# -- Masks -------------------------------------------------------------------------------------------------------------


def test_masks_are_never_violated_in_100000_steps(algorithm: str, begin: Callable[..., Any]) -> None:
    run = begin(algorithm)
    system, params = run.system, _loud(run.state.params)
    rows, steps = 500, 200  # environment steps side by side and one after another, three agents each
    pool = _observation(11, 2 * rows, system)

    def observe(time: jax.Array) -> Observation:
        """Other observations at every step."""
        return jax.tree.map(lambda leaf: jax.lax.dynamic_slice_in_dim(leaf, (7 * time) % rows, rows), pool)

    def legal(seen: Observation, action: jax.Array) -> jax.Array:
        return jnp.take_along_axis(seen.action_mask, action[..., None], -1).all()

    @jax.jit
    def all_legal(keys: jax.Array) -> jax.Array:
        def step(memory: Any, turn: Any) -> tuple[Any, jax.Array]:
            time, key = turn
            seen = observe(time)
            memory, action, known = system.act(params, memory, seen, key, greedy=False)
            finite = jnp.stack([jnp.isfinite(field).all() for field in known.values()]).all()
            return memory, legal(seen, action) & finite

        return jax.lax.scan(step, system.initial_memory(rows), (jnp.arange(steps), keys))[1].all()

    @jax.jit
    def all_explored_legally(key: jax.Array) -> jax.Array:
        def step(memory: Any, turn: Any) -> tuple[Any, jax.Array]:
            time, noise = turn
            seen = observe(time)
            memory, action, _ = system.explore(run.hyper, params, memory, seen, noise, 500.0 * time)
            return memory, legal(seen, action)

        num_envs = system.envs.num_envs
        noise = system.draw_noise(key, steps * rows // num_envs)  # regrouped: as many environments as rows
        noise = jax.tree.map(lambda leaf: leaf.reshape(steps, rows, *leaf.shape[2:]), noise)
        return jax.lax.scan(step, system.initial_memory(rows), (jnp.arange(steps), noise))[1].all()

    assert bool(all_legal(jax.random.split(jax.random.PRNGKey(0), steps)))
    if isinstance(system, OffPolicySystem):
        assert bool(all_explored_legally(jax.random.PRNGKey(1)))


# -- Memory ------------------------------------------------------------------------------------------------------------


def test_nothing_is_remembered_across_an_episodes_end(algorithm: str, begin: Callable[..., Any]) -> None:
    run = begin(algorithm, "arch.stagger_episodes=false")
    system, state = run.system, run.state
    assert bool(jax.tree.leaves(state.memory)) == (algorithm in RECURRENT)
    disturbed = state._replace(memory=jax.tree.map(lambda leaf: leaf + 3.0, state.memory))
    play = jax.jit(lambda state: system.play(run.hyper, state, jax.random.PRNGKey(7))[-1])

    def outcome(state: Any) -> dict[str, np.ndarray]:
        rollout = play(state)
        known = {name: field for name, field in rollout.known.items() if name != "memory"}
        return {name: np.asarray(field) for name, field in {**known, "action": rollout.action}.items()}

    # Every environment is at the first step of an episode: what was remembered before does not matter.
    assert bool(state.envs.last_done.all())
    for name, field in outcome(state).items():
        np.testing.assert_array_equal(field, outcome(disturbed)[name], err_msg=name)
    going_on = state.envs._replace(last_done=jnp.zeros_like(state.envs.last_done))
    kept, changed = outcome(state._replace(envs=going_on)), outcome(disturbed._replace(envs=going_on))
    remembers = any((field != changed[name]).any() for name, field in kept.items())
    assert remembers == (algorithm in RECURRENT)


def test_each_row_of_a_batch_acts_by_itself(algorithm: str, begin: Callable[..., Any]) -> None:
    """A row alone does what it does among others."""
    run = begin(algorithm)
    system, params, rows = run.system, _loud(run.state.params), 6
    observation = _observation(3, rows, system)
    act = jax.jit(lambda memory, seen: system.act(params, memory, seen, jax.random.PRNGKey(0), greedy=True))
    _, together, known = act(system.initial_memory(rows), observation)
    for row in range(rows):
        alone = jax.tree.map(lambda leaf, row=row: leaf[row : row + 1], observation)
        _, action, own = act(system.initial_memory(1), alone)
        np.testing.assert_array_equal(action[0], together[row])
        for name, field in own.items():
            np.testing.assert_allclose(field[0], known[name][row], rtol=1e-4, atol=1e-4, err_msg=name)


# -- Relabelling -------------------------------------------------------------------------------------------------------


def _relabel(tree: Any, order: list[int]) -> Any:
    return jax.tree.map(lambda leaf: leaf[:, jnp.array(order)], tree)


def _after_relabelling(run: Any, order: list[int]) -> tuple[dict[str, Any], dict[str, Any]]:
    """What 64 greedy decisions give, their agents relabelled afterwards, and what the relabelled agents decide."""
    system, rows = run.system, 64
    params = _loud(run.state.params)
    observation = _observation(21, rows, system, idle=False)

    def decide(seen: Observation) -> dict[str, Any]:
        memory = system.initial_memory(rows)
        _, action, known = system.act(params, memory, seen, jax.random.PRNGKey(0), greedy=True)
        return {"action": action, **known}

    decide = jax.jit(decide)
    return _relabel(decide(observation), order), decide(_relabel(observation, order))


def test_without_ids_agents_are_relabelled_freely(algorithm: str, begin: Callable[..., Any]) -> None:
    plain = ("system.normalize_values=false",) if hasattr(begin(algorithm).system.system, "normalize_values") else ()
    run = begin(algorithm, "system.add_agent_id=false", *plain)  # normalised values are all alike before training
    expected, found = _after_relabelling(run, [2, 0, 1])
    same = {
        name: np.isclose(np.asarray(field), np.asarray(found[name]), rtol=1e-3, atol=1e-4).all()
        for name, field in expected.items()
    }
    if algorithm in AUTOREGRESSIVE:
        assert same["value"]
        assert not same["log_prob"]
    elif algorithm in OWN_PARAMETERS:
        assert not same["log_prob"]
    elif algorithm in ("ff_mappo", "rec_mappo"):
        assert same["action"] and same["log_prob"]
        assert not same["value"]  # the centralised critic knows whose value is asked
    else:
        assert all(same.values()), same


def test_with_ids_agents_differ(algorithm: str, begin: Callable[..., Any]) -> None:
    run = begin(algorithm, "system.add_agent_id=true")
    expected, found = _after_relabelling(run, [2, 0, 1])
    known = next(name for name in expected if name != "action")
    assert not np.isclose(np.asarray(expected[known]), np.asarray(found[known]), rtol=1e-3, atol=1e-4).all()


# -- Two forms ---------------------------------------------------------------------------------------------------------


def test_the_training_form_gives_what_acting_gave(algorithm: str, begin: Callable[..., Any]) -> None:
    """On rollouts with ends of episodes in them."""
    run = begin(algorithm, "env.scenario.task_config.horizon=truncate", "env.scenario.task_config.time_limit=5")
    system = run.system
    if isinstance(system, OffPolicySystem):
        recorded, trained = _off_policy_forms(run)
    else:
        assert isinstance(system, OnPolicySystem)
        recorded, trained = _on_policy_forms(run)
    for name, field in recorded.items():
        np.testing.assert_allclose(trained[name], field, rtol=1e-3, atol=1e-4, err_msg=name)
        assert np.asarray(field).std() > 0


def _on_policy_forms(run: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    from jax_party.ops.losses import log_prob

    system = run.system

    @jax.jit
    def both(state: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        played = system.play(run.hyper, _in_mid_episode(run, state), jax.random.PRNGKey(2))
        params = _in_mid_episode(run, state).params
        _, batch = system.judge(run.hyper, params._replace(scale=None), *played)
        logits, values = system.evaluate(params.networks, batch)
        recorded = {"log_prob": batch.log_prob, "value": batch.value}
        return recorded, {"log_prob": log_prob(logits, batch.action), "value": values}

    return both(run.state)


def _in_mid_episode(run: Any, state: Any) -> Any:
    """A state some steps into episodes, its parameters moved; past what explores at random first."""
    position = run.system.play(run.hyper, state, jax.random.PRNGKey(3))[0]
    moved = jax.tree.map(lambda leaf: 1.1 * leaf + 0.01, getattr(state.params, "networks", state.params))
    params = state.params._replace(networks=moved) if hasattr(state.params, "networks") else moved
    return state._replace(params=params, envs=position.envs, memory=position.memory, updates=state.updates + 1000)


def _off_policy_forms(run: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    system = run.system

    @jax.jit
    def both(state: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        from jax_party.systems.off_policy import remembered

        state = _in_mid_episode(run, state)
        _, rollout = system.play(run.hyper, state, jax.random.PRNGKey(2))
        steps = jax.tree.map(lambda leaf: jnp.swapaxes(leaf, 0, 1), remembered(rollout))
        recorded = {name: jnp.swapaxes(field, 0, 1) for name, field in rollout.known.items() if name != "memory"}
        return recorded, system.training_form(state.params, steps)

    return both(run.state)


# -- What follows ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("algorithm", ["ff_sable", "rec_sable", "mat"])
def test_advantages_are_those_of_a_hand_played_rollout(algorithm: str, begin: Callable[..., Any]) -> None:
    """Episodes cut off after 5 steps in a rollout of 16: each is valued by its own last observation and memory, the one
    that goes on by those at the rollout's end. IPPO, MAPPO and the off-policy systems have tests of their own."""
    run = begin(algorithm, "env.scenario.task_config.horizon=truncate", "env.scenario.task_config.time_limit=5",
                "arch.stagger_episodes=false")  # fmt: skip
    system, rng, gamma, lambda_ = run.system, np.random.default_rng(1), 0.99, 0.95
    params = jax.tree.map(
        lambda leaf: leaf + jnp.asarray(0.2 * rng.normal(size=leaf.shape), jnp.float32), run.state.params.networks
    )
    begun = run.state._replace(params=Learned(params, None))
    position, memories, rollout = jax.jit(system.play)(run.hyper, begun, jax.random.PRNGKey(2))
    values, batch = jax.jit(system.judge)(run.hyper, Learned(params, None), position, memories, rollout)

    @jax.jit
    def again(memory: Any, observation: Any, action: jax.Array) -> Any:
        """The memory after the actions that were taken."""
        certain = 1e6 * jax.nn.one_hot(action, observation.action_mask.shape[-1])
        memory, taken, _ = system.step(params, memory, observation, certain)
        return memory, taken

    value, step = jax.jit(system.bootstrap), jax.jit(jax.vmap(system.envs_under(run.hyper).env.step))
    at = lambda time: jax.tree.map(lambda leaf: leaf[time], rollout.observation)  # noqa: E731
    memory, states = system.initial_memory(4), run.state.envs.states
    for time in range(5):
        memory, taken = again(memory, at(time), rollout.action[time])
        np.testing.assert_array_equal(taken, rollout.action[time])
        states, played = step(states, rollout.action[time])
    np.testing.assert_allclose(rollout.following[4], value(params, memory, played.observation), rtol=1e-4, atol=1e-4)

    memory, _ = again(system.initial_memory(4), at(15), rollout.action[15])  # the fourth episode begins with step 15
    v = [*np.asarray(values), np.asarray(value(params, memory, position.envs.observation))]
    if algorithm == "rec_sable":
        assert np.abs(v[16] - value(params, system.initial_memory(4), position.envs.observation)).max() > 1e-3
    expected, running = np.zeros((16, 4, system.env.num_agents)), np.zeros(())
    for t in reversed(range(16)):
        if t in (4, 9, 14):
            running = np.asarray(rollout.reward[t]) + gamma * np.asarray(rollout.following[t]) - v[t]
        else:
            running = np.asarray(rollout.reward[t]) + gamma * v[t + 1] - v[t] + gamma * lambda_ * running
        expected[t] = running
    ours = np.asarray(batch.advantage)
    by_time = np.swapaxes(ours, 0, 1) if algorithm == "rec_sable" else ours.reshape(expected.shape)
    np.testing.assert_allclose(by_time, expected, rtol=1e-3, atol=1e-3)
