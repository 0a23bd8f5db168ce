"""The GRU and recurrent IPPO and MAPPO: acting and training give the same numbers, through time and across episodes."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from jax_party.envs.adapter import Observation
from jax_party.errors import ConfigError
from jax_party.networks import recurrent
from jax_party.networks.heads import Actor
from jax_party.networks.recurrent import GRU, RecurrentNetwork, gru_step, gru_unroll
from jax_party.networks.torsos import MLPTorso
from jax_party.ops.gradients import chunked_gradient
from jax_party.systems.on_policy import Batch, Learned
from jax_party.systems.ppo import Params
from jax_party.systems.recurrent_ppo import RecurrentPPO

TIME, BATCH, AGENTS, WIDTH, HIDDEN, ACTIONS = 6, 3, 2, 5, 8, 3
SHORT = (
    "env.scenario.task_config.time_limit=5",
    "arch.stagger_episodes=false",
    "env.scenario.task_config.horizon=truncate",
)
"""Episodes of 5 steps: they end inside rollouts of 16 and inside sequences of 8."""
CASES = [("rec_ippo", "8"), ("rec_mappo", "null")]


def _normal(seed: int, *shape: int) -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def _begins(seed: int, *shape: int) -> jax.Array:
    """Flags, some at the first step and some later."""
    flags = np.random.default_rng(seed).random(shape) < 0.25
    flags[0, 0], flags[0, 1], flags[3, 1] = True, False, True
    return jnp.asarray(flags)


def _close(ours: Any, theirs: Any, rtol: float = 1e-4, atol: float = 1e-5) -> None:
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=rtol, atol=atol), ours, theirs)


# -- The core ----------------------------------------------------------------------------------------------------------


def _as_flax(params: Any) -> dict[str, Any]:
    """A GRU's parameters as flax's GRUCell holds them."""
    ours, cell = params["params"], {}
    for index, gate in enumerate("rzn"):
        part = slice(index * HIDDEN, (index + 1) * HIDDEN)
        cell[f"i{gate}"] = {name: leaf[..., part] for name, leaf in ours["project"].items()}
        cell[f"h{gate}"] = {"kernel": ours["recurrent_kernel"][:, part]}
    cell["hn"]["bias"] = ours["recurrent_bias"]
    return {"params": cell}


@pytest.fixture(scope="module")
def gru() -> SimpleNamespace:
    """A GRU with random biases, inputs and flags."""
    module, inputs, hidden = GRU(HIDDEN), _normal(0, TIME, BATCH, AGENTS, WIDTH), _normal(1, BATCH, AGENTS, HIDDEN)
    params = module.init(jax.random.PRNGKey(0), hidden, inputs[0], method=GRU.step)
    leaves, tree = jax.tree.flatten(params)
    noise = [leaf + 0.3 * _normal(seed, *leaf.shape) for seed, leaf in enumerate(leaves)]
    params = jax.tree.unflatten(tree, noise)
    return SimpleNamespace(module=module, params=params, inputs=inputs, hidden=hidden, begins=_begins(2, TIME, BATCH))


def test_the_gru_is_flaxs_cell_cleared_where_episodes_begin(gru: SimpleNamespace) -> None:
    hiddens = gru.module.apply(gru.params, gru.hidden, gru.inputs, gru.begins, method=GRU.unroll)
    cell, cell_params, hidden = nn.GRUCell(HIDDEN), _as_flax(gru.params), gru.hidden
    for time in range(TIME):
        hidden = jnp.where(gru.begins[time][:, None, None], 0.0, hidden)
        acted = gru.module.apply(gru.params, hidden, gru.inputs[time], method=GRU.step)
        hidden, _ = cell.apply(cell_params, hidden, gru.inputs[time])
        _close(acted, hidden, atol=1e-6)
        _close(hiddens[time], hidden, atol=1e-6)


def test_the_gru_begins_as_flaxs_cell_does() -> None:
    module = GRU(64)
    params = module.init(jax.random.PRNGKey(3), jnp.zeros((2, 64)), jnp.zeros((2, 48)), method=GRU.step)["params"]
    for part in np.split(np.asarray(params["recurrent_kernel"]), 3, axis=1):
        _close(part.T @ part, np.eye(64))
    assert float(params["project"]["kernel"].std()) == pytest.approx(48**-0.5, rel=0.05)
    assert not params["project"]["bias"].any() and not params["recurrent_bias"].any()


def test_the_written_derivative_is_that_of_autodiff() -> None:
    rows = BATCH * AGENTS
    keep = 1.0 - _begins(4, TIME, rows)[..., None]
    arguments = (_normal(0, TIME, rows, 3 * HIDDEN), 0.5 * _normal(1, HIDDEN, 3 * HIDDEN), _normal(2, HIDDEN),
                 _normal(3, rows, HIDDEN))  # fmt: skip
    weights = _normal(5, TIME, rows, HIDDEN)

    def plain(projected: jax.Array, kernel: jax.Array, bias: jax.Array, hidden: jax.Array) -> jax.Array:
        hiddens = []
        for time in range(TIME):
            hidden, _ = gru_step(projected[time], kernel, bias, hidden * keep[time])
            hiddens.append(hidden)
        return jnp.stack(hiddens)

    def gradient(unroll: Callable[..., jax.Array]) -> Any:
        return jax.jit(jax.grad(lambda *args: (weights * jnp.sin(unroll(*args))).sum(), (0, 1, 2, 3)))(*arguments)

    ours = gradient(lambda *args: gru_unroll(*args, keep))
    _close(ours, gradient(plain))
    cleared = np.asarray(keep[0, :, 0]) == 0.0
    assert cleared.any() and not np.asarray(ours[3])[cleared].any()  # nothing flows into a cleared hidden state
    assert np.asarray(ours[3])[~cleared].all()


@pytest.mark.parametrize("block", [1, 3])
def test_a_sequence_is_its_steps_whatever_the_block(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recurrent, "BLOCK_ROWS", block * BATCH * AGENTS)
    network = RecurrentNetwork(MLPTorso((6,)), HIDDEN, Actor(MLPTorso((7,)), ACTIONS))
    features, hidden, begins = _normal(0, TIME, BATCH, AGENTS, WIDTH), _normal(1, BATCH, AGENTS, HIDDEN), _begins(
        2, TIME, BATCH)  # fmt: skip
    mask = (_normal(3, TIME, BATCH, AGENTS, ACTIONS) > 0.0).at[..., 0].set(True)
    params = network.init(jax.random.PRNGKey(0), hidden, features[0], mask[0])

    def whole(params: Any, hidden: jax.Array) -> Any:
        return network.apply(params, hidden, features, begins, mask, method=RecurrentNetwork.unroll)

    def stepwise(params: Any, hidden: jax.Array) -> Any:
        outputs = []
        for time in range(TIME):
            hidden = jnp.where(begins[time][:, None, None], 0.0, hidden)
            hidden, logits = network.apply(params, hidden, features[time], mask[time])
            outputs.append((hidden, logits))
        return jax.tree.map(lambda *leaves: jnp.stack(leaves), *outputs)

    _close(jax.jit(whole)(params, hidden), jax.jit(stepwise)(params, hidden))

    def gradient(run: Callable[..., Any]) -> Any:
        def loss(params: Any, hidden: jax.Array) -> jax.Array:
            hiddens, logits = run(params, hidden)
            return jnp.sin(hiddens).sum() + jnp.where(mask, jnp.sin(100.0 * logits), 0.0).sum()

        return jax.jit(jax.grad(loss, (0, 1)))(params, hidden)

    _close(gradient(whole), gradient(stepwise))


# -- Acting and training -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=CASES, ids=["rec_ippo in eights", "rec_mappo whole"])
def played(request: pytest.FixtureRequest, begin: Callable[..., Any]) -> SimpleNamespace:
    """The second rollout of a system, which begins in mid-episode, and the batch that it gives."""
    algorithm, length = request.param
    run = begin(algorithm, f"system.recurrent_chunk_size={length}", *SHORT)
    # A fresh policy hardly looks at its hidden state.
    params = jax.tree.map(lambda leaf: 2.0 * leaf + 0.1 * _normal(7, *leaf.shape), run.state.params.networks)
    system: RecurrentPPO = run.system
    play, state = jax.jit(system.play), run.state._replace(params=Learned(params, None))
    start, _, _ = play(run.hyper, state, jax.random.PRNGKey(1))
    state = state._replace(envs=start.envs, memory=start.memory)
    position, memories, rollout = play(run.hyper, state, jax.random.PRNGKey(2))
    values, batch = jax.jit(system.judge)(run.hyper, Learned(params, None), position, memories, rollout)
    return SimpleNamespace(
        run=run, system=system, hyper=run.hyper, params=params, state=state, start=start, position=position,
        rollout=rollout, values=values, batch=batch, evaluate=jax.jit(system.evaluate),
        centralised=algorithm == "rec_mappo",
    )  # fmt: skip


def _log_prob_of(logits: jax.Array, action: jax.Array) -> jax.Array:
    return jnp.take_along_axis(jax.nn.log_softmax(logits), action[..., None], -1)[..., 0]


def test_training_gives_what_acting_gave(played: SimpleNamespace) -> None:
    batch = played.batch
    begins = np.flatnonzero(np.asarray(played.rollout.last_done[:, 0]))
    np.testing.assert_array_equal(begins, [4, 9, 14])  # the first rollout ended one step into an episode
    assert np.abs(batch.memory.actor[:4]).min() > 0.0
    logits, values = played.evaluate(played.params, batch)
    ratio = jnp.exp(_log_prob_of(logits, batch.action) - batch.log_prob)
    _close(ratio, np.ones(ratio.shape), atol=1e-5)
    _close(values, batch.value)
    assert float(batch.log_prob.std()) > 0.05 and float(values.std()) > 0.05


def test_an_ended_episode_is_valued_by_its_own_last_observation_and_memory(played: SimpleNamespace) -> None:
    """By playing the same actions without auto-reset: the critic's hidden state is the ended episode's too."""
    system, params, rollout = played.system, played.params, played.rollout
    env = system.envs_under(played.hyper).env
    env_step, value = jax.jit(jax.vmap(env.step)), jax.jit(system.bootstrap)
    walk = jax.jit(lambda memory, seen: system.step(params, memory, seen, jnp.zeros(seen.action_mask.shape))[0])
    memory, states = played.start.memory, played.start.envs.states
    for time in range(4):
        memory = walk(memory, jax.tree.map(lambda leaf, time=time: leaf[time], rollout.observation))
        states, transition = env_step(states, rollout.action[time])
    assert bool(transition.done.all()) and bool((transition.discount == 1.0).all())
    expected = value(params, memory, transition.observation)
    _close(rollout.following[3], expected)
    forgetful = value(params, system.initial_memory(4), transition.observation)
    assert float(jnp.abs(forgetful - expected).max()) > 1e-3
    assert not np.asarray(rollout.following)[~np.asarray(rollout.done)].any()


def test_nothing_leaks_across_an_episodes_end(played: SimpleNamespace) -> None:
    """Another past changes the rest of its own episode, and not one bit of the next."""
    batch, changed_step, next_episode = played.batch, 2, 4
    assert not batch.last_done[0, :next_episode].any() and bool(batch.last_done[0, next_episode])
    view = batch.observation.agents_view.at[0, changed_step].add(1.0)
    changed = batch._replace(observation=batch.observation._replace(agents_view=view))
    logits, values = (
        np.asarray(ours != theirs)
        for ours, theirs in zip(
            played.evaluate(played.params, batch), played.evaluate(played.params, changed), strict=True
        )
    )
    legal = np.asarray(batch.observation.action_mask)
    assert values[0, changed_step:next_episode].all()
    assert logits[0, changed_step:next_episode][legal[0, changed_step:next_episode]].all()
    for differs in (logits, values):
        assert not differs[0, :changed_step].any() and not differs[0, next_episode:].any() and not differs[1:].any()


def test_a_sequence_starts_from_its_memory_unless_an_episode_begins_there(played: SimpleNamespace) -> None:
    batch = played.batch
    other = batch._replace(memory=jax.tree.map(lambda leaf: leaf + 1.0, batch.memory))
    begins = batch._replace(last_done=batch.last_done.at[:, 0].set(True))
    outcomes = [
        np.asarray(played.evaluate(played.params, part)[1])
        for part in (batch, other, begins, begins._replace(memory=other.memory))
    ]
    assert (outcomes[0][:, 0] != outcomes[1][:, 0]).all()
    np.testing.assert_array_equal(outcomes[2], outcomes[3])


# -- Learning ----------------------------------------------------------------------------------------------------------


def _prepared(played: SimpleNamespace) -> Batch:
    """A minibatch whose ratios and values lie on both sides of the clip."""
    batch = played.batch
    shape = batch.log_prob.shape
    moved = batch._replace(log_prob=batch.log_prob + 0.3 * _normal(8, *shape), value=batch.value + _normal(9, *shape))
    prepared: Batch = played.system._prepare(moved)
    return prepared


def test_chunks_add_up_to_the_whole_gradient(played: SimpleNamespace) -> None:
    prepared = _prepared(played)
    system, hyper = played.system, played.hyper

    def gradient(chunk: int | None) -> Any:
        return jax.jit(
            lambda params, batch: chunked_gradient(lambda p, b: system._loss(hyper, p, b), params, batch, chunk)
        )(played.params, prepared)

    sequences = len(prepared.log_prob)
    (sums, whole), (other_sums, chunked) = gradient(None), gradient(sequences // 4)
    _close(other_sums, sums)
    _close(chunked, whole, rtol=1e-3, atol=1e-5)
    assert 0.1 < float(sums["clip_fraction"]) < 0.9


def _plain_network(params: Any, hidden: jax.Array, x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """One step of a torso, a GRU, a torso and a head, gate by gate."""
    p = params["params"]

    def dense(layer: Any, x: jax.Array) -> jax.Array:
        return x @ layer["kernel"] + layer["bias"]

    x = jnp.maximum(dense(p["pre_torso"]["Dense_0"], x), 0.0)
    w_r, w_z, w_n = jnp.split(p["core"]["project"]["kernel"], 3, axis=1)
    b_r, b_z, b_n = jnp.split(p["core"]["project"]["bias"], 3)
    u_r, u_z, u_n = jnp.split(p["core"]["recurrent_kernel"], 3, axis=1)
    r = jax.nn.sigmoid(x @ w_r + b_r + hidden @ u_r)
    z = jax.nn.sigmoid(x @ w_z + b_z + hidden @ u_z)
    n = jnp.tanh(x @ w_n + b_n + r * (hidden @ u_n + p["core"]["recurrent_bias"]))
    hidden = (1.0 - z) * n + z * hidden
    head = p["head"]
    return hidden, dense(
        head.get("value_layer", head.get("Dense_0")), jnp.maximum(dense(head["torso"]["Dense_0"], hidden), 0.0)
    )


def _plain_loss(params: Params, batch: Batch, numbers: Any, centralised: bool) -> jax.Array:
    """PPO's loss as the papers write it, from the first step to the last."""
    rows, length, agents = batch.action.shape
    eps, total = numbers["clip_eps"], jnp.zeros(())
    one_hot = jnp.broadcast_to(jnp.eye(agents), (rows, agents, agents))
    memories = [*batch.memory]
    for t in range(length):
        memories = [jnp.where(batch.last_done[:, t, None, None], 0.0, memory) for memory in memories]
        views = batch.observation.agents_view[:, t]
        everything = jnp.stack([jnp.concatenate([views[:, i] for i in range(agents)], axis=-1)] * agents, axis=1)
        features = jnp.concatenate([views, one_hot], axis=-1)
        seen = jnp.concatenate([everything, one_hot], axis=-1) if centralised else features
        memories[0], logits = _plain_network(params.actor, memories[0], features)
        memories[1], value = _plain_network(params.critic, memories[1], seen)
        log_probs = jax.nn.log_softmax(jnp.where(batch.observation.action_mask[:, t], logits, -1e9))
        ratio = jnp.exp(_log_prob_of(log_probs, batch.action[:, t]) - batch.log_prob[:, t])
        advantage, old, target = batch.advantage[:, t], batch.value[:, t], batch.target[:, t]
        policy = -jnp.minimum(ratio * advantage, jnp.clip(ratio, 1 - eps, 1 + eps) * advantage)
        entropy = -(jnp.exp(log_probs) * jnp.maximum(log_probs, -1e4)).sum(-1)
        clipped = old + jnp.clip(value[..., 0] - old, -numbers["vf_clip_eps"], numbers["vf_clip_eps"])
        value_loss = 0.5 * jnp.maximum((value[..., 0] - target) ** 2, (clipped - target) ** 2)
        total += (batch.policy_weight[:, t] * (policy - numbers["ent_coef"] * entropy)).sum()
        total += numbers["vf_coef"] * (batch.value_weight[:, t] * value_loss).sum()
    return total


def test_the_gradient_through_time_is_that_of_a_plain_rewrite(played: SimpleNamespace) -> None:
    """Two sequences of six steps, with an episode's end in them."""
    prepared = _prepared(played)
    cut = jax.tree.map(lambda leaf: leaf[:2, 2:8], prepared._replace(memory=()))._replace(
        memory=jax.tree.map(lambda leaf: leaf[:2], prepared.memory)
    )
    assert cut.last_done.sum() == 2 and not bool(cut.last_done[:, 0].any())
    ours = jax.jit(jax.grad(lambda params: played.system._loss(played.hyper, params, cut)[0]))(played.params)
    expected = jax.jit(jax.grad(lambda params: _plain_loss(params, cut, played.hyper.system, played.centralised)))(
        played.params
    )
    _close(ours, expected, rtol=1e-3, atol=1e-5)
    for network in (ours.actor, ours.critic):
        assert float(jnp.abs(network["params"]["core"]["recurrent_kernel"]).max()) > 1e-4


# -- What each sees ----------------------------------------------------------------------------------------------------


def test_only_mappos_critic_sees_the_others(played: SimpleNamespace) -> None:
    batch = played.batch
    view = batch.observation.agents_view.at[:, :, 1].add(1.0)
    changed = batch._replace(observation=batch.observation._replace(agents_view=view))
    (logits, values), (other_logits, other_values) = (played.evaluate(played.params, part) for part in (batch, changed))
    np.testing.assert_array_equal(logits[:, :, [0, 2]], other_logits[:, :, [0, 2]])
    assert bool((values[:, :, 1] != other_values[:, :, 1]).all())
    assert bool((values[:, :, [0, 2]] != other_values[:, :, [0, 2]]).any()) == played.centralised


def test_bootstrapping_leaves_no_trace_and_acting_does(played: SimpleNamespace) -> None:
    system, state = played.system, played.state
    key = jax.random.PRNGKey(0)
    observation: Observation = state.envs.observation
    value = system.bootstrap(played.params, state.memory, observation)
    params = Learned(played.params, None)
    memory, action, known = system.act(params, state.memory, observation, key, greedy=True)
    _close(known["value"], value)
    assert known.keys() == {"value", "log_prob"} and action.shape == (4, 3)
    assert bool((memory.actor != state.memory.actor).any()) and bool((memory.critic != state.memory.critic).any())
    _, other, _ = system.act(
        Learned(played.params, None), state.memory, observation, jax.random.PRNGKey(1), greedy=True
    )
    np.testing.assert_array_equal(action, other)


# -- Config ------------------------------------------------------------------------------------------------------------


def test_a_sequence_length_that_does_not_divide_the_rollout_is_refused(tiny_config: Callable[..., Any]) -> None:
    message = "system.recurrent_chunk_size: 7 does not divide system.rollout_length = 16; choose a divisor"
    with pytest.raises(ConfigError) as caught:
        tiny_config("rec_ippo", "system.recurrent_chunk_size=7")
    assert str(caught.value) == message
    assert tiny_config("rec_ippo", "system.recurrent_chunk_size=null").system.sequence_length == 16
    with pytest.raises(ConfigError, match=r"system.num_minibatches: 3 does not divide .* 8 steps to a sequence = 8"):
        tiny_config("rec_ippo", "system.recurrent_chunk_size=8", "system.num_minibatches=3")
