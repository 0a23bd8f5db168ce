"""Warm start (`FROM=<sweep folder>`): tell a searcher the trials of earlier sweeps before it draws."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from jax_party.errors import RecordError, SweepError
from jax_party.judging.aggregate import Aggregate, aggregate_metrics
from jax_party.store.storage import as_folder
from jax_party.trial import outcome
from jax_party.trial.folder import read_record, trial_folders
from jax_party.trial.manifest import read_manifest
from jax_party.trial.record import TrialRecord
from jax_party.trial.states import State
from launcher.plan.study import SCENARIO_AXIS, Group, Study
from sweeps.space import ScenarioMode

if TYPE_CHECKING:
    from launcher.search.searchers import Told


def earlier_trials(study: Study) -> dict[int, list[Told]]:
    """Return group index -> what the group's searcher is told about earlier sweeps.

    Raises:
      SweepError: an earlier sweep cannot be read or does not fit this one.
    """
    from launcher.plan.axes import seed_of, with_absent
    from launcher.search.searchers import Told

    told: dict[int, list[Told]] = {index: [] for index in range(len(study.groups))}
    for folder in study.warm_start:
        found = _read(folder, study)
        for index, group in enumerate(study.groups):
            for values, of_trials in _configurations(study, group, found):
                values = with_absent(group.axes, values, seed_of(study.seed, index, len(told[index])))
                reached = [outcome.metrics(trial, record) for trial, record in of_trials]
                number = max(len(outcome.evaluations(trial, record)) for trial, record in of_trials)
                pruned = any(record.state is State.PRUNED for _, record in of_trials)
                told[index].append(Told(values, aggregate_metrics(reached, Aggregate.MEAN), number, pruned))
    return told


class Earlier(NamedTuple):
    """The usable trials of earlier sweeps.

    Attributes:
      trials: the number of usable trials.
      budgets: the environment steps of earlier trials that differ from those of trials now.
    """

    trials: int
    budgets: tuple[int, ...]

    def describe(self, study: Study) -> str:
        """Describe the trials for the summary."""
        words = f"{self.trials} trials of {', '.join(study.warm_start)}"
        if not self.budgets:
            return words
        return f"{words}, of {', '.join(f'{steps:,}' for steps in self.budgets)} steps each: taken as if they had these"


def check_warm_start(study: Study) -> Earlier:
    """Check the earlier sweeps, and count their usable trials.

    Raises:
      SweepError: one of them is not a sweep, has another engine, objective or axes, or has no trial in this space.
    """
    count = 0
    steps: set[int] = set()
    for folder in study.warm_start:
        found = _read(folder, study)
        of_folder = sum(
            len(of_trials) for group in study.groups for _, of_trials in _configurations(study, group, found)
        )
        if not of_folder:
            raise SweepError(
                f"FROM={folder}: none of its {len(found)} finished trials lies in this space, with its algorithm and "
                "scenario; give another sweep, or leave FROM out"
            )
        count += of_folder
        steps |= {record.total_steps for _, record in found if record.total_steps}
    return Earlier(count, tuple(sorted(steps - {base.total_steps for base in study.bases})))


def _read(text: str, study: Study) -> list[tuple[Path, TrialRecord]]:
    """Return the COMPLETE and PRUNED trials of an earlier sweep, after checking that it fits this one."""
    try:
        folder = as_folder(text)
        manifest = read_manifest(folder)
        found = [(path, read_record(path)) for path in trial_folders(folder)]
    except RecordError as error:
        raise SweepError(f"FROM={text}: {error}") from error
    if manifest.engine != study.engine.name:
        raise SweepError(
            f"FROM={folder}: was run by ENGINE={manifest.engine}, this one by {study.engine.name}; take another sweep, "
            "or leave FROM out"
        )
    if manifest.objective != study.objective:
        there, here = (dataclasses.asdict(one) for one in (manifest.objective, study.objective))
        different = [name for name in there if there[name] != here[name]]
        raise SweepError(
            f"FROM={folder}: had another objective: objective.{different[0]} was {there[different[0]]}, here "
            f"{here[different[0]]}; give the same objective, or leave FROM out"
        )
    only = sorted(set(manifest.space or {}) ^ set(study.spec.axis_keys()))
    if only:
        raise SweepError(
            f"FROM={folder}: is a sweep of another space: only one of the two varies {', '.join(only)}; use the same "
            "axes, or leave FROM out"
        )
    whole = (State.COMPLETE, State.PRUNED)
    return sorted(
        ((path, record) for path, record in found if record.state in whole and record.promoted_from is None),
        key=lambda pair: pair[1].number,
    )


def _configurations(
    study: Study, group: Group, found: Sequence[tuple[Path, TrialRecord]]
) -> Iterator[tuple[Mapping[str, Any], list[tuple[Path, TrialRecord]]]]:
    """Yield each configuration in a group's space that has all of its trials, together with these trials."""
    from launcher.plan.axes import Space

    space = Space(group.axes)
    names = [(base.algorithm, base.scenario) for base in group.bases]
    played: dict[str, tuple[Mapping[str, Any], dict[tuple[str, str], tuple[Path, TrialRecord]]]] = {}
    for path, record in found:
        place = (record.algorithm, record.scenario)
        if place not in names:
            continue
        axes = study.axes_of(study.base_of(record))
        sampled = outcome.hyperparameters(path, record)
        if any(axis.key not in sampled for axis in axes):
            continue
        values: dict[str, Any] = {axis.name: sampled[axis.key] for axis in axes}
        if study.spec.scenario_mode is ScenarioMode.AXIS:
            values[SCENARIO_AXIS] = record.scenario
        if space.holds(values):
            # Ignore copies, which teach nothing; members of a population with equal values are not copies.
            key = record.trial_id if record.lineage else f"{record.seed} {sorted(values.items(), key=str)}"
            played.setdefault(key, (values, {}))[1].setdefault(place, (path, record))
    for drawn, of_places in played.values():
        if len(of_places) == group.size:
            yield drawn, list(of_places.values())


__all__ = ["check_warm_start", "earlier_trials"]
