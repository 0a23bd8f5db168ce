"""`python -m jax_party.run`, as a user calls it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from jax_party.trial.folder import read_record, update_record
from jax_party.trial.states import State

ROOT = Path(__file__).parents[2]


def _call(*words: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"COLUMNS": "200", "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, "-m", "jax_party.run", *words], cwd=cwd, env=environment, capture_output=True, text=True,
        timeout=300,
    )  # fmt: skip


def test_a_run_says_what_it_did(tiny_overrides: Callable[[str], tuple[str, ...]], tmp_path: Path) -> None:
    overrides = [
        o for o in tiny_overrides("ff_ippo") if not o.startswith(("logger.use_console", "arch.num_evaluation"))
    ]
    done = _call(
        "--config-name", "ff_ippo", *overrides, "arch.num_evaluation=2", "system.total_timesteps=200",
        f"logger.base_exp_path={tmp_path}", "logger.run_name=look",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    text = done.stdout
    assert "ff_ippo on JaxParty/p-short, seed 42: 256 steps in 2 evaluations" in text
    assert "note: budget of 200 steps in 2 evaluations becomes 256 steps in 2: whole updates of 64 steps" in text
    assert re.search(r"step\s+128\s+return .* steps/s", text)
    assert re.search(r"compile time [\d.]+ s, training [\d,]+ steps/s", text)
    assert "cooperation_rate" in text and "absolute (best parameters)" in text
    folders = list(tmp_path.glob("ff_ippo/*/*-look"))
    assert len(folders) == 1 and str(folders[0]) in text
    record = read_record(folders[0])
    assert (record.state, record.env_steps) == ("COMPLETE", 256)
    assert {path.name for path in folders[0].iterdir()} >= {
        "config.yaml", "record.json", "metrics", "checkpoints", "vaults",
    }  # fmt: skip

    again = _call("--resume", str(folders[0]))
    assert again.returncode == 0, again.stderr
    assert "cooperation_rate" in again.stdout
    assert read_record(folders[0]).attempts == 1

    update_record(folders[0], state=State.FAILED, error="TrainingDiverged: policy_loss became nan")
    failed = _call("--resume", str(folders[0]))
    assert failed.returncode == 2
    assert "TrainingDiverged: policy_loss became nan" in failed.stderr
    assert len(failed.stderr.strip().splitlines()) == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["system.actor_lrr=1"], "ConfigError: system.actor_lrr: unknown; did you mean actor_lr?"),
        (["system.actor_lr=fast"], "ConfigError: system.actor_lr: 'fast' is not valid: input should be a number"),
        (["env/scenario=p-shrt"], "ConfigError: env/scenario=p-shrt: unknown option; did you mean p-short?"),
        (["--config-name", "ff_mapo"], "ConfigError: --config-name ff_mapo: unknown; did you mean ff_mappo?"),
        (
            ["system.num_minibatches=3"],
            "ConfigError: system.num_minibatches: 3 does not divide arch.num_envs × system.rollout_length = 4096",
        ),
        (["--resume", "nowhere"], "RecordError: nowhere/config.yaml: no such file"),
        (["--resume"], "JaxPartyError: --resume: name one run folder"),
        (["logger.base_exp_path=/proc/nowhere"], "RecordError: logger.base_exp_path: /proc/nowhere"),
    ],
    ids=lambda value: " ".join(value)[:30] if isinstance(value, list) else "",
)
def test_a_bad_input_gets_one_line(words: list[str], message: str, tmp_path: Path) -> None:
    done = _call(*words, cwd=tmp_path)
    assert done.returncode == 2, done.stdout + done.stderr
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith(message)
    assert done.stdout == ""
    assert list(tmp_path.iterdir()) == []


def test_the_game_registers_twice() -> None:
    import jumanji

    from jax_party import register_JaxParty

    register_JaxParty()
    register_JaxParty()
    env: Any = jumanji.make("JaxParty-v0", num_agents=4)
    assert env.num_agents == 4


def test_the_entry_point_is_there() -> None:
    import jax_party

    entry: Callable[..., None] = jax_party.hydra_entry_point
    assert callable(entry)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = jax_party.nothing
