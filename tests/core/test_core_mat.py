"""The Multi-Agent Transformer: its attention, its two forms of decoding, and what each agent may know."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_party.config import parse_config
from jax_party.envs.adapter import Observation
from jax_party.errors import ConfigError
from jax_party.networks.heads import MASKED_LOGIT
from jax_party.networks.transformer import Decoder, EncodeBlock, Encoder, attention, shifted_tokens
from jax_party.ops.gradients import chunked_gradient
from jax_party.ops.losses import log_prob
from jax_party.systems.base import Rollout
from jax_party.systems.mat import MAT, Params
from jax_party.systems.on_policy import Batch, Learned


def _normal(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return rng.normal(size=shape).astype(np.float32)


def _lively(params: Any, seed: int = 0) -> Any:
    """Parameters with random numbers added: at the start most of what a transformer says is near zero."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: leaf + 0.4 * _normal(rng, *leaf.shape), params)


def _observation(seed: int, rows: int, system: MAT) -> Observation:
    """Random views; in each row one agent of three is idle, as in the game."""
    rng = np.random.default_rng(seed)
    agents = system.env.num_agents
    idle = rng.integers(0, agents, rows)[:, None] == np.arange(agents)
    mask = np.where(idle[..., None], [False, False, True], [True, True, False])
    views = _normal(rng, rows, agents, system.env.num_features)
    return Observation(jnp.asarray(views), jnp.asarray(mask), jnp.zeros((rows, agents), jnp.int32))


def _rollout(run: Any, params: Params) -> tuple[Rollout, Batch]:
    """A rollout with `params` and the batch made of it."""

    @jax.jit
    def collect(params: Params) -> tuple[Rollout, Batch]:
        system = run.system
        position, memories, rollout = system.play(
            run.hyper, run.state._replace(params=Learned(params, None)), jax.random.PRNGKey(3)
        )
        return rollout, system.judge(run.hyper, Learned(params, None), position, memories, rollout)[1]

    rollout, batch = collect(params)
    return rollout, batch


@pytest.fixture(scope="module")
def played(begin: Callable[..., Any]) -> Any:
    """A run with lively `params`, and the `rollout` and `batch` that these played."""
    run = begin("mat")
    run.params = _lively(run.state.params.networks)
    run.rollout, run.batch = _rollout(run, run.params)
    return run


def _value(run: Any, observation: Observation) -> np.ndarray:
    params = _lively(run.state.params.networks)
    return np.asarray(jax.jit(lambda observation: run.system.bootstrap(params, (), observation))(observation))


# -- Attention ---------------------------------------------------------------------------------------------------------


def _plain_attention(query: Any, key: Any, value: Any, n_head: int, visible: Any) -> np.ndarray:
    """A head, a looking agent and an agent looked at at a time."""
    batch, agents, dim = query.shape
    size = dim // n_head
    out = np.zeros((batch, agents, dim))
    for b in range(batch):
        for i in range(agents):
            for part in (slice(head * size, (head + 1) * size) for head in range(n_head)):
                seen = [j for j in range(key.shape[1]) if visible is None or visible[i, j]]
                scores = np.array([math.exp(query[b, i, part] @ key[b, j, part] / math.sqrt(size)) for j in seen])
                for weight, j in zip(scores / scores.sum(), seen, strict=True):
                    out[b, i, part] += weight * value[b, j, part]
    return out


@pytest.mark.parametrize(("looking", "looked_at", "n_head"), [(3, 3, 1), (5, 5, 2), (1, 4, 4)])
@pytest.mark.parametrize("masked", [False, True])
def test_attention_is_that_of_a_plain_rewrite(looking: int, looked_at: int, n_head: int, masked: bool) -> None:
    rng = np.random.default_rng(looking)
    query = _normal(rng, 2, looking, 8)
    key, value = _normal(rng, 2, looked_at, 8), _normal(rng, 2, looked_at, 8)
    visible = np.arange(looked_at) <= (looked_at - looking + np.arange(looking))[:, None] if masked else None
    found = attention(*(jnp.asarray(x) for x in (query, key, value)), n_head, visible)
    np.testing.assert_allclose(found, _plain_attention(query, key, value, n_head, visible), rtol=1e-5, atol=1e-6)


def test_a_block_begins_as_little_more_than_its_residual_path() -> None:
    x = jnp.asarray(_normal(np.random.default_rng(0), 4, 3, 16))
    block = EncodeBlock(16, 2, 0.01)
    params = block.init(jax.random.PRNGKey(0), x)
    normalised = (x - x.mean(-1, keepdims=True)) / x.std(-1, keepdims=True)
    np.testing.assert_allclose(block.apply(params, x), normalised, atol=0.1)
    for part in np.split(np.asarray(params["params"]["Dense_0"]["kernel"]), 3, axis=-1):  # query, key, value
        np.testing.assert_allclose(part @ part.T, 1e-4 * np.eye(16), atol=1e-7)


# -- Decoding ----------------------------------------------------------------------------------------------------------


def _decoder(agents: int, n_block: int, n_head: int, batch: int = 4) -> tuple[Decoder, Any, Any, np.ndarray]:
    rng = np.random.default_rng(agents)
    decoder = Decoder(num_actions=4, n_block=n_block, n_head=n_head, embed_dim=8, attention_gain=1.0)
    representation = jnp.asarray(_normal(rng, batch, agents, 8))
    action = rng.integers(0, 4, (batch, agents))
    past = decoder.empty_past(batch, agents)
    shapes = jax.eval_shape(decoder.init, jax.random.PRNGKey(1), jnp.asarray(action), representation, past, 0)
    params = jax.tree.map(lambda leaf: _normal(rng, *leaf.shape), shapes)
    return decoder, params, representation, action


@functools.partial(jax.jit, static_argnums=0)
def _decode(decoder: Decoder, *arguments: Any) -> Any:
    return decoder.apply(*arguments)


def _all_at_once(decoder: Decoder, params: Any, representation: Any, action: Any) -> np.ndarray:
    past = decoder.empty_past(*action.shape)
    return np.asarray(_decode(decoder, params, shifted_tokens(jnp.asarray(action)), representation, past, 0)[0])


@pytest.mark.parametrize(("agents", "n_block", "n_head"), [(2, 1, 1), (7, 2, 4)])
def test_agent_by_agent_is_all_at_once(agents: int, n_block: int, n_head: int) -> None:
    decoder, params, representation, action = _decoder(agents, n_block, n_head)
    at_once = _all_at_once(decoder, params, representation, action)
    token, past = jnp.zeros(len(action), jnp.int32), decoder.empty_past(*action.shape)
    for agent in range(agents):
        one = slice(agent, agent + 1)
        logits, past = _decode(decoder, params, token[:, None], representation[:, one], past, agent)
        np.testing.assert_allclose(logits[:, 0], at_once[:, agent], rtol=1e-4, atol=1e-4)
        token = jnp.asarray(action[:, agent] + 1)
    assert at_once.std() > 0.1


@pytest.mark.parametrize("n_block", [1, 2])
def test_an_action_changes_only_what_later_agents_do(n_block: int) -> None:
    agents = 4
    decoder, params, representation, action = _decoder(agents, n_block, 2)
    before = _all_at_once(decoder, params, representation, action)
    for changed in range(agents):
        other = action.copy()
        other[:, changed] = (other[:, changed] + 1) % 4
        after = _all_at_once(decoder, params, representation, other)
        np.testing.assert_array_equal(after[:, : changed + 1], before[:, : changed + 1])
        assert (np.abs(after - before)[:, changed + 1 :].max((0, 2)) > 1e-4).all()


def test_an_agent_decodes_by_its_own_representation_and_the_actions_before() -> None:
    decoder, params, representation, action = _decoder(4, 1, 2)
    before = _all_at_once(decoder, params, representation, action)
    after = _all_at_once(decoder, params, representation.at[:, 1].add(1.0), action)
    same = np.abs(after - before).max((0, 2)) == 0.0
    np.testing.assert_array_equal(same, [True, False, True, True])


def test_the_shifted_tokens() -> None:
    np.testing.assert_array_equal(shifted_tokens(jnp.array([[2, 0, 1], [1, 1, 3]])), [[0, 3, 1], [0, 2, 2]])


# -- Encoding ----------------------------------------------------------------------------------------------------------


def test_values_follow_a_relabelling_of_agents(begin: Callable[..., Any]) -> None:
    run = begin("mat", "system.add_agent_id=false")
    observation = _observation(4, 6, run.system)
    order = np.array([2, 0, 1])
    relabelled = jax.tree.map(lambda leaf: leaf[:, order], observation)
    value, other = _value(run, observation), _value(run, relabelled)
    np.testing.assert_allclose(other, value[:, order], rtol=1e-4, atol=1e-5)
    assert np.abs(value - value[:, order]).max() > 0.1


def test_agent_ids_tell_equal_views_apart(begin: Callable[..., Any]) -> None:
    for add_agent_id in (True, False):
        run = begin("mat", f"system.add_agent_id={add_agent_id}")
        observation = _observation(5, 4, run.system)
        view = observation.agents_view
        equal = observation._replace(agents_view=jnp.broadcast_to(view[:, :1], view.shape))
        assert (np.ptp(_value(run, equal), axis=-1) > 1e-3).all() == add_agent_id


def test_an_agents_value_depends_on_all_observations(begin: Callable[..., Any]) -> None:
    run = begin("mat")
    observation = _observation(6, 4, run.system)
    changed = observation._replace(agents_view=observation.agents_view.at[:, 1, 0].add(2.0))
    assert (np.abs(_value(run, observation) - _value(run, changed)) > 1e-5).all()


# -- Acting and training -----------------------------------------------------------------------------------------------


def _check_forms(run: Any, params: Params, rollout: Rollout, batch: Batch) -> None:
    logits, values = jax.jit(run.system.evaluate)(params, batch)
    ratio = np.exp(np.asarray(log_prob(logits, batch.action) - batch.log_prob))
    np.testing.assert_allclose(ratio, 1.0, atol=1e-4)
    np.testing.assert_allclose(values, batch.value, rtol=1e-4, atol=1e-4)
    assert np.asarray(rollout.known["log_prob"]).std() > 0.1


def test_both_forms_give_the_same_on_a_rollout(played: Any) -> None:
    _check_forms(played, played.params, played.rollout, played.batch)


def test_both_forms_give_the_same_for_ten_agents_and_two_blocks(begin: Callable[..., Any]) -> None:
    run = begin("mat", "network.net_config.n_block=2", "network.net_config.n_head=4", "env/scenario=p-10")
    params = _lively(run.state.params.networks)
    _check_forms(run, params, *_rollout(run, params))


def test_an_action_is_drawn_given_those_before_it(begin: Callable[..., Any]) -> None:
    """Frequencies of joint actions are products of the conditional probabilities, for agents that all have a choice."""
    run = begin("mat")
    params, draws = _lively(run.state.params.networks, seed=2), 20_000
    one = jax.tree.map(lambda leaf: leaf[:1], _observation(7, 1, run.system))
    one = one._replace(action_mask=jnp.array([[[True, True, False]] * 3]))
    many = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (draws, *leaf.shape[1:])), one)
    act = jax.jit(lambda observation, key: run.system.act(Learned(params, None), (), observation, key, greedy=False))
    _, action, known = act(many, jax.random.PRNGKey(0))
    joint = np.asarray(action) @ np.array([4, 2, 1])
    probability = np.exp(np.asarray(known["log_prob"]).sum(-1))
    total = 0.0
    for outcome in np.unique(joint):
        chosen = joint == outcome
        expected = probability[chosen][0]
        total += expected
        assert chosen.mean() == pytest.approx(expected, abs=4 * math.sqrt(expected / draws) + 1e-3)
    assert total == pytest.approx(1.0, abs=2e-3)


def test_greedy_takes_each_agents_likeliest_action_in_turn(begin: Callable[..., Any]) -> None:
    run = begin("mat")
    params, observation = _lively(run.state.params.networks), _observation(8, 40, run.system)
    act = jax.jit(lambda key: run.system.act(Learned(params, None), (), observation, key, greedy=True))
    _, action, known = act(jax.random.PRNGKey(0))
    encoder: Encoder = run.system.encoder
    representation: Any = encoder.apply(params.encoder, run.system.features(observation))[0]
    chosen = np.zeros(action.shape, np.int32)
    for agent in range(3):
        logits = _all_at_once(run.system.decoder, params.decoder, representation, chosen)
        masked = np.where(np.asarray(observation.action_mask), logits, MASKED_LOGIT)
        chosen[:, agent] = masked[:, agent].argmax(-1)
    np.testing.assert_array_equal(action, chosen)
    expected = np.take_along_axis(np.asarray(jax.nn.log_softmax(masked)), chosen[..., None], -1)[..., 0]
    np.testing.assert_allclose(known["log_prob"], expected, rtol=1e-4, atol=1e-5)


def test_masks_are_never_violated(begin: Callable[..., Any]) -> None:
    run = begin("mat")
    observation = _observation(11, 500, run.system)
    # A strong preference for what is illegal must not matter.
    params = jax.tree.map(lambda leaf: 30.0 * leaf, _lively(run.state.params.networks))

    @jax.jit
    def legal(key: jax.Array) -> jax.Array:
        _, action, known = run.system.act(Learned(params, None), (), observation, key, greedy=False)
        allowed = jnp.take_along_axis(observation.action_mask, action[..., None], -1)[..., 0]
        return allowed.all() & jnp.isfinite(known["log_prob"]).all()

    keys = jax.random.split(jax.random.PRNGKey(0), 50)
    assert bool(jax.jit(lambda keys: jax.lax.map(legal, keys))(keys).all())


def test_idle_agents_have_log_probability_zero_and_no_weight(played: Any) -> None:
    batch = played.batch
    idle = np.asarray(batch.observation.action_mask).sum(-1) == 1
    assert (idle.sum(-1) == 1).all()
    np.testing.assert_array_equal(np.asarray(batch.log_prob)[idle], 0.0)
    np.testing.assert_array_equal(batch.policy_weight, ~idle)


def test_chunks_add_up_to_the_whole_gradient(played: Any) -> None:
    system, moved = played.system, _lively(played.params, seed=9)
    batch = jax.jit(system._prepare)(played.batch)

    @functools.partial(jax.jit, static_argnums=2)
    def differentiate(params: Params, batch: Batch, chunk: int | None) -> Any:
        return chunked_gradient(lambda *arguments: system._loss(played.hyper, *arguments), params, batch, chunk)

    def gradient(chunk: int | None) -> Any:
        return differentiate(moved, batch, chunk)

    (whole_losses, whole), (losses, summed) = gradient(None), gradient(8)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-3, atol=2e-5), summed, whole)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), losses, whole_losses)
    assert min(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(whole)) > 0.0  # every layer learns


# -- Config ------------------------------------------------------------------------------------------------------------


def test_the_gain_of_attentions_projections_is_the_configs(begin: Callable[..., Any]) -> None:
    """Every projection, and nothing else, is a hundred times smaller at a hundredth of the gain."""
    usual, small = (
        jax.tree_util.tree_leaves_with_path(begin("mat", *gain).state.params.networks)
        for gain in ((), ("network.net_config.attention_gain=0.01",))
    )
    scaled = 0
    for (path, before), (_, after) in zip(usual, small, strict=True):
        parts = [str(getattr(part, "key", part)) for part in path]
        projection = "kernel" in parts and any(
            part.startswith(("own_", "cross_")) or (part.startswith("Dense_") and "EncodeBlock" in parts[-3])
            for part in parts
        )
        np.testing.assert_allclose(after, 0.01 * before if projection else before, rtol=1e-5)
        scaled += projection
    assert scaled == 2 + 5


def test_heads_must_divide_the_width(tiny_mapping: Callable[..., Any]) -> None:
    mapping = tiny_mapping("mat", "network.net_config.n_head=3")
    with pytest.raises(ConfigError) as caught:
        parse_config(mapping)
    assert str(caught.value) == (
        "network.net_config.n_head: 3 does not divide network.net_config.embed_dim = 16; choose a divisor"
    )
