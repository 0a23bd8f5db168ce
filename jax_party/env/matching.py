"""Who meets whom. Each matching turns random words and the step into a symmetric (N, N) bool matrix."""

from __future__ import annotations

import abc
from itertools import combinations

import chex
import jax.numpy as jnp
import numpy as np

from jax_party.env.ranking import distinct_lots


class Matching(abc.ABC):
    """A rule that draws the meetings of a step.

    Attributes:
      num_agents: N.
      num_words: the number of random words per draw.
    """

    num_words: int

    def __init__(self, num_agents: int) -> None:
        self.num_agents = num_agents

    @abc.abstractmethod
    def __call__(self, words: chex.Array, step_count: chex.Array) -> chex.Array:
        """Return the meetings of a step.

        Args:
          words: (num_words,) uint32 random words.
          step_count: () int32, steps taken before this one.

        Returns:
          (N, N) bool, symmetric, False on the diagonal: who meets whom.
        """


class RandomPair(Matching):
    """One pair, each with the same probability (to within N**2 / 2**33)."""

    num_words = 1

    def __init__(self, num_agents: int) -> None:
        super().__init__(num_agents)
        self._members = _membership(list(combinations(range(num_agents), 2)), num_agents)

    def __call__(self, words: chex.Array, step_count: chex.Array) -> chex.Array:
        del step_count
        index = words[0] % np.uint32(len(self._members))
        return _meeting_of_pair(jnp.asarray(self._members)[index])


class RoundRobin(Matching):
    """One pair, in the fixed cycle of `round_robin_schedule`; every episode begins at its first pair."""

    num_words = 0

    def __init__(self, num_agents: int) -> None:
        super().__init__(num_agents)
        self._members = _membership(round_robin_schedule(num_agents), num_agents)

    def __call__(self, words: chex.Array, step_count: chex.Array) -> chex.Array:
        del words
        index = step_count % np.int32(len(self._members))
        return _meeting_of_pair(jnp.asarray(self._members)[index])


class RandomMatching(Matching):
    """floor(N / 2) disjoint pairs, uniform over all such matchings; with odd N one agent is idle."""

    def __init__(self, num_agents: int) -> None:
        super().__init__(num_agents)
        self.num_words = num_agents

    def __call__(self, words: chex.Array, step_count: chex.Array) -> chex.Array:
        del step_count
        lots = distinct_lots(words)
        seats = jnp.sum(lots[None, :] < lots[:, None], axis=1, dtype=jnp.int32)
        # Seats 0 and 1 meet, 2 and 3 meet, ...; with odd N the seat next to the last one is empty.
        return (seats ^ 1)[:, None] == seats[None, :]


class AllPairs(Matching):
    """Everyone meets everyone."""

    num_words = 0

    def __call__(self, words: chex.Array, step_count: chex.Array) -> chex.Array:
        del words, step_count
        return jnp.asarray(~np.eye(self.num_agents, dtype=bool))


_MATCHINGS: dict[str, type[Matching]] = {
    "random_pair": RandomPair,
    "round_robin": RoundRobin,
    "random_matching": RandomMatching,
    "all_pairs": AllPairs,
}


def make_matching(name: str, num_agents: int) -> Matching:
    """Return the matching called `name` in the settings, for `num_agents` agents."""
    return _MATCHINGS[name](num_agents)


def round_robin_schedule(num_agents: int) -> list[tuple[int, int]]:
    """Return the order in which pairs meet under `round_robin`: a tournament's rounds, one pair per step.

    The circle method: agent 0 keeps its seat while the others move on by one seat per round, and those who sit
    opposite each other meet, so that an agent's meetings are spread over the cycle. With odd N the agent opposite the
    empty seat rests. N=3: (1, 2), (0, 2), (0, 1). N=4: (0, 3), (1, 2), (0, 2), (1, 3), (0, 1), (2, 3).

    Returns:
      Every pair `(i, j)`, i < j, exactly once.
    """
    seats = list(range(num_agents + num_agents % 2))
    pairs = []
    for _ in range(len(seats) - 1):
        opposite = zip(seats[: len(seats) // 2], reversed(seats), strict=False)
        pairs += sorted((min(i, j), max(i, j)) for i, j in opposite if max(i, j) < num_agents)
        seats = [seats[0], seats[-1], *seats[1:-1]]
    return pairs


def _membership(pairs: list[tuple[int, int]], num_agents: int) -> np.ndarray:
    """Return (number of pairs, N) bool: who belongs to which pair."""
    members = np.zeros((len(pairs), num_agents), bool)
    for index, pair in enumerate(pairs):
        members[index, list(pair)] = True
    return members


def _meeting_of_pair(member: chex.Array) -> chex.Array:
    """Return (N, N) bool: the two members of the pair meet each other."""
    meeting: chex.Array = member[:, None] & member[None, :] & ~np.eye(member.shape[0], dtype=bool)
    return meeting
