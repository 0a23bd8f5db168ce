"""Winners are the best configurations, and are tested on seeds that none was chosen by."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console
from scipy import stats

from jax_party.errors import SweepError
from jax_party.judging.aggregate import interquartile_mean
from jax_party.judging.intervals import interval
from jax_party.judging.seeds import FIRST_FRESH_SEED, fresh_seeds
from jax_party.trial.folder import read_config, read_record, update_record
from jax_party.trial.manifest import write_manifest
from jax_party.trial.metrics import append_metrics
from jax_party.trial.record import Takeover
from jax_party.trial.states import State
from launcher.ask.parsing import parse_promote_options, parse_sweep_options
from launcher.ask.requested import PromoteOptions
from launcher.commands import winners as promote
from launcher.commands.extend import extended
from launcher.drive import passes, run
from launcher.plan.compose import read_study
from launcher.plan.sweep import Sweep
from launcher.plan.write import draw_plan, write_plan
from results.collector.write import write_index
from results.tables import load_index

SEEDS = fresh_seeds("sweep-1")
SPACE = (
    "algorithms: [ff_mappo]\nscenarios: [p-base]\nbudget: {total_timesteps: 8192, num_evaluation: 2}\nspace:\n"
    "  system.actor_lr: {type: uniform, low: 0.0001, high: 0.001}\n"
)


def make_sweep(path: Path, *words: str, samples: int = 3, scores: dict[int, float] | None = None) -> Sweep:
    """A sweep whose trials have ended with these scores, by number; those without one have failed."""
    space = path / "space.yaml"
    space.write_text(SPACE)
    options = parse_sweep_options(["ALG=mappo", f"SPACE={space}", f"SAMPLES={samples}", *words])
    study, _ = read_study(options, "sweep-1")
    trials = draw_plan(study, samples)
    write_plan(path / "sweep", study, trials, len(trials), options, "")
    for trial in trials:
        if scores is not None:
            end(path / "sweep" / trial.trial_id, [scores[trial.number]] if trial.number in scores else [])
    return Sweep.read(path / "sweep")


def end(folder: Path, values: list[float]) -> None:
    """End a trial with the final parameters' score of each seed, or as FAILED."""
    record = read_record(folder)
    for index, value in enumerate(values):
        row = {"step": 8192, "seed": record.seed + index, "evaluate": {"episode_return": value}}
        append_metrics(folder, row | {"final": True}, row | {"absolute": True})
    mean = {"episode_return": float(np.mean(values))} if values else None
    update_record(folder, state=State.COMPLETE if values else State.FAILED, final_metrics=mean)


def _lr(values: Mapping[str, Any]) -> dict[str, Any]:
    return {"actor_lr": values["system.actor_lr"]}


def test_the_best_of_each_scenario_are_chosen(tmp_path: Path) -> None:
    scores = {0: 1.0, 1: 100.0, 2: 3.0, 3: 300.0, 4: 2.0}  # even numbers are p-base's; trial 5 has failed
    sweep = make_sweep(tmp_path, "SCENARIO=p-base,p-short", scores=scores)
    assert [(w.record.number, w.tuned) for w in promote.winners(sweep, 2)] == [
        (2, 3.0), (4, 2.0), (3, 300.0), (1, 100.0),
    ]  # fmt: skip
    assert [w.record.number for w in promote.winners(sweep, 1)] == [2, 3]


def test_the_smallest_win_where_less_is_better(tmp_path: Path) -> None:
    sweep = make_sweep(tmp_path, "MODE=min", scores={0: 2.0, 1: 1.0, 2: 3.0})
    assert [w.record.number for w in promote.winners(sweep, 2)] == [1, 0]


def test_a_sweep_that_goes_on_or_has_no_winner_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SweepError, match="its trials have not all ended; finish it: make resume SWEEP="):
        promote.winners(make_sweep(tmp_path), 1)
    folder = tmp_path / "failed"
    folder.mkdir()
    with pytest.raises(SweepError, match="no trial is COMPLETE; there is nothing to promote"):
        promote.winners(make_sweep(folder, scores={}), 1)


def test_tests_have_the_winners_config_and_seeds_of_their_own(tmp_path: Path) -> None:
    sweep = make_sweep(tmp_path, scores={0: 2.0, 1: 1.0, 2: 3.0})
    chosen = promote.winners(sweep, 2)
    written = promote.write_promotions(sweep, chosen, SEEDS[:4])
    assert [record.number for record in written] == [promote.FIRST_NUMBER, promote.FIRST_NUMBER + 1]
    for winner, record in zip(chosen, written, strict=True):
        assert (record.seed, record.num_seeds, record.state) == (SEEDS.start, 4, State.PENDING)
        assert record.promoted_from == winner.record.trial_id
        ours, theirs = (read_config(sweep.folder / one.trial_id) for one in (record, winner.record))
        assert ours["system"].pop("seed") == SEEDS.start > theirs["system"].pop("seed")
        assert (ours["arch"].pop("num_seeds"), theirs["arch"].pop("num_seeds")) == (4, 1)
        assert ours == theirs
    again = Sweep.read(sweep.folder)
    assert (again.remaining, again.planned, again.searching) == (2, 5, False)
    assert [record.trial_id for record in promote.write_promotions(again, chosen, SEEDS[:4])] == [
        r.trial_id for r in written
    ]
    assert len(Sweep.read(sweep.folder).records) == 5
    assert [w.record.number for w in promote.winners(again, 9)] == [2, 0, 1], "tests are not promoted"
    again.complete_plan()
    assert len(again.records) == 5


@pytest.mark.parametrize("rule", ["final", "best"])
def test_a_winner_of_a_population_is_tested_with_the_values_that_won(rule: str, tmp_path: Path) -> None:
    """Those that it ended with, or those at its best evaluation."""
    sweep = make_sweep(tmp_path, f"AT={rule}", scores={0: 2.0, 1: 1.0, 2: 3.0})
    (winner,) = promote.winners(sweep, 1)
    folder = sweep.folder / winner.record.trial_id
    for step, value in ((4096, 9.0), (8192, 3.0)):
        row = {"step": step, "seed": winner.record.seed, "evaluate": {"episode_return": value}}
        append_metrics(folder, row)
    then = {"system.actor_lr": 0.0005}
    update_record(folder, lineage=(Takeover(4096, "other", 4096, then),))
    again = Sweep.read(sweep.folder)
    (test,) = promote.write_promotions(again, promote.winners(again, 1), SEEDS[:4])
    assert then != winner.record.hyperparameters
    assert test.hyperparameters == (then if rule == "best" else winner.record.hyperparameters)
    assert read_config(sweep.folder / test.trial_id)["system"] == (
        read_config(folder)["system"] | {"seed": SEEDS.start, **_lr(test.hyperparameters)}
    )


@pytest.mark.parametrize("words", [[], ["SEARCH=optuna"]])
def test_a_sweep_that_is_extended_after_a_promotion_has_a_number_a_trial(tmp_path: Path, words: list[str]) -> None:
    sweep = make_sweep(tmp_path, *words, scores={0: 2.0, 1: 1.0, 2: 3.0})
    promote.write_promotions(sweep, promote.winners(sweep, 2), SEEDS[:4])
    sweep = Sweep.read(sweep.folder)
    sweep.manifest = extended(sweep, 2)
    write_manifest(sweep.folder, sweep.manifest)
    sweep.complete_plan()
    if words:
        (part,) = passes.search_passes(sweep, run.make_progress(sweep), 9)
        assert [bool(part.suggested.suggest(name)) for name in "ab"] == [True, True]
    numbers = [record.number for record in Sweep.read(sweep.folder).records.values()]
    assert numbers == [0, 1, 2, 3, 4, promote.FIRST_NUMBER, promote.FIRST_NUMBER + 1]


def test_scores_and_gaps_are_shown(tmp_path: Path) -> None:
    sweep = make_sweep(tmp_path, scores={0: 2.0, 1: 1.0, 2: 3.0})
    written = promote.write_promotions(sweep, promote.winners(sweep, 1), SEEDS[:3])
    end(sweep.folder / written[0].trial_id, [1.0, 2.0, 3.0])
    sweep = Sweep.read(sweep.folder)
    screen = Console(file=io.StringIO(), width=200)
    promote.show_promotions(sweep, written, screen)
    shown = screen.file.getvalue()  # type: ignore[attr-defined]
    assert "tuned 3, fresh 2 [-0.48414, 4.4841] (mean of 3 seeds), optimism gap 1" in shown


@pytest.mark.parametrize("num_seeds", [3, 10])
def test_a_configuration_for_all_scenarios_has_a_fresh_score_over_them(tmp_path: Path, num_seeds: int) -> None:
    """By hand for three seeds; those of the scenarios differ in their spread, which Welch's degrees of freedom know."""
    scores = {0: 5.0, 1: 7.0, 2: 1.0, 3: 1.0, 4: 2.0, 5: 2.0}
    sweep = make_sweep(tmp_path, "SCENARIO=p-base,p-short", "SCENARIO_MODE=mean", scores=scores)
    written = promote.write_promotions(sweep, promote.winners(sweep, 1), SEEDS[:num_seeds])
    assert len(written) == 2, "a scenario each"
    values = {"p-base": [2.0, 4.0, 3.0], "p-short": [4.0, 8.0, 6.0]}
    if num_seeds == 10:
        values = {
            name: list(np.random.default_rng(7).normal(at, 1.0, 10)) for name, at in (("p-base", 3.0), ("p-short", 6.0))
        }
    end(sweep.folder / written[0].trial_id, values[written[0].scenario])
    write_index(sweep.folder)
    assert load_index(sweep.folder)["fresh.over_scenarios.value"].isna().all(), "not tested in both yet"
    end(sweep.folder / written[1].trial_id, values[written[1].scenario])
    write_index(sweep.folder)
    index = load_index(sweep.folder)
    told = index[index["fresh.over_scenarios.value"].notna()]
    assert len(told) == 4 and told["objective.over_scenarios"].dropna().tolist() == [6.0, 6.0]
    for column in ("value", "low", "high"):
        assert told[f"fresh.over_scenarios.{column}"].nunique() == 1
    fresh = told.iloc[0]
    found = [fresh[f"fresh.over_scenarios.{name}"] for name in ("value", "low", "high")]
    if num_seeds == 3:
        error, freedom = math.sqrt(1 / 3 + 4 / 3) / 2, (1 / 3 + 4 / 3) ** 2 / ((1 / 3) ** 2 / 2 + (4 / 3) ** 2 / 2)
        half = stats.t.ppf(0.975, freedom) * error
        assert found == pytest.approx([4.5, 4.5 - half, 4.5 + half])
        assert fresh["optimism_gap.over_scenarios"] == pytest.approx(1.5)
    else:
        assert found[0] == pytest.approx(np.mean([interquartile_mean(of_one) for of_one in values.values()]))
        generator = np.random.default_rng(3)
        draws = [stats.trim_mean(generator.choice(one, (20_000, 10)), 0.25, axis=1) for one in values.values()]
        assert found[1:] == pytest.approx(list(np.percentile(np.mean(draws, axis=0), [2.5, 97.5])), abs=0.04)


def test_winners_are_tested_apart_from_the_search(tmp_path: Path) -> None:
    """Neither Optuna nor ASHA hears of them, also where trials of the search are run again beside them."""
    sweep = make_sweep(tmp_path, "SEARCH=optuna", "SCHEDULER=asha", "SCENARIO=p-base,p-short", scores={0: 2.0, 1: 1.0})
    promote.write_promotions(sweep, promote.winners(sweep, 1), SEEDS[:3])
    sweep = Sweep.read(sweep.folder)
    failed = sweep.set_back([State.FAILED])
    (part,) = passes.search_passes(sweep, run.make_progress(sweep), 9)
    searcher = part.suggested
    assert searcher.remaining == len(failed) == 4
    given = [searcher.suggest(str(index))["trial_id"] for index in range(4)]
    assert sorted(given) == sorted(failed)
    assert searcher.suggest("5") == searcher.FINISHED


@pytest.mark.parametrize("seeds", [f"[0, {FIRST_FRESH_SEED}]", f"[{2 * FIRST_FRESH_SEED}]"])
def test_no_sweep_tunes_with_the_seeds_of_tests(seeds: str, tmp_path: Path) -> None:
    space = tmp_path / "space.yaml"
    space.write_text(SPACE + f"  system.seed: {{type: grid, values: {seeds}}}\n")
    with pytest.raises(
        SweepError, match=r"system\.seed: .* is kept for testing winners; take seeds below 1,000,000,000"
    ):
        read_study(parse_sweep_options(["ALG=mappo", f"SPACE={space}"]))
    with pytest.raises(SweepError, match=r"SEEDS=8: from SEED=999999999 they reach seeds that are kept for testing"):
        read_study(parse_sweep_options(["ALG=mappo", "SEED=999999999", "SEEDS=8"]))
    read_study(parse_sweep_options(["ALG=mappo", "SEED=999999992", "SEEDS=8"]))
    with pytest.raises(SweepError, match="SEED: expected a whole number from 0 to 999999999"):
        parse_sweep_options(["ALG=mappo", f"SEED={FIRST_FRESH_SEED}"])


def test_options(tmp_path: Path) -> None:
    assert parse_promote_options([str(tmp_path)]) == PromoteOptions(tmp_path, 3, 10)
    assert parse_promote_options([str(tmp_path), "TOP=1", "SEEDS=4", "PACK=2"]) == PromoteOptions(
        tmp_path, 1, 4, pack=2
    )
    for word in ("TOP=0", "SEEDS=0", "TOP=x"):
        with pytest.raises(SweepError, match=rf"{word[:-2]}: expected a whole number from 1"):
            parse_promote_options([str(tmp_path), word])
    with pytest.raises(SweepError, match="promote: expected one sweep folder, got 0"):
        parse_promote_options(["TOP=1"])


# -- Intervals ---------------------------------------------------------------------------------------------------------


def test_few_seeds_have_students_interval() -> None:
    """By hand: the mean of 1, 2, 3 is 2, its standard error 1/√3, and t(0.975, 2) is 4.302653."""
    found = interval([1.0, 2.0, 3.0])
    assert (found.value, found.estimator) == (2.0, "mean")
    assert (found.low, found.high) == pytest.approx((2 - 4.302653 / math.sqrt(3), 2 + 4.302653 / math.sqrt(3)))
    assert interval([5.0]) == (5.0, None, None, "mean")


def test_many_seeds_have_the_bootstraps_interval_of_the_interquartile_mean() -> None:
    values = list(np.random.default_rng(3).normal(size=12))
    found = interval(values)
    assert (found.value, found.estimator) == (interquartile_mean(values), "iqm")
    generator = np.random.default_rng(7)
    draws = generator.choice(values, (20_000, 12))
    expected = np.percentile(stats.trim_mean(draws, 0.25, axis=1), [2.5, 97.5])
    assert (found.low, found.high) == pytest.approx(tuple(expected), abs=0.03)
    assert found == interval(values), "the same each time it is collected"


def test_intervals_hold_what_they_promise() -> None:
    """The true value lies in 95 of 100 intervals: exactly so for Student's, nearly for the bootstrap's of 20 seeds."""
    generator = np.random.default_rng(0)

    def coverage(number: int, repeats: int) -> float:
        def holds(found: Any) -> bool:
            return bool(found.low <= 0.0 <= found.high)

        return sum(holds(interval(list(generator.normal(size=number)))) for _ in range(repeats)) / repeats

    assert 0.92 < coverage(5, 1000) < 0.98
    assert 0.85 < coverage(20, 200) < 0.99
