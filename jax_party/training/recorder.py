"""What an experiment keeps in its trial's folder, whichever engine plays it."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NoReturn

import numpy as np

from jax_party.config import Budget, VaultConfig
from jax_party.errors import JaxPartyError, TrainingDiverged
from jax_party.judging.aggregate import aggregate_metrics
from jax_party.judging.scores import EXTRA, evaluations_by_step
from jax_party.training.vault import VaultWriter
from jax_party.trial.folder import add_retry, read_config, read_record, update_record
from jax_party.trial.marl_eval import write_marl_eval
from jax_party.trial.metrics import append_metrics, read_metrics, truncate_metrics
from jax_party.trial.provenance import current_provenance, utc_timestamp
from jax_party.trial.record import TrialRecord, VaultEntry, spans_until_now
from jax_party.trial.states import FINISHED, State

VAULT_KINDS: Final = ("train", "test")
CLOCKS: Final = ("trained_seconds", "compile_seconds", "duration")
"""The clocks, in seconds, that a checkpoint stores."""


class Recorder:
    """Everything that an experiment writes to its trial's folder except checkpoints: vaults, metrics and the record.

    Args:
      folder: the trial's folder.
      budget: the trial's budget.
      seeds: the seeds of its learners, in their order.
      compiling: returns the record's current fields about compiling, including `compile_time_s`.

    Attributes:
      record: the trial's record, as it is on disk.
      vaults: for each seed, its vaults by kind.
      evaluations: evaluation periods played so far.
      trained_seconds: spent in updates so far, without compiling.
    """

    def __init__(
        self, folder: Path, budget: Budget, seeds: Sequence[int], compiling: Callable[[], dict[str, Any]]
    ) -> None:
        self.folder = folder
        self.budget = budget
        self.seeds = tuple(seeds)
        self.record: TrialRecord = read_record(folder)
        self.vaults: list[dict[str, VaultWriter]] = [{} for _ in self.seeds]
        self.evaluations = 0
        self.trained_seconds = 0.0
        self._compiling = compiling
        self._started = time.perf_counter()
        self._since = utc_timestamp()
        self._duration_before = 0.0

    @property
    def finished(self) -> bool:
        """Whether the trial has ended."""
        return self.record.state in FINISHED

    @property
    def env_steps(self) -> int:
        """Environment steps trained so far, per seed."""
        return self.evaluations * self.budget.steps_per_evaluation

    # -- Beginning and ending ------------------------------------------------------------------------------------------

    def open(self, config: VaultConfig, rows: Mapping[str, int]) -> None:
        """Open the vaults of every seed.

        Args:
          config: what is recorded.
          rows: the number of batch rows of each kind.

        Raises:
          VaultError: another process is writing one of them.
        """
        for place, seed in enumerate(self.seeds):
            self.vaults[place] = open_vaults(self.folder, self.record, config, seed, rows)

    def begin(self, **facts: Any) -> None:
        """Mark the trial in its record as RUNNING, with one more attempt and its host; `facts` are the engine's."""
        here = current_provenance()
        self.update(
            state=State.RUNNING,
            attempts=self.record.attempts + 1,
            started_at=self.record.started_at or utc_timestamp(),
            error=None,
            host=here["host"],
            git_sha=here["git_sha"],
            git_dirty=here["git_dirty"],
            versions=here["versions"],
            total_steps=self.budget.total_steps,
            **facts,
        )

    def close(self) -> None:
        """Close the vaults; calling it twice is fine."""
        for place, of_seed in enumerate(self.vaults):
            for vault in of_seed.values():
                vault.close()
            self.vaults[place] = {}

    def complete(self, final: Mapping[str, Any] | None, absolute: Mapping[str, Any] | None) -> None:
        """Mark the trial in its record as COMPLETE, with the metrics of its closing episodes."""
        self.update(state=State.COMPLETE, final_metrics=final, absolute_metrics=absolute, ended_at=utc_timestamp())

    def fail(self, kind: type[JaxPartyError], reason: str, remedy: str = "") -> NoReturn:
        """Mark the trial in its record as FAILED, and raise an error of this kind with the same reason."""
        self.update(state=State.FAILED, error=f"{kind.__name__}: {reason}", ended_at=utc_timestamp())
        raise kind(f"{self.record.trial_id}: {reason}{remedy}")

    def diverged(self, place: int, what: str, where: str) -> NoReturn:
        """Fail the trial because a value of one seed is not finite.

        Raises:
          TrainingDiverged: always.
        """
        of_seed = f"seed {self.seeds[place]}: " if len(self.seeds) > 1 else ""
        remedy = "; try a smaller learning rate or gradient norm"
        self.fail(TrainingDiverged, f"{of_seed}{what} in {where}", remedy)

    # -- A period ------------------------------------------------------------------------------------------------------

    def submit(self, place: int, kind: str, trajectory: Mapping[str, Any] | None) -> None:
        """Hand trajectories of a seed to its vault of this kind, if there is one."""
        if kind in self.vaults[place] and trajectory is not None:
            self.vaults[place][kind].submit(trajectory)

    def row(self, place: int, episodes: Mapping[str, np.ndarray], train: Mapping[str, float]) -> dict[str, Any]:
        """Return a line of metrics.jsonl: a seed's evaluation after the periods played so far."""
        return {
            "evaluation": self.evaluations,
            "step": self.env_steps,
            "seed": self.seeds[place],
            "wall_time_s": self.duration(),
            "evaluate": episode_means(episodes),
            "se": standard_errors(episodes, self.record.objective.metrics),
            "episodes": episode_lists(episodes),
            "train": train,
        }

    def add(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Append rows to the metrics; vaults are flushed first, so that no row refers to steps that they lack."""
        for of_seed in self.vaults:
            for vault in of_seed.values():
                vault.flush()
        append_metrics(self.folder, *rows)

    def add_closing(self, flag: str, of_seeds: Sequence[Mapping[str, np.ndarray]]) -> dict[str, float | None]:
        """Write a trial's last episodes, in rows with this flag; return their metrics, seeds aggregated."""
        rows = [self.row(place, episodes, {}) | {flag: True} for place, episodes in enumerate(of_seeds)]
        append_metrics(self.folder, *missing_rows(self.folder, rows))
        return aggregate_metrics([row["evaluate"] for row in rows], self.record.objective.aggregate)

    def write_marl_eval(self) -> None:
        """Bring marl-eval's file up to date."""
        write_marl_eval(self.folder)

    # -- Checkpoints ---------------------------------------------------------------------------------------------------

    def progress(self) -> dict[str, np.ndarray]:
        """Return what a checkpoint stores of the recorder; `progress_target` is its structure."""
        seconds = (self.trained_seconds, self.compile_seconds(), self.duration())
        kept = {name: np.asarray(value, np.float64) for name, value in zip(CLOCKS, seconds, strict=True)}
        return {"evaluations": np.asarray(self.evaluations, np.int32), **kept}

    def behind(self, vaults_kept: Iterable[Mapping[str, Any]]) -> str | None:
        """Return which vault holds less than it did when a checkpoint was saved; None if none does."""
        for of_seed, kept in zip(self.vaults, vaults_kept, strict=True):
            found = vault_behind(of_seed, kept)
            if found is not None:
                return found
        return None

    def begin_anew(self) -> None:
        """Cut off whatever an attempt without a checkpoint has left."""
        for of_seed in self.vaults:
            for vault in of_seed.values():
                vault.truncate(0)
        truncate_metrics(self.folder, -1)

    def go_on_from(self, progress: Mapping[str, Any], vaults_kept: Iterable[Mapping[str, Any]]) -> None:
        """Continue from a checkpoint: what was recorded after it is cut off."""
        self.evaluations = int(progress["evaluations"])
        self.trained_seconds = float(progress["trained_seconds"])
        self._duration_before = float(progress["duration"])
        for of_seed, kept in zip(self.vaults, vaults_kept, strict=True):
            for kind, vault in of_seed.items():
                vault.truncate(int(kept[kind]))
        truncate_metrics(self.folder, self.env_steps if self.evaluations else -1)

    def note_passed_over(self, passed_over: Sequence[str], step: int | None) -> None:
        """Note in the record which checkpoints could not be used, and where the trial continues instead."""
        if passed_over:
            where = "from the start" if step is None else f"from checkpoint {step}"
            again = [
                f", to take over {one.source} at step {one.step} again"
                for one in self.record.lineage
                if one.step > (step or 0)
            ]
            self.record = add_retry(self.folder, f"{', '.join(passed_over)}: went on {where}{''.join(again)}")

    # -- The record ----------------------------------------------------------------------------------------------------

    def update(self, **changes: Any) -> None:
        """Change the record, and bring its times, steps and vaults up to date."""
        if self.evaluations:
            changes |= {
                "env_steps": self.env_steps,
                "steps_per_second": self.env_steps * len(self.seeds) / max(self.trained_seconds, 1e-9),
                "vaults": vault_entries(self.vaults),
            }
        changes |= {"duration_s": self.duration(), **self._compiling()}
        changes["spans"] = spans_until_now(self.record, self._since)
        self.record = update_record(self.folder, **changes)

    def duration(self) -> float:
        """Return the seconds of work, summed over attempts up to the last finished period."""
        return self._duration_before + time.perf_counter() - self._started

    def compile_seconds(self) -> float:
        """Return the seconds spent tracing and compiling."""
        return float(self._compiling()["compile_time_s"])

    def last_result(self) -> dict[str, Any]:
        """Return the last result of the experiment's `step`."""
        return last_result(self.folder, self.record)


class Recorded:
    """The properties of an experiment that its recorder knows."""

    recorder: Recorder

    @property
    def record(self) -> TrialRecord:
        """The trial's record, as it is on disk."""
        return self.recorder.record

    @property
    def evaluations(self) -> int:
        """The number of evaluation periods played so far."""
        return self.recorder.evaluations

    @property
    def finished(self) -> bool:
        """Whether there is nothing left to do."""
        return self.recorder.finished

    @property
    def env_steps(self) -> int:
        """Environment steps trained so far, per seed."""
        return self.recorder.env_steps


def progress_target() -> dict[str, np.ndarray]:
    """Return the structure of `Recorder.progress`."""
    return {"evaluations": np.zeros((), np.int32), **dict.fromkeys(CLOCKS, np.zeros((), np.float64))}


def open_vaults(
    folder: Path, record: TrialRecord, config: VaultConfig, seed: int, rows: Mapping[str, int]
) -> dict[str, VaultWriter]:
    """Open the requested vaults of one seed, by kind.

    Args:
      folder: the trial's folder.
      record: the trial's record.
      config: what is recorded.
      seed: the seed.
      rows: the number of batch rows of each kind, to apply `max_transitions`.

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
    """Return the record's entries for the vaults of all seeds."""
    return tuple(
        VaultEntry(vaults[kind].uid, kind, vaults[kind].rows, vaults[kind].steps)
        for kind, vaults in itertools.product(VAULT_KINDS, list(of_seeds))
        if kind in vaults
    )


def vault_behind(vaults: Mapping[str, VaultWriter], kept: Mapping[str, Any]) -> str | None:
    """Return which vault holds less than it did when a checkpoint was saved; None if none does.

    Args:
      vaults: by kind.
      kept: the number of steps of each kind, as the checkpoint has them.
    """
    for kind, vault in vaults.items():
        steps = int(kept[kind])
        if vault.steps < steps:
            return f"is ahead of vault {vault.uid}, which holds {vault.steps} of {steps} steps"
    return None


def vault_steps(vaults: Mapping[str, VaultWriter]) -> dict[str, np.ndarray]:
    """Return the number of steps of each kind, for a checkpoint; 0 for a kind that is not recorded."""
    return {kind: np.asarray(vaults[kind].steps if kind in vaults else 0, np.int64) for kind in VAULT_KINDS}


def as_arrays(episodes: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Return the episodes of an evaluation as NumPy arrays."""
    return {name: np.asarray(values) for name, values in episodes.items()}


def episode_means(episodes: Mapping[str, np.ndarray]) -> dict[str, float | None]:
    """Return metric -> mean over episodes; None if it is not finite."""
    means = {name: float(np.mean(values)) for name, values in episodes.items()}
    return {name: mean if math.isfinite(mean) else None for name, mean in means.items()}


def standard_errors(episodes: Mapping[str, np.ndarray], metrics: Iterable[str]) -> dict[str, float | None]:
    """Return metric -> the standard error of its mean over episodes, `sd / sqrt(K)`; None if K is less than 2."""
    found: dict[str, float | None] = {}
    for name in metrics:
        values = np.asarray(episodes.get(name, ()), np.float64)
        error = float(np.std(values, ddof=1) / math.sqrt(len(values))) if len(values) > 1 else math.nan
        found[name] = error if math.isfinite(error) else None
    return found


def missing_rows(folder: Path, rows: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Return the closing rows that no killed attempt has written already."""
    there = {_closing(row) for row in read_metrics(folder)}
    return [row for row in rows if _closing(row) not in there]


def _closing(row: Mapping[str, Any]) -> tuple[Any, ...]:
    return row.get("seed"), *(bool(row.get(flag)) for flag in EXTRA)


def episode_lists(episodes: Mapping[str, np.ndarray]) -> dict[str, list[float]]:
    """Return the lists that marl-eval's file keeps."""
    return {name: [float(value) for value in values] for name, values in episodes.items() if "_agent_" not in name}


def last_result(folder: Path, record: TrialRecord) -> dict[str, Any]:
    """Return the result of `step`: the last evaluation in the folder, seeds aggregated as the objective says."""
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
