"""The settings: what is refused, in which words, and what the scenarios hold."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any, get_args, get_type_hints

import jax
import pytest
import yaml

from jax_party.env.env import JaxParty
from jax_party.env.settings import GameSettings, PayoffSettings, parse_settings
from jax_party.setting_kinds import HOST, TRACED, Host

ENV_CONFIGS = Path(__file__).parents[2] / "mava_configs" / "env"
SCENARIOS = sorted((ENV_CONFIGS / "scenario").glob("p-*.yaml"))

BAD_PARAMETERS: list[tuple[dict[str, Any], str, str, str]] = [
    ({"num_agents": 1}, "num_agents", "1", "at least 2"),
    ({"num_agents": -3}, "num_agents", "-3", "at least 2"),
    ({"num_agents": 2.5}, "num_agents", "2.5", "integer"),
    ({"num_agents": "three"}, "num_agents", "'three'", "integer"),
    ({"time_limit": 0}, "time_limit", "0", "from 1"),
    ({"time_limit": 2**31}, "time_limit", "2147483648", "2147483647"),
    ({"payoff": {"reward": float("nan")}}, "payoff.reward", "nan", "finite"),
    ({"payoff": {"sucker": float("-inf")}}, "payoff.sucker", "-inf", "finite"),
    ({"payoff": {"temptation": 1e39}}, "payoff.temptation", "1e+39", "at most 1e+30"),
    ({"payoff": {"punishment": None}}, "payoff.punishment", "None", "number"),
    ({"payoff": {"bribe": 1.0}}, "payoff.bribe", "1.0", "temptation"),
    ({"rank_reward": float("nan")}, "rank_reward", "nan", "finite"),
    ({"rank_reward": float("inf")}, "rank_reward", "inf", "finite"),
    ({"rank_by": "wins"}, "rank_by", "'wins'", "total, payoff"),
    ({"matching": "speed_dating"}, "matching", "'speed_dating'", "random_pair, round_robin"),
    ({"matching": 3}, "matching", "3", "string"),
    ({"observe": ["active", "gossip"]}, "observe", "'gossip'", "memory"),
    ({"observe": []}, "observe", "()", "at least one"),
    ({"observe": ("ranks", "ranks")}, "observe", "('ranks', 'ranks')", "at most once"),
    ({"observe": "ranks"}, "observe", "'ranks'", "tuple"),
    ({"totals_scale": "log"}, "totals_scale", "'log'", "per_step, raw"),
    ({"horizon": "never"}, "horizon", "'never'", "terminate, truncate"),
    ({"action_noise": -0.1}, "action_noise", "-0.1", "0 to 1"),
    ({"action_noise": 1.1}, "action_noise", "1.1", "0 to 1"),
    ({"action_noise": float("nan")}, "action_noise", "nan", "0 to 1"),
]


def load(path: Path) -> Any:
    return yaml.safe_load(path.read_text())


@pytest.mark.parametrize(("parameters", "name", "value", "allowed"), BAD_PARAMETERS)
def test_bad_parameters_are_named_with_value_and_remedy(
    parameters: dict[str, Any], name: str, value: str, allowed: str
) -> None:
    with pytest.raises(ValueError) as raised:
        JaxParty(**parameters)
    message = str(raised.value)
    assert message.startswith("JaxParty: ") and "\n" not in message
    for part in (name, value, allowed):
        assert part in message


def test_settings_have_no_defaults_and_take_no_strangers() -> None:
    base = load(ENV_CONFIGS / "scenario" / "p-base.yaml")["task_config"]
    for name in base:
        with pytest.raises(ValueError, match=f"{name} is missing"):
            parse_settings({key: value for key, value in base.items() if key != name})
    with pytest.raises(ValueError, match="colour is not a parameter"):
        parse_settings({**base, "colour": "blue"})


def test_direct_construction_is_checked_too() -> None:
    payoff = PayoffSettings(3.0, 0.0, 5.0, 1.0)
    good = (payoff, 10.0, "total", "random_pair", ("ranks",), "per_step", "terminate", 0.0)
    assert GameSettings(3, 10, *good).num_agents == 3
    with pytest.raises(ValueError, match="num_agents must be a whole number of at least 2, got 1"):
        GameSettings(1, 10, *good)


def test_traced_numbers_are_marked() -> None:
    def traced(settings: type) -> set[str]:
        hints = get_type_hints(settings, include_extras=True)
        return {name for name, hint in hints.items() if TRACED in get_args(hint)}

    assert traced(GameSettings) == {"rank_reward", "action_noise"}
    assert traced(PayoffSettings) == {"reward", "sucker", "temptation", "punishment"}
    assert get_args(Host[int]) == (int, HOST)


def test_scenarios_are_all_there() -> None:
    names = "base no-rank rank-1 payoff-rank memory 5 10 stag-hunt chicken noisy open-ended short contest"
    assert {path.stem for path in SCENARIOS} == {f"p-{name}" for name in names.split()}
    assert load(ENV_CONFIGS / "jaxparty.yaml")["defaults"] == ["_self_", {"scenario": "p-base"}]


@pytest.mark.parametrize("path", SCENARIOS, ids=lambda path: path.stem)
def test_scenario_constructs(path: Path) -> None:
    scenario = load(path)
    assert scenario["name"] == "JaxParty-v0"
    assert scenario["task_name"] == path.stem
    assert scenario["env_kwargs"] == {}
    env = JaxParty(**scenario["task_config"])
    assert env.settings == parse_settings(scenario["task_config"])
    _, timestep = jax.eval_shape(env.reset, jax.random.key(0))
    spec: Any = env.observation_spec
    assert timestep.observation.agents_view.shape == spec.agents_view.shape


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("p-base", {}),
        ("p-no-rank", {"rank_reward": 0.0}),
        ("p-rank-1", {"rank_reward": 1.0}),
        ("p-payoff-rank", {"rank_by": "payoff"}),
        ("p-memory", {"observe": ["active", "totals", "ranks", "memory"]}),
        ("p-5", {"num_agents": 5, "matching": "random_matching"}),
        ("p-10", {"num_agents": 10, "matching": "random_matching"}),
        ("p-stag-hunt", {"payoff": {"reward": 4.0, "temptation": 3.0, "punishment": 2.0, "sucker": 0.0}}),
        ("p-chicken", {"payoff": {"reward": 3.0, "temptation": 5.0, "punishment": 0.0, "sucker": 1.0}}),
        ("p-noisy", {"action_noise": 0.05, "observe": ["active", "totals", "ranks", "memory"]}),
        ("p-open-ended", {"horizon": "truncate"}),
        ("p-short", {"time_limit": 128}),
        ("p-contest", {"rank_by": "payoff", "observe": ["active", "totals", "ranks", "memory"]}),
    ],
)
def test_scenario_changes_only_what_it_says(name: str, changes: dict[str, Any]) -> None:
    scenario = load(ENV_CONFIGS / "scenario" / f"{name}.yaml")
    # JaxParty's own defaults are the game's: this holds p-base and them together.
    assert parse_settings(scenario["task_config"]) == JaxParty(**changes).settings


def test_settings_import_no_jax() -> None:
    code = "import sys, jax_party.env.settings; sys.exit('jax' in sys.modules or 'jumanji' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
