"""A synthetic sweep: folders as trials leave them, without training anything."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from jax_party.judging.objectives import Objective
from jax_party.trial.folder import create_trial_folder, update_record
from jax_party.trial.identity import new_trial_id
from jax_party.trial.manifest import SweepManifest, write_manifest
from jax_party.trial.metrics import append_metrics
from jax_party.trial.record import TrialRecord, VaultEntry
from jax_party.trial.states import State

EVALUATIONS = 3


def config_of(number: int) -> dict[str, Any]:
    return {
        "system": {"actor_lr": 0.001 * (number + 1), "ppo_epochs": 4, "add_agent_id": True, "decay": None},
        "network": {"layers": [64, 64], "activation": "relu"},
        "arch": {"num_envs": 16},
    }


def record_of(number: int, **changes: Any) -> TrialRecord:
    config = config_of(number)
    values: dict[str, Any] = {
        "trial_id": new_trial_id("demo", config, 42 + number),
        "number": number,
        "sweep": "demo",
        "algorithm": "ff_mappo",
        "environment": "JaxParty",
        "scenario": "p-base",
        "seed": 42 + number,
        "hyperparameters": {"system.actor_lr": config["system"]["actor_lr"]},
        "objective": Objective("episode_return", "max", at="best"),
        "versions": {"jax": "0.10.2"},
        "total_steps": 300,
    }
    return TrialRecord(**{**values, **changes})


def row_of(number: int, evaluation: int) -> dict[str, Any]:
    """Returns rise to the second evaluation and fall again; a trial's are 10 above those of the one before it."""
    value = 10.0 * number + (1.0, 5.0, 3.0)[(evaluation - 1) % 3]
    return {
        "evaluation": evaluation,
        "step": 100 * evaluation,
        "seed": 42 + number,
        "wall_time_s": 2.0 + evaluation,
        "evaluate": {"episode_return": value, "episode_length": 7.0},
        "episodes": {"episode_return": [value - 1, value + 1]},
        "train": {"policy_loss": 0.5},
    }


def complete(folder: Path, number: int) -> None:
    """A trial that ran to its end."""
    trial_id = record_of(number).trial_id
    for evaluation in range(1, EVALUATIONS + 1):
        append_metrics(folder, row_of(number, evaluation))
    absolute = {**row_of(number, EVALUATIONS), "absolute": True, "episodes": {"episode_return": [4.0, 6.0, 8.0]}}
    append_metrics(folder, absolute)
    update_record(
        folder, state=State.COMPLETE, attempts=1, started_at="2026-01-02T03:04:05+00:00", duration_s=12.5,
        device="cpu:1", env_steps=300, compile_time_s=1.5, steps_per_second=2000.0, checkpoint="checkpoints/300",
        git_dirty=False, absolute_metrics=absolute["evaluate"],
        vaults=(VaultEntry(trial_id, "train", 16, 300), VaultEntry(f"{trial_id}-test", "test", 8, 40)),
    )  # fmt: skip


def make_sweep(folder: Path, trials: int = 3, planned: int | None = None) -> Path:
    """A sweep of complete trials, and planned ones that have no folder yet."""
    manifest = SweepManifest(
        name="demo", algorithm="ff_mappo", algorithms=("ff_mappo",), created="2026-01-02T03:04:05+00:00",
        num_trials=planned or trials,
        objective=Objective("episode_return", "max", at="best"), seed=1, search="random", scheduler=None,
        space={"system.actor_lr": {"type": "log_uniform", "low": 1e-4, "high": 1e-2}}, overrides=["arch.num_envs=16"],
    )  # fmt: skip
    write_manifest(folder, manifest)
    for number in range(trials):
        trial = folder / record_of(number).trial_id
        create_trial_folder(trial, config_of(number), record_of(number))
        complete(trial, number)
    return folder


def make_large_sweep(folder: Path, trials: int, evaluations: int) -> Path:
    """A sweep of many trials, written without syncing, with metrics as wide as real ones."""
    make_sweep(folder, trials=1, planned=trials)
    for number in range(1, trials):
        record = record_of(number, state=State.COMPLETE)
        trial = folder / record.trial_id
        (trial / "metrics").mkdir(parents=True)
        config = config_of(number) | {"env": {f"key_{key}": key for key in range(80)}}
        (trial / "config.yaml").write_text("\n".join(yaml_lines(config)) + "\n")
        rows = [wide_row(number, evaluation) for evaluation in range(1, evaluations + 1)]
        (trial / "metrics" / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        (trial / "record.json").write_text(json.dumps(record.to_dict()))
    return folder


def wide_row(number: int, evaluation: int) -> dict[str, Any]:
    row = row_of(number, evaluation)
    row["evaluate"] |= {f"metric_{index}": index + 0.5 for index in range(20)}
    row["episodes"] = {"episode_return": [0.123456789 * index for index in range(64)]}
    return row


def yaml_lines(config: dict[str, Any], indent: str = "") -> list[str]:
    lines = []
    for key, value in config.items():
        if isinstance(value, dict):
            lines += [f"{indent}{key}:", *yaml_lines(value, indent + "  ")]
        else:
            lines.append(f"{indent}{key}: {json.dumps(value)}")
    return lines
