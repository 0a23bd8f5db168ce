"""Honest winners: the best configurations of a sweep, run again on seeds that played no part in choosing them.

The best of many trials is partly the luckiest. Tuning seeds are below `FIRST_FRESH_SEED` and test seeds are not, so no
trial is judged on a seed that chose it. Each sweep has its own test seeds (`judging.seeds.fresh_seeds`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from jax_party.config import with_values
from jax_party.engines import get_engine
from jax_party.errors import SweepError
from jax_party.judging.intervals import Interval, interval, optimism, stratified_interval
from jax_party.judging.replicates import pool_seeds
from jax_party.judging.seeds import SeedTest, reused
from jax_party.trial import outcome
from jax_party.trial.folder import create_trial_folder, read_config
from jax_party.trial.identity import new_trial_id
from jax_party.trial.judged import contender_of
from jax_party.trial.record import TrialRecord
from jax_party.trial.states import State
from launcher.plan.numbers import MOST_TRIALS
from launcher.plan.study import NUM_SEEDS_KEY, SEED_KEY
from launcher.show.console import plain, show_facts
from launcher.show.ranking import rank

if TYPE_CHECKING:
    from launcher.plan.sweep import Sweep

FIRST_NUMBER = MOST_TRIALS
"""The number of the first test of a winner; lower numbers are reserved for trials that the sweep is extended by."""


@dataclass(frozen=True)
class Winner:
    """A configuration to run again: a trial that won, and its score in the search."""

    record: TrialRecord
    tuned: float


def winners(sweep: Sweep, top: int) -> list[Winner]:
    """Return the best `top` configurations of each algorithm and scenario, best first.

    With several objectives only configurations on the Pareto front count. If scenarios are averaged, the best are
    chosen per algorithm and returned for every scenario.

    Raises:
      SweepError: some trial has not ended, none is COMPLETE, or none satisfies the constraints.
    """
    if sweep.searching:
        raise SweepError(f"{sweep.folder}: its trials have not all ended; finish it: make resume SWEEP={sweep.folder}")
    complete = [record for record in sweep.searched if record.state is State.COMPLETE]
    ranked = rank(sweep.folder, sweep.manifest, complete).groups
    if not ranked:
        raise SweepError(f"{sweep.folder}: no trial is COMPLETE; there is nothing to promote")
    several = len(sweep.manifest.objective.metrics) > 1
    chosen: list[Winner] = []
    for entries in ranked.values():
        good = [entry for entry in entries if entry.standing.feasible and (entry.standing.on_front or not several)]
        for entry in good[:top]:
            first = {record.scenario: record for record in reversed(entry.trials)}  # one trial per scenario
            chosen += [Winner(record, entry.standing.score) for record in reversed(first.values())]
    if not chosen:
        bounds = ", ".join(f"{name}={bound:g}" for name, bound in sweep.manifest.objective.constraints.items())
        raise SweepError(f"{sweep.folder}: no trial meets the constraints ({bounds}); there is nothing to promote")
    return chosen


def write_promotions(sweep: Sweep, chosen: Sequence[Winner], seeds: range) -> list[TrialRecord]:
    """Create a PENDING trial on these seeds for each winner; a trial that already exists is left unchanged."""
    number = max(FIRST_NUMBER, 1 + max(record.number for record in sweep.records.values()))
    written = []
    engine = get_engine(sweep.manifest.engine)
    for winner in chosen:
        origin = winner.record
        of_trial = {SEED_KEY: seeds.start, NUM_SEEDS_KEY: len(seeds)}
        composed = read_config(sweep.folder / origin.trial_id)
        engine.parse(composed)  # refuses a config of an earlier version, naming the missing key
        sampled = _sampled(sweep.folder / origin.trial_id, origin)
        config = with_values(composed, {**(sampled if origin.lineage else {}), **of_trial})
        trial_id = new_trial_id(sweep.manifest.name, config, seeds.start)
        if trial_id not in sweep.records:
            record = TrialRecord(
                trial_id=trial_id,
                number=number,
                sweep=origin.sweep,
                engine=origin.engine,
                algorithm=origin.algorithm,
                environment=origin.environment,
                scenario=origin.scenario,
                seed=seeds.start,
                num_seeds=len(seeds),
                promoted_from=origin.trial_id,
                hyperparameters=sampled,
                objective=origin.objective,
                total_steps=origin.total_steps,
            )
            create_trial_folder(sweep.folder / trial_id, config, record)
            sweep.records[trial_id] = record
            number += 1
        written.append(sweep.records[trial_id])
    return written


def fresh_values(sweep: Sweep, origin: str) -> dict[int, float]:
    """Return seed -> score over all COMPLETE tests of a winner; a seed counts once."""
    tests = []
    for record in tests_of(sweep, origin):
        if record.state is State.COMPLETE:
            values = outcome.seed_scores(sweep.folder / record.trial_id, record)
            if len(values) == record.num_seeds:
                tests.append((record.seed, values))
    return pool_seeds(tests)


def _chosen_by(sweep: Sweep, origin: TrialRecord) -> list[float]:
    """Return the score of each tuning seed that a winner's configuration was chosen by."""
    same = [
        one
        for one in sweep.searched
        if (one.algorithm, one.scenario, one.state) == (origin.algorithm, origin.scenario, origin.state)
        and contender_of(one) == contender_of(origin)
    ]
    scores = ((one.seed, outcome.seed_scores(sweep.folder / one.trial_id, one)) for one in same)
    return list(pool_seeds(scores).values())


def tests_of(sweep: Sweep, origin: str) -> list[TrialRecord]:
    """Return the tests of a winner, in the order in which they were planned."""
    found = [record for record in sweep.records.values() if record.promoted_from == origin]
    return sorted(found, key=lambda record: record.number)


def show_promotions(sweep: Sweep, promoted: Sequence[TrialRecord], console: Console) -> None:
    """Print each winner's score on fresh seeds, and warn about winners whose test seeds had been used before."""
    metric, mode = sweep.manifest.objective.metric, sweep.manifest.objective.mode
    facts: dict[str, str] = {}
    tested: dict[tuple[str, str], list[tuple[list[float], list[float]]]] = {}
    origins = list(dict.fromkeys(planned.promoted_from for planned in promoted if planned.promoted_from is not None))
    for origin in origins:
        chosen_by = _chosen_by(sweep, sweep.records[origin])
        values = list(fresh_values(sweep, origin).values())
        record = tests_of(sweep, origin)[-1]
        if not values or not chosen_by:
            facts[origin] = f"{record.state.value} {record.error or ''}".strip()
            continue
        facts[origin] = _in_words([chosen_by], interval(values), len(values), mode)
        of_scenarios = tested.setdefault((record.algorithm, contender_of(record)), [])
        of_scenarios.append((chosen_by, values))
    if sweep.manifest.scenario_mode == "mean":
        wanted = len(sweep.manifest.scenarios)
        for (algorithm, configuration), of_scenarios in tested.items():
            if len(of_scenarios) == wanted:
                over = stratified_interval([values for _, values in of_scenarios])
                number = min(len(values) for _, values in of_scenarios)
                words = _in_words([chosen_by for chosen_by, _ in of_scenarios], over, number, mode)
                facts[f"{algorithm} {configuration}"] = f"{words}, mean of {wanted} scenarios"
    show_facts(console, f"{metric} on fresh seeds, with 95 % intervals", facts)
    _show_reused(sweep, origins, console)


def _show_reused(sweep: Sweep, origins: Sequence[str], console: Console) -> None:
    """Report winners that were searched for after others had been tested on the same seeds."""
    found = reused(seed_tests(sweep)) & set(origins)
    if found:
        plain(
            console,
            f"Test seeds were used before: {len(found)} of {len(origins)} winners ({', '.join(sorted(found))}) were "
            "searched for after others had been tested on the same seeds, so their fresh scores are no longer blind; "
            "for a blind test tune and promote in a new sweep, which has test seeds of its own",
        )


def seed_tests(sweep: Sweep) -> list[SeedTest]:
    """Return the tests of a sweep in the form that `judging.seeds.reused` takes."""
    found = []
    for record in sweep.records.values():
        if record.promoted_from is not None:
            origin = sweep.records.get(record.promoted_from)
            ended = record.ended_at if record.state is State.COMPLETE else None
            seeds = range(record.seed, record.seed + record.num_seeds)
            found.append(SeedTest(record.promoted_from, origin.started_at if origin else None, seeds, ended))
    return found


def _in_words(chosen_by: Sequence[Sequence[float]], fresh: Interval, num_seeds: int, mode: str) -> str:
    tuned, gap = optimism(chosen_by, fresh, mode)
    between = "" if fresh.low is None else f" [{fresh.low:.5g}, {fresh.high:.5g}]"
    return (
        f"tuned {tuned:.5g}, fresh {fresh.value:.5g}{between} ({fresh.estimator} of {num_seeds} seeds), "
        f"optimism gap {gap:.3g}"
    )


def _sampled(folder: Path, record: TrialRecord) -> Mapping[str, Any]:
    """Return the hyperparameters that gave the trial its score, without the seed."""
    return {key: value for key, value in outcome.hyperparameters(folder, record).items() if key != SEED_KEY}


__all__ = ["Winner", "fresh_values", "show_promotions", "tests_of", "winners", "write_promotions"]
