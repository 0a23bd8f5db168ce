"""A sweep's declared space in Optuna's terms: names, distributions, and a trial's values in them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final, NamedTuple

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from jax_party.trial.manifest import SweepManifest

SCENARIO: Final = "scenario"
"""The name of the scenario's parameter in a sweep that has scenarios as an axis."""


class Parameters(NamedTuple):
    """A trial's values in the space.

    Attributes:
      params: Optuna's name -> the value.
      distributions: Optuna's name -> the distribution that the sweep declares.
      keys: Optuna's name -> the config's key.
      others: the config's key -> the value, for values outside the space.
    """

    params: dict[str, Any]
    distributions: dict[str, BaseDistribution]
    keys: dict[str, str]
    others: dict[str, Any]


def parameters(
    manifest: SweepManifest | None, algorithm: str, scenario: str, hyperparameters: Mapping[str, Any]
) -> Parameters:
    """Return the values of a trial of this algorithm in this scenario, in Optuna's terms."""
    axes = dict(_axes(manifest, algorithm, scenario))
    values = dict(hyperparameters)
    if manifest is not None and manifest.scenario_mode == "axis":
        values[SCENARIO] = scenario
        axes[SCENARIO] = (SCENARIO, CategoricalDistribution(manifest.scenarios or (scenario,)))
    found = Parameters({}, {}, {}, {})
    for key, value in values.items():
        name, distribution = axes.get(key, (key, None))
        written = _choice(value) if distribution is None or isinstance(distribution, CategoricalDistribution) else value
        if distribution is None or not _holds(distribution, written):
            found.others[key] = value
        else:
            found.params[name], found.distributions[name], found.keys[name] = written, distribution, key
    return found


def _axes(
    manifest: SweepManifest | None, algorithm: str, scenario: str
) -> Iterator[tuple[str, tuple[str, BaseDistribution | None]]]:
    """Yield key -> (name, distribution) of the axes that apply to such a trial."""
    space = manifest.space if manifest is not None and isinstance(manifest.space, Mapping) else {}
    place = {"algorithm": algorithm, "scenario": scenario}
    for key, written in space.items():
        several = written if isinstance(written, list) else [written]
        for axis in several:
            when = axis.get("when") or {}
            if all(place[what] in ([names] if isinstance(names, str) else names) for what, names in when.items()):
                # In one study a name has only one distribution.
                where = when.get("scenario") if len(several) > 1 else None
                name = f"{key} ({where if isinstance(where, str) else ','.join(where)})" if where else key
                yield key, (name, _distribution(axis))


def _distribution(axis: Mapping[str, Any]) -> BaseDistribution | None:
    """Return an axis of sweep.yaml as Optuna's distribution; None for a kind that is unknown here."""
    make = _DISTRIBUTIONS.get(str(axis.get("type")))
    return None if make is None else make(axis)


_DISTRIBUTIONS: Final[Mapping[str, Callable[[Mapping[str, Any]], BaseDistribution]]] = {
    "uniform": lambda axis: FloatDistribution(axis["low"], axis["high"]),
    "loguniform": lambda axis: FloatDistribution(axis["low"], axis["high"], log=True),
    "quniform": lambda axis: FloatDistribution(axis["low"], axis["high"], step=axis["q"]),
    "int": lambda axis: IntDistribution(axis["low"], axis["high"]),
    "logint": lambda axis: IntDistribution(axis["low"], axis["high"], log=True),
    "choice": lambda axis: CategoricalDistribution([_choice(value) for value in axis["values"]]),
    "grid": lambda axis: CategoricalDistribution([_choice(value) for value in axis["values"]]),
}


def _choice(value: Any) -> Any:
    """Return a value as Optuna's categories can hold it: lists and mappings as JSON text."""
    return value if value is None or isinstance(value, (bool, int, float, str)) else json.dumps(value)


def _holds(distribution: BaseDistribution, value: Any) -> bool:
    if isinstance(distribution, CategoricalDistribution):
        return value in distribution.choices
    return isinstance(value, (int, float)) and not isinstance(value, bool)


__all__ = ["SCENARIO", "Parameters", "parameters"]
