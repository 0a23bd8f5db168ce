"""What an experiment keeps in its trial's folder, whichever engine plays it."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np

from jax_party.config import VaultConfig
from jax_party.judging.aggregate import aggregate_metrics
from jax_party.judging.scores import EXTRA, evaluations_by_step
from jax_party.training.vault import VaultWriter
from jax_party.trial.folder import read_config
from jax_party.trial.metrics import read_metrics
from jax_party.trial.provenance import current_provenance
from jax_party.trial.record import TrialRecord, VaultEntry
from jax_party.trial.states import FINISHED

VAULT_KINDS: Final = ("train", "test")


def open_vaults(
    folder: Path, record: TrialRecord, config: VaultConfig, seed: int, rows: Mapping[str, int]
) -> dict[str, VaultWriter]:
    """The vaults of one seed, by kind: those that are wanted.

    Args:
      folder: the trial's.
      record: the trial's.
      config: what is recorded.
      seed: whose they are.
      rows: batch rows of each kind, for what `max_transitions` allows.

    Raises:
      VaultError: another process is writing one of them.
    """
    wanted = {"train": config.record_train, "test": config.record_test}
    vaults: dict[str, VaultWriter] = {}
    try:
        for kind in VAULT_KINDS:
            if not wanted[kind]:
                continue
            limit = None if config.max_transitions is None else config.max_transitions // rows[kind]
            metadata = {
                "trial_id": record.trial_id,
                "kind": kind,
                "seed": seed,
                "config": read_config(folder),
                "provenance": current_provenance(),
            }
            of_seed = f"-s{seed}" if record.num_seeds > 1 else ""
            uid = f"{record.trial_id}{of_seed}" + ("-test" if kind == "test" else "")
            vaults[kind] = VaultWriter(folder, uid, metadata, limit)
    except BaseException:
        for vault in vaults.values():
            vault.close()
        raise
    return vaults


def vault_entries(of_seeds: Iterable[Mapping[str, VaultWriter]]) -> tuple[VaultEntry, ...]:
    """What the record says of the vaults of all seeds."""
    return tuple(
        VaultEntry(vaults[kind].uid, kind, vaults[kind].rows, vaults[kind].steps)
        for kind, vaults in itertools.product(VAULT_KINDS, list(of_seeds))
        if kind in vaults
    )


def vault_behind(vaults: Mapping[str, VaultWriter], kept: Mapping[str, Any]) -> str | None:
    """Which vault holds less than it did when a checkpoint was saved.

    Args:
      vaults: by kind.
      kept: steps of each kind, as the checkpoint has them.
    """
    for kind, vault in vaults.items():
        steps = int(kept[kind])
        if vault.steps < steps:
            return f"is ahead of vault {vault.uid}, which holds {vault.steps} of {steps} steps"
    return None


def vault_steps(vaults: Mapping[str, VaultWriter]) -> dict[str, np.ndarray]:
    """The steps that each kind holds, for a checkpoint; 0 where it is not recorded."""
    return {kind: np.asarray(vaults[kind].steps if kind in vaults else 0, np.int64) for kind in VAULT_KINDS}


def episode_means(episodes: Mapping[str, np.ndarray]) -> dict[str, float | None]:
    """Metric -> mean over episodes; None where that is not finite."""
    means = {name: float(np.mean(values)) for name, values in episodes.items()}
    return {name: mean if math.isfinite(mean) else None for name, mean in means.items()}


def standard_errors(episodes: Mapping[str, np.ndarray], metrics: Iterable[str]) -> dict[str, float | None]:
    """Metric -> the standard error of its mean over episodes, `sd / sqrt(K)`; None for fewer than two episodes."""
    found: dict[str, float | None] = {}
    for name in metrics:
        values = np.asarray(episodes.get(name, ()), np.float64)
        error = float(np.std(values, ddof=1) / math.sqrt(len(values))) if len(values) > 1 else math.nan
        found[name] = error if math.isfinite(error) else None
    return found


def missing_rows(folder: Path, rows: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Those of the closing rows that a killed attempt has not written already."""
    there = {_closing(row) for row in read_metrics(folder)}
    return [row for row in rows if _closing(row) not in there]


def _closing(row: Mapping[str, Any]) -> tuple[Any, ...]:
    return row.get("seed"), *(bool(row.get(flag)) for flag in EXTRA)


def episode_lists(episodes: Mapping[str, np.ndarray]) -> dict[str, list[float]]:
    """The lists that marl-eval's file keeps."""
    return {name: [float(value) for value in values] for name, values in episodes.items() if "_agent_" not in name}


def last_result(folder: Path, record: TrialRecord) -> dict[str, Any]:
    """What an experiment's `step` gives: the last evaluation in the folder, seeds aggregated as the objective says."""
    evaluations = evaluations_by_step(read_metrics(folder), record.num_seeds)
    step, rows = list(evaluations.items())[-1] if evaluations else (0, [])
    metrics = aggregate_metrics([row["evaluate"] for row in rows], record.objective.aggregate)
    return {
        "evaluation": rows[0]["evaluation"] if rows else 0,
        "env_steps": step,
        "steps_per_second": record.steps_per_second,
        "finished": record.state in FINISHED,
        **({"untrained": True} if any(row.get("untrained") for row in rows) else {}),
        **{name: math.nan if value is None else value for name, value in metrics.items()},
    }
