"""Places in the ranking, and the rewards for them."""

from __future__ import annotations

import chex
import jax.numpy as jnp
import numpy as np


def places(scores: chex.Array, tie_words: chex.Array) -> chex.Array:
    """Return the place of each agent, 0 = highest score; equal scores are ordered uniformly at random.

    Args:
      scores: (N,) float32.
      tie_words: (N,) uint32 random words.

    Returns:
      (N,) int32, a permutation of 0..N-1.
    """
    num_agents = scores.shape[0]
    lots = distinct_lots(tie_words)
    higher = scores[None, :] > scores[:, None]
    luckier = (scores[None, :] == scores[:, None]) & (lots[None, :] < lots[:, None])
    ranks: chex.Array = jnp.sum(higher | luckier, axis=1, dtype=jnp.int32)
    chex.assert_shape(ranks, (num_agents,))
    return ranks


def distinct_lots(words: chex.Array) -> chex.Array:
    """Return random words made distinct: agent i's low bits are replaced by i. Shape (N,), uint32.

    A pair keeps at least 32 - ceil(log2 N) random bits, so an order by lots is uniform to within N / 2**31.
    """
    num_agents = words.shape[0]
    low_bits = np.uint32((1 << (num_agents - 1).bit_length()) - 1)
    lots: chex.Array = (words & ~low_bits) | np.arange(num_agents, dtype=np.uint32)
    return lots


def rank_rewards(ranks: chex.Array, rank_reward: chex.Numeric) -> chex.Array:
    """Return the rank reward of each agent: linear from `+rank_reward` at place 0 to `-rank_reward` at place N-1.

    Args:
      ranks: (N,) int32 places.
      rank_reward: () float32, b.

    Returns:
      (N,) float32; sums to zero.
    """
    num_agents = ranks.shape[0]
    weights = np.linspace(1.0, -1.0, num_agents).astype(np.float32)
    at_place = ranks[:, None] == np.arange(num_agents, dtype=np.int32)
    # Selected rather than multiplied: a compiler that fuses multiply and add would round differently.
    rewards: chex.Array = jnp.sum(jnp.where(at_place, rank_reward * weights, np.float32(0.0)), axis=1)
    return rewards
