"""Tiny trials of any engine, and whether Mava is there."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from flashbax.vault import Vault

import mava_configs
from jax_party.engines import Engine, get_engine
from jax_party.errors import ConfigError
from jax_party.judging.objectives import Objective
from jax_party.judging.scores import ABSOLUTE, FINAL, UNTRAINED
from jax_party.trial.folder import create_trial_folder, read_record
from jax_party.trial.metrics import read_metrics
from jax_party.trial.record import TrialRecord

TINY = (
    "env/scenario=p-short", "env.scenario.task_config.time_limit=16", "arch.num_envs=4", "arch.num_eval_episodes=4",
    "arch.num_absolute_metric_eval_episodes=8", "arch.num_evaluation=3",
)  # fmt: skip
ON_POLICY = (
    "system.update_batch_size=1", "system.rollout_length=32", "system.total_timesteps=768", "system.ppo_epochs=2",
)  # fmt: skip
OFF_POLICY = (
    "system.update_batch_size=1", "system.rollout_length=8", "system.total_timesteps=768", "system.sample_batch_size=4",
    "system.epochs=2",
)  # fmt: skip


def _missing() -> str | None:
    try:
        get_engine("mava").check()
    except ConfigError as error:
        return str(error)
    return None


MISSING = _missing()
"""Why Mava cannot be run here, or None."""


def tiny_overrides(algorithm: str) -> list[str]:
    """Settings with which a system compiles and runs in seconds."""
    off_policy = algorithm in ("rec_iql", "rec_qmix")
    return [*TINY, *(OFF_POLICY if off_policy else ON_POLICY)]


class Trial:
    """A trial's folder, and what plays it."""

    def __init__(
        self, engine: Engine, folder: Path, algorithm: str, *overrides: str, objective: Objective | None = None
    ) -> None:
        self.engine, self.folder = engine, folder
        mapping = mava_configs.compose(algorithm, [*tiny_overrides(algorithm), *overrides], engine.name)
        self.config = engine.parse(mapping)
        self.outline = engine.outline(self.config)
        record = TrialRecord(
            trial_id="tiny",
            engine=engine.name,
            algorithm=algorithm,
            environment=self.outline.environment,
            scenario=self.outline.scenario,
            seed=self.outline.seed,
            num_seeds=self.outline.num_seeds,
            **({} if objective is None else {"objective": objective}),
        )
        create_trial_folder(folder, mapping, record)

    @property
    def record(self) -> TrialRecord:
        """As it is on disk."""
        return read_record(self.folder)

    def play(self, periods: int | None = None) -> list[dict[str, Any]]:
        """Take it up and play so many periods more, or all; then let go of it."""
        experiment = self.engine.experiment()(self.config, self.folder)
        results: list[dict[str, Any]] = []
        try:
            while not experiment.finished and (periods is None or len(results) < periods):
                results.append(experiment.step())
        finally:
            experiment.close()
            experiment.close()
        return results


def places_of(trial: Trial, seeds: Sequence[int] = (42,)) -> list[tuple[int, str]]:
    """The step and flag of each line of metrics.jsonl; of several seeds, which go side by side, one line for all."""
    rows = read_metrics(trial.folder)
    groups = [rows[place : place + len(seeds)] for place in range(0, len(rows), len(seeds))]
    places = []
    for group in groups:
        assert [row["seed"] for row in group] == list(seeds), "a line is missing or there twice"
        told = {(row["step"], "".join(flag for flag in (UNTRAINED, FINAL, ABSOLUTE) if row.get(flag))) for row in group}
        assert len(told) == 1
        places.append(told.pop())
    return places


PLACES = [(0, UNTRAINED), (256, ""), (512, ""), (768, ""), (768, FINAL), (768, ABSOLUTE)]
"""What `places_of` gives of a tiny trial that is complete."""


def vaults_of(trial: Any) -> dict[str, dict[str, np.ndarray]]:
    """Kind -> field -> what its vault holds."""
    found = {}
    for entry in trial.record.vaults:
        vault = Vault(rel_dir=str(trial.folder / "vaults"), vault_name="jax_party", vault_uid=entry.uid)
        experience = vault.read().experience
        found[entry.kind] = {name: np.asarray(field) for name, field in experience.items()}
    return found
