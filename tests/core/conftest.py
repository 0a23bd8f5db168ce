"""Fixtures of the core's tests: tiny experiments that compile in a few seconds, and their folders."""

# ruff: noqa: E402  (JAX reads the environment when it is imported)

from __future__ import annotations

from jax_party.runtime import prepare_process

prepare_process()

import copy
import functools
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import pytest

# `probes` lies beside this file, under every import mode of pytest.
sys.path.insert(0, str(Path(__file__).parent))

from jax_party.config import ExperimentConfig, make_budget, parse_config
from jax_party.judging.objectives import Objective
from jax_party.training.experiment import Experiment
from jax_party.training.program import Program, get_program, make_hyper
from jax_party.trial.folder import create_trial_folder, read_config
from jax_party.trial.identity import new_trial_id
from jax_party.trial.record import TrialRecord
from mava_configs import compose

_ON_POLICY = ("system.ppo_epochs=2", "system.num_minibatches=2", "system.rollout_length=16")
_OFF_POLICY = ("system.epochs=2", "system.buffer_size=256", "system.rollout_length=16")
_Q_LEARNING = (*_OFF_POLICY, "system.min_buffer_size=64", "system.sample_batch_size=8", "system.update_period=2")
_Q_SEQUENCES = (*_Q_LEARNING, "system.sample_sequence_length=8", "system.burn_in_length=2")


def _torsos(*networks: str, parts: tuple[str, ...] = ("pre_torso",), sizes: str = "[16,16]") -> tuple[str, ...]:
    return tuple(f"network.{network}.{part}.layer_sizes={sizes}" for network in networks for part in parts)


_RECURRENT = {"parts": ("pre_torso", "post_torso"), "sizes": "[16]"}
_HIDDEN = "network.hidden_state_dim=16"
_SMALL_NET = tuple(f"network.net_config.{setting}" for setting in ("embed_dim=16", "n_head=2", "n_block=1"))
_PPO = (*_ON_POLICY, *_torsos("actor_network", "critic_network"))
_REC_PPO = (*_ON_POLICY, _HIDDEN, *_torsos("actor_network", "critic_network", **_RECURRENT))
_REC_Q = (*_Q_SEQUENCES, _HIDDEN, *_torsos("q_network", **_RECURRENT))
_SAC = (*_OFF_POLICY, "system.batch_size=16", "system.explore_steps=64", *_torsos("actor_network", "q_network"))

TINY = (
    "arch.num_envs=4",
    "arch.num_eval_episodes=4",
    "arch.num_absolute_metric_eval_episodes=6",
    "arch.num_evaluation=4",
    "arch.gradient_chunk_size=null",
    "arch.stagger_episodes=false",
    "system.total_timesteps=512",
    "env/scenario=p-short",
    "env.scenario.task_config.time_limit=24",
    "logger.use_console=false",
)
"""512 steps in 4 evaluations of 2 updates; an episode's end falls inside a rollout.

Staggered starts compile two seconds longer; the conformance suite has them in every system."""

TINY_SYSTEMS: dict[str, tuple[str, ...]] = {
    "ff_ippo": _PPO,
    "ff_mappo": _PPO,
    "rec_ippo": (*_REC_PPO, "system.recurrent_chunk_size=8"),
    "rec_mappo": _REC_PPO,
    "ff_sable": (*_ON_POLICY, *_SMALL_NET),
    "rec_sable": (*_ON_POLICY, *_SMALL_NET, "network.memory_config.timestep_chunk_size=8"),
    "mat": (*_ON_POLICY, *_SMALL_NET),
    "ff_iql": (*_Q_LEARNING, *_torsos("q_network")),
    "rec_iql": _REC_Q,
    "rec_qmix": (*_REC_Q, "network.mixer_network.embed_dim=8", "network.mixer_network.hyper_hidden_dim=8"),
    "ff_isac": _SAC,
    "ff_masac": _SAC,
    "ff_hasac": _SAC,
}  # fmt: skip
"""What makes each system small, besides."""


@functools.cache
def _compose(algorithm: str, overrides: tuple[str, ...]) -> dict[str, Any]:
    return compose(algorithm, overrides)


@pytest.fixture(scope="session")
def tiny_mapping() -> Callable[..., dict[str, Any]]:
    """`tiny_mapping("ff_ippo", "system.gamma=0.9")` is a composed config of a tiny experiment; other overrides win."""

    def make(algorithm: str, *overrides: str, tiny: tuple[str, ...] | None = None) -> dict[str, Any]:
        asked = {override.split("=")[0] for override in overrides}
        usual = (*TINY, *TINY_SYSTEMS[algorithm]) if tiny is None else tiny
        kept = tuple(override for override in usual if override.split("=")[0] not in asked)
        return copy.deepcopy(_compose(algorithm, (*kept, *overrides)))

    return make


@pytest.fixture(scope="session")
def tiny_overrides() -> Callable[[str], tuple[str, ...]]:
    """`tiny_overrides("ff_ippo")`: what makes an experiment tiny, for a command line."""
    return lambda algorithm: (*TINY, *TINY_SYSTEMS[algorithm])


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
        record = TrialRecord(
            trial_id=new_trial_id("core", mapping, config.system.seed),
            algorithm=config.logger.system_name,
            environment=config.env.env_name,
            scenario=config.env.scenario.task_name,
            seed=config.system.seed,
            objective=Objective(metric, "max"),
        )
        create_trial_folder(path, mapping, record)
        return path

    return make


@pytest.fixture
def open_experiment() -> Iterator[Callable[[Path], Experiment]]:
    """`open_experiment(folder)` takes up a trial's folder; closed at the end of the test if it was left open."""
    opened: list[Experiment] = []

    def take_up(folder: Path) -> Experiment:
        opened.append(Experiment(parse_config(read_config(folder)), folder))
        return opened[-1]

    yield take_up
    for experiment in opened:
        experiment.close()
