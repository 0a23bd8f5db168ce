"""The environments behind their adapter, and what stands between them and a system."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_party.config import ExperimentConfig, evaluation_metrics, make_budget, parse_config, without_values
from jax_party.env.env import JaxParty
from jax_party.envs import wrappers
from jax_party.envs.adapter import MultiAgentEnv, Observation, Transition, _connector_view, make_environment
from jax_party.envs.wrappers import AutoResetEnvs, Episodes, append_agent_ids, global_state
from jax_party.errors import ConfigError
from jax_party.systems.registry import system_class
from jax_party.training.evaluation import evaluate
from jax_party.training.experiment import Experiment
from jax_party.training.program import Program, make_hyper
from mava_configs import ALGORITHMS, compose, scenarios

ENVS = ("jaxparty", "lbf", "rware", "connector")
SCENARIOS = [(env, scenario) for env in ENVS for scenario in scenarios(env)]


# -- Agent ids and global state ----------------------------------------------------------------------------------------


def test_agent_ids_are_appended_as_one_hots() -> None:
    features = jnp.arange(12.0).reshape(2, 3, 2)
    with_ids = append_agent_ids(features)
    np.testing.assert_array_equal(with_ids[..., :2], features)
    np.testing.assert_array_equal(with_ids[0, :, 2:], np.eye(3))
    np.testing.assert_array_equal(with_ids[1, :, 2:], np.eye(3))


def test_the_global_state_is_all_views_side_by_side() -> None:
    views = jnp.arange(12.0).reshape(2, 3, 2)
    expected = np.broadcast_to(np.arange(12.0).reshape(2, 1, 6), (2, 3, 6))
    np.testing.assert_array_equal(global_state(views), expected)


# -- Episodes and auto-reset -------------------------------------------------------------------------------------------


def test_episodes_sum_returns_and_lengths() -> None:
    episodes = Episodes.zero(2, 2)
    rewards = [[[1.0, 2.0], [10.0, 20.0]], [[3.0, 4.0], [30.0, 40.0]], [[5.0, 6.0], [50.0, 60.0]]]
    dones = [[False, False], [True, False], [False, True]]
    for reward, done in zip(rewards, dones, strict=True):
        episodes = episodes.add(jnp.array(reward), jnp.array(done))
    np.testing.assert_array_equal(episodes.finished_return, [1 + 3 + 10 + 30 + 50, 2 + 4 + 20 + 40 + 60])
    assert (float(episodes.finished_length), float(episodes.finished)) == (2 + 3, 2)
    np.testing.assert_array_equal(episodes.running_return, [[5.0, 6.0], [0.0, 0.0]])
    np.testing.assert_array_equal(episodes.running_length, [1, 0])
    cleared = episodes.clear()
    assert (float(cleared.finished_length), float(cleared.finished), float(cleared.finished_return.sum())) == (0, 0, 0)
    np.testing.assert_array_equal(cleared.running_return, episodes.running_return)


class Counting:
    """Environment k ends after its k-th step; what is seen is (steps so far, k), what is paid the steps so far."""

    num_agents = 2
    time_limit = 9
    action_spec = SimpleNamespace(num_values=jnp.array([2, 2]))

    def reset(self, key: jax.Array) -> tuple[Any, Any]:
        length = jax.random.randint(key, (), 1, 6)
        return (jnp.zeros((), jnp.int32), length), self._timestep(jnp.zeros((), jnp.int32), length)

    def step(self, state: Any, action: jax.Array) -> tuple[Any, Any]:
        count, length = state
        return (count + 1, length), self._timestep(count + 1, length)

    def _timestep(self, count: jax.Array, length: jax.Array) -> Any:
        view = jnp.broadcast_to(jnp.stack([count, length]).astype(jnp.float32), (2, 2))
        return SimpleNamespace(
            observation=SimpleNamespace(agents_view=view, action_mask=jnp.ones((2, 2), bool), step_count=count),
            reward=count.astype(jnp.float32),
            discount=jnp.where(count == length, 0.0, 1.0),
            extras={},
            last=lambda: count == length,
        )


def test_only_the_ended_episodes_begin_afresh() -> None:
    envs = AutoResetEnvs(MultiAgentEnv(Counting()), 6)
    state = envs.reset(jax.random.PRNGKey(1))
    assert bool(state.last_done.all())
    step = jax.jit(envs.step)
    count = np.zeros(6, int)
    length = np.asarray(state.observation.agents_view[:, 0, 1]).astype(int)
    assert len(set(length)) > 2
    finished_length = 0
    for _ in range(12):
        before = state
        state, played = step(state, jnp.zeros((6, 2), jnp.int32))
        count += 1
        ended = count == length
        np.testing.assert_array_equal(played.done, ended)
        # The transition shows what was played: an ended episode's own last view, reward and discount.
        np.testing.assert_array_equal(played.observation.agents_view[:, 0, 0], count)
        np.testing.assert_array_equal(played.reward, np.stack([count, count], 1))
        np.testing.assert_array_equal(played.discount[:, 0], 1.0 - ended)
        finished_length += int(length[ended].sum())
        count[ended] = 0
        # The state goes on with a fresh episode there, and only there.
        np.testing.assert_array_equal(state.last_done, ended)
        np.testing.assert_array_equal(state.observation.agents_view[:, 0, 0], count)
        length = np.where(ended, np.asarray(state.observation.agents_view[:, 0, 1]), length).astype(int)
        np.testing.assert_array_equal(state.observation.agents_view[:, 0, 1], length)
        kept = (np.asarray(state.keys) == np.asarray(before.keys)).all(1)
        np.testing.assert_array_equal(kept, ~ended)
    assert float(state.episodes.finished_length) == finished_length


def _party(time_limit: int = 3, **settings: Any) -> MultiAgentEnv:
    return MultiAgentEnv(JaxParty(time_limit=time_limit, **settings))


@pytest.mark.parametrize("seed", [0, 1])
def test_staggered_environments_begin_evenly_spread_over_an_episode(seed: int) -> None:
    num_envs, time_limit = 8, 40
    envs = AutoResetEnvs(_party(time_limit), num_envs)
    state = jax.jit(envs.reset_staggered)(jax.random.PRNGKey(seed))
    begins = np.asarray(state.observation.step_count)[:, 0]
    assert (begins // 5).tolist() == list(range(num_envs)), "one in each eighth of the episode"
    totals = np.asarray(state.states.totals)
    assert np.all(np.ptp(totals[begins > 0], axis=1) > 0), "the game was played up to there"
    assert np.asarray(state.last_done).tolist() == (begins == 0).tolist(), (
        "an episode joined midway does not begin here"
    )
    assert float(state.episodes.finished) == 0.0
    np.testing.assert_array_equal(state.episodes.running_return, 0.0)
    assert np.asarray(state.episodes.partial).tolist() == (begins > 0).tolist()


def test_an_episode_that_was_joined_midway_is_not_counted() -> None:
    envs = AutoResetEnvs(_party(10), 5)
    state, step = envs.reset_staggered(jax.random.PRNGKey(3)), jax.jit(envs.step)
    joined = int(np.asarray(state.episodes.partial).sum())
    ended = 0
    for _ in range(30):
        state, played = step(state, jnp.zeros((5, 3), jnp.int32))
        ended += int(np.asarray(played.done).sum())
    assert joined >= 4
    assert float(state.episodes.finished) == ended - joined
    assert float(state.episodes.finished_length) == 10 * (ended - joined)
    assert not np.asarray(state.episodes.partial).any()


def test_longer_episodes_than_the_longest_stagger_are_joined_in_their_first_part(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(wrappers, "LONGEST_STAGGER", 8)
    state = AutoResetEnvs(_party(1000), 4).reset_staggered(jax.random.PRNGKey(0))
    assert (np.asarray(state.observation.step_count)[:, 0] // 2).tolist() == [0, 1, 2, 3]


def test_random_play_before_training_takes_legal_actions_only() -> None:
    """An environment that ends at once where an illegal action is taken goes on through all of them."""

    class OneLegal(Counting):
        """Action k is legal at step k, modulo 2; anything else ends the episode."""

        def reset(self, key: jax.Array) -> tuple[Any, Any]:
            return (zero := jnp.zeros((), jnp.int32)), self._seen(zero, jnp.zeros((), bool))

        def step(self, state: Any, action: jax.Array) -> tuple[Any, Any]:
            return state + 1, self._seen(state + 1, (action != state % 2).any() | (state + 1 == self.time_limit))

        def _seen(self, count: jax.Array, last: jax.Array) -> Any:
            mask = jnp.broadcast_to(jnp.arange(2) == count % 2, (2, 2))
            seen = SimpleNamespace(agents_view=jnp.zeros((2, 1)), action_mask=mask, step_count=count)
            return SimpleNamespace(observation=seen, reward=0.0, discount=1.0, extras={}, last=lambda: last)

    state = AutoResetEnvs(MultiAgentEnv(OneLegal()), 9).reset_staggered(jax.random.PRNGKey(0))
    assert np.asarray(state.observation.step_count)[:, 0].tolist() == list(range(9))


@pytest.mark.parametrize(("horizon", "discount"), [("terminate", 0.0), ("truncate", 1.0)])
def test_truncation_keeps_the_discount(horizon: str, discount: float) -> None:
    envs = AutoResetEnvs(_party(horizon=horizon), 2)
    state, step = envs.reset(jax.random.PRNGKey(0)), jax.jit(envs.step)
    for expected in (False, False, True, False):
        state, played = step(state, jnp.zeros((2, 3), jnp.int32))
        assert np.asarray(played.done).tolist() == [expected] * 2
        np.testing.assert_array_equal(played.discount, np.full((2, 3), discount if expected else 1.0))
        assert np.asarray(played.observation.step_count).tolist() == ([[3] * 3] * 2 if expected else
            np.asarray(state.observation.step_count).tolist())  # fmt: skip


# -- Rewards -----------------------------------------------------------------------------------------------------------


def _play(env: MultiAgentEnv, steps: int) -> list[Transition]:
    state, played = env.reset(jax.random.PRNGKey(3))
    step, transitions = jax.jit(env.step), []
    for time in range(steps):
        state, played = step(state, (jnp.arange(env.num_agents) + time) % 2)
        transitions.append(played)
    return transitions


def test_shared_reward_is_the_mean_and_changes_no_metric() -> None:
    own = _play(MultiAgentEnv(JaxParty(time_limit=20)), 12)
    shared = _play(MultiAgentEnv(JaxParty(time_limit=20), shared_reward=True), 12)
    for mine, ours in zip(own, shared, strict=True):
        np.testing.assert_allclose(ours.reward, np.full(3, np.mean(mine.reward)), rtol=1e-6)
        jax.tree.map(np.testing.assert_array_equal, ours.metrics, mine.metrics)
        np.testing.assert_array_equal(ours.observation.agents_view, mine.observation.agents_view)
    assert any(np.ptp(np.asarray(mine.reward)) > 0 for mine in own)


def test_team_reward_is_the_sum() -> None:
    own = _play(MultiAgentEnv(JaxParty(time_limit=20)), 6)
    team = _play(MultiAgentEnv(JaxParty(time_limit=20), team_reward=True), 6)
    for mine, ours in zip(own, team, strict=True):
        np.testing.assert_allclose(ours.reward, np.full(3, np.sum(mine.reward)), rtol=1e-6)


def test_foraging_pays_every_agent_the_teams_sum() -> None:
    settings = ("env=lbf", "env/scenario=8x8-2p-2f-coop", "env.scenario.task_config.force_coop=false")
    team = make_environment(parse_config(compose("ff_ippo", settings)).env)
    individual = make_environment(parse_config(compose("ff_ippo", (*settings, "env.use_individual_rewards=true"))).env)

    def play(env: MultiAgentEnv, key: jax.Array) -> jax.Array:
        state, played = env.reset(key)

        def step(carry: Any, step_key: jax.Array) -> tuple[Any, jax.Array]:
            state, mask = carry
            action = jax.random.categorical(step_key, jnp.where(mask, 0.0, -1e9))
            state, played = env.step(state, action)
            return (state, played.observation.action_mask), played.reward

        carry = (state, played.observation.action_mask)
        return jax.lax.scan(step, carry, jax.random.split(key, 100))[1]

    keys = jax.random.split(jax.random.PRNGKey(0), 16)
    own = jax.jit(jax.vmap(lambda key: play(individual, key)))(keys)
    shared = jax.jit(jax.vmap(lambda key: play(team, key)))(keys)
    assert float(jnp.abs(own[..., 0] - own[..., 1]).max()) > 0.0
    np.testing.assert_allclose(shared, np.broadcast_to(np.asarray(own).sum(-1, keepdims=True), own.shape), rtol=1e-6)


# -- Every environment and scenario ------------------------------------------------------------------------------------


def test_every_scenario_belongs_to_an_environment() -> None:
    assert sorted(scenario for _, scenario in SCENARIOS) == scenarios()


@pytest.mark.parametrize(("env", "scenario"), SCENARIOS, ids=[scenario for _, scenario in SCENARIOS])
def test_every_scenario_resets_and_steps(env: str, scenario: str) -> None:
    config: ExperimentConfig = parse_config(compose("ff_mappo", (f"env={env}", f"env/scenario={scenario}")))
    assert config.env.scenario.task_name == scenario
    adapted = make_environment(config.env)
    agents, actions = adapted.num_agents, adapted.num_actions
    state, first = adapted.reset(jax.random.PRNGKey(0))
    action = jnp.argmax(first.observation.action_mask, axis=-1)
    _, second = jax.jit(adapted.step)(state, action)
    for played, count in ((first, 0), (second, 1)):
        observation = played.observation
        assert isinstance(observation, Observation)
        assert (observation.agents_view.shape, observation.agents_view.dtype) == (
            (agents, adapted.num_features), jnp.float32,
        )  # fmt: skip
        assert (observation.action_mask.shape, observation.action_mask.dtype) == ((agents, actions), jnp.bool_)
        assert bool(observation.action_mask.any(-1).all())
        np.testing.assert_array_equal(observation.step_count, np.full(agents, count, np.int32))
        assert (played.reward.shape, played.reward.dtype) == ((agents,), jnp.float32)
        assert (played.discount.shape, played.discount.dtype) == ((agents,), jnp.float32)
        assert (played.done.shape, played.done.dtype) == ((), jnp.bool_)
    assert not bool(second.done)
    task = config.env.scenario.task_config
    assert agents == (task["num_agents"] if isinstance(task, dict) else task.num_agents)
    if env == "jaxparty":
        assert adapted.time_limit == config.env.scenario.task_config.time_limit
        assert set(second.metrics) >= {"cc", "cd", "dd", "welfare", "leader_changed"}


@pytest.mark.parametrize(("algorithm", "env"), [("ff_mappo", "lbf"), ("ff_ippo", "rware"), ("ff_mappo", "connector")])
def test_systems_train_in_every_environment(
    algorithm: str,
    env: str,
    tiny_config: Callable[..., ExperimentConfig],
    tiny_overrides: Callable[[str], tuple[str, ...]],
) -> None:
    limit = "env.scenario.env_kwargs.time_limit=8" if env == "connector" else "env.kwargs.time_limit=8"
    tiny = tuple(override for override in tiny_overrides(algorithm) if not override.startswith("env"))
    config = tiny_config(algorithm, f"env={env}", limit, "arch.stagger_episodes=false", tiny=tiny)
    program = Program(config)
    hyper = make_hyper(config, make_budget(config))
    before = program.init(hyper, jax.random.PRNGKey(0))
    old = jax.tree.map(np.asarray, before.params)
    state, output = program.update(hyper, before)
    assert all(np.isfinite(value) for value in output.losses.values())
    changed = jax.tree.map(lambda new, old: bool((np.asarray(new) != old).any()), state.params, old)
    assert any(jax.tree.leaves(changed.networks.actor)) and any(jax.tree.leaves(changed.networks.critic))
    assert output.trajectory["action"].shape == (4, 16, program.system.env.num_agents)
    evaluation = program.evaluate(hyper, state.params, jax.random.PRNGKey(1))
    lengths = np.asarray(evaluation.episodes["episode_length"])
    assert ((lengths >= 1) & (lengths <= 8)).all()
    # Eight steps to an episode at most: two have ended in each environment's rollout of 16.
    assert float(state.envs.episodes.finished) >= 8


@pytest.mark.parametrize(
    "game",
    [
        "env=connector",
        *(
            pytest.param(game, marks=pytest.mark.slow)
            for game in ("env=lbf", "env=rware", *(f"env/scenario={name}" for name in scenarios("jaxparty")))
        ),
    ],
)
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_every_system_fits_every_environment(
    algorithm: str,
    game: str,
    tiny_config: Callable[..., ExperimentConfig],
    tiny_overrides: Callable[[str], tuple[str, ...]],
) -> None:
    """Traced, not run: an update gives back the state's shapes, and evaluation the metrics promised."""
    tiny = tuple(override for override in tiny_overrides(algorithm) if not override.startswith("env"))
    config = tiny_config(algorithm, game, tiny=tiny)
    system = system_class(algorithm)(without_values(config), make_environment(config.env))
    hyper = make_hyper(config, make_budget(config))
    state = jax.eval_shape(system.start, hyper, jax.random.PRNGKey(0))
    after, output = jax.eval_shape(system.update, hyper, state)
    described = [[(leaf.shape, leaf.dtype) for leaf in jax.tree.leaves(tree)] for tree in (state, after)]
    assert described[0] == described[1]
    assert output.trajectory["action"].shape == (4, 16, system.env.num_agents)
    play = functools.partial(evaluate, system, num_episodes=4, greedy=False, record=True)
    evaluation = jax.eval_shape(play, hyper, state.params, jax.random.PRNGKey(0))
    assert sorted(evaluation.episodes) == sorted(evaluation_metrics(config))


# -- Connector's view --------------------------------------------------------------------------------------------------


def test_connectors_view_of_a_grid_made_by_hand() -> None:
    # One grid for all. Agent 0 of two: its path, position and target are 1, 2, 3; those of agent 1 are 4, 5, 6.
    observation = SimpleNamespace(grid=jnp.array([[1, 2, 3], [0, 4, 0], [6, 5, 0]]), action_mask=jnp.ones((2, 5), bool))
    view = np.asarray(_connector_view(observation)).reshape(2, 3, 3, 5)
    positions = [[0, 0.5, 0], [0, 0, 0], [0, 1.0, 0]]
    targets = [[0, 0, 0.5], [0, 0, 0], [1.0, 0, 0]]
    paths = [[1, 0, 0], [0, 1, 0], [0, 0, 0]]
    own_position = [[0, 1, 0], [0, 0, 0], [0, 0, 0]]
    own_target = [[0, 0, 1], [0, 0, 0], [0, 0, 0]]
    for channel, expected in enumerate((positions, targets, paths, own_position, own_target)):
        np.testing.assert_array_equal(view[0, :, :, channel], np.array(expected, np.float32), err_msg=str(channel))
    # Agent 1 counts itself as the first and agent 0 as the second.
    np.testing.assert_array_equal(view[1, :, :, 0], [[0, 1.0, 0], [0, 0, 0], [0, 0.5, 0]])
    np.testing.assert_array_equal(view[1, :, :, 1], [[0, 0, 1.0], [0, 0, 0], [0.5, 0, 0]])
    np.testing.assert_array_equal(view[1, :, :, 2], view[0, :, :, 2])
    np.testing.assert_array_equal(view[1, :, :, 3], [[0, 0, 0], [0, 0, 0], [0, 1, 0]])
    np.testing.assert_array_equal(view[1, :, :, 4], [[0, 0, 0], [0, 0, 0], [1, 0, 0]])


# -- No legal action ---------------------------------------------------------------------------------------------------


def test_an_agent_without_a_legal_action_is_refused_before_anything_compiles(
    tiny_mapping: Callable[..., Any], make_folder: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Stuck(MultiAgentEnv):
        """The game, but agent 1 may do nothing."""

        def _adapt(self, timestep: Any) -> Transition:
            played = super()._adapt(timestep)
            mask = played.observation.action_mask.at[1].set(False)
            return played._replace(observation=played.observation._replace(action_mask=mask))

    programs = []

    def build(config: ExperimentConfig) -> Program:
        programs.append(programs[0] if programs else Program(config))
        return programs[0]

    mapping = tiny_mapping("ff_ippo")
    game = make_environment(parse_config(mapping).env)
    monkeypatch.setattr("jax_party.training.program.make_environment", lambda _: Stuck(game._env))
    monkeypatch.setattr("jax_party.training.experiment.get_program", build)
    for attempt in ("first", "again, with the same program"):
        with pytest.raises(
            ConfigError, match="env/scenario=p-short: agent 1 has 0 legal actions where training begins"
        ):
            Experiment(parse_config(mapping), make_folder(tmp_path / attempt, mapping))
        assert programs[0].compiled.keys() == {("begin", 1)}, "nothing but the environments' start"
