"""Two sweeps compared: each one's objective over seeds, their difference, and the probability that one is better."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

from jax_party.errors import RecordError
from jax_party.judging.aggregate import Aggregate, aggregate
from jax_party.judging.intervals import BOOTSTRAP_SEEDS, interval, mean_and_half_width
from jax_party.judging.objectives import At
from jax_party.judging.replicates import means_over_scenarios, pool_seeds
from jax_party.judging.resampling import bootstrap_interval, trimmed_mean
from results.analysis.statistics import wins
from results.collector.ranking import OVER_SCENARIOS, contenders, mode_of, standing_of
from results.tables import load_index

BY: Final = ("best", "configuration")
MEAN_OF: Final = "mean of "
"""The prefix of the scenario name for means over scenarios."""


class Played(NamedTuple):
    """A configuration that has been played to the end.

    Attributes:
      configuration: its id of 8 hexadecimal digits.
      searched: seed -> the objective, for the seeds of the search.
      fresh: seed -> the objective, for the seeds of its promotions, which did not choose it.
      score: the value that the sweep ranks it by.
      feasible: whether it satisfies the sweep's constraints.
      over_scenarios: whether the score is its mean over scenarios.
      standing: its place among those it is compared with; infinite if an older index has none.
      provisional: whether it could only be a provisional best.
      aggregate: how the sweep aggregates over seeds.
    """

    configuration: str
    searched: Mapping[int, float]
    fresh: Mapping[int, float]
    score: float
    feasible: bool
    over_scenarios: bool
    standing: float = math.inf
    provisional: bool = False
    aggregate: str = Aggregate.MEAN.value

    def values(self, fresh: bool) -> NDArray[np.float64]:
        """Return the objective of each seed, fresh or searched."""
        return np.array([*(self.fresh if fresh else self.searched).values()])


def compare(sweep_a: str | Path, sweep_b: str | Path, by: str = "best") -> pd.DataFrame:
    """Compare sweep `b` with sweep `a`: one row per scenario and algorithm.

    The samples are seeds, those of promotions if both sides have them. With fewer than ten seeds on either side,
    estimates are means with Student's t (Welch's t for the difference), otherwise interquartile means with percentile
    bootstraps. Seeds are treated as independent. Both sweeps must have been collected.

    Args:
      sweep_a, sweep_b: their folders, or their index.parquet.
      by: `best` compares the best configuration of each algorithm, a feasible one if there is any; if the sweeps have
        no algorithm in common, it compares every pair of algorithms. `configuration` compares each configuration that
        both have. In a sweep that averages over scenarios, the best by the mean is used in every scenario.

    Returns:
      `scenario` (`mean of p-base, p-no-rank` for the mean over scenarios, if the sweeps optimise it), `algorithm_a`,
      `algorithm_b`, `configuration_a`, `configuration_b`, `metric`, `mode`, `at_a`, `at_b` (the rules by which trials
      are judged), `seeds` (`fresh` or `searched`; the latter chose the best configuration, which biases its score
      upwards), `n_a`, `value_a`, `low_a`, `high_a`, the same for b, `estimator`, `difference` (b minus a) with
      `difference_low` and `difference_high`, and `probability_of_improvement`: the probability that a seed of b is
      better than one of a, with ties counted as one half. Intervals are 95 % intervals; NaN if a side has a single
      seed.

    Raises:
      RecordError: a sweep cannot be read, their objectives differ, or they have nothing in common.
    """
    if by not in BY:
        raise RecordError(f"by: {by!r} is no way to compare; use one of {', '.join(BY)}")
    one, other = load_index(sweep_a), load_index(sweep_b)
    metric, mode = _objective(one, sweep_a)
    if _objective(other, sweep_b) != (metric, mode):
        theirs = " ".join(_objective(other, sweep_b))
        raise RecordError(
            f"{sweep_b}: looks for {theirs}, {sweep_a} for {metric} {mode}; compare sweeps with the same objective"
        )
    at_a, at_b = _rule(one), _rule(other)
    played_a, played_b = played_by_group(one), played_by_group(other)
    rows = [
        {"scenario": scenario, "algorithm_a": of_a, "algorithm_b": of_b, "metric": metric, "mode": mode}
        | {"at_a": at_a, "at_b": at_b}
        | _compared(a, b, fresh, mode)
        for scenario, of_a, of_b in _pairs(played_a, played_b)
        for a, b, fresh in _matched(played_a[scenario, of_a], played_b[scenario, of_b], by, mode)
    ]
    if not rows:
        what = "scenario with finished trials" if by == "best" else "configuration"
        raise RecordError(f"{sweep_a} and {sweep_b}: no {what} in common; nothing to compare")
    first = ["scenario", "algorithm_a", "algorithm_b", "configuration_a", "configuration_b", "metric", "mode"]
    table = pd.DataFrame(rows)
    return table[[*first, *(name for name in table.columns if name not in first)]]


def leaders(sweep: str | Path) -> pd.DataFrame:
    """Return each algorithm's best configuration in each scenario, best algorithm first.

    Algorithms are ranked by `score`, the sweep's own aggregate over seeds: fresh seeds if all algorithms of a scenario
    have some, otherwise those of the search. Infeasible configurations come last, after provisional ones. Beside the
    score there is an estimate with its interval, of the same kind for all: interquartile means if each has at least ten
    seeds, otherwise means. The sweep must have been collected.

    Returns:
      `scenario` (`mean of …` if configurations are ranked by their mean over scenarios), `place`, `algorithm`,
      `configuration`, `metric`, `mode`, `seeds` (`fresh` or `searched`), `n`, `score`, `value`, `low`, `high` (95 %,
      NaN for a single seed), `estimator`, `feasible` (whether it satisfies the constraints) and `provisional`.

    Raises:
      RecordError: the sweep cannot be read, or has no complete trial.
    """
    index = load_index(sweep)
    metric, mode = _objective(index, sweep)
    found = leaders_of(index)
    if found.empty:
        raise RecordError(f"{sweep}: no trial is COMPLETE; finish it: make resume SWEEP={sweep}")
    return found.assign(metric=metric, mode=mode)[[*LEADER_COLUMNS]]


LEADER_COLUMNS: Final = (
    "scenario", "place", "algorithm", "configuration", "metric", "mode", "seeds", "n", "score", "value", "low", "high",
    "estimator", "feasible", "provisional",
)  # fmt: skip


def compare_algorithms(sweep: str | Path) -> pd.DataFrame:
    """Compare the algorithms of a sweep by their best configurations: one row per scenario and pair.

    Columns, estimators and errors are those of `compare`; in each pair, `b` is the one that `leaders` ranks higher.
    """
    index = load_index(sweep)
    metric, mode = _objective(index, sweep)
    groups, order, rows = played_by_group(index), leaders(sweep), []
    for scenario, of_scenario in order.groupby("scenario", sort=False):
        names = of_scenario.sort_values("place")["algorithm"].tolist()
        best = {name: _best(groups[str(scenario), name], mode) for name in names}
        fresh = all(one.fresh for one in best.values())
        for b, a in itertools.combinations(names, 2):
            first = {"scenario": scenario, "algorithm_a": a, "algorithm_b": b, "metric": metric, "mode": mode}
            rows.append(first | _compared(best[a], best[b], fresh, mode))
    if not rows:
        raise RecordError(f"{sweep}: one algorithm with complete trials; there is nothing to compare")
    return pd.DataFrame(rows)


def leaders_of(index: pd.DataFrame) -> pd.DataFrame:
    """Return `leaders` of an index; empty if no trial is complete, or an older index lacks the scores of seeds."""
    if "objective.seed_values" not in index:
        return pd.DataFrame(columns=list(LEADER_COLUMNS))
    mode, groups, rows = mode_of(index), played_by_group(index), []
    sign = 1.0 if mode == "max" else -1.0
    for scenario in sorted({scenario for scenario, _ in groups}):
        best = {name: _best(side, mode) for (where, name), side in groups.items() if where == scenario}
        fresh = all(one.fresh for one in best.values())
        values = {name: one.values(fresh) for name, one in best.items()}
        many = min(map(len, values.values())) >= BOOTSTRAP_SEEDS
        estimates = {name: _estimate(of_algorithm, many) for name, of_algorithm in values.items()}
        scores = {
            name: aggregate(values[name].tolist(), one.aggregate) if fresh else one.score for name, one in best.items()
        }
        ordered = sorted(
            best, key=lambda name: (not best[name].feasible, best[name].provisional, -sign * scores[name], name)
        )
        for place, name in enumerate(ordered, start=1):
            value, low, high = estimates[name]
            rows.append({
                "scenario": scenario, "place": place, "algorithm": name, "configuration": best[name].configuration,
                "seeds": "fresh" if fresh else "searched", "n": len(values[name]), "score": scores[name],
                "value": value, "low": low,
                "high": high, "estimator": (Aggregate.IQM if many else Aggregate.MEAN).value,
                "feasible": best[name].feasible, "provisional": best[name].provisional,
            })  # fmt: skip
    return pd.DataFrame(rows)


def _objective(index: pd.DataFrame, sweep: str | Path) -> tuple[str, str]:
    found = index[["objective.metric", "objective.mode"]].dropna()
    if found.empty or "objective.seed_values" not in index:
        raise RecordError(
            f"{sweep}: its index lacks the objective of each seed; make it anew: make collect SWEEP={sweep}"
        )
    return str(found.iloc[0, 0]), str(found.iloc[0, 1])


def _rule(index: pd.DataFrame) -> str:
    """Return the rule by which the trials are judged; an older index does not record it."""
    rules = index["objective.at"].dropna().tolist() if "objective.at" in index else []
    return str(rules[0]) if rules else At.BEST_PER_SEED.value


Groups = dict[tuple[str, str], list[Played]]


def played_by_group(index: pd.DataFrame) -> Groups:
    """Return (scenario, algorithm) -> the contenders (`judging.replicates.contender`) that were played to the end.

    If a sweep's configurations are ranked by their mean over scenarios, an extra scenario `mean of …` holds each seed's
    mean over scenarios.
    """
    names = contenders(index)
    rows: dict[tuple[str, str, str], list[dict[Any, Any]]] = {}
    for row in index[(index["state"] == "COMPLETE") & index["objective.seed_values"].notna()].to_dict("records"):
        rows.setdefault((row["scenario"], row["algorithm"], names[row["trial_id"]]), []).append(row)
    found: Groups = {}
    for (scenario, algorithm, _), of_configuration in rows.items():
        searched, fresh = (
            [row for row in of_configuration if pd.notna(row["promoted_from"]) is promoted]
            for promoted in (False, True)
        )
        if searched:
            found.setdefault((scenario, algorithm), []).append(_configuration(searched, fresh))
    averaged = index[index[OVER_SCENARIOS].notna()] if OVER_SCENARIOS in index else index.head(0)
    return found | _over_scenarios(found, sorted(averaged["scenario"].unique()))


def _configuration(searched: Sequence[dict[Any, Any]], fresh: Sequence[dict[Any, Any]]) -> Played:
    values, tests = _values_of_seeds(searched), _values_of_seeds(fresh)
    over = {row["seed"]: float(row[OVER_SCENARIOS]) for row in searched if pd.notna(row.get(OVER_SCENARIOS))}
    return Played(
        str(searched[0]["configuration"]), values, tests,
        score=math.fsum(over.values()) / len(over)
        if over else aggregate(list(values.values()), searched[0]["objective.aggregate"]),
        feasible=all(pd.isna(row["objective.feasible"]) or bool(row["objective.feasible"]) for row in searched),
        over_scenarios=bool(over),
        standing=min(map(standing_of, searched)), provisional=any(row.get("provisional") is True for row in searched),
        aggregate=str(searched[0]["objective.aggregate"]),
    )  # fmt: skip


def _values_of_seeds(rows: Sequence[dict[Any, Any]]) -> dict[int, float]:
    """Return seed -> the objective, for the trials of one configuration in one scenario."""
    return pool_seeds((int(row["seed"]), json.loads(row["objective.seed_values"])) for row in rows)


def _over_scenarios(groups: Groups, scenarios: Sequence[str]) -> Groups:
    """Return the extra scenario's groups: each seed's mean, for configurations ranked by their mean over scenarios."""
    name = f"{MEAN_OF}{', '.join(scenarios)}"
    found: Groups = {}
    for algorithm in {algorithm for _, algorithm in groups} if scenarios else ():
        of_scenarios = [
            {one.configuration: one for one in groups.get((scenario, algorithm), ())} for scenario in scenarios
        ]
        for configuration, first in of_scenarios[0].items():
            parts = [of_scenario[configuration] for of_scenario in of_scenarios if configuration in of_scenario]
            if first.over_scenarios and len(parts) == len(scenarios):
                searched, fresh = (
                    means_over_scenarios([one.fresh if tested else one.searched for one in parts])
                    for tested in (False, True)
                )
                if searched:
                    together = first._replace(
                        searched=searched, fresh=fresh, feasible=all(one.feasible for one in parts),
                        provisional=any(one.provisional for one in parts),
                    )  # fmt: skip
                    found.setdefault((name, algorithm), []).append(together)
    return found


def _pairs(a: Groups, b: Groups) -> list[tuple[str, str, str]]:
    """Return (scenario, algorithm of a, algorithm of b): shared algorithms if the scenario has any, else all pairs."""
    found = []
    for scenario in sorted({name for name, _ in a} & {name for name, _ in b}):
        of_a, of_b = (sorted(algorithm for name, algorithm in one if name == scenario) for one in (a, b))
        shared = [(name, name) for name in of_a if name in of_b]
        found += [(scenario, *pair) for pair in shared or [(one, other) for one in of_a for other in of_b]]
    return found


def _matched(a: Sequence[Played], b: Sequence[Played], by: str, mode: str) -> list[tuple[Played, Played, bool]]:
    """Return the pairs of configurations to compare, and whether on fresh seeds: if both sides have them.

    The best configuration is the one that the search chose; the fresh seeds that measure it have no influence on the
    choice.
    """
    if by == "configuration":
        # Members of a population may have reached the same values: keep the best of them.
        of_a, of_b = (
            {one.configuration: one for one in sorted(side, key=_order(mode), reverse=True)} for side in (a, b)
        )
        both = [(of_a[name], of_b[name]) for name in sorted(set(of_a) & set(of_b))]
        return sorted(((x, y, bool(x.fresh and y.fresh)) for x, y in both), key=lambda pair: not pair[2])
    tested_a, tested_b = ([one for one in side if one.fresh] for side in (a, b))
    fresh = bool(tested_a and tested_b)
    return [(_best(tested_a if fresh else a, mode), _best(tested_b if fresh else b, mode), fresh)]


def _best(side: Sequence[Played], mode: str) -> Played:
    return min(side, key=_order(mode))


def _order(mode: str) -> Callable[[Played], tuple[float, bool, bool, float, str]]:
    """Return the sort key for the sweep's standings; with an older index, feasible configurations by their scores."""
    sign = 1.0 if mode == "max" else -1.0
    return lambda one: (one.standing, not one.feasible, not one.over_scenarios, -sign * one.score, one.configuration)


def _compared(a: Played, b: Played, fresh: bool, mode: str) -> dict[str, Any]:
    x, y = (one.values(fresh) for one in (a, b))
    many = min(len(x), len(y)) >= BOOTSTRAP_SEEDS
    row: dict[str, Any] = {"configuration_a": a.configuration, "configuration_b": b.configuration}
    row["seeds"] = "fresh" if fresh else "searched"
    for name, values in (("a", x), ("b", y)):
        value, low, high = _estimate(values, many)
        row |= {f"n_{name}": len(values), f"value_{name}": value, f"low_{name}": low, f"high_{name}": high}
    low, high = _difference(x, y, many)
    better = wins(y, x) if mode == "max" else wins(-y, -x)
    return row | {
        "estimator": (Aggregate.IQM if many else Aggregate.MEAN).value,
        "difference": row["value_b"] - row["value_a"],
        "difference_low": low,
        "difference_high": high,
        "probability_of_improvement": float(better.mean()),
    }


def _estimate(values: NDArray[np.float64], many: bool) -> tuple[float, float, float]:
    if many:
        value, low, high, _ = interval(values.tolist())
        return value, low if low is not None else math.nan, high if high is not None else math.nan
    if len(values) < 2:
        return float(values[0]), math.nan, math.nan
    mean, half = map(float, mean_and_half_width(values))
    return mean, mean - half, mean + half


def _gap_of_iqms(x: NDArray[np.float64], y: NDArray[np.float64], axis: int) -> NDArray[np.float64]:
    return trimmed_mean(y, axis) - trimmed_mean(x, axis)


def _difference(x: NDArray[np.float64], y: NDArray[np.float64], many: bool) -> tuple[float, float]:
    """Return the 95 % interval of y's estimate minus x's."""
    if many:
        return bootstrap_interval((x, y), _gap_of_iqms)
    if min(len(x), len(y)) > 1:
        if np.ptp(x) == 0 and np.ptp(y) == 0:  # nothing varies, and Welch's degrees of freedom would be 0 / 0
            gap = float(y[0] - x[0])
            return gap, gap
        found = stats.ttest_ind(y, x, equal_var=False).confidence_interval(0.95)
    else:
        return math.nan, math.nan
    return float(found.low), float(found.high)


__all__ = ["BY", "MEAN_OF", "Played", "compare", "compare_algorithms", "leaders", "leaders_of", "played_by_group"]
