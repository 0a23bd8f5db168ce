"""How much a good score depends on each hyperparameter: one estimator on one set of trials, wherever it is shown.

It is the one that Optuna's dashboard computes from the sweep's journal: PED-ANOVA (Watanabe et al. 2023,
https://arxiv.org/abs/2304.10255) for being among the best tenth, over COMPLETE trials, with the ranges that the sweep
declares.
"""

from __future__ import annotations

import contextlib
import json
import math
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import pandas as pd

from jax_party.judging.standings import MEAN_OVER_SCENARIOS
from jax_party.trial.manifest import SweepManifest
from jax_party.trial.states import State
from results.collector.index_columns import hyperparameter_columns
from results.collector.ranking import EVERY_SCENARIO, OVER_SCENARIOS, SCORE, mode_of

SCENARIO_AXIS: Final = "axis"
"""The scenario mode of a sweep that also samples the scenario, which then counts as a hyperparameter."""
EVALUATOR: Final = "PED-ANOVA"
FEWEST_TRIALS: Final = 8
"""Below this number of trials, importances are meaningless."""
ENOUGH_TRIALS: Final = 50
"""Below this, fewer than five trials are in the best tenth and the order is uncertain (Optuna's docs ask for five)."""


@dataclass(frozen=True)
class Importance:
    """How much a good score depends on each hyperparameter.

    Attributes:
      evaluator: the name of the estimator.
      shares: key -> its share, most important first; they sum to 1.
      why: why the importances are unknown, or else a caveat; empty if there is neither.
    """

    evaluator: str
    shares: dict[str, float] = field(default_factory=dict)
    why: str = ""


def importance(
    rows: Iterable[tuple[str, Mapping[str, Any], float]],
    manifest: SweepManifest | None,
    algorithm: str,
    maximise: bool,
    what: str = "trials",
) -> Importance:
    """Return the importances among trials of an algorithm.

    Args:
      rows: of each COMPLETE trial, the scenario, the hyperparameters by key and the score.
      manifest: the manifest of the sweep, which declares the ranges; None for a single run, which has none.
      algorithm: the algorithm of the trials.
      maximise: whether larger scores are better.
      what: what the rows are, for messages.
    """
    import optuna

    from results.analysis.space import parameters

    found = [(parameters(manifest, algorithm, scenario, values), score) for scenario, values, score in rows]
    if len(found) < FEWEST_TRIALS:
        return Importance("", why=f"{len(found)} {what} have a score; importances need {FEWEST_TRIALS}")
    if not any(one.params for one, _ in found):
        return Importance("", why="no hyperparameter of the sweep's space varies")
    if len({score for _, score in found}) == 1:
        return Importance("", why="every trial has the same score")
    keys = {name: key for one, _ in found for name, key in one.keys.items()}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about experimental features, and about the target, which has to be minimised
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        study = optuna.create_study(direction="maximize" if maximise else "minimize")
        for one, score in found:
            study.add_trial(optuna.trial.create_trial(params=one.params, distributions=one.distributions, value=score))
        shares = optuna.importance.get_param_importances(
            study,
            evaluator=optuna.importance.PedAnovaImportanceEvaluator(),
            target=lambda trial: (-1.0 if maximise else 1.0) * float(trial.value or 0.0),
        )
    few = f"only {len(found)} {what}: the order is uncertain below {ENOUGH_TRIALS}"
    named = {keys[name]: float(share) for name, share in shares.items()}
    return Importance(EVALUATOR, named, few if len(found) < ENOUGH_TRIALS else "")


def importance_in(searched: pd.DataFrame, manifest: SweepManifest | None, algorithm: str, scenario: str) -> Importance:
    """Return the importances among an algorithm's trials in a scenario.

    Args:
      searched: the rows of an index, without tests of winners and without copies.
      manifest: the manifest of the sweep; None for a single run.
      algorithm: the algorithm.
      scenario: the scenario; `EVERY_SCENARIO` for configurations by their mean over scenarios, or for the trials of all
        scenarios if the scenario is an axis.
    """
    is_axis = manifest is not None and manifest.scenario_mode == SCENARIO_AXIS
    over_scenarios = scenario == EVERY_SCENARIO and not is_axis
    averaged = manifest is not None and manifest.scenario_mode == MEAN_OVER_SCENARIOS
    rows = searched[(searched["algorithm"] == algorithm) & (searched["state"] == State.COMPLETE.value)]
    if over_scenarios:  # only whole ones, as in Optuna's study of them
        others = searched[(searched["algorithm"] == algorithm) & (searched["state"] != State.COMPLETE.value)]
        rows = rows[~rows["configuration"].isin(others["configuration"])]
    elif scenario != EVERY_SCENARIO:
        rows = rows[rows["scenario"] == scenario]
    scores = rows["objective.value"]
    if over_scenarios:
        scores = rows[OVER_SCENARIOS]
    elif SCORE in rows and not averaged:
        scores = rows[SCORE].fillna(rows["objective.value"])
    rows = rows.assign(_score=scores)[scores.notna()]
    if over_scenarios:
        rows = rows.drop_duplicates(["configuration"])
    axes = manifest.space if manifest is not None and isinstance(manifest.space, Mapping) else {}
    names = [name for name in hyperparameter_columns(searched) if name != "system.seed" or name in axes]
    pairs = [
        (str(row["scenario"]), {name: _read(row[name]) for name in names if not _is_missing(row[name])}, row["_score"])
        for row in rows.astype(object).to_dict("records")
    ]
    maximise = mode_of(searched) == "max"
    what = "configurations" if over_scenarios else "trials"
    return importance(pairs, manifest, algorithm, maximise, what)


def _read(value: Any) -> Any:
    """Return a sampled value in its original type: the index holds lists as text."""
    if isinstance(value, str) and value[:1] in "[{":
        with contextlib.suppress(ValueError):
            return json.loads(value)
    return value.item() if isinstance(value, np.generic) else value


def _is_missing(value: Any) -> bool:
    return value is None or value is pd.NA or (isinstance(value, float) and math.isnan(value))


__all__ = ["ENOUGH_TRIALS", "FEWEST_TRIALS", "Importance", "importance", "importance_in"]
