"""JaxParty as one of Mava's environments: the entry in Mava's registry, and the measurements around its wrappers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
from jumanji.registration import register, registered_environments
from jumanji.types import TimeStep
from jumanji.wrappers import Wrapper
from omegaconf import DictConfig, OmegaConf

from jax_party.engines.mava.config import GAME
from jax_party.env.env import JaxParty
from jax_party.systems.base import small_int

ENTERED_ID = "JaxPartyInMava-v0"
FIELDS = "jax_party"
"""The key, among Mava's episode metrics, of the fields that record a training step."""


def make_game(generator: Mapping[str, Any], team_reward: bool = False, shared_reward: bool = False) -> SharedReward:
    """Return the game, as `jumanji.make` requests it.

    Args:
      generator: the scenario's task config; Mava uses this name for whatever it passes to an environment.
      team_reward: whether every agent gets the sum of the agents' rewards.
      shared_reward: whether every agent gets their mean.
    """
    settings = OmegaConf.to_container(generator) if isinstance(generator, DictConfig) else dict(generator)
    assert isinstance(settings, dict)
    return SharedReward(JaxParty(**{str(key): value for key, value in settings.items()}), team_reward, shared_reward)


def enter(make_env: Any, jumanji_wrapper: type) -> None:
    """Add JaxParty to Mava's registry of Jumanji environments; doing it again does nothing.

    Args:
      make_env: the module `mava.utils.make_env`.
      jumanji_wrapper: its base class for them, `mava.wrappers.jumanji.JumanjiMarlWrapper`.
    """
    if ENTERED_ID not in registered_environments():
        register(id=ENTERED_ID, entry_point=f"{__name__}:make_game")
    registry = make_env._jumanji_registry
    if GAME not in registry:
        entry = {"generator": _settings, "wrapper": _make_wrapper(jumanji_wrapper)}
        registry |= {GAME: entry, ENTERED_ID: entry}  # earlier versions of Mava look it up by Jumanji's id


def _settings(**task_config: Any) -> dict[str, Any]:
    return {
        name: OmegaConf.to_container(value) if OmegaConf.is_config(value) else value
        for name, value in task_config.items()
    }


def _make_wrapper(jumanji_wrapper: type) -> type:
    """Return a wrapper of Mava's kind for JaxParty, whose views, masks and step counts already have Mava's form."""
    from mava.types import Observation

    class JaxPartyWrapper(jumanji_wrapper):
        def __init__(self, env: SharedReward, add_global_state: bool = False) -> None:
            super().__init__(env, add_global_state)

        def modify_timestep(self, timestep: TimeStep) -> TimeStep:
            seen = timestep.observation
            observation = Observation(seen.agents_view, seen.action_mask, seen.step_count)
            return timestep.replace(observation=observation)  # type: ignore[attr-defined]

    return JaxPartyWrapper


class SharedReward(Wrapper):
    """A game whose agents may get the sum, or the mean, of their rewards."""

    def __init__(self, env: JaxParty, team_reward: bool, shared_reward: bool) -> None:
        super().__init__(env)
        self._team_reward = team_reward
        self._shared_reward = shared_reward

    def step(self, state: Any, action: chex.Array) -> tuple[Any, TimeStep]:
        """Play one step; the game's own metrics keep each agent's own reward."""
        state, timestep = self._env.step(state, jnp.asarray(action, jnp.int32))
        reward = timestep.reward
        if self._team_reward:
            reward = jnp.broadcast_to(reward.sum(), reward.shape)
        if self._shared_reward:
            reward = jnp.broadcast_to(reward.mean(), reward.shape)
        return state, timestep.replace(reward=reward)  # type: ignore[attr-defined]


class MeasuredState(NamedTuple):
    """An evaluated episode so far: Mava's state, each agent's return, and the game's own totals."""

    inner: Any
    returns: chex.Array
    totals: Any


class Measured(Wrapper):
    """Mava's evaluation environment, with each agent's return and the game's metrics among its episode metrics."""

    _env: Any

    def __init__(self, env: Any) -> None:
        super().__init__(env)
        self._game = env.episode_metrics

    def reset(self, key: chex.PRNGKey) -> tuple[MeasuredState, TimeStep]:
        """Begin an episode."""
        state, timestep = self._env.reset(key)
        agents = self._env.num_agents
        return self._measure(MeasuredState(state, jnp.zeros((agents,)), self._game.zero(agents)), timestep)

    def step(self, state: MeasuredState, action: chex.Array) -> tuple[MeasuredState, TimeStep]:
        """Play one step."""
        inner, timestep = self._env.step(state.inner, action)
        totals = self._game.add(state.totals, timestep.extras["metrics"])
        return self._measure(MeasuredState(inner, state.returns + timestep.reward, totals), timestep)

    def _measure(self, state: MeasuredState, timestep: TimeStep) -> tuple[MeasuredState, TimeStep]:
        agents = self._env.num_agents
        returns = {f"episode_return_agent_{agent}": state.returns[agent] for agent in range(agents)}
        measured = returns | self._game.summarise(state.totals, agents)
        extras = timestep.extras | {"episode_metrics": timestep.extras["episode_metrics"] | measured}
        return state, timestep.replace(extras=extras)  # type: ignore[attr-defined]


class RecordedState(NamedTuple):
    """Mava's state, the agents' observation, and whether it is the first of an episode."""

    inner: Any
    observation: Any
    first: chex.Array


class Recorded(Wrapper):
    """Mava's training environment, with the fields that record each step among its episode metrics.

    Mava's learners return the episode metrics of every step, so the rollouts leave the compiled program with them.
    """

    _env: Any

    def reset(self, key: chex.PRNGKey) -> tuple[RecordedState, TimeStep]:
        """Begin an episode."""
        inner, timestep = self._env.reset(key)
        state = RecordedState(inner, timestep.observation, jnp.ones((), bool))
        nothing = jax.tree.map(jnp.zeros_like, self._fields(state, self._no_action(), timestep))
        return state, _with_fields(timestep, nothing)

    def step(self, state: RecordedState, action: chex.Array) -> tuple[RecordedState, TimeStep]:
        """Play one step."""
        inner, timestep = self._env.step(state.inner, action)
        fields = self._fields(state, action, timestep)
        return RecordedState(inner, timestep.observation, timestep.last()), _with_fields(timestep, fields)

    def _no_action(self) -> chex.Array:
        return jnp.zeros((self._env.num_agents,), jnp.int32)

    def _fields(self, state: RecordedState, action: chex.Array, timestep: TimeStep) -> dict[str, chex.Array]:
        return step_fields(self._env, state.observation, state.first, action, timestep.reward)


def _with_fields(timestep: TimeStep, fields: dict[str, chex.Array]) -> TimeStep:
    extras = timestep.extras | {"episode_metrics": timestep.extras["episode_metrics"] | {FIELDS: fields}}
    return timestep.replace(extras=extras)  # type: ignore[attr-defined]


def step_fields(
    env: Any, observation: Any, first: chex.Array, action: chex.Array, reward: chex.Array
) -> dict[str, chex.Array]:
    """Return what the vault keeps of a step; any leading axes.

    Args:
      env: the environment of the observation.
      observation: what the agents saw, preceded by Mava's agent ids if it has added them.
      first: whether it was the first observation of an episode.
      action, reward: the agents' actions and the rewards for them.
    """
    features = env.unwrapped.observation_spec.agents_view.shape[-1]
    return {
        "done": jnp.asarray(first, bool),
        "action": action.astype(small_int(env.action_dim)),
        "reward": jnp.asarray(reward, jnp.float32),
        "observation": observation.agents_view[..., -features:],
        "legal_action_mask": observation.action_mask,
    }
