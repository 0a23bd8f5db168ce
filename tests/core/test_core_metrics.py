"""The metrics that a config promises, and what counts of a team's reward."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_party.config import ExperimentConfig, evaluation_metrics, make_budget, parse_config
from jax_party.envs.adapter import make_environment
from jax_party.errors import ConfigError, SweepError
from jax_party.judging.objectives import Objective
from jax_party.training.program import Program, make_hyper
from jax_party.trial import outcome
from jax_party.trial.record import TrialRecord
from jax_party.trial.states import State
from launcher.ask.parsing import parse_sweep_options
from launcher.plan.compose import read_study


@pytest.mark.parametrize("env", ["jaxparty", "lbf"])
def test_an_evaluation_gives_the_metrics_that_the_config_promises(
    env: str, tiny_config: Callable[..., ExperimentConfig]
) -> None:
    overrides = [] if env == "jaxparty" else ["env=lbf", "env/scenario=2s-8x8-2p-2f-coop", "env.kwargs.time_limit=8"]
    tiny = tuple(word for word in _tiny() if env == "jaxparty" or "scenario" not in word)
    config = tiny_config("ff_ippo", *overrides, tiny=tiny)
    program = Program(config)
    hyper = program.put(make_hyper(config, make_budget(config)))
    state = program.init(hyper, jax.random.PRNGKey(0))
    evaluation = program.evaluate(hyper, state.params, jax.random.PRNGKey(1))
    assert sorted(evaluation.episodes) == sorted(evaluation_metrics(config))


def _tiny() -> tuple[str, ...]:
    return (
        "arch.num_envs=4",
        "arch.num_eval_episodes=4",
        "system.rollout_length=16",
        "system.total_timesteps=512",
        "network.actor_network.pre_torso.layer_sizes=[16,16]",
        "network.critic_network.pre_torso.layer_sizes=[16,16]",
        "env/scenario=p-short",
    )


def test_an_unknown_metric_is_refused_before_anything_starts(tiny_mapping: Callable[..., dict[str, Any]]) -> None:
    mapping = tiny_mapping("ff_ippo")
    mapping["env"]["eval_metric"] = "episode_retrun"
    message = "env.eval_metric: episode_retrun: no such metric; did you mean episode_return?"
    with pytest.raises(ConfigError, match=re.escape(message)):
        parse_config(mapping)
    options = parse_sweep_options(["ALG=mappo", "METRIC=equalty"])
    with pytest.raises((ConfigError, SweepError), match="equalty: no such metric; did you mean equality"):
        read_study(options)


def test_an_agent_that_is_done_early_still_earns_with_its_team(tiny_mapping: Callable[..., dict[str, Any]]) -> None:
    tiny = tuple(word for word in _tiny() if "scenario" not in word)
    config = parse_config(tiny_mapping("ff_ippo", "env=connector", tiny=tiny))
    team = make_environment(config.env)
    single = make_environment(dataclasses.replace(config.env, use_individual_rewards=True))
    team_step, single_step = jax.jit(team.step), jax.jit(single.step)
    state, transition = jax.jit(team.reset)(jax.random.PRNGKey(3))
    early = 0
    for time in range(team.time_limit):
        logits = jnp.where(transition.observation.action_mask, 0.0, -1e9)
        action = jax.random.categorical(jax.random.PRNGKey(time), logits)
        _, own = single_step(state, action)
        state, transition = team_step(state, action)
        if bool(transition.done):
            break
        early += int((np.asarray(own.discount) == 0).any())
        np.testing.assert_array_equal(transition.discount, np.ones(team.num_agents, np.float32))
    assert early > 0, "no agent was done before the others: choose another key"
    assert bool(transition.done)
    assert len(set(np.asarray(transition.discount).tolist())) == 1


def test_a_failed_trial_has_no_score_however_well_it_began(tmp_path: Any) -> None:
    record = TrialRecord(
        trial_id="a-0", algorithm="ff_ippo", environment="JaxParty", scenario="p-short", seed=0,
        objective=Objective("episode_return", "max"), state=State.FAILED,
        absolute_metrics={"episode_return": 999.0},
    )  # fmt: skip
    assert outcome.score(tmp_path, record) is None
