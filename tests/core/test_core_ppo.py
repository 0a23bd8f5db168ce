"""IPPO and MAPPO, stage by stage."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_party.envs.adapter import Observation
from jax_party.systems.on_policy import Batch, Learned
from jax_party.systems.ppo import PPO, Params

TRUNCATED = "env.scenario.task_config.horizon=truncate"


def _observation(seed: int, rows: int, system: PPO) -> Observation:
    """Random views; in each row one agent of three is idle, as in the game."""
    rng = np.random.default_rng(seed)
    agents = system.env.num_agents
    idle = rng.integers(0, agents, rows)[:, None] == np.arange(agents)
    mask = np.where(idle[..., None], [False, False, True], [True, True, False])
    views = rng.normal(size=(rows, agents, system.env.num_features)).astype(np.float32)
    return Observation(jnp.asarray(views), jnp.asarray(mask), jnp.zeros((rows, agents), jnp.int32))


def _batch(seed: int, rows: int, system: PPO) -> Batch:
    """What a rollout might have given, with ratios on both sides of the clip."""
    rng = np.random.default_rng(seed + 1)
    observation = _observation(seed, rows, system)
    shape = (rows, system.env.num_agents)
    choice = np.asarray(observation.action_mask).sum(-1) > 1

    def normal(scale: float = 1.0) -> jax.Array:
        return jnp.asarray(scale * rng.normal(size=shape), jnp.float32)

    return Batch(
        observation,
        jnp.asarray(np.where(choice, rng.integers(0, 2, shape), 2), jnp.int32),
        jnp.where(choice, jnp.log(0.5) + normal(0.3), 0.0),
        normal(), normal(3.0), normal(), jnp.asarray(choice, jnp.float32), jnp.ones(shape),
        jnp.zeros(rows, bool), (),
    )  # fmt: skip


def _gradient(run: Any, batch: Batch) -> tuple[dict[str, jax.Array], Params]:
    system = run.system
    loss = jax.jit(lambda params, batch: system._loss(run.hyper, params, system._prepare(batch)))
    (gradient, sums) = jax.jit(jax.grad(lambda params, batch: loss(params, batch), has_aux=True))(
        run.state.params.networks, batch
    )
    return sums, gradient


# -- The loss ----------------------------------------------------------------------------------------------------------


def _plain_mlp(layers: dict[str, Any], head: dict[str, Any], x: jax.Array) -> jax.Array:
    for name in sorted(layers):
        x = jnp.maximum(x @ layers[name]["kernel"] + layers[name]["bias"], 0.0)
    return x @ head["kernel"] + head["bias"]


def _plain_loss(params: Params, batch: Batch, numbers: dict[str, float], centralised: bool) -> jax.Array:
    """PPO's loss as the papers write it, one environment step and agent at a time."""
    actor, critic = params.actor["params"], params.critic["params"]
    views, mask = batch.observation.agents_view, batch.observation.action_mask
    rows, agents, _ = views.shape
    counted = [(b, i) for b in range(rows) for i in range(agents) if int(mask[b, i].sum()) > 1]
    chosen = jnp.array([batch.advantage[b, i] for b, i in counted])
    mean, deviation = chosen.mean(), jnp.sqrt(((chosen - chosen.mean()) ** 2).mean())
    eps = numbers["clip_eps"]
    policy = bonus = value_loss = 0.0
    for b in range(rows):
        for i in range(agents):
            one_hot = jnp.eye(agents)[i]
            features = jnp.concatenate([views[b, i], one_hot])
            seen = jnp.concatenate([views[b].ravel(), one_hot]) if centralised else features
            value = _plain_mlp(critic["torso"], critic["value_layer"], seen)[0]
            old, target = batch.value[b, i], batch.target[b, i]
            clipped = jnp.clip(value, old - numbers["vf_clip_eps"], old + numbers["vf_clip_eps"])
            value_loss += 0.5 * jnp.maximum((value - target) ** 2, (clipped - target) ** 2) / (rows * agents)
            if (b, i) not in counted:
                continue
            logits = _plain_mlp(actor["torso"], actor["Dense_0"], features)
            legal = [a for a in range(3) if bool(mask[b, i, a])]
            probs = jnp.exp(logits[jnp.array(legal)]) / jnp.exp(logits[jnp.array(legal)]).sum()
            ratio = probs[legal.index(int(batch.action[b, i]))] / jnp.exp(batch.log_prob[b, i])
            advantage = (batch.advantage[b, i] - mean) / deviation
            policy -= jnp.minimum(ratio * advantage, jnp.clip(ratio, 1 - eps, 1 + eps) * advantage) / len(counted)
            bonus -= (probs * jnp.log(probs)).sum() / len(counted)
    return policy - numbers["ent_coef"] * bonus + numbers["vf_coef"] * value_loss


@pytest.mark.parametrize("algorithm", ["ff_ippo", "ff_mappo"])
def test_the_gradient_is_that_of_a_plain_rewrite(algorithm: str, begin: Callable[..., Any]) -> None:
    run = begin(algorithm, "system.vf_clip_eps=0.2")
    batch = _batch(0, 6, run.system)
    _, gradient = _gradient(run, batch)
    numbers = {name: float(value) for name, value in run.hyper.system.items()}
    expected = jax.grad(_plain_loss)(run.state.params.networks, batch, numbers, algorithm == "ff_mappo")
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=2e-6), gradient, expected)
    assert max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(gradient.actor)) > 1e-3


def test_idle_agents_carry_no_policy_gradient(begin: Callable[..., Any]) -> None:
    run = begin("ff_mappo")
    batch = _batch(3, 8, run.system)
    idle = np.asarray(batch.policy_weight) == 0.0
    assert idle.sum() == 8
    changed = batch._replace(
        action=jnp.where(idle, 0, batch.action),
        advantage=jnp.where(idle, 1e3, batch.advantage),
        log_prob=jnp.where(idle, -1.0, batch.log_prob),
    )
    sums, gradient = _gradient(run, batch)
    other_sums, other = _gradient(run, changed)
    jax.tree.map(np.testing.assert_array_equal, gradient, other)
    for name in ("policy_loss", "entropy", "value_loss"):
        np.testing.assert_array_equal(sums[name], other_sums[name])
    noticed = batch._replace(advantage=jnp.where(idle, batch.advantage, batch.advantage[::-1]))
    assert any(
        jax.tree.leaves(
            jax.tree.map(lambda a, b: bool((a != b).any()), gradient.actor, _gradient(run, noticed)[1].actor)
        )
    )


def test_had_no_choice_means_one_legal_action(begin: Callable[..., Any]) -> None:
    run = begin("ff_ippo")
    system = run.system
    played = jax.jit(system.play)(run.hyper, run.state, jax.random.PRNGKey(2))
    _, batch = jax.jit(system.judge)(run.hyper, Learned(run.state.params.networks, None), *played)
    active = np.asarray(batch.observation.action_mask)[..., 0]
    np.testing.assert_array_equal(batch.policy_weight, active.astype(np.float32))
    assert (active.sum(-1) == 2).all()


# -- Minibatches -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("replicas", [1, 2])
def test_every_sample_once_an_epoch_and_replicas_keep_apart(replicas: int, begin: Callable[..., Any]) -> None:
    system = begin("ff_ippo", f"system.update_batch_size={replicas}").system
    envs, size, epochs, minibatches = 4 * replicas, 64 * replicas, 2, 2
    indices = np.asarray(jax.jit(system._minibatch_indices)(jax.random.PRNGKey(5)))
    assert indices.shape == (epochs * minibatches, size // minibatches)
    by_epoch = indices.reshape(epochs, size)
    for epoch in by_epoch:
        np.testing.assert_array_equal(np.sort(epoch), np.arange(size))
    assert (by_epoch[0] != by_epoch[1]).any()
    assert (by_epoch[0] != np.arange(size)).any()
    for minibatch in indices:
        # Row t * E + e is of environment e; a replica owns 4 of them and gives its part of each minibatch in order.
        owner = (minibatch % envs) // 4
        np.testing.assert_array_equal(owner, np.repeat(np.arange(replicas), size // minibatches // replicas))


def test_each_replica_normalises_its_own_advantages(begin: Callable[..., Any]) -> None:
    run = begin("ff_ippo", "system.update_batch_size=2")
    batch = _batch(7, 16, run.system)
    batch = batch._replace(advantage=batch.advantage.at[8:].multiply(50.0))
    prepared = jax.jit(run.system._prepare)(batch)
    for part in (slice(0, 8), slice(8, 16)):
        counted = np.asarray(prepared.advantage[part])[np.asarray(batch.policy_weight[part]) > 0]
        assert (counted.mean(), counted.std()) == (pytest.approx(0.0, abs=1e-5), pytest.approx(1.0, abs=1e-4))
        assert float(prepared.policy_weight[part].sum()) == pytest.approx(0.5)
    assert float(prepared.value_weight.sum()) == pytest.approx(1.0)


def test_replicas_keep_the_shapes(begin: Callable[..., Any]) -> None:
    run = begin("ff_mappo", "system.update_batch_size=2")
    one = begin("ff_mappo")
    state, output = run.program.update(run.hyper, run.state)
    assert jax.tree.map(jnp.shape, state.params) == jax.tree.map(jnp.shape, one.state.params)
    assert output.trajectory["action"].shape == (8, 16, 3)
    assert output.trajectory["observation"].shape == (8, 16, 3, run.system.env.num_features)
    assert all(np.isfinite(loss) for loss in output.losses.values())
    assert int(state.updates) == 1


# -- Acting ------------------------------------------------------------------------------------------------------------


def test_masks_are_never_violated(begin: Callable[..., Any]) -> None:
    run = begin("ff_ippo")
    observation = _observation(11, 500, run.system)
    # A strong preference for what is illegal here and there must not matter.
    params = jax.tree.map(lambda leaf: 30.0 * leaf, run.state.params.networks)

    @jax.jit
    def legal(key: jax.Array) -> jax.Array:
        _, action, known = run.system.act(Learned(params, None), (), observation, key, greedy=False)
        allowed = jnp.take_along_axis(observation.action_mask, action[..., None], -1)[..., 0]
        return allowed.all() & jnp.isfinite(known["log_prob"]).all()

    keys = jax.random.split(jax.random.PRNGKey(0), 200)  # 200 x 500 environment steps, three agents each
    assert bool(jax.jit(lambda keys: jax.lax.map(legal, keys))(keys).all())


def test_greedy_plays_the_likeliest_action(begin: Callable[..., Any]) -> None:
    run = begin("ff_ippo")
    observation = _observation(12, 40, run.system)
    logits = run.system._logits(run.state.params.networks, observation)
    _, action, known = run.system.act(
        Learned(run.state.params.networks, None), (), observation, jax.random.PRNGKey(0), greedy=True
    )
    np.testing.assert_array_equal(action, np.argmax(np.asarray(logits), -1))
    expected = np.take_along_axis(np.asarray(jax.nn.log_softmax(logits)), np.asarray(action)[..., None], -1)[..., 0]
    np.testing.assert_allclose(known["log_prob"], expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(("algorithm", "sees_others"), [("ff_ippo", False), ("ff_mappo", True)])
def test_only_mappos_critic_sees_the_others(algorithm: str, sees_others: bool, begin: Callable[..., Any]) -> None:
    run = begin(algorithm)
    observation = _observation(13, 5, run.system)
    changed = observation._replace(agents_view=observation.agents_view.at[:, 1].add(1.0))
    value, other = (np.asarray(run.system.bootstrap(run.state.params.networks, (), o)) for o in (observation, changed))
    assert (value[:, 1] != other[:, 1]).all()
    assert (value[:, 0] != other[:, 0]).all() == sees_others
    assert (value[:, 2] != other[:, 2]).any() == sees_others
    logits, other = (np.asarray(run.system._logits(run.state.params.networks, o)) for o in (observation, changed))
    np.testing.assert_array_equal(logits[:, [0, 2]], other[:, [0, 2]])  # an actor sees its own view alone


# -- Judging -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("horizon", ["truncate", "terminate"])
def test_a_truncated_episode_bootstraps_from_its_last_observation(horizon: str, begin: Callable[..., Any]) -> None:
    run = begin(
        "ff_mappo",
        f"env.scenario.task_config.horizon={horizon}",
        "env.scenario.task_config.time_limit=5",
        "arch.stagger_episodes=false",
    )
    system, params = run.system, run.state.params.networks
    position, memories, rollout = jax.jit(system.play)(run.hyper, run.state, jax.random.PRNGKey(2))
    values, batch = jax.jit(system.judge)(run.hyper, Learned(params, None), position, memories, rollout)
    steps, num_envs = 16, 4
    np.testing.assert_array_equal(np.flatnonzero(np.asarray(rollout.done[:, 0])), [4, 9, 14])

    # The ended episodes' own last observations, by playing the same actions without auto-reset.
    env = system.envs_under(run.hyper).env
    state, value = run.state.envs.states, jax.jit(lambda observation: system.bootstrap(params, (), observation))
    step = jax.jit(jax.vmap(env.step))
    for time in range(5):
        state, played = step(state, rollout.action[time])
    last_value = np.asarray(value(played.observation))
    np.testing.assert_allclose(rollout.following[4], last_value, rtol=1e-5, atol=1e-6)
    assert (np.abs(last_value - np.asarray(values[5])) > 1e-6).any()  # not the fresh episode's

    gamma, lambda_ = 0.99, 0.95
    kept = gamma if horizon == "truncate" else 0.0
    v = np.concatenate([np.asarray(values), np.asarray(value(position.envs.observation))[None]])
    expected = np.zeros((steps, num_envs, 3))
    running = np.zeros((num_envs, 3))
    for t in reversed(range(steps)):
        if t in (4, 9, 14):
            running = np.asarray(rollout.reward[t] + kept * rollout.following[t] - values[t])
        else:
            running = np.asarray(rollout.reward[t]) + gamma * v[t + 1] - v[t] + gamma * lambda_ * running
        expected[t] = running
    np.testing.assert_allclose(batch.advantage.reshape(expected.shape), expected, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(batch.target, batch.advantage + batch.value, rtol=1e-5, atol=1e-5)


# -- Optimising --------------------------------------------------------------------------------------------------------


def test_learning_rates_fall_to_zero(begin: Callable[..., Any]) -> None:
    run = begin("ff_ippo", "system.decay_learning_rates=true", "system.actor_lr=0.01", "system.critic_lr=0.02")
    updates, per_update = int(run.hyper.num_updates), 4
    ones = jax.tree.map(jnp.ones_like, run.state.params.networks)

    def first_step(network: str, count: int) -> float:
        """Size of Adam's step at a count of gradient steps, for a constant gradient: the learning rate."""
        optimiser = run.system.adam(run.hyper, run.hyper.system[f"{network}_lr"])
        gradient = getattr(ones, network)
        state = optimiser.init(gradient)
        counted = jax.tree.map(lambda leaf: jnp.asarray(count, leaf.dtype) if leaf.dtype == jnp.int32 else leaf, state)
        # Moments that have long seen this gradient, bias-corrected.
        step, _ = optimiser.update(gradient, counted)
        return max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(step))

    total = updates * per_update
    for network in ("actor", "critic"):
        assert first_step(network, total) == 0.0
        assert first_step(network, total - 1) > 0.0


def test_the_last_update_of_a_decayed_run_moves_least(begin: Callable[..., Any]) -> None:
    run = begin("ff_ippo", "system.decay_learning_rates=true")
    update, state, moves = run.program.update, run.state, []
    for _ in range(int(run.hyper.num_updates)):
        before = [np.asarray(leaf) for leaf in jax.tree.leaves(state.params)]
        state, _ = update(run.hyper, state)
        after = jax.tree.leaves(state.params)
        moves.append(sum(float(np.abs(new - old).sum()) for new, old in zip(after, before, strict=True)))
    assert moves[-1] < 0.25 * moves[0]
    assert moves[-1] > 0.0


def test_gradients_are_clipped_to_their_norm(begin: Callable[..., Any]) -> None:
    import optax

    run = begin("ff_ippo")
    optimiser = run.system.adam(run.hyper, run.hyper.system["actor_lr"])
    gradient = jax.tree.map(lambda leaf: 100.0 * jnp.ones_like(leaf), run.state.params.networks.actor)
    _, state = optimiser.update(gradient, optimiser.init(gradient))
    first_moment = next(
        part for part in jax.tree.leaves(state, is_leaf=lambda s: hasattr(s, "mu")) if hasattr(part, "mu")
    ).mu
    assert float(optax.global_norm(first_moment)) == pytest.approx(0.1 * 0.5, rel=1e-4)  # (1 - b1) * max_grad_norm
