"""A sweep file: what to vary, in which scenarios, for how long, and which objective to optimize.

The file is read into frozen dataclasses and first checked by itself (`load_spec`), then against a composed config
(`check_axes`). Nothing here depends on Ray, JAX or Hydra."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Any

import yaml

from jax_party.config import with_values
from jax_party.errors import ConfigError, SweepError
from jax_party.judging.objectives import Objective
from sweeps.axes import Axis, flatten, parse_axes
from sweeps.checks import check_known, did_you_mean, names_of, positive_int, section
from sweeps.objectives import check_rule, make_objective

SWEEPS_DIR = Path(__file__).parent
SPEC_KEYS = (
    "algorithms", "num_samples", "num_seeds", "objective", "scenarios", "scenario_mode", "budget", "overrides", "space",
)  # fmt: skip


class ScenarioMode(StrEnum):
    """How a sweep uses several scenarios.

    `grid`: every configuration runs in each scenario. `axis`: each configuration is drawn with one of the scenarios.
    `mean`: every configuration runs in each scenario, and is judged by the mean of its objective over them.
    """

    GRID = "grid"
    AXIS = "axis"
    MEAN = "mean"


@dataclass(frozen=True)
class Budget:
    """How long each trial trains: environment steps, and the number of evaluations spread over them."""

    total_timesteps: int
    num_evaluation: int


@dataclass(frozen=True)
class SweepSpec:
    """A checked sweep file. `source` is its path as the user knows it, the prefix of every error message about it.

    `at` says which networks of a trial are judged, one of `RULES`; None leaves that to the environment's config.
    `num_seeds` is the number of seeds per trial, unless SEEDS sets it.
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
        """Return the dotted keys that vary."""
        return tuple(dict.fromkeys(axis.key for axis in self.axes))

    def space(self) -> dict[str, Any]:
        """Return the axes in the form of a sweep file."""
        written: dict[str, list[Any]] = {}
        for axis in self.axes:
            written.setdefault(axis.key, []).append(axis.to_mapping())
        return {key: axes[0] if len(axes) == 1 else axes for key, axes in written.items()}

    def axes_for(self, algorithm: str, scenario: str) -> tuple[Axis, ...]:
        """Return the axes that exist for this algorithm in this scenario."""
        return tuple(axis for axis in self.axes if axis.applies(algorithm, scenario))


def merge_specs(specs: Mapping[str, SweepSpec]) -> SweepSpec:
    """Merge the specs of several algorithms into one sweep, in which each keeps the axes of its own file.

    Args:
      specs: algorithm -> its spec.

    Raises:
      SweepError: the files differ in a setting that the whole sweep shares.
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
    by_key: dict[str, list[Axis]] = {}  # keeps the files' order, in which plans are drawn
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
    """Return the sweep file of this package that names the algorithm.

    Raises:
      SweepError: no file names it.
    """
    for path in sorted(SWEEPS_DIR.glob("*.yaml")):
        raw = read_mapping(path, display_path(path))
        if algorithm in (raw.get("algorithms") or ()):
            return path
    raise SweepError(f"{algorithm}: no sweeps/*.yaml names this algorithm; pass your own file with SPACE=path")


def display_path(path: Path) -> str:
    """Return the path to show in messages: `sweeps/ppo.yaml` for our own files, else the path as given."""
    return f"sweeps/{path.name}" if path.parent == SWEEPS_DIR else str(path)


def load_spec(path: Path) -> SweepSpec:
    """Read and check a sweep file by itself.

    Raises:
      SweepError: the file cannot be read, or something in it is wrong; the message names the key.
    """
    source = display_path(path)
    return parse_spec(read_mapping(path, source), source)


def parse_spec(raw: Mapping[str, Any], source: str) -> SweepSpec:
    """Check a sweep given as a mapping; `source` is the prefix of every error message.

    Raises:
      SweepError: something in it is wrong; the message names the key.
    """
    check_known(raw, SPEC_KEYS, source)
    objective = section(raw, "objective", ("metric", "mode", "at", "aggregate", "constraints"), source)
    budget = section(raw, "budget", ("total_timesteps", "num_evaluation"), source)
    return SweepSpec(
        source=source,
        algorithms=names_of(raw, "algorithms", source),
        num_samples=positive_int(raw.get("num_samples", 1), f"{source}: num_samples"),
        objective=make_objective(
            objective.get("metric", "episode_return"),
            objective.get("mode", "max"),
            objective.get("aggregate", "mean"),
            objective.get("constraints") or {},
            f"{source}: objective.",
        ),
        scenarios=names_of(raw, "scenarios", source),
        scenario_mode=check_scenario_mode(raw.get("scenario_mode", "grid"), f"{source}: scenario_mode"),
        budget=Budget(
            positive_int(budget.get("total_timesteps"), f"{source}: budget.total_timesteps"),
            positive_int(budget.get("num_evaluation"), f"{source}: budget.num_evaluation"),
        ),
        overrides=parse_overrides(raw, source),
        axes=parse_axes(raw, source),
        num_seeds=positive_int(raw.get("num_seeds", 1), f"{source}: num_seeds"),
        at=check_rule(objective["at"], f"{source}: objective.at") if objective.get("at") is not None else None,
    )


def check_scenario_mode(value: object, place: str) -> ScenarioMode:
    """Check and return how the sweep uses several scenarios.

    Raises:
      SweepError: it is not one of the known ways.
    """
    known = tuple(member.value for member in ScenarioMode)
    if value not in known:
        raise SweepError(f"{place}: unknown {value!r}{did_you_mean(str(value), known)} (known: {', '.join(known)})")
    return ScenarioMode(str(value))


def read_mapping(path: Path, source: str) -> dict[str, Any]:
    """Return the mapping in a sweep file.

    Raises:
      SweepError: the file cannot be read, or holds no YAML mapping.
    """
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


def parse_overrides(raw: Mapping[str, Any], source: str) -> dict[str, Any]:
    """Return the `overrides` of a sweep file: dotted key -> value."""
    overrides = raw.get("overrides") or {}
    if not isinstance(overrides, Mapping):
        raise SweepError(f"{source}: overrides: expected a mapping of dotted keys to values, got {overrides!r}")
    return {str(key): value for key, value in overrides.items()}


def check_axes(
    spec: SweepSpec,
    axes: Sequence[Axis],
    config: Mapping[str, Any],
    parse_config: Callable[[Mapping[str, Any]], object],
) -> None:
    """Check axes against the config that their values will be inserted into.

    Args:
      spec: the sweep.
      axes: the axes that exist for this config.
      config: one composed config.
      parse_config: raises `ConfigError` for a config that the trainer refuses.

    Raises:
      SweepError: an axis's key is not in the config, is fixed by an override or has two axes at once, or one of its
        extreme values is refused.
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
