"""The agents' views of a state."""

from __future__ import annotations

import chex
import jax.numpy as jnp
import numpy as np
from jumanji import specs

from jax_party.env.settings import FEATURES, GameSettings
from jax_party.env.types import NUM_ACTIONS, GameParams, Observation, State

# CC, CD, DC, DD (own action first), never met.
NUM_MEMORIES = 5
_NEVER = 4

# Float32 totals are sums of up to `time_limit` rounded rewards; their bounds have this relative margin.
_ROUNDING = 1e-3


class Observer:
    """The writer of each agent's view: the chosen features one after another, always in the order of `FEATURES`.

    A feature about agents has agent i's own entry first, then the others' in cyclic order i+1, i+2, ...:

    - `active`: N entries, 1.0 if the agent plays this step.
    - `totals`: N entries, `State.totals`, divided by the steps so far under `totals_scale: per_step`.
    - `ranks`: N entries, the places 0..N-1.
    - `memory`: 5 (N - 1) entries, for each other agent one-hot over CC, CD, DC, DD, never met.
    - `step`: 1 entry, the elapsed share of the time limit.

    Attributes:
      size: F, number of entries of a view.
    """

    def __init__(self, settings: GameSettings) -> None:
        self._settings = settings
        num_agents = settings.num_agents
        self._cyclic = (np.arange(num_agents)[:, None] + np.arange(num_agents)[None, :]) % num_agents
        sizes = {
            "active": num_agents,
            "totals": num_agents,
            "ranks": num_agents,
            "memory": NUM_MEMORIES * (num_agents - 1),
            "step": 1,
        }
        self._sizes = {name: sizes[name] for name in FEATURES if name in settings.observe}
        self.size = sum(self._sizes.values())

    def __call__(self, state: State) -> Observation:
        """Return the agents' observation of `state`."""
        num_agents = self._settings.num_agents
        return Observation(
            agents_view=self._views(state),
            action_mask=state.action_mask,
            step_count=jnp.broadcast_to(state.step_count, (num_agents,)),
        )

    def spec(self, lowest_reward: float, highest_reward: float) -> specs.Spec[Observation]:
        """Return shapes, dtypes and bounds of an observation, given the range of rewards per step."""
        num_agents, time_limit = self._settings.num_agents, self._settings.time_limit
        low, high = self._bounds(lowest_reward, highest_reward)
        return specs.Spec(
            Observation,
            "ObservationSpec",
            agents_view=specs.BoundedArray((num_agents, self.size), jnp.float32, low, high, "agents_view"),
            action_mask=specs.BoundedArray((num_agents, NUM_ACTIONS), bool, False, True, "action_mask"),
            step_count=specs.BoundedArray((num_agents,), jnp.int32, 0, time_limit, "step_count"),
        )

    def _views(self, state: State) -> chex.Array:
        num_agents = self._settings.num_agents
        agentwise = {"active": state.active, "totals": self._scaled_totals(state), "ranks": state.ranks}
        rows = [values.astype(jnp.float32) for name, values in agentwise.items() if name in self._sizes]
        parts = []
        if rows:
            seen = jnp.stack(rows)[:, self._cyclic]
            parts.append(jnp.swapaxes(seen, 0, 1).reshape(num_agents, -1))
        if "memory" in self._sizes:
            parts.append(self._memories(state.last_meeting))
        if "step" in self._sizes:
            share = state.step_count.astype(jnp.float32) * np.float32(1.0 / self._settings.time_limit)
            parts.append(jnp.full((num_agents, 1), jnp.minimum(share, 1.0)))
        return jnp.concatenate(parts, axis=1)

    def _scaled_totals(self, state: State) -> chex.Array:
        if self._settings.totals_scale == "raw":
            return state.totals
        scaled: chex.Array = state.totals / jnp.maximum(state.step_count, 1).astype(jnp.float32)
        return scaled

    def _memories(self, last_meeting: chex.Array) -> chex.Array:
        """Return (N, 5 (N - 1)) float32, own action first."""
        num_agents = self._settings.num_agents
        mine = last_meeting.astype(jnp.int32)
        outcome = jnp.where(mine < 0, _NEVER, 2 * mine + mine.T)
        others = outcome[np.arange(num_agents)[:, None], self._cyclic[:, 1:]]
        one_hot: chex.Array = others[:, :, None] == np.arange(NUM_MEMORIES)
        return one_hot.astype(jnp.float32).reshape(num_agents, -1)

    def _bounds(self, lowest_reward: float, highest_reward: float) -> tuple[np.ndarray, np.ndarray]:
        num_agents = self._settings.num_agents
        steps = self._settings.time_limit if self._settings.totals_scale == "raw" else 1
        bounds = {
            "active": (0.0, 1.0),
            "totals": (steps * lowest_reward, steps * highest_reward),
            "ranks": (0.0, num_agents - 1.0),
            "memory": (0.0, 1.0),
            "step": (0.0, 1.0),
        }
        low = np.concatenate([np.full(size, bounds[name][0], np.float32) for name, size in self._sizes.items()])
        high = np.concatenate([np.full(size, bounds[name][1], np.float32) for name, size in self._sizes.items()])
        return low, high


def reward_range(params: GameParams) -> tuple[float, float]:
    """Return the least and greatest reward per step for concrete `params`, with a margin for rounding of long sums."""
    payoffs = [0.0, *(float(p) for p in (params.reward, params.sucker, params.temptation, params.punishment))]
    incentive = abs(float(params.rank_reward))
    low, high = min(payoffs) - incentive, max(payoffs) + incentive
    room = _ROUNDING * max(abs(low), abs(high))
    return low - room, high + room
