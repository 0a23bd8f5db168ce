"""HASAC: heterogeneous-agent soft actor-critic, https://arxiv.org/abs/2306.10715.

Every agent has its own policy and temperature. Policies are improved one after another, in an order drawn anew each
time, each against the updated policies of the agents before it: the paper's sequential policy improvement.

The paper's game has one reward for the team. Here an agent's row of the centralised twin critics is fitted to its own
reward, so that games with individual rewards can be played too; with a shared reward every row estimates the paper's
joint soft action value. As in the paper, the entropies of all agents, each at its own temperature, count in the value
of the next state. A row gives values for all own actions, given the others': the expectation over own actions is exact.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, PRNGKeyArray, PyTree

from jax_party.envs.adapter import Observation
from jax_party.ops.losses import entropy
from jax_party.ops.soft_values import expected_value, policy_loss
from jax_party.systems.base import Hyper
from jax_party.systems.off_policy import Learning
from jax_party.systems.sac import MASAC, Params, PolicySamples


class HASAC(MASAC):
    """SAC with a policy for each agent (leading axis N of `Params.actor`), improved in turn."""

    def init_actor(self, key: PRNGKeyArray, observation: Observation) -> PyTree:
        """Return each agent's own parameters, leading axis N."""
        keys = jax.random.split(key, self.env.num_agents)
        features = jnp.moveaxis(self.features(observation), -2, 0)
        return jax.vmap(self.actor.init)(keys, features, jnp.moveaxis(observation.action_mask, -2, 0))

    def init_log_alpha(self, log_alpha: Float[Array, ""]) -> Float[Array, " N"]:
        """Return a temperature for each agent."""
        return jnp.full((self.env.num_agents,), log_alpha)

    def init_actor_optimiser(self, hyper: Hyper, actor: PyTree) -> PyTree:
        """Return the state of each agent's own optimiser, leading axis N."""
        return jax.vmap(self.optimiser(hyper, "policy_lr").init)(actor)

    def logits(self, actor: PyTree, observation: Observation) -> Float[Array, "*b N A"]:
        """Return masked logits of each agent's own policy."""
        apply = jax.vmap(self.actor.apply, (0, -2, -2), -2)
        logits: Any = apply(actor, self.features(observation), observation.action_mask)
        return logits

    def next_values(self, params: Params, observation: Observation, key: PRNGKeyArray) -> Float[Array, "B N"]:
        """Return soft values under the joint policy: Σ_a π_i(a) min_k Q̄_k(s', i, a'_-i, a) + Σ_j α_j H(π_j)."""
        logits = self.logits(params.actor, observation)
        q = self._lower_q(params.target_q, observation, logits, self._action_noise(key, logits.shape))
        team_entropy = (jnp.exp(params.log_alpha) * entropy(logits)).sum(-1, keepdims=True)
        return expected_value(logits, q) + team_entropy

    def learn_policy(
        self, hyper: Hyper, learning: Learning, samples: PolicySamples, key: PRNGKeyArray
    ) -> tuple[Learning, dict[str, Float[Array, "..."]]]:
        """Improve the agents' policies one after another, in a random order.

        Returns:
          Losses of each agent, (N,).
        """
        order = jax.random.permutation(key, self.env.num_agents)
        return self.learn_in_turn(hyper, learning, samples, order)

    def learn_in_turn(
        self, hyper: Hyper, learning: Learning, samples: PolicySamples, order: Int[Array, " N"]
    ) -> tuple[Learning, dict[str, Float[Array, " N"]]]:
        """Improve the policies in a given order (the agent at each turn).

        Once an agent has learned, those after it face its action under the new policy and the same noise.
        """
        params, opt_state = learning
        optimiser = self.optimiser(hyper, "policy_lr")
        observation = samples.observation
        action = jnp.argmax(self.logits(params.actor, observation) + samples.noise, axis=-1)

        def turn(carry: tuple[PyTree, PyTree, Array], agent: Array) -> tuple[tuple[PyTree, PyTree, Array], Any]:
            actors, states, action = carry
            actor, state = (jax.tree.map(lambda leaf: leaf[agent], tree) for tree in (actors, states))
            loss = functools.partial(self._own_loss, params, agent)
            losses, gradient = self.gradient(loss, actor, (samples, action))
            updates, state = optimiser.update(gradient, state)
            actor = optax.apply_updates(actor, updates)
            logits = self._own_logits(actor, observation, agent)
            action = action.at[:, agent].set(jnp.argmax(logits + samples.noise[:, agent], axis=-1))
            return (_put(actors, agent, actor), _put(states, agent, state), action), losses

        (actors, states, _), losses = jax.lax.scan(turn, (params.actor, opt_state.actor, action), order)
        by_agent = {name: jnp.zeros_like(loss).at[order].set(loss) for name, loss in losses.items()}
        return Learning(params._replace(actor=actors), opt_state._replace(actor=states)), by_agent

    def _own_loss(
        self, params: Params, agent: Int[Array, ""], actor: PyTree, samples: tuple[PolicySamples, Int[Array, "B N"]]
    ) -> tuple[Float[Array, ""], dict[str, Array]]:
        """Return an agent's policy loss given the joint action, summed over samples with their weights."""
        chosen, action = samples
        logits = self._own_logits(actor, chosen.observation, agent)
        features = self.critic_features(chosen.observation, action)[:, agent]
        q = self.q_values(params.q, features).min(0)
        losses = policy_loss(logits, q, jnp.exp(params.log_alpha[agent]))
        own = chosen._replace(weight=chosen.weight[:, agent], target_entropy=chosen.target_entropy[:, agent])
        sums = self._weighted_sums(own, losses, entropy(logits))
        return sums["policy_loss"], sums

    def _own_logits(self, actor: PyTree, observation: Observation, agent: Int[Array, ""]) -> Float[Array, "B A"]:
        """Return masked logits of one agent's policy."""
        logits: Any = self.actor.apply(actor, self.features(observation)[:, agent], observation.action_mask[:, agent])
        return logits

    def _weighted_sums(self, samples: PolicySamples, losses: Array, entropies: Array) -> dict[str, Array]:
        """Sum over the samples only: for one agent, or (N,) for all."""
        parts = {"policy_loss": losses, "entropy": entropies, "target_entropy": samples.target_entropy}
        return {name: (samples.weight * part).sum(0) for name, part in parts.items()}

    def _policy_weight(self, had_choice: Float[Array, "B N"]) -> Float[Array, "B N"]:
        """Return equal weights for all steps at which an agent had more than one legal action."""
        return had_choice / jnp.maximum(had_choice.sum(0), 1.0)


def _put(tree: PyTree, index: Int[Array, ""], part: PyTree) -> PyTree:
    """Return `tree` with `part` at `index` of its leading axis."""
    return jax.tree.map(lambda leaf, own: leaf.at[index].set(own), tree, part)


__all__ = ["HASAC"]
