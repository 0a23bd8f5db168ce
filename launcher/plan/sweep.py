"""A sweep's folder, read into memory by its driver."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from jax_party.engines import get_engine
from jax_party.errors import RecordError, SweepError
from jax_party.store.storage import store_of
from jax_party.trial import outcome
from jax_party.trial.draws import Draws
from jax_party.trial.folder import change_record, read_config, read_record, trial_folders
from jax_party.trial.holding import held
from jax_party.trial.manifest import MANIFEST_FILE, SweepManifest, read_manifest
from jax_party.trial.provenance import utc_timestamp
from jax_party.trial.record import TrialRecord
from jax_party.trial.states import FINISHED, State
from launcher.ask.choices import Search
from launcher.ask.requested import Watching
from launcher.plan.write import complete_plan

DYING_WORKER_S = 30.0


@dataclass
class Sweep:
    """A sweep's folder, read into memory by its driver."""

    folder: Path
    manifest: SweepManifest
    records: dict[str, TrialRecord]
    address: str | None = None
    watching: Watching = field(default_factory=Watching)
    draws: Draws = field(default_factory=Draws)

    @classmethod
    def read(cls, folder: Path) -> Sweep:
        """Read the manifest, every trial's record and the draws.

        Raises:
          SweepError: the folder is not a sweep's, or something in it cannot be read.
        """
        try:
            store_of(folder).check(folder)
            if not store_of(folder).is_file(folder / MANIFEST_FILE):
                raise SweepError(f"{folder}: no sweep's folder ({MANIFEST_FILE} is missing); give the path of one")
            manifest = read_manifest(folder)
            found = store_of(folder).each(read_record, trial_folders(folder))
            draws = Draws.read(folder)
        except RecordError as error:
            raise SweepError(str(error)) from error
        by_id = {item.trial_id: item for item in sorted(found, key=lambda item: item.number)}
        draws.forget_missing(by_id)
        return cls(folder, manifest, by_id, draws=draws)

    @property
    def unfinished(self) -> list[TrialRecord]:
        """Trials still to run: those already begun first, then grouped by compiled program, in the plan's order."""
        left = [record for record in self.records.values() if record.state not in FINISHED]
        keys = self._static_keys(left)
        programs = {record.trial_id: _program_of(record, keys[record.algorithm]) for record in left}
        first = {program: number for number, program in reversed(list(enumerate(programs.values())))}
        return sorted(left, key=lambda r: (r.env_steps == 0, first[programs[r.trial_id]], r.number))

    def _static_keys(self, trials: Sequence[TrialRecord]) -> dict[str, set[str]]:
        """Return algorithm -> the config keys whose every value needs its own compiled program."""
        first = {record.algorithm: record.trial_id for record in reversed(trials)}
        engine = get_engine(self.manifest.engine)
        return {
            algorithm: set(engine.static_names(engine.parse(read_config(self.folder / trial_id))))
            for algorithm, trial_id in first.items()
        }

    @property
    def searched(self) -> list[TrialRecord]:
        """The trials of the search itself, without tests of winners."""
        return [record for record in self.records.values() if record.promoted_from is None]

    @property
    def undrawn(self) -> int:
        """The number of search trials still to be drawn; draws that led to no trial count as drawn."""
        return max(0, self.manifest.num_trials - len(self.draws) - len(self.searched))

    @property
    def searching(self) -> bool:
        """Whether a trial of the search itself is still to be run or drawn."""
        return self.undrawn > 0 or any(record.state not in FINISHED for record in self.searched)

    @property
    def planned(self) -> int:
        """The total number of trials, including those not drawn yet."""
        return len(self.records) + self.undrawn

    @property
    def remaining(self) -> int:
        """The number of trials still to run, including those not drawn yet."""
        left = sum(record.state not in FINISHED for record in self.records.values())
        return left + self.planned - len(self.records)

    def evaluations(self, trials: Iterable[TrialRecord]) -> list[list[outcome.Evaluation]]:
        """Return the recorded evaluations of each trial; for trials that have not begun, nothing is read."""

        def read(record: TrialRecord) -> list[outcome.Evaluation]:
            return (
                outcome.evaluations(self.folder / record.trial_id, record)
                if record.attempts or record.env_steps
                else []
            )

        return store_of(self.folder).each(read, trials)

    def complete_plan(self) -> None:
        """Write trials that are missing because a driver was killed while planning.

        Does nothing for searchers that learn, because they plan their trials one by one.
        """
        if not Search(self.manifest.search).learns and len(self.searched) < self.manifest.num_trials:
            complete_plan(self.folder, self.manifest)
            self.records = Sweep.read(self.folder).records

    def set_back(self, states: Sequence[State], stopped: bool = False) -> list[str]:
        """Set trials in these states back to PENDING.

        Waits for a dying worker to release the trial's folder. On object storage folders are not held; there a dying
        worker gives a trial up once another worker has taken it.

        Args:
          states: the states to set back.
          stopped: this driver was stopped while it ran the trials, so do not note a reason for the retry.

        Returns:
          The ids of the trials that were changed.
        """
        now = store_of(self.folder).each(lambda trial_id: read_record(self.folder / trial_id), self.records)
        changed = []
        for trial_id in [record.trial_id for record in now if record.state in states]:
            folder = self.folder / trial_id
            with held(folder, timeout=DYING_WORKER_S):
                if read_record(folder).state in states:
                    self.records[trial_id] = change_record(folder, lambda one: _again(one, stopped))
                    changed.append(trial_id)
        return changed


def _again(record: TrialRecord, stopped: bool) -> TrialRecord:
    """Return the record of a trial for its next attempt; the old `error` becomes part of the retry's reason."""
    reason = "its driver had died" + (f" (before that: {record.error})" if record.error else "")
    if record.state is State.FAILED:
        reason = f"was FAILED, and RETRY_FAILED was asked for: {record.error or 'for no recorded reason'}"
    retries = record.retries if stopped else (*record.retries, f"{utc_timestamp()} {reason}")
    return dataclasses.replace(record, state=State.PENDING, error=None, ended_at=None, retries=retries)


def _program_of(record: TrialRecord, static: set[str]) -> str:
    """Return a key that is equal for trials with the same compiled program."""
    axes = {
        key: value
        for key, value in record.hyperparameters.items()
        if any(key == name or key.startswith(f"{name}.") for name in static)
    }
    return json.dumps([record.algorithm, record.scenario, axes], sort_keys=True)
