"""Settings of the networks, one class per file of `mava_configs/network`."""

from __future__ import annotations

from typing import Literal

from pydantic.dataclasses import dataclass

from jax_party.config.types import FROZEN, Positive, PositiveInt, Rate


@dataclass(frozen=True, config=FROZEN)
class TorsoConfig:
    """A multi-layer perceptron."""

    layer_sizes: tuple[PositiveInt, ...]
    use_layer_norm: bool
    activation: Literal["relu", "tanh", "gelu", "silu"]


@dataclass(frozen=True, config=FROZEN)
class HeadNetworkConfig:
    """A feed-forward network: its torso; the head follows from its use."""

    pre_torso: TorsoConfig


@dataclass(frozen=True, config=FROZEN)
class RecurrentNetworkConfig:
    """A recurrent network: torsos before and after its core."""

    pre_torso: TorsoConfig
    post_torso: TorsoConfig


@dataclass(frozen=True, config=FROZEN)
class MLPNetworks:
    """`network=mlp`: feed-forward actor and critic."""

    name: Literal["mlp"]
    actor_network: HeadNetworkConfig
    critic_network: HeadNetworkConfig


@dataclass(frozen=True, config=FROZEN)
class RNNNetworks:
    """`network=rnn`: actor and critic, each with a GRU."""

    name: Literal["rnn"]
    hidden_state_dim: PositiveInt
    actor_network: RecurrentNetworkConfig
    critic_network: RecurrentNetworkConfig


@dataclass(frozen=True, config=FROZEN)
class AttentionConfig:
    """The size of a sequence model's encoder and of its decoder."""

    n_block: PositiveInt
    n_head: PositiveInt
    embed_dim: PositiveInt


@dataclass(frozen=True, config=FROZEN)
class TransformerConfig(AttentionConfig):
    """The transformer's size, and the initialisation gain of its attention's projections."""

    attention_gain: Positive


@dataclass(frozen=True, config=FROZEN)
class RetentionMemoryConfig:
    """Sable's retention: `timestep_chunk_size` environment steps per chunk of the training form, None to choose it."""

    timestep_chunk_size: PositiveInt | None
    decay_scaling_factor: Rate


@dataclass(frozen=True, config=FROZEN)
class SableNetworks:
    """`network=sable`: a retentive encoder and decoder."""

    name: Literal["sable"]
    net_config: AttentionConfig
    memory_config: RetentionMemoryConfig


@dataclass(frozen=True, config=FROZEN)
class TransformerNetworks:
    """`network=transformer`: the Multi-Agent Transformer's encoder and decoder."""

    name: Literal["transformer"]
    net_config: TransformerConfig


@dataclass(frozen=True, config=FROZEN)
class QMLPNetworks:
    """`network=q_mlp`: a feed-forward action-value network."""

    name: Literal["q_mlp"]
    q_network: HeadNetworkConfig


@dataclass(frozen=True, config=FROZEN)
class QRNNNetworks:
    """`network=q_rnn`: an action-value network with a GRU."""

    name: Literal["q_rnn"]
    hidden_state_dim: PositiveInt
    q_network: RecurrentNetworkConfig


@dataclass(frozen=True, config=FROZEN)
class MixerConfig:
    """QMIX's mixing network: width of the mixing layer, and of its hypernetworks' hidden layer."""

    embed_dim: PositiveInt
    hyper_hidden_dim: PositiveInt


@dataclass(frozen=True, config=FROZEN)
class QMIXNetworks:
    """`network=qmix`: recurrent action values, mixed."""

    name: Literal["qmix"]
    hidden_state_dim: PositiveInt
    q_network: RecurrentNetworkConfig
    mixer_network: MixerConfig


@dataclass(frozen=True, config=FROZEN)
class SACNetworks:
    """`network=sac`: a feed-forward actor and twin action-value networks."""

    name: Literal["sac"]
    actor_network: HeadNetworkConfig
    q_network: HeadNetworkConfig


NetworkConfig = (
    MLPNetworks
    | RNNNetworks
    | SableNetworks
    | TransformerNetworks
    | QMLPNetworks
    | QRNNNetworks
    | QMIXNetworks
    | SACNetworks
)
