"""Evaluation: whole episodes played with fixed parameters, and the metrics of each."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, PyTree

from jax_party.envs.adapter import MultiAgentEnv, Observation
from jax_party.systems.base import Hyper, System, small_int


class Evaluation(NamedTuple):
    """The result of an evaluation.

    Attributes:
      episodes: metric -> (K,) float32, one value per episode: `episode_return` (mean over agents), `episode_length`,
        `episode_return_agent_<i>`, and the game's own.
      trajectory: field -> (K, T, ...) if test episodes are recorded, else empty.
    """

    episodes: dict[str, Float[Array, " K"]]
    trajectory: dict[str, Array]


class _Episode(NamedTuple):
    """K episodes in progress."""

    states: Any
    memory: PyTree
    observation: Observation
    finished: Bool[Array, " K"]
    returns: Float[Array, "K N"]
    length: Int[Array, " K"]
    game: Any


def evaluate(
    system: System,
    hyper: Hyper,
    params: PyTree,
    key: PRNGKeyArray,
    *,
    num_episodes: int,
    greedy: bool,
    record: bool,
) -> Evaluation:
    """Play `num_episodes` whole episodes side by side.

    An episode that ends before the time limit counts up to its end; its later steps add nothing. With `record` the
    trajectory has `time_limit` steps: those after an episode's end have reward 0 and `done` set.

    Args:
      system: the system whose `act` plays.
      hyper: traced settings of the game.
      params: the parameters to play with.
      key: (2,) uint32.
      num_episodes: K.
      greedy: play the most likely action rather than a sample.
      record: whether to return the trajectory.
    """
    env = system.env.with_params(hyper.env)
    reset_key, play_key = jax.random.split(key)
    game = env.episode_metrics
    start = _begin(env, system.initial_memory(num_episodes), reset_key, num_episodes)

    def step(episode: _Episode, time: Array) -> tuple[_Episode, dict[str, Array]]:
        act_key = jax.random.fold_in(play_key, time)
        memory, action, known = system.act(params, episode.memory, episode.observation, act_key, greedy=greedy)
        states, played = jax.vmap(env.step)(episode.states, action)
        running = ~episode.finished
        added = jax.vmap(game.add)(episode.game, played.metrics) if game is not None else ()
        following = _Episode(
            states,
            memory,
            played.observation,
            episode.finished | played.done,
            episode.returns + jnp.where(running[:, None], played.reward, 0.0),
            episode.length + running,
            jax.tree.map(lambda new, old: jnp.where(_like(running, new), new, old), added, episode.game),
        )
        if not record:
            return following, {}
        fields = {
            "done": episode.finished | (time == 0),
            "action": action.astype(small_int(env.num_actions)),
            "reward": jnp.where(running[:, None], played.reward, 0.0),
            "observation": episode.observation.agents_view,
            "legal_action_mask": episode.observation.action_mask,
            **known,
        }
        return following, fields

    final, trajectory = jax.lax.scan(step, start, jnp.arange(env.time_limit))
    fields = {name: jnp.swapaxes(field, 0, 1) for name, field in trajectory.items()}
    return Evaluation(_metrics(env, final), fields)


def _begin(env: MultiAgentEnv, memory: PyTree, key: PRNGKeyArray, num_episodes: int) -> _Episode:
    """Return K episodes at their first step, each under its own key."""
    indices = jnp.arange(num_episodes)
    states, first = jax.vmap(env.reset)(jax.vmap(lambda index: jax.random.fold_in(key, index))(indices))
    game = env.episode_metrics
    return _Episode(
        states,
        memory,
        first.observation,
        jnp.zeros((num_episodes,), bool),
        jnp.zeros((num_episodes, env.num_agents)),
        jnp.zeros((num_episodes,), jnp.int32),
        jax.vmap(lambda _: game.zero(env.num_agents))(indices) if game is not None else (),
    )


def _metrics(env: MultiAgentEnv, final: _Episode) -> dict[str, Float[Array, " K"]]:
    """Return the metrics of K finished episodes."""
    episodes = {"episode_return": final.returns.mean(-1), "episode_length": final.length.astype(jnp.float32)}
    for agent in range(env.num_agents):
        episodes[f"episode_return_agent_{agent}"] = final.returns[:, agent]
    game = env.episode_metrics
    if game is None:
        return episodes
    return episodes | jax.vmap(lambda totals: game.summarise(totals, env.num_agents))(final.game)


def _like(flags: Bool[Array, " K"], leaf: Array) -> Array:
    return flags.reshape(-1, *(1,) * (leaf.ndim - 1))
