"""The setting that the issue names, and how a measured process comes to its programs. Imports JAX where it must."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from jax_party.config import ExperimentConfig, parse_config
from jax_party.trial.folder import create_trial_folder
from jax_party.trial.identity import new_trial_id
from jax_party.trial.record import TrialRecord
from mava_configs import compose

SYSTEMS: Final = ("ff_ippo", "ff_mappo")
STANDARD: Final = (
    "arch.num_envs=32",
    "system.rollout_length=128",
    "system.ppo_epochs=4",
    "system.num_minibatches=2",
    "system.update_batch_size=1",
    "network.actor_network.pre_torso.layer_sizes=[128,128]",
    "network.critic_network.pre_torso.layer_sizes=[128,128]",
    "env/scenario=p-short",
)
"""Of `SYSTEMS`."""
STEPS_PER_UPDATE: Final = 32 * 128


def chunk_override(chunk: str) -> str:
    """The override for a gradient chunk size as it is written on the command line: a number, `auto` or `whole`."""
    return f"arch.gradient_chunk_size={'null' if chunk == 'whole' else chunk}"


def standard(system: str) -> tuple[str, ...]:
    """The standard setting of a system: all but `SYSTEMS` have rollouts, replay and networks of their default sizes."""
    return STANDARD if system in SYSTEMS else ("arch.num_envs=32", "env/scenario=p-short")


def make_config(system: str, *overrides: str) -> ExperimentConfig:
    """The standard setting of a system, checked."""
    return parse_config(compose(system, [*standard(system), *overrides]))


class Learner:
    """A program with a state of its own, to be advanced update by update."""

    def __init__(self, config: ExperimentConfig) -> None:
        import jax

        from jax_party.config import make_budget
        from jax_party.training.program import Program, make_hyper

        self.program = Program(config)
        self.config = config
        self.hyper = self.program.put(make_hyper(config, make_budget(config)))
        self.state = self.program.init(self.hyper, jax.random.PRNGKey(0))
        self.advance(1)

    def advance(self, updates: int) -> float:
        """Do so many updates; returns the seconds that they took."""
        import jax

        start = time.perf_counter()
        for _ in range(updates):
            self.state, _ = self.program.update(self.hyper, self.state)
        jax.block_until_ready(self.state)
        return time.perf_counter() - start


def make_trial(folder: Path, system: str, overrides: tuple[str, ...], seed: int = 0) -> ExperimentConfig:
    """Make a trial's folder at the standard setting; returns its config."""
    mapping = compose(system, [*standard(system), f"system.seed={seed}", *overrides])
    make_folder(folder, system, mapping)
    return parse_config(mapping)


def make_folder(folder: Path, system: str, mapping: Mapping[str, Any]) -> Path:
    """Make the folder of a trial with a composed config."""
    config = parse_config(mapping)
    seed = config.system.seed
    record = TrialRecord(
        trial_id=new_trial_id("bench", mapping, seed),
        algorithm=system,
        environment=config.env.env_name,
        scenario=config.env.scenario.task_name,
        seed=seed,
    )
    create_trial_folder(folder, mapping, record)
    return folder
