"""Discrete soft actor-critic: kernels, then ISAC, MASAC and HASAC stage by stage."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jax_party.envs.adapter import Observation, make_environment
from jax_party.networks.heads import MASKED_LOGIT
from jax_party.ops.sampling import flat_gumbel
from jax_party.ops.soft_values import expected_value, policy_loss, soft_value, target_entropy, temperature_loss
from jax_party.systems.base import Hyper
from jax_party.systems.off_policy import Learning, Step, remembered
from jax_party.systems.sac import ISAC, reward_unit

ALGORITHMS = ("ff_isac", "ff_masac", "ff_hasac")
CENTRALISED = ("ff_masac", "ff_hasac")
ROWS = 4

# -- Kernels -----------------------------------------------------------------------------------------------------------

HAND_LOGITS = jnp.array([jnp.log(0.75), jnp.log(0.25), MASKED_LOGIT])
HAND_Q = jnp.array([2.0, 4.0, 1e6])


def test_values_by_hand() -> None:
    entropy = 0.562335145  # -(3/4 ln 3/4 + 1/4 ln 1/4)
    assert float(expected_value(HAND_LOGITS, HAND_Q)) == pytest.approx(2.5)
    assert float(soft_value(HAND_LOGITS, HAND_Q, 0.5)) == pytest.approx(2.5 + 0.5 * entropy)
    assert float(policy_loss(HAND_LOGITS, HAND_Q, 0.5)) == pytest.approx(-2.5 - 0.5 * entropy)


def _logits_and_values(seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Masked logits, action values (huge where illegal) and the masks; 1 to 5 legal actions of 5."""
    rng = np.random.default_rng(seed)
    mask = rng.random((40, 5)) < 0.5
    mask[np.arange(40), rng.integers(0, 5, 40)] = True
    logits = np.where(mask, 2.0 * rng.normal(size=mask.shape), MASKED_LOGIT).astype(np.float32)
    return logits, np.where(mask, rng.normal(size=mask.shape), 1e9).astype(np.float32), mask


def test_values_against_numpy() -> None:
    logits, q, mask = _logits_and_values(0)
    alpha = np.random.default_rng(1).uniform(0.1, 2.0, 40).astype(np.float32)
    for row in range(40):
        legal = mask[row]
        weights = np.exp(logits[row][legal].astype(np.float64))
        probs = weights / weights.sum()
        expected = (probs * (q[row][legal] - alpha[row] * np.log(probs))).sum()
        assert float(soft_value(logits, q, alpha)[row]) == pytest.approx(expected, rel=1e-4, abs=1e-5)
        assert float(policy_loss(logits, q, alpha)[row]) == pytest.approx(-expected, rel=1e-4, abs=1e-5)


def test_gradients_are_finite_and_pass_illegal_actions_by() -> None:
    logits, q, mask = _logits_and_values(2)
    gradient = np.asarray(jax.grad(lambda logits: policy_loss(logits, q, 0.7).sum())(logits))
    assert np.isfinite(gradient).all()
    np.testing.assert_array_equal(gradient[~mask], 0.0)
    assert (np.abs(gradient[mask & (mask.sum(-1, keepdims=True) > 1)]) > 1e-6).all()
    by_q, by_alpha = jax.grad(lambda q, alpha: policy_loss(logits, q, alpha).sum(), (0, 1))(q, 0.7)
    assert not np.asarray(by_q).any() and not np.asarray(by_alpha).any()


def test_the_policy_gradient_is_that_of_the_kl_divergence() -> None:
    logits, q, mask = _logits_and_values(3)
    q = np.where(mask, q, 0.0).astype(np.float32)
    alpha = 0.6
    gradient = jax.grad(lambda logits: policy_loss(logits, q, alpha).sum())(jnp.asarray(logits))

    def divergence(free: jax.Array) -> jax.Array:
        log_pi = jax.nn.log_softmax(free, where=mask)
        log_best = jax.nn.log_softmax(jnp.asarray(q) / alpha, where=mask)
        return jnp.where(mask, jnp.exp(jnp.where(mask, log_pi, 0.0)) * (log_pi - log_best), 0.0).sum()

    safe = jnp.where(mask, logits, 0.0)
    np.testing.assert_allclose(gradient, alpha * jax.grad(divergence)(safe), rtol=1e-3, atol=1e-5)
    # In closed form: pi(a) (alpha log pi(a) - Q(a) - J).
    probs = np.exp(logits - logits.max(-1, keepdims=True))
    probs /= probs.sum(-1, keepdims=True)
    advantage = alpha * np.log(np.where(probs > 0, probs, 1.0)) - q
    closed = probs * (advantage - (probs * advantage).sum(-1, keepdims=True))
    np.testing.assert_allclose(gradient, closed, rtol=1e-3, atol=1e-5)


def test_the_target_entropy_follows_the_number_of_legal_actions() -> None:
    mask = jnp.array([[False, True, False], [True, True, False], [True, True, True]])
    np.testing.assert_allclose(target_entropy(mask, 0.5), [0.0, 0.34657359, 0.54930614], rtol=1e-6)
    np.testing.assert_array_equal(target_entropy(mask, 0.0), 0.0)


def test_the_temperature_loss_by_hand() -> None:
    log_alpha, entropy, target = jnp.log(jnp.array([0.5, 2.0])), jnp.array([0.3, 0.1]), jnp.array([0.1, 0.2])
    np.testing.assert_allclose(temperature_loss(log_alpha, entropy, target), [0.1, -0.2], rtol=1e-5)
    # Its slope has the sign of entropy - target: descending it lowers the first temperature and raises the second.
    gradient = jax.grad(lambda log_alpha: temperature_loss(log_alpha, entropy, target).sum())(log_alpha)
    np.testing.assert_allclose(gradient, [0.1, -0.2], rtol=1e-5)


# -- What the systems learn from ---------------------------------------------------------------------------------------


def _observation(rng: np.random.Generator, rows: int, system: Any) -> Observation:
    """Random views; in each row one agent of three is idle, as in the game."""
    agents = system.env.num_agents
    idle = rng.integers(0, agents, rows)[:, None] == np.arange(agents)
    mask = np.where(idle[..., None], [False, False, True], [True, True, False])
    views = rng.normal(size=(rows, agents, system.env.num_features)).astype(np.float32)
    return Observation(jnp.asarray(views), jnp.asarray(mask), jnp.zeros((rows, agents), jnp.int32))


def _steps(seed: int, rows: int, system: Any) -> Step:
    """What the buffer might give, without the axis of time."""
    rng = np.random.default_rng(seed)
    observation, following = _observation(rng, rows, system), _observation(rng, rows, system)
    choice = np.asarray(observation.action_mask).sum(-1) > 1
    shape = choice.shape
    discount = np.where(np.arange(rows) % 3 == 1, 0.0, 1.0)[:, None] * np.ones(shape)
    return Step(
        observation, following,
        jnp.asarray(np.where(choice, rng.integers(0, 2, shape), 2), jnp.int32),
        jnp.asarray(rng.normal(size=shape), jnp.float32), jnp.asarray(discount, jnp.float32),
        jnp.asarray(discount[:, 0] == 0.0), jnp.zeros(rows, bool), (),
    )  # fmt: skip


def _strong(run: Any, factor: float = 30.0) -> Any:
    """The run's parameters with a policy of strong preferences and target critics of their own."""
    params = run.state.params
    apart = jax.tree.map(lambda leaf: 0.8 * leaf + 0.05, params.target_q)
    return params._replace(actor=_with_head(params.actor, factor), target_q=apart)


def _with_head(actor: Any, factor: float) -> Any:
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: leaf * factor if "Dense_0" in str(path) and "torso" not in str(path) else leaf, actor
    )


# -- A plain rewrite, one environment step and agent at a time ---------------------------------------------------------


class Plain:
    """The systems as the papers write them."""

    def __init__(self, algorithm: str, run: Any, params: Any, agents: int = 3, actions: int = 3) -> None:
        self.algorithm, self.system, self.params = algorithm, run.system, params
        self.numbers = {name: float(value) for name, value in run.hyper.system.items()}
        self.agents, self.actions = agents, actions
        self.alpha = np.broadcast_to(np.exp(np.asarray(params.log_alpha)), agents)
        self.mlp = jax.jit(_plain_mlp)

    def features(self, views: Any, agent: int) -> Any:
        ids = [jnp.eye(self.agents)[agent]] if self.system.add_agent_id else []
        return jnp.concatenate([views[agent], *ids])

    def probs(self, actor: Any, observation: Observation, b: int, agent: int) -> dict[int, Any]:
        """Probability of each legal action; `actor`: the agent's own."""
        logits = self.mlp(actor["params"], self.features(observation.agents_view[b], agent))
        legal = [a for a in range(self.actions) if bool(observation.action_mask[b, agent, a])]
        chances = jax.nn.softmax(logits[jnp.array(legal)])
        return {a: chances[k] for k, a in enumerate(legal)}

    def actor_of(self, actor: Any, agent: int) -> Any:
        return jax.tree.map(lambda leaf: leaf[agent], actor) if self.algorithm == "ff_hasac" else actor

    def draw(self, actor: Any, observation: Observation, b: int, agent: int, noise: Any) -> int:
        probs = self.probs(actor, observation, b, agent)
        return max(probs, key=lambda a: float(jnp.log(probs[a]) + noise[b, agent, a]))

    def joint(self, actor: Any, observation: Observation, noise: Any) -> list[list[int]]:
        return [
            [self.draw(self.actor_of(actor, i), observation, b, i, noise) for i in range(self.agents)]
            for b in range(len(observation.agents_view))
        ]

    def q(self, twins: Any, observation: Observation, b: int, agent: int, joint: Any) -> list[Any]:
        """Both critics' values of the agent's actions."""
        seen = self.features(observation.agents_view[b], agent)
        if self.algorithm in CENTRALISED:
            others = [
                np.eye(self.actions)[int(joint[j])] if j != agent else np.zeros(self.actions)
                for j in range(self.agents)
            ]
            seen = jnp.concatenate([observation.agents_view[b].ravel(), np.eye(self.agents)[agent], *others])
        return [self.mlp(jax.tree.map(lambda leaf, k=k: leaf[k], twins["params"]), seen) for k in range(2)]

    def targets(self, steps: Step, noise: Any) -> np.ndarray:
        observation, actor = steps.next_observation, self.params.actor
        joint = self.joint(actor, observation, noise)
        found = np.zeros((ROWS, self.agents))
        for b in range(ROWS):
            probs = [self.probs(self.actor_of(actor, i), observation, b, i) for i in range(self.agents)]
            bonus = [-self.alpha[i] * sum(float(p * jnp.log(p)) for p in probs[i].values()) for i in range(self.agents)]
            for i in range(self.agents):
                q = self.q(self.params.target_q, observation, b, i, joint[b])
                value = sum(float(p) * min(float(q[0][a]), float(q[1][a])) for a, p in probs[i].items())
                value += sum(bonus) if self.algorithm == "ff_hasac" else bonus[i]
                discount = self.numbers["gamma"] * float(steps.discount[b, i])
                found[b, i] = float(steps.reward[b, i]) + discount * value
        return found

    def q_loss(self, twins: Any, steps: Step, targets: Any) -> Any:
        total: Any = 0.0
        for b in range(ROWS):
            for i in range(self.agents):
                for q in self.q(twins, steps.observation, b, i, steps.action[b]):
                    total += 0.5 * (q[int(steps.action[b, i])] - targets[b, i]) ** 2 / (ROWS * self.agents)
        return total

    def policy_loss(self, actor: Any, agent: int, observation: Observation, joint: Any) -> Any:
        """One agent's loss summed over the rows where it has a choice, and how many those are."""
        total, counted = 0.0, 0
        for b in range(ROWS):
            probs = self.probs(actor, observation, b, agent)
            if len(probs) == 1:
                continue
            q = self.q(self.params.q, observation, b, agent, joint[b])
            counted += 1
            total += sum(
                p * (self.alpha[agent] * jnp.log(p) - min(float(q[0][a]), float(q[1][a]))) for a, p in probs.items()
            )
        return total, counted


def _plain_mlp(network: Any, x: Any) -> Any:
    for name in sorted(network["torso"]):
        x = jnp.maximum(x @ network["torso"][name]["kernel"] + network["torso"][name]["bias"], 0.0)
    return x @ network["Dense_0"]["kernel"] + network["Dense_0"]["bias"]


def _descend(run: Any, monkeypatch: pytest.MonkeyPatch, rate: float) -> None:
    """Plain gradient descent in place of Adam: a step shows the gradient."""
    monkeypatch.setattr(run.system, "optimiser", lambda hyper, name: optax.sgd(rate))


def _learning(run: Any, params: Any) -> Learning:
    """Fresh optimisers' states for `params`."""
    example = jax.tree.map(lambda leaf: leaf[:1], run.state.envs.observation)
    return Learning(params, run.system.init_learning(run.hyper, jax.random.PRNGKey(0), example).opt_state)


def _close(ours: Any, theirs: Any) -> None:
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-3, atol=1e-5), ours, theirs)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_targets_and_critic_gradient_are_those_of_a_plain_rewrite(
    algorithm: str, begin: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = begin(algorithm)
    system, params, key = run.system, _strong(run), jax.random.PRNGKey(3)
    steps = _steps(0, ROWS, system)
    _descend(run, monkeypatch, 1.0)
    after, losses = jax.jit(system.learn_q)(run.hyper, _learning(run, params), steps, key)
    plain = Plain(algorithm, run, params)
    targets = plain.targets(steps, np.asarray(flat_gumbel(key, (ROWS, 3, 3))))
    np.testing.assert_allclose(system.targets(run.hyper, params, steps, key), targets, rtol=1e-4, atol=1e-4)
    loss, gradient = jax.value_and_grad(plain.q_loss)(params.q, steps, targets)
    _close(jax.tree.map(jnp.subtract, params.q, after.params.q), gradient)
    assert float(losses["q_loss"]) == pytest.approx(float(loss), rel=1e-4)
    assert max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(gradient)) > 1e-2
    jax.tree.map(np.testing.assert_array_equal, after.params._replace(q=()), params._replace(q=()))


@pytest.mark.parametrize("algorithm", ["ff_isac", "ff_masac"])
def test_the_policy_gradient_is_that_of_a_plain_rewrite(
    algorithm: str, begin: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = begin(algorithm)
    system, params, key = run.system, _strong(run), jax.random.PRNGKey(4)
    observation = _steps(1, ROWS, system).observation
    samples = system._policy_samples(run.hyper, observation, key)
    _descend(run, monkeypatch, 1.0)
    after, losses = jax.jit(system.learn_policy)(run.hyper, _learning(run, params), samples, key)
    plain = Plain(algorithm, run, params)
    joint = plain.joint(params.actor, observation, np.asarray(flat_gumbel(key, (ROWS, 3, 3))))

    def naive(actor: Any) -> Any:
        totals, counts = zip(*(plain.policy_loss(actor, i, observation, joint) for i in range(3)), strict=True)
        assert sum(counts) == 2 * ROWS
        return sum(totals) / sum(counts)

    loss, gradient = jax.value_and_grad(naive)(params.actor)
    _close(jax.tree.map(jnp.subtract, params.actor, after.params.actor), gradient)
    assert float(losses["policy_loss"]) == pytest.approx(float(loss), rel=1e-4)
    assert max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(gradient)) > 1e-3


def test_hasacs_agents_learn_in_turn_against_their_updated_predecessors(
    begin: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = begin("ff_hasac")
    system, params, key = run.system, _strong(run, 100.0), jax.random.PRNGKey(5)
    params = params._replace(log_alpha=jnp.log(jnp.array([0.2, 0.5, 1.0])))
    observation = _steps(2, ROWS, system).observation
    samples = system._policy_samples(run.hyper, observation, key)
    rate = 1.0
    _descend(run, monkeypatch, rate)
    in_turn = jax.jit(system.learn_in_turn)
    order = [2, 0, 1]
    after, losses = in_turn(run.hyper, _learning(run, params), samples, jnp.array(order))

    plain = Plain("ff_hasac", run, params)
    noise = np.asarray(flat_gumbel(key, (ROWS, 3, 3)))
    joint = plain.joint(params.actor, observation, noise)
    redrawn = 0
    for agent in order:
        own = plain.actor_of(params.actor, agent)

        def naive(actor: Any, agent: int = agent) -> Any:
            total, count = plain.policy_loss(actor, agent, observation, joint)
            return total / max(count, 1)

        loss, gradient = jax.value_and_grad(naive)(own)
        updated = jax.tree.map(lambda leaf, slope: leaf - rate * slope, own, gradient)
        _close(plain.actor_of(after.params.actor, agent), updated)
        assert float(losses["policy_loss"][agent]) == pytest.approx(float(loss), rel=1e-4)
        for b in range(ROWS):
            drawn = plain.draw(updated, observation, b, agent, noise)
            redrawn += drawn != joint[b][agent] and agent != order[-1]
            joint[b][agent] = drawn
    assert redrawn > 0  # a successor met another action than before
    other, _ = in_turn(run.hyper, _learning(run, params), samples, jnp.array(order[::-1]))
    assert any(jax.tree.leaves(jax.tree.map(lambda a, b: bool((a != b).any()), after.params.actor, other.params.actor)))


# -- Twins, targets, discounts -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("algorithm", ["ff_isac", "ff_hasac"])
def test_the_lower_twin_is_used(algorithm: str, begin: Callable[..., Any]) -> None:
    run = begin(algorithm)
    params = run.state.params
    head = params.target_q["params"]["Dense_0"]
    low = head | {"kernel": 0.0 * head["kernel"], "bias": jnp.stack([jnp.full(3, 7.0), jnp.full(3, -2.0)])}
    params = params._replace(target_q={"params": params.target_q["params"] | {"Dense_0": low}})
    values = run.system.next_values(params, _steps(0, ROWS, run.system).observation, jax.random.PRNGKey(0))
    alpha, per_agent = float(jnp.exp(params.log_alpha).mean()), np.log(2.0) * np.array([0.0, 1.0])
    expected = -2.0 + alpha * per_agent  # policies are nearly uniform at the start
    if algorithm == "ff_hasac":
        np.testing.assert_allclose(values, -2.0 + 2 * alpha * np.log(2.0), atol=1e-2)
    else:
        choice = np.asarray(_steps(0, ROWS, run.system).observation.action_mask).sum(-1) > 1
        np.testing.assert_allclose(values, expected[choice.astype(int)], atol=1e-2)


def test_targets_follow_the_critics_by_tau(begin: Callable[..., Any]) -> None:
    run = begin("ff_isac", "system.tau=0.25")
    before = _strong(run)
    batch = jax.tree.map(lambda leaf: leaf[:, None], _steps(0, ROWS, run.system))
    after, losses = jax.jit(run.system.learn_step)(run.hyper, _learning(run, before), batch, jax.random.PRNGKey(0))
    moved = jax.tree.map(lambda q, old: 0.25 * q + 0.75 * old, after.params.q, before.target_q)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), after.params.target_q, moved)
    assert any(jax.tree.leaves(jax.tree.map(lambda a, b: bool((a != b).any()), after.params.q, before.q)))
    assert int(after.opt_state.gradient_steps) == 1
    assert losses.keys() == {"policy_loss", "q_loss", "mean_q", "entropy", "target_entropy", "alpha"}


@pytest.mark.parametrize("horizon", ["truncate", "terminate"])
def test_a_truncated_episode_bootstraps_from_its_last_observation(horizon: str, begin: Callable[..., Any]) -> None:
    run = begin(
        "ff_isac",
        f"env.scenario.task_config.horizon={horizon}",
        "env.scenario.task_config.time_limit=5",
        "arch.stagger_episodes=false",
    )
    system, params, key = run.system, _strong(run), jax.random.PRNGKey(1)
    _, rollout = jax.jit(system.play)(run.hyper, run.state, jax.random.PRNGKey(2))
    steps = remembered(rollout)
    np.testing.assert_array_equal(np.flatnonzero(np.asarray(rollout.done[:, 0])), [4, 9, 14])

    # The ended episodes' own last observations, by playing the same actions without auto-reset.
    env = system.envs_under(run.hyper).env
    state, step = run.state.envs.states, jax.jit(jax.vmap(env.step))
    for time in range(5):
        state, played = step(state, rollout.action[time])
    at_end: Step = jax.tree.map(lambda leaf: leaf[4], steps)
    jax.tree.map(np.testing.assert_array_equal, at_end.next_observation, played.observation)
    assert (np.asarray(at_end.next_observation.agents_view) != rollout.observation.agents_view[5]).any()
    target = system.targets(run.hyper, params, at_end, key)
    bootstrap = system.next_values(params, played.observation, key)
    kept = 0.99 if horizon == "truncate" else 0.0
    np.testing.assert_allclose(target, np.asarray(rollout.reward[4]) + kept * np.asarray(bootstrap), rtol=1e-5)
    assert (np.abs(np.asarray(bootstrap)) > 1e-3).any()


# -- Temperature -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_the_temperature_rises_below_the_target_entropy_and_falls_above(
    algorithm: str, begin: Callable[..., Any]
) -> None:
    run = begin(algorithm)
    learning = Learning(run.state.params, run.state.opt_state)
    shape = (3,) if algorithm == "ff_hasac" else ()
    assert learning.params.log_alpha.shape == shape

    def change(entropy: float, target: float) -> np.ndarray:
        losses = {"entropy": jnp.full(shape, entropy), "target_entropy": jnp.full(shape, target)}
        after = run.system.learn_temperature(run.hyper, learning, losses)
        return np.asarray(after.params.log_alpha - learning.params.log_alpha)

    rate = float(run.hyper.system["alpha_lr"])
    np.testing.assert_allclose(change(0.1, 0.3), rate, rtol=2e-2)  # Adam's first step
    np.testing.assert_allclose(change(0.3, 0.1), -rate, rtol=2e-2)
    np.testing.assert_array_equal(change(0.2, 0.2), 0.0)


def test_each_hasac_agent_has_its_own_temperature(begin: Callable[..., Any]) -> None:
    run = begin("ff_hasac")
    learning = Learning(run.state.params, run.state.opt_state)
    losses = {"entropy": jnp.array([0.1, 0.3, 0.0]), "target_entropy": jnp.array([0.3, 0.1, 0.0])}
    after = run.system.learn_temperature(run.hyper, learning, losses).params.log_alpha
    np.testing.assert_array_equal(np.sign(after - learning.params.log_alpha), [1.0, -1.0, 0.0])


def test_the_reward_unit_is_how_much_rewards_vary_from_step_to_step() -> None:
    rng = np.random.default_rng(0)
    reward = rng.normal(3.0, 2.0, size=(64, 200, 3)).astype(np.float32)
    held = np.where(np.arange(200)[:, None] < 60, reward, 1e6)

    def unit(reward: np.ndarray, index: int, full: bool) -> float:
        experience = SimpleNamespace(reward=jnp.asarray(reward))
        replay = SimpleNamespace(experience=experience, current_index=jnp.int32(index), is_full=jnp.asarray(full))
        return float(reward_unit(replay))

    def plain(reward: np.ndarray) -> float:
        return float(np.sqrt(np.mean(np.diff(reward.astype(np.float64), axis=1) ** 2) / 2.0))

    assert unit(held, 60, full=False) == pytest.approx(plain(reward[:, :60]), rel=1e-4), (
        "what is not filled is left out"
    )
    assert unit(reward, 60, full=True) == pytest.approx(plain(reward), rel=1e-4)
    assert unit(reward, 60, full=True) == pytest.approx(2.0, rel=0.02), "the standard deviation of independent rewards"
    places = np.array([-1_000.0, 0.0, 1_000.0], np.float32)
    assert unit(reward + places, 60, full=True) == pytest.approx(plain(reward), rel=1e-3), (
        "what is always paid is left out"
    )
    rare = np.zeros_like(reward)
    rare[5, 100] = 0.5
    assert unit(rare, 60, full=True) == pytest.approx(0.5 / 15.0), "one reward in many steps"
    assert unit(100.0 * rare, 60, full=True) == pytest.approx(50.0 / 15.0), "in any unit"
    assert unit(np.full_like(reward, 2.0), 60, full=True) == pytest.approx(1.0 / 15.0), "none was met"


@pytest.mark.parametrize("algorithm", ["ff_isac", "ff_hasac"])
def test_the_temperature_starts_in_the_unit_of_the_rewards_that_exploring_met(
    algorithm: str, begin: Callable[..., Any]
) -> None:
    run = begin(algorithm, "system.init_alpha=0.1", "system.autotune=false")
    system = run.system
    _, rollout = jax.jit(system.play)(run.hyper, run.state, jax.random.PRNGKey(0))
    replay = system.buffer.add(
        run.state.replay, jax.tree.map(lambda leaf: jnp.swapaxes(leaf, 0, 1), remembered(rollout))
    )
    expected = 0.1 * np.sqrt(np.mean(np.diff(np.asarray(rollout.reward), axis=0) ** 2) / 2.0)
    begun = system.begin_learning(Learning(run.state.params, run.state.opt_state), replay)
    np.testing.assert_allclose(np.exp(begun.params.log_alpha), expected, rtol=1e-4)
    later = begun._replace(opt_state=begun.opt_state._replace(gradient_steps=jnp.int32(1)))
    np.testing.assert_array_equal(system.begin_learning(later, replay).params.log_alpha, begun.params.log_alpha)


def test_a_fixed_temperature_stays(begin: Callable[..., Any]) -> None:
    run = begin("ff_isac", "system.autotune=false", "system.init_alpha=0.3")
    learning = Learning(run.state.params, run.state.opt_state)
    losses = {"entropy": jnp.array(0.1), "target_entropy": jnp.array(0.3)}
    after = run.system.learn_temperature(run.hyper, learning, losses).params.log_alpha
    assert float(jnp.exp(after)) == pytest.approx(0.3)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_idle_agents_carry_no_weight_but_critics_learn_from_them(algorithm: str, begin: Callable[..., Any]) -> None:
    run = begin(algorithm)
    steps = _steps(3, 8, run.system)
    samples = run.system._policy_samples(run.hyper, steps.observation, jax.random.PRNGKey(0))
    choice = np.asarray(steps.observation.action_mask).sum(-1) > 1
    weight = np.asarray(samples.weight)
    assert ((weight > 0) == choice).all()
    sums = weight.sum(0) if algorithm == "ff_hasac" else weight.sum()
    np.testing.assert_allclose(sums, 1.0, rtol=1e-5)
    scale = float(run.hyper.system["target_entropy_scale"])
    np.testing.assert_allclose(samples.target_entropy, np.where(choice, scale * np.log(2.0), 0.0), rtol=1e-5)
    key = jax.random.PRNGKey(1)
    richer = steps._replace(reward=jnp.where(choice, steps.reward, steps.reward + 1.0))
    targets, other = (run.system.targets(run.hyper, run.state.params, s, key) for s in (steps, richer))
    np.testing.assert_allclose(np.asarray(other - targets), np.where(choice, 0.0, 1.0), atol=1e-5)


def test_policy_and_temperature_take_every_second_step(begin: Callable[..., Any]) -> None:
    run = begin("ff_masac", "system.policy_update_delay=2")
    batch = jax.tree.map(lambda leaf: leaf[:, None], _steps(0, 8, run.system))
    step = jax.jit(run.system.learn_step)
    start = Learning(run.state.params, run.state.opt_state)
    first, first_losses = step(run.hyper, start, batch, jax.random.PRNGKey(0))
    second, second_losses = step(run.hyper, first, batch, jax.random.PRNGKey(1))
    same = [
        all(jax.tree.leaves(jax.tree.map(lambda a, b: bool((a == b).all()), getattr(a, name), getattr(b, name))))
        for a, b in ((start.params, first.params), (first.params, second.params))
        for name in ("actor", "log_alpha", "q")
    ]
    assert same == [True, True, False, False, False, False]
    assert first_losses.keys() == second_losses.keys()
    assert float(first_losses["entropy"]) == pytest.approx(np.log(2.0), abs=1e-2)  # told though none was taken


# -- Acting ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_exploring_is_uniform_over_legal_actions_first(algorithm: str, begin: Callable[..., Any]) -> None:
    run = begin(algorithm)  # explore_steps=64
    system, params, rows = run.system, _strong(run), 4000
    observation = _observation(np.random.default_rng(0), rows, system)
    noise = flat_gumbel(jax.random.PRNGKey(1), (rows, 3, 3))
    explore = jax.jit(lambda env_steps: system.explore(run.hyper, params, (), observation, noise, env_steps)[1:])
    action, known = explore(jnp.int32(63))
    choice = np.asarray(observation.action_mask).sum(-1) > 1
    np.testing.assert_array_equal(np.asarray(action)[~choice], 2)
    counts = np.bincount(np.asarray(action)[choice], minlength=3)
    assert counts[2] == 0
    expected = choice.sum() / 2
    assert ((counts[:2] - expected) ** 2 / expected).sum() < 6.6  # chi-squared, 1 degree of freedom, p > 0.01
    np.testing.assert_allclose(known["log_prob"], np.where(choice, np.log(0.5), 0.0), atol=1e-6)
    action, known = explore(jnp.int32(64))
    logits = np.asarray(jax.nn.log_softmax(system.logits(params.actor, observation)))
    np.testing.assert_array_equal(action, np.argmax(logits + np.asarray(noise), -1))
    taken = np.take_along_axis(logits, np.asarray(action)[..., None], -1)[..., 0]
    np.testing.assert_allclose(known["log_prob"], taken, rtol=1e-4, atol=1e-5)
    assert np.abs(taken[choice] - np.log(0.5)).max() > 0.05


def test_nothing_is_learned_before_exploring_ends(begin: Callable[..., Any]) -> None:
    run = begin("ff_isac", "system.explore_steps=128")
    initial = [np.asarray(leaf) for leaf in jax.tree.leaves(run.state.params)]
    state, output = run.program.update(run.hyper, run.state)  # 64 environment steps
    for leaf, before in zip(jax.tree.leaves(state.params), initial, strict=True):
        np.testing.assert_array_equal(leaf, before)
    assert int(state.opt_state.gradient_steps) == 0
    legal = np.asarray(output.trajectory["legal_action_mask"]).sum(-1)
    np.testing.assert_allclose(output.trajectory["log_prob"], -np.log(legal), atol=1e-6)
    state, output = run.program.update(run.hyper, state)
    assert int(state.opt_state.gradient_steps) == 2
    assert any((np.asarray(a) != b).any() for a, b in zip(jax.tree.leaves(state.params), initial, strict=True))
    assert all(np.isfinite(loss) for loss in output.losses.values())


def test_learning_waits_for_a_batch(tiny_config: Callable[..., Any]) -> None:
    def waits(*overrides: str) -> int:
        config = tiny_config("ff_isac", *overrides)
        return ISAC(config, make_environment(config.env)).steps_before_learning

    assert waits() == 64
    assert waits("system.explore_steps=0") == 16


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_masks_are_never_violated(algorithm: str, begin: Callable[..., Any]) -> None:
    run = begin(algorithm)
    observation = _observation(np.random.default_rng(11), 500, run.system)
    params = _strong(run, 1000.0)

    @jax.jit
    def legal(key: jax.Array) -> jax.Array:
        _, action, known = run.system.act(params, (), observation, key, greedy=False)
        allowed = jnp.take_along_axis(observation.action_mask, action[..., None], -1)[..., 0]
        return allowed.all() & jnp.isfinite(known["log_prob"]).all()

    keys = jax.random.split(jax.random.PRNGKey(0), 100)  # 100 x 500 environment steps, three agents each
    assert bool(jax.jit(lambda keys: jax.lax.map(legal, keys))(keys).all())


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_greedy_plays_the_likeliest_action(algorithm: str, begin: Callable[..., Any]) -> None:
    run = begin(algorithm)
    params = _strong(run)
    observation = _observation(np.random.default_rng(12), 40, run.system)
    logits = np.asarray(jax.nn.log_softmax(run.system.logits(params.actor, observation)))
    _, action, known = run.system.act(params, (), observation, jax.random.PRNGKey(0), greedy=True)
    np.testing.assert_array_equal(action, np.argmax(logits, -1))
    np.testing.assert_allclose(known["log_prob"], logits.max(-1), rtol=1e-4, atol=1e-6)


# -- Who sees what -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_untrained_critics_hold_all_actions_equal(algorithm: str, begin: Callable[..., Any]) -> None:
    """Rewards of LBF are below 1 and rare: the policy would follow larger differences for as long as they last."""
    run = begin(algorithm)
    steps = _steps(6, 40, run.system)
    values = run.system.q_values(run.state.params.q, run.system.critic_features(steps.observation, steps.action))
    assert np.abs(values).max() < 0.1
    assert np.ptp(values, axis=-1).mean() < 0.03


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_only_centralised_critics_see_the_others(algorithm: str, begin: Callable[..., Any]) -> None:
    run = begin(algorithm)
    steps, params = _steps(6, 5, run.system), run.state.params
    sees_others = algorithm in CENTRALISED

    def values(observation: Observation, action: jax.Array) -> np.ndarray:
        return np.asarray(run.system.q_values(params.q, run.system.critic_features(observation, action)))

    observation, action = steps.observation, steps.action
    plain = values(observation, action)
    assert plain.shape == (2, 5, 3, 3)
    view = values(observation._replace(agents_view=observation.agents_view.at[:, 1].add(1.0)), action)
    acted = values(observation, action.at[:, 1].set((action[:, 1] + 1) % 3))
    for other in (0, 2):
        assert (view[:, :, other] != plain[:, :, other]).any() == sees_others
        assert (acted[:, :, other] != plain[:, :, other]).any() == sees_others
    assert (view[:, :, 1] != plain[:, :, 1]).any()
    np.testing.assert_array_equal(acted[:, :, 1], plain[:, :, 1])  # own action values do not depend on the own action
    assert (plain[0] != plain[1]).any()  # the twins begin apart
    moved = observation._replace(agents_view=observation.agents_view.at[:, 1].add(1.0))
    logits, after = (np.asarray(run.system.logits(params.actor, seen)) for seen in (observation, moved))
    np.testing.assert_array_equal(logits[:, [0, 2]], after[:, [0, 2]])  # an actor sees its own view alone


# -- HASAC -------------------------------------------------------------------------------------------------------------


def test_hasacs_agents_have_parameters_of_their_own(begin: Callable[..., Any]) -> None:
    run = begin("ff_hasac")
    system, actor = run.system, run.state.params.actor
    for leaf in jax.tree.leaves(actor):
        assert leaf.shape[0] == 3
        if leaf.ndim > 2:
            assert (leaf[0] != leaf[1]).all() and (leaf[1] != leaf[2]).all()
    # An agent without choice learns nothing, whatever the others learn.
    observation = _observation(np.random.default_rng(0), 8, system)
    mask = jnp.broadcast_to(jnp.array([[True, True, False], [False, False, True], [True, True, False]]), (8, 3, 3))
    samples = system._policy_samples(run.hyper, observation._replace(action_mask=mask), jax.random.PRNGKey(0))
    learning = Learning(run.state.params, run.state.opt_state)
    after, losses = jax.jit(system.learn_policy)(run.hyper, learning, samples, jax.random.PRNGKey(1))
    for leaf, before in zip(jax.tree.leaves(after.params.actor), jax.tree.leaves(actor), strict=True):
        np.testing.assert_array_equal(leaf[1], before[1])
        assert (leaf[0] != before[0]).any() and (leaf[2] != before[2]).any()
    np.testing.assert_allclose(losses["entropy"], [np.log(2.0), 0.0, np.log(2.0)], atol=1e-2)


def test_all_orders_are_drawn_equally_often(begin: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    run = begin("ff_hasac")

    def only_order(hyper: Hyper, learning: Any, samples: Any, order: jax.Array) -> jax.Array:
        return order

    monkeypatch.setattr(run.system, "learn_in_turn", only_order)
    draw = jax.jit(jax.vmap(lambda key: run.system.learn_policy(run.hyper, None, None, key)))
    orders = np.asarray(draw(jax.random.split(jax.random.PRNGKey(0), 3000)))
    _, counts = np.unique(orders, axis=0, return_counts=True)
    assert len(counts) == 6
    assert ((counts - 500.0) ** 2 / 500.0).sum() < 15.1  # chi-squared, 5 degrees of freedom, p > 0.01


def test_replicas_keep_the_shapes(begin: Callable[..., Any]) -> None:
    run = begin("ff_hasac", "system.update_batch_size=2")
    one = begin("ff_hasac")
    state, output = run.program.update(run.hyper, run.state)
    assert jax.tree.map(jnp.shape, state.params) == jax.tree.map(jnp.shape, one.state.params)
    assert output.trajectory["action"].shape == (8, 16, 3)
    assert int(state.opt_state.gradient_steps) == 2
    assert all(np.isfinite(loss) for loss in output.losses.values())
