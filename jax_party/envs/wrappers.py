"""Code between an environment and a system: agent ids, global state, episodes, auto-reset."""

from __future__ import annotations

import functools
from typing import Any, Final, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from jax_party.envs.adapter import MultiAgentEnv, Observation, Transition


def append_agent_ids(features: Float[Array, "*b N F"]) -> Float[Array, "*b N F+N"]:
    """Append to each agent's features the one-hot encoding of its index."""
    num_agents = features.shape[-2]
    ids = jnp.broadcast_to(jnp.eye(num_agents, dtype=features.dtype), (*features.shape[:-1], num_agents))
    return jnp.concatenate([features, ids], axis=-1)


def global_state(agents_view: Float[Array, "*b N F"]) -> Float[Array, "*b N N*F"]:
    """Return the views of all agents side by side, the same for each agent; float32."""
    *batch, num_agents, features = agents_view.shape
    joined = agents_view.reshape(*batch, 1, num_agents * features)
    return jnp.broadcast_to(joined, (*batch, num_agents, num_agents * features))


class Episodes(NamedTuple):
    """Returns and lengths for E environments: those of the running episodes, and sums over the finished ones.

    Attributes:
      running_return: (E, N) float32.
      running_length: (E,) int32.
      partial: (E,) bool, the running episode was joined midway and does not count when it ends.
      finished_return: (N,) float32, summed over finished episodes.
      finished_length: () float32, summed likewise.
      finished: () float32, the number of finished episodes.
    """

    running_return: Float[Array, "E N"]
    running_length: Int[Array, " E"]
    partial: Bool[Array, " E"]
    finished_return: Float[Array, " N"]
    finished_length: Float[Array, ""]
    finished: Float[Array, ""]

    @classmethod
    def zero(cls, num_envs: int, num_agents: int) -> Episodes:
        """Return the state before any step."""
        return cls(
            jnp.zeros((num_envs, num_agents)),
            jnp.zeros((num_envs,), jnp.int32),
            jnp.zeros((num_envs,), bool),
            jnp.zeros((num_agents,)),
            jnp.zeros(()),
            jnp.zeros(()),
        )

    def add(self, reward: Float[Array, "E N"], done: Bool[Array, " E"]) -> Episodes:
        """Count one step of every environment."""
        returns, length = self.running_return + reward, self.running_length + 1
        counts = done & ~self.partial
        return Episodes(
            jnp.where(done[:, None], 0.0, returns),
            jnp.where(done, 0, length),
            self.partial & ~done,
            self.finished_return + jnp.where(counts[:, None], returns, 0.0).sum(0),
            self.finished_length + jnp.where(counts, length, 0).sum(),
            self.finished + counts.sum(),
        )

    def clear(self) -> Episodes:
        """Clear the sums over finished episodes; the running ones continue."""
        zero = Episodes.zero(*self.running_return.shape)
        return zero._replace(
            running_return=self.running_return, running_length=self.running_length, partial=self.partial
        )


LONGEST_STAGGER: Final = 10_000
"""The most steps that an environment is played at random before training; longer episodes are joined in their first
part."""


class EnvState(NamedTuple):
    """E environments in mid-episode.

    Attributes:
      states: the environments' own states, leading axis E.
      observation: what the agents see now, leading axis E.
      last_done: (E,) bool, True where `observation` is the first of an episode.
      keys: (E, 2) uint32, the next reset key of each environment.
      episodes: returns and lengths.
    """

    states: Any
    observation: Observation
    last_done: Bool[Array, " E"]
    keys: PRNGKeyArray
    episodes: Episodes


class AutoResetEnvs:
    """E copies of an environment, each reset when its episode ends.

    The reset is computed only at steps at which some episode ends, not at every step.
    """

    def __init__(self, env: MultiAgentEnv, num_envs: int) -> None:
        self.env = env
        self.num_envs = num_envs

    def reset(self, key: PRNGKeyArray) -> EnvState:
        """Begin an episode in every environment, each under its own key."""
        pairs = jax.vmap(jax.random.split)(self._first_keys(key))
        states, first = jax.vmap(self.env.reset)(pairs[:, 0])
        episodes = Episodes.zero(self.num_envs, self.env.num_agents)
        return EnvState(states, first.observation, jnp.ones((self.num_envs,), bool), pairs[:, 1], episodes)

    def reset_staggered(self, key: PRNGKeyArray) -> EnvState:
        """Begin in every environment at a different step of an episode, reached by random play.

        Environments that begin together stay together if all episodes have the same length: a rollout is then a single
        slice of the game. Here the first steps are spread evenly over those of an episode, up to the time limit or
        `LONGEST_STAGGER`. Episodes joined midway are not counted in `episodes`, and `last_done` is False for them,
        since they do not begin here.
        """
        reset_key, shift_key, play_key = jax.random.split(key, 3)
        most = min(self.env.time_limit, LONGEST_STAGGER)
        places = jnp.arange(self.num_envs) + jax.random.uniform(shift_key)
        steps = (places * (most / self.num_envs)).astype(jnp.int32)

        def play(index: Int[Array, ""], carry: tuple[Any, Observation, Array, Array]) -> tuple[Any, ...]:
            """Reset ended episodes, then step the environments that are due; the last iteration only resets."""
            states, observation, ended, keys = carry
            states, observation, keys = self._begin_where_any(ended, states, observation, keys)
            noise = jax.random.uniform(jax.random.fold_in(play_key, index), observation.action_mask.shape)
            action = jnp.argmax(jnp.where(observation.action_mask, noise, -1.0), axis=-1)
            stepped, played = jax.vmap(self.env.step)(states, action)
            due = (index >= most - steps) & (index < most)
            after = stepped, played.observation, played.done
            return *jax.tree.map(
                functools.partial(_where, due), after, (states, observation, jnp.zeros_like(due))
            ), keys

        nowhere = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), jax.eval_shape(self.reset, reset_key))
        start = nowhere.states, nowhere.observation, jnp.ones_like(nowhere.last_done), self._first_keys(reset_key)
        states, observation, _, keys = jax.lax.fori_loop(0, most + 1, play, start)
        midway = (observation.step_count > 0).any(-1)
        return EnvState(states, observation, ~midway, keys, nowhere.episodes._replace(partial=midway))

    def step(self, state: EnvState, action: Int[Array, "E N"]) -> tuple[EnvState, Transition]:
        """Play one step in every environment.

        Returns:
          The state that the next step starts from (a fresh episode where one ended), and the transition as it was
          played: its observation is the ended episode's last, for bootstrapping.
        """
        states, played = jax.vmap(self.env.step)(state.states, action)
        done = played.done
        states, observation, keys = self._begin_where_any(done, states, played.observation, state.keys)
        episodes = state.episodes.add(played.reward, done)
        return EnvState(states, observation, done, keys, episodes), played

    def _first_keys(self, key: PRNGKeyArray) -> PRNGKeyArray:
        return jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(self.num_envs))

    def _begin_where_any(
        self, done: Bool[Array, " E"], states: Any, observation: Observation, keys: PRNGKeyArray
    ) -> tuple[Any, Observation, PRNGKeyArray]:
        """Begin an episode where one is done, at no cost if none is."""
        begun: tuple[Any, Observation, PRNGKeyArray] = jax.lax.cond(
            done.any(),
            self._begin_where,
            lambda _done, states, observation, keys: (states, observation, keys),
            done,
            states,
            observation,
            keys,
        )
        return begun

    def _begin_where(
        self, done: Bool[Array, " E"], states: Any, observation: Observation, keys: PRNGKeyArray
    ) -> tuple[Any, Observation, PRNGKeyArray]:
        pairs = jax.vmap(jax.random.split)(keys)
        fresh_states, first = jax.vmap(self.env.reset)(pairs[:, 0])

        def choose(fresh: Array, old: Array) -> Array:
            return _where(done, fresh, old)

        return (
            jax.tree.map(choose, fresh_states, states),
            jax.tree.map(choose, first.observation, observation),
            choose(pairs[:, 1], keys),
        )


def _where(chosen: Bool[Array, " E"], new: Array, old: Array) -> Array:
    """Return `new` in the chosen environments and `old` in the others; leading axis E."""
    return jnp.where(chosen.reshape(-1, *(1,) * (old.ndim - 1)), new, old)
