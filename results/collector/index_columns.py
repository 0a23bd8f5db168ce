"""The columns of the index that every sweep has."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import pandas as pd

from jax_party.trial.record import TrialRecord

INDEX_FILE: Final = "index.parquet"
INDEX_CSV_FILE: Final = "index.csv"
#: What a trial is; the columns of hyperparameters come between these and `OUTCOME_COLUMNS`.
IDENTITY_COLUMNS: Final[Mapping[str, str]] = {
    "sweep": "str",
    "number": "Int64",
    "trial_id": "str",
    "engine": "str",
    "algorithm": "str",
    "environment": "str",
    "scenario": "str",
    "configuration": "str",
    "num_seeds": "Int64",
    "seed": "Int64",
}
#: What became of it; the columns of metrics come between these and `PLACE_COLUMNS`.
OUTCOME_COLUMNS: Final[Mapping[str, str]] = {
    "state": "str",
    "error": "str",
    "attempts": "Int64",
    "retries": "str",
    "started_at": "str",
    "ended_at": "str",
    "spans": "str",
    "duration_s": "float64",
    "device": "str",
    "host": "str",
    "engine_version": "str",
    "git_sha": "str",
    "git_dirty": "boolean",
    "jax_version": "str",
    "compile_signature": "str",
    "compile_time_s": "float64",
    "compile_time_saved_s": "float64",
    "compile_cache": "str",
    "batch": "str",
    "steps_per_second": "float64",
    "env_steps": "Int64",
    "total_steps": "Int64",
    "objective.metric": "str",
    "objective.mode": "str",
    "objective.aggregate": "str",
    "objective.at": "str",
    "objective.source": "str",
    "objective.step": "Int64",
    "objective.value": "float64",
    "objective.se": "float64",
    "objective.std": "float64",
    "objective.min": "float64",
    "objective.max": "float64",
    "objective.seed_values": "str",
    "objective.over_scenarios": "float64",
    "objective.feasible": "boolean",
    "objective.pareto": "boolean",
    "settled": "boolean",
    "motion": "str",
    "trend": "float64",
    "trend.se": "float64",
    "enough_steps": "Int64",
    "score": "float64",
    "standing": "Int64",
    "provisional": "boolean",
    "lineage": "str",
    "evaluations": "Int64",
    "best_step": "Int64",
    "promoted_from": "str",
    "fresh.value": "float64",
    "fresh.low": "float64",
    "fresh.high": "float64",
    "fresh.num_seeds": "Int64",
    "fresh.estimator": "str",
    "tests": "Int64",
    "test_seeds_reused": "boolean",
    "optimism_gap": "float64",
    "fresh.over_scenarios.value": "float64",
    "fresh.over_scenarios.low": "float64",
    "fresh.over_scenarios.high": "float64",
    "optimism_gap.over_scenarios": "float64",
}
#: Where its files are; the columns of the config come after these.
PLACE_COLUMNS: Final[Mapping[str, str]] = {
    f"vault.{kind}.{name}": dtype
    for kind in ("train", "test")
    for name, dtype in {"uid": "str", "rows": "Int64", "steps": "Int64", "path": "str"}.items()
} | {"checkpoint": "str", "folder": "str"}
METRIC_PREFIXES: Final = ("last.", "best.", "final.", "absolute.")
FIXED_COLUMNS: Final = {**IDENTITY_COLUMNS, **OUTCOME_COLUMNS, **PLACE_COLUMNS}
COPIED_COLUMNS: Final = [
    name for name in FIXED_COLUMNS if name in TrialRecord.__dataclass_fields__ and name != "checkpoint"
]


def hyperparameter_columns(index: pd.DataFrame) -> list[str]:
    """Return the columns of sampled hyperparameters: those between `seed` and `state`."""
    names = [str(name) for name in index.columns]
    return names[names.index("seed") + 1 : names.index("state")]
