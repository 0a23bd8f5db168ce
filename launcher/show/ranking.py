"""Rank the configurations of a sweep, for the report at its end and for promoting the best."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jax_party.judging import settling, standings
from jax_party.judging.standings import Candidate, Standing
from jax_party.store.storage import store_of
from jax_party.trial import outcome
from jax_party.trial.manifest import SweepManifest
from jax_party.trial.record import TrialRecord


@dataclass(frozen=True)
class Entry:
    """A ranked configuration.

    Attributes:
      standing: its standing among comparable configurations.
      trials: the trials that it is judged by: several if it has more seeds, or one per scenario.
      hyperparameters: the values that gave the score.
    """

    standing: Standing
    trials: tuple[TrialRecord, ...]
    hyperparameters: Mapping[str, Any]


@dataclass(frozen=True)
class Ranking:
    """The ranked configurations of a sweep.

    Attributes:
      groups: algorithm and scenario -> configurations, best first.
      warning: a sentence about trials that had not settled; None if there is nothing to warn about.
    """

    groups: Mapping[str, Sequence[Entry]]
    warning: str | None = None


def rank(folder: Path, manifest: SweepManifest, trials: Sequence[TrialRecord]) -> Ranking:
    """Rank the configurations of each group.

    Args:
      folder: the sweep's folder.
      manifest: the sweep's manifest.
      trials: the trials of the search; those without a score are ignored.
    """
    objective = manifest.objective
    candidates = store_of(folder).each(lambda one: outcome.candidate(folder / one.trial_id, one), trials)
    by_id = {one.trial_id: one for one in trials}
    ranked = standings.rank(candidates, objective, manifest.scenario_mode, manifest.scenarios)
    groups = {group: [_entry(folder, one, by_id) for one in found] for group, found in ranked.items()}
    return Ranking(groups, _warning(candidates, manifest) if standings.judges_the_end(objective.at) else None)


def _entry(folder: Path, standing: Standing, by_id: Mapping[str, TrialRecord]) -> Entry:
    trials = tuple(by_id[trial_id] for trial_id in standing.trials)
    return Entry(standing, trials, outcome.hyperparameters(folder / trials[0].trial_id, trials[0]))


def _warning(candidates: Sequence[Candidate], manifest: SweepManifest) -> str | None:
    trends = [one.trend for one in candidates if one.state == "COMPLETE" and one.trend is not None]
    verdict = settling.summarise((trend.motion, trend.enough_steps) for trend in trends)
    return settling.in_words(verdict, manifest.objective.mode)


__all__ = ["Entry", "Ranking", "rank"]
