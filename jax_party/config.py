"""One experiment's configuration: frozen, typed, and split into its static, traced and host parts.

Defaults live in `mava_configs/` alone; every key here must be given. `parse_config` is the one way in.
"""

from __future__ import annotations

import copy
import dataclasses
import difflib
import hashlib
import json
import math
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal, get_type_hints

from pydantic import BeforeValidator, ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass
from pydantic_core import ErrorDetails, PydanticCustomError

from jax_party.env.settings import GameSettings
from jax_party.errors import ConfigError
from jax_party.markers import HOST, TRACED, Host, Marker

_FROZEN = ConfigDict(extra="forbid", allow_inf_nan=False)


def _number(value: object) -> object:
    """Refuse what pydantic would turn into a number: texts and booleans."""
    if isinstance(value, (str, bool)):
        raise PydanticCustomError("number_type", "Input should be a number")
    return value


PositiveInt = Annotated[int, Field(ge=1), BeforeValidator(_number)]
Rate = Annotated[float, Field(ge=0.0, le=1.0), BeforeValidator(_number)]
NonNegative = Annotated[float, Field(ge=0.0), BeforeValidator(_number)]
Positive = Annotated[float, Field(gt=0.0), BeforeValidator(_number)]

PPO_SYSTEMS = ("ff_ippo", "ff_mappo")


@dataclass(frozen=True, config=_FROZEN)
class ArchConfig:
    """How the experiment is laid out: environments, evaluations, devices."""

    architecture_name: Literal["anakin"]
    num_envs: PositiveInt
    num_evaluation: Host[PositiveInt]
    num_eval_episodes: PositiveInt
    num_absolute_metric_eval_episodes: Host[PositiveInt]
    absolute_metric: Host[bool]
    evaluation_greedy: bool
    num_devices: PositiveInt
    gradient_chunk_size: Literal["auto"] | PositiveInt | None


@dataclass(frozen=True, config=_FROZEN)
class PPOConfig:
    """`ff_ippo` and `ff_mappo`, in Mava's key names."""

    name: Literal["ff_ippo", "ff_mappo"]
    seed: Host[Annotated[int, Field(ge=0)]]
    total_timesteps: Host[PositiveInt | None]
    num_updates: Host[PositiveInt | None]
    add_agent_id: bool
    update_batch_size: PositiveInt
    rollout_length: PositiveInt
    ppo_epochs: PositiveInt
    num_minibatches: PositiveInt
    decay_learning_rates: bool
    actor_lr: Annotated[Positive, TRACED]
    critic_lr: Annotated[Positive, TRACED]
    gamma: Annotated[Rate, TRACED]
    gae_lambda: Annotated[Rate, TRACED]
    clip_eps: Annotated[Positive, TRACED]
    ent_coef: Annotated[NonNegative, TRACED]
    vf_coef: Annotated[NonNegative, TRACED]
    max_grad_norm: Annotated[Positive, TRACED]


@dataclass(frozen=True, config=_FROZEN)
class TorsoConfig:
    """A multi-layer perceptron."""

    layer_sizes: tuple[PositiveInt, ...]
    use_layer_norm: bool
    activation: Literal["relu", "tanh", "gelu", "silu"]


@dataclass(frozen=True, config=_FROZEN)
class HeadNetworkConfig:
    """One network: its torso; the head follows from its use."""

    pre_torso: TorsoConfig


@dataclass(frozen=True, config=_FROZEN)
class NetworkConfig:
    """The networks of an actor-critic system."""

    actor_network: HeadNetworkConfig
    critic_network: HeadNetworkConfig


Scalar = bool | int | float | str | None


@dataclass(frozen=True, config=_FROZEN)
class GameScenario:
    """A scenario of JaxParty: its task config is the game's settings."""

    name: Literal["JaxParty-v0"]
    task_name: str
    task_config: GameSettings
    env_kwargs: dict[str, Scalar]


@dataclass(frozen=True, config=_FROZEN)
class JumanjiScenario:
    """A scenario of another Jumanji environment: its task config goes to the environment's generator."""

    name: Literal["LevelBasedForaging-v0", "RobotWarehouse-v0", "Connector-v3"]
    task_name: str
    task_config: dict[str, Scalar]
    env_kwargs: dict[str, Scalar]


@dataclass(frozen=True, config=_FROZEN)
class EnvConfig:
    """The environment and the scenario of it."""

    env_name: Host[str]
    scenario: Annotated[GameScenario | JumanjiScenario, Field(discriminator="name")]
    eval_metric: Host[str]
    implicit_agent_id: bool
    use_individual_rewards: bool
    shared_reward: bool
    kwargs: dict[str, Scalar]


@dataclass(frozen=True, config=_FROZEN)
class SaveArgs:
    """When checkpoints are saved and how many are kept."""

    save_interval_steps: PositiveInt
    max_to_keep: Annotated[int, Field(ge=1)]


@dataclass(frozen=True, config=_FROZEN)
class CheckpointingConfig:
    """Checkpoints: `save_interval_steps` counts evaluation periods."""

    save_model: bool
    save_args: SaveArgs


@dataclass(frozen=True, config=_FROZEN)
class LoggerConfig:
    """Where an experiment's folder is made and what it prints."""

    base_exp_path: str
    system_name: str
    run_name: str | None
    use_console: bool
    use_json: bool
    checkpointing: CheckpointingConfig


@dataclass(frozen=True, config=_FROZEN)
class VaultConfig:
    """What trajectories are kept: training rollouts, test episodes, both or none."""

    record_train: bool
    record_test: bool
    every: Host[PositiveInt]
    max_transitions: Host[PositiveInt | None]


@dataclass(frozen=True, config=_FROZEN)
class ExperimentConfig:
    """Everything that one experiment depends on."""

    arch: ArchConfig
    system: PPOConfig
    network: NetworkConfig
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
    """The metrics that an evaluation of this experiment gives, known without building anything."""
    scenario = config.env.scenario
    if isinstance(scenario, GameScenario):
        agents = scenario.task_config.num_agents
        game = [*GAME_METRICS, *(f"leader_share_agent_{agent}" for agent in range(agents))]
    else:
        agents, game = int(scenario.task_config["num_agents"] or 0), []
    returns = [f"episode_return_agent_{agent}" for agent in range(agents)]
    return ["episode_return", "episode_length", *returns, *game]


def check_metric(config: ExperimentConfig, metric: str, place: str) -> None:
    """Refuse a metric that evaluations do not give.

    Raises:
      ConfigError: with those that they do; the message begins with `place`.
    """
    known = evaluation_metrics(config)
    if metric not in known:
        close = difflib.get_close_matches(metric, known, n=1)
        hint = f"did you mean {close[0]}? " if close else ""
        raise ConfigError(f"{place}: {metric}: no such metric; {hint}choose one of {', '.join(known)}")


@dataclasses.dataclass(frozen=True)
class Budget:
    """The step budget in whole update periods.

    Attributes:
      steps_per_update: environment steps of one update (all environments together).
      updates_per_evaluation: updates in each evaluation period.
      num_evaluations: evaluation periods.
      requested_steps: what the config asked for.
    """

    steps_per_update: int
    updates_per_evaluation: int
    num_evaluations: int
    requested_steps: int

    @property
    def num_updates(self) -> int:
        """Updates in the whole budget."""
        return self.updates_per_evaluation * self.num_evaluations

    @property
    def total_steps(self) -> int:
        """Environment steps in the whole budget, at least what was asked for."""
        return self.num_updates * self.steps_per_update

    @property
    def steps_per_evaluation(self) -> int:
        """Environment steps of one evaluation period."""
        return self.updates_per_evaluation * self.steps_per_update

    def note(self, asked_evaluations: int) -> str | None:
        """What differs from what was asked for, or None."""
        if self.total_steps == self.requested_steps and self.num_evaluations == asked_evaluations:
            return None
        return (
            f"budget of {self.requested_steps:,} steps in {asked_evaluations} evaluations becomes "
            f"{self.total_steps:,} steps in {self.num_evaluations}: whole updates of {self.steps_per_update:,} steps"
        )


def make_budget(config: ExperimentConfig) -> Budget:
    """Round the step budget up to whole evaluation periods of whole updates.

    Periods are of equal length, at least an update each; there are fewer than `arch.num_evaluation` where that many
    would overshoot the budget by a whole period or more.
    """
    system, arch = config.system, config.arch
    per_update = arch.num_envs * system.update_batch_size * system.rollout_length
    requested = system.total_timesteps
    if requested is None:
        assert system.num_updates is not None
        requested = system.num_updates * per_update
    updates = math.ceil(requested / per_update)
    per_evaluation = math.ceil(updates / min(arch.num_evaluation, updates))
    return Budget(per_update, per_evaluation, math.ceil(updates / per_evaluation), requested)


def parse_config(mapping: Mapping[str, Any]) -> ExperimentConfig:
    """Turn a composed config into frozen dataclasses.

    Raises:
      ConfigError: on the first key that is unknown, missing, ill-typed or impossible, by its full name; the message
        holds a line for each.
    """
    try:
        config: ExperimentConfig = _ADAPTER.validate_python(dict(mapping))
    except ValidationError as error:
        raise ConfigError("\n".join(_explain_all(error.errors()))) from None
    _check_together(config)
    return config


def _check_together(config: ExperimentConfig) -> None:
    system, arch = config.system, config.arch
    check_metric(config, config.env.eval_metric, "env.eval_metric")
    if system.total_timesteps is None and system.num_updates is None:
        raise ConfigError("system.total_timesteps: null, and so is system.num_updates; set one of them")
    batch = arch.num_envs * system.rollout_length
    if batch % system.num_minibatches:
        raise ConfigError(
            f"system.num_minibatches: {system.num_minibatches} does not divide arch.num_envs × system.rollout_length = "
            f"{batch}; choose a divisor"
        )
    if arch.num_envs % arch.num_devices:
        raise ConfigError(
            f"arch.num_devices: {arch.num_devices} does not divide arch.num_envs = {arch.num_envs}; choose a divisor"
        )
    if arch.num_eval_episodes % arch.num_devices:
        raise ConfigError(
            f"arch.num_devices: {arch.num_devices} does not divide arch.num_eval_episodes = {arch.num_eval_episodes}; "
            "choose a divisor"
        )


def _explain_all(details: list[ErrorDetails]) -> list[str]:
    """A line for each key; where a value could be of several types and is none, the first reason and the others."""
    lines: dict[str, str] = {}
    for detail in details:
        line = _explain(detail)
        place, _, reason = line.partition(" is not valid: ")
        known = lines.get(place)
        lines[place] = line if known is None else f"{known}, or {reason.removeprefix('input should be ')}"
    return list(lines.values())


def _explain(detail: ErrorDetails) -> str:
    """One line for one validation error: full key, what is wrong, what to do."""
    path = [str(part) for part in detail["loc"] if not _is_union_tag(part)]
    key, value = ".".join(path), detail.get("input")
    if detail["type"] in ("unexpected_keyword_argument", "extra_forbidden"):
        close = difflib.get_close_matches(path[-1], known_keys(path[:-1]), n=1)
        return f"{key}: unknown" + (f"; did you mean {close[0]}?" if close else "; remove it")
    if detail["type"] in ("missing", "missing_argument"):
        return f"{key}: missing; set it (defaults are in mava_configs/)"
    reason = detail["msg"].removeprefix("Value error, ")
    if detail["type"] == "value_error" and "." not in reason.split(" ")[0]:
        return f"{key}: {reason}"
    return f"{key}: {value!r} is not valid: {reason[0].lower()}{reason[1:]}"


_TAGS = {"JaxParty-v0", "LevelBasedForaging-v0", "RobotWarehouse-v0", "Connector-v3", "bool", "int", "float", "str"}


def _is_union_tag(part: object) -> bool:
    return isinstance(part, str) and (
        part in _TAGS or part.startswith(("constrained-", "literal[", "function-before["))
    )


def known_keys(group: list[str]) -> list[str]:
    """The keys that a group of the config has, `["system"]` for one; empty where there is no such group."""
    node: Any = ExperimentConfig
    for part in group:
        candidates = _dataclasses_in(_hints(node).get(part))
        if not candidates:
            return []
        node = candidates[0]
    return [field.name for field in dataclasses.fields(node)]


def _hints(node: type) -> dict[str, Any]:
    return get_type_hints(node, include_extras=True)


def _dataclasses_in(hint: Any) -> list[type]:
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        return [hint]
    return [found for inner in getattr(hint, "__args__", ()) for found in _dataclasses_in(inner)]


def _kind(hint: Any) -> str:
    """`static`, `traced` or `host`, by the markers in a field's type."""
    for marker in getattr(hint, "__metadata__", ()):
        if isinstance(marker, Marker):
            return marker.name
    return "static"


def _fields_with_kind(node: Any) -> Iterator[tuple[str, str, Any]]:
    hints = _hints(type(node))
    for field in dataclasses.fields(node):
        yield field.name, _kind(hints[field.name]), getattr(node, field.name)


def traced_part(node: Any) -> dict[str, Any]:
    """The numbers that travel into the compiled program, nested as in the config.

    Example: `{"system": {"actor_lr": 0.0003, …}, "env": {"scenario": {"task_config": {"rank_reward": 10.0, …}}}}`.
    """
    found: dict[str, Any] = {}
    for name, kind, value in _fields_with_kind(node):
        if kind == TRACED.name:
            found[name] = float(value)
        elif kind != HOST.name and dataclasses.is_dataclass(value):
            inner = traced_part(value)
            if inner:
                found[name] = inner
    return found


def static_part(node: Any) -> dict[str, Any]:
    """What decides shapes and program structure, nested as in the config; JSON types only."""
    found: dict[str, Any] = {}
    for name, kind, value in _fields_with_kind(node):
        if kind != "static":
            continue
        found[name] = static_part(value) if dataclasses.is_dataclass(value) else value
    return found


def without_values(node: Any) -> Any:
    """A copy in which traced numbers are 0.0 and host values None.

    A program is built from this copy, so that it cannot depend on what is not in its compile signature.
    """
    blank = copy.copy(node)
    for name, kind, value in _fields_with_kind(node):
        if kind == TRACED.name:
            object.__setattr__(blank, name, 0.0)
        elif kind == HOST.name:
            object.__setattr__(blank, name, None)
        elif dataclasses.is_dataclass(value):
            object.__setattr__(blank, name, without_values(value))
    return blank


def static_key(config: ExperimentConfig) -> str:
    """Canonical JSON of the static part: configs with equal keys share one compiled program."""
    part = static_part(config)
    part["env"]["scenario"].pop("task_name", None)
    return json.dumps(part, sort_keys=True)


def compile_signature(config: ExperimentConfig, device_kind: str, jax_version: str) -> str:
    """Hash of the static part, the device kind and the jax version: 12 hex digits."""
    text = "\n".join((static_key(config), device_kind, jax_version))
    return hashlib.sha256(text.encode()).hexdigest()[:12]


_ADAPTER: TypeAdapter[ExperimentConfig] = TypeAdapter(ExperimentConfig)
