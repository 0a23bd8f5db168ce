"""The score reached by tuning some hyperparameters per scenario while the others stay at their default.

This needs configurations that differ from the default only in the tuned hyperparameters. On a grid they have been
played. A random search has none; a forest then predicts their scores.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Array = NDArray[np.float64]
    Places = NDArray[np.intp]

GRID_SHARE: Final = 0.5
"""If at least this share of all combinations of values was played, the configurations count as a grid."""
FEWEST_FOR_FOREST: Final = 16
"""With fewer configurations that are not on a grid, single hyperparameters are not assessed."""
MOST_HYPERPARAMETERS: Final = 10
"""Every subset of the hyperparameters is tuned, so that more of them would take too long."""
_TREES: Final = 100
_FOLDS: Final = 5
_DONORS: Final = 64
_VALUES: Final = 128
_MOST_FOLDED: Final = 1_000
_CHUNK: Final = 4_000_000


@dataclass(frozen=True)
class Candidates:
    """Configurations that differ from one default in some hyperparameters, grouped by subset.

    Attributes:
      weights: for each scenario a sparse matrix `(candidates, configurations)` that maps the scores of the played
        configurations to those of the candidates.
      starts: the first candidate of each of the 2^k subsets; bit j of a subset's number stands for hyperparameter j.
      single_weights, single_starts: the same for single hyperparameters with every value that has been played.
    """

    weights: Sequence[Any]
    starts: Places
    single_weights: Sequence[Any]
    single_starts: Places

    def tune(self, normalised: Array) -> tuple[Array, Array]:
        """Return the score of each subset, `(draws, 2^k)`, and the swing of each hyperparameter, `(draws, k)`."""
        import numpy as np

        subsets, swings = [], []
        step = max(1, _CHUNK // self.weights[0].shape[0])
        for begin in range(0, len(normalised), step):
            of_scenarios = normalised[begin : begin + step].transpose(2, 1, 0)
            best = np.mean([self._best(*one) for one in zip(self.weights, of_scenarios, strict=True)], axis=0)
            pairs = zip(self.single_weights, of_scenarios, strict=True)
            means = np.mean([weights @ scores for weights, scores in pairs], axis=0)
            highest, lowest = (ufunc.reduceat(means, self.single_starts) for ufunc in (np.maximum, np.minimum))
            subsets.append(best.T)
            swings.append((highest - lowest).T)
        return np.concatenate(subsets), np.concatenate(swings)

    def _best(self, weights: Any, scores: Array) -> Array:
        """Return the best score in a scenario with each subset tuned, `(2^k, draws)`; it may leave some untuned."""
        import numpy as np

        best = np.maximum.reduceat(weights @ scores, self.starts)
        numbers = np.arange(len(best))
        for place in range(len(best).bit_length() - 1):
            more = numbers[numbers >> place & 1 == 1]
            best[more] = np.maximum(best[more], best[more - (1 << place)])
        return best


class Tuner:
    """The score reached by tuning each subset of the hyperparameters per scenario, the others at their default.

    Attributes:
      names: the hyperparameters.
      codes: the place of each configuration's value among a hyperparameter's values, `(configurations, k)`.
      default: the place of the configuration that provides the other hyperparameters.
      method: `grid` or `forest`.
      r_squared: the forest's.
    """

    method = "grid"
    r_squared: float | None = None

    def __init__(self, names: Sequence[str], codes: Places, default: int, scenarios: int) -> None:
        self.names = tuple(names)
        self.codes = codes
        self.default = default
        self.scenarios = scenarios

    def subset(self, number: int) -> tuple[str, ...]:
        """Return the hyperparameters of a subset."""
        return tuple(name for place, name in enumerate(self.names) if number >> place & 1)

    @cached_property
    def candidates(self) -> Candidates:
        """Configurations that have been played."""
        import numpy as np
        from scipy import sparse

        equal = self.codes == self.codes[self.default]

        def matched(subset: int) -> Places:
            fixed = [place for place in range(len(self.names)) if not subset >> place & 1]
            return np.flatnonzero(equal[:, fixed].all(axis=1))

        def weights(places: Places) -> Sequence[Any]:
            at = (np.arange(len(places)), places)
            return [sparse.csr_array((np.ones(len(places)), at), (len(places), len(equal)))] * self.scenarios

        every, starts = _stacked([matched(subset) for subset in range(1 << len(self.names))])
        singles, single_starts = _stacked([matched(1 << place) for place in range(len(self.names))])
        return Candidates(weights(every), starts, weights(singles), single_starts)


class ForestTuner(Tuner):
    """A tuner that predicts scores by extremely randomised trees, with one forest per scenario.

    Each tree is grown on all configurations down to single ones (Geurts et al. 2006,
    https://doi.org/10.1007/s10994-006-6226-1), so that the forest reproduces the scores of those that have been played,
    and in between predicts a mean of some of these. Its predictions are linear in the scores (Meinshausen 2006,
    https://jmlr.org/papers/v7/meinshausen06a.html, equations 4 and 5); resamples keep the trees and put the drawn
    scores into their leaves.
    """

    method = "forest"

    def __init__(
        self, names: Sequence[str], codes: Places, default: int, scores: Array, features: Callable[[Places], Array]
    ) -> None:
        super().__init__(names, codes, default, scores.shape[1])
        self._scores = scores
        self._features = features
        self.r_squared = _r_squared(features(codes), scores)

    @cached_property
    def candidates(self) -> Candidates:
        """The default with values of other configurations in place of its own."""
        import numpy as np

        every, starts = _stacked([self._crossed(subset) for subset in range(1 << len(self.names))])
        singles, single_starts = _stacked([self._varied(place) for place in range(len(self.names))])
        known, asked = self._features(self.codes), self._features(np.concatenate([every, singles]))
        forests = [_forest().fit(known, of_scenario) for of_scenario in self._scores.T]
        weights = [_leaf_weights(forest.apply(known), forest.apply(asked)) for forest in forests]
        return Candidates(
            [of_scenario[: len(every)] for of_scenario in weights], starts,
            [of_scenario[len(every) :] for of_scenario in weights], single_starts,
        )  # fmt: skip

    def _crossed(self, subset: int) -> Places:
        """Return the default with the tuned values of each donor: if there are many, the best ones in some scenario."""
        import numpy as np

        donors = np.argsort(-self._scores.max(axis=1), kind="stable")[:_DONORS]
        made = np.repeat(self.codes[[self.default]], len(donors) + 1, axis=0)
        tuned = [place for place in range(len(self.names)) if subset >> place & 1]
        made[1:, tuned] = self.codes[donors][:, tuned]
        return np.unique(made, axis=0)

    def _varied(self, place: int) -> Places:
        """Return the default with each value of one hyperparameter; if there are many, some, evenly spaced by rank."""
        import numpy as np

        values = np.arange(self.codes[:, place].max() + 1)
        if len(values) > _VALUES:
            values = values[np.linspace(0, len(values) - 1, _VALUES).round().astype(np.intp)]
        values = np.union1d(values, self.codes[self.default, place])
        made = np.repeat(self.codes[[self.default]], len(values), axis=0)
        made[:, place] = values
        return made


def tuner_of(values: Mapping[str, Sequence[Any]], scores: Array) -> tuple[Tuner | None, str]:
    """Return the tuner for these configurations; None with the reason if there is none.

    The default is the configuration with the best mean over scenarios.

    Args:
      values: hyperparameter -> its value in each configuration.
      scores: normalised, `(configurations, scenarios)`.
    """
    import numpy as np

    count = len(scores)
    coded = {name: _codes(of_name) for name, of_name in values.items()}
    coded = {name: codes for name, codes in coded.items() if codes.max(initial=0) > 0}
    if not coded:
        return None, "no hyperparameter varies among its configurations"
    if len(coded) > MOST_HYPERPARAMETERS:
        return None, f"{len(coded)} hyperparameters vary; subsets of at most {MOST_HYPERPARAMETERS} are compared"
    codes = np.stack(list(coded.values()), axis=1)
    default = int(scores.mean(axis=1).argmax())
    combinations = np.prod(codes.max(axis=0) + 1.0)
    if count >= GRID_SHARE * combinations:
        return Tuner(list(coded), codes, default, scores.shape[1]), ""
    if count < FEWEST_FOR_FOREST:
        return None, (
            f"{count} configurations are too few; without a full grid (they are {count} of {combinations:.0f} "
            f"combinations of values) it takes {FEWEST_FOR_FOREST}"
        )
    features = _features_of({name: values[name] for name in coded}, codes)
    tuner = ForestTuner(list(coded), codes, default, scores, features)
    if tuner.r_squared is None or tuner.r_squared <= 0:
        return None, (
            f"the hyperparameters do not predict the score of a configuration (cross-validated R² "
            f"{tuner.r_squared or 0.0:.2f}): too few configurations, or too few seeds"
        )
    return tuner, ""


def _codes(values: Sequence[Any]) -> Places:
    """Return the place of each value among the distinct values; numbers are sorted by value."""
    import numpy as np

    known = sorted(set(values), key=None if _is_numeric(values) else repr)
    places = {value: place for place, value in enumerate(known)}
    return np.array([places[value] for value in values], np.intp)


def _is_numeric(values: Sequence[Any]) -> bool:
    return all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in values)


def _features_of(values: Mapping[str, Sequence[Any]], codes: Places) -> Callable[[Places], Array]:
    """Return a function from codes to a forest's features: the rank of a number, so that it does not matter whether an
    axis is logarithmic, and one column per category.
    """
    import numpy as np

    numeric = [_is_numeric(of_name) for of_name in values.values()]
    levels = codes.max(axis=0) + 1

    def features(asked: Places) -> Array:
        columns = [
            column[:, None].astype(np.float64) if is_number else np.eye(count)[column]
            for column, is_number, count in zip(asked.T, numeric, levels, strict=True)
        ]
        return np.concatenate(columns, axis=1)

    return features


def _stacked(parts: Sequence[Places]) -> tuple[Places, Places]:
    """Return the parts concatenated, and where each begins."""
    import numpy as np

    return np.concatenate(parts), np.cumsum([0, *map(len, parts[:-1])])


def _forest() -> Any:
    from sklearn.ensemble import ExtraTreesRegressor

    return ExtraTreesRegressor(n_estimators=_TREES, random_state=0)


def _r_squared(features: Array, scores: Array) -> float:
    """Return the cross-validated share of variance that forests predict: the mean over scenarios whose scores differ.

    If there are many configurations, a random sample of them is used.
    """
    import numpy as np
    from sklearn.model_selection import KFold, cross_val_predict

    chosen = np.random.default_rng(0).permutation(len(scores))[:_MOST_FOLDED]
    features, scores = features[chosen], scores[chosen]
    found = []
    for of_scenario in scores.T:
        total = float(((of_scenario - of_scenario.mean()) ** 2).sum())
        if total > 0:
            folds = KFold(_FOLDS, shuffle=True, random_state=0)
            predicted = cross_val_predict(_forest(), features, of_scenario, cv=folds)
            found.append(1 - float(((of_scenario - predicted) ** 2).sum()) / total)
    return float(np.mean(found)) if found else 0.0


def _leaf_weights(known: Places, asked: Places) -> Any:
    """Return a sparse matrix `(asked, known)`: the weight of each known row in the prediction for each asked row.

    Args:
      known, asked: the leaf of each row in each tree.
    """
    import numpy as np
    from scipy import sparse

    trees = known.shape[1]
    firsts = np.cumsum([0, *(np.maximum(known.max(axis=0), asked.max(axis=0)) + 1)])

    def membership(leaves: Places) -> Any:
        rows = np.repeat(np.arange(len(leaves)), trees)
        columns = (leaves + firsts[:-1]).ravel()
        return sparse.csr_array((np.ones(leaves.size), (rows, columns)), (len(leaves), int(firsts[-1])))

    of_known = membership(known)
    sizes = np.asarray(of_known.sum(axis=0)).ravel()
    return (membership(asked) @ sparse.diags_array(1 / np.maximum(sizes, 1) / trees) @ of_known.T).tocsr()


__all__ = ["FEWEST_FOR_FOREST", "GRID_SHARE", "MOST_HYPERPARAMETERS", "Candidates", "ForestTuner", "Tuner", "tuner_of"]
