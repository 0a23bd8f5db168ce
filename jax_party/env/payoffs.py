"""One step of play: the actions that are really played, what they pay, and what agents remember."""

from __future__ import annotations

from typing import NamedTuple

import chex
import jax.numpy as jnp
import numpy as np

from jax_party.env.types import COOPERATE, DEFECT, NOOP, GameParams


class Outcome(NamedTuple):
    """The outcome of a step.

    payoff: mean payoff over the agent's meetings of the step; 0 for the idle.
    traded: which meetings took place, that is, neither of the two forfeited.
    cooperations, defections: how many agents played C and D.
    cc, cd, dd: how many of the meetings that took place had each result, each counted once.
    """

    payoff: chex.Array  # (N,) float32
    traded: chex.Array  # (N, N) bool
    cooperations: chex.Array  # () int32
    defections: chex.Array  # () int32
    cc: chex.Array  # () int32
    cd: chex.Array  # () int32
    dd: chex.Array  # () int32


def execute(action: chex.Array, active: chex.Array, noise_words: chex.Array, action_noise: chex.Numeric) -> chex.Array:
    """Return what agents really play: a trembling hand flips a played C or D, independently for each agent.

    Args:
      action: (N,) integers as sent. Anything but C and D is NOOP.
      active: (N,) bool; the idle play NOOP whatever they sent.
      noise_words: (N,) uint32 random words.
      action_noise: () float32, probability of a flip, to within 2**-24.

    Returns:
      (N,) int32 of COOPERATE, DEFECT and NOOP.
    """
    plays = active & ((action == COOPERATE) | (action == DEFECT))
    uniform = (noise_words >> 8).astype(jnp.float32) * np.float32(2.0**-24)
    defects = (action == DEFECT) ^ (uniform < action_noise)
    return jnp.where(plays, defects.astype(jnp.int32), np.int32(NOOP))


def play(played: chex.Array, meeting: chex.Array, params: GameParams) -> Outcome:
    """Play the 2x2 game in every meeting.

    A forfeit pays 0 to both and counts as no outcome. A payoff is the mean over all meetings scheduled for the agent,
    including forfeited ones.

    Args:
      played: (N,) int32, from `execute`.
      meeting: (N, N) bool, who meets whom.
      params: the payoffs.
    """
    cooperates, defects = played == COOPERATE, played == DEFECT
    plays = cooperates | defects
    traded = meeting & plays[:, None] & plays[None, :]
    met_c = jnp.sum(traded & cooperates[None, :], axis=1, dtype=jnp.int32)
    met_d = jnp.sum(traded & defects[None, :], axis=1, dtype=jnp.int32)
    due = jnp.maximum(jnp.sum(meeting, axis=1, dtype=jnp.int32), 1)

    from_c = jnp.where(cooperates, params.reward, params.temptation)
    from_d = jnp.where(cooperates, params.sucker, params.punishment)
    payoff = (_times(from_c, met_c) + _times(from_d, met_d)) / due.astype(jnp.float32)
    return Outcome(
        payoff=payoff,
        traded=traded,
        cooperations=jnp.sum(cooperates, dtype=jnp.int32),
        defections=jnp.sum(defects, dtype=jnp.int32),
        cc=jnp.sum(jnp.where(cooperates, met_c, 0), dtype=jnp.int32) // 2,
        cd=jnp.sum(jnp.where(cooperates, met_d, 0), dtype=jnp.int32),
        dd=jnp.sum(jnp.where(defects, met_d, 0), dtype=jnp.int32) // 2,
    )


def remember(last_meeting: chex.Array, played: chex.Array, traded: chex.Array) -> chex.Array:
    """Return the memory after the step, (N, N) int8: meetings that took place overwrite it, forfeited ones do not."""
    return jnp.where(traded, played[:, None].astype(jnp.int8), last_meeting)


def _times(payoff: chex.Array, count: chex.Array) -> chex.Array:
    # The selection keeps the compiler from fusing multiply and add, which rounds differently with and without jit.
    return jnp.where(count > 0, payoff * count.astype(jnp.float32), np.float32(0.0))
