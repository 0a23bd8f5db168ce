"""A trial of one of Mava's systems; it fills its folder as our own systems fill theirs."""

from __future__ import annotations

import dataclasses
import logging
import math
import sys
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jax_party.engines.mava import installation
from jax_party.engines.mava.compiling import compile_seconds
from jax_party.engines.mava.config import MavaConfig
from jax_party.engines.mava.session import Period, Progress, Session, evaluated_params
from jax_party.errors import ConfigError
from jax_party.judging.objectives import At
from jax_party.judging.scores import ABSOLUTE, FINAL, UNTRAINED, best_step, trained_evaluations
from jax_party.runtime import return_freed_memory
from jax_party.training.checkpoint_files import Checkpoints
from jax_party.training.program import cache_counts, usable_cores
from jax_party.training.recorder import VAULT_KINDS, Recorded, Recorder, progress_target, vault_steps
from jax_party.trial.metrics import read_metrics

KEPT_CHECKPOINTS = 2
_MOST_MAPPINGS = Path("/proc/sys/vm/max_map_count")
_MAPPINGS = Path("/proc/self/maps")
_ROOM = 0.9
"""The share of a process's allowed memory mappings that compiled programs may use."""

_logger = logging.getLogger(__name__)


@dataclasses.dataclass
class Learner:
    """One seed.

    Attributes:
      seed: the seed that its keys are derived from.
      session: Mava's experiment with it.
      best_params: those of the trial's best evaluation so far, the same evaluation for all seeds; the untrained ones
        before there is one. Under the rule `best-per-seed` of earlier records, those of the seed's own best evaluation.
    """

    seed: int
    session: Session
    best_params: Any = None


class MavaExperiment(Recorded):
    """One trial, one evaluation period at a time; its seeds go one after another.

    A folder that was begun before is resumed from its newest checkpoint: later metrics and vault steps are cut off and
    reproduced bit for bit.

    Args:
      config: the experiment.
      folder: the trial's folder, with `config.yaml` and `record.json` in it.

    Raises:
      ConfigError: Mava is not installed here, or there are several devices, over all of which it would spread.
      RecordError, VaultError, CheckpointError: the folder cannot be resumed.
    """

    def __init__(self, config: MavaConfig, folder: Path) -> None:
        self.config = config
        self.folder = folder
        self.budget = config.budget
        seeds = range(config.system.seed, config.system.seed + config.arch.num_seeds)
        self.recorder = Recorder(folder, self.budget, seeds, self._compiling)
        self.width = 1
        self._learners: list[Learner] = []
        self._checkpoints: Checkpoints | None = None
        self._closed = self._played = False
        self._started = time.perf_counter()
        self._compiled_before = 0.0
        self._cache_before = cache_counts()
        if self.finished:
            return
        installation.check()  # a node of a cluster may lack packages that the driver has
        if jax.device_count() > 1:
            raise ConfigError(
                f"ENGINE=mava: {jax.device_count()} devices are visible, and Mava would spread over all of them; leave "
                "it one, with CUDA_VISIBLE_DEVICES=0"
            )
        self._checkpoints = Checkpoints(folder / "checkpoints", KEPT_CHECKPOINTS)
        vault = config.vault
        for seed in seeds:
            session = Session(config.algorithm, config.for_mava(seed, folder), vault.record_train, vault.record_test)
            self._learners.append(Learner(seed, session))
        try:
            rows = {
                "train": config.arch.num_envs * config.system.update_batch_size, "test": config.arch.num_eval_episodes
            }  # fmt: skip
            self.recorder.open(vault, rows)
            self._begin_record()
            self._restore([learner.session.open() for learner in self._learners])
        except BaseException:
            self.close()  # release our own locks, so that a retry in this process does not meet them
            raise

    @property
    def num_learners(self) -> int:
        """The number of seeds that are trained here; 0 if the trial has ended."""
        return len(self._learners)

    def step(self) -> dict[str, Any]:
        """Play one evaluation period; the last one ends with the final parameters' episodes and the absolute metric.

        Returns:
          As `jax_party.training.experiment.Experiment.step`.

        Raises:
          TrainingDiverged: a loss or a parameter is not finite; the record says FAILED and why.
        """
        if not self.finished:
            if self.evaluations < self.budget.num_evaluations:
                self._play()
            if self.evaluations == self.budget.num_evaluations:
                self._finish()
        return self.recorder.last_result()

    def close(self) -> None:
        """End Mava's threads and release files; calling it twice is fine."""
        for learner in self._learners:
            learner.session.close()
        self.recorder.close()
        if self._checkpoints is not None:
            self._checkpoints.close()
        if not self._closed:
            self._closed = True
            jax.clear_caches()  # no other trial can use its programs, and a process can map only so many
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
        for place, period in enumerate(periods):
            self._refuse_nonfinite(place, period)
        rows = [
            self.recorder.row(place, period.untrained, {}) | {UNTRAINED: True}
            for place, period in enumerate(periods)
            if period.untrained is not None
        ]
        self.recorder.evaluations += 1
        self.recorder.trained_seconds += sum(period.train_s for period in periods)
        for place, period in enumerate(periods):
            self._submit(place, period)
        self.recorder.add([*rows, *(self._period_row(place, period) for place, period in enumerate(periods))])
        self._keep_best()
        assert self._checkpoints is not None
        path = self._checkpoints.save(self.env_steps, self._checkpoint_tree())
        self.recorder.write_marl_eval()
        self.recorder.update(checkpoint=str(path.relative_to(self.folder.resolve())))

    def _check_room(self, of_seed: int) -> None:
        """Refuse a number of seeds whose programs would not fit: a process that maps too much memory is killed.

        Args:
          of_seed: the number of memory mappings that the first seed's programs have taken.

        Raises:
          ConfigError: there are too many seeds.
        """
        most = int(_MOST_MAPPINGS.read_text()) if _MOST_MAPPINGS.exists() else sys.maxsize
        others = len(self._learners) - 1
        if others and _mappings() + of_seed * others > _ROOM * most:
            fitting = 1 + max(0, int(_ROOM * most - _mappings()) // max(1, of_seed))
            reason = (
                f"{others + 1} seeds: each has {of_seed:,} memory mappings of compiled programs with ENGINE=mava, and "
                f"a process here has at most {most:,}; use {fitting} seeds (SEEDS), or raise the limit (sysctl "
                "vm.max_map_count)"
            )
            self.recorder.fail(ConfigError, reason)

    def _keep_best(self) -> None:
        """Keep the parameters of the last evaluation if it is the best so far.

        Raises:
          ConfigError: the objective is not a metric of the evaluation.
        """
        rows = read_metrics(self.folder)
        metric, known = self.record.objective.metric, rows[-1]["evaluate"]
        if metric not in known:
            names = ", ".join(sorted(known))
            raise ConfigError(f"objective: metric {metric}: not among the evaluation's metrics: {names}")
        for learner in self._learners:
            if self._best_step(learner, rows) == self.env_steps:
                learner.best_params = learner.session.params

    def _best_step(self, learner: Learner, rows: list[dict[str, Any]]) -> int | None:
        """Return the step of the best evaluation so far, the same one for all seeds; None if no value is finite."""
        num_seeds = self.record.num_seeds
        if self._each_seed_alone:
            rows, num_seeds = [row for row in rows if row["seed"] == learner.seed], 1
        return best_step(trained_evaluations(rows, num_seeds), self.record.objective)

    @property
    def _each_seed_alone(self) -> bool:
        return self.record.objective.at == At.BEST_PER_SEED

    def _finish(self) -> None:
        """Play the final and the best evaluation's parameters with Mava's evaluator; then mark the record COMPLETE.

        If the last evaluation was the best one, these are the same parameters, and are played once.
        """
        rows = read_metrics(self.folder)
        closings = [learner.session.finish(self._params_to_measure(learner, rows)) for learner in self._learners]
        measured = [closing for closing in closings if closing is not None]
        final = absolute = None
        if measured:
            final = self.recorder.add_closing(FINAL, [closing.final for closing in measured])
            absolute = self.recorder.add_closing(ABSOLUTE, [closing.best for closing in measured])
        self.recorder.write_marl_eval()
        self.recorder.complete(final, absolute)

    def _params_to_measure(self, learner: Learner, rows: list[dict[str, Any]]) -> Any:
        """Return the best evaluation's parameters; None if they are the final ones."""
        is_final = not self._each_seed_alone and self._best_step(learner, rows) in (None, self.env_steps)
        return None if is_final else learner.best_params

    def _period_row(self, place: int, period: Period) -> dict[str, Any]:
        speed = {"steps_per_second": self.budget.steps_per_evaluation / max(period.train_s, 1e-9)}
        row = self.recorder.row(place, period.episodes, period.train | speed)
        return row | {"evaluation_time_s": period.evaluation_s}

    def _submit(self, place: int, period: Period) -> None:
        """Hand the period's trajectories to the vaults: all of them, or every k-th update."""
        self.recorder.submit(place, "test", period.trajectory)
        if period.rollout is None:
            return
        every, length = self.config.vault.every, self.config.system.rollout_length
        if every == 1:
            self.recorder.submit(place, "train", period.rollout)
            return
        first = (self.evaluations - 1) * self.budget.updates_per_evaluation
        for update in range(self.budget.updates_per_evaluation):
            if (first + update) % every == 0:
                part = slice(update * length, (update + 1) * length)
                self.recorder.submit(place, "train", {name: leaf[:, part] for name, leaf in period.rollout.items()})

    def _refuse_nonfinite(self, place: int, period: Period) -> None:
        """Fail the trial if a loss of the period, or a parameter after it, is not finite."""
        where = f"the period that ends with step {(self.evaluations + 1) * self.budget.steps_per_evaluation:,}"
        for name, mean in period.train.items():
            if not math.isfinite(mean):
                self.recorder.diverged(place, f"{name} became {mean}", where)
        params = self._learners[place].session.progress.state.params
        if not all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(params)):
            self.recorder.diverged(place, "a parameter is not finite", where)

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
                    "vault_steps": vault_steps(vaults),
                }
                for one, learner, vaults in zip(progress, self._learners, self.recorder.vaults, strict=True)
            ],
            "progress": self.recorder.progress() | {"returns": returns},
        }

    def _checkpoint_target(self, states: list[Any]) -> dict[str, Any]:
        """Return the structure of `_checkpoint_tree`, from the learners' first states."""
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
            "progress": progress_target() | {"returns": np.zeros(shape, np.float32)},
        }

    def _restore(self, states: list[Any]) -> None:
        restored = None
        assert self._checkpoints is not None
        if self._checkpoints.steps():
            restored = self._checkpoints.restore(self._checkpoint_target(states), self._misfit)
            self.recorder.note_passed_over(self._checkpoints.passed_over, None if restored is None else restored[0])
        if restored is None:
            for learner in self._learners:
                learner.best_params = learner.session.params
            self.recorder.begin_anew()
        else:
            self._take_up(restored[1])

    def _misfit(self, tree: dict[str, Any]) -> str | None:
        """Return which vault holds less than it did when the checkpoint was saved."""
        return self.recorder.behind(kept["vault_steps"] for kept in tree["learners"])

    def _take_up(self, tree: dict[str, Any]) -> None:
        """Resume from a checkpoint."""
        progress = tree["progress"]
        self._compiled_before = float(progress["compile_seconds"])
        self.recorder.go_on_from(progress, [kept["vault_steps"] for kept in tree["learners"]])
        for learner, kept, returns in zip(self._learners, tree["learners"], progress["returns"], strict=True):
            known = tuple(float(value) for value in returns[: self.evaluations])
            state = _put_together(kept["state"], learner.session.progress.state)
            learner.best_params = _put_together(kept["best_params"], evaluated_params(state))
            learner.session.go_on_from(Progress(state, known))
        _logger.info("%s: resumed at step %d", self.record.trial_id, self.env_steps)

    def _begin_record(self) -> None:
        device = jax.devices()[0]
        self.recorder.begin(
            device=f"cpu:{usable_cores()}" if device.platform == "cpu" else device.device_kind,
            engine_version=installation.version(),
            batch="map" if len(self._learners) > 1 else None,
        )

    def _compiling(self) -> dict[str, Any]:
        """Return the compile time, where programs came from, and the time saved; every trial of Mava is traced anew."""
        now = cache_counts()
        return {
            "compile_time_s": self._compiled_before + compile_seconds(self._started, time.perf_counter()),
            "compile_cache": "miss" if now.misses > self._cache_before.misses else "disk",
            "compile_time_saved_s": now.saved_s - self._cache_before.saved_s,
        }


def _mappings() -> int:
    """Return the number of memory mappings of this process; 0 if the system does not report it."""
    return _MAPPINGS.read_bytes().count(b"\n") if _MAPPINGS.exists() else 0


def _leaves(tree: Any) -> dict[str, Any]:
    """Return a tree's leaves by position: Orbax does not know the types of Mava's and Jumanji's nodes."""
    return {f"{place:04}": leaf for place, leaf in enumerate(jax.tree.leaves(tree))}


def _put_together(leaves: dict[str, Any], like: Any) -> Any:
    """Return the tree of these leaves, with the structure of `like`."""
    return jax.tree.unflatten(jax.tree.structure(like), [leaves[name] for name in sorted(leaves)])
