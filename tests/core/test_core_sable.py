"""Sable: its acting and training forms agree, and each agent sees what it should."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_party.config import ExperimentConfig
from jax_party.envs.adapter import make_environment
from jax_party.errors import ConfigError
from jax_party.networks.sable import positional_encoding, shifted
from jax_party.ops.losses import log_prob
from jax_party.systems.on_policy import Batch, Learned
from jax_party.systems.sable import Sable

SYSTEMS = ("ff_sable", "rec_sable")
ENDS = ("env.scenario.task_config.time_limit=5", "arch.stagger_episodes=false")
"""Episodes end inside a rollout of 16 steps, and across its ends."""


class Played:
    """A system with random parameters and the second rollout that it played, memories not empty at its start."""

    def __init__(self, run: Any) -> None:
        self.system, self.hyper = run.system, run.hyper
        rng = np.random.default_rng(1)
        self.params = jax.tree.map(
            lambda leaf: leaf + jnp.asarray(0.2 * rng.normal(size=leaf.shape), jnp.float32), run.state.params.networks
        )
        state = run.state._replace(params=Learned(self.params, None))
        play, judge = jax.jit(self.system.play), jax.jit(self.system.judge)
        position, _, _ = play(self.hyper, state, jax.random.PRNGKey(1))
        state = state._replace(envs=position.envs, memory=position.memory)
        played = play(self.hyper, state, jax.random.PRNGKey(2))
        self.batch: Batch = judge(self.hyper, Learned(self.params, None), *played)[1]
        self.evaluate: Callable[..., Any] = jax.jit(self.system.evaluate)
        self.logits, self.values = self.evaluate(self.params, self.batch)

    def again(self, **changes: Any) -> tuple[np.ndarray, np.ndarray]:
        """Which logits (of any action) and values change when leaves of the batch do."""
        logits, values = self.evaluate(self.params, self.batch._replace(**changes))
        return np.asarray(logits != self.logits).any(-1), np.asarray(values != self.values)


@pytest.fixture(scope="module")
def plays(begin: Callable[..., Any]) -> Callable[[str], Played]:
    """`plays("ff_sable")`; ff_sable has two heads here, rec_sable one head and two blocks."""
    others = {"ff_sable": (), "rec_sable": ("network.net_config.n_block=2", "network.net_config.n_head=1")}
    return functools.cache(lambda algorithm: Played(begin(algorithm, *ENDS, *others[algorithm])))


@pytest.fixture(params=SYSTEMS)
def played(request: pytest.FixtureRequest, plays: Callable[[str], Played]) -> Played:
    """Both systems."""
    return plays(request.param)


@pytest.fixture
def recurrent(plays: Callable[[str], Played]) -> Played:
    """rec_sable, whose batch has a row an environment."""
    return plays("rec_sable")


# -- Acting and training -----------------------------------------------------------------------------------------------


def test_the_training_form_gives_what_acting_gave(played: Played) -> None:
    batch = played.batch
    assert np.asarray(batch.last_done).any() and not np.asarray(batch.last_done).all()
    trained = np.asarray(log_prob(played.logits, batch.action))
    np.testing.assert_allclose(trained, batch.log_prob, rtol=1e-4, atol=2e-5)
    np.testing.assert_allclose(played.values, batch.value, rtol=1e-4, atol=2e-5)
    choosing = np.asarray(batch.policy_weight) > 0
    assert np.std(trained[choosing]) > 0.1 and np.std(batch.value) > 0.1


def test_the_result_does_not_depend_on_the_chunk(recurrent: Played, tiny_config: Callable[..., Any]) -> None:
    network = ("network.net_config.n_block=2", "network.net_config.n_head=1")
    for chunk in ("2", "null"):
        setting = f"network.memory_config.timestep_chunk_size={chunk}"
        config: ExperimentConfig = tiny_config("rec_sable", *ENDS, *network, setting)
        system = Sable(config, make_environment(config.env))
        logits, values = jax.jit(system.evaluate)(recurrent.params, recurrent.batch)
        np.testing.assert_allclose(logits, recurrent.logits, rtol=1e-3, atol=1e-4, err_msg=f"chunks of {chunk}")
        np.testing.assert_allclose(values, recurrent.values, rtol=1e-3, atol=1e-4, err_msg=f"chunks of {chunk}")


def test_greedy_agents_play_their_likeliest_action_in_turn(plays: Callable[[str], Played]) -> None:
    played = plays("ff_sable")
    observation = played.batch.observation
    shape = observation.action_mask.shape
    memory = played.system.initial_memory(shape[0])
    _, action, known = jax.jit(played.system.step)(played.params, memory, observation, jnp.zeros(shape))
    logits, values = played.evaluate(played.params, played.batch._replace(action=action))
    np.testing.assert_array_equal(action, np.argmax(logits, -1))
    np.testing.assert_allclose(known["log_prob"], log_prob(logits, action), rtol=1e-4, atol=2e-5)
    np.testing.assert_allclose(known["value"], values, rtol=1e-4, atol=2e-5)
    assert np.take_along_axis(np.asarray(observation.action_mask), np.asarray(action)[..., None], -1).all()


# -- Who sees what -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("agent", [0, 1, 2])
def test_an_action_is_seen_by_later_agents_alone(agent: int, played: Played) -> None:
    action = played.batch.action
    # Of each row's first step in rec_sable, so that later ones show what is remembered.
    where = (slice(None), *((0,) if played.system.recurrent else ()), agent)
    changed = action.at[where].set((action[where] + 1) % 3)
    logits, values = played.again(action=changed)
    assert not values.any()
    step = logits[:, 0] if played.system.recurrent else logits
    assert not step[:, : agent + 1].any()
    assert step[:, agent + 1 :].all()
    if played.system.recurrent:
        goes_on = ~np.asarray(played.batch.last_done[:, 1])
        # The last agent's action has nobody after it in its step.
        assert logits[goes_on, 1].all() if agent < 2 else not logits[:, 1:].any()


def test_views_are_seen_by_all_agents_of_the_step(played: Played) -> None:
    view = played.batch.observation.agents_view
    changed = played.batch.observation._replace(agents_view=view.at[..., 2, :].add(1.0))
    logits, values = played.again(observation=changed)
    assert values.all() and logits.all()


def test_ff_sable_remembers_nothing(plays: Callable[[str], Played]) -> None:
    played = plays("ff_sable")
    assert jax.tree.leaves(played.system.initial_memory(4)) == []
    observation = played.batch.observation
    view = observation.agents_view.at[::2].add(1.0)
    logits, values = played.again(
        observation=observation._replace(agents_view=view, step_count=observation.step_count + 7),
        last_done=~played.batch.last_done,
    )
    assert values[::2].all() and logits[::2].all()
    assert not values[1::2].any() and not logits[1::2].any()


def test_rec_sable_remembers_until_the_episode_ends(recurrent: Played) -> None:
    batch = recurrent.batch
    begins = np.asarray(batch.last_done)
    assert (begins.sum(1) >= 3).all() and (begins == begins[0]).all()
    second = np.flatnonzero(begins[0])[1]
    view, action = batch.observation.agents_view, batch.action
    changed_step = second - 2
    logits, values = recurrent.again(
        observation=batch.observation._replace(agents_view=view.at[:, changed_step].add(1.0)),
        action=action.at[:, changed_step].set((action[:, changed_step] + 1) % 3),
    )
    touched = np.zeros(begins.shape[1], bool)
    touched[changed_step:second] = True
    for t in range(begins.shape[1]):
        assert values[:, t].all() if touched[t] else not values[:, t].any(), t
        assert logits[:, t].all() if touched[t] else not logits[:, t].any(), t


def test_rec_sable_goes_on_from_what_was_remembered(recurrent: Played) -> None:
    begins = np.asarray(recurrent.batch.last_done)
    first = np.flatnonzero(begins[0])[0]
    assert first > 0, "an episode goes on at the rollout's start"
    memory = jax.tree.map(lambda leaf: jnp.flip(leaf, -1), recurrent.batch.memory)
    logits, values = recurrent.again(memory=memory)
    assert values[:, :first].all() and logits[:, :first].all()
    assert not values[:, first:].any() and not logits[:, first:].any()


def test_rec_sable_knows_the_time_step(recurrent: Played) -> None:
    observation = recurrent.batch.observation
    logits, values = recurrent.again(observation=observation._replace(step_count=observation.step_count + 1))
    assert values.all() and logits.all()


def test_the_positional_encoding() -> None:
    found = positional_encoding(jnp.array([0, 3]), 4)
    expected = [[0, 0, 1, 1], [np.sin(3), np.sin(0.03), np.cos(3), np.cos(0.03)]]
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    assert positional_encoding(jnp.zeros((2, 1), int), 5).shape == (2, 1, 5)


def test_shifted_actions() -> None:
    np.testing.assert_array_equal(shifted(jnp.array([[2, 0, 1], [1, 1, 0]])), [[-1, 2, 0], [-1, 1, 1]])


# -- Learning ----------------------------------------------------------------------------------------------------------


def test_every_parameter_learns(played: Played) -> None:
    system = played.system

    def loss(params: Any) -> jax.Array:
        return system._loss(played.hyper, params, system._prepare(played.batch))[0]

    for leaf in jax.tree.leaves(jax.jit(jax.grad(loss))(played.params)):
        assert np.isfinite(leaf).all()
        assert np.abs(leaf).max() > 0.0


def test_an_idle_agents_action_carries_no_policy_gradient(played: Played) -> None:
    system, batch = played.system, played.batch

    def policy_loss(batch: Batch) -> tuple[jax.Array, jax.Array]:
        sums = system._loss(played.hyper, played.params, system._prepare(batch))[1]
        return sums["policy_loss"], sums["entropy"]

    idle = np.asarray(batch.policy_weight) == 0.0
    assert idle.any()
    changed = batch._replace(advantage=jnp.where(idle, 1e3, batch.advantage), log_prob=batch.log_prob - 3.0 * idle)
    policy_loss = jax.jit(policy_loss)
    np.testing.assert_array_equal(policy_loss(batch), policy_loss(changed))


# -- Settings that contradict each other -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("algorithm", "override", "message"),
    [
        ("ff_sable", "network.net_config.n_head=3", "network.net_config.n_head: 3 does not divide "
         "network.net_config.embed_dim = 16; choose a divisor"),
        ("rec_sable", "network.memory_config.timestep_chunk_size=5", "network.memory_config.timestep_chunk_size: 5 "
         "does not divide system.rollout_length = 16; choose a divisor"),
        ("ff_sable", "network.memory_config.timestep_chunk_size=4", "network.memory_config.timestep_chunk_size: 4, but "
         "ff_sable remembers no time steps; leave it null, or use rec_sable"),
        ("rec_sable", "network.memory_config.decay_scaling_factor=1.1",
         "network.memory_config.decay_scaling_factor: 1.1"),
    ],
)  # fmt: skip
def test_refused_settings(algorithm: str, override: str, message: str, tiny_config: Callable[..., Any]) -> None:
    with pytest.raises(ConfigError) as caught:
        tiny_config(algorithm, override)
    assert message in str(caught.value)


def test_the_past_fades_by_the_configured_factor(begin: Callable[..., Any]) -> None:
    """What a step leaves of the first block's state is κ = factor × (1 − 2^−5) of it: no key or value depends on it."""
    run = begin("rec_sable", "network.memory_config.decay_scaling_factor=0.4", "network.net_config.n_head=1")
    system, params, observation = run.system, run.state.params.networks, run.state.envs.observation
    step = jax.jit(lambda memory: system.step(params, memory, observation, jnp.zeros(observation.action_mask.shape))[0])
    nothing = system.initial_memory(observation.action_mask.shape[0])
    past = jax.tree.map(lambda leaf: leaf + jax.random.normal(jax.random.PRNGKey(3), leaf.shape), nothing)
    fresh, faded = step(nothing), step(past)
    kept = np.asarray(faded.encoder[0] - fresh.encoder[0])
    np.testing.assert_allclose(kept, 0.4 * (1 - 2.0**-5) * np.asarray(past.encoder[0]), rtol=1e-4, atol=1e-5)
