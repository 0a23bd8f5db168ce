"""The beginnings and ends of episodes in a vault."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from results.vaults.store import Vault


@dataclass(frozen=True)
class Episode:
    """Steps `start` to `stop` (exclusive) of environment `env`; `whole` if both its ends were recorded."""

    env: int
    start: int
    stop: int
    whole: bool

    @property
    def length(self) -> int:
        """The number of steps."""
        return self.stop - self.start


def breaks(vault: Vault) -> list[int]:
    """Return the steps that do not follow the step before: joins, and gaps that `vault.every` left."""
    found = {int(step) for step in vault.metadata.get("breaks", ())}
    every = vault.config.get("vault", {}).get("every", 1)
    rollout = vault.config.get("system", {}).get("rollout_length")
    if vault.kind == "train" and every > 1 and rollout and "breaks" not in vault.metadata:
        found |= set(range(rollout, vault.steps, rollout))
    return sorted(step for step in found if 0 < step < vault.steps)


def episodes(vault: Vault) -> list[Episode]:
    """Return every episode of a vault, whole or cut, by environment and then by time.

    `done` marks an episode's first step. In a vault of test episodes each episode has `time_limit` steps; those after
    its end are marked too and belong to no episode.

    Raises:
      VaultError: it has no field `done`, or it cannot be read.
    """
    done = vault.read(["done"])["done"]
    at = breaks(vault)
    limit = vault.time_limit
    if vault.kind == "test" and limit and not vault.metadata.get("stride"):
        parts = list(zip([0, *at], [*at, vault.steps], strict=True))
        return [
            one for env in range(vault.rows) for part in parts for one in _test_episodes(env, done[env], part, limit)
        ]
    all_whole = bool(vault.metadata.get("whole"))
    return [
        one for env in range(vault.rows) for one in _train_episodes(env, done[env], np.array(at, int), limit, all_whole)
    ]


def _test_episodes(env: int, done: NDArray[Any], part: tuple[int, int], period: int) -> list[Episode]:
    found = []
    for start in range(*part, period):
        of_period = done[start : min(start + period, part[1])]
        ended = np.flatnonzero(of_period[1:])
        length = int(ended[0]) + 1 if len(ended) else len(of_period)
        found.append(Episode(env, start, start + length, bool(len(ended)) or len(of_period) == period))
    return found


def _train_episodes(
    env: int, done: NDArray[Any], at: NDArray[Any], limit: int | None, all_whole: bool
) -> list[Episode]:
    starts = np.union1d(np.flatnonzero(done), at).astype(int)
    if not len(starts) or starts[0] != 0:
        starts = np.insert(starts, 0, 0)
    stops = np.append(starts[1:], len(done))
    found = []
    for start, stop in zip(starts.tolist(), stops.tolist(), strict=True):
        ended = all_whole or (stop < len(done) and stop not in at) or stop - start == limit
        found.append(Episode(env, start, stop, bool(done[start]) and ended))
    return found


def returns(vault: Vault, of: list[Episode]) -> NDArray[np.float64]:
    """Return (episodes, agents): the return of each agent in each episode, summed in float64."""
    totals = np.zeros((len(of), vault.num_agents))
    for first, block in vault.blocks(["reward"]):
        reward = block["reward"].astype(np.float64)
        length = reward.shape[1]
        for number, episode in enumerate(of):
            start, stop = max(episode.start - first, 0), min(episode.stop - first, length)
            if start < stop:
                totals[number] += reward[episode.env, start:stop].sum(axis=0)
    return totals


__all__ = ["Episode", "breaks", "episodes", "returns"]
