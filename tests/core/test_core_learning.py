"""Probe games with known answers, three seeds each, of which `make test` plays the first; they share a program.

Budgets are environment steps, over all environments; docs/systems.md has them beside the results.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import pytest

from benchmarks import probes
from jax_party.envs.adapter import MultiAgentEnv, make_environment
from mava_configs import ALGORITHMS

SEEDS = (0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in (1, 2)))
RECURRENT = tuple(name for name in ALGORITHMS if name.startswith("rec_"))
FEED_FORWARD = tuple(name for name in ALGORITHMS if name not in RECURRENT)
SEQUENTIAL = ("ff_sable", "rec_sable", "mat", "ff_hasac")
"""Systems whose agents can come to differ though nothing tells them apart: they act, or have learned, in turn."""

PLAY_THE_DILEMMA = ("ff_ippo", "rec_ippo", "ff_sable", "ff_iql", "ff_isac")
"""Systems that play the dilemma in `make test`, and the stag hunt in `make test-slow`; of the others the reverse."""

LIKE_ANOTHER = ("ff_mappo", "rec_mappo", "rec_sable", "rec_iql", "ff_masac")
"""Systems that differ from one of the same family only in what a critic sees, or in how far back they see: the games
that the other one plays in `make test` they play in `make test-slow`."""


def _systems(names: Iterable[str], slow: Iterable[str]) -> list[Any]:
    """Parameters, some of which `make test` leaves to `make test-slow`: each compiles a program."""
    return [pytest.param(name, marks=pytest.mark.slow) if name in slow else name for name in names]


_COMMON = (
    "system.total_timesteps=20000",
    "arch.num_envs=16",
    "arch.gradient_chunk_size=null",
    "env/scenario=p-short",
    "env.scenario.task_config.time_limit=128",
    "env.scenario.task_config.rank_reward=0.0",
    "vault=none",
)
_ON_POLICY = (
    "system.rollout_length=36",
    "system.ppo_epochs=4",
    "system.num_minibatches=2",
    "system.gae_lambda=0.95",
    # Where every reward is the same, normalised advantages are noise, which a constant learning rate goes on following.
    "system.decay_learning_rates=true",
)


def _sizes(*networks: str, parts: tuple[str, ...] = ("pre_torso",), sizes: str = "[32,32]") -> tuple[str, ...]:
    return tuple(f"network.{network}.{part}.layer_sizes={sizes}" for network in networks for part in parts)


_WITH_CORE: Any = {"parts": ("pre_torso", "post_torso"), "sizes": "[32]"}
_HIDDEN = "network.hidden_state_dim=32"
_NET = ("network.net_config.embed_dim=32", "network.net_config.n_head=1", "network.net_config.n_block=1")
_ACTOR_CRITIC = (*_ON_POLICY, "system.actor_lr=3e-3", "system.critic_lr=3e-3", "system.ent_coef=0.0")
_PPO = (*_ACTOR_CRITIC, *_sizes("actor_network", "critic_network"))
_REC_PPO = (*_ACTOR_CRITIC, _HIDDEN, *_sizes("actor_network", "critic_network", **_WITH_CORE))
_SEQUENCE = (*_ON_POLICY, "system.actor_lr=1e-3", "system.ent_coef=0.01", *_NET)
_OFF_POLICY = ("system.rollout_length=8", "system.epochs=4", "system.buffer_size=16384", "system.tau=0.02")  # fmt: skip
_Q = (*_OFF_POLICY, "system.q_lr=3e-3", "system.min_buffer_size=512", "system.eps_decay=8000", "system.eps_min=0.05")
_REC_Q = (*_Q, "system.sample_batch_size=32", "system.sample_sequence_length=10", "system.burn_in_length=0",
          _HIDDEN, *_sizes("q_network", **_WITH_CORE))  # fmt: skip
_SAC = (*_OFF_POLICY, "system.batch_size=128", "system.explore_steps=512", "system.policy_lr=1e-3",
        "system.q_lr=1e-3", "system.alpha_lr=3e-3", "system.init_alpha=0.1", "system.target_entropy_scale=0.05",
        *_sizes("actor_network", "q_network"))  # fmt: skip
SETTINGS: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("ff_ippo", "ff_mappo"), _PPO),
    **dict.fromkeys(("rec_ippo", "rec_mappo"), _REC_PPO),
    **dict.fromkeys(("ff_sable", "rec_sable", "mat"), _SEQUENCE),
    "ff_iql": (*_Q, "system.sample_batch_size=128", *_sizes("q_network")),
    "rec_iql": _REC_Q,
    "rec_qmix": _REC_Q,
    **dict.fromkeys(("ff_isac", "ff_masac", "ff_hasac"), _SAC),
}
RETENTION = ("system.total_timesteps=40000", "system.gamma=0.0")
"""Retention takes longer than a GRU to tell one agent's cue from another's. An answer is paid at once, so nothing needs
to be discounted; with credit passed back through the steps of waiting, one seed in eight takes longer than this."""


@pytest.fixture(scope="module")
def trainer(tiny_config: Callable[..., Any]) -> Callable[..., probes.Trainer]:
    """`trainer("ff_ippo", "game", overrides)`: a system on a game (or a probe), made once for all seeds."""
    made: dict[tuple[Any, ...], probes.Trainer] = {}

    def make(algorithm: str, game: str, *overrides: str) -> probes.Trainer:
        key = (algorithm, game, overrides)
        if any(other[0] != algorithm for other in made):
            made.clear()
        if key not in made:
            config = tiny_config(algorithm, *overrides, tiny=(*_COMMON, *SETTINGS[algorithm]))
            if game == "game":
                made[key] = probes.Trainer(config, make_environment(config.env), traced=True)
            else:
                probe = {"memory": probes.MemoryProbe, "coordination": probes.CoordinationProbe}[game]()
                env = MultiAgentEnv(probe, shared_reward=config.env.shared_reward)
                made[key] = probes.Trainer(config, env)
        return made[key]

    return make


ONE_SHOT = ("system.gamma=0.0",)
STAG_HUNT = (
    "env.shared_reward=true",
    "env.scenario.task_config.payoff={reward: 4.0, sucker: 0.0, temptation: 3.0, punishment: 2.0}",
    "system.gamma=0.0",
)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(
    "algorithm", _systems([n for n in ALGORITHMS if n != "rec_qmix"], {*ALGORITHMS} - {*PLAY_THE_DILEMMA})
)
def test_the_one_shot_dilemma_ends_in_defection(algorithm: str, seed: int, trainer: Callable[..., Any]) -> None:
    """QMIX is left out: it has no individual rewards."""
    metrics = trainer(algorithm, "game", *ONE_SHOT).learn(seed)
    assert metrics["cooperation_rate"] < 0.05
    assert metrics["outcome_share_dd"] > 0.9


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("algorithm", _systems(ALGORITHMS, {*LIKE_ANOTHER, *PLAY_THE_DILEMMA}))
def test_the_shared_stag_hunt_ends_in_cooperation(algorithm: str, seed: int, trainer: Callable[..., Any]) -> None:
    metrics = trainer(algorithm, "game", *STAG_HUNT).learn(seed)
    assert metrics["outcome_share_cc"] > 0.95


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("algorithm", _systems(ALGORITHMS, {*FEED_FORWARD, "rec_mappo"} - {"ff_ippo"}))
def test_only_recurrent_systems_recall_a_cue(algorithm: str, seed: int, trainer: Callable[..., Any]) -> None:
    """8 steps after it was seen; what cannot remember names one of two."""
    settings = RETENTION if algorithm == "rec_sable" else ()
    metrics = trainer(algorithm, "memory", *settings).learn(seed)
    if algorithm in RECURRENT:
        assert metrics["episode_return"] > 0.95
    else:
        assert 0.4 < metrics["episode_return"] < 0.6


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("algorithm", _systems([*SEQUENTIAL, "ff_ippo"], {"rec_sable"}))
def test_sequential_systems_coordinate_without_ids(algorithm: str, seed: int, trainer: Callable[..., Any]) -> None:
    """Agents that see the same must do different things; one policy for all, acting at once, cannot."""
    train = trainer(algorithm, "coordination", "system.add_agent_id=false")
    if algorithm in SEQUENTIAL:
        assert train.learn(seed)["episode_return"] > 0.95
    else:
        # At most 3! / 3³ = 0.22 if all draw alike; ever less the surer they become.
        assert train.learn(seed, greedy=False)["episode_return"] < 0.35


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_mat_coordinates_with_two_blocks(seed: int, trainer: Callable[..., Any]) -> None:
    """What an agent did has to pass both; at an attention gain of 0.01 it had not after 40,000 steps."""
    train = trainer("mat", "coordination", "system.add_agent_id=false", "network.net_config.n_block=2")
    assert train.learn(seed)["episode_return"] > 0.95
