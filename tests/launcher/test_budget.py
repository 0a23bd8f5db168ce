"""What a sweep may spend, what it has spent, and how that is written."""

from __future__ import annotations

import io
from pathlib import Path
from types import SimpleNamespace

import pytest
from rich.console import Console

from jax_party.errors import SweepError
from jax_party.judging.seeds import fresh_seeds
from jax_party.trial.folder import update_record
from jax_party.trial.manifest import read_manifest
from jax_party.trial.states import State
from launcher import sweep
from launcher.ask.parsing import parse_resume_options, parse_sweep_options
from launcher.ask.quantities import parse_budget
from launcher.commands import winners as promote
from launcher.drive import run
from launcher.drive.spending import SPENT_FILE, WRITE_EVERY_S, Spending
from launcher.machine.crew import Crew, Machine
from launcher.plan.compose import read_study
from launcher.plan.sweep import Sweep
from launcher.plan.write import draw_plan, write_plan
from tests.launcher.test_promote import make_sweep


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.mark.parametrize(
    ("text", "limits"),
    [
        ("time=2h", {"time": 7200.0}),
        ("time=1.5d, steps=1e8", {"time": 129_600.0, "steps": 1e8}),
        ("time=90m,device_hours=0.5,trials=64", {"time": 5400.0, "device_hours": 0.5, "trials": 64.0}),
        ("time=30s", {"time": 30.0}),
    ],
)
def test_budgets_are_read(text: str, limits: dict[str, float]) -> None:
    assert parse_budget(text) == limits


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("2h", "BUDGET: expected kinds and amounts, such as time=2h,steps=1e8, got '2h'"),
        ("times=2h", "BUDGET: times: unknown; did you mean time? (known: time, steps, device_hours, trials)"),
        ("time=-1h", "BUDGET: time: expected a time above 0 with its unit, such as 90m, 2h or 3d, got '-1h'"),
        ("time=0h", "BUDGET: time: expected a time above 0 with its unit, such as 90m, 2h or 3d, got '0h'"),
        ("time=2", "BUDGET: time: expected a time above 0 with its unit, such as 90m, 2h or 3d, got '2'"),
        ("steps=1.5", "BUDGET: steps: expected a whole number from 1, got '1.5'"),
        ("steps=2h", "BUDGET: steps: expected a whole number from 1, got '2h'"),
        ("trials=0", "BUDGET: trials: expected a whole number from 1, got '0'"),
        ("device_hours=1.2.3", "BUDGET: device_hours: expected a number above 0, got '1.2.3'"),
        ("time=1h,time=2h", "BUDGET: time is listed twice"),
    ],
)
def test_a_bad_budget_is_one_clear_error(text: str, message: str) -> None:
    with pytest.raises(SweepError) as caught:
        parse_budget(text)
    assert str(caught.value) == message


def test_what_passes_is_counted_and_the_first_limit_to_be_reached_is_named(tmp_path: Path) -> None:
    clock = Clock()
    spending = Spending(tmp_path, parse_budget("time=1h,steps=1000,device_hours=3"), 4.0, clock)
    clock.now += 1800.0
    assert spending.update(999) is None
    assert spending.describe() == "time 30:00 of 1:00:00, steps 999 of 1,000, device_hours 2 of 3"
    clock.now += 900.0
    assert spending.update(999) == "device_hours 3 of 3"
    assert spending.update(5000) == "device_hours 3 of 3", "that is what stopped it"


def test_no_limit_is_never_reached(tmp_path: Path) -> None:
    clock = Clock()
    spending = Spending(tmp_path, {}, 4.0, clock)
    clock.now += 1e9
    assert (spending.update(10**15), spending.describe(), spending.allowed_trials(10**6)) == (None, "", None)


def test_what_earlier_drivers_spent_counts(tmp_path: Path) -> None:
    """What a killed driver spent is known to within some seconds."""
    clock = Clock()
    first = Spending(tmp_path, {}, 2.0, clock)
    clock.now += 3600.0
    first.update(0)
    clock.now += WRITE_EVERY_S - 1.0
    first.update(0)  # not written: too soon
    second = Spending(tmp_path, parse_budget("time=2h,device_hours=3"), 1.0, clock)
    clock.now += 1800.0
    assert second.update(0) is None
    assert second.describe() == "time 1:30:00 of 2:00:00, device_hours 2.5 of 3"
    clock.now += 1800.0
    assert second.update(0) == "time 2:00:00 of 2:00:00"


def test_trials_are_so_many_in_all(tmp_path: Path) -> None:
    spending = Spending(tmp_path, parse_budget("trials=5"), 1.0)
    assert [spending.allowed_trials(ended) for ended in (0, 3, 5, 9)] == [5, 2, 0, 0]


def test_a_spent_budget_adds_nothing_and_does_not_hold_tests_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found = make_sweep(tmp_path, "BUDGET=trials=3", scores={0: 2.0, 1: 1.0, 2: 3.0})
    for _ in range(2):
        assert sweep.main(["extend", str(found.folder), "SAMPLES=2"]) == 2
        assert "BUDGET: is spent already (trials 3 of 3); give a larger one" in capsys.readouterr().err
        assert read_manifest(found.folder).num_trials == len(Sweep.read(found.folder).records) == 3
    promote.write_promotions(found, promote.winners(found, 1), fresh_seeds(found.manifest.name)[:2])
    found = Sweep.read(found.folder)
    asked = []
    monkeypatch.setattr(run, "run_in_tune", lambda sweep, crew, part, *rest: asked.append((part.tests, rest[-1])))
    monkeypatch.setattr(run, "start_ray", lambda *given: SimpleNamespace(kill=None))
    monkeypatch.setattr(run, "stop_ray", lambda *given, **options: None)
    crew = Crew.of(Machine((0, 1), 0), 1, pack=2)
    console = Console(file=io.StringIO(), width=300)
    assert run.run_sweep(found, crew, console, {"trials": 3.0}) == run.LEFT_OVER
    assert asked == [(True, None)]


def test_trials_that_are_left_without_a_budget_are_no_spent_budget(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    found = make_sweep(tmp_path, scores={0: 2.0, 1: 1.0, 2: 3.0})
    update_record(found.folder / next(iter(found.records)), state=State.PENDING)
    monkeypatch.setattr(run, "_run_trials", lambda *given: None)
    console = Console(file=io.StringIO(), width=300)
    crew = Crew.of(Machine((0, 1), 0), 1)
    assert run.run_sweep(Sweep.read(found.folder), crew, console, {}) == run.LEFT_OVER
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    assert "Not ended: 1 of 3 trials; " in shown and "budget" not in shown


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / SPENT_FILE).write_text("{")
    with pytest.raises(SweepError, match=r"spent\.json: cannot be read .*; restore it, or remove it to count from 0"):
        Spending(tmp_path, {}, 1.0)


def test_the_budget_is_kept_with_the_sweep(tmp_path: Path) -> None:
    options = parse_sweep_options(["ALG=mappo", "SAMPLES=1", "BUDGET=time=2h,trials=3"])
    study, samples = read_study(options, "sweep-1")
    write_plan(tmp_path / "sweep", study, draw_plan(study, samples), 1, options, "")
    assert read_manifest(tmp_path / "sweep").budget == {"time": 7200.0, "trials": 3.0}
    assert parse_resume_options([str(tmp_path), "BUDGET=steps=10"]).budget == "steps=10"
