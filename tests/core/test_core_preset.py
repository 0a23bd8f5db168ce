"""`+preset=mava`: Mava's own defaults, as recorded from its YAML, in the keys and meanings of our systems."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from jax_party.cli.multirun import CommandLine, Plan
from jax_party.config import parse_config
from jax_party.engines import get_engine
from jax_party.engines.presets import expand_presets
from jax_party.errors import ConfigError
from mava_configs import ALGORITHMS, CONFIG_DIR, compose

RECORDED = json.loads((Path(__file__).parent / "mava_defaults.json").read_text())
SYSTEMS = tuple(RECORDED["systems"])

OWN_KEYS = {
    "arch.num_devices", "arch.num_seeds", "arch.batch", "arch.gradient_chunk_size", "system.name", "system.seed",
    "system.total_timesteps", "system.num_updates", "network.name",
}  # fmt: skip
"""What the preset leaves as it is: how things are computed, names, the seed and the budget."""

NOT_OURS = {
    "system.shuffle_agents": "HASAC's agents are always improved in a drawn order",
    "system.normalise_value_targets": "Mava's code does not read it",
    "network.use_rmsnorm": "False: layer normalisation, which ours always is",
    "network.use_swiglu": "False: two layers, which ours always are",
    "network.memory_config.type": "the system's name says it",
    "network.memory_config.agents_chunk_size": "null: all agents at once, which ours always are",
    "network.memory_config.timestep_positional_encoding": "rec_sable of ours always has it",
    "network.mixer_network.norm_env_states": "True: ours always normalises the state",
}
"""Keys of Mava's that our configs lack, and why nothing stands for them."""

RENAMED = {
    "network.n_block": "network.net_config.n_block",
    "network.n_head": "network.net_config.n_head",
    "network.embed_dim": "network.net_config.embed_dim",
    "system.qmix_embed_dim": "network.mixer_network.embed_dim",
}

PER_ENVIRONMENT = 16
TRANSLATED: Mapping[tuple[str, str], Any] = {
    ("rec_iql", "system.buffer_size"): 5000 * PER_ENVIRONMENT,
    ("rec_qmix", "system.buffer_size"): 1000 * PER_ENVIRONMENT,
    ("rec_iql", "system.min_buffer_size"): 32 * PER_ENVIRONMENT,
    ("rec_qmix", "system.min_buffer_size"): 32 * PER_ENVIRONMENT,
    ("rec_iql", "system.sample_sequence_length"): 20 - 1,
    ("rec_qmix", "system.sample_sequence_length"): 20 - 1,
    ("rec_iql", "system.max_grad_norm"): 10 / 2,
    ("rec_qmix", "system.max_grad_norm"): 1e9,
    **{(name, "system.policy_update_delay"): 1 for name in ("ff_isac", "ff_masac", "ff_hasac")},
    **{(name, "system.target_entropy_scale"): 0.0 for name in ("ff_isac", "ff_masac", "ff_hasac")},
    **{(name, "system.init_alpha"): 1.0 for name in ("ff_isac", "ff_masac")},
}
"""What Mava's numbers come to in our meaning of the key; the preset's files say why."""

BESIDES = {
    **{name: {"system.vf_clip_eps": 0.2, "system.normalize_values": False} for name in
       ("ff_ippo", "ff_mappo", "rec_ippo", "rec_mappo", "ff_sable", "rec_sable")},
    "mat": {"system.vf_clip_eps": 0.1, "system.normalize_values": False, "network.net_config.attention_gain": 0.01},
    **{name: {"system.burn_in_length": 0, "system.double_q": True} for name in
       ("rec_iql", "rec_qmix")},
    **{name: {"system.scale_init_alpha": False} for name in ("ff_isac", "ff_masac", "ff_hasac")},
}  # fmt: skip
"""Keys of ours for what is fixed in Mava's code."""


def leaves(node: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in node.items():
        yield from leaves(value, f"{prefix}{key}.") if isinstance(value, Mapping) else [(f"{prefix}{key}", value)]


def ours(system: str, mavas: str) -> str:
    """Our key for one of Mava's."""
    if system in ("ff_isac", "ff_masac", "ff_hasac"):
        mavas = mavas.replace("network.critic_network.", "network.q_network.")
    return RENAMED.get(mavas, mavas)


def is_read(system: str, key: str) -> bool:
    """Whether a system of Mava's reads a key: rnn.yaml has the networks of all recurrent systems."""
    if not key.startswith("network.") or RECORDED["systems"][system]["files"][1] != "network/rnn.yaml":
        return True
    return ("q_network" not in key) if system != "rec_iql" else ("actor_" not in key and "critic_" not in key)


def set_in_files(name: str) -> set[str]:
    """The keys that a file of the preset and those that it begins with set."""
    raw = yaml.safe_load((CONFIG_DIR / "preset" / "mava" / f"{name}.yaml").read_text())
    found: set[str] = set()
    for base in raw.pop("defaults", []):
        found |= set_in_files(base.removeprefix("/preset/mava/"))
    return found | {key for key, _ in leaves(raw)}


@pytest.mark.parametrize("system", SYSTEMS)
def test_the_preset_is_what_mavas_files_say(system: str) -> None:
    composed = compose(system, ["+preset=mava"])
    parse_config(composed)
    found = dict(leaves(composed))
    recorded = {"arch": RECORDED["arch"], **RECORDED["systems"][system]}
    expected = dict(BESIDES.get(system, {}))
    for group in ("arch", "system", "network"):
        for key, value in leaves(recorded[group], f"{group}."):
            if key not in NOT_OURS and is_read(system, key):
                expected[ours(system, key)] = TRANSLATED.get((system, key), value)
    assert {key: found.get(key, "missing") for key in expected} == expected
    assert found["arch.stagger_episodes"] is False


@pytest.mark.parametrize("system", SYSTEMS)
def test_the_preset_leaves_nothing_to_our_defaults(system: str) -> None:
    """Whatever ours become, the preset stays: it sets every key of the system, the networks and the layout."""
    groups = ("arch.", "system.", "network.")
    keys = {key for key, _ in leaves(compose(system)) if key.startswith(groups)}
    assert keys - set_in_files(system) == OWN_KEYS | {"arch.architecture_name"}
    assert set_in_files(system) <= keys


def test_the_preset_has_every_system_that_mava_has() -> None:
    assert set(ALGORITHMS) - set(SYSTEMS) == {"ff_iql"}
    assert {path.stem for path in (CONFIG_DIR / "preset" / "mava").glob("*.yaml")} == set(SYSTEMS)


def test_what_is_asked_for_comes_after_the_preset() -> None:
    """Wherever it stands on the command line; the game and the budget are not the preset's."""
    words = ["system.actor_lr=0.5", "+preset=mava", "arch.num_envs=8", "env/scenario=p-short"]
    composed, plain = compose("ff_mappo", words), compose("ff_mappo", ["env/scenario=p-short"])
    assert (composed["system"]["actor_lr"], composed["arch"]["num_envs"]) == (0.5, 8)
    assert composed["system"]["critic_lr"] == 2.5e-4
    assert {name: composed[name] for name in ("env", "logger", "vault")} == {
        name: plain[name] for name in ("env", "logger", "vault")
    }
    assert composed["system"]["total_timesteps"] == plain["system"]["total_timesteps"]
    assert compose("rec_qmix", ["+preset=mava"])["env"]["shared_reward"] is True


@pytest.mark.parametrize(
    ("system", "word", "message"),
    [
        ("ff_mappo", "+preset=maba", "+preset=maba: unknown preset; did you mean mava? choose one of mava"),
        ("ff_mappo", "+preset=", "+preset=: unknown preset; choose one of mava"),
        ("ff_mappo", "preset=mava", "preset=mava: a preset is added to a config; write +preset=mava"),
        ("ff_mappo", "++preset=mava", "++preset=mava: a preset is added to a config; write +preset=mava"),
        (
            "ff_iql", "+preset=mava",
            f"+preset=mava: the preset has no ff_iql; leave it out, or choose one of {', '.join(SYSTEMS)}",
        ),
    ],
)  # fmt: skip
def test_a_preset_that_cannot_be_is_one_line(system: str, word: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        compose(system, [word])
    assert str(caught.value) == message


def test_an_engine_with_its_own_configs_has_no_presets() -> None:
    with pytest.raises(ConfigError) as caught:
        expand_presets(None, "ff_mappo", ["arch.num_envs=8", "+preset=mava"])
    assert str(caught.value) == (
        "+preset=mava: presets are for our own systems, ENGINE=mava has Mava's own defaults; leave it out"
    )


def test_a_command_line_hands_hydra_the_systems_own_file() -> None:
    asked = CommandLine.read(["--config-name=mat", "+preset=mava", "system.gamma=0.5"], "ff_ippo")
    assert asked.for_config("mat") == ["--config-name=mat", "+preset=mava/mat", "system.gamma=0.5"]
    assert get_engine("native").tree().words("mat", ["vault=none"]) == ["vault=none"]


def test_several_runs_keep_the_preset_with_its_sign(tmp_path: Path) -> None:
    """So that the sweep on disk can be composed again."""
    words = ["-m", "--config-name=ff_mappo,mat", "+preset=mava", "system.gamma=0.9,0.99"]
    plan = Plan.make(CommandLine.read([*words, f"logger.base_exp_path={tmp_path}"], "ff_ippo"))
    assert [job.mapping["system"]["actor_lr"] for job in plan.jobs] == [2.5e-4, 2.5e-4, 5e-4, 5e-4]
    assert plan.overrides == {"+preset": "mava", "logger.base_exp_path": str(tmp_path)}
