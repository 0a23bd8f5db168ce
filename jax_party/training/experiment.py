"""The outer loop of a trial: train for a period, evaluate, checkpoint.

`Experiment` owns time and checkpoints, a `Recorder` everything else on disk, a system its losses, and a `Program` the
compiled functions."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PRNGKeyArray, PyTree

from jax_party.config import ExperimentConfig, compile_signature, make_budget, parse_config, with_values
from jax_party.envs.adapter import refuse_no_legal_action
from jax_party.errors import ConfigError
from jax_party.judging.objectives import At
from jax_party.judging.scores import ABSOLUTE, FINAL, UNTRAINED, best_step, objective_of, trained_evaluations
from jax_party.systems.base import Hyper, LearnerState, UpdateOutput
from jax_party.training.batching import Batch, Form, choose, width_of
from jax_party.training.checkpoint_files import Checkpoints
from jax_party.training.checkpointing import checkpoint_target, checkpoint_tree, is_due, take_up, why_unfit
from jax_party.training.evaluation import Evaluation
from jax_party.training.learner import (
    Learner,
    first_nonfinite,
    mean_losses,
    without_episodes,
)
from jax_party.training.program import FUNCTIONS, get_program, make_hyper, usable_cores
from jax_party.training.recorder import Recorded, Recorder, as_arrays
from jax_party.training.side_by_side import advance
from jax_party.training.takeovers import Takeovers
from jax_party.trial.folder import read_config
from jax_party.trial.metrics import read_metrics
from jax_party.trial.provenance import our_version

FINAL_STREAM = 2**31 - 1
"""Folded into the absolute metric's key, so that the final parameters are played with keys of their own."""
OUT_OF_MEMORY = "RESOURCE_EXHAUSTED"
"""What XLA's error contains if a device is out of memory."""
_logger = logging.getLogger(__name__)


class Experiment(Recorded):
    """One trial: a folder, and the training that fills it, with one learner per seed.

    A folder that was begun before is resumed from its newest checkpoint: later metrics and vault steps are cut off and
    reproduced bit for bit.

    Args:
      config: the experiment.
      folder: the trial's folder, with `config.yaml` and `record.json` in it (`create_trial_folder`).
      company: how many experiments are advanced together, including this one.
      most_at_once: the largest number of learners in a batched program, None for all.

    Raises:
      RecordError, VaultError, CheckpointError: the folder cannot be resumed.
    """

    def __init__(
        self, config: ExperimentConfig, folder: Path, *, company: int = 1, most_at_once: int | None = None
    ) -> None:
        self.config = config
        self.folder = folder
        self.budget = make_budget(config)
        seeds = range(config.system.seed, config.system.seed + config.arch.num_seeds)
        self.recorder = Recorder(folder, self.budget, seeds, self._compiling)
        self.learners: Sequence[Learner] = ()
        self.width = 1
        self._checkpoints: Checkpoints | None = None
        self._takeovers: Takeovers | None = None
        if self.finished:
            return
        self.program = get_program(config)
        self._compile_before = self.program.compile_seconds
        found = self.program.compile_seconds, self.program.saved_seconds, self.program.cache_misses
        self.hyper: Hyper = self.program.put(make_hyper(config, self.budget))
        checkpointing = config.logger.checkpointing
        self._checkpoints = Checkpoints(folder / "checkpoints", checkpointing.save_args.max_to_keep)
        self.learners = [Learner.of(seed) for seed in seeds]
        try:
            rows = {
                "train": config.arch.num_envs * config.system.update_batch_size, "test": config.arch.num_eval_episodes
            }  # fmt: skip
            self.recorder.open(config.vault, rows)
            self._begin_record()
            self._restore_or_init(company * len(self.learners))
            self._choose_form(company, most_at_once)
            self.recorder.update(**self._compile_cache(*found))
        except BaseException:
            self.close()  # release our own locks, so that a retry in this process does not meet them
            raise

    @property
    def num_learners(self) -> int:
        """The number of seeds that are trained here; 0 if the trial has ended."""
        return len(self.learners)

    def step(self) -> dict[str, Any]:
        """Play one evaluation period; the last one ends with the final parameters' episodes and the absolute metric.

        Returns:
          `evaluation`, `env_steps`, `steps_per_second`, `finished`, and the evaluation's metrics by name: means over
          its episodes, aggregated over seeds as the objective says. A finished experiment returns its last evaluation
          again.

        Raises:
          TrainingDiverged: a loss or a parameter is not finite; the record says FAILED and why.
        """
        if not self.finished:
            (error,) = advance([self])
            if error is not None:
                raise error
        return self.last_result()

    @staticmethod
    def side_by_side(experiments: Sequence[Experiment]) -> list[dict[str, Any] | Exception]:
        """Call `step` for each, together if they share a program; return each result, or that one's error."""
        unfinished = [one for one in experiments if not one.finished]
        errors = dict(zip(map(id, unfinished), advance(unfinished), strict=True))
        return [errors.get(id(one)) or one.last_result() for one in experiments]

    def close(self) -> None:
        """Release files and threads; calling it twice is fine."""
        self.recorder.close()
        if self._checkpoints is not None:
            self._checkpoints.close()

    # -- One period --------------------------------------------------------------------------------------------------

    def take_outputs(self, index: int, outputs: Sequence[UpdateOutput]) -> None:
        """Record the outputs of update `index` of this period, one per seed."""
        number = self.evaluations * self.budget.updates_per_evaluation + index
        if number % self.config.vault.every:
            return
        for place, output in enumerate(outputs):
            self.recorder.submit(place, "train", output.trajectory)

    def take_states(
        self, states: Sequence[LearnerState], losses: Sequence[Sequence[dict[str, jax.Array]]], seconds: float
    ) -> list[dict[str, float]]:
        """Store the results of a period of updates.

        Args:
          states: one per seed.
          losses: for each seed, those of each update.
          seconds: this experiment's share of the time that the updates took.

        Returns:
          The seeds' training metrics of the period.

        Raises:
          TrainingDiverged: a loss, or a parameter after the last update, is not finite.
        """
        self.recorder.trained_seconds += seconds
        rows = []
        for place, (learner, state, of_updates) in enumerate(zip(self.learners, states, losses, strict=True)):
            learner.state, episodes = without_episodes(state)
            means = mean_losses(of_updates)
            self._refuse_nonfinite(place, means, of_updates)
            rows.append(means | episodes | {"steps_per_second": self.budget.steps_per_evaluation / seconds})
        return rows

    def evaluation_keys(self) -> list[PRNGKeyArray]:
        """Return the keys of this period's evaluation, one per seed."""
        return [jax.random.fold_in(learner.eval_key, self.evaluations + 1) for learner in self.learners]

    def take_evaluations(
        self, evaluations: Sequence[Evaluation], training: Sequence[dict[str, float]], seconds: float
    ) -> None:
        """Store an evaluation of each seed, and write the period to disk."""
        self.recorder.evaluations += 1
        rows = []
        for place, (evaluation, train) in enumerate(zip(evaluations, training, strict=True)):
            self.recorder.submit(place, "test", evaluation.trajectory)
            row = self.recorder.row(place, as_arrays(evaluation.episodes), train)
            rows.append(row | {"evaluation_time_s": seconds / len(self.learners)})
        self._keep_best([row["evaluate"] for row in rows])
        self._save(rows)

    def take_untrained(self, evaluations: Sequence[Evaluation]) -> None:
        """Write an evaluation of each seed's untrained networks, at step 0: it is plotted and never judged."""
        self.recorder.add(
            self.recorder.row(place, as_arrays(evaluation.episodes), {}) | {UNTRAINED: True}
            for place, evaluation in enumerate(evaluations)
        )

    def _refuse_nonfinite(
        self, place: int, means: dict[str, float], of_updates: Sequence[dict[str, jax.Array]]
    ) -> None:
        """Fail the trial if a loss, or a parameter after the last update, is not finite."""
        done = self.evaluations * self.budget.updates_per_evaluation
        for name, mean in means.items():
            if not math.isfinite(mean):
                bad = next((i for i, losses in enumerate(of_updates) if not np.isfinite(losses[name])), 0)
                self._diverged(place, f"{name} became {float(of_updates[bad][name])}", done + bad + 1)
        parameter = first_nonfinite(self.learners[place].state.params)
        if parameter is not None:
            self._diverged(place, f"{parameter} is not finite", done + len(of_updates))

    def _diverged(self, place: int, what: str, update: int) -> NoReturn:
        self.recorder.diverged(place, what, f"update {update} (step {update * self.budget.steps_per_update:,})")

    def _keep_best(self, means: Sequence[dict[str, float | None]]) -> None:
        """Keep the parameters of the best evaluation so far.

        Args:
          means: the evaluation's metrics for each seed.

        Raises:
          ConfigError: the objective is not a metric of the evaluation.
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
        """Write vault, metrics, checkpoint, record in this order: `_restore_or_init` undoes a kill between any two."""
        self.recorder.add(rows)
        checkpoint = self.record.checkpoint
        if is_due(self.config.logger.checkpointing, self.evaluations, self.budget):
            assert self._checkpoints is not None
            path = self._checkpoints.save(self.env_steps, checkpoint_tree(self.learners, self.recorder))
            checkpoint = str(path.relative_to(self.folder.resolve()))
        if self.config.logger.use_json:
            self.recorder.write_marl_eval()
        self.recorder.update(checkpoint=checkpoint)
        self._follow_lineage()

    def _checkpoint_target(self) -> dict[str, Any]:
        return checkpoint_target(self.program, self.hyper, len(self.learners))

    def _restore_or_init(self, at_once: int) -> None:
        restored = None
        assert self._checkpoints is not None
        if self._checkpoints.steps():
            restored = self._checkpoints.restore(self._checkpoint_target(), lambda tree: why_unfit(tree, self.recorder))
            self.recorder.note_passed_over(self._checkpoints.passed_over, None if restored is None else restored[0])
        if restored is None:
            self._compile(at_once)
            for learner in self.learners:
                learner.state = self.program.init(self.hyper, learner.init_key)
                learner.best_params = jax.tree.map(jnp.copy, learner.state.params)
            self.recorder.begin_anew()
        else:
            self._compile_before -= float(restored[1]["progress"]["compile_seconds"])
            take_up(restored[1], self.learners, self.recorder)
            _logger.info("%s: resumed at step %d", self.record.trial_id, self.env_steps)
        self._takeovers = Takeovers(self.folder, self.record, self.env_steps)
        self._follow_lineage()

    def _follow_lineage(self) -> None:
        """Repeat the takeover recorded at this step, if any, and continue with the values that the trial had next."""
        assert self._takeovers is not None and self._checkpoints is not None
        if not self._takeovers:
            return
        values = self._takeovers.follow(
            self.env_steps, self.record, self.learners, self._checkpoints, self._checkpoint_target()
        )
        if values is not None:
            config = parse_config(with_values(read_config(self.folder), values))
            self.hyper = self.program.put(make_hyper(config, self.budget))

    def _compile(self, at_once: int) -> None:
        """Compile the functions for single learners, after checking that the environment is playable."""
        if self.program.compiled.keys() <= {("begin", 1)}:  # the check compiles `begin`
            begun = self.program.begin(self.hyper, self.learners[0].init_key)
            refuse_no_legal_action(begun.observation, self.config.env.scenario.task_name)
        batched = at_once > 1 and (self.record.batch or self.config.arch.batch) == Form.VMAP
        self.program.compile(self.hyper, ("init",) if batched else FUNCTIONS)

    def _choose_form(self, company: int, most_at_once: int | None) -> None:
        """Set how learners go through the program: as before, as the config says, or the faster way."""
        number = company * len(self.learners)
        form = self.record.batch or self.config.arch.batch
        if number == 1:
            form = Form.MAP
        elif form == "auto":
            form = Form.MAP if most_at_once == 1 else self._faster_form(company)
        width = width_of(Form(form), number)
        self.batch = Batch(self.program, width if most_at_once is None else min(width, most_at_once))
        self.batch.compile(self.hyper)
        self.width = self.batch.width
        if number > 1:
            self.recorder.update(batch=str(form))

    def _faster_form(self, company: int) -> Form:
        """Return the faster form; one after another if there is no memory to try the other."""
        number = company * len(self.learners)
        states = [learner.state for learner in self.learners] * company
        try:
            return choose(self.program, [self.hyper] * number, states, self.record.compile_signature or "")
        except jax.errors.JaxRuntimeError as error:
            if OUT_OF_MEMORY not in str(error):
                raise
            _logger.warning(
                "%s: no memory to try %d learners at once; training them one by one", self.record.trial_id, number
            )
            return Form.MAP

    def _compile_cache(self, seconds: float, saved: float, misses: int) -> dict[str, Any]:
        """Return where the compiled program came from, and the seconds of compiling that this saved the trial.

        Args:
          seconds, saved, misses: the program's `compile_seconds`, `saved_seconds` and `cache_misses` before this trial.
        """
        program = self.program
        if program.compile_seconds == seconds:
            return {"compile_cache": "process", "compile_time_saved_s": seconds + saved}
        where = "miss" if program.cache_misses > misses else "disk"
        return {"compile_cache": where, "compile_time_saved_s": program.saved_seconds - saved}

    def _begin_record(self) -> None:
        device = self.program.devices[0]
        described = f"cpu:{usable_cores()}" if device.platform == "cpu" else device.device_kind
        if len(self.program.devices) > 1:
            described = f"{len(self.program.devices)} x {described.partition(':')[0]}"
        self.recorder.begin(
            device=described,
            engine_version=our_version(),
            compile_signature=compile_signature(self.config, device.device_kind, jax.__version__),
        )

    def finish_if_due(self, batch: Batch) -> None:
        """End the trial if its last period has been played."""
        if self.evaluations == self.budget.num_evaluations:
            self._finish(batch)

    def _finish(self, batch: Batch) -> None:
        """Play many episodes with the final and the best evaluation's parameters; then mark the record COMPLETE.

        If the last evaluation was the best one, these are the same parameters, and are played once.
        """
        final = absolute = None
        if self.config.arch.absolute_metric:
            of_seeds = self._play_many(
                batch,
                [learner.state.params for learner in self.learners],
                [jax.random.fold_in(learner.absolute_key, FINAL_STREAM) for learner in self.learners],
            )
            final = self.recorder.add_closing(FINAL, of_seeds)
            if not self._best_is_final():
                of_seeds = self._play_many(
                    batch,
                    [learner.best_params for learner in self.learners],
                    [learner.absolute_key for learner in self.learners],
                )
            absolute = self.recorder.add_closing(ABSOLUTE, of_seeds)
        if self.config.logger.use_json:
            self.recorder.write_marl_eval()
        self.recorder.complete(final, absolute)

    def _best_is_final(self) -> bool:
        """Return whether the final parameters are those of the best evaluation."""
        if self.record.objective.at == At.BEST_PER_SEED:
            return False
        evaluations = trained_evaluations(read_metrics(self.folder), self.record.num_seeds)
        return best_step(evaluations, self.record.objective) in (None, self.env_steps)

    def _play_many(
        self, batch: Batch, params: Sequence[PyTree], keys: Sequence[PRNGKeyArray]
    ) -> list[dict[str, np.ndarray]]:
        """Return the metrics of `num_absolute_metric_eval_episodes` episodes, for each seed."""
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

    def _compiling(self) -> dict[str, Any]:
        return {"compile_time_s": self.program.compile_seconds - self._compile_before}

    def last_result(self) -> dict[str, Any]:
        """Return the last result of `step`."""
        return self.recorder.last_result()
