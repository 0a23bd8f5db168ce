"""A trial of one of Mava's systems: its folder is filled as our own systems fill theirs."""

from __future__ import annotations

import dataclasses
import logging
import math
import sys
import time
from pathlib import Path
from typing import Any, NoReturn

import jax
import numpy as np

from jax_party.engines.mava import installation
from jax_party.engines.mava.compiling import compile_seconds
from jax_party.engines.mava.config import MavaConfig
from jax_party.engines.mava.session import Episodes, Period, Progress, Session, evaluated_params
from jax_party.errors import ConfigError, TrainingDiverged
from jax_party.judging.aggregate import aggregate_metrics
from jax_party.judging.objectives import At
from jax_party.judging.scores import ABSOLUTE, FINAL, UNTRAINED, best_step, trained_evaluations
from jax_party.runtime import return_freed_memory
from jax_party.training.checkpointing import Checkpoints
from jax_party.training.program import cache_counts, usable_cores
from jax_party.training.recorder import (
    VAULT_KINDS,
    episode_lists,
    episode_means,
    last_result,
    missing_rows,
    open_vaults,
    standard_errors,
    vault_behind,
    vault_entries,
    vault_steps,
)
from jax_party.training.vault import VaultWriter
from jax_party.trial.folder import add_retry, read_record, update_record
from jax_party.trial.marl_eval import write_marl_eval
from jax_party.trial.metrics import append_metrics, read_metrics, truncate_metrics
from jax_party.trial.provenance import current_provenance, utc_timestamp
from jax_party.trial.record import TrialRecord, spans_until_now
from jax_party.trial.states import FINISHED, State

KEPT_CHECKPOINTS = 2
_MOST_MAPPINGS = Path("/proc/sys/vm/max_map_count")
_MAPPINGS = Path("/proc/self/maps")
_ROOM = 0.9
"""Of the mappings that a process may have, what programs may take."""

_logger = logging.getLogger(__name__)


@dataclasses.dataclass
class _Learner:
    """One seed.

    Attributes:
      seed: what its keys are made from.
      session: Mava's experiment with it.
      best_params: of the trial's best evaluation so far, the same one for all seeds; the untrained before there is one.
        Under the rule `best-per-seed` of earlier records, of the seed's own best one.
      vaults: by kind.
    """

    seed: int
    session: Session
    best_params: Any = None
    vaults: dict[str, VaultWriter] = dataclasses.field(default_factory=dict)


class MavaExperiment:
    """One trial, an evaluation period at a time; its seeds go one after another.

    A folder that was begun before is taken up where its newest checkpoint stands: metrics and vaults behind it are cut
    off and made again, bit for bit.

    Args:
      config: the experiment.
      folder: the trial's folder, with `config.yaml` and `record.json` in it.

    Raises:
      ConfigError: Mava is not here, or there are several devices, over all of which it would spread.
      RecordError, VaultError, CheckpointError: the folder cannot be taken up.
    """

    def __init__(self, config: MavaConfig, folder: Path) -> None:
        self.config = config
        self.folder = folder
        self.budget = config.budget
        self.record: TrialRecord = read_record(folder)
        self._learners: list[_Learner] = []
        self.evaluations = 0
        self._closed = self._played = False
        self._trained_seconds = 0.0
        self._started = time.perf_counter()
        self._since = utc_timestamp()
        self._duration_before = 0.0
        self._compiled_before = 0.0
        self._cache_before = cache_counts()
        if self.record.state in FINISHED:
            return
        installation.check()  # a node of a cluster may lack what the driver has
        if jax.device_count() > 1:
            raise ConfigError(
                f"ENGINE=mava: {jax.device_count()} devices are visible, and Mava would spread over all of them; leave "
                "it one, with CUDA_VISIBLE_DEVICES=0"
            )
        self._checkpoints = Checkpoints(folder / "checkpoints", KEPT_CHECKPOINTS)
        vault = config.vault
        for seed in range(config.system.seed, config.system.seed + config.arch.num_seeds):
            session = Session(config.algorithm, config.for_mava(seed, folder), vault.record_train, vault.record_test)
            self._learners.append(_Learner(seed, session))
        try:
            self._open_vaults()
            self._begin_record()
            self._restore([learner.session.open() for learner in self._learners])
        except BaseException:
            self.close()  # a retry in this process must not meet our own locks
            raise

    @property
    def finished(self) -> bool:
        """Whether there is nothing left to do."""
        return self.record.state in FINISHED

    @property
    def env_steps(self) -> int:
        """Environment steps trained so far, of each seed."""
        return self.evaluations * self.budget.steps_per_evaluation

    def step(self) -> dict[str, Any]:
        """Play one evaluation period; the last one ends with the final parameters' episodes and the absolute metric.

        Returns:
          As `jax_party.training.experiment.Experiment.step`.

        Raises:
          TrainingDiverged: a loss is not finite; the record says FAILED and why.
        """
        if not self.finished:
            if self.evaluations < self.budget.num_evaluations:
                self._play()
            if self.evaluations == self.budget.num_evaluations:
                self._finish()
        return last_result(self.folder, self.record)

    def close(self) -> None:
        """End Mava's threads and release files; calling it twice is fine."""
        for learner in self._learners:
            learner.session.close()
            for vault in learner.vaults.values():
                vault.close()
            learner.vaults = {}
        if hasattr(self, "_checkpoints"):
            self._checkpoints.close()
        if not self._closed:
            self._closed = True
            jax.clear_caches()  # no other trial can use its programs, and a process can map so many only
            return_freed_memory()

    # -- One period ----------------------------------------------------------------------------------------------------

    def _play(self) -> None:
        periods = []
        for place, learner in enumerate(self._learners):
            mapped = _mappings()
            periods.append(learner.session.play())
            if place == 0 and not self._played:
                self._check_room(_mappings() - mapped)
        if not self._played:
            return_freed_memory()
        self._played = True
        for learner, period in zip(self._learners, periods, strict=True):
            self._refuse_nonfinite(learner, period)
        rows = [
            self._row(learner, period.untrained, {}) | {UNTRAINED: True}
            for learner, period in zip(self._learners, periods, strict=True)
            if period.untrained is not None
        ]
        self.evaluations += 1
        self._trained_seconds += sum(period.train_s for period in periods)
        for learner, period in zip(self._learners, periods, strict=True):
            self._submit(learner, period)
            for vault in learner.vaults.values():
                vault.flush()
        rows += [self._period_row(*both) for both in zip(self._learners, periods, strict=True)]
        append_metrics(self.folder, *rows)
        self._keep_best()
        path = self._checkpoints.save(self.env_steps, self._checkpoint_tree())
        write_marl_eval(self.folder)
        self._update_record(checkpoint=str(path.relative_to(self.folder.resolve())))

    def _check_room(self, of_seed: int) -> None:
        """Refuse so many seeds that their programs would not fit: a process that maps too much dies of it.

        Args:
          of_seed: memory mappings that the first one's programs have taken.

        Raises:
          ConfigError: there are too many.
        """
        most = int(_MOST_MAPPINGS.read_text()) if _MOST_MAPPINGS.exists() else sys.maxsize
        others = len(self._learners) - 1
        if others and _mappings() + of_seed * others > _ROOM * most:
            fitting = 1 + max(0, int(_ROOM * most - _mappings()) // max(1, of_seed))
            reason = (
                f"{others + 1} seeds: each has {of_seed:,} memory mappings of compiled programs with ENGINE=mava, and "
                f"a process here has at most {most:,}; take {fitting} seeds (SEEDS), or raise the limit (sysctl "
                "vm.max_map_count)"
            )
            self._update_record(state=State.FAILED, error=f"ConfigError: {reason}", ended_at=utc_timestamp())
            raise ConfigError(f"{self.record.trial_id}: {reason}")

    def _keep_best(self) -> None:
        """Keep the parameters of the last evaluation where it was the best so far.

        Raises:
          ConfigError: the objective is no metric of the evaluation.
        """
        rows = read_metrics(self.folder)
        metric, known = self.record.objective.metric, rows[-1]["evaluate"]
        if metric not in known:
            names = ", ".join(sorted(known))
            raise ConfigError(f"objective: metric {metric}: not among the evaluation's metrics: {names}")
        for learner in self._learners:
            if self._best_step(learner, rows) == self.env_steps:
                learner.best_params = learner.session.params

    def _best_step(self, learner: _Learner, rows: list[dict[str, Any]]) -> int | None:
        """The step of the best evaluation so far, the same one for all seeds; None where no number is finite."""
        num_seeds = self.record.num_seeds
        if self._each_seed_alone:
            rows, num_seeds = [row for row in rows if row["seed"] == learner.seed], 1
        return best_step(trained_evaluations(rows, num_seeds), self.record.objective)

    @property
    def _each_seed_alone(self) -> bool:
        return self.record.objective.at == At.BEST_PER_SEED

    def _finish(self) -> None:
        """Let Mava's evaluator play the final parameters and those of the best evaluation; the record is COMPLETE.

        Where the last evaluation was the best one, both are the same parameters, and are played once.
        """
        rows = read_metrics(self.folder)
        closings = [learner.session.finish(self._params_to_measure(learner, rows)) for learner in self._learners]
        measured = [closing for closing in closings if closing is not None]
        final = absolute = None
        if measured:
            final = self._close_with(FINAL, [closing.final for closing in measured])
            absolute = self._close_with(ABSOLUTE, [closing.best for closing in measured])
        write_marl_eval(self.folder)
        self._update_record(
            state=State.COMPLETE, final_metrics=final, absolute_metrics=absolute, ended_at=utc_timestamp()
        )

    def _params_to_measure(self, learner: _Learner, rows: list[dict[str, Any]]) -> Any:
        """The best evaluation's parameters; None where they are those that training ended with."""
        is_final = not self._each_seed_alone and self._best_step(learner, rows) in (None, self.env_steps)
        return None if is_final else learner.best_params

    def _close_with(self, flag: str, of_seeds: list[Episodes]) -> dict[str, float | None]:
        """Put episodes of each seed on disk in rows with this flag; their metrics, seeds aggregated."""
        rows = [
            self._row(learner, episodes, {}) | {flag: True}
            for learner, episodes in zip(self._learners, of_seeds, strict=True)
        ]
        append_metrics(self.folder, *missing_rows(self.folder, rows))
        return aggregate_metrics([row["evaluate"] for row in rows], self.record.objective.aggregate)

    def _row(self, learner: _Learner, episodes: Episodes, train: dict[str, float]) -> dict[str, Any]:
        """A line of metrics.jsonl."""
        return {
            "evaluation": self.evaluations,
            "step": self.env_steps,
            "seed": learner.seed,
            "wall_time_s": self._duration(),
            "evaluate": episode_means(episodes),
            "se": standard_errors(episodes, self.record.objective.metrics),
            "episodes": episode_lists(episodes),
            "train": train,
        }

    def _period_row(self, learner: _Learner, period: Period) -> dict[str, Any]:
        speed = {"steps_per_second": self.budget.steps_per_evaluation / max(period.train_s, 1e-9)}
        row = self._row(learner, period.episodes, period.train | speed)
        return row | {"evaluation_time_s": period.evaluation_s}

    def _submit(self, learner: _Learner, period: Period) -> None:
        """Hand the period's trajectories to the vaults: whole, or every k-th update of it."""
        if "test" in learner.vaults and period.trajectory is not None:
            learner.vaults["test"].submit(period.trajectory)
        if "train" not in learner.vaults or period.rollout is None:
            return
        every, length = self.config.vault.every, self.config.system.rollout_length
        if every == 1:
            learner.vaults["train"].submit(period.rollout)
            return
        first = (self.evaluations - 1) * self.budget.updates_per_evaluation
        for update in range(self.budget.updates_per_evaluation):
            if (first + update) % every == 0:
                part = slice(update * length, (update + 1) * length)
                learner.vaults["train"].submit({name: leaf[:, part] for name, leaf in period.rollout.items()})

    def _refuse_nonfinite(self, learner: _Learner, period: Period) -> None:
        """Fail the trial where a loss of the period, or a parameter after it, is not finite."""
        for name, mean in period.train.items():
            if not math.isfinite(mean):
                self._diverged(learner, f"{name} became {mean}")
        params = learner.session.progress.state.params
        if not all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(params)):
            self._diverged(learner, "a parameter is not finite")

    def _diverged(self, learner: _Learner, what: str) -> NoReturn:
        of_seed = f"seed {learner.seed}: " if len(self._learners) > 1 else ""
        end = (self.evaluations + 1) * self.budget.steps_per_evaluation
        reason = f"{of_seed}{what} in the period that ends with step {end:,}"
        self._update_record(state=State.FAILED, error=f"TrainingDiverged: {reason}", ended_at=utc_timestamp())
        raise TrainingDiverged(f"{self.record.trial_id}: {reason}; try a smaller learning rate or gradient norm")

    # -- On disk -------------------------------------------------------------------------------------------------------

    def _checkpoint_tree(self) -> dict[str, Any]:
        returns = np.full((len(self._learners), self.budget.num_evaluations), np.nan, np.float32)
        for place, learner in enumerate(self._learners):
            returns[place, : self.evaluations] = learner.session.progress.returns
        progress = [learner.session.progress for learner in self._learners]
        return {
            "learners": [
                {
                    "state": _leaves(one.state),
                    "best_params": _leaves(learner.best_params),
                    "vault_steps": vault_steps(learner.vaults),
                }
                for one, learner in zip(progress, self._learners, strict=True)
            ],
            "progress": {
                "evaluations": np.asarray(self.evaluations, np.int32),
                "returns": returns,
                "trained_seconds": np.asarray(self._trained_seconds, np.float64),
                "compile_seconds": np.asarray(self._compile_seconds(), np.float64),
                "duration": np.asarray(self._duration(), np.float64),
            },
        }

    def _checkpoint_target(self, states: list[Any]) -> dict[str, Any]:
        """The structure of `_checkpoint_tree`, from the learners' first states."""
        seconds = dict.fromkeys(("trained_seconds", "compile_seconds", "duration"), np.zeros((), np.float64))
        shape = (len(states), self.budget.num_evaluations)
        return {
            "learners": [
                {
                    "state": _leaves(state),
                    "best_params": _leaves(evaluated_params(state)),
                    "vault_steps": dict.fromkeys(VAULT_KINDS, np.zeros((), np.int64)),
                }
                for state in states
            ],
            "progress": {"evaluations": np.zeros((), np.int32), "returns": np.zeros(shape, np.float32), **seconds},
        }

    def _restore(self, states: list[Any]) -> None:
        restored = None
        if self._checkpoints.steps():
            restored = self._checkpoints.restore(self._checkpoint_target(states), self._misfit)
            if self._checkpoints.passed_over:
                where = "from the start" if restored is None else f"from checkpoint {restored[0]}"
                reason = f"{', '.join(self._checkpoints.passed_over)}: went on {where}"
                self.record = add_retry(self.folder, reason)
        if restored is None:
            for learner in self._learners:
                learner.best_params = learner.session.params
                for vault in learner.vaults.values():
                    vault.truncate(0)
        else:
            self._take_up(restored[1])
        truncate_metrics(self.folder, self.env_steps if self.evaluations else -1)

    def _misfit(self, tree: dict[str, Any]) -> str | None:
        """Which vault holds less than it did when the checkpoint was saved."""
        for learner, kept in zip(self._learners, tree["learners"], strict=True):
            behind = vault_behind(learner.vaults, kept["vault_steps"])
            if behind is not None:
                return behind
        return None

    def _take_up(self, tree: dict[str, Any]) -> None:
        """Go on from a checkpoint."""
        progress = tree["progress"]
        self.evaluations = int(progress["evaluations"])
        self._trained_seconds = float(progress["trained_seconds"])
        self._duration_before = float(progress["duration"])
        self._compiled_before = float(progress["compile_seconds"])
        for learner, kept, returns in zip(self._learners, tree["learners"], progress["returns"], strict=True):
            known = tuple(float(value) for value in returns[: self.evaluations])
            state = _put_together(kept["state"], learner.session.progress.state)
            learner.best_params = _put_together(kept["best_params"], evaluated_params(state))
            learner.session.go_on_from(Progress(state, known))
            for kind, vault in learner.vaults.items():
                vault.truncate(int(kept["vault_steps"][kind]))
        _logger.info("%s: resumed at step %d", self.record.trial_id, self.env_steps)

    def _open_vaults(self) -> None:
        rows = {
            "train": self.config.arch.num_envs * self.config.system.update_batch_size,
            "test": self.config.arch.num_eval_episodes,
        }
        for learner in self._learners:
            learner.vaults = open_vaults(self.folder, self.record, self.config.vault, learner.seed, rows)

    def _begin_record(self) -> None:
        versions = current_provenance()
        device = jax.devices()[0]
        self._update_record(
            state=State.RUNNING,
            attempts=self.record.attempts + 1,
            started_at=self.record.started_at or utc_timestamp(),
            error=None,
            device=f"cpu:{usable_cores()}" if device.platform == "cpu" else device.device_kind,
            host=versions["host"],
            git_sha=versions["git_sha"],
            git_dirty=versions["git_dirty"],
            engine_version=installation.version(),
            versions=versions["versions"],
            batch="map" if len(self._learners) > 1 else None,
            total_steps=self.budget.total_steps,
        )

    def _update_record(self, **changes: Any) -> None:
        if self.evaluations:
            changes |= {
                "env_steps": self.env_steps,
                "steps_per_second": self.env_steps * len(self._learners) / max(self._trained_seconds, 1e-9),
                "vaults": vault_entries(learner.vaults for learner in self._learners),
            }
        changes |= {"duration_s": self._duration(), "compile_time_s": self._compile_seconds(), **self._compile_cache()}
        changes["spans"] = spans_until_now(self.record, self._since)
        self.record = update_record(self.folder, **changes)

    def _compile_cache(self) -> dict[str, Any]:
        """Where compiled programs came from, and the seconds that this saved; every trial of Mava's traces anew."""
        now = cache_counts()
        where = "miss" if now.misses > self._cache_before.misses else "disk"
        return {"compile_cache": where, "compile_time_saved_s": now.saved_s - self._cache_before.saved_s}

    def _duration(self) -> float:
        return self._duration_before + time.perf_counter() - self._started

    def _compile_seconds(self) -> float:
        return self._compiled_before + compile_seconds(self._started, time.perf_counter())


def _mappings() -> int:
    """How many parts of its memory this process has mapped; 0 where the system does not tell."""
    return _MAPPINGS.read_bytes().count(b"\n") if _MAPPINGS.exists() else 0


def _leaves(tree: Any) -> dict[str, Any]:
    """A tree's leaves by their place: Orbax does not know the types of Mava's and Jumanji's nodes."""
    return {f"{place:04}": leaf for place, leaf in enumerate(jax.tree.leaves(tree))}


def _put_together(leaves: dict[str, Any], like: Any) -> Any:
    """The tree of these leaves."""
    return jax.tree.unflatten(jax.tree.structure(like), [leaves[name] for name in sorted(leaves)])
