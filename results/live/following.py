"""Trial folders as they change, the source of the dashboards. Needs neither JAX nor Ray nor pandas."""

from __future__ import annotations

import logging
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final

from jax_party.errors import RecordError
from jax_party.judging.aggregate import aggregate_metrics
from jax_party.judging.scores import evaluations_by_step
from jax_party.judging.standings import Candidate
from jax_party.store.storage import store_of
from jax_party.trial.folder import read_record
from jax_party.trial.judged import candidate_of, judged_hyperparameters
from jax_party.trial.manifest import MANIFEST_FILE, SweepManifest, read_manifest
from jax_party.trial.metrics import METRICS_FILE
from jax_party.trial.record import RECORD_FILE, TrialRecord
from results.collector import metrics_lines

_FILES: Final = (RECORD_FILE, METRICS_FILE)

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class FollowedTrial:
    """A trial as read from its folder: `folder` is its name below the sweep's, `.` for a single run."""

    folder: str
    record: TrialRecord
    rows: Sequence[Mapping[str, Any]]

    @cached_property
    def by_step(self) -> dict[int, list[Mapping[str, Any]]]:
        """Environment steps -> the rows of its evaluation, one per seed; complete evaluations only."""
        return evaluations_by_step(self.rows, self.record.num_seeds)

    @property
    def reached(self) -> dict[int, float]:
        """The number of the evaluation (0 for untrained networks) -> the sweep's first objective, seeds aggregated."""
        name = self.record.objective.metric
        found = {}
        for place, rows in enumerate(self.by_step.values(), start=1):
            value = self._together([{name: (row.get("evaluate") or {}).get(name)} for row in rows])[name]
            if value is not None:
                number = rows[0].get("evaluation")
                found[place if number is None else int(number)] = value
        return found

    def metrics(self, rows: Sequence[Mapping[str, Any]], part: str) -> Mapping[str, float | None]:
        """Return metric -> number of an evaluation's `part` (evaluate or train), seeds aggregated."""
        return self._together([dict(numbers(row.get(part))) for row in rows])

    def _together(self, of_seeds: Sequence[dict[str, float | None]]) -> Mapping[str, float | None]:
        return of_seeds[0] if len(of_seeds) == 1 else aggregate_metrics(of_seeds, self.record.objective.aggregate)

    @cached_property
    def hyperparameters(self) -> Mapping[str, Any]:
        """The sampled values; for a member of a population, whose values change, those that gave its score."""
        return judged_hyperparameters(self.record, self.rows)

    @cached_property
    def candidate(self) -> Candidate:
        """The trial as `judging.standings` ranks it."""
        return candidate_of(self.record, self.rows)


def numbers(values: Any, prefix: str = "") -> Iterator[tuple[str, float | None]]:
    """Yield the numbers of one evaluation by name; those in a list or a mapping are named `name.item`."""
    if isinstance(values, list):
        values = dict(enumerate(values))
    for key, value in (values or {}).items():
        name = f"{prefix}{key}"
        if isinstance(value, (list, dict)):
            yield from numbers(value, f"{name}.")
        elif value is None or (isinstance(value, (int, float)) and not isinstance(value, bool)):
            yield name, None if value is None else float(value)


def seconds(row: Mapping[str, Any]) -> float:
    """Return the seconds of work before an evaluation was done."""
    value = row.get("wall_time_s")
    return float(value) if isinstance(value, (int, float)) else 0.0


class Follower:
    """A reader of the trials of a sweep or a single run; it reads them again when their files have changed.

    Attributes:
      folder: the sweep's folder, or the run's.
      manifest: the sweep's manifest; None for a single run.
    """

    def __init__(self, folder: Path) -> None:
        """Raise RecordError if there is no such folder, it holds no trials, or its sweep.yaml cannot be read."""
        store_of(folder).check(folder)
        if not store_of(folder).is_folder(folder):
            raise RecordError(f"{folder}: no such folder; give a sweep's folder or a single run's")
        self.folder = folder
        has_manifest = store_of(folder).is_file(folder / MANIFEST_FILE)
        self._alone = not has_manifest and store_of(folder).is_file(folder / RECORD_FILE)
        if not has_manifest and not self._alone:
            raise RecordError(
                f"{folder}: no trials in it (neither {MANIFEST_FILE} nor {RECORD_FILE}); "
                "give a sweep's folder or a single run's"
            )
        self.manifest: SweepManifest | None = read_manifest(folder) if has_manifest else None
        self._seen: dict[str, tuple[Any, ...]] = {}

    def changed(self, settled: Container[str] = ()) -> list[FollowedTrial]:
        """Return the trials that are new or have changed since the last call, in the plan's order.

        Trials in `settled` are skipped. Those that cannot be read are left out, and read again once they have changed.
        """
        now = {name: mark for name, mark in self._marks().items() if name not in settled}
        names = [name for name, mark in now.items() if self._seen.get(name) != mark]
        found = store_of(self.folder).each(self._read, names)
        self._seen |= {name: now[name] for name in names}
        return sorted((trial for trial in found if trial is not None), key=lambda trial: trial.record.number)

    def _read(self, name: str) -> FollowedTrial | None:
        folder = self.folder / name
        try:
            return FollowedTrial(name, read_record(folder), metrics_lines.read_with_training(folder))
        except RecordError as error:
            logger.warning("%s", error)
            return None

    def _marks(self) -> dict[str, tuple[Any, ...]]:
        """Return trial folder -> tags that change with its files."""
        tags = store_of(self.folder).tags_below(
            self.folder, _FILES if self._alone else (), () if self._alone else _FILES
        )
        if self._alone:
            return {".": tuple(tags.get(file) for file in _FILES)}
        names = [name.removesuffix(f"/{RECORD_FILE}") for name in tags if name.endswith(f"/{RECORD_FILE}")]
        return {name: tuple(tags.get(f"{name}/{file}") for file in _FILES) for name in names}
