"""A sweep's plan and its report name the scenarios whose ranks cannot change, by the settings of its trials."""

from __future__ import annotations

import dataclasses
import io
import shutil
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from jax_party.trial.folder import CONFIG_FILE, read_config
from jax_party.trial.record import TrialRecord
from launcher.ask.parsing import parse_sweep_options
from launcher.plan import fixed_ranks
from launcher.plan.compose import read_study
from launcher.plan.fixed_ranks import note_of_plan, note_of_trials
from launcher.plan.study import PlannedTrial, Study
from launcher.plan.write import draw_plan
from launcher.show import console
from launcher.show.progress import Progress
from launcher.show.ranking import Ranking

BASE = "ranks never change (a place is worth 10 per step, payoffs differ by at most 5)"
SETTINGS = "env.scenario.task_config."
ADVICE = "begin a new study with p-contest"
SPACE = """algorithms: [ff_mappo]
scenarios: [p-base, p-rank-1]
budget: {{total_timesteps: 8192, num_evaluation: 2}}
space:
  {key}: {axis}
"""


def planned(*words: str) -> tuple[Study, tuple[PlannedTrial, ...]]:
    study, samples = read_study(parse_sweep_options(["ALG=mappo", *words]), "sweep")
    return study, () if study.search.learns else draw_plan(study, samples)


def written(folder: Path, study: Study, trials: Any) -> list[TrialRecord]:
    return [study.write(folder, trial) for trial in trials]


@pytest.mark.parametrize(
    ("words", "note"),
    [
        ("SCENARIO=p-base SAMPLES=2", f"p-base: {BASE}; {ADVICE}"),
        ("SCENARIO=p-base,p-contest,p-short SAMPLES=2", f"p-base, p-short: {BASE}; {ADVICE}"),
        ("SCENARIO=p-contest,p-no-rank,p-rank-1 SAMPLES=1", None),
        ("SCENARIO=p-base SAMPLES=1 OVERRIDES=env.scenario.task_config.rank_reward=4", None),
        (
            "SCENARIO=p-contest SAMPLES=1 OVERRIDES=env.scenario.task_config.rank_by=total",
            f"p-contest: {BASE}; {ADVICE}",
        ),
        ("SAMPLES=1 OVERRIDES=env=lbf", None),
    ],
)
def test_both_notes_go_by_the_scenario_and_overrides(words: str, note: str | None, tmp_path: Path) -> None:
    study, trials = planned(*words.split())
    assert note_of_plan(study, trials) == note
    assert note_of_trials(tmp_path, written(tmp_path, study, trials)) == note


def test_both_notes_go_by_axes_over_the_game(tmp_path: Path) -> None:
    space = tmp_path / "space.yaml"
    space.write_text(SPACE.format(key=f"{SETTINGS}rank_reward", axis="{type: grid, values: [2.0, 5.0, 6.0, 8.0]}"))
    study, trials = planned(f"SPACE={space}", "SAMPLES=1")
    reason = "(a place is worth {} per step, payoffs differ by at most 5)"
    note = (
        f"p-base, p-rank-1: ranks never change in 2 of 4 trials {reason.format('6 to 8')}; "
        f"p-base, p-rank-1: ranks change only while agents are level in 1 of 4 trials {reason.format('5')}; {ADVICE}"
    )
    assert note_of_plan(study, trials) == note
    assert note_of_trials(tmp_path, written(tmp_path, study, trials)) == note


def test_plan_says_nothing_of_settings_that_are_searched_over(tmp_path: Path) -> None:
    space = tmp_path / "space.yaml"
    space.write_text(SPACE.format(key=f"{SETTINGS}payoff.temptation", axis="{type: uniform, low: 4.0, high: 12.0}"))
    study, trials = planned(f"SPACE={space}", "SAMPLES=2", "SEARCH=optuna")
    assert trials == () and note_of_plan(study, trials) is None
    drawn = [
        study.trial(number, study.bases[0], {f"{SETTINGS}payoff.temptation": 5.5 + 6 * number}) for number in (0, 1)
    ]
    assert note_of_trials(tmp_path, written(tmp_path, study, drawn)) == (
        "p-base: ranks never change in 1 of 2 trials (a place is worth 10 per step, payoffs differ by at most 5.5); "
        + ADVICE
    )
    study, trials = planned("SAMPLES=2", "SEARCH=optuna")
    assert trials == () and note_of_plan(study, trials) == f"p-base: {BASE}; {ADVICE}"


def test_one_config_is_read_for_a_scenario_and_damaged_ones_are_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study, trials = planned("SCENARIO=p-base,p-short", "SAMPLES=3")
    found = written(tmp_path, study, trials)
    (tmp_path / found[0].trial_id / CONFIG_FILE).write_text("- no mapping")
    shutil.rmtree(tmp_path / found[1].trial_id)
    read: list[Path] = []
    real = read_config
    monkeypatch.setattr(fixed_ranks, "read_config", lambda folder: (read.append(folder), real(folder))[1])
    assert note_of_trials(tmp_path, found) == f"p-base, p-short: {BASE}; {ADVICE}"
    assert len(read) == 4, "two that cannot be read, and one for each scenario"
    for record in found[2:]:
        shutil.rmtree(tmp_path / record.trial_id)
    assert note_of_trials(tmp_path, found) is None


def test_report_has_the_line(tmp_path: Path) -> None:
    study, _ = planned("SAMPLES=1")
    snapshot = Progress("sweep", study.objective, 0).snapshot()
    for note in (None, f"p-base: {BASE}; {ADVICE}"):
        screen = Console(file=io.StringIO(), width=60)
        console.show_report(screen, snapshot, Ranking({}), tmp_path, note)
        lines = [line.split() for line in screen.file.getvalue().splitlines()]  # type: ignore[attr-defined]
        assert [" ".join(line[1:]) for line in lines if line[0] == "ranks"] == ([note] if note else [])


def test_population_trials_count_by_their_last_values(tmp_path: Path) -> None:
    study, trials = planned("SAMPLES=1", "SCENARIO=p-base")
    (record,) = written(tmp_path, study, trials)
    changed = dataclasses.replace(record, hyperparameters={**record.hyperparameters, f"{SETTINGS}rank_reward": 1.0})
    assert note_of_trials(tmp_path, [changed]) is None
