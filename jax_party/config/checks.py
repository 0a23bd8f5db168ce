"""Checks of settings that are valid individually but not together."""

from __future__ import annotations

from collections.abc import Iterator

from jax_party.config.budget import make_budget
from jax_party.config.experiment import ExperimentConfig, check_metric, evaluation_metrics
from jax_party.config.systems import (
    OffPolicyConfig,
    OnPolicyConfig,
    QLearningConfig,
    QMIXConfig,
    RecurrentPPOConfig,
    RecurrentQLearningConfig,
    RecurrentSableConfig,
    SableConfig,
    SACConfig,
)
from jax_party.errors import ConfigError


def check_together(config: ExperimentConfig) -> None:
    """Refuse settings that contradict each other.

    Raises:
      ConfigError: with one line per contradiction, by key and value.
    """
    check_metric(evaluation_metrics(config), config.env.eval_metric, "env.eval_metric")
    problems = [*_layout(config), *_networks(config), *_system(config)]
    if problems:
        raise ConfigError("\n".join(problems))


def _layout(config: ExperimentConfig) -> Iterator[str]:
    system, arch = config.system, config.arch
    if system.total_timesteps is None and system.num_updates is None:
        yield "system.total_timesteps: null, and so is system.num_updates; set one of them"
    if arch.batch == "vmap" and arch.num_devices > 1:
        yield (
            f"arch.batch: vmap, but arch.num_devices = {arch.num_devices}: seeds spread over devices train "
            "one after another; choose map"
        )
    for key in ("num_envs", "num_eval_episodes"):
        if getattr(arch, key) % arch.num_devices:
            yield (
                f"arch.num_devices: {arch.num_devices} does not divide arch.{key} = {getattr(arch, key)}; "
                "choose a divisor"
            )
            return


def _networks(config: ExperimentConfig) -> Iterator[str]:
    system, network = config.system, config.network
    if network.name != system.networks:
        yield f"network: {network.name} is not for {system.name}; choose network={system.networks}"
    net = getattr(network, "net_config", None)
    if net is not None and net.embed_dim % net.n_head:
        yield (
            f"network.net_config.n_head: {net.n_head} does not divide network.net_config.embed_dim = {net.embed_dim}; "
            "choose a divisor"
        )


def _system(config: ExperimentConfig) -> Iterator[str]:
    if isinstance(config.system, OnPolicyConfig):
        yield from _on_policy(config)
    if isinstance(config.system, OffPolicyConfig):
        yield from _off_policy(config)


def _on_policy(config: ExperimentConfig) -> Iterator[str]:
    system = config.system
    assert isinstance(system, OnPolicyConfig)
    length = system.sequence_length or 1
    if isinstance(system, RecurrentPPOConfig) and system.rollout_length % length:
        yield (
            f"system.recurrent_chunk_size: {length} does not divide system.rollout_length = {system.rollout_length}; "
            "choose a divisor"
        )
        return
    chunk = getattr(getattr(config.network, "memory_config", None), "timestep_chunk_size", None)
    if isinstance(system, RecurrentSableConfig) and chunk is not None and system.rollout_length % chunk:
        yield (
            f"network.memory_config.timestep_chunk_size: {chunk} does not divide system.rollout_length = "
            f"{system.rollout_length}; choose a divisor"
        )
    if isinstance(system, SableConfig) and chunk is not None:
        yield (
            f"network.memory_config.timestep_chunk_size: {chunk}, but ff_sable remembers no time steps; leave it null, "
            "or use rec_sable"
        )
    samples = config.arch.num_envs * (system.rollout_length // length)
    if samples % system.num_minibatches:
        what = "arch.num_envs × system.rollout_length"
        if length > 1:
            what += f" / {length} steps to a sequence"
        yield f"system.num_minibatches: {system.num_minibatches} does not divide {what} = {samples}; choose a divisor"


def _off_policy(config: ExperimentConfig) -> Iterator[str]:
    system = config.system
    if isinstance(system, QMIXConfig) and not config.env.shared_reward and config.env.use_individual_rewards:
        yield (
            "env.shared_reward: false, but rec_qmix learns one value for the whole team; set env.shared_reward=true "
            "(or env.use_individual_rewards=false for the sum), or use rec_iql"
        )
    if isinstance(system, SACConfig):
        yield from _replay(config, "batch_size", system.batch_size, "explore_steps", system.explore_steps)
    elif isinstance(system, QLearningConfig):
        yield from _replay(
            config, "sample_batch_size", system.sample_batch_size, "min_buffer_size", system.min_buffer_size
        )
    elif isinstance(system, (RecurrentQLearningConfig, QMIXConfig)):
        yield from _sequence_replay(config)


def _replay(config: ExperimentConfig, batch_key: str, batch: int, start_key: str, start: int) -> Iterator[str]:
    system, envs = config.system, config.arch.num_envs * config.system.update_batch_size
    assert isinstance(system, OffPolicyConfig)
    size, replicas = system.buffer_size, system.update_batch_size
    length = getattr(system, "sample_sequence_length", 1)
    if size < batch * replicas * length:
        factors = f"system.{batch_key} = {batch}"
        if replicas > 1:
            factors += f" × system.update_batch_size = {replicas}"
        if length > 1:
            factors += f" × system.sample_sequence_length = {length}"
        yield (
            f"system.buffer_size: {size} is smaller than a batch of {batch * replicas * length} steps, {factors}; "
            "raise the one or lower the other"
        )
    asked = (system.total_timesteps, system.num_updates) != (None, None)
    budget = make_budget(config).total_steps if asked else start
    if budget < start <= size:
        yield (
            f"system.{start_key}: {start} is more than the whole budget of {budget} steps (system.total_timesteps); "
            "nothing would be learned; lower the former or raise the latter"
        )
    if size < start:
        yield (
            f"system.{start_key}: {start} is more than system.buffer_size = {size} can hold; learning would never "
            "begin; lower it"
        )
    if size < envs * system.rollout_length:
        yield (
            f"system.buffer_size: {size} does not hold one rollout of {envs} environments × {system.rollout_length} "
            f"steps = {envs * system.rollout_length}; raise it"
        )
    if size % envs:
        yield (
            f"system.buffer_size: {size} is not a multiple of arch.num_envs × system.update_batch_size = {envs}; "
            f"choose {max(1, size // envs) * envs}"
        )


def _sequence_replay(config: ExperimentConfig) -> Iterator[str]:
    system = config.system
    assert isinstance(system, (RecurrentQLearningConfig, QMIXConfig))
    envs = config.arch.num_envs * system.update_batch_size
    yield from _replay(config, "sample_batch_size", system.sample_batch_size, "min_buffer_size", system.min_buffer_size)
    if system.burn_in_length >= system.sample_sequence_length:
        yield (
            f"system.burn_in_length: {system.burn_in_length} leaves nothing of system.sample_sequence_length = "
            f"{system.sample_sequence_length} to learn from; lower it"
        )
    if system.buffer_size // envs <= system.sample_sequence_length:
        yield (
            f"system.buffer_size: {system.buffer_size} holds {system.buffer_size // envs} steps of each environment, "
            f"not more than system.sample_sequence_length = {system.sample_sequence_length}; raise it"
        )
