"""A race stops what is worse, hardly ever the best, and needs fewer seeds than playing all to the end."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from jax_party.judging.racing import BETS, SHARES, Race, first_look, looks, race

RACES, SEEDS = 2_000, 40
TABLE = Path(__file__).parents[1] / "launcher" / "data" / "race_table.csv"
Floats = NDArray[np.float64]
Noise = Callable[[np.random.Generator, tuple[int, ...]], Floats]

NOISES: dict[str, Noise] = {
    "normal": lambda rng, shape: rng.normal(size=shape),
    "heavy tails": lambda rng, shape: rng.standard_cauchy(size=shape),
    "skewed": lambda rng, shape: rng.lognormal(0.0, 1.5, size=shape),
    "discrete": lambda rng, shape: rng.integers(0, 3, size=shape).astype(float),
    "rare": lambda rng, shape: 10.0 * (rng.random(shape) < 0.1),
}


@pytest.mark.parametrize("configurations", [2, 8])
@pytest.mark.parametrize("noise", NOISES)
def test_where_all_are_equal_hardly_any_race_stops_one(noise: str, configurations: int) -> None:
    scores = NOISES[noise](np.random.default_rng(1), (RACES, configurations, SEEDS))
    found = race(scores, looks(0.95, SEEDS), 0.95)
    assert (~found.racing).any(axis=1).mean() <= 0.05
    assert (found.racing.sum(axis=1) == 1).mean() <= 0.05, "no winner is declared"
    assert (found.racing.any(axis=1)).all()


@pytest.mark.parametrize("confidence", [0.5, 0.8, 0.99])
def test_the_error_is_the_one_that_was_asked_for(confidence: float) -> None:
    """It is used, too: a test that can never stop anything has no error either."""
    scores = NOISES["normal"](np.random.default_rng(2), (RACES, 2, SEEDS))
    wrong = (~race(scores, looks(confidence, SEEDS), confidence).racing).any(axis=1).mean()
    assert (1 - confidence) / 8 < wrong <= 1 - confidence


@pytest.mark.parametrize("spreads", [[5.0, 1, 1, 1, 1, 1, 1, 1], [1.0, 5, 5, 5, 5, 5, 5, 5]])
def test_the_best_is_kept_where_spreads_differ_and_others_are_worse(spreads: list[float]) -> None:
    """Also with a look after each seed, and with two that are equally good."""
    rng = np.random.default_rng(3)
    means = np.array([0.0, 0.0, -0.5, -1.0, -2.0, -3.0, -4.0, -8.0])
    scores = means[:, None] + np.array(spreads)[:, None] * rng.normal(size=(RACES, 8, SEEDS))
    found = race(scores, range(2, SEEDS + 1), 0.95)
    assert (~found.racing[:, 0]).mean() <= 0.05
    assert (~found.racing[:, 7]).mean() > 0.5


@pytest.mark.parametrize(("gap", "share"), [(2.0, 0.35), (4.0, 0.25)])
def test_the_worse_are_stopped_early(gap: float, share: float) -> None:
    rng = np.random.default_rng(4)
    means = np.stack([rng.permutation(-gap / 2 * np.arange(8)) for _ in range(200)])
    found = race(rng.normal(size=(200, 8, SEEDS)) + means[..., None], looks(0.95, SEEDS), 0.95)
    assert used(found, SEEDS).mean() <= share * SEEDS
    assert found.racing[np.arange(200), means.argmax(axis=1)].mean() >= 0.95


def test_by_hand() -> None:
    """b is 1 below a on every seed but the first, which no bet is made on; c is level with a."""
    scores = np.array([[5.0, 5, 5, 5, 5, 5], [0.0, 4, 4, 4, 4, 4], [5.0, 5, 5, 5, 5, 5]])
    found = race(scores, [6], 0.95)
    capital = 0.0
    for bet, share in zip(BETS, SHARES, strict=True):
        growth = 1.0
        for seed in range(1, 6):
            growth *= 1.0 + np.tanh(bet * 1.0 / ((5.0 + seed) / (seed + 1)))
        capital += share * growth
    assert found.capital[1] == pytest.approx(capital) and found.capital[0] == 1.0
    assert found.racing.tolist() == [True, capital < 20, True]


def test_looks() -> None:
    assert [first_look(confidence) for confidence in (0.5, 0.75, 0.9, 0.95, 0.99)] == [2, 3, 5, 6, 8]
    assert looks(0.95, 40) == [6, 8, 10, 12, 15, 18, 22, 27, 33, 40]
    assert looks(0.95, 6) == [6] and looks(0.95, 7) == [6, 7]


def test_one_without_a_score_is_out_and_the_others_go_on() -> None:
    scores = np.zeros((3, 12)) + np.array([[2.0], [2.0], [0.0]])
    scores[0, 7:] = np.nan
    found = race(scores, [6, 8, 10, 12], 0.95)
    assert found.racing.tolist() == [False, True, False]
    assert found.stopped_after.tolist() == [8, 0, 6]
    first, whole = race(scores[:, :6], [6], 0.95), race(np.where(np.isnan(scores), 99.0, scores), [6], 0.95)
    assert first.racing.tolist() == whole.racing.tolist() == [True, True, False], "later seeds have no say"


def test_the_scale_and_a_seeds_own_level_do_not_matter() -> None:
    scores = NOISES["normal"](np.random.default_rng(5), (100, 4, SEEDS)) + np.arange(4.0)[:, None]
    same = race(1e6 * scores + np.random.default_rng(6).normal(0, 1e6, SEEDS), looks(0.95, SEEDS), 0.95)
    assert np.array_equal(race(scores, looks(0.95, SEEDS), 0.95).stopped_after, same.stopped_after)


def used(found: Race, seeds: int) -> NDArray[np.int64]:
    """Seeds that each configuration played: until it was stopped, or until the race was decided."""
    decided = found.racing.sum(axis=-1, keepdims=True) == 1
    end = np.where(decided, found.stopped_after.max(axis=-1, keepdims=True), seeds)
    return np.where(found.stopped_after > 0, found.stopped_after, end)


def made_table() -> Floats:
    """64 configurations of a sweep on 16 seeds: most are poor, a few are close; the poor are noisier, and skewed."""
    rng = np.random.default_rng(7)
    quality = np.sort(100.0 - 60.0 * rng.beta(1.0, 2.0, size=64))[:, None]
    noise = (100.0 - quality) / 6.0 + 3.0
    return np.asarray(quality + noise * (1.0 - rng.gamma(2.0, 0.5, size=(64, 16))) + rng.normal(0.0, 2.0, 16))


def recorded_table() -> Floats:
    """`make sweep ALG=mappo SAMPLES=64 SEEDS=16 SCENARIO=p-short TIMESTEPS=32768 EVALUATIONS=2 AT=last SEED=5
    OVERRIDES="arch.absolute_metric=false"`: the return of each seed.
    """
    with TABLE.open() as file:
        rows = list(csv.DictReader(file))
    names = list(dict.fromkeys(row["configuration"] for row in rows))
    seeds = sorted({int(row["seed"]) for row in rows})
    table = np.full((len(names), len(seeds)), np.nan)
    for row in rows:
        table[names.index(row["configuration"]), seeds.index(int(row["seed"]))] = float(row["score"])
    assert table.shape == (64, 16) and np.isfinite(table).all()
    return table


@pytest.mark.parametrize(
    ("table", "confidence", "share"), [(made_table, 0.95, 0.5), (recorded_table, 0.95, 0.6), (recorded_table, 0.9, 0.5)]
)
def test_on_a_table_it_finds_the_winner_as_often_as_uniform_allocation_does(
    table: Callable[[], Floats], confidence: float, share: float
) -> None:
    """With a share of the seeds: half of them at 0.9, and at 0.95 where configurations spread by twice a seed's noise.

    Those of the recorded table spread by 1.1 times it. Seeds in any order; and drawn again, where uniform allocation
    errs, too.
    """
    scores, rng = table(), np.random.default_rng(8)
    truth = scores.mean(axis=1).argmax()
    orders = np.stack([rng.permutation(16) for _ in range(300)])
    draws = rng.integers(16, size=(300, 16))
    for seeds, loss in ((orders, 0.02), (draws, 0.02)):
        played = scores[:, seeds].transpose(1, 0, 2)
        found = race(played, looks(confidence, 16), confidence)
        uniform = played.mean(axis=-1).argmax(axis=1)
        raced = np.where(found.racing, played.mean(axis=-1), -np.inf).argmax(axis=1)
        assert (raced == truth).mean() >= (uniform == truth).mean() - loss
        assert used(found, 16).mean() <= share * 16
