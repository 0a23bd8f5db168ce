"""One period of several experiments: those that share a program go through it together."""

from __future__ import annotations

import itertools
import time
from collections.abc import Sequence
from typing import Any, Protocol

import jax
from jaxtyping import PRNGKeyArray

from jax_party.config import Budget
from jax_party.systems.base import Hyper
from jax_party.training.batching import Batch, Learners
from jax_party.training.evaluation import Evaluation
from jax_party.training.learner import Learner


class Advancing(Protocol):
    """What `advance` needs from an experiment."""

    hyper: Hyper
    budget: Budget
    batch: Batch

    @property
    def learners(self) -> Sequence[Learner]:
        """The learners, one per seed."""

    @property
    def evaluations(self) -> int:
        """The number of evaluation periods played so far."""

    def evaluation_keys(self) -> list[PRNGKeyArray]:
        """Return the keys of this period's evaluation, one per seed."""

    def take_untrained(self, evaluations: Sequence[Evaluation]) -> None:
        """Write an evaluation of each seed's untrained networks to disk."""


class SideBySide:
    """Experiments of one program; an error in one ends only that one.

    Attributes:
      errors: place -> the error of the experiment there.
    """

    def __init__(self, experiments: Sequence[Advancing]) -> None:
        self._experiments = experiments
        self.errors: dict[int, Exception] = {}

    def each(self, method: str, *arguments: Sequence[Any]) -> list[Any]:
        """Call a method of each experiment without an error, with its item of each argument; None for the others."""
        results: list[Any] = [None] * len(self._experiments)
        for place, experiment in enumerate(self._experiments):
            if place not in self.errors:
                try:
                    results[place] = getattr(experiment, method)(*(of_each[place] for of_each in arguments))
                except Exception as error:
                    self.errors[place] = error
        return results

    def split(self, of_learners: Sequence[Any]) -> list[Sequence[Any]]:
        """Split what belongs to the learners into one sequence per experiment."""
        ends = list(itertools.accumulate(len(experiment.learners) for experiment in self._experiments))
        return [of_learners[begin:end] for begin, end in zip([0, *ends], ends, strict=False)]


def advance(experiments: Sequence[Advancing]) -> list[Exception | None]:
    """Play one evaluation period of each; those with the same program and period length run side by side.

    Args:
      experiments: none of them finished.

    Returns:
      For each experiment its own error, or None. An error that concerns all of them is raised.
    """
    together: dict[tuple[Batch, int], list[int]] = {}
    for place, one in enumerate(experiments):
        together.setdefault((one.batch, one.budget.updates_per_evaluation), []).append(place)
    errors: dict[int, Exception] = {}
    for (batch, _), places in together.items():
        of_group = _advance([experiments[place] for place in places], batch)
        errors |= {places[place]: error for place, error in of_group.items()}
    return [errors.get(place) for place in range(len(experiments))]


def _advance(experiments: Sequence[Advancing], batch: Batch) -> dict[int, Exception]:
    """Play a period of experiments side by side; return the errors of single ones, by place."""
    training = [place for place, one in enumerate(experiments) if one.evaluations < one.budget.num_evaluations]
    side_by_side = SideBySide(experiments)
    if training:
        failed = _train_and_evaluate([experiments[place] for place in training], batch)
        side_by_side.errors = {training[place]: error for place, error in failed.items()}
    side_by_side.each("finish_if_due", [batch] * len(experiments))
    return side_by_side.errors


def _train_and_evaluate(experiments: Sequence[Advancing], batch: Batch) -> dict[int, Exception]:
    """Train and evaluate for a period; return the errors of single experiments, by place."""
    _evaluate_untrained(experiments, batch)
    side_by_side, program = SideBySide(experiments), batch.program
    hypers = [experiment.hyper for experiment in experiments for _ in experiment.learners]
    compiled, start = program.compile_seconds, time.perf_counter()
    learners = Learners(batch, hypers, [learner.state for one in experiments for learner in one.learners])
    losses: list[list[dict[str, jax.Array]]] = [[] for _ in hypers]
    for index in range(experiments[0].budget.updates_per_evaluation):
        outputs = learners.update()
        for of_learner, output in zip(losses, outputs, strict=True):
            of_learner.append(output.losses)
        side_by_side.each("take_outputs", [index] * len(experiments), side_by_side.split(outputs))
    states = learners.release()
    seconds = time.perf_counter() - start - (program.compile_seconds - compiled)
    shares = [seconds * len(experiment.learners) / len(hypers) for experiment in experiments]
    of_period = side_by_side.split(states), side_by_side.split(losses), shares
    training = side_by_side.each("take_states", *of_period)
    start = time.perf_counter()
    keys = [key for experiment in experiments for key in experiment.evaluation_keys()]
    evaluations = jax.block_until_ready(batch.evaluate(hypers, [state.params for state in states], keys))
    seconds = time.perf_counter() - start
    of_evaluation = side_by_side.split(evaluations), training, [seconds] * len(experiments)
    side_by_side.each("take_evaluations", *of_evaluation)
    return side_by_side.errors


def _evaluate_untrained(experiments: Sequence[Advancing], batch: Batch) -> None:
    """Evaluate the networks of experiments that have not trained yet."""
    fresh = [one for one in experiments if not one.evaluations]
    learners = [learner for one in fresh for learner in one.learners]
    if not learners:
        return
    hypers = [one.hyper for one in fresh for _ in one.learners]
    keys = [jax.random.fold_in(learner.eval_key, 0) for learner in learners]
    evaluations = batch.evaluate(hypers, [learner.state.params for learner in learners], keys)
    for one, of_seeds in zip(fresh, SideBySide(fresh).split(evaluations), strict=True):
        one.take_untrained(of_seeds)
