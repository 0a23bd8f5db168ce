"""A sweep's trials as an Optuna journal, which Optuna's dashboard and `optuna.load_study` read.

The journal follows the trial folders: `Journal.update` adds what it lacks, and may be called at any time, by any number
of processes, after a kill, and for sweeps that are older than their journal. Nothing is searched with it.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from statistics import fmean
from typing import Any, Final

import optuna
from optuna.storages.journal import BaseJournalBackend, JournalFileBackend, JournalFileSymlinkLock, JournalStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from jax_party.errors import RecordError
from jax_party.judging import standings
from jax_party.judging.aggregate import aggregate_metrics
from jax_party.judging.objectives import Objective, bound_metric, violations
from jax_party.judging.replicates import contender
from jax_party.judging.standings import Candidate, Standing
from jax_party.store import storage
from jax_party.store.storage import as_folder
from jax_party.trial.identity import configuration_id
from jax_party.trial.manifest import SweepManifest
from jax_party.trial.record import TrialRecord
from jax_party.trial.states import FINISHED, State
from results.analysis.space import parameters
from results.live.following import FollowedTrial, Follower

JOURNAL_FILE: Final = "optuna.journal"
OVER_SCENARIOS: Final = "over scenarios"
"""Ends the name of the study of a sweep's configurations by their mean over scenarios."""
_STATES: Final[Mapping[State, TrialState]] = {
    State.PENDING: TrialState.WAITING,
    State.RUNNING: TrialState.RUNNING,
    State.COMPLETE: TrialState.COMPLETE,
    State.FAILED: TrialState.FAIL,
    State.PRUNED: TrialState.PRUNED,
}
_SETTLED: Final = (TrialState.COMPLETE, TrialState.PRUNED)
_METRIC_NAMES: Final = "study:metric_names"  # where `optuna.Study.set_metric_names` puts them
_CONSTRAINTS: Final = "constraints"  # where Optuna's samplers put them
_OF_SEEDS: Final = "of_seeds"
_MISSED: Final = 1e9

optuna.logging.set_verbosity(optuna.logging.WARNING)


def update_journal(folder: str | Path) -> Path | None:
    """Bring the journal in a sweep's folder up to date; its path.

    None where there is none to write: for a single run, and on remote storage, where files cannot grow.

    Raises:
      RecordError: there is no such sweep, or its journal is damaged.
    """
    folder = as_folder(folder)
    if storage.is_remote(folder):
        return None
    follower = Follower(folder)
    if follower.manifest is None:
        return None
    path = folder / JOURNAL_FILE
    journal = Journal(path)
    journal.update(follower.manifest, follower.changed(settled=journal.settled()))
    return path


class Journal:
    """A journal file, to which the trials of one sweep or of several are written."""

    def __init__(self, path: Path) -> None:
        """Open it, or make a new one. Raises RecordError where it is damaged."""
        self._path = path
        self._lock = JournalFileSymlinkLock(str(path))
        try:
            self._log = _Log(path)
            self._storage = JournalStorage(self._log)
        except (OSError, ValueError, KeyError, AssertionError) as error:
            raise self._damaged(error) from error

    def settled(self) -> set[str]:
        """The folders of trials that are in it as they will stay."""
        return {
            trial.user_attrs["folder"]
            for study in self._storage.get_all_studies()
            for trial in self._trials(study._study_id)
            if trial.state in _SETTLED and "folder" in trial.user_attrs
        }

    def update(self, manifest: SweepManifest | None, trials: Sequence[FollowedTrial], label: str = "") -> None:
        """Add what it lacks of these trials.

        Args:
          manifest: of their sweep; None for a single run.
          trials: in the plan's order.
          label: begins the names of the sweep's studies.

        Raises:
          RecordError: the file cannot be written, or is damaged.
        """
        if not trials:
            return
        try:
            with self._held():
                studies = {study.study_name: study._study_id for study in self._storage.get_all_studies()}
                for name, of_study in _by_study(manifest, trials, label).items():
                    if name not in studies:
                        studies[name] = self._create(name, of_study[0].record)
                    self._add(studies[name], manifest, of_study)
                if manifest is not None:
                    searched = [trial for trial in trials if trial.record.promoted_from is None]
                    self._judge(studies, _by_study(manifest, searched, label), manifest)
                    if manifest.scenario_mode == standings.MEAN_OVER_SCENARIOS:
                        self._add_over_scenarios(studies, manifest, trials, label)
        except (OSError, ValueError, KeyError) as error:
            raise self._damaged(error) from error

    @contextlib.contextmanager
    def _held(self) -> Iterator[None]:
        """Alone at the file, with all that others have written to it read; what is done is written at the end."""
        self._lock.acquire()
        try:
            _cut_unfinished_line(self._path)
            self._storage.get_all_studies()
            with self._log.batch():
                yield
        finally:
            self._lock.release()

    def _create(self, name: str, record: TrialRecord) -> int:
        ways = {"max": StudyDirection.MAXIMIZE, "min": StudyDirection.MINIMIZE}
        study = self._storage.create_new_study([ways[mode] for mode in record.objective.modes], name)
        self._storage.set_study_system_attr(study, _METRIC_NAMES, list(record.objective.metrics))
        facts = {"sweep": record.sweep, "algorithm": record.algorithm, "aggregate": record.objective.aggregate}
        for key, value in facts.items():
            self._storage.set_study_user_attr(study, key, value)
        return study

    def _add(self, study: int, manifest: SweepManifest | None, trials: Iterable[FollowedTrial]) -> None:
        known = {trial.user_attrs.get("trial_id"): trial for trial in self._trials(study)}
        for trial in trials:
            wanted = _frozen(manifest, trial)
            there = known.get(trial.record.trial_id)
            if there is None or _begun_again(there, wanted):
                self._storage.create_new_trial(study, template_trial=wanted)
            elif not there.state.is_finished():
                self._change(there, wanted)

    def _judge(self, studies: dict[str, int], names: Iterable[str], manifest: SweepManifest) -> None:
        """Have the values of finished trials be their configurations', over all seeds, and what cannot be the best
        count as infeasible, so that `study.best_trial` is the sweep's winner.

        In Optuna, a trial that has ended stays as it is: where one has to change, the study is written anew.
        """
        for name in names:
            trials = self._trials(studies[name])
            ranked = standings.rank(map(_candidate, filter(_is_ranked, trials)), manifest.objective)
            self._settle(studies, name, manifest.objective, trials, ranked)

    def _settle(
        self,
        studies: dict[str, int],
        name: str,
        objective: Objective,
        trials: Sequence[FrozenTrial],
        ranked: Mapping[str, Sequence[Standing]],
    ) -> None:
        of_trial = {trial_id: one for found in ranked.values() for one in found for trial_id in one.trials}
        whole = any(one.feasible and not one.provisional for one in of_trial.values())  # of several scenarios, too
        wanted = [
            _placed(trial, of_trial.get(trial.user_attrs.get("trial_id", "")), objective, whole) for trial in trials
        ]
        if any(new is not trial for new, trial in zip(wanted, trials, strict=True)):
            attrs = {study.study_name: study.user_attrs for study in self._storage.get_all_studies()}[name]
            directions = self._storage.get_study_directions(studies[name])
            self._storage.delete_study(studies[name])
            studies[name] = self._storage.create_new_study(directions, name)
            self._storage.set_study_system_attr(studies[name], _METRIC_NAMES, list(objective.metrics))
            for key, value in attrs.items():
                self._storage.set_study_user_attr(studies[name], key, value)
            for trial in wanted:
                self._storage.create_new_trial(studies[name], template_trial=trial)
        best = {group: one for group, found in ranked.items() if (one := standings.best_of(found)) is not None}
        facts: dict[str, Any] = {
            "best": [trial_id for one in best.values() for trial_id in one.trials] or None,
            "provisional": any(one.provisional for one in best.values()) if best else None,
        }
        there = next(s.user_attrs for s in self._storage.get_all_studies() if s.study_name == name)
        for key, value in facts.items():
            if there.get(key) != value:
                self._storage.set_study_user_attr(studies[name], key, value)

    def _add_over_scenarios(
        self, studies: dict[str, int], manifest: SweepManifest, trials: Sequence[FollowedTrial], label: str
    ) -> None:
        """Where configurations count by their mean over scenarios: a study of these, with a trial per configuration
        that has been played in all of them.
        """
        for algorithm in dict.fromkeys(trial.record.algorithm for trial in trials):
            names = [" ".join(filter(None, (label, algorithm, scenario))) for scenario in manifest.scenarios]
            if not all(name in studies for name in names):
                continue
            played = {trial.user_attrs["trial_id"]: trial for name in names for trial in self._trials(studies[name])
                      if _is_ranked(trial)}  # fmt: skip
            candidates = [_candidate(trial) for trial in played.values()]
            ranked = standings.rank(candidates, manifest.objective, "mean", manifest.scenarios)
            together = " ".join(filter(None, (label, algorithm, OVER_SCENARIOS)))
            if together not in studies:
                studies[together] = self._create(together, trials[0].record)
            there = {trial.user_attrs.get("configuration") for trial in self._trials(studies[together])}
            for one in ranked.get(algorithm, ()):
                parts = [played[trial_id] for trial_id in one.trials]
                if one.configuration not in there and all(part.state in _SETTLED and part.values for part in parts):
                    mean = _mean(parts, manifest.objective, one)
                    self._storage.create_new_trial(studies[together], template_trial=mean)
            means = self._trials(studies[together])
            by_configuration = {trial.user_attrs["configuration"]: trial.user_attrs["trial_id"] for trial in means}
            named = [
                dataclasses.replace(one, trials=(by_configuration[one.configuration],))
                for one in ranked.get(algorithm, ())
                if one.configuration in by_configuration
            ]
            self._settle(studies, together, manifest.objective, means, {algorithm: named})

    def _change(self, there: FrozenTrial, wanted: FrozenTrial) -> None:
        """Write what is new of a trial that has not ended."""
        number = there._trial_id
        for name, value in wanted.params.items():
            if there.params.get(name) != value:  # a population's change
                distribution = wanted.distributions[name]
                internal = distribution.to_internal_repr(value)
                self._storage.set_trial_param(number, name, internal, distribution)
        for step, reached in wanted.intermediate_values.items():
            if there.intermediate_values.get(step) != reached:
                self._storage.set_trial_intermediate_value(number, step, reached)
        for name, value in wanted.user_attrs.items():
            if there.user_attrs.get(name) != value:
                self._storage.set_trial_user_attr(number, name, value)
        for name, value in wanted.system_attrs.items():
            if there.system_attrs.get(name) != value:
                self._storage.set_trial_system_attr(number, name, value)
        if there.state is not wanted.state:
            self._storage.set_trial_state_values(number, wanted.state, wanted.values)

    def _trials(self, study: int) -> list[FrozenTrial]:
        return self._storage.get_all_trials(study, deepcopy=False)

    def _damaged(self, error: Exception) -> RecordError:
        reason = " ".join(str(error).split()) or type(error).__name__
        return RecordError(f"{self._path}: cannot be kept ({reason}); delete it: it is made anew from the trials")


class _Log(BaseJournalBackend):
    """A journal file of which a batch of operations is written at once."""

    def __init__(self, path: Path) -> None:
        self._file = JournalFileBackend(str(path), lock_obj=_UNLOCKED)
        self._read = 0
        self._kept: list[dict[str, Any]] | None = None

    def read_logs(self, log_number_from: int) -> Iterator[dict[str, Any]]:
        """The operations from this number on; while a batch is made, nobody else adds any."""
        if self._kept is not None:
            return iter(self._kept[log_number_from - self._read :])
        found = list(self._file.read_logs(log_number_from))
        self._read = log_number_from + len(found)
        return iter(found)

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Keep operations for the end of the batch."""
        assert self._kept is not None
        self._kept += logs

    @contextlib.contextmanager
    def batch(self) -> Iterator[None]:
        """Keep what is appended, and write it at the end."""
        self._kept = []
        try:
            yield
        finally:
            kept, self._kept = self._kept, None
            if kept:
                self._file.append_logs(kept)
                self._read += len(kept)


class _Unlocked:
    """In place of the file's lock, which is held for the whole batch."""

    def acquire(self) -> bool:
        return True

    def release(self) -> None:
        pass


_UNLOCKED: Any = _Unlocked()


def _cut_unfinished_line(path: Path) -> None:
    """Take away what a kill has left of a line."""
    with path.open("r+b") as file:
        size = file.seek(0, os.SEEK_END)
        if not size or file.seek(size - 1) is None or file.read(1) == b"\n":
            return
        file.seek(0)
        file.truncate(file.read().rfind(b"\n") + 1)


# -- Trials as Optuna's ------------------------------------------------------------------------------------------------


def _by_study(
    manifest: SweepManifest | None, trials: Iterable[FollowedTrial], label: str
) -> dict[str, list[FollowedTrial]]:
    """Study name -> its trials: of an algorithm and scenario, or of an algorithm where the scenario is an axis."""
    found: dict[str, list[FollowedTrial]] = {}
    for trial in trials:
        record = trial.record
        is_axis = manifest is not None and manifest.scenario_mode == "axis"
        words = [label, record.algorithm, "" if is_axis else record.scenario]
        words.append("" if record.promoted_from is None else "promoted")
        found.setdefault(" ".join(word for word in words if word), []).append(trial)
    return found


def _begun_again(there: FrozenTrial, wanted: FrozenTrial) -> bool:
    """Whether a trial that had failed is played once more: in Optuna, what has ended stays as it is."""
    return there.state is TrialState.FAIL and wanted.state is not TrialState.FAIL


def _frozen(manifest: SweepManifest | None, trial: FollowedTrial) -> FrozenTrial:
    """A trial as Optuna knows it. One that is complete and has no number for some objective counts as failed."""
    record = trial.record
    score = _score(trial) if record.state in (State.COMPLETE, State.PRUNED) else None
    state = _STATES[record.state]
    if state is TrialState.COMPLETE and score is None:
        state = TrialState.FAIL
    found = parameters(manifest, record.algorithm, record.scenario, trial.hyperparameters)
    return FrozenTrial(
        number=0,
        trial_id=0,
        state=state,
        value=None,
        values=score,
        datetime_start=None if state is TrialState.WAITING else _moment(record.started_at),
        datetime_complete=_moment(record.ended_at or record.started_at) if record.state in FINISHED else None,
        params=found.params,
        distributions=found.distributions,
        user_attrs=_facts(trial) | found.others,
        system_attrs=_constraints(trial),
        intermediate_values=trial.reached,
    )


def _score(trial: FollowedTrial) -> list[float] | None:
    """What the trial is judged by, a number for each of the sweep's objectives; None where one has none."""
    objective = trial.record.objective
    metrics = aggregate_metrics(trial.candidate.of_seeds, objective.aggregate) if trial.candidate.of_seeds else {}
    found = [value for name in objective.metrics if (value := metrics.get(name)) is not None]
    return found if len(found) == len(objective.metrics) else None


def _is_ranked(trial: FrozenTrial) -> bool:
    """Whether the journal knows what the trial is judged by; journals of earlier versions do not."""
    return _OF_SEEDS in trial.user_attrs and "number" in trial.user_attrs


def _candidate(trial: FrozenTrial) -> Candidate:
    """A trial of the journal as it is ranked."""
    facts = trial.user_attrs
    states = {theirs: ours.value for ours, theirs in _STATES.items()}
    return Candidate(
        trial_id=facts["trial_id"],
        number=facts["number"],
        algorithm=facts["algorithm"],
        scenario=facts["scenario"],
        configuration=contender(facts["configuration"], facts["trial_id"], bool(facts.get("has_lineage"))),
        state=states[trial.state],
        first_seed=facts["seed"],
        of_seeds=facts[_OF_SEEDS],
        settled=facts.get("settled"),
    )


def _placed(trial: FrozenTrial, standing: Standing | None, objective: Objective, whole: bool) -> FrozenTrial:
    """A finished trial with its configuration's values, and with one constraint more where trials that had not settled
    are no winners; the same object where it has them already.

    Args:
      trial: of the journal.
      standing: of its configuration, where it is ranked.
      objective: what is better.
      whole: whether some configuration of the study is no provisional winner, so that provisional ones are none.
    """
    if standing is None or trial.state is not TrialState.COMPLETE:
        return trial
    values = [float(standing.metrics[name] or 0.0) for name in objective.metrics]
    missed = [min(one, _MISSED) for one in violations(objective, standing.metrics)]
    if standings.judges_the_end(objective.at):
        missed.append(float(standing.feasible and (standing.provisional if whole else not standing.eligible)))
    wanted = {_CONSTRAINTS: missed} if missed else {}
    if trial.values == values and trial.system_attrs.get(_CONSTRAINTS) == wanted.get(_CONSTRAINTS):
        return trial
    placed = copy.copy(trial)
    placed.values = values
    placed._system_attrs = {**trial.system_attrs, **wanted}
    return placed


def _mean(parts: Sequence[FrozenTrial], objective: Objective, standing: Standing) -> FrozenTrial:
    """A configuration's trials as one: means of their intermediate values over scenarios, and its standing's values."""
    first = parts[0]
    steps = set.intersection(*(set(trial.intermediate_values) for trial in parts))
    pruned = any(trial.state is TrialState.PRUNED for trial in parts)
    facts = {name: first.user_attrs[name] for name in ("algorithm", "configuration", "seed", "trial_id")}
    facts["trials"] = [trial.user_attrs["trial_id"] for trial in parts]
    facts["folders"] = [trial.user_attrs["folder"] for trial in parts]
    return FrozenTrial(
        number=0,
        trial_id=0,
        state=TrialState.PRUNED if pruned else TrialState.COMPLETE,
        value=None,
        values=[float(standing.metrics[name] or 0.0) for name in objective.metrics],
        datetime_start=min((trial.datetime_start for trial in parts if trial.datetime_start), default=None),
        datetime_complete=max((trial.datetime_complete for trial in parts if trial.datetime_complete), default=None),
        params=first.params,
        distributions=first.distributions,
        user_attrs=facts,
        system_attrs={},
        intermediate_values={step: fmean(trial.intermediate_values[step] for trial in parts) for step in sorted(steps)},
    )


def _facts(trial: FollowedTrial) -> dict[str, Any]:
    record = trial.record
    facts = {
        "trial_id": record.trial_id,
        "number": record.number,
        "algorithm": record.algorithm,
        "scenario": record.scenario,
        "configuration": configuration_id(record),
        "seed": record.seed,
        "num_seeds": record.num_seeds if record.num_seeds > 1 else None,
        "vaults": [entry.uid for entry in record.vaults] or None,
        "folder": trial.folder,
        "promoted_from": record.promoted_from,
        "error": record.error,
        "steps_per_second": record.steps_per_second if record.state in FINISHED else None,
        _OF_SEEDS: _seed_metrics(trial) if record.state in (State.COMPLETE, State.PRUNED) else None,
        "settled": trial.candidate.settled if record.state in FINISHED else None,
        "judged_at": record.objective.at,
        "has_lineage": True if record.lineage else None,
    }
    return {name: value for name, value in facts.items() if value is not None}


def _seed_metrics(trial: FollowedTrial) -> list[dict[str, float | None]] | None:
    """The objectives and bounded metrics of each seed."""
    objective = trial.record.objective
    names = [*objective.metrics, *map(bound_metric, objective.constraints)]
    return [{name: one.get(name) for name in names} for one in trial.candidate.of_seeds] or None


def _constraints(trial: FollowedTrial) -> dict[str, Any]:
    """By how much the trial misses each bound, where Optuna looks for it."""
    record = trial.record
    if not record.objective.constraints or record.state not in (State.COMPLETE, State.PRUNED):
        return {}
    of_seeds = trial.candidate.of_seeds
    metrics = aggregate_metrics(of_seeds, record.objective.aggregate) if of_seeds else {}
    missed = violations(record.objective, metrics)
    return {_CONSTRAINTS: missed} if all(map(math.isfinite, missed)) else {}


def _moment(text: str | None) -> datetime:
    return datetime.fromisoformat(text) if text else datetime.now().astimezone()
