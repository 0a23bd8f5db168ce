"""Hyperparameter sensitivity and effective dimensionality: hand computations, properties, a plain rewrite, forests."""

from __future__ import annotations

import itertools
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from jax_party.judging.aggregate import Aggregate, aggregate
from jax_party.judging.sensitivity import (
    Card,
    Played,
    assess,
    effective_dimensions,
    hyperparameter_sensitivity,
    one_for_all,
    tuned_per_scenario,
    yardstick_of,
)
from jax_party.judging.tuning import FEWEST_FOR_FOREST, MOST_HYPERPARAMETERS, tuner_of

EXACT = 1e-9


def played(scores: Any, **values: list[Any]) -> Played:
    """Configurations with one seed each, or with several on the last axis."""
    table = np.asarray(scores, np.float64)
    seeds = table[:, :, None] if table.ndim == 2 else table
    return Played([f"c{place}" for place in range(len(table))], values, seeds.tolist())


def card_of(scores: Any, how: str = "mean", resamples: int = 200, **values: list[Any]) -> Card:
    return assess({"ff_ippo": played(scores, **values)}, how, resamples)["ff_ippo"]


# -- By hand -----------------------------------------------------------------------------------------------------------

#: Percentiles 1 and 19 in the first scenario, 2.3 and 5.9 in the second.
BY_HAND = [[0.0, 6.0], [10.0, 5.0], [20.0, 2.0]]


def test_sensitivity_is_what_a_hand_computation_gives() -> None:
    card = card_of(BY_HAND)
    assert card.scores == pytest.approx(np.array([[-1 / 18, 37 / 36], [1 / 2, 3 / 4], [19 / 18, -1 / 12]]), abs=EXACT)
    assert card.tuned_per_scenario.value == pytest.approx(25 / 24, abs=EXACT)
    assert card.one_for_all.value == pytest.approx(5 / 8, abs=EXACT)
    assert card.sensitivity.value == pytest.approx(5 / 12, abs=EXACT)
    assert (card.best, card.best_in) == (1, (2, 0))
    assert card.dimensionality is None and card.why == "no hyperparameter varies among its configurations"


def test_algorithms_share_one_yardstick() -> None:
    both = {"ff_ippo": played(BY_HAND[:2]), "ff_mappo": played(BY_HAND[2:] * 2)}
    cards = assess(both)
    # Of 0, 10, 20, 20 the percentiles are 1.5 and 20; of 6, 5, 2, 2 they are 2 and 5.85.
    assert cards["ff_ippo"].scores == pytest.approx(
        np.array([[-1.5 / 18.5, 4 / 3.85], [8.5 / 18.5, 3 / 3.85]]), abs=EXACT
    )
    assert cards["ff_mappo"].tuned_per_scenario.value == pytest.approx(0.5, abs=EXACT)


#: a and b of a grid of four; each has to be tuned for another scenario.
GRID = [[0.8, 0.8], [0.2, 1.0], [1.0, 0.2], [0.0, 0.0]]
SPAN = 0.94
"""Between the percentiles .03 and .97 of each scenario of `GRID`."""


def test_dimensionality_is_what_a_hand_computation_gives() -> None:
    card = card_of(GRID, a=[0, 0, 1, 1], b=["x", "y", "x", "y"])
    found = card.dimensionality
    assert found is not None and found.dimensions is not None and (found.method, found.r_squared) == ("grid", None)
    assert card.sensitivity.value == pytest.approx(0.2 / SPAN, abs=EXACT)
    assert [names for names, _ in found.curve] == [(), ("a",), ("a", "b")]
    expected = [(score - 0.03) / SPAN for score in (0.8, 0.9, 1.0)]
    assert [score for _, score in found.curve] == pytest.approx(expected, abs=EXACT)
    assert (found.dimensions.value, found.tuned) == (2.0, ("a", "b"))
    for effect in found.effects:
        assert effect.swing.value == pytest.approx(0.2 / SPAN, abs=EXACT)
        assert effect.tuned_alone.value == pytest.approx(0.1 / SPAN, abs=EXACT)
        assert effect.left_alone.value == pytest.approx(0.1 / SPAN, abs=EXACT)


def test_what_matters_for_every_scenario_alike_needs_no_tuning() -> None:
    card = card_of([[1.0, 5.0], [0.0, 4.0]], a=[0, 1])
    found = card.dimensionality
    assert found is not None and found.dimensions is not None
    assert (card.sensitivity.value, found.dimensions.value, found.tuned) == (0.0, 0.0, ())
    assert found.effects[0].swing.value == pytest.approx(1 / 0.9, abs=EXACT)
    assert found.effects[0].tuned_alone.value == 0.0


@pytest.mark.parametrize(
    ("by_count", "dimensions"),
    [([1.0, 1.0, 1.0], 0.0), ([0.94, 0.96, 1.0], 1.0), ([0.5, 0.949, 1.0], 2.0), ([0.95, 1.0], 0.0)],
)
def test_effective_dimensions(by_count: list[float], dimensions: float) -> None:
    assert effective_dimensions(np.array([by_count]))[0] == dimensions


def test_a_share_of_a_peak_that_is_not_positive_says_nothing() -> None:
    assert np.isnan(effective_dimensions(np.array([[-0.5, -0.2], [-0.1, 0.0]]))).all()
    weak, strong = played([[0.0, 1.0], [1.0, 0.0]], a=[0, 1]), played([[40.0 + place] * 2 for place in range(40)])
    found = assess({"weak": weak, "strong": strong})["weak"].dimensionality
    assert found is not None and found.dimensions is None and found.tuned == ()


# -- Properties --------------------------------------------------------------------------------------------------------

numbers = st.floats(-1e3, 1e3, allow_nan=False).map(lambda value: round(value, 3))


def tables(least: int = 1, most: int = 4) -> st.SearchStrategy[Any]:
    return st.tuples(st.integers(2, 9), st.integers(least, most)).flatmap(
        lambda shape: arrays(np.float64, shape, elements=numbers)
    )


@given(tables())
def test_sensitivity_is_never_negative(scores: Any) -> None:
    gamma = yardstick_of(scores).normalise(scores)
    assert np.isfinite(gamma).all()
    assert hyperparameter_sensitivity(gamma) >= 0
    assert tuned_per_scenario(gamma) >= one_for_all(gamma) - 1e-12


@given(tables(most=1))
def test_with_one_scenario_it_is_zero(scores: Any) -> None:
    assert hyperparameter_sensitivity(yardstick_of(scores).normalise(scores)) == 0.0


@given(tables(), st.floats(0.01, 100), st.floats(-100, 100))
def test_the_scale_of_a_scenario_does_not_matter(scores: Any, factor: float, shift: float) -> None:
    other = scores.copy()
    other[:, 0] = factor * other[:, 0] + shift
    assume(np.ptp(np.percentile(scores[:, 0], [5, 95])) > 1e-2)  # or they are equal but for rounding
    one, same = (hyperparameter_sensitivity(yardstick_of(table).normalise(table)) for table in (scores, other))
    assert same == pytest.approx(one, rel=1e-6, abs=1e-6)


@given(tables(), st.randoms(use_true_random=False))
def test_the_order_of_configurations_and_scenarios_does_not_matter(scores: Any, random: Any) -> None:
    rows, columns = (random.sample(range(size), size) for size in scores.shape)
    other = scores[rows][:, columns]
    one, same = (hyperparameter_sensitivity(yardstick_of(table).normalise(table)) for table in (scores, other))
    assert same == pytest.approx(one, abs=EXACT)


def test_a_scenario_with_one_score_for_all_is_a_half() -> None:
    card = card_of([[1.0, 3.0], [2.0, 3.0]])
    assert card.scores[:, 1].tolist() == [0.5, 0.5] and card.sensitivity.value == 0.0


def test_outliers_alone_are_told_apart_by_the_lowest_and_the_highest() -> None:
    assert card_of([[0.0, 0.0]] * 40 + [[4.0, 0.0]]).scores[-1].tolist() == [1.0, 0.5]


# -- Against a plain rewrite -------------------------------------------------------------------------------------------


def plain_tuning(values: list[tuple[int, ...]], scores: Any) -> tuple[list[float], list[float]]:
    """The best score of each subset, and each swing, by the definition: loops over a dictionary."""
    scenarios = range(scores.shape[1])
    table = dict(zip(values, scores.tolist(), strict=True))
    default = max(values, key=lambda value: sum(table[value]) / len(scenarios))
    count = len(default)

    def matched(subset: set[int]) -> list[tuple[int, ...]]:
        return [one for one in values if all(one[j] == default[j] for j in range(count) if j not in subset)]

    subsets = [{j for j in range(count) if number >> j & 1} for number in range(2**count)]
    best = [
        sum(max(table[one][e] for one in matched(subset)) for e in scenarios) / len(scenarios) for subset in subsets
    ]
    swings = []
    for j in range(count):
        means = [sum(table[one]) / len(scenarios) for one in matched({j})]
        swings.append(max(means) - min(means))
    return best, swings


@pytest.mark.parametrize("seed", range(6))
def test_tuning_is_what_a_plain_rewrite_gives(seed: int) -> None:
    rng = np.random.default_rng(seed)
    grid = list(itertools.product(range(3), range(2), range(2)))
    kept = sorted(rng.permutation(len(grid))[: rng.integers(6, 13)])
    values = [grid[place] for place in kept]
    scores = rng.normal(size=(len(values), 3))
    tuner, why = tuner_of({name: [one[place] for one in values] for place, name in enumerate("abc")}, scores)
    assert tuner is not None and (tuner.method, tuner.names, why) == ("grid", ("a", "b", "c"), "")
    best, swings = plain_tuning(values, scores)
    subsets, of_each = tuner.candidates.tune(scores[None])
    assert subsets[0] == pytest.approx(best, abs=EXACT)
    assert of_each[0] == pytest.approx(swings, abs=EXACT)


# -- Seeds -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", list(Aggregate))
def test_seeds_become_one_score_as_everywhere(how: str) -> None:
    rng = np.random.default_rng(1)
    scores = [[rng.normal(size=rng.integers(1, 9)).tolist() for _ in range(2)] for _ in range(5)]
    card = assess({"ff_ippo": Played(list("abcde"), {}, scores)}, how)["ff_ippo"]
    expected = [[aggregate(seeds, how) for seeds in of_scenarios] for of_scenarios in scores]
    assert card.raw == pytest.approx(np.array(expected), abs=EXACT)


def test_intervals_need_two_seeds_of_every_configuration() -> None:
    uneven = Played(["a", "b"], {}, [[[1.0, 2.0], [1.0]], [[2.0, 3.0], [0.0, 1.0]]])
    assert assess({"ff_ippo": uneven})["ff_ippo"].sensitivity[1:3] == (None, None)


def test_seeds_that_agree_leave_nothing_open() -> None:
    card = card_of(np.repeat(np.array(GRID)[:, :, None], 3, axis=2), a=[0, 0, 1, 1], b=["x", "y", "x", "y"])
    assert card.sensitivity[:3] == pytest.approx([0.2 / SPAN] * 3, abs=EXACT)
    found = card.dimensionality
    assert found is not None and found.dimensions is not None and found.dimensions[:3] == (2.0, 2.0, 2.0)


def test_intervals_are_seeded_and_shrink_with_seeds() -> None:
    def width(seeds: int) -> float:
        noise = np.random.default_rng(2).normal(0, 0.1, (4, 2, seeds))
        card = card_of(np.array(GRID)[:, :, None] + noise)
        assert card.sensitivity == card_of(np.array(GRID)[:, :, None] + noise).sensitivity
        low, high = card.sensitivity.low, card.sensitivity.high
        assert low is not None and high is not None and 0 <= low < high
        return high - low

    assert width(40) < 0.6 * width(5)


def test_intervals_hold_the_true_sensitivity_as_often_as_the_docs_say() -> None:
    rng = np.random.default_rng(3)
    held = 0
    for _ in range(150):
        means = rng.normal(0, 0.3, (12, 1)) + rng.normal(0, 0.2, (12, 2))
        card = card_of(means[:, :, None] + rng.normal(0, 0.15, (12, 2, 10)))
        yardstick = yardstick_of(card.raw)
        truth = float(hyperparameter_sensitivity(yardstick.normalise(means)))
        low, high = card.sensitivity.low, card.sensitivity.high
        assert low is not None and high is not None
        held += low - EXACT <= truth <= high + EXACT
    assert 0.85 <= held / 150 <= 0.99


# -- Without a grid ----------------------------------------------------------------------------------------------------


def random_search(count: int, noise: float = 0.0) -> tuple[dict[str, list[Any]], Any]:
    """`rate` matters for every scenario alike, `bonus` has the opposite effect in each, `idle` has none."""
    rng = np.random.default_rng(4)
    rate, bonus, idle = 10 ** rng.uniform(-4, -2, count), rng.uniform(0, 1, count), rng.choice(["x", "y"], count)
    common = -((np.log10(rate) + 3) ** 2)
    scores = np.stack([common + bonus, common - bonus], axis=1) + noise * rng.normal(size=(count, 2))
    return {"rate": rate.tolist(), "bonus": bonus.tolist(), "idle": idle.tolist()}, scores


def test_a_forest_tells_what_is_to_be_tuned_from_what_matters_alike() -> None:
    values, scores = random_search(80)
    card = card_of(scores, **values)
    found = card.dimensionality
    assert found is not None and found.dimensions is not None and found.method == "forest"
    assert found.r_squared is not None and found.r_squared > 0.6
    effects = {one.name: one for one in found.effects}
    assert found.effects[0].name == "rate"
    assert effects["idle"].swing.value < 0.2 * effects["rate"].swing.value
    assert max(effects.values(), key=lambda one: one.tuned_alone.value).name == "bonus"
    assert "bonus" in found.tuned and "idle" not in found.tuned
    # The ends of the curve are what was measured.
    assert found.curve[0][1] == pytest.approx(card.one_for_all.value, abs=EXACT)
    assert found.curve[-1][1] == pytest.approx(card.tuned_per_scenario.value, abs=EXACT)


def test_a_forest_is_the_same_again() -> None:
    values, scores = random_search(20)
    assert card_of(scores, **values).dimensionality == card_of(scores, **values).dimensionality


def test_a_forests_weights_are_its_predictions() -> None:
    from sklearn.ensemble import ExtraTreesRegressor

    from jax_party.judging.tuning import _leaf_weights

    rng = np.random.default_rng(5)
    known, asked, scores = rng.uniform(size=(30, 3)), rng.uniform(size=(12, 3)), rng.normal(size=30)
    forest = ExtraTreesRegressor(n_estimators=20, min_samples_leaf=4, random_state=0).fit(known, scores)
    assert _leaf_weights(forest.apply(known), forest.apply(asked)) @ scores == pytest.approx(forest.predict(asked))


def test_few_configurations_off_a_grid_say_nothing_of_single_hyperparameters() -> None:
    values, scores = random_search(FEWEST_FOR_FOREST - 1)
    card = card_of(scores, **values)
    assert card.dimensionality is None and card.sensitivity.value > 0
    assert card.why.startswith("15 configurations are too few") and card.why.endswith("it takes 16")


def test_scores_that_no_hyperparameter_predicts_say_nothing_of_them() -> None:
    values, _ = random_search(40)
    card = card_of(np.random.default_rng(6).normal(size=(40, 2)), **values)
    assert card.dimensionality is None and "do not predict the score" in card.why


def test_too_many_hyperparameters_are_told() -> None:
    rng = np.random.default_rng(7)
    many = {f"h{place}": rng.uniform(size=30).tolist() for place in range(MOST_HYPERPARAMETERS + 1)}
    card = card_of(rng.normal(size=(30, 2)), **many)
    assert card.dimensionality is None and card.why.startswith("11 hyperparameters vary; subsets of at most 10")


def test_importing_it_is_cheap() -> None:
    code = (
        "import sys, jax_party.judging.sensitivity as s; heavy = {'numpy', 'scipy', 'sklearn', 'pandas', 'jax', 'ray'};"
        "print(sorted(heavy & set(sys.modules)), s.PEAK_SHARE)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[0] == "[] 0.95"
