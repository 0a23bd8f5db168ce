"""Any Jumanji multi-agent environment behind one adapter.

Jumanji's environments differ in their conventions: a view may be a grid, a reward one number for the team, a discount
one number for all agents. `MultiAgentEnv` gives the systems a single form of each.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from jax_party.config import EnvConfig, GameScenario
from jax_party.errors import ConfigError


class Observation(NamedTuple):
    """What the agents of one environment see.

    Attributes:
      agents_view: (N, F) float32, one row per agent.
      action_mask: (N, A) bool, True where the action is legal; no row is empty.
      step_count: (N,) int32, steps since the episode began.
    """

    agents_view: Float[Array, "*b N F"]
    action_mask: Bool[Array, "*b N A"]
    step_count: Int[Array, "*b N"]


class Transition(NamedTuple):
    """The result of a step of one environment.

    Attributes:
      observation: after the step.
      reward: (N,) float32.
      discount: (N,) float32, 0 where the episode terminated; truncation leaves it at 1.
      done: () bool, the episode ended, by termination or truncation.
      metrics: the environment's own metrics of the step.
    """

    observation: Observation
    reward: Float[Array, "*b N"]
    discount: Float[Array, "*b N"]
    done: Bool[Array, "*b"]
    metrics: dict[str, Any]


def _plain_view(observation: Any) -> Array:
    view = jnp.asarray(observation.agents_view, jnp.float32)
    return view.reshape(view.shape[0], -1)


def _connector_view(observation: Any) -> Array:
    """Return Connector's shared grid as Mava shows it to each agent, flattened.

    The channels are positions and targets by agent, paths, own position, own target. Agents are numbered from the
    viewer on, in cyclic order.
    """
    path, position, target = 1, 2, 3
    num_agents = observation.action_mask.shape[-2]
    shift = target * jnp.arange(num_agents)[:, None, None]
    grid = jnp.where(observation.grid > 0, (observation.grid - 1 - shift) % (target * num_agents) + 1, 0)
    index = jnp.ceil(grid / target) / num_agents
    channels = (
        jnp.where(grid % target == position, index, 0.0),
        jnp.where((grid % target == 0) & (grid != 0), index, 0.0),
        jnp.where(grid % target == path, 1.0, 0.0),
        jnp.where(grid == position, 1.0, 0.0),
        jnp.where(grid == target, 1.0, 0.0),
    )
    return jnp.stack(channels, axis=-1).astype(jnp.float32).reshape(num_agents, -1)


class MultiAgentEnv:
    """A Jumanji environment with `N` agents, `A` actions each, and the views that the systems read.

    Attributes:
      num_agents: N.
      num_actions: A, the same for every agent.
      num_features: F, features of one agent's view.
      time_limit: the largest number of steps per episode.
      episode_metrics: the game's own per-episode metrics (`zero`, `add`, `summarise`), or None.
    """

    def __init__(
        self,
        env: Any,
        view: Callable[[Any], Array] = _plain_view,
        *,
        team_reward: bool = False,
        shared_reward: bool = False,
    ) -> None:
        self._env = env
        self._view = view
        self._team_reward = team_reward
        self._shared_reward = shared_reward
        self.num_agents = int(env.num_agents)
        self.num_actions = int(env.action_spec.num_values[0])
        if self.num_actions < 1:
            raise ConfigError(f"env: {type(env).__name__} has {self.num_actions} actions; agents need at least 1")
        self.time_limit = int(env.time_limit)
        self.episode_metrics = getattr(env, "episode_metrics", None)
        _, example = jax.eval_shape(self.reset, jax.random.PRNGKey(0))
        self.num_features = int(example.observation.agents_view.shape[-1])

    def with_params(self, params: Mapping[str, Any] | None) -> MultiAgentEnv:
        """Return the environment with traced settings `params`; without any, the environment itself."""
        if not params:
            return self
        copy = object.__new__(type(self))
        copy.__dict__.update(self.__dict__)
        copy._env = self._env.with_params(game_params(params))
        return copy

    def reset(self, key: PRNGKeyArray) -> tuple[Any, Transition]:
        """Begin an episode."""
        state, timestep = self._env.reset(key)
        return state, self._adapt(timestep)

    def step(self, state: Any, action: Int[Array, " N"]) -> tuple[Any, Transition]:
        """Play one step. `action`: (N,) int."""
        state, timestep = self._env.step(state, action.astype(jnp.int32))
        return state, self._adapt(timestep)

    def animate(self, states: Sequence[Any], interval: int, save_path: str) -> None:
        """Save consecutive states of an episode as a `.gif`, or as an `.mp4` with ffmpeg; `interval` ms per state."""
        self._env.animate(list(states), interval, save_path)

    def _adapt(self, timestep: Any) -> Transition:
        agents = (self.num_agents,)
        observation = Observation(
            agents_view=self._view(timestep.observation),
            action_mask=jnp.asarray(timestep.observation.action_mask, bool),
            step_count=jnp.broadcast_to(jnp.asarray(timestep.observation.step_count, jnp.int32), agents),
        )
        reward = jnp.asarray(timestep.reward, jnp.float32)
        if self._team_reward and reward.ndim:
            reward = reward.sum()
        reward = jnp.broadcast_to(reward, agents)
        if self._shared_reward:
            reward = jnp.broadcast_to(reward.mean(), agents)
        discount = jnp.broadcast_to(jnp.asarray(timestep.discount, jnp.float32), agents)
        if self._team_reward or self._shared_reward:
            # An agent that is done early (Connector) still earns the others' rewards until the episode ends.
            discount = jnp.broadcast_to(jnp.where(timestep.last(), discount.max(), 1.0), agents)
        metrics = timestep.extras.get("metrics", {}) if self.episode_metrics is not None else {}
        return Transition(observation, reward, discount, timestep.last(), metrics)


def refuse_no_legal_action(observation: Observation, scenario: str) -> None:
    """Check that every agent has a legal action.

    Args:
      observation: leading axis E, on any device.
      scenario: the scenario's name, for the message.

    Raises:
      ConfigError: an agent has no legal action.
    """
    stuck = np.argwhere(~np.asarray(observation.action_mask).any(-1))
    if len(stuck):
        raise ConfigError(
            f"env/scenario={scenario}: agent {stuck[0][-1]} has 0 legal actions where training begins, and needs at "
            "least 1; change the environment's action mask, or add an action that does nothing"
        )


def game_params(params: Mapping[str, Any]) -> Any:
    """Return the traced part of JaxParty's settings (`payoff`, `rank_reward`, `action_noise`) as its `GameParams`."""
    from jax_party.env.types import GameParams

    return GameParams(**params["payoff"], **{name: value for name, value in params.items() if name != "payoff"})


def make_environment(config: EnvConfig) -> MultiAgentEnv:
    """Build the environment that a config names.

    Raises:
      ConfigError: the environment refuses its settings.
    """
    scenario = config.scenario
    team, shared = not config.use_individual_rewards, config.shared_reward
    arguments: dict[str, Any] = {**config.kwargs, **scenario.env_kwargs}
    try:
        if isinstance(scenario, GameScenario):
            from jax_party.env.env import JaxParty

            settings = {field.name: getattr(scenario.task_config, field.name) for field in fields(scenario.task_config)}
            return MultiAgentEnv(JaxParty(**settings, **arguments), team_reward=team, shared_reward=shared)
        env, view = _JUMANJI[scenario.name](dict(scenario.task_config), arguments)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"env.scenario.task_config ({scenario.task_name}): {error}") from error
    return MultiAgentEnv(env, view, team_reward=team, shared_reward=shared)


def _level_based_foraging(task: dict[str, Any], arguments: dict[str, Any]) -> tuple[Any, Callable[[Any], Array]]:
    from jumanji.environments.routing.lbf import LevelBasedForaging
    from jumanji.environments.routing.lbf.generator import RandomGenerator

    return LevelBasedForaging(generator=RandomGenerator(**task), **arguments), _plain_view


def _robot_warehouse(task: dict[str, Any], arguments: dict[str, Any]) -> tuple[Any, Callable[[Any], Array]]:
    from jumanji.environments.routing.robot_warehouse import RobotWarehouse
    from jumanji.environments.routing.robot_warehouse.generator import RandomGenerator

    return RobotWarehouse(generator=RandomGenerator(**task), **arguments), _plain_view


def _connector(task: dict[str, Any], arguments: dict[str, Any]) -> tuple[Any, Callable[[Any], Array]]:
    from jumanji.environments.routing.connector import Connector
    from jumanji.environments.routing.connector.generator import RandomWalkGenerator

    return Connector(generator=RandomWalkGenerator(**task), **arguments), _connector_view


_JUMANJI = {
    "LevelBasedForaging-v0": _level_based_foraging,
    "RobotWarehouse-v0": _robot_warehouse,
    "Connector-v3": _connector,
}
