"""A sweep's trials as an Optuna journal, which Optuna's dashboard and `optuna.load_study` read.

The journal follows the trial folders: `Journal.update` adds what is missing. It may be called at any time, by any
number of processes, after a kill, and for sweeps that are older than their journal. No search reads it."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import optuna
from optuna.storages.journal import JournalFileSymlinkLock, JournalStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial

from jax_party.errors import RecordError
from jax_party.judging import standings
from jax_party.judging.objectives import Objective
from jax_party.judging.standings import Standing
from jax_party.store.storage import as_folder, store_of
from jax_party.trial.manifest import SweepManifest
from jax_party.trial.record import TrialRecord
from results.live.following import FollowedTrial, Follower
from results.live.frozen_trials import (
    SETTLED,
    begun_again,
    candidate_of_trial,
    frozen_trial,
    is_ranked,
    mean_trial,
    placed,
)
from results.live.journal_log import JournalLog, cut_unfinished_line

JOURNAL_FILE: Final = "optuna.journal"
OVER_SCENARIOS: Final = "over scenarios"
"""The suffix of the study's name for a sweep's configurations by their mean over scenarios."""
METRIC_NAMES: Final = "study:metric_names"  # the key that `optuna.Study.set_metric_names` uses


optuna.logging.set_verbosity(optuna.logging.WARNING)


def update_journal(folder: str | Path) -> Path | None:
    """Bring the journal in a sweep's folder up to date; return its path.

    Return None if no journal is written: for a single run, and on remote storage, where files cannot be appended to.

    Raises:
      RecordError: there is no such sweep, or its journal is damaged.
    """
    folder = as_folder(folder)
    if store_of(folder).on_disk(folder) is None:
        return None
    follower = Follower(folder)
    if follower.manifest is None:
        return None
    path = folder / JOURNAL_FILE
    journal = Journal(path)
    journal.update(follower.manifest, follower.changed(settled=journal.settled()))
    return path


class Journal:
    """A journal file that holds the trials of one or several sweeps."""

    def __init__(self, path: Path) -> None:
        """Open the file, or create it. Raises RecordError if it is damaged."""
        self._path = path
        self._lock = JournalFileSymlinkLock(str(path))
        try:
            self._log = JournalLog(path)
            self._storage = JournalStorage(self._log)
        except (OSError, ValueError, KeyError, AssertionError) as error:
            raise self._damaged(error) from error

    def settled(self) -> set[str]:
        """Return the folders of trials whose entries are final."""
        return {
            trial.user_attrs["folder"]
            for study in self._storage.get_all_studies()
            for trial in self._trials(study._study_id)
            if trial.state in SETTLED and "folder" in trial.user_attrs
        }

    def update(self, manifest: SweepManifest | None, trials: Sequence[FollowedTrial], label: str = "") -> None:
        """Add what the journal lacks of these trials.

        Args:
          manifest: their sweep's manifest; None for a single run.
          trials: in the plan's order.
          label: the prefix of the names of the sweep's studies.

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
        """Hold the file's lock, with all that others have written to it read; write the batch at the end."""
        self._lock.acquire()
        try:
            cut_unfinished_line(self._path)
            self._storage.get_all_studies()
            with self._log.batch():
                yield
        finally:
            self._lock.release()

    def _create(self, name: str, record: TrialRecord) -> int:
        ways = {"max": StudyDirection.MAXIMIZE, "min": StudyDirection.MINIMIZE}
        study = self._storage.create_new_study([ways[mode] for mode in record.objective.modes], name)
        self._storage.set_study_system_attr(study, METRIC_NAMES, list(record.objective.metrics))
        facts = {"sweep": record.sweep, "algorithm": record.algorithm, "aggregate": record.objective.aggregate}
        for key, value in facts.items():
            self._storage.set_study_user_attr(study, key, value)
        return study

    def _add(self, study: int, manifest: SweepManifest | None, trials: Iterable[FollowedTrial]) -> None:
        known = {trial.user_attrs.get("trial_id"): trial for trial in self._trials(study)}
        for trial in trials:
            wanted = frozen_trial(manifest, trial)
            there = known.get(trial.record.trial_id)
            if there is None or begun_again(there, wanted):
                self._storage.create_new_trial(study, template_trial=wanted)
            elif not there.state.is_finished():
                self._change(there, wanted)

    def _judge(self, studies: dict[str, int], names: Iterable[str], manifest: SweepManifest) -> None:
        """Give finished trials the values of their configurations over all seeds, and mark those that cannot be the
        best as infeasible, so that `study.best_trial` is the sweep's winner.

        Optuna cannot change a trial that has ended, so a study in which one has to change is written again.
        """
        for name in names:
            trials = self._trials(studies[name])
            ranked = standings.rank(map(candidate_of_trial, filter(is_ranked, trials)), manifest.objective)
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
        whole = any(one.feasible and not one.provisional for one in of_trial.values())  # over several scenarios too
        wanted = [
            placed(trial, of_trial.get(trial.user_attrs.get("trial_id", "")), objective, whole) for trial in trials
        ]
        if any(new is not trial for new, trial in zip(wanted, trials, strict=True)):
            attrs = {study.study_name: study.user_attrs for study in self._storage.get_all_studies()}[name]
            directions = self._storage.get_study_directions(studies[name])
            self._storage.delete_study(studies[name])
            studies[name] = self._storage.create_new_study(directions, name)
            self._storage.set_study_system_attr(studies[name], METRIC_NAMES, list(objective.metrics))
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
        """Add a study of the configurations by their mean over scenarios, with one trial per configuration that has
        been played in all of them.
        """
        for algorithm in dict.fromkeys(trial.record.algorithm for trial in trials):
            names = [" ".join(filter(None, (label, algorithm, scenario))) for scenario in manifest.scenarios]
            if not all(name in studies for name in names):
                continue
            played = {trial.user_attrs["trial_id"]: trial for name in names for trial in self._trials(studies[name])
                      if is_ranked(trial)}  # fmt: skip
            candidates = [candidate_of_trial(trial) for trial in played.values()]
            ranked = standings.rank(candidates, manifest.objective, "mean", manifest.scenarios)
            together = " ".join(filter(None, (label, algorithm, OVER_SCENARIOS)))
            if together not in studies:
                studies[together] = self._create(together, trials[0].record)
            there = {trial.user_attrs.get("configuration") for trial in self._trials(studies[together])}
            for one in ranked.get(algorithm, ()):
                parts = [played[trial_id] for trial_id in one.trials]
                if one.configuration not in there and all(part.state in SETTLED and part.values for part in parts):
                    mean = mean_trial(parts, manifest.objective, one)
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
        """Write what is new about a trial that has not ended."""
        number = there._trial_id
        for name, value in wanted.params.items():
            if there.params.get(name) != value:  # a population member changed its values
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
        return RecordError(f"{self._path}: cannot be kept ({reason}); delete it: it is rebuilt from the trials")


def _by_study(
    manifest: SweepManifest | None, trials: Iterable[FollowedTrial], label: str
) -> dict[str, list[FollowedTrial]]:
    """Return study name -> its trials: a study per algorithm and scenario, or per algorithm if scenario is an axis."""
    found: dict[str, list[FollowedTrial]] = {}
    for trial in trials:
        record = trial.record
        is_axis = manifest is not None and manifest.scenario_mode == "axis"
        words = [label, record.algorithm, "" if is_axis else record.scenario]
        words.append("" if record.promoted_from is None else "promoted")
        found.setdefault(" ".join(word for word in words if word), []).append(trial)
    return found
