"""The part of a Mava config that this project reads, checked; the rest is left to Mava."""

from __future__ import annotations

import copy
import functools
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from jax_party.config import (
    Budget,
    GameScenario,
    VaultConfig,
    check_metric,
    evaluation_metrics_of,
    explain,
    whole_budget,
)
from jax_party.config.types import NonNegative, NonNegativeInt, Positive, PositiveInt, Rate, Scalar
from jax_party.errors import ConfigError

OPEN = ConfigDict(extra="ignore", allow_inf_nan=False)
"""Mava's configs have keys that this project does not read."""

GAME = "JaxParty"

OWN_CHECKPOINTS = "mava_checkpoints"
"""The folder in a trial's folder for Mava's own checkpoints, if requested: `<system>/<uid>-<seed>/<step>` in it."""

TRAINS_BY_PPO = ("ff_ippo", "ff_mappo", "rec_ippo", "rec_mappo", "ff_sable", "rec_sable", "mat")
DIVIDES_ENVIRONMENTS = ("ff_ippo", "ff_mappo", "mat")
"""Systems for which Mava requires that the number of minibatches divides the number of environments."""


@dataclass(frozen=True, config=OPEN)
class ArchPart:
    """The layout of the experiment."""

    num_envs: PositiveInt
    num_evaluation: PositiveInt
    num_eval_episodes: PositiveInt
    num_absolute_metric_eval_episodes: PositiveInt
    absolute_metric: bool
    evaluation_greedy: bool
    num_devices: Literal[1]
    num_seeds: PositiveInt
    batch: Literal["auto", "map"]
    architecture_name: Literal["anakin"] = "anakin"


@dataclass(frozen=True, config=OPEN)
class SystemPart:
    """The budget, and the numbers that Mava's systems would accept whatever their values."""

    total_timesteps: PositiveInt | None
    num_updates: PositiveInt | None
    seed: NonNegativeInt
    add_agent_id: bool
    update_batch_size: PositiveInt
    rollout_length: PositiveInt
    gamma: Rate
    max_grad_norm: Positive
    actor_lr: Positive | None = None
    critic_lr: Positive | None = None
    q_lr: Positive | None = None
    gae_lambda: Rate | None = None
    clip_eps: Positive | None = None
    ent_coef: NonNegative | None = None
    vf_coef: NonNegative | None = None
    tau: Rate | None = None
    eps_min: Rate | None = None
    eps_decay: Positive | None = None
    ppo_epochs: PositiveInt | None = None
    num_minibatches: PositiveInt | None = None
    recurrent_chunk_size: PositiveInt | None = None
    epochs: PositiveInt | None = None
    buffer_size: PositiveInt | None = None
    min_buffer_size: PositiveInt | None = None
    sample_batch_size: PositiveInt | None = None
    sample_sequence_length: PositiveInt | None = None


@dataclass(frozen=True, config=OPEN)
class EnvPart:
    """The game."""

    env_name: str
    scenario: GameScenario
    eval_metric: str
    implicit_agent_id: bool
    use_individual_rewards: bool
    shared_reward: bool
    kwargs: dict[str, Scalar]
    eval_at: Literal["final", "last", "last-5-avg", "last-10-avg", "avg", "best"] = "final"


@dataclass(frozen=True, config=OPEN)
class SaveArgsPart:
    """The arguments of Mava's own checkpointer."""

    checkpoint_uid: str | None
    rel_dir: None = None


@dataclass(frozen=True, config=OPEN)
class CheckpointingPart:
    """Mava's own checkpoints, in addition to those that a trial is resumed from."""

    save_model: bool
    save_args: SaveArgsPart
    load_model: Literal[False]


@dataclass(frozen=True, config=OPEN)
class LoggerPart:
    """Where a single run's folder is made and what it prints. Mava's own loggers stay off."""

    base_exp_path: str
    run_name: str | None
    use_console: bool
    system_name: str
    use_tb: Literal[False]
    use_json: Literal[False]
    use_neptune: Literal[False]
    checkpointing: CheckpointingPart


@dataclass(frozen=True, config=OPEN)
class _Parts:
    engine: Literal["mava"]
    arch: ArchPart
    system: SystemPart
    env: EnvPart
    logger: LoggerPart
    vault: VaultConfig


@dataclass(frozen=True, config=ConfigDict(arbitrary_types_allowed=True))
class MavaConfig:
    """A composed config of one of Mava's systems.

    Attributes:
      algorithm: the system's name.
      mapping: the whole config, as composed.
    """

    algorithm: str
    mapping: dict[str, Any]
    arch: ArchPart
    system: SystemPart
    env: EnvPart
    logger: LoggerPart
    vault: VaultConfig

    @functools.cached_property
    def budget(self) -> Budget:
        """The step budget, in whole updates of Mava."""
        system = self.system
        per_update = self.arch.num_envs * system.update_batch_size * system.rollout_length
        return whole_budget(per_update, system.total_timesteps, system.num_updates, self.arch.num_evaluation)

    def for_mava(self, seed: int, folder: Path) -> dict[str, Any]:
        """Return the config that one of Mava's experiments is run with: this one with the budget in whole updates.

        Mava's loggers are off: their contents are in the trial's folder in our formats. Mava's own checkpoints, if
        requested, go into the trial's folder, where a resumed trial finds them again.
        """
        mapping = copy.deepcopy(self.mapping)
        mapping["system"] |= {"seed": seed, "total_timesteps": None, "num_updates": self.budget.num_updates}
        mapping["arch"]["num_evaluation"] = self.budget.num_evaluations
        mapping["logger"]["use_console"] = False
        save_args = mapping["logger"]["checkpointing"]["save_args"]
        save_args["rel_dir"] = str(folder.absolute() / OWN_CHECKPOINTS)
        save_args["checkpoint_uid"] = f"{save_args['checkpoint_uid'] or 'seed'}-{seed}"
        return mapping


def parse_mava_config(mapping: Mapping[str, Any]) -> MavaConfig:
    """Check the part of a composed config that this project reads, and what Mava would refuse with an assertion.

    Raises:
      ConfigError: with one line per invalid key, by its full name.
    """
    named = (mapping.get("env") or {}).get("env_name")
    if named != GAME:
        raise ConfigError(
            f"env.env_name: {named!r}: ENGINE=mava plays {GAME} here; leave env out, or use Mava's own command line "
            "for its environments"
        )
    try:
        parts = _ADAPTER.validate_python(dict(mapping))
    except ValidationError as error:
        raise ConfigError(_with_reasons(explain(error))) from None
    config = MavaConfig(
        parts.logger.system_name, dict(mapping), parts.arch, parts.system, parts.env, parts.logger, parts.vault
    )
    check_metric(evaluation_metrics_of(config.env.scenario), config.env.eval_metric, "env.eval_metric")
    problems = list(_problems(config))
    if problems:
        raise ConfigError("\n".join(problems))
    return config


_ADAPTER: TypeAdapter[_Parts] = TypeAdapter(_Parts)

_REASONS: Mapping[str, str] = {
    "arch.num_devices": "ENGINE=mava plays each trial on one device",
    "arch.batch": "ENGINE=mava plays the seeds of a trial one after another",
    "logger.use_json": "marl-eval's file is always written, metrics/metrics.json in the trial's folder",
    "logger.use_tb": "metrics are written in this project's formats; leave Mava's loggers off",
    "logger.checkpointing.load_model": "trials begin with new networks; leave it out",
    "logger.checkpointing.save_args.rel_dir": f"Mava's own checkpoints are in the trial's folder, in {OWN_CHECKPOINTS}",
    "logger.use_neptune": "metrics are written in this project's formats; leave Mava's loggers off",
}


def _with_reasons(lines: str) -> str:
    """Return Pydantic's lines with the reason why a key can have only one value here."""
    told = []
    for line in lines.splitlines():
        reason = _REASONS.get(line.partition(":")[0])
        told.append(f"{line} ({reason})" if reason else line)
    return "\n".join(told)


def _problems(config: MavaConfig) -> Iterator[str]:
    """Yield the combinations of individually valid values that Mava's systems do not allow."""
    system, arch = config.system, config.arch
    if system.total_timesteps is None and system.num_updates is None:
        yield "system.total_timesteps: null, and so is system.num_updates; set one of them"
        return
    if config.algorithm in TRAINS_BY_PPO:
        yield from _of_ppo(config)
    for key in ("sample_sequence_length", "min_buffer_size"):
        value = getattr(system, key)
        if value is not None and system.buffer_size is not None and value > system.buffer_size:
            yield f"system.{key}: {value} is more than system.buffer_size = {system.buffer_size}; choose a smaller one"
    if system.num_minibatches and arch.num_envs * system.rollout_length % system.num_minibatches:
        yield (
            f"system.num_minibatches: {system.num_minibatches} does not divide arch.num_envs * system.rollout_length = "
            f"{arch.num_envs * system.rollout_length}; choose a divisor"
        )


def _of_ppo(config: MavaConfig) -> Iterator[str]:
    system, arch, budget = config.system, config.arch, config.budget
    if budget.updates_per_evaluation < 2:
        least = 2 * budget.num_evaluations * budget.steps_per_update
        yield (
            f"arch.num_evaluation: {arch.num_evaluation} evaluations of {budget.num_updates} updates: "
            f"Mava's {config.algorithm} wants more than one update ({budget.steps_per_update:,} steps) to an "
            f"evaluation; take fewer (EVALUATIONS), or at least {least:,} steps (TIMESTEPS)"
        )
    chunk = system.recurrent_chunk_size
    if chunk and system.rollout_length % chunk:
        yield (
            f"system.recurrent_chunk_size: {chunk} does not divide system.rollout_length = {system.rollout_length}; "
            "choose a divisor"
        )
    minibatches = system.num_minibatches
    if minibatches and arch.num_envs % minibatches and (config.algorithm in DIVIDES_ENVIRONMENTS or chunk):
        yield f"system.num_minibatches: {minibatches} does not divide arch.num_envs = {arch.num_envs}; choose a divisor"
    yield from _of_sable(config)


def _of_sable(config: MavaConfig) -> Iterator[str]:
    memory = (config.mapping.get("network") or {}).get("memory_config") or {}
    agents = config.env.scenario.task_config.num_agents
    for key, whole, what in (
        ("agents_chunk_size", agents, "num_agents"),
        ("timestep_chunk_size", config.system.rollout_length, "system.rollout_length"),
    ):
        size = memory.get(key)
        if isinstance(size, int) and size and whole % size:
            yield f"network.memory_config.{key}: {size} does not divide {what} = {whole}; choose a divisor"
