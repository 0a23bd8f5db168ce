"""Settings of the systems, one class per family, with Mava's key names."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic.dataclasses import dataclass

from jax_party.config.types import FROZEN, NonNegative, NonNegativeInt, Positive, PositiveInt, Rate
from jax_party.setting_kinds import TRACED, Host


@dataclass(frozen=True, config=FROZEN)
class _BaseConfig:
    """The settings of every system."""

    seed: Host[NonNegativeInt]
    total_timesteps: Host[PositiveInt | None]
    num_updates: Host[PositiveInt | None]
    add_agent_id: bool
    update_batch_size: PositiveInt
    rollout_length: PositiveInt


@dataclass(frozen=True, config=FROZEN)
class _OnPolicyConfig(_BaseConfig):
    """The settings of the systems trained with PPO's objective."""

    ppo_epochs: PositiveInt
    num_minibatches: PositiveInt
    decay_learning_rates: bool
    actor_lr: Annotated[Positive, TRACED]
    gamma: Annotated[Rate, TRACED]
    gae_lambda: Annotated[Rate, TRACED]
    clip_eps: Annotated[Positive, TRACED]
    vf_clip_eps: Annotated[Positive | None, TRACED]
    normalize_values: bool
    ent_coef: Annotated[NonNegative, TRACED]
    vf_coef: Annotated[NonNegative, TRACED]
    max_grad_norm: Annotated[Positive, TRACED]

    @property
    def sequence_length(self) -> int | None:
        """Successive steps of one environment that form one sample to learn from; None for single steps."""
        return None


@dataclass(frozen=True, config=FROZEN)
class PPOConfig(_OnPolicyConfig):
    """`ff_ippo` and `ff_mappo`."""

    networks: ClassVar[str] = "mlp"
    name: Literal["ff_ippo", "ff_mappo"]
    critic_lr: Annotated[Positive, TRACED]


@dataclass(frozen=True, config=FROZEN)
class RecurrentPPOConfig(_OnPolicyConfig):
    """`rec_ippo` and `rec_mappo`."""

    networks: ClassVar[str] = "rnn"
    name: Literal["rec_ippo", "rec_mappo"]
    critic_lr: Annotated[Positive, TRACED]
    recurrent_chunk_size: PositiveInt | None

    @property
    def sequence_length(self) -> int | None:
        """Steps over which a hidden state is carried in training."""
        return self.recurrent_chunk_size or self.rollout_length


@dataclass(frozen=True, config=FROZEN)
class SableConfig(_OnPolicyConfig):
    """`ff_sable`."""

    networks: ClassVar[str] = "sable"
    name: Literal["ff_sable"]


@dataclass(frozen=True, config=FROZEN)
class RecurrentSableConfig(_OnPolicyConfig):
    """`rec_sable`."""

    networks: ClassVar[str] = "sable"
    name: Literal["rec_sable"]

    @property
    def sequence_length(self) -> int | None:
        """The whole rollout."""
        return self.rollout_length


@dataclass(frozen=True, config=FROZEN)
class MATConfig(_OnPolicyConfig):
    """`mat`."""

    networks: ClassVar[str] = "transformer"
    name: Literal["mat"]


@dataclass(frozen=True, config=FROZEN)
class _OffPolicyConfig(_BaseConfig):
    """The settings of the systems with a replay buffer; sizes count environment steps over all environments."""

    epochs: PositiveInt
    buffer_size: PositiveInt
    gamma: Annotated[Rate, TRACED]
    tau: Annotated[Rate, TRACED]
    q_lr: Annotated[Positive, TRACED]
    max_grad_norm: Annotated[Positive, TRACED]


@dataclass(frozen=True, config=FROZEN)
class _QLearningBaseConfig(_OffPolicyConfig):
    """The settings of the Q-learning systems."""

    min_buffer_size: PositiveInt
    sample_batch_size: PositiveInt
    double_q: bool
    hard_update: bool
    update_period: PositiveInt
    eps_min: Annotated[Rate, TRACED]
    eps_decay: Annotated[Positive, TRACED]


@dataclass(frozen=True, config=FROZEN)
class _RecurrentQLearningBaseConfig(_QLearningBaseConfig):
    """Further settings of the recurrent Q-learning systems; lengths are environment steps of one environment."""

    sample_sequence_length: PositiveInt
    burn_in_length: NonNegativeInt


@dataclass(frozen=True, config=FROZEN)
class QLearningConfig(_QLearningBaseConfig):
    """`ff_iql`."""

    networks: ClassVar[str] = "q_mlp"
    name: Literal["ff_iql"]


@dataclass(frozen=True, config=FROZEN)
class RecurrentQLearningConfig(_RecurrentQLearningBaseConfig):
    """`rec_iql`."""

    networks: ClassVar[str] = "q_rnn"
    name: Literal["rec_iql"]


@dataclass(frozen=True, config=FROZEN)
class QMIXConfig(_RecurrentQLearningBaseConfig):
    """`rec_qmix`."""

    networks: ClassVar[str] = "qmix"
    name: Literal["rec_qmix"]


@dataclass(frozen=True, config=FROZEN)
class SACConfig(_OffPolicyConfig):
    """`ff_isac`, `ff_masac` and `ff_hasac`."""

    networks: ClassVar[str] = "sac"
    name: Literal["ff_isac", "ff_masac", "ff_hasac"]
    batch_size: PositiveInt
    explore_steps: NonNegativeInt
    policy_lr: Annotated[Positive, TRACED]
    alpha_lr: Annotated[Positive, TRACED]
    policy_update_delay: PositiveInt
    autotune: bool
    scale_init_alpha: bool
    target_entropy_scale: Annotated[NonNegative, TRACED]
    init_alpha: Annotated[Positive, TRACED]


OnPolicyConfig = PPOConfig | RecurrentPPOConfig | SableConfig | RecurrentSableConfig | MATConfig
OffPolicyConfig = QLearningConfig | RecurrentQLearningConfig | QMIXConfig | SACConfig
SystemConfig = OnPolicyConfig | OffPolicyConfig
