"""Chance: pairs, matchings and ties are uniform (chi-squared tests with fixed seeds)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable
from itertools import combinations
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from jax_party.env.env import JaxParty
from jax_party.env.ranking import places

DRAWS = 6000
LEAST_P = 1e-3


def assert_uniform(draws: Iterable[Hashable], kinds: int) -> None:
    counts = Counter(draws)
    assert len(counts) == kinds
    assert stats.chisquare(list(counts.values())).pvalue > LEAST_P


def pairs_in(meeting: np.ndarray) -> tuple[tuple[int, int], ...]:
    return tuple((i, j) for i, j in combinations(range(len(meeting)), 2) if meeting[i, j])


def resets(env: JaxParty) -> Any:
    def first_state(key: Any) -> Any:
        state: Any = env.reset(key)[0]
        return state.replace(key=0)

    keys = jax.random.split(jax.random.key(11), DRAWS)
    return jax.device_get(jax.jit(jax.vmap(first_state))(keys))


@pytest.mark.parametrize(
    ("matching", "num_agents", "kinds"),
    [
        ("random_pair", 3, 3),
        ("random_pair", 5, 10),
        ("random_matching", 3, 3),
        ("random_matching", 4, 3),
        ("random_matching", 5, 15),
    ],
)
def test_meetings_are_uniform(play: Any, matching: str, num_agents: int, kinds: int) -> None:
    env = JaxParty(num_agents=num_agents, matching=matching)
    along = play(env, np.zeros((4000, num_agents), np.int32)).states.meeting
    drawn = [pairs_in(meeting) for meeting in along]
    assert_uniform(drawn, kinds)
    if kinds == 3:  # and each step's draw is independent of the one before
        assert_uniform(zip(drawn[:-1:2], drawn[1::2], strict=False), kinds**2)


def test_ties_are_broken_afresh_at_every_step(play: Any) -> None:
    # Nobody ever earns anything, so that all are tied throughout.
    env = JaxParty(rank_reward=0.0)
    ranks = [tuple(r) for r in play(env, np.full((4000, 3), 2, np.int32)).states.ranks.tolist()]
    assert_uniform(ranks, 6)
    assert_uniform(zip(ranks[:-1:2], ranks[1::2], strict=False), 36)


def test_partial_ties_are_uniform() -> None:
    words = jax.random.bits(jax.random.key(2), (DRAWS, 4), jnp.uint32)
    ranks = jax.vmap(places, in_axes=(None, 0))(jnp.asarray([1.0, 5.0, 1.0, 1.0]), words).tolist()
    assert all(rank[1] == 0 for rank in ranks)
    assert_uniform((tuple(rank) for rank in ranks), 6)


@pytest.mark.parametrize("matching", ["random_pair", "random_matching"])
def test_first_meetings_are_uniform(matching: str) -> None:
    states = resets(JaxParty(num_agents=4, matching=matching))
    assert_uniform(map(pairs_in, states.meeting), 6 if matching == "random_pair" else 3)
    assert_uniform(map(tuple, states.ranks.tolist()), 24)


def test_ranks_do_not_depend_on_who_is_drawn() -> None:
    states = resets(JaxParty())
    assert_uniform(zip(map(pairs_in, states.meeting), map(tuple, states.ranks.tolist()), strict=True), 18)
