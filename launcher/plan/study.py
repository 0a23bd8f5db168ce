"""The plan of a sweep: its space, its groups of trials, and the trials themselves."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jax_party.config import with_values
from jax_party.engines import Engine
from jax_party.judging.objectives import Objective
from jax_party.trial.folder import create_trial_folder
from jax_party.trial.identity import label_of, new_trial_id
from jax_party.trial.record import TrialRecord
from launcher.ask.choices import Duplicates, Sampler, Scheduler, Search
from sweeps.axes import Axis, AxisType
from sweeps.space import ScenarioMode, SweepSpec

SCENARIO_KEY = "env/scenario"
SCENARIO_AXIS = "scenario"
TIMESTEPS_KEY = "system.total_timesteps"
EVALUATIONS_KEY = "arch.num_evaluation"
SEED_KEY = "system.seed"
NUM_SEEDS_KEY = "arch.num_seeds"
BATCH_KEY = "arch.batch"
NUM_DEVICES_KEY = "arch.num_devices"


@dataclass(frozen=True)
class Base:
    """The composed config of one algorithm in one scenario, without sampled values."""

    algorithm: str
    scenario: str
    environment: str
    config: Mapping[str, Any]
    total_steps: int
    num_evaluations: int
    note: str | None = None


@dataclass(frozen=True)
class PlannedTrial:
    """One trial to run: its number in the plan, its id, its first seed and its sampled values."""

    number: int
    trial_id: str
    seed: int
    hyperparameters: Mapping[str, Any]
    base: Base

    def config(self) -> dict[str, Any]:
        """Return the composed config with the sampled values in it."""
        return with_values(self.base.config, {SEED_KEY: self.seed, **self.hyperparameters})


@dataclass(frozen=True)
class Group:
    """Trials that one searcher draws from one space.

    Attributes:
      name: the algorithm, followed by the scenario if the group has only one.
      bases: what a configuration is drawn for: the only base; the one that `SCENARIO_AXIS` selects; or all of them.
      axes: the space.
      size: trials per configuration.
    """

    name: str
    bases: tuple[Base, ...]
    axes: tuple[Axis, ...]
    size: int


@dataclass(frozen=True)
class Study:
    """What all trials of a sweep have in common; enough to create another trial of it."""

    name: str
    engine: Engine
    algorithms: tuple[str, ...]
    spec: SweepSpec
    seed: int
    search: Search
    sampler: Sampler | None
    scheduler: Scheduler
    bases: tuple[Base, ...]
    warm_start: tuple[str, ...] = ()
    duplicates: Duplicates = Duplicates.SEEDS

    @property
    def objective(self) -> Objective:
        """The objective that the sweep optimizes."""
        return self.spec.objective

    @property
    def axes(self) -> tuple[Axis, ...]:
        """The axes that exist for at least one base."""
        return tuple(axis for axis in self.spec.axes if any(axis in self.axes_of(base) for base in self.bases))

    @property
    def scenario_axis(self) -> Axis:
        """The scenario as an axis."""
        kind = AxisType.GRID if self.search is Search.GRID else AxisType.CHOICE
        return Axis(SCENARIO_AXIS, kind, values=tuple(dict.fromkeys(base.scenario for base in self.bases)))

    @functools.cached_property
    def groups(self) -> tuple[Group, ...]:
        """The groups that searchers draw for, in the order in which each round visits them."""
        mode = self.spec.scenario_mode
        if mode is ScenarioMode.GRID:
            return tuple(Group(f"{b.algorithm} {b.scenario}", (b,), self.axes_of(b), 1) for b in self.bases)
        groups = []
        for algorithm in self.algorithms:
            bases = tuple(base for base in self.bases if base.algorithm == algorithm)
            axes = tuple(axis for axis in self.axes if any(axis in self.axes_of(base) for base in bases))
            if mode is ScenarioMode.AXIS:
                groups.append(Group(algorithm, bases, (self.scenario_axis, *axes), 1))
            else:
                groups.append(Group(algorithm, bases, axes, len(bases)))
        return tuple(groups)

    @property
    def round_size(self) -> int:
        """The number of trials in a round, which has one configuration per group."""
        return sum(group.size for group in self.groups)

    def place(self, number: int) -> tuple[int, int]:
        """Return (configuration, group index) of a trial number; each round goes through all groups."""
        configuration, rest = divmod(number, self.round_size)
        for index, group in enumerate(self.groups):
            if rest < group.size:
                return configuration, index
            rest -= group.size
        raise AssertionError(number)

    def first_number(self, configuration: int, group: int) -> int:
        """Return the number of the first trial of a group's configuration."""
        return configuration * self.round_size + sum(one.size for one in self.groups[:group])

    def trials_of(
        self, group: Group, number: int, values: Mapping[str, Any], seed: int | None = None
    ) -> tuple[PlannedTrial, ...]:
        """Return the trials of a configuration.

        Args:
          group: the group that it was drawn for.
          number: the number of its first trial.
          values: its values, by axis name.
          seed: the first seed of each trial; None for the sweep's.
        """
        bases = group.bases
        if SCENARIO_AXIS in values:
            bases = tuple(base for base in bases if base.scenario == values[SCENARIO_AXIS])
        return tuple(
            self.trial(number + index, base, {axis.key: values[axis.name] for axis in self.axes_of(base)}, seed)
            for index, base in enumerate(bases)
        )

    def base_of(self, record: TrialRecord) -> Base:
        """Return the base that an existing trial was created from."""
        (base,) = (b for b in self.bases if (b.algorithm, b.scenario) == (record.algorithm, record.scenario))
        return base

    @property
    def label(self) -> str:
        """The name for the sweep's folder: the algorithm, or several joined into one word."""
        return label_of(self.algorithms)

    def axes_of(self, base: Base) -> tuple[Axis, ...]:
        """Return the axes that exist for a base."""
        return self.spec.axes_for(base.algorithm, base.scenario)

    @property
    def num_seeds(self) -> int:
        """The number of seeds per trial."""
        number: int = self.bases[0].config["arch"]["num_seeds"]
        return number

    @property
    def num_devices(self) -> int:
        """The number of devices per trial."""
        number: int = self.bases[0].config["arch"]["num_devices"]
        return number

    def trial(self, number: int, base: Base, values: Mapping[str, Any], seed: int | None = None) -> PlannedTrial:
        """Return the trial with these values; its first seed is the one among them, else `seed`, else the sweep's."""
        first = int(values.get(SEED_KEY, self.seed if seed is None else seed))
        trial = PlannedTrial(number, "", first, dict(values), base)
        return dataclasses.replace(trial, trial_id=new_trial_id(self.name, trial.config(), first))

    def write(self, folder: Path, trial: PlannedTrial) -> TrialRecord:
        """Create the PENDING trial in the sweep's folder."""
        record = TrialRecord(
            trial_id=trial.trial_id,
            number=trial.number,
            sweep=self.name,
            engine=self.engine.name,
            algorithm=trial.base.algorithm,
            environment=trial.base.environment,
            scenario=trial.base.scenario,
            seed=trial.seed,
            num_seeds=self.num_seeds,
            hyperparameters=trial.hyperparameters,
            objective=self.objective,
            total_steps=trial.base.total_steps,
        )
        create_trial_folder(folder / trial.trial_id, trial.config(), record)
        return record
