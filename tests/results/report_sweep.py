"""A synthetic sweep with all that a report shows: algorithms, scenarios, seeds, promotions, failures, retries."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import yaml
from synthetic_sweep import yaml_lines

from jax_party.judging.objectives import Objective
from jax_party.trial.folder import read_record, update_record
from jax_party.trial.identity import label_of
from jax_party.trial.manifest import SweepManifest, write_manifest
from jax_party.trial.record import Takeover, TrialRecord
from jax_party.trial.states import State

STEPS = (100, 200, 300, 400)
BEGIN = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
OBJECTIVE = Objective("episode_return", "max")


def final_return(algorithm: int, scenario: int, configuration: int, seed: int) -> float:
    """MAPPO (1) is 5 above IPPO (0); the second scenario pays ten times as much; seeds are 1 apart."""
    return (20.0 + 5 * algorithm - 2 * configuration + seed) * (10.0 if scenario else 1.0)


def metrics_at(final: float, part: float) -> dict[str, float]:
    """What an evaluation gave after a part of the budget."""
    cooperation = 0.2 + 0.6 * part
    return {
        "episode_return": final * part, "cooperation_rate": cooperation, "outcome_share_cc": cooperation - 0.1,
        "outcome_share_cd": 0.2, "outcome_share_dd": 0.9 - cooperation, "welfare_per_step": 2 + 4 * part,
        "equality": 0.8 + final / 10_000, "leader_change_rate": 0.1,
    }  # fmt: skip


def manifest(
    algorithms: Sequence[str],
    scenarios: Sequence[str],
    trials: int,
    objective: Objective = OBJECTIVE,
    scenario_mode: str = "grid",
) -> SweepManifest:
    return SweepManifest(
        name="demo", algorithm=label_of(algorithms), algorithms=tuple(algorithms),
        created="2026-01-02T03:04:05+00:00", num_trials=trials, objective=objective, seed=1, search="random",
        scenario_mode=scenario_mode,
        space={
            "system.actor_lr": {"type": "loguniform", "low": 1e-4, "high": 1e-1},
            "system.clip_eps": {"type": "choice", "values": [0.1, 0.2, 0.3]},
            "system.gae_lambda": {"type": "uniform", "low": 0.9, "high": 1.0},
        },
        overrides={"env/scenario": list(scenarios)},
        provenance={"git_sha": "0123abc", "git_dirty": False, "versions": {"jax": "0.10.2"}, "host": "alpha",
                    "python": "3.11.7", "platform": "Linux", "command": "python -m launcher.sweep ALG=ippo,mappo"},
    )  # fmt: skip


def hyperparameters(configuration: int) -> dict[str, Any]:
    return {
        "system.actor_lr": 1e-4 * 2 ** (configuration % 10),
        "system.clip_eps": (0.1, 0.2, 0.3)[configuration % 3],
        "system.gae_lambda": 0.9 + 0.01 * ((configuration * 7) % 10),
    }


def write_trial(folder: Path, record: TrialRecord, finals: Sequence[float], steps: Sequence[int] = STEPS) -> Path:
    """A trial's folder as it is left, written without syncing; a score a seed."""
    trial = folder / record.trial_id
    (trial / "metrics").mkdir(parents=True)
    config = {"system": {"name": record.algorithm}, "arch": {"num_devices": 1}}
    (trial / "config.yaml").write_text("\n".join(yaml_lines(config)) + "\n")
    lines = [
        {
            "evaluation": number,
            "step": step,
            "seed": record.seed + seed,
            "evaluate": metrics_at(final, step / STEPS[-1]),
        }
        for number, step in enumerate(steps, start=1)
        for seed, final in enumerate(finals)
    ]
    if record.state is State.COMPLETE:
        lines += [
            {"step": steps[-1], "seed": record.seed + seed, flag: True, "evaluate": metrics_at(final, 1.0)}
            for flag in ("final", "absolute")
            for seed, final in enumerate(finals)
        ]
        means = metrics_at(sum(finals) / len(finals), 1.0)
        record = dataclasses.replace(record, final_metrics=means, absolute_metrics=means)
    (trial / "metrics" / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (trial / "record.json").write_text(json.dumps(record.to_dict()))
    return trial


def record_of(
    number: int, algorithm: str, scenario: str, configuration: int, seeds: int, **changes: Any
) -> TrialRecord:
    begin = BEGIN + timedelta(minutes=2 * (number // 2))
    values: dict[str, Any] = {
        "trial_id": f"demo-{number:08x}", "number": number, "sweep": "demo", "algorithm": algorithm,
        "environment": "JaxParty", "scenario": scenario, "seed": 0, "num_seeds": seeds,
        "hyperparameters": hyperparameters(configuration), "objective": OBJECTIVE, "state": State.COMPLETE,
        "attempts": 1, "started_at": begin.isoformat(), "ended_at": (begin + timedelta(minutes=2)).isoformat(),
        "duration_s": 120.0, "device": "cpu:1", "host": "alpha", "versions": {"jax": "0.10.2"},
        "compile_time_s": 3.0, "compile_cache": "disk" if number else "miss", "steps_per_second": 1000.0 + number,
        "env_steps": 400, "total_steps": 400, "checkpoint": "checkpoints/400",
    }  # fmt: skip
    return TrialRecord(**{**values, **changes})


def make(
    folder: Path,
    algorithms: Sequence[str] = ("ff_ippo", "ff_mappo"),
    scenarios: Sequence[str] = ("p-base", "p-no-rank"),
    configurations: int = 3,
    seeds: int = 3,
    objective: Objective = OBJECTIVE,
    scenario_mode: str = "grid",
    **changes: Any,
) -> Path:
    """A sweep of every configuration of every algorithm in every scenario, all complete."""
    count = len(algorithms) * len(scenarios) * configurations
    write_manifest(folder, manifest(algorithms, scenarios, count, objective, scenario_mode))
    number = 0
    for configuration in range(configurations):
        for place, algorithm in enumerate(algorithms):
            for where, scenario in enumerate(scenarios):
                finals = [final_return(place, where, configuration, seed) for seed in range(seeds)]
                record = record_of(number, algorithm, scenario, configuration, seeds, objective=objective, **changes)
                write_trial(folder, record, finals)
                number += 1
    return folder


def rewrite(folder: Path, number: int, finals: Sequence[float]) -> None:
    """Give a trial other scores."""
    trial = folder / f"demo-{number:08x}"
    record = read_record(trial)
    shutil.rmtree(trial)
    write_trial(folder, record, finals)


def add_incidents(folder: Path) -> None:
    """A promotion of trial 0 on ten fresh seeds, a failure, a trial tried again, and a takeover."""
    fresh = record_of(100, "ff_ippo", "p-base", 0, 10, promoted_from="demo-00000000", seed=1000)
    write_trial(folder, fresh, [18.0 + seed for seed in range(10)])
    change(folder / "demo-00000004", state=State.FAILED, error="OOM </script><b>out of memory</b>")
    change(folder / "demo-00000005", retries=("2026-01-02T03:05:00+00:00 the worker process died",), attempts=2)
    change(folder / "demo-00000006", lineage=(Takeover(200, "demo-0000000a", 300, {"system.actor_lr": 0.5}),))


def change(trial: Path, **changes: Any) -> None:
    update_record(trial, **changes)


def composed(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((folder / "sweep.yaml").read_text())
    return found
