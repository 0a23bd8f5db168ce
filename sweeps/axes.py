"""The axes of a search space: read them from a sweep file and check each by itself."""

from __future__ import annotations

import contextlib
import copy
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any

from jax_party.errors import SweepError
from sweeps.checks import check_known, did_you_mean


class AxisType(StrEnum):
    """How the values of an axis are drawn.

    A new type also needs a Tune domain (`launcher.plan.axes.tune_domain`) and an Optuna distribution
    (`results.analysis.space`); a test goes through all types.
    """

    UNIFORM = "uniform"
    LOGUNIFORM = "loguniform"
    QUNIFORM = "quniform"
    INT = "int"
    LOGINT = "logint"
    CHOICE = "choice"
    GRID = "grid"

    @property
    def is_range(self) -> bool:
        """Whether the axis has `low` and `high` instead of `values`."""
        return self not in (AxisType.CHOICE, AxisType.GRID)

    @property
    def is_int(self) -> bool:
        """Whether its values are whole numbers."""
        return self in (AxisType.INT, AxisType.LOGINT)

    @property
    def is_log(self) -> bool:
        """Whether equal ratios are equally likely."""
        return self in (AxisType.LOGUNIFORM, AxisType.LOGINT)


@dataclass(frozen=True)
class Axis:
    """One config key of the trainer that varies between trials.

    Ranges have `low` and `high`, both inclusive, and `quniform` also a step `q`; `choice` and `grid` have `values`. An
    axis with `when` exists only for the algorithms, scenarios, or both, that it names.
    """

    key: str
    type: AxisType
    low: float | None = None
    high: float | None = None
    values: tuple[Any, ...] = ()
    q: float | None = None
    when: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The key with its condition; unique among the axes of a space."""
        conditions = [f"{what}={','.join(names)}" for what, names in sorted(self.when.items())]
        return f"{self.key} ({' '.join(conditions)})" if conditions else self.key

    def applies(self, algorithm: str, scenario: str) -> bool:
        """Return whether the axis exists for this algorithm in this scenario."""
        return algorithm in self.when.get("algorithm", (algorithm,)) and scenario in self.when.get(
            "scenario", (scenario,)
        )

    def nearest(self, value: float) -> float | int:
        """Return the closest value of a range: within its bounds, on its steps, and whole if it holds whole numbers."""
        assert self.low is not None and self.high is not None
        if self.q is not None:
            value = round(value / self.q) * self.q
        value = min(max(value, self.low), self.high)
        return round(value) if self.type.is_int else self.tidy(float(value))

    def tidy(self, value: Any) -> Any:
        """Round a drawn multiple of `q` so that it reads well, such as 0.3 instead of 0.30000000000000004."""
        return value if self.q is None else round(value, 12)

    def extremes(self) -> tuple[Any, ...]:
        """Return the values to check in place of all: both ends of a range, or every value of a list."""
        return (self.low, self.high) if self.type.is_range else self.values

    def to_mapping(self) -> dict[str, Any]:
        """Return the axis in the form of a sweep file."""
        when = {"when": {what: list(names) for what, names in self.when.items()}} if self.when else {}
        if self.type.is_range:
            step = {} if self.q is None else {"q": self.q}
            return {"type": self.type.value, "low": self.low, "high": self.high, **step, **when}
        return {"type": self.type.value, "values": copy.deepcopy(list(self.values)), **when}


def flatten(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the leaves of a nested mapping as (dotted key, value)."""
    for key, value in config.items():
        if isinstance(value, Mapping) and value:
            yield from flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def parse_axes(raw: Mapping[str, Any], source: str) -> tuple[Axis, ...]:
    """Return the axes in the `space` of a sweep file, in its order; a key may have a list of several.

    Raises:
      SweepError: the space is empty, or an axis is invalid.
    """
    space = raw.get("space")
    if not isinstance(space, Mapping) or not space:
        raise SweepError(f"{source}: space: is empty; name at least one trainer key, such as system.actor_lr")
    return tuple(
        _axis(str(key), axis, f"{source}: {key}")
        for key, axes in space.items()
        for axis in (axes if isinstance(axes, list) else [axes])
    )


def _axis(key: str, raw: Any, place: str) -> Axis:
    if not isinstance(raw, Mapping):
        raise SweepError(f"{place}: expected a mapping with a type, got {raw!r}")
    known = tuple(item.value for item in AxisType)
    if raw.get("type") not in known:
        kind = str(raw.get("type"))
        raise SweepError(f"{place}: type: unknown {kind!r}{did_you_mean(kind, known)} (known: {', '.join(known)})")
    axis_type = AxisType(raw["type"])
    when = _when(raw, place)
    if axis_type.is_range:
        check_known(raw, ("type", "low", "high", "when") + ("q",) * (axis_type is AxisType.QUNIFORM), place)
        return replace(_range_axis(key, axis_type, raw, place), when=when)
    check_known(raw, ("type", "values", "when"), place)
    values = raw.get("values")
    if not isinstance(values, list) or not values:
        raise SweepError(f"{place}: values: expected a list of at least one value, got {values!r}")
    repeated = [value for index, value in enumerate(values) if value in values[:index]]
    if repeated:
        raise SweepError(f"{place}: values: {repeated[0]!r} is listed twice")
    return Axis(key, axis_type, values=tuple(values), when=when)


def _when(raw: Mapping[str, Any], place: str) -> dict[str, tuple[str, ...]]:
    """Read the condition of an axis: for `algorithm` and `scenario`, a name or a list of names."""
    when = raw.get("when", {})
    if not isinstance(when, Mapping) or ("when" in raw and not when):
        raise SweepError(f"{place}: when: expected a mapping with algorithm, scenario or both, got {when!r}")
    check_known(when, ("algorithm", "scenario"), f"{place}: when")
    found = {}
    for what, names in when.items():
        listed = [names] if isinstance(names, str) else names
        if not isinstance(listed, list) or not listed or not all(isinstance(name, str) and name for name in listed):
            raise SweepError(f"{place}: when: {what}: expected a name or a list of names, got {names!r}")
        found[str(what)] = tuple(listed)
    return found


def _range_axis(key: str, axis_type: AxisType, raw: Mapping[str, Any], place: str) -> Axis:
    low, high = (_bound(raw.get(name), axis_type, f"{place}: {name}") for name in ("low", "high"))
    if axis_type.is_log and low <= 0:
        raise SweepError(f"{place}: log scale needs low > 0, got {low}")
    if low >= high:
        raise SweepError(f"{place}: needs low < high, got low {low} and high {high}")
    if axis_type is not AxisType.QUNIFORM:
        return Axis(key, axis_type, low=low, high=high)
    q = _bound(raw.get("q"), axis_type, f"{place}: q")
    if q <= 0:
        raise SweepError(f"{place}: q: expected a step above 0, got {q}")
    for name, end in (("low", low), ("high", high)):
        if not math.isclose(end / q, round(end / q), abs_tol=1e-9):
            raise SweepError(f"{place}: {name}: {end} is no multiple of q = {q}")
    return Axis(key, axis_type, low=low, high=high, q=q)


def _bound(value: Any, axis_type: AxisType, place: str) -> float:
    if isinstance(value, str):  # YAML reads 1e-4 as a string
        with contextlib.suppress(ValueError):
            value = float(value)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise SweepError(f"{place}: expected a finite number, got {value!r}")
    if not axis_type.is_int:
        return float(value)
    if value != int(value):
        raise SweepError(f"{place}: type {axis_type} needs a whole number, got {value!r}")
    return int(value)
