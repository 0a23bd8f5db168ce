"""The parts of the game: its actions, parameters, state and observation."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import chex

if TYPE_CHECKING:  # https://github.com/python/mypy/issues/6239
    from dataclasses import dataclass
else:
    from chex import dataclass

COOPERATE = 0
DEFECT = 1
NOOP = 2
NUM_ACTIONS = 3

NEVER_MET = -1


class GameParams(NamedTuple):
    """The numbers of the game that do not change shapes: float32 scalars, possibly JAX tracers.

    reward, sucker, temptation, punishment: R, S, T, P of the 2x2 game.
    rank_reward: b; what the leader gains and the last agent loses at every step.
    action_noise: probability that a played C or D is flipped.
    """

    reward: chex.Numeric
    sucker: chex.Numeric
    temptation: chex.Numeric
    punishment: chex.Numeric
    rank_reward: chex.Numeric
    action_noise: chex.Numeric


@dataclass
class State:
    """Everything that the game remembers between steps.

    key: PRNG key, of the same kind as the one given to `reset` (legacy uint32 or typed).
    step_count: steps taken so far.
    active: who plays at the coming step.
    meeting: who meets whom at the coming step; symmetric, never on the diagonal.
    totals: all rewards so far, payoffs and rank rewards.
    payoff_totals: payoffs so far.
    ranks: place of each agent, 0 = leader; a permutation of 0..N-1.
    last_meeting: [i, j] is what i played when it last met j, after noise; -1 = never met.
    action_mask: which actions each agent may send at the coming step.
    """

    key: chex.PRNGKey  # (2,) uint32, or () of a key type
    step_count: chex.Array  # () int32
    active: chex.Array  # (N,) bool
    meeting: chex.Array  # (N, N) bool
    totals: chex.Array  # (N,) float32
    payoff_totals: chex.Array  # (N,) float32
    ranks: chex.Array  # (N,) int32
    last_meeting: chex.Array  # (N, N) int8
    action_mask: chex.Array  # (N, 3) bool


class Observation(NamedTuple):
    """What the agents see.

    agents_view: row i is written from agent i's own view (see `Observer`).
    action_mask: an active agent may play 0 or 1, an idle one only 2.
    step_count: steps taken so far, the same for every agent.
    """

    agents_view: chex.Array  # (N, F) float32
    action_mask: chex.Array  # (N, 3) bool
    step_count: chex.Array  # (N,) int32
