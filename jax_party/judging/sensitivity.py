"""How much performance depends on the hyperparameters, and how well one configuration serves every scenario.

Adkins, Bowling and White 2024, "A Method for Evaluating Hyperparameter Sensitivity in Reinforcement Learning",
https://arxiv.org/abs/2412.07165. Their symbols: Γ(ω, e, h) is the normalised performance of algorithm ω in environment
(here: scenario) e with the hyperparameters h, Φ(ω) the sensitivity, d(ω) the effective dimensionality.
`docs/statistics.md` has the formulas.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from jax_party.judging.aggregate import Aggregate, aggregate_along
from jax_party.judging.intervals import Interval
from jax_party.judging.tuning import Tuner, tuner_of

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Array = NDArray[np.float64]

PERCENTILES: Final = (5.0, 95.0)
"""The percentiles of a scenario's scores that become 0 and 1."""
PEAK_SHARE: Final = 0.95
"""The share of the peak that the hyperparameters counted by the effective dimensionality must reach."""
RESAMPLES: Final = 1_000
_CHUNK: Final = 4_000_000
"""How many numbers are drawn at once."""


@dataclass(frozen=True)
class Played:
    """The configurations of an algorithm that have been played in every scenario.

    Attributes:
      configurations: the name of each.
      values: hyperparameter -> its value in each configuration, for the hyperparameters that vary.
      scores: configuration -> scenario -> the score of each seed; larger is better.
    """

    configurations: Sequence[str]
    values: Mapping[str, Sequence[Any]]
    scores: Sequence[Sequence[Sequence[float]]]


class Yardstick(NamedTuple):
    """The scores that become 0 and 1 in each scenario, `(scenarios,)`."""

    low: Array
    high: Array

    def normalise(self, scores: Array) -> Array:
        """Return Γ of `scores`, whose last axis is the scenario; ½ if all scores of a scenario are equal."""
        import numpy as np

        span = self.high - self.low
        return np.where(span > 0, (scores - self.low) / np.where(span > 0, span, 1.0), 0.5)


class HyperparameterEffect(NamedTuple):
    """How much performance depends on one hyperparameter, in normalised score.

    Attributes:
      swing: the mean over scenarios at its best value minus that at its worst, the others at their default.
      tuned_alone: the gain from tuning it per scenario, the others at their default.
      left_alone: the loss from leaving it at its default and tuning the others per scenario.
    """

    name: str
    swing: Interval
    tuned_alone: Interval
    left_alone: Interval


@dataclass(frozen=True)
class Dimensionality:
    """How many hyperparameters have to be tuned per scenario.

    Attributes:
      method: `grid`: from configurations that differ only in the tuned hyperparameters; `forest`: from a forest's
        predictions for such configurations.
      r_squared: the share of the scores' variance that the forest predicts for configurations it has not seen.
      dimensions: d(ω); None if the peak is not positive, so that a share of it is meaningless.
      tuned: the hyperparameters that reach `PEAK_SHARE` of the peak.
      curve: number of tuned hyperparameters -> the best set of that size, and the score that it reaches.
      effects: each hyperparameter's effect, the largest swing first.
    """

    method: str
    r_squared: float | None
    dimensions: Interval | None
    tuned: tuple[str, ...]
    curve: tuple[tuple[tuple[str, ...], float], ...]
    effects: tuple[HyperparameterEffect, ...]


@dataclass(frozen=True)
class Card:
    """An algorithm's sensitivity card. All scores except `raw` are normalised.

    Attributes:
      tuned_per_scenario: the mean over scenarios of the best score in each.
      one_for_all: the best mean over scenarios of one configuration.
      sensitivity: Φ(ω), the first minus the second.
      best: the place of the configuration with the best mean over scenarios, the default.
      best_in: for each scenario the place of the best configuration there.
      scores, raw: those of each configuration in each scenario, `(configurations, scenarios)`.
      dimensionality: None if it cannot be determined, for the reason `why`.
    """

    tuned_per_scenario: Interval
    one_for_all: Interval
    sensitivity: Interval
    best: int
    best_in: tuple[int, ...]
    scores: Array
    raw: Array
    dimensionality: Dimensionality | None
    why: str = ""


def yardstick_of(scores: Array) -> Yardstick:
    """Return the 5th and the 95th percentile of the scores in each scenario, over all algorithms together.

    With p₅(e) and p₉₅(e), `Γ(ω, e, h) = (score − p₅(e)) / (p₉₅(e) − p₅(e))`. If both percentiles are equal, the lowest
    and the highest score replace them.

    Args:
      scores: `(configurations, scenarios)`; larger is better.
    """
    import numpy as np

    low, high = np.percentile(scores, PERCENTILES, axis=0)
    flat = high <= low
    return Yardstick(np.where(flat, scores.min(axis=0), low), np.where(flat, scores.max(axis=0), high))


def tuned_per_scenario(normalised: Array) -> Array:
    """Return `1/|E| Σ_e max_h Γ(ω, e, h)` of `(…, configurations, scenarios)`."""
    return normalised.max(axis=-2).mean(axis=-1)


def one_for_all(normalised: Array) -> Array:
    """Return `max_h 1/|E| Σ_e Γ(ω, e, h)` of `(…, configurations, scenarios)`."""
    return normalised.mean(axis=-1).max(axis=-1)


def hyperparameter_sensitivity(normalised: Array) -> Array:
    """Return Φ(ω) of `(…, configurations, scenarios)`.

    `Φ(ω) = 1/|E| Σ_e max_h Γ(ω, e, h) − max_h 1/|E| Σ_e Γ(ω, e, h)`: never negative, and 0 for one scenario.
    """
    import numpy as np

    return np.maximum(tuned_per_scenario(normalised) - one_for_all(normalised), 0.0)


def effective_dimensions(by_count: Array) -> Array:
    """Return the least number of tuned hyperparameters that reaches `PEAK_SHARE` of the peak; NaN for a peak ≤ 0.

    Args:
      by_count: the best score with 0, 1, … of the hyperparameters tuned, on the last axis; it never decreases.
    """
    import numpy as np

    peak = by_count[..., -1:]
    reached = by_count >= PEAK_SHARE * peak - 1e-12 * np.abs(peak)
    return np.where(peak[..., 0] > 0, reached.argmax(axis=-1).astype(np.float64), np.nan)


def assess(played: Mapping[str, Played], how: str = Aggregate.MEAN, resamples: int = RESAMPLES) -> dict[str, Card]:
    """Return the sensitivity card of each algorithm.

    All algorithms are normalised together. Intervals are 95 % percentile-bootstrap intervals: seeds are resampled
    within each configuration and scenario; the percentiles used for normalisation, the default and the forests stay
    fixed. There are no intervals if a configuration has a single seed.

    Args:
      played: algorithm -> its configurations, in the same scenarios in the same order.
      how: the aggregate that makes one score of the seeds of a configuration in a scenario.
      resamples: the number of bootstrap resamples.
    """
    import numpy as np

    raw = {name: _aggregated(one.scores, how) for name, one in played.items()}
    yardstick = yardstick_of(np.concatenate(list(raw.values())))
    return {name: _card(one, raw[name], yardstick, how, resamples) for name, one in played.items()}


def _card(played: Played, raw: Array, yardstick: Yardstick, how: str, resamples: int) -> Card:
    import numpy as np

    scores = yardstick.normalise(raw)
    tuner, why = tuner_of(played.values, scores)
    value = _measured(scores[None], tuner)
    draws = _bootstrapped(played.scores, yardstick, tuner, how, resamples)

    def interval(name: str, *place: int) -> Interval:
        at: tuple[Any, ...] = (slice(None), *place)
        if draws is None or np.isnan(value[name][at][0]):
            return Interval(float(value[name][at][0]), None, None, str(how))
        low, high = np.nanquantile(draws[name][at], [0.025, 0.975])
        return Interval(float(value[name][at][0]), float(low), float(high), str(how))

    return Card(
        interval("tuned_per_scenario"), interval("one_for_all"), interval("sensitivity"),
        best=int(scores.mean(axis=1).argmax()), best_in=tuple(int(place) for place in scores.argmax(axis=0)),
        scores=scores, raw=raw, dimensionality=_dimensionality(tuner, value, interval) if tuner else None, why=why,
    )  # fmt: skip


def _dimensionality(tuner: Tuner, value: Mapping[str, Array], interval: Callable[..., Interval]) -> Dimensionality:
    curve = []
    for count in range(len(tuner.names) + 1):
        of_count = [subset for subset in range(1 << len(tuner.names)) if subset.bit_count() == count]
        best = max(of_count, key=lambda subset: float(value["subsets"][0, subset]))
        curve.append((tuner.subset(best), float(value["subsets"][0, best])))
    dimensions = interval("dimensions")
    known = dimensions.value == dimensions.value
    effects = [
        HyperparameterEffect(name, *(interval(what, place) for what in ("swing", "tuned_alone", "left_alone")))
        for place, name in enumerate(tuner.names)
    ]
    return Dimensionality(
        tuner.method, tuner.r_squared, dimensions if known else None, curve[int(dimensions.value)][0] if known else (),
        tuple(curve), tuple(sorted(effects, key=lambda one: (-one.swing.value, one.name))),
    )  # fmt: skip


def _measured(normalised: Array, tuner: Tuner | None) -> dict[str, Array]:
    """Return every number of the card, for `(draws, configurations, scenarios)`."""
    import numpy as np

    found = {
        "tuned_per_scenario": tuned_per_scenario(normalised),
        "one_for_all": one_for_all(normalised),
        "sensitivity": hyperparameter_sensitivity(normalised),
    }
    if tuner is None:
        return found
    subsets, swing = tuner.candidates.tune(normalised)
    count = len(tuner.names)
    sizes = np.array([subset.bit_count() for subset in range(1 << count)])
    by_count = np.stack([subsets[:, sizes == size].max(axis=1) for size in range(count + 1)], axis=1)
    every = (1 << count) - 1
    singles = [1 << place for place in range(count)]
    return found | {
        "subsets": subsets,
        "dimensions": effective_dimensions(by_count),
        "swing": swing,
        "tuned_alone": subsets[:, singles] - subsets[:, :1],
        "left_alone": subsets[:, [every]] - subsets[:, [every - single for single in singles]],
    }


# -- Seeds -------------------------------------------------------------------------------------------------------------


def _bootstrapped(
    scores: Sequence[Sequence[Sequence[float]]], yardstick: Yardstick, tuner: Tuner | None, how: str, resamples: int
) -> dict[str, Array] | None:
    """Return every number of the card for each resample; None if a configuration has a single seed."""
    import numpy as np

    if min(len(seeds) for of_scenarios in scores for seeds in of_scenarios) < 2:
        return None
    parts = [_measured(yardstick.normalise(drawn), tuner) for drawn in _resampled(scores, how, resamples)]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _resampled(scores: Sequence[Sequence[Sequence[float]]], how: str, resamples: int) -> Iterator[Array]:
    """Yield the scores of configurations in scenarios with the seeds of each resampled, in chunks of draws."""
    import numpy as np

    rng = np.random.default_rng(0)
    groups = _by_number_of_seeds(scores)
    shape = (len(scores), len(scores[0]))
    seeds = sum(values.size for _, values in groups)
    step = max(1, _CHUNK // seeds)
    for begin in range(0, resamples, step):
        draws = min(step, resamples - begin)
        made = np.empty((draws, shape[0] * shape[1]))
        for places, values in groups:
            drawn = rng.integers(values.shape[1], size=(draws, *values.shape))
            made[:, places] = aggregate_along(np.take_along_axis(values[None], drawn, axis=2), how)
        yield made.reshape(draws, *shape)


def _by_number_of_seeds(scores: Sequence[Sequence[Sequence[float]]]) -> list[tuple[NDArray[np.intp], Array]]:
    """Group the cells by their number of seeds: their places in the flat table, and their seeds `(cells, seeds)`."""
    import numpy as np

    cells = [seeds for of_scenarios in scores for seeds in of_scenarios]
    counts = np.array([len(seeds) for seeds in cells])
    found = [(np.flatnonzero(counts == count), count) for count in np.unique(counts)]
    return [(places, np.array([cells[place] for place in places], np.float64)) for places, _ in found]


def _aggregated(scores: Sequence[Sequence[Sequence[float]]], how: str) -> Array:
    """Return the aggregated scores, `(configurations, scenarios)`."""
    import numpy as np

    made = np.empty(len(scores) * len(scores[0]))
    for places, values in _by_number_of_seeds(scores):
        made[places] = aggregate_along(values, how)
    return made.reshape(len(scores), len(scores[0]))


__all__ = [
    "PEAK_SHARE", "PERCENTILES", "RESAMPLES", "Card", "Dimensionality", "HyperparameterEffect", "Played", "Yardstick",
    "assess", "effective_dimensions", "hyperparameter_sensitivity", "one_for_all", "tuned_per_scenario", "yardstick_of",
]  # fmt: skip
