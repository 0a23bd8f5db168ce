"""The game's randomness: the random words of a step, and the first state."""

from __future__ import annotations

from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np

from jax_party.env.matching import Matching
from jax_party.env.ranking import places
from jax_party.env.types import NEVER_MET, NUM_ACTIONS, State


class Words(NamedTuple):
    """The random uint32 words of one step, by their use."""

    noise: chex.Array  # (N,)
    ties: chex.Array  # (N,)
    matching: chex.Array  # (matching.num_words,)


def draw_words(key: chex.PRNGKey, matching: Matching) -> tuple[chex.PRNGKey, Words]:
    """Draw all the randomness of a step at once, since hashing dominates a step on CPU.

    Returns:
      The key to keep, of the same kind as `key`, and the words.
    """
    next_key, words_key = jax.random.split(key)
    num_agents = matching.num_agents
    words = jax.random.bits(words_key, (2 * num_agents + matching.num_words,), jnp.uint32)
    noise, ties, rest = jnp.split(words, [num_agents, 2 * num_agents])
    return next_key, Words(noise=noise, ties=ties, matching=rest)


def action_mask(active: chex.Array) -> chex.Array:
    """Return (N, 3) bool: an active agent may cooperate or defect, an idle one may only send NOOP."""
    mask: chex.Array = jnp.where(active[:, None], _WHEN_ACTIVE, ~_WHEN_ACTIVE)
    return mask


_WHEN_ACTIVE = np.array([True, True, False])
assert _WHEN_ACTIVE.shape == (NUM_ACTIONS,)


class Generator:
    """A source of the first state of an episode: nothing earned, nobody met, a random ranking, the first meetings."""

    def __init__(self, matching: Matching) -> None:
        self.matching = matching
        self.num_agents = matching.num_agents

    def __call__(self, key: chex.PRNGKey) -> State:
        """Return the first state drawn from `key`, a legacy uint32 or a typed PRNG key."""
        next_key, words = draw_words(key, self.matching)
        step_count = jnp.zeros((), jnp.int32)
        nothing = jnp.zeros((self.num_agents,), jnp.float32)
        meeting = self.matching(words.matching, step_count)
        active = jnp.any(meeting, axis=1)
        return State(
            key=next_key,
            step_count=step_count,
            active=active,
            meeting=meeting,
            totals=nothing,
            payoff_totals=nothing,
            ranks=places(nothing, words.ties),
            last_meeting=jnp.full((self.num_agents, self.num_agents), NEVER_MET, jnp.int8),
            action_mask=action_mask(active),
        )
