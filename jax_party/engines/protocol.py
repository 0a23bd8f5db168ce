"""What an engine is: a config tree, a reader of configs, and a maker of experiments."""

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
"""The key of a composed config that says which engine it is for; our own configs have none."""


@dataclass(frozen=True)
class ConfigTree:
    """Where Hydra finds an engine's configs.

    Attributes:
      root: the folder of the groups; the systems' own configs are in `default` in it.
      options: the names that a group (`env/scenario`) has files of.
      overrides: what comes before those that are asked for, for a system's config.
      keys: the keys of a group (`["system"]`) of a system's config; empty where there is no such group.
      presets: the folder of the presets; None where there are none.
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
        """What Hydra is given for a system's config: the tree's own overrides, then those asked for.

        Raises:
          ConfigError: a preset that there is not, or not for this system.
        """
        return [*self.overrides(system), *expand_presets(self.presets, system, overrides)]


def options_in(root: Path, group: str) -> list[str]:
    """The names that a group has files of in a folder of groups."""
    return sorted(path.stem for path in (root / group).glob("*.yaml"))


@dataclass(frozen=True)
class Outline:
    """What everybody reads of a config, whichever engine it is for.

    Attributes:
      system, environment, scenario: their names.
      eval_metric, eval_at: what a single run is judged by, and at which of its networks (`Objective.at`).
      seed, num_seeds, num_devices: of the trial.
      num_evaluation: evaluations that were asked for.
      budget: in whole updates.
      keeps_each_period: whether a trial can be taken up again after any evaluation period.
      own_checkpoints: whether the engine leaves checkpoints of a format of its own, too, which no mirror takes along.
      base_exp_path, run_name, use_console: of a single run.
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
    """One trial: a folder, and what fills it, an evaluation period at a time.

    It is made from a parsed config and the trial's folder, which it takes up where it stands. Where what makes
    experiments has an attribute `side_by_side`, that is called with several, for a period of each, and gives each
    one's result or error; and experiments are made with `company` and `most_at_once`.

    Attributes:
      width: learners that go through a batched program together; 1 where they go one after another.
    """

    width: int

    @property
    def record(self) -> TrialRecord:
        """The trial's record, as it is on disk."""

    @property
    def num_learners(self) -> int:
        """Seeds that are trained here; 0 where the trial had ended when it was taken up."""

    @property
    def finished(self) -> bool:
        """Whether there is nothing left to do."""

    @property
    def evaluations(self) -> int:
        """Evaluation periods played so far."""

    def step(self) -> dict[str, Any]:
        """Play one evaluation period; a flat dict with `env_steps`, `finished` and the metrics."""

    def close(self) -> None:
        """Let go of files and threads; calling it again does nothing."""


class Engine(Protocol):
    """What runs trials.

    Attributes:
      name: as in the records.
      side_by_side: whether several trials of a process can share a program.
    """

    name: str
    side_by_side: bool

    def check(self) -> None:
        """Raise `ConfigError`, with the remedy, where the engine cannot run here. Imports nothing heavy."""

    def version(self) -> str | None:
        """Which version of the engine there is; None where that cannot be known."""

    def check_algorithm(self, algorithm: str) -> None:
        """Raise `ConfigError` for a system of ours that the engine does not have, with what to take instead."""

    def tree(self) -> ConfigTree:
        """Its config tree."""

    def parse(self, mapping: Mapping[str, Any]) -> Any:
        """A composed config, checked; raises `ConfigError` with a line for each key that is wrong."""

    def outline(self, config: Any) -> Outline:
        """What everybody reads of a parsed config."""

    def metrics(self, config: Any) -> list[str]:
        """The metrics that its evaluations give."""

    def static_names(self, config: Any) -> Sequence[str]:
        """The dotted keys of which every value has a compiled program of its own."""

    def traced_names(self, config: Any) -> frozenset[str]:
        """The dotted keys whose values may change while a trial trains."""

    def experiment(self) -> Callable[..., Experiment]:
        """What makes an experiment from a parsed config and a folder. Imports JAX."""
