"""Whether a curve has settled: hand-computed changes and errors, known curves, and the levels of the tests."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import pytest

from jax_party.judging.objectives import Objective
from jax_party.judging.settling import (
    Motion,
    Point,
    curve_of,
    in_words,
    settling_step,
    summarise,
    trend_of,
)


def curve(values: Sequence[float], se: float | None = 0.0, untrained: float | None = None) -> list[Point]:
    start = [] if untrained is None else [Point(0, untrained, se, True)]
    return start + [Point(10 * place, value, se) for place, value in enumerate(values, 1)]


def test_the_trend_is_the_last_quarter_less_the_one_before() -> None:
    """Eight evaluations, two to a quarter: means 3.5 and 1.5, a change of -2 with an error of sqrt(4 · 0.5² / 2²)."""
    found = trend_of(curve([9.0, 8.0, 7.0, 6.0, 4.0, 3.0, 2.0, 1.0], se=0.5, untrained=10.0))
    assert found is not None
    assert (found.change, found.spread) == (-2.0, 9.0)
    assert found.se == pytest.approx(math.sqrt(4 * 0.5**2 / 2**2))
    assert found.motion is Motion.FALLING and found.settled is False


def test_quarters_are_of_steps_not_of_evaluations() -> None:
    """At steps 10 to 50 the quarters end at 12.5, 25, 37.5 and 50: the third has step 30 alone, the last 40 and 50."""
    found = trend_of(curve([0.0, 0.0, 5.0, 1.0, 3.0]))
    assert found is not None and found.change == 2.0 - 5.0


@pytest.mark.parametrize(
    ("values", "motion"),
    [
        ([6.0, 3.0, 1.5, 1.1, 1.01, 1.0, 1.0, 1.0], Motion.SETTLED),
        ([9.0, 8.0, 7.0, 6.0, 5.0, 4.0, 3.0, 2.0], Motion.FALLING),
        ([1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0], Motion.RISING),
        ([5.0] * 8, Motion.UNMOVED),
    ],
)
def test_known_curves_are_told_apart(values: list[float], motion: Motion) -> None:
    found = trend_of(curve(values, untrained=values[0]))
    assert found is not None and found.motion is motion


def test_a_slow_learner_has_not_settled_however_small_its_steps() -> None:
    """A curve that falls by a hundredth of what others do is falling all the same: its range is the measure."""
    values = [6000.0 - step for step in range(8)]
    found = trend_of(curve(values, se=0.01, untrained=6001.0))
    assert found is not None and found.motion is Motion.FALLING


def test_noise_alone_is_not_settled() -> None:
    """Networks that learn nothing: a curve without movement must not be told to have come to rest."""
    rng = np.random.default_rng(0)
    found = [trend_of(curve(rng.normal(100.0, 1.0, 8).tolist(), se=1.0, untrained=100.0)) for _ in range(500)]
    settled = sum(one is not None and one.motion is Motion.SETTLED for one in found)
    assert settled / 500 <= 0.05


def decaying(length: float) -> Callable[[np.ndarray], np.ndarray]:
    return lambda t: 100.0 * np.exp(-t / length)


@pytest.mark.parametrize(("length", "motion"), [(0.08, Motion.SETTLED), (2.0, Motion.FALLING)])
def test_noisy_curves_are_told_by_most_draws(length: float, motion: Motion) -> None:
    rng = np.random.default_rng(1)
    times = np.arange(1, 17) / 16
    found = []
    for _ in range(200):
        values = decaying(length)(times) + rng.normal(0.0, 1.0, 16)
        one = trend_of(curve(values.tolist(), se=1.0, untrained=100.0))
        assert one is not None
        found.append(one.motion)
    assert found.count(motion) >= 0.95 * 200


def test_too_few_evaluations_tell_nothing() -> None:
    assert trend_of(curve([1.0, 2.0])) is None, "halves are no quarters"
    assert trend_of(curve([1.0])) is None and trend_of([]) is None
    assert trend_of([Point(0, 3.0, 0.1, True)]) is None
    unknown = trend_of(curve([1.0, 2.0, 3.0, 4.0], se=None))
    assert unknown is not None and (unknown.change, unknown.settled) == (1.0, None), "records before version 6"


def test_enough_steps_are_those_of_an_exponential_approach() -> None:
    """v = 100 · 0.5^(t/20): changes halve from quarter to quarter, 20 steps each. The last is about -4.7 of a range of
    94; until they are below 4.7 (half of the tolerance) none, below a tenth of that range none either; of a slower one
    by its factor."""
    slow = curve([100.0 * 0.9**k for k in range(1, 9)], untrained=100.0)
    found = trend_of(slow)
    assert found is not None and found.motion is Motion.FALLING and found.enough_steps is not None
    levels = [100 * (0.9 ** (2 * q + 1) + 0.9 ** (2 * q + 2)) / 2 for q in range(4)]
    change, factor, wanted = levels[3] - levels[2], 0.9**2, 0.05 * found.spread
    more = math.ceil(math.log(wanted / abs(change)) / math.log(factor))
    assert found.enough_steps == math.ceil(80 * (1 + more / 4))


def test_a_curve_comes_from_rows_with_its_errors() -> None:
    rows = [
        {"step": 0, "seed": seed, "evaluate": {"r": 9.0}, "se": {"r": 3.0 + seed}, "untrained": True}
        for seed in range(2)
    ]
    rows += [{"step": 10, "seed": seed, "evaluate": {"r": 2.0 * seed}, "se": {"r": 1.0}} for seed in range(2)]
    rows += [{"step": 10, "seed": seed, "evaluate": {"r": 99.0}, "final": True} for seed in range(2)]
    first, second = curve_of(rows, 2, Objective("r", "max"))
    assert first == Point(0, 9.0, math.hypot(3.0, 4.0) / 2, True)
    assert second == Point(10, 1.0, math.sqrt(2) / 2, False)


def test_settling_time_is_the_first_step_of_staying_near_the_end() -> None:
    assert settling_step([10, 20, 30, 40], [5.0, 1.02, 1.2, 1.0]) == 40, "it had left the band again"
    assert settling_step([10, 20, 30, 40], [5.0, 1.04, 0.96, 1.0]) == 20
    assert settling_step([10], [5.0]) == 10 and settling_step([], []) is None


def test_the_warning_counts_and_says_what_would_do() -> None:
    trends = [(Motion.FALLING, 300_000)] * 5 + [
        (Motion.FALLING, 1_000_001),
        (Motion.SETTLED, None),
        (Motion.UNMOVED, None),
    ]
    verdict = summarise(trends)
    assert in_words(verdict, "max") == (
        "6 of 8 trials were still falling when they ended, 1 of 8 trials never left the level of its untrained "
        "networks: a higher score may mean slower learning; TIMESTEPS=300000 would be about enough"
    )
    assert "slower learning" not in str(in_words(verdict, "min")), "falling is what is wanted there"
    assert in_words(summarise([(Motion.SETTLED, None)]), "max") is None
    assert in_words(summarise([(None, None)]), "max") is None
    assert summarise([(Motion.RISING, 123_456)]).enough_steps == 130_000
