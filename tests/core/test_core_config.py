"""The checked config: its three kinds of field, its messages, and the step budget."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jax_party.config import (
    ExperimentConfig,
    make_budget,
    parse_config,
    static_key,
    traced_part,
    without_values,
)
from jax_party.errors import ConfigError
from jax_party.training.program import get_program, make_hyper
from mava_configs import compose

OTHER_VALUES = {
    "system.actor_lr": 0.01,
    "system.critic_lr": 0.01,
    "system.gamma": 0.5,
    "system.gae_lambda": 0.5,
    "system.clip_eps": 0.01,
    "system.vf_clip_eps": 1e-4,
    "system.ent_coef": 0.5,
    "system.vf_coef": 0.05,
    "system.max_grad_norm": 0.01,
    "env.scenario.task_config.payoff.reward": 4.0,
    "env.scenario.task_config.payoff.sucker": -1.0,
    "env.scenario.task_config.payoff.temptation": 7.0,
    "env.scenario.task_config.payoff.punishment": 2.0,
    "env.scenario.task_config.rank_reward": 3.0,
    "env.scenario.task_config.action_noise": 0.5,
}
"""Every traced field, with a value that is not the default."""


def _leaves(nested: dict[str, Any], prefix: str = "") -> Iterator[str]:
    for name, value in nested.items():
        yield from _leaves(value, f"{prefix}{name}.") if isinstance(value, dict) else [f"{prefix}{name}"]


def _set(mapping: dict[str, Any], key: str, value: Any) -> dict[str, Any]:
    *groups, name = key.split(".")
    node = mapping
    for group in groups:
        node = node[group]
    node[name] = value
    return mapping


# -- Static, traced, host ----------------------------------------------------------------------------------------------


OTHER_FAMILIES = {
    "rec_iql": {
        "system.q_lr": 0.01, "system.gamma": 0.5, "system.tau": 0.5, "system.max_grad_norm": 0.01,
        "system.eps_min": 0.9, "system.eps_decay": 100.0,
    },
    "ff_isac": {
        "system.q_lr": 0.01, "system.gamma": 0.5, "system.tau": 0.5, "system.max_grad_norm": 0.01,
        "system.policy_lr": 0.01, "system.alpha_lr": 0.01, "system.target_entropy_scale": 0.9,
        "system.init_alpha": 0.7,
    },
}  # fmt: skip
"""Every traced field of an off-policy family's system, likewise."""


@pytest.mark.parametrize("algorithm", OTHER_FAMILIES)
def test_off_policy_systems_traced_values_too(
    algorithm: str, begin: Callable[..., Any], tiny_config: Callable[..., ExperimentConfig]
) -> None:
    others = OTHER_FAMILIES[algorithm]
    traced = set(_leaves(traced_part(tiny_config(algorithm).system)))
    assert {f"system.{name}" for name in traced} == set(others)
    usual = ("system.eps_decay=40.0",) if algorithm == "rec_iql" else ()  # ε moves within the one update
    baseline = _outcome(begin(algorithm, *usual))
    compiled = get_program(tiny_config(algorithm)).compile_seconds
    for key, value in others.items():
        kept = (word for word in usual if not word.startswith(key))
        outcome = _outcome(begin(algorithm, *kept, f"{key}={value}"))
        assert (outcome != baseline).any(), key
    assert get_program(tiny_config(algorithm)).compile_seconds == compiled


@pytest.fixture(scope="module")
def baseline(begin: Callable[..., Any]) -> Any:
    """What the unchanged config gives: a rollout's and an update's results, as one flat vector."""
    return _outcome(begin("ff_mappo"))


def _outcome(run: Any) -> np.ndarray:
    state, output = run.program.update(run.hyper, run.state)
    return np.concatenate([np.asarray(leaf, np.float64).ravel() for leaf in jax.tree.leaves((state, output))])


def test_the_traced_fields_are_those_listed(tiny_config: Callable[..., ExperimentConfig]) -> None:
    assert set(_leaves(traced_part(tiny_config("ff_mappo")))) == set(OTHER_VALUES)


@pytest.mark.parametrize("key", OTHER_VALUES)
def test_a_traced_value_changes_results_and_compiles_nothing(
    key: str, baseline: np.ndarray, begin: Callable[..., Any], tiny_config: Callable[..., ExperimentConfig]
) -> None:
    changed = tiny_config("ff_mappo", f"{key}={OTHER_VALUES[key]}")
    plain = tiny_config("ff_mappo")
    assert changed != plain
    assert static_key(changed) == static_key(plain)
    assert get_program(changed) is get_program(plain)
    before = get_program(plain).compile_seconds
    assert before > 0.0
    outcome = _outcome(begin("ff_mappo", f"{key}={OTHER_VALUES[key]}"))
    assert get_program(plain).compile_seconds == before
    assert (outcome != baseline).any()


def test_equal_values_give_equal_results(baseline: np.ndarray, begin: Callable[..., Any]) -> None:
    np.testing.assert_array_equal(_outcome(begin("ff_mappo")), baseline)


@pytest.mark.parametrize(
    "override",
    [
        "arch.num_envs=8", "arch.num_eval_episodes=8", "arch.evaluation_greedy=true", "system.rollout_length=32",
        "system.ppo_epochs=3", "system.num_minibatches=4", "system.update_batch_size=2", "system.add_agent_id=false",
        "system.decay_learning_rates=true", "network.actor_network.pre_torso.layer_sizes=[16,8]",
        "network.critic_network.pre_torso.activation=tanh", "network.actor_network.pre_torso.use_layer_norm=true",
        "env.scenario.task_config.num_agents=4", "env.scenario.task_config.time_limit=25", "env.shared_reward=true",
        "env.scenario.task_config.matching=round_robin", "env.scenario.task_config.observe=[active,memory]",
        "env.scenario.task_config.horizon=truncate", "env.use_individual_rewards=false", "vault=test",
        "env.scenario.task_config.rank_by=payoff", "env.scenario.task_config.totals_scale=raw",
    ],
)  # fmt: skip
def test_static_fields_change_the_key(override: str, tiny_config: Callable[..., ExperimentConfig]) -> None:
    assert static_key(tiny_config("ff_mappo", override)) != static_key(tiny_config("ff_mappo"))


@pytest.mark.parametrize(
    "override",
    ["system.seed=7", "system.total_timesteps=4096", "system.num_updates=9", "arch.num_evaluation=2",
     "arch.absolute_metric=false", "vault.every=3", "vault.max_transitions=99", "logger.use_console=true",
     "logger.base_exp_path=elsewhere", "logger.checkpointing.save_args.max_to_keep=5"],
)  # fmt: skip
def test_host_fields_do_not(override: str, tiny_config: Callable[..., ExperimentConfig]) -> None:
    changed, plain = tiny_config("ff_mappo", override), tiny_config("ff_mappo")
    assert changed != plain
    assert static_key(changed) == static_key(plain)
    assert without_values(changed) == without_values(plain)


def test_systems_do_not_share_a_program(tiny_config: Callable[..., ExperimentConfig]) -> None:
    assert static_key(tiny_config("ff_ippo")) != static_key(tiny_config("ff_mappo"))


def test_a_program_sees_neither_traced_nor_host_values(tiny_config: Callable[..., ExperimentConfig]) -> None:
    config = tiny_config("ff_mappo")
    blank = without_values(config)
    assert blank.system.seed is None and blank.arch.num_evaluation is None and blank.logger is None
    assert blank.vault.every is None and blank.arch.absolute_metric is None
    assert set(_values(traced_part(blank))) == {0.0}
    assert blank.system.rollout_length == config.system.rollout_length
    assert config.system.seed == 42 and config.logger.system_name == "ff_mappo"  # the original is untouched


def _values(nested: dict[str, Any]) -> Iterator[float]:
    for value in nested.values():
        yield from _values(value) if isinstance(value, dict) else [value]


def test_hyper_holds_the_traced_part_and_the_budget(tiny_config: Callable[..., ExperimentConfig]) -> None:
    config = tiny_config("ff_mappo", "system.gamma=0.75", "env.scenario.task_config.payoff.reward=4.5")
    hyper = make_hyper(config, make_budget(config))
    assert (float(hyper.system["gamma"]), float(hyper.env["payoff"]["reward"])) == (0.75, 4.5)
    assert float(hyper.num_updates) == 512 / (4 * 16)
    assert all(leaf.dtype == np.float32 for leaf in jax.tree.leaves(hyper))


# -- Messages ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("system.actor_lrr", 1.0, "system.actor_lrr: unknown; did you mean actor_lr?"),
        ("arch.num_env", 4, "arch.num_env: unknown; did you mean num_envs?"),
        ("system.zzzzzz", 1, "system.zzzzzz: unknown; remove it"),
        ("nonsense", 1, "nonsense: unknown; remove it"),
        (
            "system.actor_lr", "fast",
            "system.actor_lr: 'fast' is not valid: input should be a number",
        ),
        ("system.actor_lr", "0.001", "system.actor_lr: '0.001' is not valid: input should be a number"),
        ("arch.num_envs", True, "arch.num_envs: True is not valid: input should be a number"),
        ("system.actor_lr", 0.0, "system.actor_lr: 0.0 is not valid: input should be greater than 0"),
        ("system.actor_lr", float("nan"), "system.actor_lr: nan is not valid: input should be a finite number"),
        ("system.gamma", 1.5, "system.gamma: 1.5 is not valid: input should be less than or equal to 1"),
        ("arch.num_envs", 0, "arch.num_envs: 0 is not valid: input should be greater than or equal to 1"),
        (
            "arch.num_envs", 2.5,
            "arch.num_envs: 2.5 is not valid: input should be a valid integer, got a number with a fractional part",
        ),
        (
            "system.name", "ff_dqn",
            "system.name: 'ff_dqn' is not valid: choose one of 'ff_ippo', 'ff_mappo', 'rec_ippo', 'rec_mappo', "
            "'ff_sable', 'rec_sable', 'mat', 'ff_iql', 'rec_iql', 'rec_qmix', 'ff_isac', 'ff_masac', 'ff_hasac'",
        ),
        (
            "system.num_minibatches", 3,
            "system.num_minibatches: 3 does not divide arch.num_envs × system.rollout_length = 64; choose a divisor",
        ),
        ("arch.num_devices", 3, "arch.num_devices: 3 does not divide arch.num_envs = 4; choose a divisor"),
        (
            "system.total_timesteps", None,
            "system.total_timesteps: null, and so is system.num_updates; set one of them",
        ),
        (
            "env.scenario.task_config.num_agents", 1,
            "env.scenario.task_config: num_agents must be a whole number of at least 2, got 1",
        ),
    ],
    ids=lambda value: str(value)[:40],
)  # fmt: skip
def test_a_bad_config_gets_one_clear_line(
    key: str, value: Any, message: str, tiny_mapping: Callable[..., dict[str, Any]]
) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_config(_set(tiny_mapping("ff_mappo"), key, value))
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("env.scenario.name", "Chess-v0", ["env.scenario", "Chess-v0", "JaxParty-v0"]),
        ("env.scenario.task_config.payoff.reward", float("nan"), ["payoff.reward", "finite", "nan"]),
        ("env.scenario.task_config.matching", "speed_dating", ["matching", "speed_dating", "round_robin"]),
        ("arch.gradient_chunk_size", "some", ["arch.gradient_chunk_size", "'some'"]),
        ("env.kwargs", {"speed": [1]}, ["env.kwargs.speed"]),
    ],
)
def test_a_bad_value_is_named_with_what_is_allowed(
    key: str, value: Any, words: list[str], tiny_mapping: Callable[..., dict[str, Any]]
) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_config(_set(tiny_mapping("ff_mappo"), key, value))
    message = str(caught.value)
    assert all(word in message for word in words), message
    assert "\n" not in message


@pytest.mark.parametrize("key", ["system.gamma", "arch", "env.scenario.task_config.rank_reward", "vault.every"])
def test_a_missing_key_is_named(key: str, tiny_mapping: Callable[..., dict[str, Any]]) -> None:
    mapping = tiny_mapping("ff_mappo")
    *groups, name = key.split(".")
    node = mapping
    for group in groups:
        node = node[group]
    del node[name]
    with pytest.raises(ConfigError) as caught:
        parse_config(mapping)
    assert str(caught.value) == f"{key}: missing; set it (defaults are in mava_configs/)"


def test_a_config_is_frozen(tiny_config: Callable[..., ExperimentConfig]) -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        tiny_config("ff_mappo").system.gamma = 0.5  # type: ignore[misc]


# -- Budget ------------------------------------------------------------------------------------------------------------


@settings(max_examples=100, deadline=None)
@given(
    timesteps=st.integers(1, 10**7), evaluations=st.integers(1, 50), envs=st.integers(1, 64),
    replicas=st.integers(1, 3), rollout=st.integers(1, 256),
)  # fmt: skip
def test_budgets_are_rounded_up_to_whole_updates(
    tiny_config: Callable[..., ExperimentConfig],
    timesteps: int,
    evaluations: int,
    envs: int,
    replicas: int,
    rollout: int,
) -> None:
    plain = tiny_config("ff_mappo")
    config = dataclasses.replace(
        plain,
        arch=dataclasses.replace(plain.arch, num_evaluation=evaluations, num_envs=envs),
        system=dataclasses.replace(
            plain.system, total_timesteps=timesteps, update_batch_size=replicas, rollout_length=rollout
        ),
    )
    budget = make_budget(config)
    assert budget.steps_per_update == envs * replicas * rollout
    assert budget.total_steps == budget.num_evaluations * budget.updates_per_evaluation * budget.steps_per_update
    assert budget.total_steps >= timesteps
    # One update fewer to a period would not do.
    assert budget.total_steps - budget.steps_per_evaluation < timesteps <= budget.total_steps
    assert 1 <= budget.num_evaluations <= evaluations
    exact = budget.total_steps == timesteps and budget.num_evaluations == evaluations
    assert (budget.note(evaluations) is None) == exact


def test_the_budgets_note_says_what_becomes_of_it(tiny_config: Callable[..., ExperimentConfig]) -> None:
    config = tiny_config("ff_mappo", "system.total_timesteps=150", "arch.num_evaluation=10")
    budget = make_budget(config)
    assert (budget.total_steps, budget.num_evaluations) == (192, 3)
    assert budget.note(10) == (
        "budget of 150 steps in 10 evaluations becomes 192 steps in 3: whole updates of 64 steps"
    )


def test_updates_decide_where_steps_are_unspecified(tiny_config: Callable[..., ExperimentConfig]) -> None:
    config = tiny_config("ff_mappo", "system.total_timesteps=null", "system.num_updates=8")
    budget = make_budget(config)
    assert (budget.num_updates, budget.requested_steps, budget.note(4)) == (8, 512, None)


@pytest.mark.parametrize(
    ("algorithm", "override", "message"),
    [
        ("ff_ippo", "system.tau=0.1", "system.tau: unknown; system has "),
        ("mat", "system.critic_lr=1e-3", "system.critic_lr: unknown; system has "),
        ("ff_iql", "system.bufer_size=2", "system.bufer_size: unknown; did you mean buffer_size?"),
        ("rec_qmix", "network.mixer_net=2", "network.mixer_net: unknown; did you mean mixer_network?"),
    ],
)
def test_an_unknown_key_is_answered_with_the_systems_own(algorithm: str, override: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        compose(algorithm, [override])
    assert str(caught.value).startswith(message)
    assert "did you mean tau" not in str(caught.value)


def test_networks_of_another_system_are_refused(tiny_mapping: Callable[..., dict[str, Any]]) -> None:
    mapping = tiny_mapping("rec_ippo") | {"network": tiny_mapping("ff_ippo")["network"]}
    with pytest.raises(ConfigError) as caught:
        parse_config(mapping)
    assert str(caught.value) == "network: mlp is not for rec_ippo; choose network=rnn"


def test_a_buffer_must_hold_the_batches_of_all_replicas(tiny_mapping: Callable[..., dict[str, Any]]) -> None:
    overrides = ("system.update_batch_size=8", "system.sample_batch_size=512", "system.buffer_size=2048")
    with pytest.raises(ConfigError) as caught:
        parse_config(tiny_mapping("ff_iql", *overrides))
    assert str(caught.value) == (
        "system.buffer_size: 2048 is smaller than a batch of 4096 steps, system.sample_batch_size = 512 × "
        "system.update_batch_size = 8; raise the one or lower the other"
    )
