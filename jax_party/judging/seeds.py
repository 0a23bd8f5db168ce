"""Seeds that test what a search has chosen: none of them is a seed that a search may train with."""

from __future__ import annotations

import hashlib
from typing import Final

BLOCK: Final = 10_000
"""Seeds in the block of a sweep."""
_BLOCKS: Final = 114_000


def first_test_seed(sweep_name: str) -> int:
    """The first of the 10,000 test seeds of a sweep, the same on every machine.

    `FIRST_FRESH_SEED + 10_000 * block`, where the block is the SHA-256 of the sweep's name modulo 114,000, so that
    every seed is below 2**31 and two sweeps rarely test on the same seeds.
    """
    from jax_party.records import FIRST_FRESH_SEED

    block = int.from_bytes(hashlib.sha256(sweep_name.encode()).digest()[:8], "big") % _BLOCKS
    return FIRST_FRESH_SEED + BLOCK * block


__all__ = ["BLOCK", "first_test_seed"]
