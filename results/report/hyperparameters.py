"""Hyperparameters: importances, and the table behind the page's parallel coordinates, slices and contours."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import pandas as pd

from results.analysis.importance import SCENARIO_AXIS, Importance, importance_in
from results.collector.ranking import EVERY_SCENARIO, OVER_SCENARIOS, without_copies
from results.report.data import SweepData
from results.report.theme import short_names

_LOG_RATIO: Final = 30.0


@dataclass(frozen=True)
class Axis:
    """A hyperparameter as it is drawn: `kind` is `number` or `category`, `log` whether its axis is logarithmic."""

    key: str
    name: str
    kind: str
    log: bool


def axes(data: SweepData, algorithm: str) -> list[Axis]:
    """Return the hyperparameters that vary among an algorithm's trials."""
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
    """Return the data for the page's plots: algorithm -> its axes, and one row per trial that has a score.

    If configurations are ranked by their mean over scenarios, these come first, with the scenario `EVERY_SCENARIO`.
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
    """Return an algorithm's trials in a scenario that have a score; for all scenarios, one trial of each configuration
    with the mean as its score.
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
    """Return algorithm -> scenario -> the importances of its hyperparameters."""
    return {
        algorithm: {scenario: importance(data, algorithm, scenario) for scenario in _places(data)}
        for algorithm in data.algorithms
        if axes(data, algorithm)
    }


def importance(data: SweepData, algorithm: str, scenario: str) -> Importance:
    """Return the importances, as in Optuna's dashboard; over all scenarios if the scenario is an axis."""
    if data.manifest is not None and data.manifest.scenario_mode == SCENARIO_AXIS:
        scenario = EVERY_SCENARIO
    return importance_in(without_copies(data.searched), data.manifest, algorithm, scenario)


def as_json(found: Mapping[str, Mapping[str, Importance]]) -> dict[str, Any]:
    """Return importances as the page reads them."""
    return json.loads(json.dumps(found, default=vars))
