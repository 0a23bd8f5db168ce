"""Fixtures of the core's tests: tiny experiments that compile in a few seconds, and their folders."""

# ruff: noqa: E402  (JAX reads the environment when it is imported)

from __future__ import annotations

from jax_party.runtime import prepare_process

prepare_process()

import copy
import functools
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import pytest

from jax_party import records
from jax_party.config import ExperimentConfig, make_budget, parse_config
from jax_party.training import Experiment, Program, get_program, make_hyper
from mava_configs import compose

TINY = (
    "arch.num_envs=4",
    "arch.num_eval_episodes=4",
    "arch.num_absolute_metric_eval_episodes=6",
    "arch.num_evaluation=4",
    "arch.gradient_chunk_size=null",
    "system.rollout_length=16",
    "system.ppo_epochs=2",
    "system.num_minibatches=2",
    "system.total_timesteps=512",
    "network.actor_network.pre_torso.layer_sizes=[16,16]",
    "network.critic_network.pre_torso.layer_sizes=[16,16]",
    "env/scenario=p-short",
    "env.scenario.task_config.time_limit=24",
    "logger.use_console=false",
)
"""512 steps in 4 evaluations of 2 updates; an episode's end falls inside a rollout."""


@functools.cache
def _compose(algorithm: str, overrides: tuple[str, ...]) -> dict[str, Any]:
    return compose(algorithm, overrides)


@pytest.fixture(scope="session")
def tiny_mapping() -> Callable[..., dict[str, Any]]:
    """`tiny_mapping("ff_ippo", "system.gamma=0.9")` is a composed config of a tiny experiment; other overrides win."""

    def make(algorithm: str, *overrides: str, tiny: tuple[str, ...] = TINY) -> dict[str, Any]:
        asked = {override.split("=")[0] for override in overrides}
        kept = tuple(override for override in tiny if override.split("=")[0] not in asked)
        return copy.deepcopy(_compose(algorithm, (*kept, *overrides)))

    return make


@pytest.fixture(scope="session")
def tiny_overrides() -> tuple[str, ...]:
    """The overrides that make an experiment tiny, for a command line."""
    return TINY


@pytest.fixture(scope="session")
def tiny_config(tiny_mapping: Callable[..., dict[str, Any]]) -> Callable[..., ExperimentConfig]:
    """`tiny_config("ff_ippo", "system.gamma=0.9")` is a tiny experiment's checked config."""
    return lambda *arguments, **options: parse_config(tiny_mapping(*arguments, **options))


@pytest.fixture(scope="session")
def begin(tiny_config: Callable[..., ExperimentConfig]) -> Callable[..., Any]:
    """`begin("ff_ippo", ...)`: `config`, `program`, `system`, `hyper` and a fresh `state` of a tiny experiment.

    The state is the caller's own: `Program.update` donates it.
    """

    def make(*arguments: str, seed: int = 0) -> SimpleNamespace:
        config = tiny_config(*arguments)
        program: Program = get_program(config)
        hyper = program.put(make_hyper(config, make_budget(config)))
        state = program.init(hyper, jax.random.PRNGKey(seed))
        return SimpleNamespace(config=config, program=program, system=program.system, hyper=hyper, state=state)

    return make


@pytest.fixture(scope="session")
def make_folder() -> Callable[..., Path]:
    """`make_folder(path, mapping)` makes a trial's folder; every folder of one config holds the same trial id."""

    def make(path: Path, mapping: dict[str, Any], metric: str = "episode_return") -> Path:
        config = parse_config(mapping)
        record = records.TrialRecord(
            trial_id=records.trial_id("core", mapping, config.system.seed),
            algorithm=config.logger.system_name,
            environment=config.env.env_name,
            scenario=config.env.scenario.task_name,
            seed=config.system.seed,
            objective=records.Objective(metric, "max"),
        )
        records.create_trial_folder(path, mapping, record)
        return path

    return make


@pytest.fixture
def open_experiment() -> Iterator[Callable[[Path], Experiment]]:
    """`open_experiment(folder)` takes up a trial's folder; closed at the end of the test if it was left open."""
    opened: list[Experiment] = []

    def take_up(folder: Path) -> Experiment:
        opened.append(Experiment(parse_config(records.read_config(folder)), folder))
        return opened[-1]

    yield take_up
    for experiment in opened:
        experiment.close()
