"""Axes as Tune's search algorithms know them, and configurations drawn up front."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from ray import tune
from ray.tune.search.variant_generator import generate_variants

from sweeps.axes import Axis, AxisType

REDRAWS = 100


def tune_domain(axis: Axis) -> Any:
    """The axis as Tune's own domain; whole numbers have both ends in it, Tune's `randint` only the lower."""
    if not axis.type.is_range:
        values = list(axis.values)
        return tune.grid_search(values) if axis.type is AxisType.GRID else tune.choice(values)
    assert axis.low is not None and axis.high is not None
    if axis.type.is_int:
        integers = tune.lograndint if axis.type.is_log else tune.randint
        return integers(int(axis.low), int(axis.high) + 1)
    if axis.type is AxisType.QUNIFORM:
        assert axis.q is not None
        return tune.quniform(axis.low, axis.high, axis.q)
    draw = tune.loguniform if axis.type.is_log else tune.uniform
    return draw(axis.low, axis.high)


def draw_configurations(axes: Sequence[Axis], samples: int, seed: int) -> list[dict[str, Any]]:
    """Draw with Tune's variant generator: `samples` times the random axes, each with every grid point; by axis name.

    A draw that repeats an earlier one is drawn again, up to `REDRAWS` times; then the space counts as
    exhausted and there are fewer.
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
    """A space as a searcher knows it: by plain names, with values that it can hold.

    Args:
      axes: with different names.
    """

    def __init__(self, axes: Sequence[Axis]) -> None:
        keys = [axis.key for axis in axes]
        # Searchers take a slash for nesting.
        self._axes = {(a.key if keys.count(a.key) == 1 else a.name).replace("/", "."): a for a in axes}

    def domains(self) -> dict[str, Any]:
        """Tune's domain of each axis."""
        return {
            label: tune.choice(_categories(axis)) if axis.values else tune_domain(axis)
            for label, axis in self._axes.items()
        }

    def encode(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Values by the axes' names as the searcher writes them; every axis has one (`with_absent`)."""
        return {label: _encode(axis, values[axis.name]) for label, axis in self._axes.items()}

    def decode(self, encoded: Mapping[str, Any]) -> dict[str, Any]:
        """What a searcher gave, by the axes' names."""
        return {axis.name: _decode(axis, encoded[label]) for label, axis in self._axes.items()}

    def holds(self, values: Mapping[str, Any]) -> bool:
        """Whether the searcher could have drawn these values."""
        return all(_holds(axis, values[axis.name]) for axis in self._axes.values() if axis.name in values)


def with_absent(axes: Sequence[Axis], values: Mapping[str, Any], seed: int) -> dict[str, Any]:
    """Values by the axes' names, with those of axes that did not exist for the trial drawn at random.

    A searcher gave it some, which made no difference and were not kept. Any others that it could have given teach it
    as much, while the same ones each time would teach it that they matter.
    """
    absent = [axis for axis in axes if axis.name not in values]
    (drawn,) = draw_configurations(absent, 1, seed) if absent else ({},)
    return {**values, **drawn}


def seed_of(seed: int, *place: int) -> int:
    """A seed that is never 0 and differs by place, so that a resumed searcher does not draw the same again."""
    return int(np.random.SeedSequence((seed, *place)).generate_state(1)[0] % (2**31 - 1)) + 1


def _categories(axis: Axis) -> list[Any]:
    """The values themselves, or their places where a searcher cannot hold them (lists)."""
    if all(isinstance(value, (str, int, float, bool, type(None))) for value in axis.values):
        return list(axis.values)
    return list(range(len(axis.values)))


def _encode(axis: Axis, value: Any) -> Any:
    return _categories(axis)[list(axis.values).index(value)] if axis.values else value


def _decode(axis: Axis, value: Any) -> Any:
    """The value, within its range where rounding has led out of it."""
    value = _plain({"": value})[""]
    if axis.values:
        return axis.values[_categories(axis).index(value)]
    assert axis.low is not None and axis.high is not None
    if axis.type is AxisType.QUNIFORM:
        assert axis.q is not None
        value = round(value / axis.q) * axis.q
    value = min(max(value, axis.low), axis.high)
    return round(value) if axis.type.is_int else axis.tidy(float(value))


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
