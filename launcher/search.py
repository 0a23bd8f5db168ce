"""Tune's search algorithms and schedulers, told about planned trials and scenarios."""

from __future__ import annotations

import copy
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from optuna.samplers import TPESampler
from ray import tune
from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher
from ray.tune.search.optuna import OptunaSearch
from ray.tune.search.variant_generator import generate_variants

from launcher.outcome import Evaluation
from launcher.plan import PlannedTrial, Study
from sweeps.space import Axis, AxisType

REDRAWS = 100
ASHA_REDUCTION = 3
FINISHED: Any = Searcher.FINISHED

logger = logging.getLogger(__name__)


def tune_domain(axis: Axis) -> Any:
    """The axis as Tune's own domain; whole numbers have both ends in it, Tune's `randint` only the lower."""
    if not axis.type.is_range:
        values = list(axis.values)
        return tune.grid_search(values) if axis.type is AxisType.GRID else tune.choice(values)
    assert axis.low is not None and axis.high is not None
    if axis.type.is_int:
        integers = tune.lograndint if axis.type.is_log else tune.randint
        return integers(int(axis.low), int(axis.high) + 1)
    if axis.type is AxisType.QUNIFORM:
        assert axis.q is not None
        return tune.quniform(axis.low, axis.high, axis.q)
    draw = tune.loguniform if axis.type.is_log else tune.uniform
    return draw(axis.low, axis.high)


def draw_configurations(axes: Sequence[Axis], samples: int, seed: int) -> list[dict[str, Any]]:
    """Draw with Tune's variant generator: `samples` times the random axes, each with every grid point; by axis name.

    A draw that repeats an earlier one is drawn again, up to `REDRAWS` times; then the space counts as
    exhausted and there are fewer.
    """
    generator = np.random.default_rng(seed)
    spec = {"config": {axis.name: tune_domain(axis) for axis in axes}}
    drawn: dict[str, dict[str, Any]] = {}
    for _ in range(samples):
        for _ in range(REDRAWS):
            variants = generate_variants(copy.deepcopy(spec), constant_grid_search=True, random_state=generator)
            block = [_tidy(axes, _plain(variant["config"])) for _, variant in variants]
            new = {_identity(values): values for values in block if _identity(values) not in drawn}
            if new:
                drawn.update(new)
                break
        else:
            break
    return list(drawn.values())


class OptunaPlanner(Searcher):
    """Tune's OptunaSearch, one study an algorithm and scenario, that writes a trial's folder for each suggestion.

    Trials that are planned already (of a sweep that was stopped) are given out first, in their order. Trial
    number n belongs to base n modulo the number of bases.
    """

    def __init__(
        self,
        study: Study,
        num_trials: int,
        unfinished: Sequence[PlannedTrial],
        numbers: Sequence[int],
        write: Callable[[PlannedTrial], PlannedTrial],
        score: Callable[[str], float | None],
    ) -> None:
        super().__init__(metric=study.spec.metric, mode=study.spec.mode)
        self._study = study
        self._unfinished = list(unfinished)
        self._new_numbers = [number for number in range(num_trials) if number not in set(numbers)]
        self._write = write
        self._score = score
        self._running: dict[str, tuple[PlannedTrial, bool]] = {}
        self._samplers: list[Any] = [
            OptunaSearch(
                space=_optuna_space(study.axes_of(base)),
                metric=study.spec.metric,
                mode=study.spec.mode,
                # Several are asked for at a time: those that are not told of yet count as bad, so that they differ.
                sampler=TPESampler(seed=_seed_of(study.seed, index, len(numbers)), constant_liar=True),
                study_name=f"{base.algorithm} {base.scenario}",
            )
            for index, base in enumerate(study.bases)
        ]

    @property
    def remaining(self) -> int:
        """How many trials it has still to give out."""
        return len(self._unfinished) + len(self._new_numbers)

    def remember(self, number: int, values: Mapping[str, Any], score: float | None) -> None:
        """Tell the study of the trial's scenario about a trial that ended before."""
        sampler = self._samplers[number % len(self._samplers)]
        axes = self._study.axes_of(self._study.bases[number % len(self._samplers)])
        parameters = {axis.key: _encode(axis, values[axis.key]) for axis in axes}
        sampler.add_evaluated_point(parameters, score, error=score is None)

    def set_search_properties(self, metric: str | None, mode: str | None, config: dict[str, Any], **spec: Any) -> bool:
        """The study has its own metric and mode."""
        return True

    def suggest(self, trial_id: str) -> Any:
        """The config of the next unfinished trial, or of a new one from Optuna; `FINISHED` after the last."""
        if self._unfinished:
            trial = self._unfinished.pop(0)
            self._running[trial_id] = (trial, False)
            return {"trial_id": trial.trial_id}
        if not self._new_numbers:
            return FINISHED
        number = self._new_numbers.pop(0)
        index = number % len(self._samplers)
        encoded = self._samplers[index].suggest(trial_id)
        base = self._study.bases[index]
        values = {axis.key: _decode(axis, encoded[axis.key]) for axis in self._study.axes_of(base)}
        trial = self._write(self._study.trial(number, base, values))
        self._running[trial_id] = (trial, True)
        return {"trial_id": trial.trial_id}

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Tell Optuna the trial's score, as its folder has it."""
        trial, asked = self._running.pop(trial_id)
        score = None if error else self._score(trial.trial_id)
        if not asked:
            self.remember(trial.number, trial.hyperparameters, score)
            return
        sampler = self._samplers[trial.number % len(self._samplers)]
        result = None if score is None else {self._study.spec.metric: score}
        sampler.on_trial_complete(trial_id, result=result, error=score is None)

    def save(self, checkpoint_path: str) -> None:
        """Nothing to save: the folders are the truth."""
        Path(checkpoint_path).touch()

    def restore(self, checkpoint_path: str) -> None:
        """Nothing to restore."""


class GroupedASHA(FIFOScheduler):
    """Tune's ASHA, one for each algorithm and scenario: returns of scenarios do not compare, and no algorithm is to be
    stopped because another learns sooner.

    Trials are known to it by our ids, so that what a stopped sweep had recorded can be replayed
    (`remember`) and counts as the same trial when it goes on.
    """

    def __init__(
        self, metric: str, mode: str, groups: Mapping[str, tuple[int, int]], group_of: Callable[[str], str]
    ) -> None:
        """`groups` gives each one's total steps and evaluations; `group_of` a trial's group by our id."""
        super().__init__()
        self._objective = metric
        self._group_of = group_of
        self._asha: dict[str, Any] = {
            group: ASHAScheduler(
                time_attr="env_steps", metric=metric, mode=mode, max_t=total_steps,
                grace_period=max(1, total_steps // evaluations), reduction_factor=ASHA_REDUCTION,
            )
            for group, (total_steps, evaluations) in groups.items()
        }  # fmt: skip
        self._group: dict[str, str] = {}
        self.reasons: dict[str, str] = {}

    def remember(self, trial_id: str, evaluations: Sequence[Evaluation]) -> None:
        """Replay the recorded evaluations of a trial into its group's rungs."""
        for evaluation in evaluations:
            self._judge(trial_id, {"env_steps": evaluation.step, self._objective: evaluation.value})

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """ASHA's decision, with its reason kept."""
        trial_id = trial.config["trial_id"]
        value = result.get(self._objective)
        if value is None or not np.isfinite(value):
            return str(TrialScheduler.CONTINUE)
        decision = self._judge(trial_id, result)
        if decision == TrialScheduler.STOP:
            self.reasons[trial_id] = (
                f"asha: {self._objective} {value:.4g} at {int(result['env_steps']):,} steps is not in the best "
                f"1/{ASHA_REDUCTION} of its algorithm and scenario"
            )
        return decision

    def _judge(self, trial_id: str, result: dict[str, Any]) -> str:
        if trial_id not in self._group:
            self._group[trial_id] = self._group_of(trial_id)
            self._asha[self._group[trial_id]].on_trial_add(None, _Stub(trial_id))
        return str(self._asha[self._group[trial_id]].on_trial_result(None, _Stub(trial_id), result))


class _Stub:
    """All that ASHA reads of a trial."""

    def __init__(self, trial_id: str) -> None:
        self.trial_id = trial_id


def _seed_of(seed: int, *place: int) -> int:
    """A seed for Optuna that is never 0 and differs by place, so that a resumed study does not draw the same again."""
    return int(np.random.SeedSequence((seed, *place)).generate_state(1)[0] % (2**31 - 1)) + 1


def _optuna_space(axes: Sequence[Axis]) -> dict[str, Any]:
    domains = {axis.key: tune.choice(_categories(axis)) if axis.values else tune_domain(axis) for axis in axes}
    return dict(OptunaSearch.convert_search_space(domains))


def _categories(axis: Axis) -> list[Any]:
    """The values themselves, or their places where Optuna cannot hold them (lists)."""
    if all(isinstance(value, (str, int, float, bool, type(None))) for value in axis.values):
        return list(axis.values)
    return list(range(len(axis.values)))


def _encode(axis: Axis, value: Any) -> Any:
    return _categories(axis)[list(axis.values).index(value)] if axis.values else value


def _decode(axis: Axis, value: Any) -> Any:
    if not axis.values:
        return axis.tidy(_plain({"": value})[""])
    return axis.values[_categories(axis).index(value)]


def _tidy(axes: Sequence[Axis], values: Mapping[str, Any]) -> dict[str, Any]:
    return {axis.name: axis.tidy(values[axis.name]) for axis in axes}


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value.item() if isinstance(value, np.generic) else value for key, value in values.items()}


def _identity(values: Mapping[str, Any]) -> str:
    return json.dumps(values, sort_keys=True)
