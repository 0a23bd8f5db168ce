"""Seeds for testing what a sweep has chosen: which seeds they are, and whether their results were known before."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Final, NamedTuple

FIRST_FRESH_SEED: Final = 1_000_000_000
"""Sweeps tune with seeds below this one; seeds from here on are reserved for testing."""
BLOCK: Final = 10_000
"""The number of test seeds of a sweep: the most that `SEEDS` may ask for."""
_END: Final = 2**31


def fresh_seeds(sweep: str) -> range:
    """Return the block of test seeds that belongs to the sweep of this name.

    The SHA-256 of the name selects one of the 114,748 blocks in [`FIRST_FRESH_SEED`, 2³¹), so that a sweep is tested on
    seeds that (almost surely) no other sweep of the same game was tested on.
    """
    blocks = (_END - FIRST_FRESH_SEED) // BLOCK
    drawn = int.from_bytes(hashlib.sha256(f"test seeds of {sweep}".encode()).digest()) % blocks
    first = FIRST_FRESH_SEED + drawn * BLOCK
    return range(first, first + BLOCK)


def count_tests(blocks: Iterable[range]) -> int:
    """Return how often a configuration was tested, given the seeds of each of its tests.

    Equal blocks (a test in several scenarios) count once, and so do adjacent blocks, one of which begins where the
    other ends: these are the rounds of one race.
    """
    different = set(blocks)
    ends = {block.stop for block in different}
    return sum(block.start not in ends for block in different)


class SeedTest(NamedTuple):
    """A test of a configuration, and the trial that was chosen.

    Attributes:
      origin: the id of the trial that was chosen.
      origin_started: when that trial began; None if unknown.
      seeds: the seeds that the configuration is tested on.
      ended: when the test ended; None if it has not.
    """

    origin: str
    origin_started: str | None
    seeds: range
    ended: str | None


def reused(tests: Sequence[SeedTest]) -> set[str]:
    """Return the origins that are tested on seeds whose results were known when their search continued.

    That is: another trial's test on some of the same seeds had ended before this trial began. Whoever extends a sweep
    after its winners were tested may choose what to search further knowing the results, so the second test on the same
    seeds is no longer blind. (Dwork et al. 2015, "The reusable holdout", Science 349, 636–638.)
    """
    ended = [(datetime.fromisoformat(test.ended), test) for test in tests if test.ended is not None]
    found = set()
    for test in tests:
        if test.origin_started is None:
            continue
        began = datetime.fromisoformat(test.origin_started)
        if any(end < began and other.origin != test.origin and _share(other.seeds, test.seeds) for end, other in ended):
            found.add(test.origin)
    return found


def _share(one: range, other: range) -> bool:
    return max(one.start, other.start) < min(one.stop, other.stop)


__all__ = ["BLOCK", "FIRST_FRESH_SEED", "SeedTest", "count_tests", "reused", "fresh_seeds"]
