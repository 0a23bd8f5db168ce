"""Columns of a trial's row that depend on other trials: its standing, and the results of tests of winners."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from jax_party.judging import seeds as judging_seeds
from jax_party.judging import standings
from jax_party.judging.intervals import Interval, interval, optimism, stratified_interval
from jax_party.judging.replicates import pool_seeds
from jax_party.judging.standings import Standing
from jax_party.trial.manifest import SweepManifest
from results.collector.ranking import ranked_as
from results.collector.rows import IndexRow


def judge_promotions(rows: Sequence[IndexRow]) -> None:
    """Add the scores on fresh seeds, over all tests of a winner, to the rows of the winner and its tests.

    Each seed counts once.
    """
    by_id = {row.fixed["trial_id"]: row for row in rows}
    for origin_id, tests in _tests(rows).items():
        fresh = {name: value for name, value in tests[0].fixed.items() if name.startswith("fresh.")}
        if len(tests) > 1:
            values = list(_fresh_values(tests).values())
            fresh |= {f"fresh.{name}": value for name, value in interval(values)._asdict().items()}
            fresh["fresh.num_seeds"] = len(values)
        origin = by_id.get(origin_id)
        chosen_by = [] if origin is None else list(_searched_values(rows, origin).values())
        for row in [*tests, *([] if origin is None else [origin])]:
            row.fixed.update(fresh)
        if origin is not None and chosen_by:
            on_fresh = Interval(*(fresh[f"fresh.{name}"] for name in Interval._fields))
            origin.fixed["optimism_gap"] = optimism([chosen_by], on_fresh, origin.fixed["objective.mode"])[1]
    _count_tests(rows, by_id)


def _tests(rows: Sequence[IndexRow]) -> dict[str, list[IndexRow]]:
    """Return the tests of each winner, by the winner's trial id, in the order in which they were planned."""
    tests: dict[str, list[IndexRow]] = {}
    for row in sorted(rows, key=lambda row: row.order):
        if is_test(row):
            tests.setdefault(row.fixed["promoted_from"], []).append(row)
    return tests


def _searched_values(rows: Sequence[IndexRow], origin: IndexRow) -> dict[int, float]:
    """Return the score of each seed by which the search chose a winner's configuration."""
    played = ("algorithm", "scenario", "state")
    return pool_seeds(
        (row.fixed["seed"], row.seed_values)
        for row in sorted(rows, key=lambda row: row.order)
        if row.fixed.get("promoted_from") is None
        and row.seed_values
        and all(row.fixed.get(name) == origin.fixed.get(name) for name in played)
        and ranked_as(row.fixed) == ranked_as(origin.fixed)
    )


def _fresh_values(tests: Sequence[IndexRow]) -> dict[int, float]:
    return pool_seeds((row.fixed["seed"], row.seed_values) for row in tests)


def _seeds(row: IndexRow) -> range:
    return range(row.fixed["seed"], row.fixed["seed"] + row.fixed["num_seeds"])


def _count_tests(rows: Sequence[IndexRow], by_id: Mapping[str, IndexRow]) -> None:
    """Record how often each configuration was tested, and whether it was found after its test seeds had been seen."""

    def configuration(row: IndexRow) -> tuple[Any, Any]:
        chosen = by_id.get(str(row.fixed.get("promoted_from")), row)
        return chosen.fixed["algorithm"], ranked_as(chosen.fixed)

    blocks: dict[tuple[Any, Any], list[range]] = {}
    seen: list[judging_seeds.SeedTest] = []
    for origin_id, tests in _tests(rows).items():
        began = by_id[origin_id].fixed.get("started_at") if origin_id in by_id else None
        for row in tests:
            blocks.setdefault(configuration(row), []).append(_seeds(row))
            seen.append(judging_seeds.SeedTest(origin_id, began, _seeds(row), row.fixed.get("ended_at")))
    reused = judging_seeds.reused(seen)
    tested = {test.origin for test in seen}
    for row in rows:
        if row.fixed.get("configuration") is not None:
            row.fixed["tests"] = judging_seeds.count_tests(blocks.get(configuration(row), ()))
            chosen = row.fixed.get("promoted_from") or row.fixed["trial_id"]
            row.fixed["test_seeds_reused"] = chosen in reused if chosen in tested else None


def judge_promotions_over_scenarios(rows: Sequence[IndexRow]) -> None:
    """Add the mean over scenarios on fresh seeds to the rows that have one from the search."""
    tests = _tests(rows)
    of_configuration: dict[tuple[Any, ...], dict[str, IndexRow]] = {}
    for row in rows:
        if row.fixed.get("objective.over_scenarios") is not None:
            key = (row.fixed["algorithm"], ranked_as(row.fixed))
            of_scenarios = of_configuration.setdefault(key, {})
            of_scenarios.setdefault(row.fixed["scenario"], row)
            if row.fixed["trial_id"] in tests:  # of several seeds, use the trial that was tested
                of_scenarios[row.fixed["scenario"]] = row
    for of_scenarios in of_configuration.values():
        origins = list(of_scenarios.values())
        tested = [tests.get(row.fixed["trial_id"], []) for row in origins]
        if not all(tested):
            continue
        fresh = stratified_interval([list(_fresh_values(of_scenario).values()) for of_scenario in tested])
        values = {f"fresh.over_scenarios.{name}": getattr(fresh, name) for name in ("value", "low", "high")}
        mode = origins[0].fixed["objective.mode"]
        chosen_by = [list(_searched_values(rows, row).values()) for row in origins]
        values["optimism_gap.over_scenarios"] = optimism(chosen_by, fresh, mode)[1]
        for row in [*origins, *(row for of_scenario in tested for row in of_scenario)]:
            row.fixed.update(values)


def is_test(row: IndexRow) -> bool:
    """Return whether the row is a winner's score on fresh seeds."""
    return row.fixed.get("promoted_from") is not None and row.fixed.get("fresh.value") is not None


def judge_objectives(rows: Sequence[IndexRow], manifest: SweepManifest) -> None:
    """Add each configuration's place, its score over all of its seeds, and whether it satisfies the constraints."""
    objective = manifest.objective
    over_scenarios = manifest.scenario_mode == standings.MEAN_OVER_SCENARIOS
    by_id = {row.fixed["trial_id"]: row for row in rows if row.fixed.get("promoted_from") is None and row.of_seeds}
    if over_scenarios:
        for row in by_id.values():
            row.fixed["objective.feasible"] = None  # until its configuration has been played in every scenario
    ranked = standings.rank(
        (row.candidate for row in by_id.values()), objective, manifest.scenario_mode, manifest.scenarios
    )
    for found in ranked.values():
        for one in found:
            for trial_id in (*one.trials, *one.others):
                by_id[trial_id].fixed.update(_standing_values(one, over_scenarios, len(objective.metrics) > 1))


def _standing_values(one: Standing, over_scenarios: bool, several: bool) -> dict[str, Any]:
    """Return the columns that a configuration's standing fills in the rows of its trials."""
    return {
        "score": one.score,
        "standing": one.place,
        "provisional": one.provisional,
        "objective.feasible": one.feasible,
        **({"objective.over_scenarios": one.score} if over_scenarios else {}),
        **({"objective.pareto": one.on_front} if several else {}),
    }
