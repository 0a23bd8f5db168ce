"""Axes in the form of Tune's search algorithms, and configurations drawn up front."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping, Sequence
from typing import Any, assert_never

import numpy as np
from ray import tune
from ray.tune.search.variant_generator import generate_variants

from sweeps.axes import Axis, AxisType

REDRAWS = 100


def tune_domain(axis: Axis) -> Any:
    """Return the axis as a Tune domain; integer ranges include both ends, while Tune's `randint` excludes the upper."""
    low, high = axis.low or 0, axis.high or 0  # ranges have both
    match axis.type:
        case AxisType.UNIFORM:
            return tune.uniform(low, high)
        case AxisType.LOGUNIFORM:
            return tune.loguniform(low, high)
        case AxisType.QUNIFORM:
            return tune.quniform(low, high, axis.q)
        case AxisType.INT:
            return tune.randint(int(low), int(high) + 1)
        case AxisType.LOGINT:
            return tune.lograndint(int(low), int(high) + 1)
        case AxisType.CHOICE:
            return tune.choice(list(axis.values))
        case AxisType.GRID:
            return tune.grid_search(list(axis.values))
    assert_never(axis.type)


def draw_configurations(axes: Sequence[Axis], samples: int, seed: int) -> list[dict[str, Any]]:
    """Draw configurations, by axis name, with Tune's variant generator.

    The random axes are drawn `samples` times, and each draw is combined with every grid point. A draw that only repeats
    earlier ones is redrawn up to `REDRAWS` times; then the space counts as exhausted, and fewer are returned.
    """
    generator = np.random.default_rng(seed)
    spec = {"config": {axis.name: tune_domain(axis) for axis in axes}}
    drawn: dict[str, dict[str, Any]] = {}
    for _ in range(samples):
        for _ in range(REDRAWS):
            variants = generate_variants(copy.deepcopy(spec), constant_grid_search=True, random_state=generator)
            block = [_tidy(axes, _plain(variant["config"])) for _, variant in variants]
            new = {_identity(values): values for values in block if _identity(values) not in drawn}
            if new:
                drawn.update(new)
                break
        else:
            break
    return list(drawn.values())


class Space:
    """A space in a searcher's form: plain names, and values that the searcher can represent.

    Args:
      axes: the axes, with distinct names.
    """

    def __init__(self, axes: Sequence[Axis]) -> None:
        keys = [axis.key for axis in axes]
        # Searchers interpret a slash as nesting.
        self._axes = {(a.key if keys.count(a.key) == 1 else a.name).replace("/", "."): a for a in axes}

    def domains(self) -> dict[str, Any]:
        """Return each axis as a Tune domain, by the searcher's name."""
        return {
            label: tune.choice(_categories(axis)) if axis.values else tune_domain(axis)
            for label, axis in self._axes.items()
        }

    def encode(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Convert values by axis name to the searcher's form; every axis must have one (`with_absent`)."""
        return {label: _encode(axis, values[axis.name]) for label, axis in self._axes.items()}

    def decode(self, encoded: Mapping[str, Any]) -> dict[str, Any]:
        """Convert a searcher's suggestion to values by axis name."""
        return {axis.name: _decode(axis, encoded[label]) for label, axis in self._axes.items()}

    def holds(self, values: Mapping[str, Any]) -> bool:
        """Return whether the searcher could have drawn these values."""
        return all(_holds(axis, values[axis.name]) for axis in self._axes.values() if axis.name in values)


def with_absent(axes: Sequence[Axis], values: Mapping[str, Any], seed: int) -> dict[str, Any]:
    """Return values by axis name, with random ones added for axes that did not exist for the trial.

    The searcher had suggested values for these axes too, but they had no effect and were not kept. Random values teach
    the searcher just as much, while always the same ones would teach it that they matter.
    """
    absent = [axis for axis in axes if axis.name not in values]
    (drawn,) = draw_configurations(absent, 1, seed) if absent else ({},)
    return {**values, **drawn}


def seed_of(seed: int, *place: int) -> int:
    """Return a seed above 0 that depends on `place`, so that a resumed searcher does not repeat its draws."""
    return int(np.random.SeedSequence((seed, *place)).generate_state(1)[0] % (2**31 - 1)) + 1


def _categories(axis: Axis) -> list[Any]:
    """Return the axis's values, or their indices if a searcher cannot represent the values (lists)."""
    if all(isinstance(value, (str, int, float, bool, type(None))) for value in axis.values):
        return list(axis.values)
    return list(range(len(axis.values)))


def _encode(axis: Axis, value: Any) -> Any:
    return _categories(axis)[list(axis.values).index(value)] if axis.values else value


def _decode(axis: Axis, value: Any) -> Any:
    """Convert a suggested value, and clip it to the range in case rounding has moved it outside."""
    value = _plain({"": value})[""]
    if axis.values:
        return axis.values[_categories(axis).index(value)]
    return axis.nearest(value)


def _holds(axis: Axis, value: Any) -> bool:
    if axis.values:
        return value in axis.values
    assert axis.low is not None and axis.high is not None
    return isinstance(value, (int, float)) and axis.low <= value <= axis.high and _decode(axis, value) == value


def _tidy(axes: Sequence[Axis], values: Mapping[str, Any]) -> dict[str, Any]:
    return {axis.name: axis.tidy(values[axis.name]) for axis in axes}


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value.item() if isinstance(value, np.generic) else value for key, value in values.items()}


def _identity(values: Mapping[str, Any]) -> str:
    return json.dumps(values, sort_keys=True)
