"""Trajectories of Mava's systems in the vault's layout: one batch row per environment, an unbroken time axis."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import chex
import jax
import jax.numpy as jnp

from jax_party.engines.mava.entering import step_fields


def in_time(fields: dict[str, chex.Array], is_q_learning: bool) -> dict[str, chex.Array]:
    """Rearrange a period's steps from Mava's learners by environment and time.

    Args:
      fields: leading axes (devices, updates, replicas, steps, environments); for Q-learning (devices, replicas,
        updates, steps, environments).
      is_q_learning: whether the second layout applies.

    Returns:
      The fields with leading axes (devices * replicas * environments, updates * steps).
    """
    axes = (0, 1, 4, 2, 3) if is_q_learning else (0, 2, 4, 1, 3)

    def arrange(leaf: chex.Array) -> chex.Array:
        arranged = jnp.transpose(leaf, (*axes, *range(5, leaf.ndim)))
        devices, replicas, envs, updates, steps = arranged.shape[:5]
        return arranged.reshape(devices * replicas * envs, updates * steps, *arranged.shape[5:])

    return jax.tree.map(arrange, fields)


def make_recorder(env: Any, act_fn: Callable[..., Any], config: Any) -> Callable[..., dict[str, chex.Array]]:
    """Return a function that replays the episodes of Mava's evaluator with the same keys and keeps every step.

    Mava's evaluator keeps no trajectories; with equal keys and parameters its episodes are the same again.

    Args:
      env: the environment that Mava's evaluator plays in.
      act_fn: the policy that it plays with.
      config: Mava's config.

    Returns:
      A function with the arguments of Mava's evaluator. It returns field -> (K, T, …): episodes in the evaluator's
      order, `env.time_limit` steps each; those after an episode's end have reward 0 and `done` set.
    """
    from mava.evaluator import get_num_eval_envs

    at_once = get_num_eval_envs(config, absolute_metric=False)
    rounds = math.ceil(config.arch.num_eval_episodes / (at_once * jax.device_count()))

    def play(params: Any, key: chex.PRNGKey, memory: Any) -> dict[str, chex.Array]:
        def step(carry: Any, index: chex.Array) -> tuple[Any, dict[str, chex.Array]]:
            state, timestep, key, memory, finished = carry
            key, act_key = jax.random.split(key)
            action, memory = act_fn(params, timestep, act_key, memory)
            state, played = jax.vmap(env.step)(state, action)
            reward = jnp.where(finished[:, None], 0.0, played.reward)
            fields = step_fields(env, timestep.observation, finished | (index == 0), action, reward)
            return (state, played, key, memory, finished | played.last()), fields

        def episodes(key: Any, _: Any) -> tuple[Any, dict[str, chex.Array]]:
            key, reset_key = jax.random.split(key)
            state, timestep = jax.vmap(env.reset)(jax.random.split(reset_key, at_once))
            begin = (state, timestep, key, memory, jnp.zeros((at_once,), bool))
            _, fields = jax.lax.scan(step, begin, jnp.arange(env.time_limit))
            return key, jax.tree.map(lambda leaf: jnp.swapaxes(leaf, 0, 1), fields)

        _, fields = jax.lax.scan(episodes, key, None, length=rounds)
        return fields

    program = jax.pmap(play)

    def record(params: Any, key: chex.PRNGKey, memory: Any) -> dict[str, chex.Array]:
        fields = program(params, key, memory)
        return jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[3:]), fields)

    return record
