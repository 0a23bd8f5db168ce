"""The one outer loop: train a period, evaluate, record, checkpoint.

`Experiment` owns time, evaluation, recording, checkpoints and resume; a system owns its losses, and a `Program` the
compiled functions.
"""

from __future__ import annotations

import dataclasses
import itertools
import logging
import math
import time
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PRNGKeyArray, PyTree

from jax_party.config import ExperimentConfig, compile_signature, make_budget, parse_config, with_values
from jax_party.envs.adapter import refuse_no_legal_action
from jax_party.errors import CheckpointError, ConfigError, TrainingDiverged
from jax_party.judging.aggregate import aggregate_metrics
from jax_party.judging.objectives import At
from jax_party.judging.scores import ABSOLUTE, FINAL, UNTRAINED, best_step, objective_of, trained_evaluations
from jax_party.systems.base import Hyper, LearnerState, UpdateOutput
from jax_party.training.batching import Batch, Form, Learners, choose, width_of
from jax_party.training.checkpointing import START_AGAIN, Checkpoints
from jax_party.training.evaluation import Evaluation
from jax_party.training.program import FUNCTIONS, Program, get_program, make_hyper, usable_cores
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
from jax_party.trial.folder import add_retry, read_config, read_record, takeover_folder, update_record
from jax_party.trial.marl_eval import write_marl_eval
from jax_party.trial.metrics import append_metrics, read_metrics, truncate_metrics
from jax_party.trial.provenance import current_provenance, our_version, utc_timestamp
from jax_party.trial.record import Takeover, TrialRecord, spans_until_now
from jax_party.trial.states import FINISHED, State

FINAL_STREAM = 2**31 - 1
"""Folded into the absolute metric's key: the final parameters are played with keys of their own."""
OUT_OF_MEMORY = "RESOURCE_EXHAUSTED"
"""What XLA's error says where a device has no memory left."""

_logger = logging.getLogger(__name__)


@dataclasses.dataclass
class _Learner:
    """One seed of an experiment.

    Attributes:
      seed: what its keys are made from.
      eval_key, absolute_key, init_key: (2,) uint32.
      vaults: by kind, `train` and `test`.
      state: where training stands.
      best_params, best_value: of the trial's best evaluation so far, the same one for all seeds; a larger value is
        better. Under the rule `best-per-seed` of earlier records, of the seed's own best one.
    """

    seed: int
    eval_key: PRNGKeyArray
    absolute_key: PRNGKeyArray
    init_key: PRNGKeyArray
    vaults: dict[str, VaultWriter]
    state: LearnerState = None  # type: ignore[assignment]  # restored or begun once the vaults are open
    best_params: PyTree = None
    best_value: float = -math.inf

    @classmethod
    def of(cls, seed: int) -> _Learner:
        """A learner that has not begun."""
        eval_key, absolute_key, init_key = jax.random.split(jax.random.PRNGKey(seed), 3)
        return cls(seed, eval_key, absolute_key, init_key, {})


class Experiment:
    """One trial: a folder, and the training that fills it; one learner a seed.

    A folder that was begun before is taken up where its newest checkpoint stands: metrics and vaults behind it are cut
    off and made again, bit for bit.

    Args:
      config: the experiment.
      folder: the trial's folder, with `config.yaml` and `record.json` in it (`records.create_trial_folder`).
      company: how many experiments are to be advanced together, this one among them.
      most_at_once: the most learners of a batched program, None for all of theirs.

    Raises:
      RecordError, VaultError, CheckpointError: the folder cannot be taken up.
    """

    def __init__(
        self, config: ExperimentConfig, folder: Path, *, company: int = 1, most_at_once: int | None = None
    ) -> None:
        self.config = config
        self.folder = folder
        self.budget = make_budget(config)
        self.record: TrialRecord = read_record(folder)
        self.learners: list[_Learner] = []
        self.evaluations = 0
        self._to_take_over: list[Takeover] = []
        self._trained_seconds = 0.0
        self._started = time.perf_counter()
        self._since = utc_timestamp()
        self._duration_before = 0.0
        if self.record.state in FINISHED:
            return
        self.program = get_program(config)
        self._compile_before = self.program.compile_seconds
        found = self.program.compile_seconds, self.program.saved_seconds, self.program.cache_misses
        self.hyper: Hyper = self.program.put(make_hyper(config, self.budget))
        checkpointing = config.logger.checkpointing
        self._checkpoints = Checkpoints(folder / "checkpoints", checkpointing.save_args.max_to_keep)
        self.learners = [_Learner.of(config.system.seed + index) for index in range(config.arch.num_seeds)]
        try:
            self._open_vaults()
            self._begin_record()
            self._restore_or_init(company * len(self.learners))
            self._choose_form(company, most_at_once)
            self._update_record(**self._compile_cache(*found))
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
          `evaluation`, `env_steps`, `steps_per_second`, `finished`, and the evaluation's metrics by name: means over
          its episodes, aggregated over seeds as the objective says. A finished experiment gives its last evaluation
          again.

        Raises:
          TrainingDiverged: a loss is not finite; the record says FAILED and why.
        """
        if not self.finished:
            (error,) = advance([self])
            if error is not None:
                raise error
        return self.last_result()

    @staticmethod
    def side_by_side(experiments: Sequence[Experiment]) -> list[dict[str, Any] | Exception]:
        """`step` of each, those that share a program together: its result, or what went wrong with it alone."""
        unfinished = [one for one in experiments if not one.finished]
        errors = dict(zip(map(id, unfinished), advance(unfinished), strict=True))
        return [errors.get(id(one)) or one.last_result() for one in experiments]

    def close(self) -> None:
        """Release files and threads; calling it twice is fine."""
        for learner in self.learners:
            for vault in learner.vaults.values():
                vault.close()
            learner.vaults = {}
        if hasattr(self, "_checkpoints"):
            self._checkpoints.close()

    # -- One period --------------------------------------------------------------------------------------------------

    def take_outputs(self, index: int, outputs: Sequence[UpdateOutput]) -> None:
        """Record what update `index` of this period gave, an output a seed."""
        number = self.evaluations * self.budget.updates_per_evaluation + index
        if number % self.config.vault.every:
            return
        for learner, output in zip(self.learners, outputs, strict=True):
            if "train" in learner.vaults:
                learner.vaults["train"].submit(output.trajectory)

    def take_states(
        self, states: Sequence[LearnerState], losses: Sequence[Sequence[dict[str, jax.Array]]], seconds: float
    ) -> list[dict[str, float]]:
        """Take over what a period of updates gave.

        Args:
          states: one a seed.
          losses: of each seed, of each update.
          seconds: of the time that the updates took, this experiment's share.

        Returns:
          The seeds' training metrics of the period.

        Raises:
          TrainingDiverged: a loss, or a parameter after the last update, is not finite.
        """
        self._trained_seconds += seconds
        rows = []
        for learner, state, of_updates in zip(self.learners, states, losses, strict=True):
            learner.state, episodes = _without_episodes(state)
            means = _mean_losses(of_updates)
            self._refuse_nonfinite(learner, means, of_updates)
            rows.append(means | episodes | {"steps_per_second": self.budget.steps_per_evaluation / seconds})
        return rows

    def evaluation_keys(self) -> list[PRNGKeyArray]:
        """The keys of this period's evaluation, one a seed."""
        return [jax.random.fold_in(learner.eval_key, self.evaluations + 1) for learner in self.learners]

    def take_evaluations(
        self, evaluations: Sequence[Evaluation], training: Sequence[dict[str, float]], seconds: float
    ) -> None:
        """Take over an evaluation of each seed, and put the period on disk."""
        self.evaluations += 1
        rows = []
        means = []
        for learner, evaluation, train in zip(self.learners, evaluations, training, strict=True):
            episodes = {name: np.asarray(values) for name, values in evaluation.episodes.items()}
            if "test" in learner.vaults:
                learner.vaults["test"].submit(evaluation.trajectory)
            means.append(episode_means(episodes))
            row = self._row(learner, means[-1], episodes, train)
            rows.append(row | {"evaluation_time_s": seconds / len(self.learners)})
        self._keep_best(means)
        self._save(rows)

    def take_untrained(self, evaluations: Sequence[Evaluation]) -> None:
        """Put an evaluation of each seed's untrained networks on disk, at step 0: it is drawn and never judged."""
        rows = []
        for learner, evaluation in zip(self.learners, evaluations, strict=True):
            episodes = {name: np.asarray(values) for name, values in evaluation.episodes.items()}
            rows.append(self._row(learner, episode_means(episodes), episodes, {}) | {UNTRAINED: True})
        append_metrics(self.folder, *rows)

    def _row(
        self,
        learner: _Learner,
        means: dict[str, float | None],
        episodes: dict[str, np.ndarray],
        train: dict[str, float],
    ) -> dict[str, Any]:
        """A line of metrics.jsonl."""
        return {
            "evaluation": self.evaluations,
            "step": self.env_steps,
            "seed": learner.seed,
            "wall_time_s": self._duration(),
            "evaluate": means,
            "se": standard_errors(episodes, self.record.objective.metrics),
            "episodes": episode_lists(episodes),
            "train": train,
        }

    def _refuse_nonfinite(
        self, learner: _Learner, means: dict[str, float], of_updates: Sequence[dict[str, jax.Array]]
    ) -> None:
        """Fail the trial where a loss, or a parameter after the last update, is not finite."""
        done = self.evaluations * self.budget.updates_per_evaluation
        for name, mean in means.items():
            if not math.isfinite(mean):
                bad = next((i for i, losses in enumerate(of_updates) if not np.isfinite(losses[name])), 0)
                self._diverged(learner, f"{name} became {float(of_updates[bad][name])}", done + bad + 1)
        parameter = first_nonfinite(learner.state.params)
        if parameter is not None:
            self._diverged(learner, f"{parameter} is not finite", done + len(of_updates))

    def _diverged(self, learner: _Learner, what: str, update: int) -> NoReturn:
        of_seed = f"seed {learner.seed}: " if len(self.learners) > 1 else ""
        reason = f"{of_seed}{what} in update {update} (step {update * self.budget.steps_per_update:,})"
        self._update_record(state=State.FAILED, error=f"TrainingDiverged: {reason}", ended_at=utc_timestamp())
        raise TrainingDiverged(f"{self.record.trial_id}: {reason}; try a smaller learning rate or gradient norm")

    def _keep_best(self, means: Sequence[dict[str, float | None]]) -> None:
        """Keep the parameters of the best evaluation so far.

        Args:
          means: the evaluation's metrics, of each seed.

        Raises:
          ConfigError: the objective is no metric of the evaluation.
        """
        objective = self.record.objective
        if objective.metric not in means[0]:
            known = ", ".join(sorted(means[0]))
            raise ConfigError(f"objective: metric {objective.metric}: not among the evaluation's metrics: {known}")
        if objective.at == At.BEST_PER_SEED:
            values = [objective_of([of_seed], objective) for of_seed in means]
        else:
            values = [objective_of(means, objective)] * len(means)
        for learner, value in zip(self.learners, values, strict=True):
            if value is not None and objective.sign * value > learner.best_value:
                learner.best_value = objective.sign * value
                learner.best_params = jax.tree.map(jnp.copy, learner.state.params)

    # -- On disk -----------------------------------------------------------------------------------------------------

    def _save(self, rows: Sequence[dict[str, Any]]) -> None:
        """Vault, then metrics, then checkpoint, then record: a kill between any two is undone by `_restore_or_init`."""
        for learner in self.learners:
            for vault in learner.vaults.values():
                vault.flush()
        append_metrics(self.folder, *rows)
        checkpointing = self.config.logger.checkpointing
        checkpoint = self.record.checkpoint
        if checkpointing.save_model and (
            self.evaluations % checkpointing.save_args.save_interval_steps == 0
            or self.evaluations == self.budget.num_evaluations
        ):
            path = self._checkpoints.save(self.env_steps, self._checkpoint_tree())
            checkpoint = str(path.relative_to(self.folder.resolve()))
        if self.config.logger.use_json:
            write_marl_eval(self.folder)
        self._update_record(checkpoint=checkpoint)
        if self._to_take_over:
            self._follow_lineage()

    def _checkpoint_tree(self) -> dict[str, Any]:
        return {
            "learners": [
                {
                    "state": learner.state,
                    "best_params": learner.best_params,
                    "best_value": np.asarray(learner.best_value, np.float64),
                    "vault_steps": vault_steps(learner.vaults),
                }
                for learner in self.learners
            ],
            "progress": {
                "evaluations": np.asarray(self.evaluations, np.int32),
                "trained_seconds": np.asarray(self._trained_seconds, np.float64),
                "compile_seconds": np.asarray(self._compile_seconds(), np.float64),
                "duration": np.asarray(self._duration(), np.float64),
            },
        }

    def _checkpoint_target(self) -> dict[str, Any]:
        return checkpoint_target(self.program, self.hyper, len(self.learners))

    def _restore_or_init(self, at_once: int) -> None:
        restored = None
        if self._checkpoints.steps():
            restored = self._checkpoints.restore(self._checkpoint_target(), self._misfit)
            self._note_passed_over(None if restored is None else restored[0])
        if restored is None:
            self._compile(at_once)
            for learner in self.learners:
                learner.state = self.program.init(self.hyper, learner.init_key)
                learner.best_params = jax.tree.map(jnp.copy, learner.state.params)
                for vault in learner.vaults.values():
                    vault.truncate(0)
        else:
            self._take_up(restored[1])
        truncate_metrics(self.folder, self.env_steps if self.evaluations else -1)
        self._to_take_over = self._takeovers_from_here()
        self._follow_lineage()

    def _misfit(self, tree: dict[str, Any]) -> str | None:
        """Which vault holds less than it did when the checkpoint was saved, or which parameter is no number."""
        for learner, kept in zip(self.learners, tree["learners"], strict=True):
            parameter = first_nonfinite(kept["state"].params)
            if parameter is not None:
                return f"cannot be gone on from: {parameter} is not finite"
            behind = vault_behind(learner.vaults, kept["vault_steps"])
            if behind is not None:
                return behind
        return None

    def _note_passed_over(self, step: int | None) -> None:
        """Say in the record which checkpoints could not be used."""
        if self._checkpoints.passed_over:
            where = "from the start" if step is None else f"from checkpoint {step}"
            again = [
                f", to take over {one.source} at step {one.step} again"
                for one in self.record.lineage
                if one.step > (step or 0)
            ]
            reason = f"{', '.join(self._checkpoints.passed_over)}: went on {where}{''.join(again)}"
            self.record = add_retry(self.folder, reason)

    def _take_up(self, tree: dict[str, Any]) -> None:
        """Go on from a checkpoint."""
        progress = tree["progress"]
        self.evaluations = int(progress["evaluations"])
        self._trained_seconds = float(progress["trained_seconds"])
        self._duration_before = float(progress["duration"])
        self._compile_before -= float(progress["compile_seconds"])
        for learner, kept in zip(self.learners, tree["learners"], strict=True):
            learner.state, learner.best_params = kept["state"], kept["best_params"]
            learner.best_value = float(kept["best_value"])
            for kind, vault in learner.vaults.items():
                vault.truncate(int(kept["vault_steps"][kind]))
        _logger.info("%s: resumed at step %d", self.record.trial_id, self.env_steps)

    def _takeovers_from_here(self) -> list[Takeover]:
        """What the lineage says of this step, and of later ones, to which damaged checkpoints have put the trial back.

        Raises:
          CheckpointError: a learner that was taken over later is not there any more.
        """
        to_come = [takeover for takeover in self.record.lineage if takeover.step >= self.env_steps]
        for takeover in to_come:
            folder = takeover_folder(self.folder, takeover.step)
            if not folder.is_dir():
                raise CheckpointError(
                    f"{folder}: the learner that was taken over after step {self.env_steps} is missing; restore it, "
                    f"or {START_AGAIN}"
                )
        return to_come

    def _follow_lineage(self) -> None:
        """Take over what the lineage says at this step, and go on with the values that the trial had from here."""
        here = [takeover for takeover in self._to_take_over if takeover.step == self.env_steps]
        if here:
            self._take_over(here[-1].source)
        later = [takeover for takeover in self._to_take_over if takeover.step > self.env_steps]
        if here or later:
            values = later[0].hyperparameters if later else self.record.hyperparameters
            config = parse_config(with_values(read_config(self.folder), values))
            self.hyper = self.program.put(make_hyper(config, self.budget))
        self._to_take_over = later

    def _take_over(self, source: str) -> None:
        """Go on from the learner of another trial, with random numbers of its own, the environments' too."""
        folder = takeover_folder(self.folder, self.env_steps)
        tree = self._checkpoints.restore_from(folder, self._checkpoint_target())
        own = zlib.crc32(self.record.trial_id.encode())
        for learner, taken in zip(self.learners, tree["learners"], strict=True):
            learner.state = with_keys_of(taken["state"], own)
        _logger.info("%s: took over %s at step %d", self.record.trial_id, source, self.env_steps)

    def _compile(self, at_once: int) -> None:
        """All functions of a learner at a time, once the environment is known to be playable."""
        if not self.program.compiled:
            begun = self.program.begin(self.hyper, self.learners[0].init_key)
            refuse_no_legal_action(begun.observation, self.config.env.scenario.task_name)
        batched = at_once > 1 and (self.record.batch or self.config.arch.batch) == Form.VMAP
        self.program.compile(self.hyper, ("init",) if batched else FUNCTIONS)

    def _choose_form(self, company: int, most_at_once: int | None) -> None:
        """How learners go through the program: as they did before, as the config says, or as is faster."""
        number = company * len(self.learners)
        form = self.record.batch or self.config.arch.batch
        if number == 1:
            form = Form.MAP
        elif form == "auto":
            form = Form.MAP if most_at_once == 1 else self._faster_form(company)
        width = width_of(Form(form), number)
        self.batch = Batch(self.program, width if most_at_once is None else min(width, most_at_once))
        self.batch.compile(self.hyper)
        if number > 1:
            self._update_record(batch=str(form))

    def _faster_form(self, company: int) -> Form:
        """The faster form; one after another where there is no memory to try the other."""
        number = company * len(self.learners)
        states = [learner.state for learner in self.learners] * company
        try:
            return choose(self.program, [self.hyper] * number, states, self.record.compile_signature or "")
        except jax.errors.JaxRuntimeError as error:
            if OUT_OF_MEMORY not in str(error):
                raise
            _logger.warning(
                "%s: no memory to try %d learners at once: they go one by one", self.record.trial_id, number
            )
            return Form.MAP

    def _open_vaults(self) -> None:
        rows = {
            "train": self.config.arch.num_envs * self.config.system.update_batch_size,
            "test": self.config.arch.num_eval_episodes,
        }
        for learner in self.learners:
            learner.vaults = open_vaults(self.folder, self.record, self.config.vault, learner.seed, rows)

    def _compile_cache(self, seconds: float, saved: float, misses: int) -> dict[str, Any]:
        """Where the compiled program came from, and the seconds of compiling that this saved the trial.

        Args:
          seconds, saved, misses: the program's `compile_seconds`, `saved_seconds` and `cache_misses` as it was found.
        """
        program = self.program
        if program.compile_seconds == seconds:
            return {"compile_cache": "process", "compile_time_saved_s": seconds + saved}
        where = "miss" if program.cache_misses > misses else "disk"
        return {"compile_cache": where, "compile_time_saved_s": program.saved_seconds - saved}

    def _begin_record(self) -> None:
        versions = current_provenance()
        device = self.program.devices[0]
        described = f"cpu:{usable_cores()}" if device.platform == "cpu" else device.device_kind
        if len(self.program.devices) > 1:
            described = f"{len(self.program.devices)} x {described.partition(':')[0]}"
        self._update_record(
            state=State.RUNNING,
            attempts=self.record.attempts + 1,
            started_at=self.record.started_at or utc_timestamp(),
            error=None,
            device=described,
            host=versions["host"],
            git_sha=versions["git_sha"],
            git_dirty=versions["git_dirty"],
            engine_version=our_version(),
            versions=versions["versions"],
            compile_signature=compile_signature(self.config, device.device_kind, jax.__version__),
            total_steps=self.budget.total_steps,
        )

    def finish(self, batch: Batch) -> None:
        """Play the final parameters and those of the best evaluation over many episodes; then the record is COMPLETE.

        Where the last evaluation was the best one, both are the same parameters, and are played once.
        """
        final = absolute = None
        if self.config.arch.absolute_metric:
            of_seeds = self._play_many(
                batch,
                [learner.state.params for learner in self.learners],
                [jax.random.fold_in(learner.absolute_key, FINAL_STREAM) for learner in self.learners],
            )
            final = self._close_with(FINAL, of_seeds)
            if not self._best_is_final():
                of_seeds = self._play_many(
                    batch,
                    [learner.best_params for learner in self.learners],
                    [learner.absolute_key for learner in self.learners],
                )
            absolute = self._close_with(ABSOLUTE, of_seeds)
        if self.config.logger.use_json:
            write_marl_eval(self.folder)
        self._update_record(
            state=State.COMPLETE, final_metrics=final, absolute_metrics=absolute, ended_at=utc_timestamp()
        )

    def _best_is_final(self) -> bool:
        """Whether the parameters that training ended with are those of the best evaluation."""
        if self.record.objective.at == At.BEST_PER_SEED:
            return False
        evaluations = trained_evaluations(read_metrics(self.folder), self.record.num_seeds)
        return best_step(evaluations, self.record.objective) in (None, self.env_steps)

    def _close_with(self, flag: str, of_seeds: Sequence[dict[str, np.ndarray]]) -> dict[str, float | None]:
        """Put episodes of each seed on disk in rows with this flag; their metrics, seeds aggregated."""
        means = [episode_means(episodes) for episodes in of_seeds]
        rows = [
            self._row(learner, mean, episodes, {}) | {flag: True}
            for learner, mean, episodes in zip(self.learners, means, of_seeds, strict=True)
        ]
        append_metrics(self.folder, *missing_rows(self.folder, rows))
        return aggregate_metrics(means, self.record.objective.aggregate)

    def _play_many(
        self, batch: Batch, params: Sequence[PyTree], keys: Sequence[PRNGKeyArray]
    ) -> list[dict[str, np.ndarray]]:
        """The metrics of the absolute metric's number of episodes, of each seed."""
        wanted = self.config.arch.num_absolute_metric_eval_episodes
        parts: list[list[Evaluation]] = []
        for index in range(math.ceil(wanted / self.config.arch.num_eval_episodes)):
            folded = [jax.random.fold_in(key, index) for key in keys]
            parts.append(batch.evaluate([self.hyper] * len(folded), list(params), folded))
        return [
            {name: np.concatenate([np.asarray(part.episodes[name]) for part in of_seed])[:wanted] for name in names}
            for of_seed in zip(*parts, strict=True)
            for names in [of_seed[0].episodes]
        ]

    def _update_record(self, **changes: Any) -> None:
        if self.evaluations:
            trained = max(self._trained_seconds, 1e-9)
            changes |= {
                "env_steps": self.env_steps,
                "steps_per_second": self.env_steps * len(self.learners) / trained,
                "vaults": vault_entries(learner.vaults for learner in self.learners),
            }
        changes |= {"duration_s": self._duration(), "compile_time_s": self._compile_seconds()}
        changes["spans"] = spans_until_now(self.record, self._since)
        self.record = update_record(self.folder, **changes)

    def _duration(self) -> float:
        return self._duration_before + time.perf_counter() - self._started

    def _compile_seconds(self) -> float:
        return self.program.compile_seconds - self._compile_before

    def last_result(self) -> dict[str, Any]:
        """What `step` gave last."""
        return last_result(self.folder, self.record)


class _SideBySide:
    """Experiments of one program; what goes wrong with one ends that one alone.

    Attributes:
      errors: what did, by place.
    """

    def __init__(self, experiments: Sequence[Experiment]) -> None:
        self._experiments = experiments
        self.errors: dict[int, Exception] = {}

    def each(self, method: Callable[..., Any], *arguments: Sequence[Any]) -> list[Any]:
        """Call a method of each that is well, with its own item of each sequence of arguments; None for the others."""
        results: list[Any] = [None] * len(self._experiments)
        for place, experiment in enumerate(self._experiments):
            if place not in self.errors:
                try:
                    results[place] = method(experiment, *(of_each[place] for of_each in arguments))
                except Exception as error:
                    self.errors[place] = error
        return results

    def split(self, of_learners: Sequence[Any]) -> list[Sequence[Any]]:
        """What belongs to the learners of each."""
        ends = list(itertools.accumulate(len(experiment.learners) for experiment in self._experiments))
        return [of_learners[begin:end] for begin, end in zip([0, *ends], ends, strict=False)]


def advance(experiments: Sequence[Experiment]) -> list[Exception | None]:
    """Play one evaluation period of each; those that share a program and the length of a period go side by side.

    Args:
      experiments: none of them finished.

    Returns:
      For each experiment what went wrong with it alone, or None. What goes wrong with all of them is raised.
    """
    together: dict[tuple[Batch, int], list[int]] = {}
    for place, one in enumerate(experiments):
        together.setdefault((one.batch, one.budget.updates_per_evaluation), []).append(place)
    errors: dict[int, Exception] = {}
    for (batch, _), places in together.items():
        of_group = _advance([experiments[place] for place in places], batch)
        errors |= {places[place]: error for place, error in of_group.items()}
    return [errors.get(place) for place in range(len(experiments))]


def _advance(experiments: Sequence[Experiment], batch: Batch) -> dict[int, Exception]:
    """A period of experiments that go side by side; what went wrong with single ones, by place."""
    training = [place for place, one in enumerate(experiments) if one.evaluations < one.budget.num_evaluations]
    side_by_side = _SideBySide(experiments)
    if training:
        failed = _train_and_evaluate([experiments[place] for place in training], batch)
        side_by_side.errors = {training[place]: error for place, error in failed.items()}
    side_by_side.each(lambda one: one.finish(batch) if one.evaluations == one.budget.num_evaluations else None)
    return side_by_side.errors


def _train_and_evaluate(experiments: Sequence[Experiment], batch: Batch) -> dict[int, Exception]:
    """A period; what went wrong with single experiments, by place."""
    _evaluate_untrained(experiments, batch)
    side_by_side, program = _SideBySide(experiments), batch.program
    hypers = [experiment.hyper for experiment in experiments for _ in experiment.learners]
    compiled, start = program.compile_seconds, time.perf_counter()
    learners = Learners(batch, hypers, [learner.state for one in experiments for learner in one.learners])
    losses: list[list[dict[str, jax.Array]]] = [[] for _ in hypers]
    for index in range(experiments[0].budget.updates_per_evaluation):
        outputs = learners.update()
        for of_learner, output in zip(losses, outputs, strict=True):
            of_learner.append(output.losses)
        side_by_side.each(Experiment.take_outputs, [index] * len(experiments), side_by_side.split(outputs))
    states = learners.release()
    seconds = time.perf_counter() - start - (program.compile_seconds - compiled)
    shares = [seconds * len(experiment.learners) / len(hypers) for experiment in experiments]
    of_period = side_by_side.split(states), side_by_side.split(losses), shares
    training = side_by_side.each(Experiment.take_states, *of_period)
    start = time.perf_counter()
    keys = [key for experiment in experiments for key in experiment.evaluation_keys()]
    evaluations = jax.block_until_ready(batch.evaluate(hypers, [state.params for state in states], keys))
    seconds = time.perf_counter() - start
    of_evaluation = side_by_side.split(evaluations), training, [seconds] * len(experiments)
    side_by_side.each(Experiment.take_evaluations, *of_evaluation)
    return side_by_side.errors


def _evaluate_untrained(experiments: Sequence[Experiment], batch: Batch) -> None:
    """Evaluate the networks of experiments that have trained nothing yet."""
    fresh = [one for one in experiments if not one.evaluations]
    learners = [learner for one in fresh for learner in one.learners]
    if not learners:
        return
    hypers = [one.hyper for one in fresh for _ in one.learners]
    keys = [jax.random.fold_in(learner.eval_key, 0) for learner in learners]
    evaluations = batch.evaluate(hypers, [learner.state.params for learner in learners], keys)
    for one, of_seeds in zip(fresh, _SideBySide(fresh).split(evaluations), strict=True):
        one.take_untrained(of_seeds)


def checkpoint_target(program: Program, hyper: Hyper, num_learners: int) -> dict[str, Any]:
    """The structure of what an experiment's checkpoints hold, with shapes for arrays."""
    shape = program.state_shape(hyper)
    learner = {
        "state": shape,
        "best_params": shape.params,
        "best_value": np.zeros((), np.float64),
        "vault_steps": dict.fromkeys(VAULT_KINDS, np.zeros((), np.int64)),
    }
    seconds = dict.fromkeys(("trained_seconds", "compile_seconds", "duration"), np.zeros((), np.float64))
    return {"learners": [learner] * num_learners, "progress": {"evaluations": np.zeros((), np.int32), **seconds}}


def first_nonfinite(params: PyTree) -> str | None:
    """The name of the first parameter, or statistic of values, that is not finite; None where all are."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        if not np.isfinite(leaf).all():
            return f"parameter {jax.tree_util.keystr(path, simple=True, separator='.')}"
    return None


def with_keys_of(state: LearnerState, number: int) -> LearnerState:
    """A learner's state with random numbers of its own: `number` is folded into its key and into the environments'.

    Jumanji's environments keep theirs as `key`; a leaf of another name stays as it is.
    """

    def fold(key: jax.Array) -> jax.Array:
        folded = jax.vmap(jax.random.fold_in, (0, None))(key.reshape(-1, key.shape[-1]), number)
        return jax.device_put(folded.reshape(key.shape), key.sharding)

    def fold_if_key(path: tuple[Any, ...], leaf: jax.Array) -> jax.Array:
        return fold(leaf) if path and getattr(path[-1], "name", "") == "key" else leaf

    states = jax.tree_util.tree_map_with_path(fold_if_key, state.envs.states)
    return state._replace(key=fold(state.key), envs=state.envs._replace(states=states, keys=fold(state.envs.keys)))


def _mean_losses(outputs: Sequence[dict[str, jax.Array]]) -> dict[str, float]:
    """Means over updates; where updates tell how many gradient steps they took, over those, and none without any."""
    losses = {name: np.asarray([output[name] for output in outputs], np.float64) for name in outputs[0]}
    taken = losses.get("gradient_steps", np.ones(len(outputs)))
    if not taken.any():
        return {"gradient_steps": 0.0}
    weights = taken / max(taken.sum(), 1.0)
    means = {name: float(np.sum(weights * values)) for name, values in losses.items()}
    return means if "gradient_steps" not in losses else means | {"gradient_steps": float(taken.sum())}


def _without_episodes(state: LearnerState) -> tuple[LearnerState, dict[str, float]]:
    """The state without its sums over ended episodes; the mean return and length of those, where any ended."""
    episodes = state.envs.episodes
    finished = float(episodes.finished)
    state = state._replace(envs=state.envs._replace(episodes=_cleared(episodes)))
    if not finished:
        return state, {}
    return state, {
        "episode_return": float(np.mean(episodes.finished_return)) / finished,
        "episode_length": float(episodes.finished_length) / finished,
    }


def _cleared(episodes: Any) -> Any:
    """The running episodes alone, each sum on the device and in the layout that it had."""
    zero = {name: jax.device_put(np.zeros_like(getattr(episodes, name)), getattr(episodes, name).sharding)
            for name in ("finished_return", "finished_length", "finished")}  # fmt: skip
    return episodes._replace(**zero)
