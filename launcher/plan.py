"""From options to a plan: every trial with its id, its sampled values and its config, written before Ray starts."""

from __future__ import annotations

import dataclasses
import functools
import json
import re
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import yaml

import mava_configs
from jax_party import records, storage
from jax_party.config import check_metric, with_values
from jax_party.engines import Engine, get_engine
from jax_party.errors import ConfigError, StorageError, SweepError
from jax_party.judging.objectives import Objective, bound_metric
from jax_party.records import FIRST_FRESH_SEED, SweepManifest, TrialRecord, label_of
from launcher.budget import parse_budget
from launcher.combinations import check_combination, default_sampler, default_scheduler
from launcher.options import Duplicates, Sampler, Scheduler, Search, SweepOptions
from sweeps.space import (
    Axis,
    AxisType,
    Budget,
    ScenarioMode,
    SweepSpec,
    check_axes,
    did_you_mean,
    find_spec,
    load_spec,
    make_objective,
    merge_specs,
    parse_spec,
)

SCENARIO_KEY = "env/scenario"
SCENARIO_AXIS = "scenario"
TIMESTEPS_KEY = "system.total_timesteps"
EVALUATIONS_KEY = "arch.num_evaluation"
MOST_TRIALS = 1_000_000
"""Tests of winners are numbered from here on."""
SEED_KEY = "system.seed"
NUM_SEEDS_KEY = "arch.num_seeds"
BATCH_KEY = "arch.batch"
NUM_DEVICES_KEY = "arch.num_devices"
WRITERS = 8


@dataclass(frozen=True)
class Base:
    """The composed config of one algorithm in one scenario, before any sampled value is put in."""

    algorithm: str
    scenario: str
    environment: str
    config: Mapping[str, Any]
    total_steps: int
    num_evaluations: int
    note: str | None = None


@dataclass(frozen=True)
class PlannedTrial:
    """One trial to run: its place in the plan, its identity and what makes it different."""

    number: int
    trial_id: str
    seed: int
    hyperparameters: Mapping[str, Any]
    base: Base

    def config(self) -> dict[str, Any]:
        """The composed config with the sampled values in it."""
        return with_values(self.base.config, {SEED_KEY: self.seed, **self.hyperparameters})


@dataclass(frozen=True)
class Group:
    """Trials that a searcher draws by one space.

    Attributes:
      name: an algorithm and, unless there are several, a scenario.
      bases: what it draws for: the only one; one of them, by the axis `SCENARIO_AXIS`; or all of them at once.
      axes: its space.
      size: trials of each configuration.
    """

    name: str
    bases: tuple[Base, ...]
    axes: tuple[Axis, ...]
    size: int


@dataclass(frozen=True)
class Study:
    """What is the same for all trials of a sweep: enough to make another trial of it."""

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
        """What the sweep looks for."""
        return self.spec.objective

    @property
    def axes(self) -> tuple[Axis, ...]:
        """Every axis that exists for some base."""
        return tuple(axis for axis in self.spec.axes if any(axis in self.axes_of(base) for base in self.bases))

    @property
    def scenario_axis(self) -> Axis:
        """The scenario as an axis."""
        kind = AxisType.GRID if self.search is Search.GRID else AxisType.CHOICE
        return Axis(SCENARIO_AXIS, kind, values=tuple(dict.fromkeys(base.scenario for base in self.bases)))

    @functools.cached_property
    def groups(self) -> tuple[Group, ...]:
        """What searchers draw for, in the order in which each round of them goes."""
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
        """Trials of a configuration for every group."""
        return sum(group.size for group in self.groups)

    def place(self, number: int) -> tuple[int, int]:
        """Which configuration of which group a trial number is, where each round goes through all groups."""
        configuration, rest = divmod(number, self.round_size)
        for index, group in enumerate(self.groups):
            if rest < group.size:
                return configuration, index
            rest -= group.size
        raise AssertionError(number)

    def first_number(self, configuration: int, group: int) -> int:
        """The number of the first trial of a group's configuration."""
        return configuration * self.round_size + sum(one.size for one in self.groups[:group])

    def trials_of(
        self, group: Group, number: int, values: Mapping[str, Any], seed: int | None = None
    ) -> tuple[PlannedTrial, ...]:
        """The trials of a configuration.

        Args:
          group: what it was drawn for.
          number: of the first of them.
          values: by the axes' names.
          seed: the first seed of each; None for the sweep's.
        """
        bases = group.bases
        if SCENARIO_AXIS in values:
            bases = tuple(base for base in bases if base.scenario == values[SCENARIO_AXIS])
        return tuple(
            self.trial(number + index, base, {axis.key: values[axis.name] for axis in self.axes_of(base)}, seed)
            for index, base in enumerate(bases)
        )

    def base_of(self, record: TrialRecord) -> Base:
        """What a trial that was planned before was made from."""
        (base,) = (b for b in self.bases if (b.algorithm, b.scenario) == (record.algorithm, record.scenario))
        return base

    @property
    def label(self) -> str:
        """What the sweep's folder is named after: the algorithm, or several in one word."""
        return label_of(self.algorithms)

    def axes_of(self, base: Base) -> tuple[Axis, ...]:
        """The axes that exist for a base."""
        return self.spec.axes_for(base.algorithm, base.scenario)

    @property
    def num_seeds(self) -> int:
        """Seeds of each trial."""
        number: int = self.bases[0].config["arch"]["num_seeds"]
        return number

    @property
    def num_devices(self) -> int:
        """Devices of each trial."""
        number: int = self.bases[0].config["arch"]["num_devices"]
        return number

    def trial(self, number: int, base: Base, values: Mapping[str, Any], seed: int | None = None) -> PlannedTrial:
        """The trial with these sampled values, from this seed on: the sweep's, unless the seed is among the values."""
        first = int(values.get(SEED_KEY, self.seed if seed is None else seed))
        trial = PlannedTrial(number, "", first, dict(values), base)
        return dataclasses.replace(trial, trial_id=records.trial_id(self.name, trial.config(), first))

    def write(self, folder: Path, trial: PlannedTrial) -> TrialRecord:
        """Make the trial's folder, PENDING, in the sweep's folder."""
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
        records.create_trial_folder(folder / trial.trial_id, trial.config(), record)
        return record


def read_study(options: SweepOptions, name: str = "unnamed") -> tuple[Study, int]:
    """Check everything that can be checked without starting anything.

    Returns:
      The study, and how many configurations to draw for every scenario.

    Raises:
      SweepError, ConfigError: what was asked for cannot be run.
    """
    engine = get_engine(options.engine)
    engine.check()
    algorithms = tuple(map(mava_configs.resolve_algorithm, options.algorithms))
    for algorithm in algorithms:
        engine.check_algorithm(algorithm)
    repeated = [name for index, name in enumerate(algorithms) if name in algorithms[:index]]
    if repeated:
        raise SweepError(f"ALG: {repeated[0]} is there twice")
    specs = {}
    for algorithm in algorithms:
        spec = load_spec(options.space or find_spec(algorithm))
        if algorithm not in spec.algorithms:
            raise SweepError(f"{spec.source}: algorithms: {algorithm} is not among {', '.join(spec.algorithms)}")
        specs[algorithm] = spec
    num_seeds = max(spec.num_seeds for spec in specs.values())  # so that all are compared on as many
    specs = {name: _with_options(_with_full_names(spec), options, num_seeds) for name, spec in specs.items()}
    spec = merge_specs(specs)
    bases = tuple(base for algorithm in algorithms for base in compose_bases(algorithm, spec, engine))
    at = spec.at or engine.outline(engine.parse(bases[0].config)).eval_at
    spec = dataclasses.replace(spec, objective=dataclasses.replace(spec.objective, at=at))
    sampler = options.sampler or default_sampler(options.search, len(spec.objective.metrics))
    scheduler = options.scheduler or default_scheduler(options.search)
    study = Study(
        name, engine, algorithms, spec, options.seed, options.search, sampler, scheduler, bases, options.warm_start,
        options.duplicates,
    )  # fmt: skip
    _check_seeds(study)
    _check_conditions(study)
    if options.search is Search.GRID and options.samples is not None:
        raise SweepError("SAMPLES: SEARCH=grid runs every point of the grid once; leave SAMPLES out")
    samples = 1 if options.search is Search.GRID else options.samples or spec.num_samples
    check_number(samples * study.round_size, samples)
    check_combination(study, samples)
    _check_storage(study, options)
    for base in study.bases:
        known = engine.metrics(engine.parse(base.config))
        check_axes(spec, study.axes_of(base), base.config, engine.parse)
        for metric in study.objective.metrics:
            check_metric(known, metric, f"{spec.source}: objective.metric")
        for bound in study.objective.constraints:
            check_metric(known, bound_metric(bound), f"{spec.source}: objective.constraints: {bound}")
    return study, samples


def _check_storage(study: Study, options: SweepOptions) -> None:
    for base in study.bases:
        outline = study.engine.outline(study.engine.parse(base.config))
        if outline.own_checkpoints and storage.is_remote(options.root):
            raise SweepError(
                f"logger.checkpointing.save_model: true: {study.engine.name}'s own checkpoints do not get to "
                f"STORAGE={options.storage}; leave it out (those that trials go on from do get there), or STORAGE"
            )


def check_number(num_trials: int, samples: int) -> None:
    """Refuse more trials than a sweep can number.

    Raises:
      SweepError: with how many there would be.
    """
    if num_trials > MOST_TRIALS:
        raise SweepError(f"SAMPLES={samples}: are {num_trials:,} trials; a sweep has at most {MOST_TRIALS:,}")


def compose_bases(algorithm: str, spec: SweepSpec, engine: Engine) -> tuple[Base, ...]:
    """Compose one config a scenario.

    Raises:
      ConfigError: an unknown scenario or override, or a config that the trainer refuses.
    """
    fixed = [f"{key}={_hydra_text(value)}" for key, value in spec.overrides.items()]
    if not spec.scenarios:
        return (_base(algorithm, mava_configs.compose(algorithm, fixed, engine.name), engine),)
    chosen = [
        mava_configs.compose(algorithm, [*fixed, f"{SCENARIO_KEY}={name}"], engine.name) for name in spec.scenarios
    ]
    _check_environment(mava_configs.compose(algorithm, fixed, engine.name), spec, chosen)
    return tuple(_base(algorithm, config, engine) for config in chosen)


def draw_plan(study: Study, samples: int) -> tuple[PlannedTrial, ...]:
    """Draw the whole plan: `samples` configurations, each of them for every algorithm in every scenario.

    Configurations that were drawn before are drawn again; where the space has too few, the plan is shorter. What
    differs only in axes that do not exist for an algorithm or scenario is one trial.
    """
    from launcher.search import draw_configurations

    by_axis = study.spec.scenario_mode is ScenarioMode.AXIS
    axes = [*([study.scenario_axis] if by_axis else []), *study.axes]
    configurations = draw_configurations(axes, samples, study.seed)
    different: dict[str, PlannedTrial] = {}
    for drawn in configurations:
        for base in study.bases:
            if by_axis and base.scenario != drawn[SCENARIO_AXIS]:
                continue
            values = {axis.key: drawn[axis.name] for axis in study.axes_of(base)}
            trial = study.trial(len(different), base, values)
            different.setdefault(trial.trial_id, trial)
    return tuple(different.values())


def check_plan(study: Study, trials: Sequence[PlannedTrial]) -> None:
    """Refuse a plan with a trial that the trainer would refuse: a range's ends say nothing of what lies between.

    Raises:
      SweepError: with the first such trial's values.
    """
    for trial in trials:
        try:
            study.engine.parse(trial.config())
        except ConfigError as error:
            values = ", ".join(f"{key}={value}" for key, value in trial.hyperparameters.items())
            reason = str(error).splitlines()[0]
            raise SweepError(
                f"{study.spec.source}: trial {trial.number} ({values}) cannot be run: {reason}; list the values that "
                "can as type: choice"
            ) from error


def create_sweep_folder(options: SweepOptions, algorithm: str, now: datetime | None = None) -> tuple[str, Path]:
    """Make the sweep's folder, which nobody else has, and give its name.

    Raises:
      SweepError: the folder cannot be made.
    """
    moment = now or datetime.now()
    place = f"STORAGE: {options.storage}" if options.storage else f"OUT: {options.out}"
    for attempt in range(60):
        name, folder = sweep_name_and_folder(options, algorithm, moment + timedelta(seconds=attempt))
        if storage.is_remote(folder):
            if _claim(folder):
                return name, folder
            continue
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            folder.mkdir()
        except FileExistsError as error:
            if folder.exists():
                continue
            raise SweepError(f"{place}: cannot make a folder there: {error.strerror}") from error
        except OSError as error:
            raise SweepError(f"{place}: cannot make a folder there: {error.strerror}") from error
        return name, folder
    raise SweepError(f"{place}: sixty sweeps began there within a minute; choose another NAME")


def _claim(folder: Path) -> bool:
    """Whether a folder on remote storage is nobody else's."""
    try:
        return storage.claim(folder / records.LOCK_FILE)
    except StorageError as error:
        raise SweepError(f"STORAGE: {error}") from error


def sweep_name_and_folder(options: SweepOptions, algorithm: str, moment: datetime) -> tuple[str, Path]:
    """The sweep's name and folder: `ff_mappo-20260102-030405-name` in `<out>/ff_mappo/2026-01-02/03-04-05-name`."""
    suffix = f"-{options.name}" if options.name else ""
    name = f"{algorithm}-{moment:%Y%m%d-%H%M%S}{suffix}"
    return name, storage.absolute(options.root) / algorithm / f"{moment:%Y-%m-%d}" / f"{moment:%H-%M-%S}{suffix}"


def write_plan(
    folder: Path,
    study: Study,
    trials: Sequence[PlannedTrial],
    num_trials: int,
    options: SweepOptions,
    command: str,
    samples: int | None = None,
) -> None:
    """Write sweep.yaml, then every planned trial's folder; `samples` is how many configurations were asked for."""
    scenarios = {SCENARIO_KEY: list(study.spec.scenarios)} if study.spec.scenarios else {}
    manifest = SweepManifest(
        name=study.name,
        engine=study.engine.name,
        algorithm=study.label,
        algorithms=study.algorithms,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        num_trials=num_trials,
        samples=samples,
        objective=study.objective,
        seed=study.seed,
        num_seeds=study.num_seeds,
        pack=options.pack,
        gpus_per_trial=options.gpus_per_trial,
        budget=parse_budget(options.budget) if options.budget else {},
        search=study.search.value,
        sampler=None if study.sampler is None else study.sampler.value,
        scheduler=study.scheduler.value,
        scenario_mode=study.spec.scenario_mode.value,
        warm_start=tuple(str(storage.absolute(storage.as_folder(folder))) for folder in study.warm_start),
        duplicates=study.duplicates.value,
        space=study.spec.space(),
        overrides={**scenarios, **study.spec.overrides},
        provenance={**records.provenance(), "command": command},
    )
    records.write_manifest(folder, manifest)
    _write_trials(folder, study, trials)


def complete_plan(folder: Path, manifest: SweepManifest) -> None:
    """Write the trials that are still missing where a driver was killed while it wrote its plan.

    The plan is drawn again, from the seed; a longer draw begins with the shorter one.
    """
    study = study_from_manifest(folder, manifest)
    samples = manifest.samples or (1 if study.search is Search.GRID else manifest.num_trials)
    _write_trials(folder, study, draw_plan(study, samples)[: manifest.num_trials])


def _write_trials(folder: Path, study: Study, trials: Sequence[PlannedTrial]) -> None:
    """Make the trials' folders, several at a time: most of it is waiting for the disk."""
    with ThreadPoolExecutor(WRITERS) as pool:
        for _ in pool.map(lambda trial: study.write(folder, trial), trials):
            pass


def study_from_manifest(folder: Path, manifest: SweepManifest) -> Study:
    """The study that a sweep folder was made from.

    Raises:
      SweepError, ConfigError: its space or settings no longer fit the trainer.
    """
    overrides = dict(manifest.overrides or {})
    scenarios = tuple(overrides.pop(SCENARIO_KEY, ()))
    raw = {
        "algorithms": list(manifest.algorithms),
        "objective": {
            "metric": list(manifest.objective.metrics),
            "mode": list(manifest.objective.modes),
            "aggregate": manifest.objective.aggregate,
            "constraints": manifest.objective.constraints,
        },
        "scenarios": ["from-manifest"],
        "scenario_mode": manifest.scenario_mode,
        "budget": {"total_timesteps": 1, "num_evaluation": 1},
        "overrides": overrides,
        "space": manifest.space,
    }
    spec = dataclasses.replace(
        parse_spec(raw, str(folder / records.MANIFEST_FILE)), scenarios=scenarios, objective=manifest.objective
    )
    algorithms = tuple(manifest.algorithms)
    engine = get_engine(manifest.engine)
    engine.check()
    bases = tuple(base for algorithm in algorithms for base in compose_bases(algorithm, spec, engine))
    search = Search(manifest.search)
    return Study(
        manifest.name,
        engine,
        algorithms,
        spec,
        manifest.seed,
        search,
        Sampler(manifest.sampler) if manifest.sampler else default_sampler(search, 1),
        Scheduler(manifest.scheduler),
        bases,
        manifest.warm_start,
        Duplicates(manifest.duplicates),
    )


def _with_options(spec: SweepSpec, options: SweepOptions, num_seeds: int) -> SweepSpec:
    """The sweep file with what the command line changes; `overrides` then holds everything that is fixed.

    Args:
      spec: of the file.
      options: of the command line.
      num_seeds: of each trial, where nothing else says it.
    """
    asked = dict(_split_override(word) for word in options.overrides)
    for key, name, value in (
        (NUM_SEEDS_KEY, "SEEDS", options.seeds),
        (BATCH_KEY, "BATCH", options.batch),
        (NUM_DEVICES_KEY, "DEVICES_PER_TRIAL", options.devices_per_trial),
    ):
        if value is not None and asked.setdefault(key, value) != value:
            raise SweepError(f"{name}={value}: OVERRIDES says {key}={asked[key]}; leave one of them out")
    for key, name, value in (
        (TIMESTEPS_KEY, "TIMESTEPS", options.timesteps),
        (EVALUATIONS_KEY, "EVALUATIONS", options.evaluations),
    ):
        if value is not None and asked.get(key, value) != value:
            raise SweepError(f"{name}={value}: OVERRIDES says {key}={asked[key]}; leave one of them out")
    budget = Budget(options.timesteps or spec.budget.total_timesteps, options.evaluations or spec.budget.num_evaluation)
    axes = tuple(axis for axis in spec.axes if axis.key not in asked)
    if not axes:
        raise SweepError(f"{spec.source}: space: is empty once OVERRIDES fixes {', '.join(spec.axis_keys())}")
    if num_seeds > 1 and SEED_KEY not in {axis.key for axis in axes}:
        asked.setdefault(NUM_SEEDS_KEY, spec.overrides.get(NUM_SEEDS_KEY, num_seeds))
    fixed = {
        TIMESTEPS_KEY: budget.total_timesteps,
        EVALUATIONS_KEY: budget.num_evaluation,
        "logger.use_console": False,
        SEED_KEY: options.seed,
        **spec.overrides,
        **asked,
    }
    if any(axis.key == SEED_KEY for axis in axes):
        fixed.pop(SEED_KEY)
    elif fixed[SEED_KEY] != options.seed:
        raise SweepError(f"{SEED_KEY}: give the seed as SEED={fixed[SEED_KEY]}, or make it an axis")
    scenarios = options.scenarios or (() if "env" in fixed else spec.scenarios)
    return dataclasses.replace(
        spec, objective=_objective(spec.objective, options), scenarios=scenarios, budget=budget, overrides=fixed,
        axes=axes, scenario_mode=options.scenario_mode or spec.scenario_mode, at=options.at or spec.at,
    )  # fmt: skip


def _objective(written: Objective, options: SweepOptions) -> Objective:
    """The sweep file's objective with what the command line changes."""
    metrics = options.metric or written.metrics
    mode: Any = options.mode
    if mode is not None and len(mode) == 1:
        mode = mode[0]
    if mode is None:
        mode = written.modes if len(metrics) == len(written.metrics) else written.mode
    return make_objective(
        metrics,
        mode,
        options.aggregate or written.aggregate,
        written.constraints if options.constraints is None else options.constraints,
        names={"metric": "METRIC", "mode": "MODE", "aggregate": "AGGREGATE", "constraints": "CONSTRAINTS"},
    )


def _with_full_names(spec: SweepSpec) -> SweepSpec:
    """The spec with aliases of algorithms in conditions resolved."""
    axes = []
    for axis in spec.axes:
        when = dict(axis.when)
        if "algorithm" in when:
            try:
                when["algorithm"] = tuple(map(mava_configs.resolve_algorithm, when["algorithm"]))
            except ConfigError as error:
                reason = str(error).removeprefix("ALG=")
                raise SweepError(f"{spec.source}: {axis.key}: when: algorithm: {reason}") from error
        axes.append(dataclasses.replace(axis, when=when))
    return dataclasses.replace(spec, axes=tuple(axes))


def _check_conditions(study: Study) -> None:
    """Conditions name scenarios that there are, and leave each algorithm and scenario an axis."""
    known = mava_configs.scenarios(str(study.spec.overrides.get("env", "jaxparty")))
    for axis in study.spec.axes:
        for name in axis.when.get("scenario", ()):
            if name not in known:
                raise SweepError(
                    f"{study.spec.source}: {axis.key}: when: scenario: unknown {name!r}"
                    f"{did_you_mean(name, tuple(known))} (known: {', '.join(known)})"
                )
    for base in study.bases:
        if not study.axes_of(base):
            raise SweepError(f"{study.spec.source}: space: no axis exists for {base.algorithm} in {base.scenario}")


def _check_seeds(study: Study) -> None:
    for key, name in ((NUM_SEEDS_KEY, "SEEDS"), (BATCH_KEY, "BATCH"), (NUM_DEVICES_KEY, "DEVICES_PER_TRIAL")):
        if key in study.spec.axis_keys():
            raise SweepError(f"{study.spec.source}: {key}: is no hyperparameter; give it as {name}")
    for axis in study.spec.axes:
        for seed in axis.extremes() if axis.key == SEED_KEY else ():
            if isinstance(seed, (int, float)) and seed >= FIRST_FRESH_SEED:
                raise SweepError(
                    f"{study.spec.source}: {SEED_KEY}: {seed} is kept for testing winners; take seeds below "
                    f"{FIRST_FRESH_SEED:,}"
                )
    if study.seed + study.num_seeds > FIRST_FRESH_SEED:
        raise SweepError(
            f"SEEDS={study.num_seeds}: from SEED={study.seed} they reach seeds that are kept for testing winners; take "
            f"a SEED below {FIRST_FRESH_SEED - study.num_seeds + 1:,}"
        )
    if study.num_seeds > 1 and SEED_KEY in study.spec.axis_keys():
        raise SweepError(
            f"SEEDS={study.num_seeds}: {study.spec.source} has {SEED_KEY} as an axis; take that out, or leave SEEDS out"
        )


def _check_environment(config: Mapping[str, Any], spec: SweepSpec, chosen: Sequence[Mapping[str, Any]]) -> None:
    """Hydra composes any scenario into any environment; only its own make sense.

    Args:
      config: with the environment's own scenario.
      spec: the sweep.
      chosen: one config a scenario of it.
    """
    own = config["env"]["scenario"]["name"]
    for name, composed in zip(spec.scenarios, chosen, strict=True):
        if composed["env"]["scenario"]["name"] != own:
            group = spec.overrides.get("env", "jaxparty")
            known = mava_configs.scenarios(group)
            raise ConfigError(
                f"SCENARIO={name}: is no scenario of env={group}{did_you_mean(name, tuple(known))} "
                f"(known: {', '.join(known)})"
            )


def _base(algorithm: str, config: Mapping[str, Any], engine: Engine) -> Base:
    outline = engine.outline(engine.parse(config))
    return Base(
        algorithm=algorithm,
        scenario=outline.scenario,
        environment=outline.environment,
        config=config,
        total_steps=outline.budget.total_steps,
        num_evaluations=outline.budget.num_evaluations,
        note=outline.budget.note(outline.num_evaluation),
    )


def _split_override(word: str) -> tuple[str, Any]:
    key, separator, text = word.partition("=")
    if not separator or not re.fullmatch(r"\+?[A-Za-z][\w./]*", key):
        raise SweepError(
            f"OVERRIDES: {word}: expected key=value with a key of the config, such as arch.num_envs=64, or +preset=mava"
        )
    if key == SCENARIO_KEY:
        raise SweepError(f"OVERRIDES: {word}: give scenarios as SCENARIO={text}")
    try:
        value = yaml.safe_load(text) if text else ""
    except yaml.YAMLError:
        raise SweepError(f"OVERRIDES: {word}: the value is neither a number, a word nor a list") from None
    return key, value if isinstance(value, (bool, int, float, str, list, type(None))) else text


def _hydra_text(value: Any) -> str:
    """A value in Hydra's override grammar."""
    if isinstance(value, str):
        return value if re.fullmatch(r"[\w.+/-]+", value) else "'" + value.replace("'", "\\'") + "'"
    if isinstance(value, (list, tuple)):
        return "[" + ",".join(_hydra_text(item) for item in value) + "]"
    return json.dumps(value)


__all__ = [
    "Base", "Group", "PlannedTrial", "Study", "check_plan", "complete_plan", "compose_bases", "create_sweep_folder",
    "draw_plan", "label_of", "read_study", "study_from_manifest", "sweep_name_and_folder", "write_plan",
]  # fmt: skip
