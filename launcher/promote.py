"""Honest winners: the best configurations of a sweep, played again on seeds that none was chosen by.

The best of many trials is partly the luckiest. Seeds that tune are below `FIRST_FRESH_SEED`, seeds that test are not,
so that no trial is judged by a seed that chose it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from jax_party import records
from jax_party.config import with_values
from jax_party.engines import get_engine
from jax_party.errors import SweepError
from jax_party.judging.intervals import Interval, interval, optimism, stratified_interval
from jax_party.records import FIRST_FRESH_SEED, State, TrialRecord
from launcher import outcome
from launcher.console import show_facts
from launcher.plan import MOST_TRIALS, NUM_SEEDS_KEY, SEED_KEY
from launcher.ranking import Entry, rank

if TYPE_CHECKING:
    from launcher.run import Sweep

FIRST_NUMBER = MOST_TRIALS
"""Tests of winners are numbered from here on; below is room for all that a sweep may still be extended by."""


@dataclass(frozen=True)
class Winner:
    """A configuration to play again: a trial that won, and the score that it won with."""

    record: TrialRecord
    tuned: float


def winners(sweep: Sweep, top: int) -> list[Winner]:
    """The best `top` configurations of each algorithm and scenario, the best first; of several objectives, of the
    Pareto front; where scenarios are averaged, of each algorithm, in every scenario.

    Raises:
      SweepError: some trial has not ended, or none is complete.
    """
    if sweep.searching:
        raise SweepError(f"{sweep.folder}: its trials have not all ended; finish it: make resume SWEEP={sweep.folder}")
    complete = [record for record in sweep.searched if record.state is State.COMPLETE]
    ranked = rank(sweep.folder, sweep.manifest, complete)
    if not ranked:
        raise SweepError(f"{sweep.folder}: no trial is COMPLETE; there is nothing to promote")
    several = len(sweep.manifest.objective.metrics) > 1
    chosen: list[Winner] = []
    for entries in ranked.values():
        good = [entry for entry in entries if entry.feasible and (entry.on_front or not several)]
        different: dict[str, Entry] = {}
        for entry in good:
            different.setdefault(records.configuration_id(entry.trials[0]), entry)
        for entry in list(different.values())[:top]:
            chosen += [Winner(record, entry.score) for record in entry.trials]
    if not chosen:
        bounds = ", ".join(f"{name}={bound:g}" for name, bound in sweep.manifest.objective.constraints.items())
        raise SweepError(f"{sweep.folder}: no trial keeps to the constraints ({bounds}); there is nothing to promote")
    return chosen


def write_promotions(
    sweep: Sweep, chosen: Sequence[Winner], num_seeds: int, first_seed: int = FIRST_FRESH_SEED
) -> list[TrialRecord]:
    """Make a trial's folder, PENDING, for each winner; one that is there already is left as it is."""
    number = max(FIRST_NUMBER, 1 + max(record.number for record in sweep.records.values()))
    written = []
    engine = get_engine(sweep.manifest.engine)
    for winner in chosen:
        origin = winner.record
        seeds = {SEED_KEY: first_seed, NUM_SEEDS_KEY: num_seeds}
        composed = records.read_config(sweep.folder / origin.trial_id)
        engine.parse(composed)  # of an earlier version: refused by the key that it lacks
        sampled = _sampled(sweep.folder / origin.trial_id, origin)
        config = with_values(composed, {**(sampled if origin.lineage else {}), **seeds})
        trial_id = records.trial_id(sweep.manifest.name, config, first_seed)
        if trial_id not in sweep.records:
            record = TrialRecord(
                trial_id=trial_id,
                number=number,
                sweep=origin.sweep,
                engine=origin.engine,
                algorithm=origin.algorithm,
                environment=origin.environment,
                scenario=origin.scenario,
                seed=first_seed,
                num_seeds=num_seeds,
                promoted_from=origin.trial_id,
                hyperparameters=sampled,
                objective=origin.objective,
                total_steps=origin.total_steps,
            )
            records.create_trial_folder(sweep.folder / trial_id, config, record)
            sweep.records[trial_id] = record
            number += 1
        written.append(sweep.records[trial_id])
    return written


def fresh_score(folder: Path, record: TrialRecord) -> Interval | None:
    """The score of a promoted trial over its seeds; None where it is not complete."""
    if record.state is not State.COMPLETE:
        return None
    values = outcome.seed_scores(folder, record)
    return interval(values) if len(values) == record.num_seeds else None


def show_promotions(sweep: Sweep, promoted: list[TrialRecord], console: Console) -> None:
    """What each winner was worth on fresh seeds."""
    metric, mode = sweep.manifest.objective.metric, sweep.manifest.objective.mode
    facts: dict[str, str] = {}
    tested: dict[tuple[str, str], list[tuple[list[float], list[float]]]] = {}
    for planned in promoted:
        record = sweep.records[planned.trial_id]
        assert record.promoted_from is not None
        chosen_by = outcome.seed_scores(sweep.folder / record.promoted_from, sweep.records[record.promoted_from])
        fresh = fresh_score(sweep.folder / record.trial_id, record)
        if fresh is None or not chosen_by:
            facts[record.promoted_from] = f"{record.state.value} {record.error or ''}".strip()
            continue
        facts[record.promoted_from] = _in_words([chosen_by], fresh, record.num_seeds, mode)
        of_scenarios = tested.setdefault((record.algorithm, records.configuration_id(record)), [])
        of_scenarios.append((chosen_by, outcome.seed_scores(sweep.folder / record.trial_id, record)))
    if sweep.manifest.scenario_mode == "mean":
        wanted = len(sweep.manifest.scenarios)
        for (algorithm, configuration), of_scenarios in tested.items():
            if len(of_scenarios) == wanted:
                over = stratified_interval([scores for _, scores in of_scenarios])
                words = _in_words([chosen_by for chosen_by, _ in of_scenarios], over, promoted[0].num_seeds, mode)
                facts[f"{algorithm} {configuration}"] = f"{words}, mean of {wanted} scenarios"
    show_facts(console, f"{metric} on fresh seeds, with 95 % intervals", facts)


def _in_words(chosen_by: Sequence[Sequence[float]], fresh: Interval, num_seeds: int, mode: str) -> str:
    tuned, gap = optimism(chosen_by, fresh, mode)
    between = "" if fresh.low is None else f" [{fresh.low:.5g}, {fresh.high:.5g}]"
    return (
        f"tuned {tuned:.5g}, fresh {fresh.value:.5g}{between} ({fresh.estimator} of {num_seeds} seeds), "
        f"optimism gap {gap:.3g}"
    )


def _sampled(folder: Path, record: TrialRecord) -> Mapping[str, Any]:
    """The values that gave the trial its score, but for the seed."""
    return {key: value for key, value in outcome.hyperparameters(folder, record).items() if key != SEED_KEY}


__all__ = ["Winner", "fresh_score", "show_promotions", "winners", "write_promotions"]
