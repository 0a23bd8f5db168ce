"""Test seeds are a sweep's own, count once, and are told where they were seen before."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from jax_party.judging.replicates import pool_seeds
from jax_party.judging.seeds import BLOCK, FIRST_FRESH_SEED, SeedTest, count_tests, fresh_seeds, reused


@settings(max_examples=30)
@given(st.text(min_size=1))
def test_a_sweep_has_a_block_of_its_own(name: str) -> None:
    seeds = fresh_seeds(name)
    assert seeds == fresh_seeds(name) and len(seeds) == BLOCK
    assert seeds.start >= FIRST_FRESH_SEED and seeds.stop <= 2**31
    assert (seeds.start - FIRST_FRESH_SEED) % BLOCK == 0


def test_sweeps_share_hardly_any() -> None:
    assert fresh_seeds("ff_mappo-20260102-030405").start == 1_990_520_000, "a sweep's never change"
    assert len({fresh_seeds(f"sweep-{number}").start for number in range(1_000)}) > 990


def test_a_seed_counts_once() -> None:
    assert pool_seeds([(5, [1.0, 2.0]), (3, [7.0, 8.0, 9.0, 9.0])]) == {3: 7.0, 4: 8.0, 5: 1.0, 6: 2.0}
    assert list(pool_seeds([(5, [1.0]), (3, [7.0])])) == [3, 5]


def test_rounds_of_a_race_are_one_test() -> None:
    assert count_tests([]) == 0
    assert count_tests([range(6), range(6, 8), range(8, 10)]) == 1
    assert count_tests([range(10), range(10)]) == 1, "in two scenarios"
    assert count_tests([range(10), range(20)]) == 2
    assert count_tests([range(10), range(10_000, 10_010)]) == 2


def test_seeds_that_had_been_seen() -> None:
    """b and c were searched for after a's test; c is tested on other seeds; d began while a's test was going on."""
    first = SeedTest("a", "2026-01-01T00:00:00.000+00:00", range(10), "2026-01-02T00:00:00.000+00:00")
    tests = [
        first,
        SeedTest("b", "2026-01-03T00:00:00.000+00:00", range(5, 8), None),
        SeedTest("c", "2026-01-03T00:00:00.000+00:00", range(10, 20), None),
        SeedTest("d", "2026-01-01T23:00:00.000+00:00", range(10), None),
        SeedTest("e", None, range(10), None),
    ]
    assert reused(tests) == {"b"}
    assert reused([first, first._replace(ended="2025-12-01T00:00:00+00:00")]) == set(), "its own test"
