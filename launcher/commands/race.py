"""`make promote RACE=0.95`: race the best configurations on fresh seeds, and stop those that cannot be the best.

The state of a race is derived from the trial folders alone, so after a kill the same command continues it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from jax_party.errors import SweepError
from jax_party.judging import racing
from jax_party.judging.seeds import fresh_seeds
from jax_party.trial.judged import contender_of
from jax_party.trial.record import TrialRecord
from jax_party.trial.states import State
from launcher.ask.requested import PromoteOptions
from launcher.commands.winners import Winner, fresh_values, show_promotions, tests_of, winners, write_promotions
from launcher.show.console import plain
from sweeps.space import ScenarioMode

if TYPE_CHECKING:
    from launcher.plan.sweep import Sweep


@dataclass(frozen=True)
class Contest:
    """Configurations that race each other: those of one algorithm in one scenario, or in all if scenarios are averaged.

    Attributes:
      name: the algorithm, followed by the scenario if the contest is in a single one.
      configurations: configuration id (`contender_of`) -> its winning trials, one per scenario.
    """

    name: str
    configurations: dict[str, list[Winner]]


@dataclass(frozen=True)
class Standing:
    """The current state of a contest.

    Attributes:
      scores: (configurations, seeds), larger is better, NaN for seeds without a result.
      race: the race on these scores.
      looked: the number of seeds at the last look; 0 before the first look.
      needed: the winners that have to run next; empty once the race is over.
      block: the seeds that they have to run.
    """

    scores: NDArray[np.float64]
    race: racing.Race
    looked: int
    needed: Sequence[Winner]
    block: range


def run_race(
    sweep: Sweep, options: PromoteOptions, console: Console, drive: Callable[[Callable[[], None]], int]
) -> int:
    """Race the best configurations of a sweep, round by round, and show which are left.

    Args:
      sweep: the sweep whose winners race.
      options: `race` is the confidence, `seeds` the maximum number of seeds per configuration.
      console: where each round is reported.
      drive: calls its argument, then runs the PENDING trials in the sweep's folder; returns the exit code.

    Returns:
      The exit code of the last round.

    Raises:
      SweepError: the sweep has not ended, or a contest has only one configuration.
    """
    assert options.race is not None
    seeds = fresh_seeds(sweep.manifest.name)[: options.seeds]
    chosen = winners(sweep, options.top)
    contests = contests_of(sweep, chosen)
    told: set[tuple[str, str]] = set()
    code, drove = 0, False
    while code == 0:
        standings = [stand(sweep, contest, seeds, options.race) for contest in contests]
        for contest, standing in zip(contests, standings, strict=True):
            _tell_stopped(contest, standing, told, sweep, options.race, console)
        if drove and not any(standing.needed for standing in standings):
            break
        code, drove = drive(lambda now=standings: _write_round(sweep, contests, now, console)), True  # type: ignore[misc]
    if code == 0:
        for contest, standing in zip(contests, standings, strict=True):
            plain(console, _outcome(contest, standing, sweep, options))
        tests = [record for winner in chosen for record in tests_of(sweep, winner.record.trial_id)]
        show_promotions(sweep, tests, console)
    return code


def contests_of(sweep: Sweep, chosen: Sequence[Winner]) -> list[Contest]:
    """Return the contests of the chosen winners, each with its configurations in the order of the search's ranking.

    Raises:
      SweepError: a contest has only one configuration.
    """
    contests: dict[str, dict[str, list[Winner]]] = {}
    averaged = sweep.manifest.scenario_mode == ScenarioMode.MEAN
    for winner in chosen:
        record = winner.record
        name = record.algorithm if averaged else f"{record.algorithm} {record.scenario}"
        contests.setdefault(name, {}).setdefault(contender_of(record), []).append(winner)
    for name, configurations in contests.items():
        if len(configurations) < 2:
            raise SweepError(
                f"{sweep.folder}: {name} has one configuration to promote, and a race needs two; leave RACE out, or "
                f"add some: make extend SWEEP={sweep.folder} SAMPLES=…"
            )
    return [Contest(name, configurations) for name, configurations in contests.items()]


def stand(sweep: Sweep, contest: Contest, seeds: range, confidence: float) -> Standing:
    """Return the state of a contest, derived from its COMPLETE tests.

    A configuration with a FAILED test is stopped at the end of that test's round.
    """
    scores = _scores(sweep, contest, seeds)
    at = racing.looks(confidence, len(seeds))
    for number, look in enumerate(at):
        race = racing.race(scores, at[:number], confidence)
        looked = at[number - 1] if number else 0
        block = seeds[looked:look]
        if race.racing.sum() <= 1:
            return Standing(scores, race, looked, (), block)
        needed = [
            winner
            for place, of_scenarios in enumerate(contest.configurations.values())
            if race.racing[place] and np.isnan(scores[place, looked:look]).any()
            for winner in of_scenarios
            if _is_needed(sweep, winner, block)
        ]
        if needed:
            return Standing(scores, race, looked, needed, block)
    return Standing(scores, racing.race(scores, at, confidence), at[-1], (), seeds[:0])


def _is_needed(sweep: Sweep, winner: Winner, block: range) -> bool:
    """Return whether a winner still has to run the block: some scores are missing, and no test of it has FAILED."""
    origin = winner.record.trial_id
    failed = any(
        record.state is State.FAILED and (record.seed, record.num_seeds) == (block.start, len(block))
        for record in tests_of(sweep, origin)
    )
    return not failed and not set(block) <= fresh_values(sweep, origin).keys()


def _scores(sweep: Sweep, contest: Contest, seeds: range) -> NDArray[np.float64]:
    """Return the scores, (configurations, seeds), larger is better: means over scenarios, NaN if one is missing."""
    sign = 1.0 if sweep.manifest.objective.mode == "max" else -1.0
    rows = []
    for of_scenarios in contest.configurations.values():
        tested = [fresh_values(sweep, winner.record.trial_id) for winner in of_scenarios]
        rows.append(
            [
                sign * fmean(values[seed] for values in tested)
                if all(seed in values for values in tested)
                else float("nan")
                for seed in seeds
            ]
        )
    return np.array(rows, np.float64)


def _write_round(sweep: Sweep, contests: Sequence[Contest], standings: Sequence[Standing], console: Console) -> None:
    """Create the trials of the next round and report them."""
    sweep.set_back([State.RUNNING])
    for contest, standing in zip(contests, standings, strict=True):
        if standing.needed:
            written: list[TrialRecord] = write_promotions(sweep, standing.needed, standing.block)
            number = len({contender_of(winner.record) for winner in standing.needed})
            where = f" in {len(written) // number} scenarios" if len(written) > number else ""
            plain(
                console,
                f"Racing {number} configuration{'s' * (number != 1)} of {contest.name}{where}: seeds "
                f"{standing.block.start:,} to {standing.block.stop - 1:,}, after which each has "
                f"{standing.looked + len(standing.block)}",
            )


def _tell_stopped(
    contest: Contest, standing: Standing, told: set[tuple[str, str]], sweep: Sweep, confidence: float, console: Console
) -> None:
    """Report why each configuration that was stopped since the last call was stopped."""
    means = [_mean(standing, place) for place in range(len(contest.configurations))]
    ids = list(contest.configurations)
    sign = 1.0 if sweep.manifest.objective.mode == "max" else -1.0
    for place, configuration in enumerate(ids):
        after = int(standing.race.stopped_after[place])
        if not after or (contest.name, configuration) in told:
            continue
        told.add((contest.name, configuration))
        if np.isnan(standing.scores[place, :after]).any():
            why = "its trial failed"
        else:
            others = np.nanmean(np.delete(standing.scores[:, :after], place, axis=0), axis=1)
            why = (
                f"mean {sign * means[place]:.5g}, where the best has {sign * float(np.nanmax(others)):.5g}; evidence "
                f"{standing.race.capital[place]:.3g}, where {1 / (1 - confidence):.3g} is enough"
            )
            if means[place] >= float(np.nanmax(others)):
                why += "; its mean is no worse, but rests on few seeds: another is ahead on most of them"
        plain(console, f"{contest.name}: {configuration} is out after {after} seeds ({why})")


def _mean(standing: Standing, place: int) -> float:
    """Return the mean of a configuration over the seeds that it has run in the race; NaN if it has no score."""
    played = standing.scores[place, : int(standing.race.stopped_after[place]) or standing.looked]
    return float(np.nanmean(played)) if np.isfinite(played).any() else float("nan")


def _outcome(contest: Contest, standing: Standing, sweep: Sweep, options: PromoteOptions) -> str:
    """Describe which configurations are left in a contest."""
    ids = list(contest.configurations)
    left = sorted(np.flatnonzero(standing.race.racing), key=lambda place: -_mean(standing, int(place)))
    names = [ids[place] for place in left]
    if not names:
        again = f"make resume SWEEP={sweep.folder} RETRY_FAILED=1"
        return f"{contest.name}: no configuration is left, as trials failed; {again} tries them again"
    if len(names) == 1:
        return f"{contest.name}: {names[0]} is the best after {standing.looked} seeds (RACE={options.race:g})"
    return (
        f"{contest.name}: {len(names)} of {len(ids)} could still be the best after {standing.looked} seeds "
        f"(RACE={options.race:g}), by their means {', '.join(names)}; more seeds may decide: make promote "
        f"SWEEP={sweep.folder} TOP={options.top} RACE={options.race:g} SEEDS={2 * options.seeds}"
    )


__all__ = ["Contest", "Standing", "contests_of", "run_race", "stand"]
