"""Split a sweep into passes, each a single run of Tune: first the search, then the tests of its winners.

If the scheduler judges the trials of a group together, the search has one pass per group.
"""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from jax_party.store.retry import patiently
from jax_party.store.storage import store_of
from jax_party.trial import outcome
from jax_party.trial.folder import read_record
from jax_party.trial.record import RECORD_FILE, TrialRecord
from jax_party.trial.states import FINISHED, State
from launcher.ask.choices import Scheduler, Search
from launcher.plan.read import study_from_manifest
from launcher.plan.study import SCENARIO_AXIS, PlannedTrial, Study
from launcher.plan.sweep import Sweep
from launcher.show.progress import Progress
from sweeps.space import ScenarioMode


def all_passes(sweep: Sweep, progress: Progress, max_concurrent: int) -> Iterator[Pass]:
    """Yield the passes of the search, then one for the tests of winners, which run to the end and teach no searcher."""
    if sweep.searching:
        yield from search_passes(sweep, progress, max_concurrent)
    tests = [record.trial_id for record in sweep.unfinished if record.promoted_from is not None]
    if tests:
        yield Pass(tests, tests=True)


@dataclass(frozen=True)
class Pass:
    """A part of a sweep that is a single run of Tune.

    Attributes:
      ids: the ids of the trials to run; ignored if trials are suggested.
      scheduler: Tune's scheduler; None for first in, first out.
      suggested: the trials that a searcher suggests; None if they are given by `ids`.
      values: trial id -> the hyperparameters that Tune may change; None unless it is a population.
      group: the algorithm and scenario, if all trials are from one group.
      tests: whether the trials are tests of winners.
    """

    ids: Sequence[str] = ()
    scheduler: Any = None
    suggested: Any = None
    values: Mapping[str, Mapping[str, Any]] | None = None
    group: str | None = None
    tests: bool = False

    @property
    def reason(self) -> Callable[[str], str | None]:
        """A function from a trial's id to why the scheduler stopped it, or None."""
        reasons: Mapping[str, str] = getattr(self.scheduler, "reasons", {})
        return reasons.get


def search_passes(sweep: Sweep, progress: Progress, max_concurrent: int) -> Iterator[Pass]:
    """Yield the passes of the search, each created after the previous one has ended."""
    manifest = sweep.manifest
    search, scheduler = Search(manifest.search), Scheduler(manifest.scheduler)
    if scheduler is Scheduler.FIFO and not search.learns:
        yield Pass([record.trial_id for record in sweep.unfinished if record.promoted_from is None])
        return
    study = study_from_manifest(sweep.folder, manifest)
    if not scheduler.by_group:
        suggested = suggested_trials(sweep, study, progress, max_concurrent) if search.learns else None
        ids = [record.trial_id for record in sweep.unfinished if record.promoted_from is None]
        yield Pass(ids, make_stopping(sweep, study, scheduler, progress), suggested)
        return
    groups = dict.fromkeys(f"{base.algorithm} {base.scenario}" for base in study.bases)
    for name in groups:
        ids = [
            record.trial_id
            for record in sweep.unfinished
            if record.promoted_from is None and f"{record.algorithm} {record.scenario}" == name
        ]
        part = group_pass(sweep, study, name, ids, progress, max_concurrent)
        if part.ids or (part.suggested is not None and part.suggested.remaining):
            yield part


def group_pass(
    sweep: Sweep, study: Study, name: str, ids: Sequence[str], progress: Progress, max_concurrent: int
) -> Pass:
    """Return the pass of one algorithm and scenario, whose trials the scheduler judges together."""
    from launcher.plan.axes import seed_of
    from launcher.search import schedulers

    base = next(base for base in study.bases if f"{base.algorithm} {base.scenario}" == name)
    length = schedulers.Length(base.total_steps, base.num_evaluations)
    objective, scheduler = study.objective, study.scheduler
    seed = seed_of(study.seed, *name.encode(), len(ids))
    random.seed(seed)  # BOHB draws from the global generators
    np.random.seed(seed)
    if not scheduler.is_population:
        suggested = None
        if study.search.learns:
            (group,) = [index for index, one in enumerate(study.groups) if base in one.bases]
            suggested = suggested_trials(sweep, study, progress, max_concurrent, [group])
        hyperband = schedulers.make_hyperband(study.search is Search.BOHB, objective.metric, objective.mode, length)
        return Pass(() if suggested else ids, hyperband, suggested, group=name)
    axes = study.axes_of(base)
    values = {
        trial_id: {
            axis.key: schedulers.travelling(axis, value) if scheduler is Scheduler.PB2 else value
            for axis in axes
            for value in [sweep.records[trial_id].hyperparameters[axis.key]]
        }
        for trial_id in ids
    }
    trained = max((sweep.records[trial_id].env_steps for trial_id in ids), default=0)
    own = seed_of(study.seed, *name.encode())
    population = schedulers.make_population(scheduler, objective.metric, objective.mode, length, axes, trained, own)
    return Pass(ids, population, values=values, group=name)


def make_stopping(sweep: Sweep, study: Study, kind: Scheduler, progress: Progress) -> Any:
    """Return ASHA or the median rule with every recorded evaluation replayed into it; None for FIFO."""
    if kind is Scheduler.FIFO:
        return None
    from launcher.search.schedulers import GroupedStopping, Length

    groups = {f"{b.algorithm} {b.scenario}": Length(b.total_steps, b.num_evaluations) for b in study.bases}
    stopping = GroupedStopping(kind, study.objective.metric, study.objective.mode, groups, progress.group_of)
    for record, evaluations in zip(sweep.searched, sweep.evaluations(sweep.searched), strict=True):
        stopping.remember(record.trial_id, evaluations)
    return stopping


def suggested_trials(
    sweep: Sweep, study: Study, progress: Progress, max_concurrent: int, groups: Sequence[int] | None = None
) -> Any:
    """Return the searcher of these groups, or all, which knows the trials of the sweep and of earlier ones (`FROM`)."""
    from launcher.search.searchers import Told
    from launcher.search.suggested_trials import SuggestedTrials
    from launcher.search.warm_start import earlier_trials

    def write(trial: PlannedTrial) -> PlannedTrial:
        trial = dataclasses.replace(trial, trial_id=unused_id(sweep.folder, trial.trial_id))
        progress.add(patiently()(study.write, sweep.folder, trial))
        return trial

    def reached(trial_id: str) -> Told | None:
        folder = sweep.folder / trial_id
        record = patiently()(read_record, folder)
        if record.state is State.FAILED:
            return None
        found = outcome.evaluations(folder, record)
        pruned = record.state is not State.COMPLETE and record.env_steps < record.total_steps
        return Told({}, outcome.metrics(folder, record), len(found), pruned)

    def keep() -> None:
        patiently()(sweep.draws.write, sweep.folder)
        progress.planned = sweep.planned

    chosen = list(range(len(study.groups))) if groups is None else list(groups)
    return SuggestedTrials(
        study,
        sweep.manifest.num_trials,
        chosen,
        earlier_trials(study),
        known_configurations(sweep, study, write),
        write,
        reached,
        max_concurrent,
        sweep.draws,
        keep,
    )


def known_configurations(sweep: Sweep, study: Study, write: Callable[[PlannedTrial], PlannedTrial]) -> list[Any]:
    """Return the configurations drawn so far, ordered by number; write trials that a killed driver left unwritten."""
    from launcher.plan.axes import seed_of, with_absent
    from launcher.search.suggested_trials import Configuration

    of_configuration: dict[tuple[int, int], list[TrialRecord]] = {}
    for record in sorted(sweep.searched, key=lambda record: record.number):
        configuration, group = study.place(record.number)
        of_configuration.setdefault((study.first_number(configuration, group), group), []).append(record)
    for number, ids in sweep.draws.answered.items():
        if all(trial_id in sweep.records for trial_id in ids):  # else this driver drew it in an earlier pass
            of_configuration[number, study.place(number)[1]] = [sweep.records[trial_id] for trial_id in ids]
    known = []
    for (number, group), found in sorted(of_configuration.items()):
        values = {
            axis.name: record.hyperparameters[axis.key]
            for record in found
            for axis in study.axes_of(study.base_of(record))
        }
        if study.spec.scenario_mode is ScenarioMode.AXIS:
            values[SCENARIO_AXIS] = found[0].scenario
        values = with_absent(study.groups[group].axes, values, seed_of(study.seed, group, number))
        there = {(record.algorithm, record.scenario): record for record in found}
        trials = []
        for trial in study.trials_of(study.groups[group], number, values, found[0].seed):
            planned = there.get((trial.base.algorithm, trial.base.scenario))
            trials.append(write(trial) if planned is None else _planned(study, planned))
        ended = {record.trial_id for record in found if record.state in FINISHED}
        repeats = number in sweep.draws.answered
        known.append(Configuration(group, number, values, trials, ended=ended, repeats=repeats))
    return known


def unused_id(folder: Path, trial_id: str) -> str:
    """Return the id, with `-2`, `-3`, … appended if another configuration's hash digits are the same.

    Among ten thousand trials the chance of that is one in a hundred.
    """
    count, candidate = 1, trial_id
    while store_of(folder).is_file(folder / candidate / RECORD_FILE):
        count += 1
        candidate = f"{trial_id}-{count}"
    return candidate


def _planned(study: Study, record: TrialRecord) -> PlannedTrial:
    base = study.base_of(record)
    return PlannedTrial(record.number, record.trial_id, record.seed, record.hyperparameters, base)
