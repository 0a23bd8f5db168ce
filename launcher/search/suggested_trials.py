"""Connect Tune's searchers to our plans: each suggestion becomes one trial folder, or one per scenario."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import optuna
from ray.tune.result import TRAINING_ITERATION
from ray.tune.search import Searcher

from jax_party.judging.aggregate import Aggregate, aggregate_metrics
from jax_party.judging.seeds import FIRST_FRESH_SEED
from jax_party.trial.draws import Draws
from launcher.ask.choices import Duplicates, Search
from launcher.plan.axes import REDRAWS, Space, seed_of
from launcher.plan.study import SEED_KEY, PlannedTrial, Study
from launcher.search.searchers import WORST, Told, bounded, make_searcher

FINISHED: Any = Searcher.FINISHED
DRAWING_S = 2.0
"""The longest that Tune waits at a time while repeated draws are answered."""


optuna.logging.disable_default_handler()  # writes to the terminal; the sweep's log has its messages


@dataclass
class Configuration:
    """A configuration that a searcher has drawn, and its trials.

    Attributes:
      group: index of its group.
      number: number of its first trial.
      values: its values, by axis name.
      trials: its planned trials.
      encoded: the values in the searcher's form; empty if it was known before the searcher was created.
      ended: ids of its trials that have ended.
      failed: whether one of its trials has failed.
      repeats: whether the trials belong to an earlier draw of the same values.
      refused: the number of draws for the same number that were refused before this one.
    """

    group: int
    number: int
    values: Mapping[str, Any]
    trials: Sequence[PlannedTrial]
    encoded: Mapping[str, Any] = field(default_factory=dict)
    ended: set[str] = field(default_factory=set)
    failed: bool = False
    repeats: bool = False
    refused: int = 0

    @property
    def key(self) -> str:
        """The id that its searcher knows it by."""
        return f"configuration-{self.number}" + (f"-{self.refused}" if self.refused else "")

    @property
    def played(self) -> str:
        """A key that is equal for repeated draws: the values of its trials, without the seeds."""
        return json.dumps(
            [[trial.base.algorithm, trial.base.scenario, trial.hyperparameters] for trial in self.trials],
            sort_keys=True, default=str,
        )  # fmt: skip

    @property
    def over(self) -> bool:
        """Whether all of its trials have ended."""
        return len(self.ended) == len(self.trials)


class SuggestedTrials(Searcher):
    """Runs one of Tune's searchers per group of trials.

    A new searcher learns what is known already in the form of suggestions: it gets the known configurations as points
    to suggest first, and is then told their results. So it continues a stopped sweep even if it cannot be saved.

    No trial is run twice. If a configuration is drawn again, the study's `duplicates` decides: it gets unused seeds, it
    is answered from the results of its earlier trials once they have ended, or it is refused. It is also answered if it
    should get seeds but the seed is an axis or no seeds are left.

    Args:
      study: the sweep.
      num_trials: the number of trials of the search.
      groups: indices of the groups to draw for.
      history: group index -> results of earlier sweeps.
      known: the configurations planned so far, ordered by number; their unfinished trials are suggested first.
      write: creates a trial's folder, and returns the trial with its final id.
      reached: returns a trial's result, given its id; None if it failed.
      max_concurrent: how many trials may run at a time; paused ones do not count.
      draws: the draws that led to no trial; new ones are added.
      keep: stores `draws`.
    """

    def __init__(
        self,
        study: Study,
        num_trials: int,
        groups: Sequence[int],
        history: Mapping[int, Sequence[Told]],
        known: Sequence[Configuration],
        write: Callable[[PlannedTrial], PlannedTrial],
        reached: Callable[[str], Told | None],
        max_concurrent: int,
        draws: Draws | None = None,
        keep: Callable[[], None] = lambda: None,
    ) -> None:
        super().__init__(metric=study.objective.metric, mode=study.objective.mode)
        self._study = study
        self._write = write
        self._reached = reached
        self.most: Callable[[], int] = lambda: max_concurrent
        self._max_concurrent = max_concurrent
        self._draws = Draws() if draws is None else draws
        self._keep = keep
        self._spaces = {group: Space(study.groups[group].axes) for group in groups}
        self._limits: dict[str, list[float]] = {}
        self._running: dict[str, tuple[Configuration, PlannedTrial]] = {}
        self._paused: set[str] = set()
        known = [one for one in known if one.group in groups]
        drawn = {one.number for one in known}.union(*self._draws.left_out.values())
        rounds = math.ceil(num_trials / study.round_size)
        self._new = [
            (group, number)
            for configuration in range(rounds)
            for group in groups
            for number in [study.first_number(configuration, group)]
            if number < num_trials and number not in drawn
        ]
        made = [one for one in known if not one.repeats]
        self._waiting = [(one, trial) for one in made for trial in one.trials if trial.trial_id not in one.ended]
        self._unanswered = [one for one in known if one.repeats and not one.over]
        self._made: dict[str, list[Configuration]] = {}
        for one in made:
            self._made.setdefault(one.played, []).append(one)
        self._told: dict[tuple[str, ...], Told] = {}
        self._searchers: dict[int, Searcher] = {}
        for group in groups:
            of_group = [one for one in known if one.group == group]
            self._searchers[group] = self._begin(group, history.get(group, ()), of_group, rounds)

    def _begin(self, group: int, history: Sequence[Told], known: Sequence[Configuration], rounds: int) -> Searcher:
        """Return a group's searcher that has been told everything that is known."""
        space = self._spaces[group]
        told = [*history, *(self._of_configuration(one) if one.over else Told(one.values, None) for one in known)]
        metric = self._study.objective.metric
        points = [(space.encode(one.values), None if one.pruned else (one.metrics or {}).get(metric)) for one in told]
        searcher = make_searcher(
            self._study, self._study.groups[group], points, seed_of(self._study.seed, group, len(known)), rounds,
            lambda parameters: self._limits.get(_identity(parameters), [0.0] * len(self._study.objective.constraints)),
        )  # fmt: skip
        for index, earlier in enumerate(history):
            searcher.suggest(f"earlier-{index}")
            self._tell(searcher, f"earlier-{index}", space.encode(earlier.values), earlier)
        for one in known:
            searcher.suggest(one.key)
            if one.over:
                self._tell(searcher, one.key, space.encode(one.values), self._of_configuration(one))
        return searcher

    @property
    def remaining(self) -> int:
        """The number of trials not suggested yet."""
        return len(self._waiting) + sum(self._study.groups[group].size for group, _ in self._new)

    def set_search_properties(self, metric: str | None, mode: str | None, config: dict[str, Any], **spec: Any) -> bool:
        """Accept anything, because the study has its own metric and mode."""
        return True

    def suggest(self, trial_id: str) -> Any:
        """Return the next trial's config; None if Tune should ask again later, `FINISHED` after the last one."""
        if not self._waiting and not self._new:
            return FINISHED
        if len(self._running) - len(self._paused) >= self.most():
            return None
        if not self._waiting:
            self._draw_trials()
        if not self._waiting:
            return None if self._new else FINISHED
        self._running[trial_id] = self._waiting.pop(0)
        return {"trial_id": self._running[trial_id][1].trial_id}

    def _draw_trials(self) -> None:
        """Draw until there is a trial to suggest, for at most `DRAWING_S` seconds.

        At most as many draws wait for answers as trials may run, because a searcher without results may draw the same
        configuration again and again.
        """
        until, before = time.monotonic() + DRAWING_S, len(self._draws)
        while self._new and not self._waiting and len(self._unanswered) < min(self.most(), self._max_concurrent):
            if not self._draw(*self._new[0]) or time.monotonic() > until:
                break
        if len(self._draws) > before:
            self._keep()

    def _draw(self, group: int, number: int) -> bool:
        """Draw the next configuration and create, answer or refuse its trials; return whether there was a draw."""
        one = self._ask(group, number)
        if one is None:
            return False
        earlier = self._made.get(one.played, [])
        if earlier and self._study.duplicates is Duplicates.REFUSE:
            self._leave_out(group)
            self._searchers[group].on_trial_complete(one.key, error=True)
            return True
        self._new.pop(0)
        seed = self._unused_seed(one, earlier)
        if seed is None:
            self._answer(one, earlier[0])
            return True
        planned = self._study.trials_of(self._study.groups[group], number, one.values, seed)
        one = replace(one, trials=[self._write(trial) for trial in planned])
        self._made.setdefault(one.played, []).append(one)
        self._waiting = [(one, trial) for trial in one.trials]
        return True

    def _ask(self, group: int, number: int) -> Configuration | None:
        """Return the searcher's next configuration, without creating its trials; None if it should be asked later.

        If repeated draws are refused, the searcher is asked again up to `REDRAWS` times. It is told of the refusals
        only at the end, because Optuna's samplers avoid draws whose result is still pending.
        """
        refused: list[Configuration] = []
        searcher, one = self._searchers[group], None
        for count in range(1 + (REDRAWS if self._study.duplicates is Duplicates.REFUSE else 0)):
            if one is not None:
                refused.append(one)
            key = Configuration(group, number, {}, (), refused=count).key
            encoded = searcher.suggest(key)
            if not isinstance(encoded, Mapping):
                one = None
                break
            values = self._spaces[group].decode(encoded)
            planned = self._study.trials_of(self._study.groups[group], number, values)
            one = Configuration(group, number, values, planned, encoded, refused=count)
            if one.played not in self._made:
                break
        for other in refused:
            searcher.on_trial_complete(other.key, error=True)
        return one

    def _unused_seed(self, one: Configuration, earlier: Sequence[Configuration]) -> int | None:
        """Return the first of the next unused seeds of a configuration; None if it cannot get new seeds."""
        seeds = {trial.seed for other in earlier for trial in other.trials}
        if not seeds:
            return self._study.seed
        if self._study.duplicates is not Duplicates.SEEDS or SEED_KEY in one.trials[0].hyperparameters:
            return None
        number, seed = self._study.num_seeds, self._study.seed
        while seed in seeds:
            seed += number
        return seed if seed + number <= FIRST_FRESH_SEED else None

    def _answer(self, one: Configuration, earlier: Configuration) -> None:
        """Tell the searcher the results of the earlier trials, now or when they end."""
        one = replace(one, trials=earlier.trials, ended=set(earlier.ended), failed=earlier.failed, repeats=True)
        self._draws.answered[one.number] = tuple(trial.trial_id for trial in one.trials)
        self._unanswered.append(one)
        self._answer_ended()

    def _answer_ended(self) -> None:
        """Answer the draws whose trials have all ended."""
        for one in [one for one in self._unanswered if one.over]:
            self._unanswered.remove(one)
            self._tell(self._searchers[one.group], one.key, self._encoded(one), self._of_configuration(one))

    def _leave_out(self, group: int) -> None:
        """Stop drawing for a group, whose space counts as exhausted."""
        name, size = self._study.groups[group].name, self._study.groups[group].size
        firsts = [number for of_group, number in self._new if of_group == group]
        self._draws.leave_out(name, [first + place for first in firsts for place in range(size)])
        self._new = [place for place in self._new if place[0] != group]

    def _encoded(self, one: Configuration) -> Mapping[str, Any]:
        return one.encoded or self._spaces[one.group].encode(one.values)

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Pass hyperband's results on to BOHB; other searchers are told only when a configuration has ended."""
        if self._study.search is Search.BOHB and math.isfinite(result.get(self._study.objective.metric, math.nan)):
            one, _ = self._running[trial_id]
            self._searchers[one.group].on_trial_result(one.key, result)

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Tell the searcher the result, from the trial folders, once all trials of the configuration have ended."""
        one, trial = self._running.pop(trial_id)
        self._paused.discard(trial_id)
        one.ended.add(trial.trial_id)
        one.failed = one.failed or error  # the record may not say so yet
        if one.over:
            searcher = self._searchers[one.group]
            if self._study.search is Search.BOHB:  # already has the results
                searcher.on_trial_complete(one.key)
            else:
                self._tell(searcher, one.key, self._encoded(one), self._of_configuration(one))
        for other in self._unanswered:
            if any(trial.trial_id == shared.trial_id for shared in other.trials):
                other.ended.add(trial.trial_id)
                other.failed = other.failed or error
        self._answer_ended()

    def on_pause(self, trial_id: str) -> None:
        """Note that hyperband pauses the trial."""
        self._paused.add(trial_id)

    def on_unpause(self, trial_id: str) -> None:
        """Note that hyperband resumes the trial."""
        self._paused.discard(trial_id)

    def save(self, checkpoint_path: str) -> None:
        """Write an empty file, because the trial folders are the truth."""
        Path(checkpoint_path).touch()

    def restore(self, checkpoint_path: str) -> None:
        """Do nothing; there is nothing to restore."""

    def _of_configuration(self, one: Configuration) -> Told:
        """Return the result of a configuration: its trial's metrics, or the means over several trials."""
        if one.failed:
            return Told(one.values, None)
        ids = tuple(trial.trial_id for trial in one.trials)
        if one.repeats and ids in self._told:
            return self._told[ids]
        found = [told for told in map(self._reached, ids) if told is not None and told.metrics is not None]
        if len(found) < len(ids):
            return Told(one.values, None)
        metrics = aggregate_metrics([told.metrics for told in found if told.metrics is not None], Aggregate.MEAN)
        evaluation, pruned = max(told.evaluation for told in found), any(told.pruned for told in found)
        self._told[ids] = Told(one.values, metrics, evaluation, pruned)
        return self._told[ids]

    def _tell(self, searcher: Searcher, key: str, encoded: Mapping[str, Any], told: Told) -> None:
        objective, metrics = self._study.objective, told.metrics or {}
        result = {name: metrics.get(name) for name in objective.metrics}
        if any(value is None for value in result.values()):
            searcher.on_trial_complete(key, error=True)
            return
        self._limits[_identity(encoded)] = bounded(objective, metrics)
        if self._study.search is Search.BOHB:  # its model needs a budget with each result
            searcher.on_trial_result(key, {**result, "hyperband_info": {"budget": told.evaluation}})
        elif told.pruned and self._study.search is Search.OPTUNA:
            # Optuna's TPE then ranks it below all complete ones; its other samplers ignore it.
            searcher.on_trial_result(key, {**result, TRAINING_ITERATION: told.evaluation})
            searcher.on_trial_complete(key)
            return
        elif told.pruned:  # HyperOpt's TPE uses only the order of results
            result[objective.metric] = -objective.sign * WORST
        searcher.on_trial_complete(key, result=result)


def _identity(parameters: Mapping[str, Any]) -> str:
    return json.dumps(parameters, sort_keys=True, default=str)
