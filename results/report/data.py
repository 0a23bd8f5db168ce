"""The data of a report: the sweep's tables, its manifest, and the score of each seed."""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from jax_party.judging.aggregate import aggregate
from jax_party.judging.intervals import interval
from jax_party.judging.objectives import At, Objective
from jax_party.judging.replicates import pool_seeds
from jax_party.judging.standings import TIERS
from jax_party.store.storage import store_of
from jax_party.trial.manifest import SweepManifest
from jax_party.trial.states import State
from results.analysis.comparison import leaders_of
from results.collector.index_columns import hyperparameter_columns
from results.collector.ranking import behind, contenders, standing_of, without_copies
from results.report.configurations import Configuration, together

#: The runs that a chart shows: those of each algorithm's best configuration, or every configuration.
BEST: Final = "best"
ALL: Final = "all"
VIEWS: Final = (BEST, ALL)


@dataclass(frozen=True)
class SweepData:
    """A sweep in its present state.

    Attributes:
      folder: the sweep's folder.
      index: one row per planned trial, as in `docs/results_format.md`.
      evaluations: the long table.
      manifest: the contents of sweep.yaml; None for a single run.
      scores: trial id -> the objective of each seed.
    """

    folder: Path
    index: pd.DataFrame
    evaluations: pd.DataFrame
    manifest: SweepManifest | None
    scores: Mapping[str, Sequence[float]]

    @property
    def name(self) -> str:
        """The sweep's name, or the folder's."""
        return self.manifest.name if self.manifest is not None else store_of(self.folder).absolute(self.folder).name

    @cached_property
    def objective(self) -> Objective:
        """The sweep's objective."""
        if self.manifest is not None:
            return self.manifest.objective
        row = self.index.iloc[0]
        metric, mode, how = (str(row[f"objective.{name}"]) for name in ("metric", "mode", "aggregate"))
        at = row["objective.at"]
        return Objective(metric, mode, how, at=At.BEST_PER_SEED if pd.isna(at) else str(at))

    @property
    def sign(self) -> float:
        """1 if larger values of the objective are better, -1 if smaller ones are."""
        return 1.0 if self.objective.mode == "max" else -1.0

    @cached_property
    def trials(self) -> pd.DataFrame:
        """The rows of trials with a readable folder, promotions included."""
        return self.index[self.index["scenario"].notna()]

    @cached_property
    def searched(self) -> pd.DataFrame:
        """The trials of the search, without promotions."""
        return self.trials[self.trials["promoted_from"].isna()]

    @cached_property
    def replicates(self) -> set[str]:
        """Ids of the search's trials that do not copy another."""
        return set(without_copies(self.searched)["trial_id"])

    @cached_property
    def algorithms(self) -> list[str]:
        """The algorithms, in the sweep's order."""
        known = list(self.manifest.algorithms) if self.manifest is not None else []
        present = set(self.trials["algorithm"])
        return [name for name in known if name in present] + sorted(present - set(known))

    @cached_property
    def scenarios(self) -> list[str]:
        """The scenarios, in the sweep's order."""
        known = list(self.manifest.scenarios) if self.manifest is not None else []
        present = set(self.trials["scenario"])
        return [name for name in known if name in present] + sorted(present - set(known))

    @cached_property
    def hyperparameters(self) -> list[str]:
        """The sampled keys that have several values, without the seed."""
        return [name for name in self.sampled if self.searched[name].nunique(dropna=False) > 1]

    @property
    def sampled(self) -> list[str]:
        """The sampled keys without the seed, whether they vary or not."""
        return [name for name in hyperparameter_columns(self.index) if name != "system.seed"]

    @cached_property
    def metrics(self) -> list[str]:
        """The metrics that were evaluated; the sweep's objectives come first."""
        present = set(self.evaluations["metric"].unique())
        first = [name for name in self.objective.metrics if name in present]
        return first + sorted(present - set(first))

    @property
    def is_over_scenarios(self) -> bool:
        """Whether configurations are ranked by their mean over scenarios."""
        return self.manifest is not None and self.manifest.scenario_mode == "mean"

    @cached_property
    def configurations(self) -> list[Configuration]:
        """Every configuration in every scenario, best first; those without a score come last.

        If configurations are ranked by their mean over scenarios, that order applies in every scenario.
        """
        places = {(one.algorithm, one.ranked_as): place for place, one in enumerate(self._over_scenarios)}
        last = len(places)
        found = self._in_order(self._of_scenarios)
        return sorted(found, key=lambda one: places.get((one.algorithm, one.ranked_as), last))

    def _in_order(self, found: Iterable[Configuration]) -> list[Configuration]:
        """Return the configurations: by standing per algorithm and scenario, groups merged by their best scores."""
        groups: dict[tuple[str, str], list[Configuration]] = {}
        for one in found:
            groups.setdefault((one.algorithm, one.scenario), []).append(one)
        ordered = [sorted(of, key=lambda one: (one.standing, self._order(one))) for of in groups.values()]
        return list(heapq.merge(*ordered, key=self._order))

    def _order(self, one: Configuration) -> tuple[bool, tuple[int, ...], float, str]:
        return one.score is None, one.behind, -self.sign * (one.score or 0.0), one.ranked_as

    @cached_property
    def _of_scenarios(self) -> list[Configuration]:
        identities = self.searched["trial_id"].map(contenders(self.trials))
        groups: Any = self.searched.groupby(["algorithm", "scenario", identities.rename("ranked_as")], sort=False)
        return [self._configuration(str(a), str(s), str(name), rows) for (a, s, name), rows in groups]

    @cached_property
    def _over_scenarios(self) -> list[Configuration]:
        """The configurations that have been played in every scenario, by their mean, best first."""
        by_configuration: dict[tuple[str, str], list[Configuration]] = {}
        for one in self._of_scenarios if self.is_over_scenarios else ():
            if one.score is not None:
                by_configuration.setdefault((one.algorithm, one.ranked_as), []).append(one)
        wanted = len(self.manifest.scenarios) if self.manifest is not None else 0
        found = [together(parts) for parts in by_configuration.values() if len(parts) == wanted]
        return self._in_order(found)

    @property
    def contenders(self) -> list[Configuration]:
        """What is ranked, best first: every configuration in every scenario, or each by its mean over scenarios.

        In a sweep that averages over scenarios, configurations that have not been played in all of them come last, one
        entry per scenario.
        """
        ranked = {(one.algorithm, one.ranked_as) for one in self._over_scenarios}
        others = [one for one in self.configurations if (one.algorithm, one.ranked_as) not in ranked]
        return self._over_scenarios + others

    def _configuration(self, algorithm: str, scenario: str, ranked_as: str, rows: pd.DataFrame) -> Configuration:
        ids = rows["trial_id"].tolist()
        kept = rows[rows["trial_id"].isin(self.replicates)].astype(object).to_dict("records")
        kept = [row for row in kept if _tier(row) == min(map(_tier, kept))]  # as `judging.standings` counts them
        by_seed = pool_seeds((int(row["seed"]), self.scores.get(row["trial_id"], ())) for row in kept)
        values = tuple(by_seed.values())
        complete = self.trials["state"].eq(State.COMPLETE.value) & self.trials["trial_id"].isin(list(self.scores))
        tests = self.trials[self.trials["promoted_from"].isin(ids) & complete]
        fresh_trials = tuple(tests["trial_id"])
        of_tests = zip(tests["seed"], map(self.scores.__getitem__, fresh_trials), strict=True)
        fresh_values = tuple(pool_seeds(of_tests).values())
        judged = rows["objective.feasible"].dropna()
        counted = [row["settled"] for row in kept]
        return Configuration(
            algorithm, scenario, str(rows["configuration"].iloc[0]), rows,
            score=aggregate(values, self.objective.aggregate) if values else None,
            values=values, seeds=interval(values) if values else None, fresh_trials=fresh_trials,
            fresh=interval(fresh_values) if fresh_values else None, fresh_values=fresh_values,
            feasible=bool(judged.all()), ranked_as=ranked_as, standing=min(map(standing_of, kept), default=math.inf),
            behind=min((behind(row) for row in kept), default=()),
            settled=None if not counted or any(map(pd.isna, counted)) else all(counted),
            provisional=any(row["provisional"] is True for row in kept),
            by_seed=by_seed,
            replicates=tuple(row["trial_id"] for row in kept),
        )  # fmt: skip

    @cached_property
    def leaders(self) -> dict[str, dict[str, dict[str, Any]]]:
        """Scenario -> algorithm -> its row of `results.leaders`, best algorithm first."""
        found: dict[str, dict[str, dict[str, Any]]] = {}
        for row in leaders_of(self.trials).to_dict("records"):
            found.setdefault(str(row["scenario"]), {})[str(row["algorithm"])] = {str(k): v for k, v in row.items()}
        return found

    @cached_property
    def best(self) -> dict[tuple[str, str], Configuration]:
        """(algorithm, scenario) -> its best configuration, if one has a score; the same in every scenario if
        configurations are ranked by their mean over scenarios.
        """
        found: dict[tuple[str, str], Configuration] = {}
        for one in self.configurations:
            if one.score is not None:
                found.setdefault((one.algorithm, one.scenario), one)
        return found

    def is_fresh(self, scenario: str) -> bool:
        """Return whether algorithms are compared on fresh seeds there: if the best of each was tested on some."""
        found = [one for (_, where), one in self.best.items() if where == scenario]
        return bool(found) and all(one.fresh_values for one in found)

    def runs(self, view: str, algorithm: str, scenario: str) -> NDArray[np.float64]:
        """Return the scores of an algorithm's runs in a scenario; larger is better.

        Args:
          view: `best`: the seeds of its best configuration, fresh ones if every algorithm has some; `all`: the score of
            each configuration of the search.
        """
        if view == BEST:
            chosen = self.best.get((algorithm, scenario))
            values: Sequence[float] = ()
            if chosen is not None:
                values = chosen.fresh_values if self.is_fresh(scenario) else chosen.values
        else:
            values = [one.score for one in self._of(algorithm, scenario) if one.score is not None]
        return self.sign * np.asarray(values, np.float64)

    def _of(self, algorithm: str, scenario: str) -> list[Configuration]:
        return [one for one in self.configurations if (one.algorithm, one.scenario) == (algorithm, scenario)]

    def curves(self, view: str, algorithm: str, scenario: str, metric: str) -> pd.DataFrame:
        """Return the learning curves of the same runs: the index is the step, with one column per run.

        A run that ended early keeps its last value; the curve of a run that is still going ends at its last step.
        """
        if view == BEST:
            chosen = self.best.get((algorithm, scenario))
            curves = self._of_trials(chosen.curve_trials if chosen else [], metric)
            if chosen and chosen.fresh_trials and not curves.empty:
                curves = curves.loc[:, ~curves.columns.get_level_values("seed").duplicated()]  # a seed counts once
            return curves
        trials = [trial for one in self._of(algorithm, scenario) for trial in one.replicates]
        return self._of_trials(trials, metric).T.groupby(level=0, sort=False).mean().T

    def _of_trials(self, trials: Sequence[str], metric: str) -> pd.DataFrame:
        table = self._pivots.get(metric)
        if table is None:
            return pd.DataFrame()
        chosen = table.loc[:, table.columns.get_level_values(0).isin(set(trials))].dropna(how="all")
        filled = chosen.ffill()
        running = chosen.columns[chosen.columns.get_level_values(0).isin(self._running)]
        for column in running:
            last = chosen[column].last_valid_index()
            filled.loc[filled.index > last, column] = np.nan
        return filled

    @cached_property
    def _running(self) -> set[str]:
        going_on = self.index["state"].isin([State.RUNNING.value, State.PENDING.value])
        return set(self.index.loc[going_on, "trial_id"])

    @cached_property
    def _pivots(self) -> dict[str, pd.DataFrame]:
        """Metric -> a table with one row per step and one column per trial and seed."""
        return {
            str(metric): rows.pivot_table(index="step", columns=["trial_id", "seed"], values="value", observed=True)
            for metric, rows in self.evaluations.groupby("metric", observed=True)
        }

    def final(self, trial: Mapping[str, Any], metric: str) -> float | None:
        """Return a trial's metric for the networks that it is judged by; a rule's average is over its evaluations."""
        averaged = At(self.objective.at).averaged
        table = self._pivots.get(metric) if averaged is not None else None
        if table is not None and trial["trial_id"] in table.columns.get_level_values(0):
            values = table[trial["trial_id"]].dropna()
            values = values[values.index > 0].tail(averaged)  # step 0 is of untrained networks
            if len(values):
                return float(values.to_numpy().mean())
        for prefix in _PREFIXES.get(At(self.objective.at), ("last.",)):
            value = trial.get(prefix + metric)
            if value is not None and not pd.isna(value):
                return float(value)
        return None


_PREFIXES: Final[Mapping[At, tuple[str, ...]]] = {
    At.FINAL: ("final.", "last."),
    At.BEST: ("absolute.", "best.", "last."),
    At.BEST_PER_SEED: ("absolute.", "best.", "last."),
}


def _tier(row: Mapping[Any, Any]) -> int:
    return TIERS.get(str(row["state"]), len(TIERS))


def joined(values: Iterable[Any]) -> str:
    """Return the values as text, separated by commas."""
    return ", ".join(str(value) for value in values)
