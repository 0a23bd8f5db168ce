"""Shared by the tests of the game: a figure backend without a screen, and episodes of random play."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import matplotlib
import numpy as np
import pytest

from jax_party.env.env import JaxParty
from jax_party.env.settings import PayoffSettings
from jax_party.env.types import GameParams

matplotlib.use("Agg")


class Episode(NamedTuple):
    """Arrays with a leading time axis: `states[t]` is acted on by `actions[t]` and gives `timesteps[t]`."""

    states: Any  # T + 1
    actions: np.ndarray  # (T, N)
    timesteps: Any  # T


_compiled: dict[Any, Any] = {}


def _compile(env: JaxParty) -> Any:
    """A jitted episode; games that differ in their traced numbers only share it."""

    def run(params: GameParams, key: jax.Array, actions: jax.Array) -> Any:
        game = env.with_params(params)

        def step(state: Any, action: jax.Array) -> Any:
            next_state, timestep = game.step(state, action)
            return next_state, (next_state, timestep)

        first: Any = game.reset(key)[0]
        _, (later, timesteps) = jax.lax.scan(step, first, actions)
        return first.replace(key=0), later.replace(key=jax.numpy.zeros(len(actions))), timesteps

    static = replace(env.settings, payoff=_ANY_PAYOFF, rank_reward=0.0, action_noise=0.0)
    return _compiled.setdefault(static, jax.jit(run))


_ANY_PAYOFF = PayoffSettings(0.0, 0.0, 0.0, 0.0)


def _play(env: JaxParty, actions: np.ndarray, seed: int = 0) -> Episode:
    first, later, timesteps = jax.device_get(_compile(env)(env.params, jax.random.key(seed), actions))

    def prepend(start: Any, rest: Any) -> np.ndarray:
        return np.concatenate([np.asarray(start)[None], np.asarray(rest)])

    return Episode(jax.tree.map(prepend, first, later), np.asarray(actions), timesteps)


@pytest.fixture(scope="session")
def play() -> Callable[..., Episode]:
    """`play(env, actions, seed=0)`: a jitted episode of given (T, N) actions, as NumPy arrays."""
    return _play
