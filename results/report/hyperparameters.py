"""Hyperparameters: the table that the page draws parallel coordinates, slices and contours of, and importances."""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import pandas as pd

from results.ranking import OVER_SCENARIOS
from results.report.data import EVERY_SCENARIO, SweepData
from results.report.theme import short_names

#: With fewer trials an importance says nothing.
FEWEST_TRIALS: Final = 8
#: From so many trials on PED-ANOVA, which takes no longer with more; below, fANOVA, which makes more of few.
MANY_TRIALS: Final = 100

_LOG_RATIO: Final = 30.0

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Axis:
    """A hyperparameter as it is drawn: `kind` is `number` or `category`, `log` whether on a logarithmic axis."""

    key: str
    name: str
    kind: str
    log: bool


@dataclass(frozen=True)
class Importance:
    """How much of the score each hyperparameter explains, the most important first; `why` where that is not known."""

    evaluator: str
    shares: dict[str, float]
    why: str = ""


def axes(data: SweepData, algorithm: str) -> list[Axis]:
    """The hyperparameters that vary among an algorithm's trials."""
    rows = data.searched[data.searched["algorithm"] == algorithm]
    keys = [key for key in data.hyperparameters if rows[key].dropna().nunique() > 1]
    names = short_names(data.hyperparameters)
    return [Axis(key, names[key], *_kind(rows[key].dropna(), _spec(data, key))) for key in keys]


def _spec(data: SweepData, key: str) -> Mapping[str, Any]:
    space = data.manifest.space if data.manifest is not None else None
    spec = space.get(key) if isinstance(space, Mapping) else None
    return spec if isinstance(spec, Mapping) else {}


def _kind(values: pd.Series[Any], spec: Mapping[str, Any]) -> tuple[str, bool]:
    if not pd.api.types.is_numeric_dtype(values) or pd.api.types.is_bool_dtype(values):
        return "category", False
    if spec.get("type") in ("choice", "grid"):
        return "category", False
    positive = bool((values > 0).all())
    if "type" in spec:
        return "number", positive and "log" in str(spec["type"])
    return "number", positive and bool(values.max() / values.min() >= _LOG_RATIO)


def table(data: SweepData) -> dict[str, Any]:
    """What the page draws from: algorithm -> its axes, and a row a trial that has a score.

    Where configurations count by their mean over scenarios, these come first, of the scenario `EVERY_SCENARIO`.
    """
    found: dict[str, Any] = {}
    for algorithm in data.algorithms:
        of_algorithm = axes(data, algorithm)
        rows = data.searched[(data.searched["algorithm"] == algorithm) & data.searched["objective.value"].notna()]
        rows = rows[rows["trial_id"].isin(data.replicates)]
        if data.is_over_scenarios:
            rows = pd.concat([_scored(data, algorithm, EVERY_SCENARIO), rows])
        if rows.empty or not of_algorithm:
            continue
        found[algorithm] = {
            "axes": [vars(axis) for axis in of_algorithm],
            "trial": rows["trial_id"].tolist(),
            "scenario": rows["scenario"].tolist(),
            "score": [float(value) for value in rows["objective.value"]],
            "feasible": [value is not False for value in rows["objective.feasible"].astype(object)],
            "values": {axis.key: [_value(value, axis) for value in rows[axis.key]] for axis in of_algorithm},
        }
    return found


def _places(data: SweepData) -> list[str]:
    return [*([EVERY_SCENARIO] if data.is_over_scenarios else []), *data.scenarios]


def _scored(data: SweepData, algorithm: str, scenario: str) -> pd.DataFrame:
    """An algorithm's trials in a scenario that have a score; of all scenarios, one of each configuration, with the
    mean as its score.
    """
    rows = data.searched[data.searched["algorithm"] == algorithm]
    if scenario == EVERY_SCENARIO:
        rows = rows[rows[OVER_SCENARIOS].notna()].drop_duplicates(["configuration", "seed"]).copy()
        rows["objective.value"], rows["scenario"] = rows[OVER_SCENARIOS], EVERY_SCENARIO
        return rows
    rows = rows[rows["trial_id"].isin(data.replicates)]
    return rows[(rows["scenario"] == scenario) & rows["objective.value"].notna()]


def _value(value: Any, axis: Axis) -> Any:
    if pd.isna(value):
        return None
    if axis.kind == "number":
        return float(value)
    return f"{value:g}" if isinstance(value, float) else str(value)


def importances(data: SweepData) -> dict[str, dict[str, Importance]]:
    """Algorithm -> scenario -> the importances of its hyperparameters."""
    return {
        algorithm: {scenario: importance(data, algorithm, scenario) for scenario in _places(data)}
        for algorithm in data.algorithms
        if axes(data, algorithm)
    }


def importance(data: SweepData, algorithm: str, scenario: str) -> Importance:
    """The importances in a scenario or over all, by Optuna's evaluators: fANOVA, or PED-ANOVA where trials are many."""
    rows = _scored(data, algorithm, scenario)
    chosen = [axis for axis in axes(data, algorithm) if rows[axis.key].notna().all() and rows[axis.key].nunique() > 1]
    if len(rows) < FEWEST_TRIALS:
        what = "configurations" if scenario == EVERY_SCENARIO else "trials"
        return Importance("", {}, f"{len(rows)} {what} have a score; importances need {FEWEST_TRIALS}")
    if not chosen:
        return Importance("", {}, "no hyperparameter varies among all of its trials")
    if rows["objective.value"].nunique() == 1:
        return Importance("", {}, "every trial has the same score")
    return _evaluated(data, rows, chosen)


def _evaluated(data: SweepData, rows: pd.DataFrame, chosen: Sequence[Axis]) -> Importance:
    import optuna

    many = len(rows) >= MANY_TRIALS
    name = "PED-ANOVA" if many else "fANOVA"
    distributions = {axis.key: _distribution(rows[axis.key], axis) for axis in chosen}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        study = optuna.create_study(direction="maximize" if data.sign > 0 else "minimize")
        for row in rows.to_dict("records"):
            values = {axis.key: _value(row[axis.key], axis) for axis in chosen}
            study.add_trial(
                optuna.trial.create_trial(
                    params=values, distributions=distributions, value=float(row["objective.value"])
                )
            )
        evaluator: Any = (
            optuna.importance.PedAnovaImportanceEvaluator()
            if many
            else optuna.importance.FanovaImportanceEvaluator(seed=0)
        )
        shares = optuna.importance.get_param_importances(study, evaluator=evaluator)
    return Importance(name, {str(key): float(share) for key, share in shares.items()})


def _distribution(values: pd.Series[Any], axis: Axis) -> Any:
    from optuna.distributions import CategoricalDistribution, FloatDistribution

    if axis.kind == "number":
        return FloatDistribution(float(values.min()), float(values.max()), log=axis.log)
    return CategoricalDistribution(sorted({str(_value(value, axis)) for value in values}))


def as_json(found: Mapping[str, Mapping[str, Importance]]) -> dict[str, Any]:
    """Importances as the page reads them."""
    return json.loads(json.dumps(found, default=vars))
