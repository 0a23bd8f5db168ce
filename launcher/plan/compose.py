"""Create a checked study from the sweep file, the options and the composed configs."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

import yaml

import mava_configs
from jax_party.config import check_metric
from jax_party.engines import Engine, get_engine
from jax_party.errors import ConfigError, SweepError
from jax_party.judging.objectives import Objective, bound_metric
from jax_party.judging.seeds import FIRST_FRESH_SEED
from jax_party.store.storage import store_of
from launcher.ask.choices import Search
from launcher.ask.requested import SweepOptions
from launcher.plan.combinations import check_combination, default_sampler, default_scheduler
from launcher.plan.numbers import check_number
from launcher.plan.study import (
    BATCH_KEY,
    EVALUATIONS_KEY,
    NUM_DEVICES_KEY,
    NUM_SEEDS_KEY,
    SCENARIO_KEY,
    SEED_KEY,
    TIMESTEPS_KEY,
    Base,
    Study,
)
from sweeps.checks import did_you_mean
from sweeps.objectives import make_objective
from sweeps.space import Budget, SweepSpec, check_axes, find_spec, load_spec, merge_specs


def read_study(options: SweepOptions, name: str = "unnamed") -> tuple[Study, int]:
    """Create the study, and check everything that can be checked without starting anything.

    Returns:
      The study, and the number of configurations to draw for every scenario.

    Raises:
      SweepError, ConfigError: the requested sweep cannot be run.
    """
    engine = get_engine(options.engine)
    engine.check()
    algorithms = tuple(map(mava_configs.resolve_algorithm, options.algorithms))
    for algorithm in algorithms:
        engine.check_algorithm(algorithm)
    repeated = [name for index, name in enumerate(algorithms) if name in algorithms[:index]]
    if repeated:
        raise SweepError(f"ALG: {repeated[0]} is listed twice")
    specs = {}
    for algorithm in algorithms:
        spec = load_spec(options.space or find_spec(algorithm))
        if algorithm not in spec.algorithms:
            raise SweepError(f"{spec.source}: algorithms: {algorithm} is not among {', '.join(spec.algorithms)}")
        specs[algorithm] = spec
    num_seeds = max(spec.num_seeds for spec in specs.values())  # the same for all algorithms
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
        if outline.own_checkpoints and store_of(options.root).on_disk(options.root) is None:
            raise SweepError(
                f"logger.checkpointing.save_model: true: {study.engine.name}'s own checkpoints do not get to "
                f"STORAGE={options.storage}; leave it out (those that trials resume from are copied), or STORAGE"
            )


def compose_bases(algorithm: str, spec: SweepSpec, engine: Engine) -> tuple[Base, ...]:
    """Compose one config per scenario.

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


def _with_options(spec: SweepSpec, options: SweepOptions, num_seeds: int) -> SweepSpec:
    """Return the sweep file's spec with the command line's changes; its `overrides` then contain all fixed values.

    Args:
      spec: the sweep file's spec.
      options: the command line's options.
      num_seeds: seeds per trial if neither the file's overrides nor the command line sets them.

    Raises:
      SweepError: options contradict each other, or no axis is left.
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
    """Return the sweep file's objective with the command line's changes."""
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
    """Return the spec with algorithm aliases in conditions replaced by full names."""
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
    """Check that conditions name existing scenarios, and leave at least one axis for each algorithm and scenario."""
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
    """Refuse scenarios of another environment; Hydra would compose any scenario into any environment.

    Args:
      config: a config with the environment's default scenario.
      spec: the sweep.
      chosen: one config per scenario of the sweep.

    Raises:
      ConfigError: a scenario belongs to another environment.
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
    """Format a value in Hydra's override grammar."""
    if isinstance(value, str):
        return value if re.fullmatch(r"[\w.+/-]+", value) else "'" + value.replace("'", "\\'") + "'"
    if isinstance(value, (list, tuple)):
        return "[" + ",".join(_hydra_text(item) for item in value) + "]"
    return json.dumps(value)
