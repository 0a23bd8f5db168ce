"""Q-learning: exploration, targets and TD errors, per element."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int


def epsilon_schedule(
    env_steps: Float[Array, ""] | float, eps_min: Float[Array, ""] | float, eps_decay: Float[Array, ""] | float
) -> Float[Array, ""]:
    """Return the exploration rate: it falls linearly from 1 to `eps_min` over `eps_decay` steps, then stays."""
    progress = jnp.minimum(env_steps / eps_decay, 1.0)
    return 1.0 + progress * (eps_min - 1.0)


def greedy_action(q: Float[Array, "*b A"], legal: Bool[Array, "*b A"]) -> Int[Array, "*b"]:
    """Return the legal action with the largest value; the first one among equals."""
    return jnp.argmax(jnp.where(legal, q, -jnp.inf), axis=-1)


def epsilon_greedy(
    q: Float[Array, "*b A"],
    legal: Bool[Array, "*b A"],
    epsilon: Float[Array, ""] | float,
    explore_noise: Float[Array, "*b"],
    choice_noise: Float[Array, "*b A"],
) -> Int[Array, "*b"]:
    """Return with probability ε a uniformly drawn legal action, otherwise the greedy one.

    Args:
      q: action values.
      legal: which actions may be taken; no row is empty.
      epsilon: ε.
      explore_noise: uniform in [0, 1).
      choice_noise: independent and identically distributed, with any continuous distribution.
    """
    explores = explore_noise < epsilon
    return greedy_action(jnp.where(explores[..., None], choice_noise, q), legal)


def chosen_value(q: Float[Array, "*b A"], action: Int[Array, "*b"]) -> Float[Array, "*b"]:
    """Return the values of the given actions."""
    one_hot = jax.nn.one_hot(action, q.shape[-1], dtype=bool)
    return jnp.where(one_hot, q, 0.0).sum(-1)


def bootstrap_value(
    q_t_value: Float[Array, "*b A"], q_t_selector: Float[Array, "*b A"], legal_t: Bool[Array, "*b A"]
) -> Float[Array, "*b"]:
    """Return the value of what follows: that of the legal action that the selector rates best.

    Double Q-learning, https://arxiv.org/abs/1509.06461 eq. 4, if the selector is the online network and the value is
    the target network's; Q-learning's maximum if both are the target network's.
    """
    return chosen_value(q_t_value, greedy_action(q_t_selector, legal_t))


def td_error(
    q_tm1: Float[Array, "*b"], r_t: Float[Array, "*b"], discount_t: Float[Array, "*b"], v_t: Float[Array, "*b"]
) -> Float[Array, "*b"]:
    """Return r_t + discount_t v_t − q_tm1, without gradient through the target.

    Args:
      q_tm1: values of the actions taken.
      r_t: rewards.
      discount_t: gamma times the environment's discount: 0 at termination, gamma at truncation.
      v_t: values of what followed; where an episode ended, of its last observation.
    """
    return jax.lax.stop_gradient(r_t + discount_t * v_t) - q_tm1


__all__ = ["bootstrap_value", "chosen_value", "epsilon_greedy", "epsilon_schedule", "greedy_action", "td_error"]
