"""Tune's schedulers, extended by our trials' ids and groups and by the reasons why trials were stopped."""

from __future__ import annotations

import contextlib
import math
import random
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from ray.tune.experiment import Trial
from ray.tune.schedulers import (
    ASHAScheduler,
    HyperBandForBOHB,
    HyperBandScheduler,
    MedianStoppingRule,
    PopulationBasedTraining,
    TrialScheduler,
)
from ray.tune.schedulers.pb2 import PB2

from jax_party.trial.outcome import Evaluation
from launcher.ask.choices import Scheduler
from launcher.plan.axes import seed_of, tune_domain
from launcher.search.given_trials import InOrder
from sweeps.axes import Axis

REDUCTION = 3
MEDIAN_TRIALS = 3
PERTURBATIONS = 8
"""How often a population changes over a trial's budget; less often if there are fewer evaluations."""


@dataclass(frozen=True)
class Length:
    """The length of a group's trials: environment steps, and evaluations spread over them."""

    total_steps: int
    evaluations: int

    @property
    def period(self) -> int:
        """Environment steps to the first evaluation."""
        return max(1, self.total_steps // self.evaluations)


class GroupedStopping(InOrder):
    """Tune's ASHA or median rule, applied to each algorithm and scenario separately.

    Returns of different scenarios do not compare, and no algorithm should be stopped because another learns faster.

    The rules know trials by our ids, so that the evaluations that a stopped sweep has recorded can be replayed
    (`remember`) and belong to the same trial when it continues.
    """

    def __init__(
        self,
        kind: Scheduler,
        metric: str,
        mode: str,
        groups: Mapping[str, Length],
        group_of: Callable[[str], str],
    ) -> None:
        """Create one rule per group; `group_of` returns a trial's group, given our id."""
        super().__init__()
        self._objective = metric
        self._group_of = group_of
        self._kind = kind
        self._rules: dict[str, Any] = {name: _rule(kind, metric, mode, length) for name, length in groups.items()}
        self._stubs: dict[str, _Stub] = {}
        self.reasons: dict[str, str] = {}

    def remember(self, trial_id: str, evaluations: Sequence[Evaluation]) -> None:
        """Replay the recorded evaluations of a trial into its group's rule.

        The rule's decisions are ignored, because it made them before, with what was known then.
        """
        for evaluation in evaluations:
            self._judge(trial_id, {"env_steps": evaluation.step, self._objective: evaluation.value})
            if self._kind is Scheduler.MEDIAN:
                self._rules[self._group_of(trial_id)]._stopped_trials.discard(self._stubs[trial_id])

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """Return the rule's decision, and record the reason if it stops the trial."""
        trial_id = trial.config["trial_id"]
        value = result.get(self._objective)
        if value is None or not np.isfinite(value):
            return str(TrialScheduler.CONTINUE)
        decision = self._judge(trial_id, result)
        if decision == TrialScheduler.STOP:
            at = f"{self._objective} {value:.4g} at {int(result['env_steps']):,} steps"
            self.reasons[trial_id] = (
                f"asha: {at} is not in the best 1/{REDUCTION} of its algorithm and scenario"
                if self._kind is Scheduler.ASHA
                else f"median: {at}, and never better than the median of the others' means until then"
            )
        return decision

    def _judge(self, trial_id: str, result: dict[str, Any]) -> str:
        rule = self._rules[self._group_of(trial_id)]
        if trial_id not in self._stubs:
            self._stubs[trial_id] = _Stub(trial_id)
            rule.on_trial_add(None, self._stubs[trial_id])
        return str(rule.on_trial_result(_NO_CONTROLLER, self._stubs[trial_id], result))


def _rule(kind: Scheduler, metric: str, mode: str, length: Length) -> Any:
    if kind is Scheduler.ASHA:
        return ASHAScheduler(
            time_attr="env_steps", metric=metric, mode=mode, max_t=length.total_steps, grace_period=length.period,
            reduction_factor=REDUCTION,
        )  # fmt: skip
    return MedianStoppingRule(
        time_attr="env_steps", metric=metric, mode=mode, grace_period=length.period,
        min_samples_required=MEDIAN_TRIALS,
    )  # fmt: skip


class _Stub:
    """The part of a trial that these rules read."""

    def __init__(self, trial_id: str) -> None:
        self.trial_id = trial_id


class _NoController:
    """Stands in for Tune's controller. The median rule pauses a trial only if it lists others that wait."""

    def get_live_trials(self) -> list[Any]:
        """Return no trials, so that the rule never pauses one."""
        return []


_NO_CONTROLLER = _NoController()


class _Brackets:
    """Our additions to Tune's hyperbands: reasons, brackets that fill up, and metrics that are not finite.

    Time is counted in evaluations. Hyperband's brackets start at powers of the reduction factor, and with time in steps
    many of these would come before the first evaluation. Survivors run for their whole budget.
    """

    reasons: dict[str, str]
    evaluations: dict[str, int]
    _processing = False

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """Return hyperband's decision; a metric that is not finite counts as the worst."""
        worst = -math.inf if self._metric_op > 0 else math.inf  # type: ignore[attr-defined]
        value = result.get(self._metric)  # type: ignore[attr-defined]
        self.evaluations[trial.config["trial_id"]] = int(result["evaluation"])
        if value is None or not math.isfinite(value):
            result[self._metric] = worst  # type: ignore[attr-defined]
        decision = str(super().on_trial_result(tune_controller, trial, result))  # type: ignore[misc]
        if decision == TrialScheduler.STOP:
            self._note(trial)
        return decision

    def _create_bracket(self, s: int) -> Any:
        """Return a bracket that counts as filled once it has had all its trials; Tune's refills when trials end."""
        bracket = super()._create_bracket(s)  # type: ignore[misc]
        bracket.filled = lambda: len(bracket._all_trials) >= bracket._n0
        return bracket

    def _process_bracket(self, tune_controller: Any, bracket: Any) -> str:
        self._processing = True
        try:
            return str(super()._process_bracket(tune_controller, bracket))  # type: ignore[misc]
        finally:
            self._processing = False
            bracket.is_being_processed = False  # else Tune ignores trials that fail later

    def on_trial_remove(self, tune_controller: Any, trial: Any) -> None:
        """Remove a trial, and record the reason if hyperband itself removes it while it processes a bracket."""
        if self._processing:
            self._note(trial)
        super().on_trial_remove(tune_controller, trial)  # type: ignore[misc]

    def _note(self, trial: Any) -> None:
        trial_id = trial.config["trial_id"]
        done = self.evaluations.get(trial_id, 0)
        self.reasons.setdefault(
            trial_id, f"hyperband: not in the best 1/{REDUCTION} of its bracket after {done} evaluations"
        )


class HyperBand(_Brackets, HyperBandScheduler):
    """Tune's hyperband, for trials that are planned up front."""


class BOHBHyperBand(_Brackets, HyperBandForBOHB):
    """Tune's hyperband for BOHB."""


def make_hyperband(for_bohb: bool, metric: str, mode: str, length: Length) -> Any:
    """Return hyperband for the trials of one group."""
    kind = BOHBHyperBand if for_bohb else HyperBand
    scheduler: Any = kind(
        time_attr="evaluation", metric=metric, mode=mode, max_t=length.evaluations, reduction_factor=REDUCTION,
        stop_last_trials=False,
    )  # fmt: skip
    scheduler.reasons, scheduler.evaluations = {}, {}
    return scheduler


class _Population:
    """Our additions to Tune's populations: a trial keeps its own id, and draws are reproducible.

    Trials of a population are synchronous: all are paused at the same evaluation, and then changed together. For PB2,
    values on a log scale are given as their logarithm, so that its Gaussian process sees the axis's scale.

    A trial's draws depend only on `seed`, its content hash and the evaluation. Tune draws from Python's and NumPy's
    global generators, which other code in the driver uses too, so that runs with the same seed would differ.
    """

    seed: int
    arrive: Callable[[Mapping[str, Any]], dict[str, Any]]
    _next_perturbation_sync: float
    _perturbation_interval: float

    def _checkpoint_or_exploit(self, trial: Any, *arguments: Any) -> None:
        content = trial.config["trial_id"].rpartition("-")[2]  # what precedes the hash contains the time
        at = int(self._trial_state[trial].last_train_time)  # type: ignore[attr-defined]
        with _drawing_from(seed_of(self.seed, zlib.crc32(content.encode()), at)):
            super()._checkpoint_or_exploit(trial, *arguments)  # type: ignore[misc]

    def _get_new_config(self, trial: Any, trial_to_clone: Any) -> tuple[dict[str, Any], Any]:
        config, operations = super()._get_new_config(trial, trial_to_clone)  # type: ignore[misc]
        values = self.arrive(config["values"])
        return {**config, "trial_id": trial.config["trial_id"], "hyperparameters": values}, operations

    def choose_trial_to_run(self, tune_controller: Any) -> Any:
        """Return the next trial; if all are paused, waiting for one that has failed, skip to the next perturbation."""
        chosen = super().choose_trial_to_run(tune_controller)  # type: ignore[misc]
        live = tune_controller.get_live_trials()
        if chosen is None and live and all(trial.status == Trial.PAUSED for trial in live):
            self._next_perturbation_sync += self._perturbation_interval
            return super().choose_trial_to_run(tune_controller)  # type: ignore[misc]
        return chosen


@contextlib.contextmanager
def _drawing_from(seed: int) -> Iterator[None]:
    """Seed Python's and NumPy's global generators for the block, and restore their states afterwards."""
    before = random.getstate(), np.random.get_state()
    random.seed(seed)
    np.random.seed(seed)
    try:
        yield
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])


class PBT(_Population, PopulationBasedTraining):
    """Tune's population based training, synchronous."""


class SteppedPB2(_Population, PB2):
    """Tune's PB2, synchronous."""


def make_population(
    kind: Scheduler, metric: str, mode: str, length: Length, axes: Sequence[Axis], trained: int = 0, seed: int = 0
) -> Any:
    """Return the population scheduler for the trials of one group.

    The trials' Tune configs hold the sampled values under `values`; for PB2 in the form that `travelling` returns.

    Args:
      kind: PBT or PB2.
      metric: the objective's metric.
      mode: `max` or `min`.
      length: the length of the trials.
      axes: the axes to change.
      trained: the first perturbation comes after this number of environment steps.
      seed: the seed of its draws.
    """
    every = length.period * max(1, length.evaluations // PERTURBATIONS)
    common: dict[str, Any] = {
        "time_attr": "env_steps", "metric": metric, "mode": mode, "perturbation_interval": every, "synch": True,
        "log_config": False,
    }  # fmt: skip
    if kind is Scheduler.PB2:
        ranges = [axis for axis in axes if axis.type.is_range]  # other values are copied from the better trial
        bounds = {axis.key: [travelling(axis, axis.low), travelling(axis, axis.high)] for axis in ranges}
        population: Any = SteppedPB2(hyperparam_bounds={"values": bounds}, **common)
        population.seed = seed
        population.arrive = lambda values: {axis.key: arrived(axis, values[axis.key]) for axis in axes}
        population._next_perturbation_sync = (trained // every + 1) * every
        return population
    mutations = {axis.key: list(axis.values) if axis.values else tune_domain(axis) for axis in axes}

    def keep_in_range(config: dict[str, Any]) -> dict[str, Any]:
        return {**config, "values": {axis.key: _within(axis, config["values"][axis.key]) for axis in axes}}

    population = PBT(hyperparam_mutations={"values": mutations}, custom_explore_fn=keep_in_range, **common)
    population.seed = seed
    population.arrive = dict
    population._next_perturbation_sync = (trained // every + 1) * every
    return population


def travelling(axis: Axis, value: Any) -> Any:
    """Return a value in the form that PB2 changes: its decimal logarithm on a log scale, else the value itself."""
    if axis.values:
        return value
    return math.log10(value) if axis.type.is_log else float(value)


def arrived(axis: Axis, value: Any) -> Any:
    """Return a trial's value, given one in the form that PB2 changes."""
    return value if axis.values else _within(axis, 10.0 ** float(value) if axis.type.is_log else float(value))


def _within(axis: Axis, value: Any) -> Any:
    """Return the closest value that the axis contains."""
    return value if axis.values else axis.nearest(value)


__all__ = [
    "GroupedStopping", "Length", "arrived", "make_hyperband", "make_population", "travelling",
]  # fmt: skip
