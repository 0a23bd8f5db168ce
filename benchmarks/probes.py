"""Probe games with known answers, and training on them without a folder."""

from __future__ import annotations

import abc
import functools
from types import SimpleNamespace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jumanji.types import TimeStep, restart, termination, transition

from jax_party.config import ExperimentConfig, make_budget, without_values
from jax_party.envs.adapter import MultiAgentEnv
from jax_party.systems.base import Hyper
from jax_party.systems.registry import system_class
from jax_party.training.evaluation import evaluate
from jax_party.training.program import make_hyper


class Seen(NamedTuple):
    """An observation in Jumanji's names."""

    agents_view: jax.Array
    action_mask: jax.Array
    step_count: jax.Array


class ProbeState(NamedTuple):
    """The cue of each agent and the time."""

    cue: jax.Array
    time: jax.Array


class Probe(abc.ABC):
    """What the probes share: N agents, A actions, all legal; `time_limit` steps, then the episode terminates."""

    def __init__(self, num_agents: int, num_actions: int, time_limit: int) -> None:
        self.num_agents, self.time_limit = num_agents, time_limit
        self.action_spec = SimpleNamespace(num_values=np.full(num_agents, num_actions))
        self._legal = jnp.ones((num_agents, num_actions), bool)

    def reset(self, key: jax.Array) -> tuple[ProbeState, TimeStep]:
        """Draw the cues."""
        bits = jax.random.bits(key, (self.num_agents,), jnp.uint32)
        state = ProbeState((bits % 2).astype(jnp.int32), jnp.zeros((), jnp.int32))
        return state, restart(self._see(state), shape=(self.num_agents,))

    def step(self, state: ProbeState, action: jax.Array) -> tuple[ProbeState, TimeStep]:
        """One step; the last one terminates."""
        reward = self.reward(state, action)
        state = state._replace(time=state.time + 1)
        seen, agents = self._see(state), (self.num_agents,)
        ended, goes_on = termination(reward, seen, shape=agents), transition(reward, seen, shape=agents)
        last = state.time == self.time_limit
        return state, jax.tree.map(functools.partial(jnp.where, last), ended, goes_on)

    def _see(self, state: ProbeState) -> Seen:
        return Seen(self.view(state), self._legal, jnp.broadcast_to(state.time, (self.num_agents,)))

    @abc.abstractmethod
    def view(self, state: ProbeState) -> jax.Array:
        """(N, F) float32."""

    @abc.abstractmethod
    def reward(self, state: ProbeState, action: jax.Array) -> jax.Array:
        """(N,) float32."""


class MemoryProbe(Probe):
    """Each agent sees its cue, one of two, at the first step alone, and is paid 1 for naming it `delay` steps later."""

    def __init__(self, delay: int = 8, num_agents: int = 2) -> None:
        super().__init__(num_agents, 2, delay + 1)
        self.delay = delay

    def view(self, state: ProbeState) -> jax.Array:
        """The cue as -1 or 1 at the first step, else 0; whether it is time to answer."""
        cue = jnp.where(state.time == 0, 2.0 * state.cue - 1.0, 0.0)
        return jnp.stack([cue, jnp.broadcast_to((state.time == self.delay).astype(jnp.float32), cue.shape)], axis=-1)

    def reward(self, state: ProbeState, action: jax.Array) -> jax.Array:
        """1 for the cue, at the last step."""
        return jnp.where((state.time == self.delay) & (action == state.cue), 1.0, 0.0)


class CoordinationProbe(Probe):
    """One step; agents see nothing that tells them apart, and all are paid 1 if no two of them do the same."""

    def __init__(self, num_agents: int = 3) -> None:
        super().__init__(num_agents, num_agents, 1)

    def view(self, state: ProbeState) -> jax.Array:
        """The same for all."""
        return jnp.ones((self.num_agents, 1))

    def reward(self, state: ProbeState, action: jax.Array) -> jax.Array:
        """1 where all differ."""
        used = jax.nn.one_hot(action, self.num_agents).max(0).sum()
        return jnp.broadcast_to((used == self.num_agents).astype(jnp.float32), (self.num_agents,))


class Trainer:
    """A system on a game, compiled once for all seeds.

    Args:
      config: what to train with.
      env: the game; the config's own environment is not used, but for its traced settings where `traced`.
      traced: whether `env` is the config's own.
    """

    def __init__(self, config: ExperimentConfig, env: MultiAgentEnv, *, traced: bool = False) -> None:
        system = system_class(config.system.name)(without_values(config), env)
        budget = make_budget(config)
        hyper = make_hyper(config, budget)
        self.num_updates, self.steps_per_update = budget.num_updates, budget.steps_per_update
        self.hyper: Hyper = hyper if traced else hyper._replace(env={})
        self._init = jax.jit(system.start)
        self._several = jax.jit(functools.partial(_updates, system), donate_argnums=1)
        self._evaluate = jax.jit(
            functools.partial(evaluate, system, num_episodes=256, record=False), static_argnames="greedy"
        )

    def learn(self, seed: int, *, greedy: bool = True) -> dict[str, float]:
        """Mean metrics of 256 episodes after training for the config's whole budget."""
        return self.curve(seed, 1, greedy=greedy)[-1][1]

    def curve(self, seed: int, evaluations: int, *, greedy: bool = True) -> list[tuple[int, dict[str, float]]]:
        """Environment steps and mean metrics of 256 episodes at evenly spaced evaluations, the last one at the end."""
        state = self._init(self.hyper, jax.random.PRNGKey(seed))
        found = []
        ends = [round(self.num_updates * (index + 1) / evaluations) for index in range(evaluations)]
        for begin, end in zip([0, *ends], ends, strict=False):
            state = self._several(self.hyper, state, end - begin)
            evaluation = self._evaluate(self.hyper, state.params, jax.random.PRNGKey(1000 + seed), greedy=greedy)
            means = {name: float(np.mean(values)) for name, values in evaluation.episodes.items()}
            found.append((end * self.steps_per_update, means))
        return found


def _updates(system: Any, hyper: Hyper, state: Any, number: Any) -> Any:
    return jax.lax.fori_loop(0, number, lambda _, state: system.update(hyper, state)[0], state)
