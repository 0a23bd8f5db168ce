"""One experiment's configuration, as frozen, typed dataclasses.

Defaults live only in `mava_configs/`; every key here must be given.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from jax_party.config.networks import NetworkConfig
from jax_party.config.systems import SystemConfig
from jax_party.config.types import FROZEN, PositiveInt, Scalar
from jax_party.env.settings import GameSettings
from jax_party.errors import ConfigError
from jax_party.setting_kinds import Host


@dataclass(frozen=True, config=FROZEN)
class ArchConfig:
    """The layout of the experiment: environments, evaluations, devices."""

    architecture_name: Literal["anakin"]
    num_envs: PositiveInt
    stagger_episodes: bool
    num_evaluation: Host[PositiveInt]
    num_eval_episodes: PositiveInt
    num_absolute_metric_eval_episodes: Host[PositiveInt]
    absolute_metric: Host[bool]
    evaluation_greedy: bool
    num_devices: PositiveInt
    num_seeds: Host[PositiveInt]
    batch: Host[Literal["auto", "map", "vmap"]]
    gradient_chunk_size: Literal["auto"] | PositiveInt | None


@dataclass(frozen=True, config=FROZEN)
class GameScenario:
    """A scenario of JaxParty: its task config is the game's settings."""

    name: Literal["JaxParty-v0"]
    task_name: str
    task_config: GameSettings
    env_kwargs: dict[str, Scalar]


@dataclass(frozen=True, config=FROZEN)
class JumanjiScenario:
    """A scenario of another Jumanji environment: its task config goes to the environment's generator."""

    name: Literal["LevelBasedForaging-v0", "RobotWarehouse-v0", "Connector-v3"]
    task_name: str
    task_config: dict[str, Scalar]
    env_kwargs: dict[str, Scalar]


@dataclass(frozen=True, config=FROZEN)
class EnvConfig:
    """The environment and its scenario."""

    env_name: Host[str]
    scenario: Annotated[GameScenario | JumanjiScenario, Field(discriminator="name")]
    eval_metric: Host[str]
    eval_at: Host[Literal["final", "last", "last-5-avg", "last-10-avg", "avg", "best"]]
    implicit_agent_id: bool
    use_individual_rewards: bool
    shared_reward: bool
    kwargs: dict[str, Scalar]


@dataclass(frozen=True, config=FROZEN)
class SaveArgs:
    """When checkpoints are saved and how many are kept."""

    save_interval_steps: PositiveInt
    max_to_keep: Annotated[int, Field(ge=1)]


@dataclass(frozen=True, config=FROZEN)
class CheckpointingConfig:
    """Checkpoints: `save_interval_steps` counts evaluation periods."""

    save_model: bool
    save_args: SaveArgs


@dataclass(frozen=True, config=FROZEN)
class LoggerConfig:
    """Where an experiment's folder is made and what it prints."""

    base_exp_path: str
    system_name: str
    run_name: str | None
    use_console: bool
    use_json: bool
    checkpointing: CheckpointingConfig


@dataclass(frozen=True, config=FROZEN)
class VaultConfig:
    """Which trajectories are kept: training rollouts, test episodes, both or none."""

    record_train: bool
    record_test: bool
    every: Host[PositiveInt]
    max_transitions: Host[PositiveInt | None]


@dataclass(frozen=True, config=FROZEN)
class ExperimentConfig:
    """Everything that one experiment depends on."""

    arch: ArchConfig
    system: Annotated[SystemConfig, Field(discriminator="name")]
    network: Annotated[NetworkConfig, Field(discriminator="name")]
    env: EnvConfig
    logger: Host[LoggerConfig]
    vault: VaultConfig


GAME_METRICS = (
    "cooperation_rate",
    "outcome_share_cc",
    "outcome_share_cd",
    "outcome_share_dd",
    "welfare_per_step",
    "equality",
    "leader_change_rate",
)


def evaluation_metrics(config: ExperimentConfig) -> list[str]:
    """Return the metrics that an evaluation of this experiment gives, without building anything."""
    return evaluation_metrics_of(config.env.scenario)


def evaluation_metrics_of(scenario: GameScenario | JumanjiScenario) -> list[str]:
    """Return the metrics that an evaluation in this scenario gives."""
    if isinstance(scenario, GameScenario):
        agents = scenario.task_config.num_agents
        game = [*GAME_METRICS, *(f"leader_share_agent_{agent}" for agent in range(agents))]
    else:
        agents, game = int(scenario.task_config["num_agents"] or 0), []
    returns = [f"episode_return_agent_{agent}" for agent in range(agents)]
    return ["episode_return", "episode_length", *returns, *game]


def check_metric(known: Sequence[str], metric: str, place: str) -> None:
    """Refuse a metric that evaluations do not give.

    Raises:
      ConfigError: with the metrics that they do give; the message begins with `place`.
    """
    if metric not in known:
        close = difflib.get_close_matches(metric, known, n=1)
        hint = f"did you mean {close[0]}? " if close else ""
        raise ConfigError(f"{place}: {metric}: no such metric; {hint}choose one of {', '.join(known)}")
