"""A sweep file: what to vary, over which scenarios, for how long, and what to make as large as possible.

The file is read into frozen dataclasses and checked as far as it can be by itself (`load_spec`), then
against a composed config (`check_axes`). Nothing here knows Ray, JAX or Hydra.
"""

from __future__ import annotations

import contextlib
import copy
import difflib
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from typing import Any

import yaml

from jax_party.config import with_values
from jax_party.errors import ConfigError, SweepError
from jax_party.judging.aggregate import Aggregate
from jax_party.judging.objectives import MODES, RULES, Objective

SWEEPS_DIR = Path(__file__).parent
SPEC_KEYS = (
    "algorithms", "num_samples", "num_seeds", "objective", "scenarios", "scenario_mode", "budget", "overrides", "space",
)  # fmt: skip


class ScenarioMode(StrEnum):
    """What several scenarios are to a sweep.

    `grid`: every configuration is played in each. `axis`: each configuration is drawn with one of them. `mean`: every
    configuration is played in each, and counts by the mean of its objective over all of them.
    """

    GRID = "grid"
    AXIS = "axis"
    MEAN = "mean"


class AxisType(StrEnum):
    """How the values of an axis are drawn."""

    UNIFORM = "uniform"
    LOGUNIFORM = "loguniform"
    QUNIFORM = "quniform"
    INT = "int"
    LOGINT = "logint"
    CHOICE = "choice"
    GRID = "grid"

    @property
    def is_range(self) -> bool:
        """Whether the axis is written with `low` and `high`, not with `values`."""
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
    """One trainer key that varies between trials.

    Ranges have `low` and `high`, which may both be drawn, and `quniform` a step `q`; `choice` and `grid` have `values`.
    An axis with `when` exists only for the algorithms, the scenarios, or both, that it names.
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
        """The key, with its condition: no two axes of a space have the same."""
        conditions = [f"{what}={','.join(names)}" for what, names in sorted(self.when.items())]
        return f"{self.key} ({' '.join(conditions)})" if conditions else self.key

    def applies(self, algorithm: str, scenario: str) -> bool:
        """Whether the axis exists there."""
        return algorithm in self.when.get("algorithm", (algorithm,)) and scenario in self.when.get(
            "scenario", (scenario,)
        )

    def tidy(self, value: Any) -> Any:
        """A drawn value as it is written: 0.3 where a step times a whole number gave 0.30000000000000004."""
        return value if self.q is None else round(value, 12)

    def extremes(self) -> tuple[Any, ...]:
        """The values that stand for all: both ends of a range, every value of a list."""
        return (self.low, self.high) if self.type.is_range else self.values

    def to_mapping(self) -> dict[str, Any]:
        """The axis as it is written in a sweep file."""
        when = {"when": {what: list(names) for what, names in self.when.items()}} if self.when else {}
        if self.type.is_range:
            step = {} if self.q is None else {"q": self.q}
            return {"type": self.type.value, "low": self.low, "high": self.high, **step, **when}
        return {"type": self.type.value, "values": copy.deepcopy(list(self.values)), **when}


@dataclass(frozen=True)
class Budget:
    """How long each trial trains: environment steps, and how many evaluations are spread over them."""

    total_timesteps: int
    num_evaluation: int


@dataclass(frozen=True)
class SweepSpec:
    """A checked sweep file. `source` is its path as the user knows it, and begins every message about it.

    `at` says which networks of a trial are judged, one of `RULES`; None leaves that to the environment's config.
    `num_seeds` is how many each trial trains, unless SEEDS says it.
    """

    source: str
    algorithms: tuple[str, ...]
    num_samples: int
    objective: Objective
    scenarios: tuple[str, ...]
    scenario_mode: ScenarioMode
    budget: Budget
    overrides: Mapping[str, Any]
    axes: tuple[Axis, ...]
    at: str | None = None
    num_seeds: int = 1

    def axis_keys(self) -> tuple[str, ...]:
        """The dotted keys that vary."""
        return tuple(dict.fromkeys(axis.key for axis in self.axes))

    def space(self) -> dict[str, Any]:
        """The axes as they are written in a sweep file."""
        written: dict[str, list[Any]] = {}
        for axis in self.axes:
            written.setdefault(axis.key, []).append(axis.to_mapping())
        return {key: axes[0] if len(axes) == 1 else axes for key, axes in written.items()}

    def axes_for(self, algorithm: str, scenario: str) -> tuple[Axis, ...]:
        """The axes that exist there."""
        return tuple(axis for axis in self.axes if axis.applies(algorithm, scenario))


def merge_specs(specs: Mapping[str, SweepSpec]) -> SweepSpec:
    """The sweep of several algorithms, each with the axes of its own file.

    Args:
      specs: by algorithm.

    Raises:
      SweepError: the files differ in what a sweep has one of.
    """
    files = list({spec.source: spec for spec in specs.values()}.values())
    first = files[0]
    if len(files) == 1:
        return first
    for other in files[1:]:
        for name, option in _ONE_OF_EACH.items():
            if getattr(other, name) != getattr(first, name):
                raise SweepError(
                    f"{first.source} and {other.source}: {name} differs ({getattr(first, name)}, "
                    f"{getattr(other, name)}); give {option}"
                )
    named: dict[str, tuple[Axis, list[str]]] = {}
    for algorithm, spec in specs.items():
        for axis in spec.axes:
            if algorithm in axis.when.get("algorithm", (algorithm,)):
                rest = {what: names for what, names in axis.when.items() if what != "algorithm"}
                axis = replace(axis, when=rest)
                named.setdefault(json.dumps([axis.key, axis.to_mapping()]), (axis, []))[1].append(algorithm)
    by_key: dict[str, list[Axis]] = {}  # in the order in which a file has them: plans are drawn in it
    for axis, algorithms in named.values():
        everywhere = len(algorithms) == len(specs)
        conditional = axis if everywhere else replace(axis, when={**axis.when, "algorithm": tuple(algorithms)})
        by_key.setdefault(axis.key, []).append(conditional)
    source = ", ".join(spec.source for spec in files)
    axes = tuple(axis for of_key in by_key.values() for axis in of_key)
    return replace(first, source=source, algorithms=tuple(specs), axes=axes)


_ONE_OF_EACH: Mapping[str, str] = {
    "num_samples": "SAMPLES", "objective": "METRIC, MODE, AGGREGATE and CONSTRAINTS", "at": "AT",
    "scenarios": "SCENARIO", "scenario_mode": "SCENARIO_MODE",
    "budget": "TIMESTEPS and EVALUATIONS", "overrides": "a SPACE file of your own",
}  # fmt: skip


def find_spec(algorithm: str) -> Path:
    """The sweep file of this package that names the algorithm.

    Raises:
      SweepError: no file names it.
    """
    for path in sorted(SWEEPS_DIR.glob("*.yaml")):
        raw = _read_mapping(path, display_path(path))
        if algorithm in (raw.get("algorithms") or ()):
            return path
    raise SweepError(f"{algorithm}: no sweeps/*.yaml names this algorithm; pass your own file with SPACE=path")


def display_path(path: Path) -> str:
    """The path as messages show it: `sweeps/ppo.yaml` for our own files, else as it was given."""
    return f"sweeps/{path.name}" if path.parent == SWEEPS_DIR else str(path)


def load_spec(path: Path) -> SweepSpec:
    """Read and check a sweep file by itself.

    Raises:
      SweepError: the file cannot be read, or something in it is wrong; the message names the key.
    """
    source = display_path(path)
    return parse_spec(_read_mapping(path, source), source)


def parse_spec(raw: Mapping[str, Any], source: str) -> SweepSpec:
    """Check a sweep given as a mapping; `source` begins every message."""
    check_known(raw, SPEC_KEYS, source)
    objective = _section(raw, "objective", ("metric", "mode", "at", "aggregate", "constraints"), source)
    budget = _section(raw, "budget", ("total_timesteps", "num_evaluation"), source)
    return SweepSpec(
        source=source,
        algorithms=_names(raw, "algorithms", source),
        num_samples=positive_int(raw.get("num_samples", 1), f"{source}: num_samples"),
        objective=make_objective(
            objective.get("metric", "episode_return"),
            objective.get("mode", "max"),
            objective.get("aggregate", "mean"),
            objective.get("constraints") or {},
            f"{source}: objective.",
        ),
        scenarios=_names(raw, "scenarios", source),
        scenario_mode=check_scenario_mode(raw.get("scenario_mode", "grid"), f"{source}: scenario_mode"),
        budget=Budget(
            positive_int(budget.get("total_timesteps"), f"{source}: budget.total_timesteps"),
            positive_int(budget.get("num_evaluation"), f"{source}: budget.num_evaluation"),
        ),
        overrides=_overrides(raw, source),
        axes=_axes(raw, source),
        num_seeds=positive_int(raw.get("num_seeds", 1), f"{source}: num_seeds"),
        at=check_rule(objective["at"], f"{source}: objective.at") if objective.get("at") is not None else None,
    )


def check_axes(
    spec: SweepSpec,
    axes: Sequence[Axis],
    config: Mapping[str, Any],
    parse_config: Callable[[Mapping[str, Any]], object],
) -> None:
    """Check axes against the config that their values will be put into.

    Args:
      spec: the sweep.
      axes: those that exist for this config.
      config: one composed config.
      parse_config: raises `ConfigError` for a config that the trainer refuses.

    Raises:
      SweepError: an axis names no key of the config, or one of its extreme values is refused.
    """
    leaves = dict(flatten(config))
    keys = [axis.key for axis in axes]
    for axis in axes:
        place = f"{spec.source}: {axis.key}"
        if keys.count(axis.key) > 1:
            raise SweepError(f"{place}: two axes of this key exist together; part them by `when`")
        if axis.key in spec.overrides:
            raise SweepError(f"{place}: is both an axis and a fixed override; keep one of them")
        if axis.key not in leaves:
            raise SweepError(f"{place}: unknown key{did_you_mean(axis.key, leaves)}")
        for value in axis.extremes():
            try:
                parse_config(with_values(config, {axis.key: value}))
            except ConfigError as error:
                raise SweepError(f"{spec.source}: {error}") from error


def flatten(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Leaves of a nested mapping as (dotted key, value)."""
    for key, value in config.items():
        if isinstance(value, Mapping) and value:
            yield from flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def did_you_mean(word: str, known: Mapping[str, Any] | tuple[str, ...]) -> str:
    """`; did you mean X?`, or nothing where no known word is close."""
    close = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f"; did you mean {close[0]}?" if close else ""


def check_known(raw: Mapping[str, Any], known: tuple[str, ...], place: str) -> None:
    """Refuse keys that are not known.

    Raises:
      SweepError: naming the key, the nearest known one and all known ones.
    """
    for key in raw:
        if key not in known:
            raise SweepError(f"{place}: {key}: unknown{did_you_mean(str(key), known)} (known: {', '.join(known)})")


def check_rule(text: Any, place: str) -> str:
    """Which networks of a trial are judged.

    Raises:
      SweepError: it is none of `RULES`.
    """
    if text not in RULES:
        raise SweepError(f"{place}: unknown {text!r}{did_you_mean(str(text), RULES)} (known: {', '.join(RULES)})")
    return str(text)


def make_objective(
    metric: Any, mode: Any, aggregate: Any, constraints: Any, place: str = "", names: Mapping[str, str] | None = None
) -> Objective:
    """An objective as it is written: one metric or a list of them, with one mode for all or a list.

    Args:
      metric, mode, aggregate, constraints: what was written.
      place: begins every message.
      names: what the four are called there, where that is not their own name.

    Raises:
      SweepError: something in it is wrong.
    """
    called = {name: f"{place}{(names or {}).get(name, name)}" for name in _OBJECTIVE_PARTS}
    metrics = list(metric) if isinstance(metric, (list, tuple)) else [metric]
    modes = list(mode) if isinstance(mode, (list, tuple)) else [mode] * len(metrics)
    if not metrics or not all(isinstance(one, str) and one for one in metrics) or len(set(metrics)) < len(metrics):
        raise SweepError(f"{called['metric']}: expected a metric, or a list of different ones, got {metric!r}")
    if len(modes) != len(metrics):
        raise SweepError(f"{called['mode']}: expected one for all or {len(metrics)}, one a metric, got {mode!r}")
    for one in modes:
        if one not in MODES:
            raise SweepError(f"{called['mode']}: expected max or min, got {one!r}")
    pairs = [(str(name), str(one)) for name, one in zip(metrics, modes, strict=True)]
    return Objective(
        *pairs[0],
        aggregate=check_aggregate(aggregate, called["aggregate"]),
        others=tuple(pairs[1:]),
        constraints=_constraints(constraints, called["constraints"]),
    )


_OBJECTIVE_PARTS = ("metric", "mode", "aggregate", "constraints")


def _constraints(raw: Any, place: str) -> dict[str, float]:
    if not isinstance(raw, Mapping):
        raise SweepError(f"{place}: expected bounds such as min_cooperation_rate: 0.2, got {raw!r}")
    found = {}
    for name, bound in raw.items():
        if not isinstance(name, str) or name[:4] not in ("min_", "max_") or not name[4:]:
            raise SweepError(f"{place}: {name}: expected min_ or max_ and a metric, such as min_cooperation_rate")
        try:
            found[name] = (
                float(bound) if isinstance(bound, (int, float, str)) and not isinstance(bound, bool) else math.nan
            )
        except ValueError:
            found[name] = math.nan
        if not math.isfinite(found[name]):
            raise SweepError(f"{place}: {name}: expected a finite number, got {bound!r}")
    for name, bound in found.items():
        most = found.get(f"max_{name[4:]}", math.inf)
        if name.startswith("min_") and bound > most:
            raise SweepError(f"{place}: {name}={bound:g}: no trial has more than that and less than max_{name[4:]}="
                             f"{most:g}; change one of them")  # fmt: skip
    return found


def check_scenario_mode(value: object, place: str) -> ScenarioMode:
    """What several scenarios are to the sweep.

    Raises:
      SweepError: it is none of the known ways.
    """
    known = tuple(member.value for member in ScenarioMode)
    if value not in known:
        raise SweepError(f"{place}: unknown {value!r}{did_you_mean(str(value), known)} (known: {', '.join(known)})")
    return ScenarioMode(str(value))


def check_aggregate(value: object, place: str) -> str:
    """How seeds become one number.

    Raises:
      SweepError: it is none of the known ways.
    """
    known = tuple(member.value for member in Aggregate)
    if value not in known:
        raise SweepError(f"{place}: unknown {value!r}{did_you_mean(str(value), known)} (known: {', '.join(known)})")
    return str(value)


MOST = 10**12
"""More of anything is a slip of the pen."""


def positive_int(value: object, place: str, most: int = MOST) -> int:
    """A whole number from 1 to `most`; text like `1e6` is read too.

    Raises:
      SweepError: anything else.
    """
    try:
        number = float(value) if isinstance(value, (int, float, str)) and not isinstance(value, bool) else math.nan
    except ValueError:
        number = math.nan
    if not (math.isfinite(number) and number == int(number) and number >= 1):
        raise SweepError(f"{place}: expected a whole number from 1, got {value!r}")
    if number > most:
        raise SweepError(f"{place}: expected a whole number of at most {most:,}, got {value!r}")
    return int(number)


def _read_mapping(path: Path, source: str) -> dict[str, Any]:
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise SweepError(f"{source}: cannot read the sweep file: {reason}") from error
    except yaml.YAMLError as error:
        raise SweepError(f"{source}: not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(raw, dict):
        raise SweepError(f"{source}: expected a mapping with {', '.join(SPEC_KEYS)}, got {type(raw).__name__}")
    return raw


def _section(raw: Mapping[str, Any], name: str, known: tuple[str, ...], source: str) -> Mapping[str, Any]:
    section = raw.get(name) or {}
    if not isinstance(section, Mapping):
        raise SweepError(f"{source}: {name}: expected a mapping with {', '.join(known)}, got {section!r}")
    check_known(section, known, f"{source}: {name}")
    return section


def _names(raw: Mapping[str, Any], name: str, source: str) -> tuple[str, ...]:
    names = raw.get(name)
    if not isinstance(names, list) or not names or not all(isinstance(item, str) and item for item in names):
        raise SweepError(f"{source}: {name}: expected a list of at least one name, got {names!r}")
    return tuple(names)


def _overrides(raw: Mapping[str, Any], source: str) -> dict[str, Any]:
    overrides = raw.get("overrides") or {}
    if not isinstance(overrides, Mapping):
        raise SweepError(f"{source}: overrides: expected a mapping of dotted keys to values, got {overrides!r}")
    return {str(key): value for key, value in overrides.items()}


def _axes(raw: Mapping[str, Any], source: str) -> tuple[Axis, ...]:
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
        raise SweepError(f"{place}: values: {repeated[0]!r} is there twice")
    return Axis(key, axis_type, values=tuple(values), when=when)


def _when(raw: Mapping[str, Any], place: str) -> dict[str, tuple[str, ...]]:
    """The condition of an axis: names of algorithms and scenarios, one or a list."""
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
    if isinstance(value, str):  # YAML reads 1e-4 as text
        with contextlib.suppress(ValueError):
            value = float(value)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise SweepError(f"{place}: expected a finite number, got {value!r}")
    if not axis_type.is_int:
        return float(value)
    if value != int(value):
        raise SweepError(f"{place}: type {axis_type} needs a whole number, got {value!r}")
    return int(value)
