"""ISAC and MASAC: soft actor-critic with discrete actions, each agent with its own critics or with centralised ones.

SAC: https://arxiv.org/abs/1801.01290, temperature: https://arxiv.org/abs/1812.05905, discrete actions:
https://arxiv.org/abs/1910.07207. Parameters are shared between agents, as in Mava; agents are distinguished by their
ids.

Expectations over an agent's own actions are exact sums. A centralised critic sees the global state, the agent's id and
the others' actions, and gives a value for each own action. The others' actions are the replayed ones when values are
fitted, and samples from the current policies in the critics' targets and in the policy loss.
"""

from __future__ import annotations

import functools
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int, PRNGKeyArray, PyTree

from jax_party.config.experiment import ExperimentConfig
from jax_party.config.systems import SACConfig
from jax_party.envs.adapter import MultiAgentEnv, Observation
from jax_party.envs.wrappers import append_agent_ids, global_state
from jax_party.networks.heads import MASKED_LOGIT, Actor
from jax_party.networks.q_networks import QNetwork
from jax_party.networks.torsos import make_torso
from jax_party.ops.gradients import clipped_adam
from jax_party.ops.losses import entropy, log_prob
from jax_party.ops.sampling import flat_gumbel
from jax_party.ops.soft_values import policy_loss, soft_value, target_entropy, temperature_loss
from jax_party.systems.base import Hyper
from jax_party.systems.off_policy import Learning, OffPolicySystem, Step

TWINS = 2
RARE = 1.0 / 15.0
"""The least unit of a temperature, as a share of the largest difference of successive rewards."""


class Params(NamedTuple):
    """All that is learned.

    Attributes:
      actor: the policy.
      q: the twin critics, leading axis 2.
      target_q: the target critics, which follow them slowly.
      log_alpha: () the temperature's logarithm; (N,) in HASAC.
    """

    actor: PyTree
    q: PyTree
    target_q: PyTree
    log_alpha: Float[Array, "..."]


class OptState(NamedTuple):
    """The optimisers' states.

    Attributes:
      actor: that of the policy.
      q: that of the twin critics.
      alpha: that of the temperature.
      gradient_steps: () int32, taken so far.
    """

    actor: PyTree
    q: PyTree
    alpha: PyTree
    gradient_steps: Int[Array, ""]


class QSamples(NamedTuple):
    """What the critics are fitted to, leading axis B.

    Attributes:
      features: what the critics see, (B, N, F).
      action: (B, N) int32, the actions that were taken.
      target: (B, N).
      weight: (B, N), summing to 1 over the batch.
    """

    features: Float[Array, "B N F"]
    action: Int[Array, "B N"]
    target: Float[Array, "B N"]
    weight: Float[Array, "B N"]


class PolicySamples(NamedTuple):
    """What the policy is improved on, leading axis B.

    Attributes:
      observation: what is acted on.
      noise: (B, N, A), Gumbel noise of the joint actions that centralised critics see.
      weight: (B, N), summing to 1 over the batch; 0 for an agent with a single legal action.
      target_entropy: (B, N).
    """

    observation: Observation
    noise: Float[Array, "B N A"]
    weight: Float[Array, "B N"]
    target_entropy: Float[Array, "B N"]


class ISAC(OffPolicySystem):
    """Independent SAC: an agent's critics see what the agent sees. All agents share one temperature."""

    cpu_chunk_size: ClassVar[int | None] = 64
    centralised: ClassVar[bool] = False

    def __init__(
        self, config: ExperimentConfig, env: MultiAgentEnv, chunk_size: int | None = None, mesh: Mesh | None = None
    ) -> None:
        assert isinstance(config.system, SACConfig)
        self.sac = config.system
        super().__init__(config, env, chunk_size, mesh)
        networks: Any = config.network
        self.actor = Actor(make_torso(networks.actor_network.pre_torso), env.num_actions)
        self.critic = QNetwork(make_torso(networks.q_network.pre_torso), env.num_actions)

    @property
    def batch_size(self) -> int:
        """Environment steps per gradient step, for each replica."""
        return self.sac.batch_size

    @property
    def steps_before_learning(self) -> int:
        """Environment steps before learning begins: exploring has ended, and there is at least a batch."""
        return max(self.sac.explore_steps, self.sac.batch_size)

    # -- Networks ------------------------------------------------------------------------------------------------------

    def init_actor(self, key: PRNGKeyArray, observation: Observation) -> PyTree:
        """Return the policy's parameters, shared by all agents."""
        return self.actor.init(key, self.features(observation), observation.action_mask)

    def init_log_alpha(self, log_alpha: Float[Array, ""]) -> Float[Array, "..."]:
        """Return the initial log-temperature: one for all agents."""
        return log_alpha

    def init_actor_optimiser(self, hyper: Hyper, actor: PyTree) -> PyTree:
        """Return the state of the policy's optimiser."""
        return self.optimiser(hyper, "policy_lr").init(actor)

    def logits(self, actor: PyTree, observation: Observation) -> Float[Array, "*b N A"]:
        """Return masked logits of the policy."""
        logits: Any = self.actor.apply(actor, self.features(observation), observation.action_mask)
        return logits

    def critic_features(self, observation: Observation, action: Int[Array, "*b N"]) -> Float[Array, "*b N F"]:
        """Return what the critics see: the agent's own features, or the global state, its id and the others' actions.

        The others' actions are the joint action, one-hot, with the agent's own replaced by zeros.
        """
        if not self.centralised:
            return self.features(observation)
        agents, actions = self.env.num_agents, self.env.num_actions
        joint = jax.nn.one_hot(action, actions)[..., None, :, :] * (1.0 - jnp.eye(agents))[..., None]
        others = joint.reshape(*action.shape, agents * actions)
        return jnp.concatenate([append_agent_ids(global_state(observation.agents_view)), others], axis=-1)

    def q_values(self, q: PyTree, features: Float[Array, "*b F"]) -> Float[Array, "2 *b A"]:
        """Return action values of the twin critics."""
        values: Any = jax.vmap(self.critic.apply, (0, None))(q, features)
        return values

    def optimiser(self, hyper: Hyper, rate: str) -> optax.GradientTransformation:
        """Return Adam at a learning rate, with the gradient norm clipped."""
        numbers = hyper.system
        return clipped_adam(numbers[rate], numbers["max_grad_norm"])

    def init_learning(self, hyper: Hyper, key: PRNGKeyArray, observation: Observation) -> Learning:
        """Return the networks, with targets that equal the critics, and the optimisers."""
        actor_key, q_key = jax.random.split(key)
        actor = self.init_actor(actor_key, observation)
        features = self.critic_features(observation, jnp.zeros((1, self.env.num_agents), jnp.int32))
        q = jax.vmap(self.critic.init, (0, None))(jax.random.split(q_key, TWINS), features)
        log_alpha = self.init_log_alpha(jnp.log(hyper.system["init_alpha"]))
        opt_state = OptState(
            self.init_actor_optimiser(hyper, actor),
            self.optimiser(hyper, "q_lr").init(q),
            self._alpha_optimiser(hyper).init(log_alpha),
            jnp.zeros((), jnp.int32),
        )
        return Learning(Params(actor, q, q, log_alpha), opt_state)

    # -- Acting --------------------------------------------------------------------------------------------------------

    def initial_memory(self, batch_size: int) -> PyTree:
        """Return (): nothing is remembered."""
        return ()

    def draw_noise(self, key: PRNGKeyArray, steps: int) -> Float[Array, "T E N A"]:
        """Draw Gumbel noise."""
        return flat_gumbel(key, (steps, self.envs.num_envs, self.env.num_agents, self.env.num_actions))

    def explore(
        self,
        hyper: Hyper,
        params: Params,
        memory: PyTree,
        observation: Observation,
        noise: Float[Array, "E N A"],
        env_steps: Float[Array, ""],
    ) -> tuple[PyTree, Int[Array, "E N"], dict[str, Array]]:
        """Act uniformly over the legal actions for the first `explore_steps` steps, then sample from the policy."""
        uniform = jnp.where(observation.action_mask, 0.0, MASKED_LOGIT)
        exploring = env_steps < self.sac.explore_steps
        logits = jnp.where(exploring, uniform, self.logits(params.actor, observation))
        action = jnp.argmax(logits + noise, axis=-1)
        return memory, action, {"log_prob": log_prob(logits, action)}

    def act(
        self, params: Params, memory: PyTree, observation: Observation, key: PRNGKeyArray, *, greedy: bool
    ) -> tuple[PyTree, Int[Array, "b N"], dict[str, Array]]:
        """Sample from the policy, or return its most likely actions; with `log_prob` of each."""
        logits = self.logits(params.actor, observation)
        action = jnp.argmax(logits if greedy else logits + flat_gumbel(key, logits.shape), axis=-1)
        return memory, action, {"log_prob": log_prob(logits, action)}

    def training_form(self, params: Params, batch: Step) -> dict[str, Float[Array, "B L N"]]:
        """Return what acting records on sequences: `log_prob`."""
        return {"log_prob": log_prob(self.logits(params.actor, batch.observation), batch.action)}

    # -- Learning ------------------------------------------------------------------------------------------------------

    def begin_learning(self, learning: Learning, replay: Any) -> Learning:
        """Scale the temperature, before the first gradient step, by the unit of the rewards met while exploring."""
        if not self.sac.scale_init_alpha:
            return learning
        params, opt_state = learning
        unit = jnp.where(opt_state.gradient_steps == 0, reward_unit(replay), 1.0)
        return Learning(params._replace(log_alpha=params.log_alpha + jnp.log(unit)), opt_state)

    def learn_step(
        self, hyper: Hyper, learning: Learning, batch: Step, key: PRNGKeyArray
    ) -> tuple[Learning, dict[str, Float[Array, ""]]]:
        """Update the critics, then policy and temperature at every `policy_update_delay`-th step, then the targets."""
        q_key, policy_key = jax.random.split(key)
        steps: Step = jax.tree.map(lambda leaf: leaf[:, 0], batch)
        learning, q_losses = self.learn_q(hyper, learning, steps, q_key)
        learning, policy_losses = self._learn_policy_where_due(hyper, learning, steps, policy_key)
        params, opt_state = learning
        target_q = optax.incremental_update(params.q, params.target_q, hyper.system["tau"])
        learning = Learning(
            params._replace(target_q=target_q), opt_state._replace(gradient_steps=opt_state.gradient_steps + 1)
        )
        return learning, {**policy_losses, **q_losses}

    def learn_q(
        self, hyper: Hyper, learning: Learning, steps: Step, key: PRNGKeyArray
    ) -> tuple[Learning, dict[str, Float[Array, ""]]]:
        """Move both critics towards their targets."""
        params, opt_state = learning
        target = self.targets(hyper, params, steps, key)
        features = self.critic_features(steps.observation, steps.action)
        samples = QSamples(features, steps.action, target, jnp.full_like(target, 1.0 / target.size))
        losses, gradient = self.gradient(self._q_loss, params.q, samples)
        updates, q_state = self.optimiser(hyper, "q_lr").update(gradient, opt_state.q)
        q = optax.apply_updates(params.q, updates)
        return Learning(params._replace(q=q), opt_state._replace(q=q_state)), losses

    def targets(self, hyper: Hyper, params: Params, steps: Step, key: PRNGKeyArray) -> Float[Array, "B N"]:
        """Return r + γ V(s'); s' is an ended episode's last observation, and termination leaves only r."""
        discount = hyper.system["gamma"] * steps.discount
        return steps.reward + discount * self.next_values(params, steps.next_observation, key)

    def next_values(self, params: Params, observation: Observation, key: PRNGKeyArray) -> Float[Array, "B N"]:
        """Return soft values of observations: the lower one of the target critics, under the current policies."""
        logits = self.logits(params.actor, observation)
        q = self._lower_q(params.target_q, observation, logits, self._action_noise(key, logits.shape))
        return soft_value(logits, q, jnp.exp(params.log_alpha))

    def learn_policy(
        self, hyper: Hyper, learning: Learning, samples: PolicySamples, key: PRNGKeyArray
    ) -> tuple[Learning, dict[str, Float[Array, "..."]]]:
        """Move the policy towards the critics' soft optimum."""
        params, opt_state = learning
        losses, gradient = self.gradient(functools.partial(self._policy_loss, params), params.actor, samples)
        updates, actor_state = self.optimiser(hyper, "policy_lr").update(gradient, opt_state.actor)
        actor = optax.apply_updates(params.actor, updates)
        return Learning(params._replace(actor=actor), opt_state._replace(actor=actor_state)), losses

    def learn_temperature(self, hyper: Hyper, learning: Learning, losses: dict[str, Array]) -> Learning:
        """Move the temperature towards the target entropy, if it is tuned."""
        if not self.sac.autotune:
            return learning
        params, opt_state = learning
        gradient = jax.grad(lambda log_alpha: temperature_loss(log_alpha, *_entropies(losses)).sum())(params.log_alpha)
        update, alpha_state = self._alpha_optimiser(hyper).update(gradient, opt_state.alpha)
        log_alpha = optax.apply_updates(params.log_alpha, update)
        return Learning(params._replace(log_alpha=log_alpha), opt_state._replace(alpha=alpha_state))

    # -- Parts of the stages -------------------------------------------------------------------------------------------

    def _learn_policy_where_due(
        self, hyper: Hyper, learning: Learning, steps: Step, key: PRNGKeyArray
    ) -> tuple[Learning, dict[str, Float[Array, ""]]]:
        """Update policy and temperature if an update is due; return their losses in either case."""
        noise_key, learn_key = jax.random.split(key)
        samples = self._policy_samples(hyper, steps.observation, noise_key)

        def learn(learning: Learning) -> tuple[Learning, dict[str, Array]]:
            learning, losses = self.learn_policy(hyper, learning, samples, learn_key)
            return self.learn_temperature(hyper, learning, losses), losses

        def judge(learning: Learning) -> tuple[Learning, dict[str, Array]]:
            return learning, self._policy_loss(learning.params, learning.params.actor, samples)[1]

        delay = self.sac.policy_update_delay
        if delay == 1:
            learning, losses = learn(learning)
        else:
            due = learning.opt_state.gradient_steps % delay == delay - 1
            learning, losses = jax.lax.cond(due, learn, judge, learning)
        means = {name: loss.mean() for name, loss in losses.items()}
        return learning, {**means, "alpha": jnp.exp(learning.params.log_alpha).mean()}

    def _q_loss(self, q: PyTree, samples: QSamples) -> tuple[Float[Array, ""], dict[str, Array]]:
        """Return ½ Σ_k (Q_k(s, a) − y)², summed over samples with their weights."""
        taken = jax.nn.one_hot(samples.action, self.env.num_actions)
        q_tm1 = (self.q_values(q, samples.features) * taken).sum(-1)
        loss = 0.5 * ((q_tm1 - samples.target) ** 2).sum(0)
        sums = {"q_loss": (samples.weight * loss).sum(), "mean_q": (samples.weight * q_tm1.mean(0)).sum()}
        return sums["q_loss"], sums

    def _policy_loss(
        self, params: Params, actor: PyTree, samples: PolicySamples
    ) -> tuple[Float[Array, ""], dict[str, Array]]:
        """Return the policy's loss, summed over samples with their weights."""
        logits = self.logits(actor, samples.observation)
        q = self._lower_q(params.q, samples.observation, logits, samples.noise)
        losses = policy_loss(logits, q, jnp.exp(params.log_alpha))
        sums = self._weighted_sums(samples, losses, entropy(logits))
        return sums["policy_loss"].sum(), sums

    def _weighted_sums(self, samples: PolicySamples, losses: Array, entropies: Array) -> dict[str, Array]:
        """Return what the temperature and the metrics need: over all agents, or in HASAC for each."""
        parts = {"policy_loss": losses, "entropy": entropies, "target_entropy": samples.target_entropy}
        return {name: (samples.weight * part).sum() for name, part in parts.items()}

    def _policy_samples(self, hyper: Hyper, observation: Observation, key: PRNGKeyArray) -> PolicySamples:
        """Return samples for the policy; agents with a single legal action have weight 0."""
        mask = observation.action_mask
        weight = self._policy_weight((mask.sum(-1) > 1).astype(jnp.float32))
        target = target_entropy(mask, hyper.system["target_entropy_scale"])
        return PolicySamples(observation, self._action_noise(key, mask.shape), weight, target)

    def _policy_weight(self, had_choice: Float[Array, "B N"]) -> Float[Array, "B N"]:
        """Return equal weights for all agents with more than one legal action."""
        return had_choice / jnp.maximum(had_choice.sum(), 1.0)

    def _lower_q(
        self, q: PyTree, observation: Observation, logits: Float[Array, "B N A"], noise: Float[Array, "B N A"]
    ) -> Float[Array, "B N A"]:
        """Return the lower one of the twins' values, with the others' actions sampled from their policies."""
        joint_action = jnp.argmax(logits + noise, axis=-1)
        return self.q_values(q, self.critic_features(observation, joint_action)).min(0)

    def _action_noise(self, key: PRNGKeyArray, shape: tuple[int, ...]) -> Float[Array, "B N A"]:
        """Draw Gumbel noise of joint actions; zeros if critics do not see them."""
        return flat_gumbel(key, shape) if self.centralised else jnp.zeros(shape)

    def _alpha_optimiser(self, hyper: Hyper) -> optax.GradientTransformation:
        return optax.adam(hyper.system["alpha_lr"], eps=1e-5)


class MASAC(ISAC):
    """SAC with centralised critics; agents share one decentralised policy and one temperature."""

    centralised: ClassVar[bool] = True


def reward_unit(replay: Any) -> Float[Array, ""]:
    """Return how much rewards vary from one step to the next in a replay buffer: a temperature's unit.

    It is the square root of half the mean squared difference of successive rewards. This is their standard deviation if
    they are independent, but it ignores what an agent is paid at every step, such as for a place that never changes. If
    rewards are rare, it is at least `RARE` of the largest difference, since random play meets few of the rewards of
    learned play; the largest difference counts as 1 if there was none.
    Source: von Neumann 1941, https://doi.org/10.1214/aoms/1177731677.
    """
    reward = replay.experience.reward
    length = jnp.where(replay.is_full, reward.shape[1], replay.current_index)
    held = (jnp.arange(1, reward.shape[1]) < length)[:, None]
    square = jnp.where(held, jnp.diff(reward, axis=1) ** 2, 0.0)
    pairs = jnp.maximum(length - 1, 1) * (reward.size / reward.shape[1])
    largest = jnp.where(square.max() > 0.0, jnp.sqrt(square.max()), 1.0)
    return jnp.maximum(jnp.sqrt(square.sum() / (2.0 * pairs)), RARE * largest)


def _entropies(losses: dict[str, Array]) -> tuple[Array, Array]:
    return losses["entropy"], losses["target_entropy"]


__all__ = ["ISAC", "MASAC", "OptState", "Params", "PolicySamples", "QSamples", "reward_unit"]
