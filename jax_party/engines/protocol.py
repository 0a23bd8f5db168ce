"""The interface of an engine: a config tree, a parser of configs, and a factory of experiments."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

from jax_party.config.budget import Budget
from jax_party.engines.presets import expand_presets
from jax_party.trial.record import TrialRecord

NATIVE: Final = "native"
MAVA: Final = "mava"
ENGINES: Final = (NATIVE, MAVA)
ENGINE_KEY: Final = "engine"
"""The key of a composed config that names its engine; our own configs have none."""


@dataclass(frozen=True)
class ConfigTree:
    """Where Hydra finds an engine's configs.

    Attributes:
      root: the folder of the groups; its folder `default` holds the systems' own configs.
      options: returns the names of the files in a group (`env/scenario`).
      overrides: returns the overrides that precede the user's, for a system's config.
      keys: returns the keys of a group (`["system"]`) of a system's config; empty if there is no such group.
      presets: the folder of the presets; None if there are none.
    """

    root: Path
    options: Callable[[str], list[str]]
    overrides: Callable[[str], tuple[str, ...]]
    keys: Callable[[Sequence[str], str | None], list[str]]
    presets: Path | None = None

    @property
    def folder(self) -> str:
        """The folder of the systems' configs."""
        return str(self.root / "default")

    def words(self, system: str, overrides: Sequence[str]) -> list[str]:
        """Return Hydra's overrides for a system's config: the tree's own, then the user's.

        Raises:
          ConfigError: there is no such preset, or not for this system.
        """
        return [*self.overrides(system), *expand_presets(self.presets, system, overrides)]


def options_in(root: Path, group: str) -> list[str]:
    """Return the names of a group's files in a folder of groups."""
    return sorted(path.stem for path in (root / group).glob("*.yaml"))


@dataclass(frozen=True)
class Outline:
    """The contents of a config that do not depend on the engine.

    Attributes:
      system, environment, scenario: their names.
      eval_metric, eval_at: the metric that a single run is judged by, and which of its networks (`Objective.at`).
      seed, num_seeds, num_devices: those of the trial.
      num_evaluation: the number of evaluations that was requested.
      budget: in whole updates.
      keeps_each_period: whether a trial can be resumed after any evaluation period.
      own_checkpoints: whether the engine also writes checkpoints in its own format, which mirrors do not copy.
      base_exp_path, run_name, use_console: settings of a single run.
    """

    system: str
    environment: str
    scenario: str
    eval_metric: str
    eval_at: str
    seed: int
    num_seeds: int
    num_devices: int
    num_evaluation: int
    budget: Budget
    keeps_each_period: bool
    own_checkpoints: bool
    base_exp_path: str
    run_name: str | None
    use_console: bool


class Experiment(Protocol):
    """One trial: a folder, and the training that fills it, one evaluation period at a time.

    It is made from a parsed config and the trial's folder, and continues from the state of the folder. If the factory
    of experiments has an attribute `side_by_side`, that function plays a period of several experiments at once and
    returns each one's result or error; such experiments are made with `company` and `most_at_once`.

    Attributes:
      width: how many learners go through a batched program together; 1 if they go one after another.
    """

    width: int

    @property
    def record(self) -> TrialRecord:
        """The trial's record, as it is on disk."""

    @property
    def num_learners(self) -> int:
        """The number of seeds that are trained here; 0 if the trial had ended when it was opened."""

    @property
    def finished(self) -> bool:
        """Whether there is nothing left to do."""

    @property
    def evaluations(self) -> int:
        """The number of evaluation periods played so far."""

    def step(self) -> dict[str, Any]:
        """Play one evaluation period; return a flat dict with `env_steps`, `finished` and the metrics."""

    def close(self) -> None:
        """Release files and threads; calling it again does nothing."""


class Engine(Protocol):
    """What runs trials.

    Attributes:
      name: the engine's name in records.
      side_by_side: whether several trials of a process can share a program.
    """

    name: str
    side_by_side: bool

    def check(self) -> None:
        """Raise `ConfigError`, with the remedy, if the engine cannot run here. Imports nothing heavy."""

    def version(self) -> str | None:
        """Return the engine's version; None if it is unknown."""

    def check_algorithm(self, algorithm: str) -> None:
        """Raise `ConfigError`, with an alternative, for a system of ours that the engine does not have."""

    def tree(self) -> ConfigTree:
        """Return the engine's config tree."""

    def parse(self, mapping: Mapping[str, Any]) -> Any:
        """Parse a composed config; raise `ConfigError` with one line per invalid key."""

    def outline(self, config: Any) -> Outline:
        """Return the engine-independent outline of a parsed config."""

    def metrics(self, config: Any) -> list[str]:
        """Return the metrics that the config's evaluations give."""

    def static_names(self, config: Any) -> Sequence[str]:
        """Return the dotted keys for which every value needs its own compiled program."""

    def traced_names(self, config: Any) -> frozenset[str]:
        """Return the dotted keys whose values may change while a trial trains."""

    def experiment(self) -> Callable[..., Experiment]:
        """Return the factory that makes an experiment from a parsed config and a folder. Imports JAX."""
