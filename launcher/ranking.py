"""Which configurations of a sweep are the best: what is reported at its end, and what can be promoted."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from jax_party.judging.aggregate import Aggregate, aggregate_metrics
from jax_party.judging.objectives import Objective, feasible, pareto_front
from jax_party.records import SweepManifest, TrialRecord, configuration_id
from launcher import outcome
from sweeps.space import ScenarioMode


@dataclass(frozen=True)
class Entry:
    """A configuration as it is judged.

    Attributes:
      group: what it compares with: those of its algorithm and, unless it counts by a mean over scenarios, its scenario.
      trials: that played it: one, or one in each scenario.
      metrics: what it reached, the means over its trials.
      score: the objective among them.
      feasible: whether it keeps to the constraints.
      hyperparameters: the values that gave the score.
      on_front: whether no other that does is better in every objective.
    """

    group: str
    trials: tuple[TrialRecord, ...]
    metrics: Mapping[str, float | None]
    score: float
    feasible: bool
    hyperparameters: Mapping[str, Any]
    on_front: bool = False


def rank(folder: Path, manifest: SweepManifest, trials: Sequence[TrialRecord]) -> dict[str, list[Entry]]:
    """The configurations of each group, the best first: what keeps to the constraints, then the Pareto front.

    Args:
      folder: the sweep's.
      manifest: of the sweep.
      trials: those that count; one without a score does not.
    """
    ranked: dict[str, list[Entry]] = {}
    for entry in _entries(folder, manifest, trials):
        ranked.setdefault(entry.group, []).append(entry)
    sign = -1.0 if manifest.objective.mode == "max" else 1.0
    for group, entries in ranked.items():
        judged = _with_front(entries, manifest.objective)
        judged.sort(key=lambda one: (not one.feasible, not one.on_front, sign * one.score, one.trials[0].number))
        ranked[group] = judged
    return ranked


def _entries(folder: Path, manifest: SweepManifest, trials: Sequence[TrialRecord]) -> Iterator[Entry]:
    objective = manifest.objective
    for group, of_configuration in _configurations(manifest, trials):
        reached = [outcome.metrics(folder / record.trial_id, record) for record in of_configuration]
        metrics = aggregate_metrics(reached, Aggregate.MEAN)
        values = [metrics.get(name) for name in objective.metrics]
        if values[0] is not None and None not in values:
            first = of_configuration[0]
            sampled = outcome.hyperparameters(folder / first.trial_id, first)
            yield Entry(group, tuple(of_configuration), metrics, values[0], feasible(objective, metrics), sampled)


def _configurations(manifest: SweepManifest, trials: Sequence[TrialRecord]) -> Iterator[tuple[str, list[TrialRecord]]]:
    """The trials of each configuration; where scenarios are averaged, of those that were played in all."""
    if manifest.scenario_mode != ScenarioMode.MEAN:
        for record in trials:
            yield f"{record.algorithm} {record.scenario}", [record]
        return
    wanted = len(manifest.scenarios)
    played: dict[tuple[str, int], dict[str, TrialRecord]] = {}
    for record in trials:
        played.setdefault((configuration_id(record), record.seed), {}).setdefault(record.scenario, record)
    for of_scenarios in played.values():
        if len(of_scenarios) == wanted:
            found = list(of_scenarios.values())
            yield found[0].algorithm, found


def _with_front(entries: Sequence[Entry], objective: Objective) -> list[Entry]:
    able = [entry for entry in entries if entry.feasible]
    points = [[float(entry.metrics[name] or 0.0) for name in objective.metrics] for entry in able]
    front = dict(zip(map(id, able), pareto_front(points, objective.modes), strict=True))
    return [replace(entry, on_front=front.get(id(entry), False)) for entry in entries]


__all__ = ["Entry", "rank"]
