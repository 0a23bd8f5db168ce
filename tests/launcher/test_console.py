"""What a sweep shows, and how progress is counted."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from jax_party.judging.objectives import Objective
from jax_party.judging.standings import Candidate, rank
from jax_party.trial import outcome
from jax_party.trial.folder import create_trial_folder, update_record
from jax_party.trial.metrics import append_metrics
from jax_party.trial.provenance import current_provenance
from jax_party.trial.record import TrialRecord
from jax_party.trial.states import State
from launcher.plan.estimate import SPEEDS, START_S, TRIAL_S, estimate
from launcher.show import console
from launcher.show.progress import Progress
from launcher.show.ranking import Entry, Ranking
from mava_configs import ALGORITHMS


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def record(number: int, **changes: Any) -> TrialRecord:
    values: dict[str, Any] = {
        "trial_id": f"t-{number}", "number": number, "sweep": "s", "algorithm": "ff_mappo", "environment": "JaxParty",
        "scenario": "p-base", "seed": 0, "hyperparameters": {"system.actor_lr": 0.00012345, "network.lr": number},
        "total_steps": 1000,
    }  # fmt: skip
    return TrialRecord(**values | changes)


def progress(number: int, mode: str = "max") -> tuple[Progress, Clock]:
    clock = Clock()
    found = Progress("sweep-1", Objective("score", mode), number, clock)
    for index in range(number):
        found.add(record(index))
    return found, clock


def screen(width: int = 200) -> Console:
    return Console(file=io.StringIO(), width=width)


def text(target: Console) -> str:
    assert isinstance(target.file, io.StringIO)
    return target.file.getvalue()


def test_counts_best_and_eta() -> None:
    found, clock = progress(4)
    found.start("t-0")
    clock.now = 10.0
    found.result("t-0", {"env_steps": 500, "score": 3.0, "steps_per_second": 50.0})
    found.result("t-0", {"env_steps": 500, "score": float("nan")})
    found.start("t-1")
    found.result("t-1", {"env_steps": 500, "score": 7.0})
    found.result("t-1", {"env_steps": 600, "score": 2.0})
    found.end("t-1", State.PRUNED, "asha: weak")
    snapshot = found.snapshot()
    assert snapshot.best is not None and snapshot.best.trial_id == "t-0", "a pruned trial is behind running ones"
    assert found.row("t-1").score == 2.0
    assert snapshot.eta_s == pytest.approx((500 + 2000) * 10.0 / 1100)
    assert console.status_line(snapshot) == (
        "1/4 ended (2 pending, 1 running, 1 pruned); best so far score 3 (trial 0); 0:10 gone, ETA 0:23"
    )


def test_the_smallest_wins_where_asked_and_failed_trials_never() -> None:
    found, _ = progress(3, mode="min")
    for number, value in enumerate((3.0, 1.0, 2.0)):
        found.result(f"t-{number}", {"env_steps": 10, "score": value})
    found.end("t-1", State.FAILED, "no")
    best = found.snapshot().best
    assert best is not None and best.trial_id == "t-2"


def test_table_is_bounded_and_marks_the_best() -> None:
    found, _ = progress(50)
    found.start("t-40")
    found.result("t-45", {"env_steps": 1000, "score": 9.0})
    found.end("t-45", State.COMPLETE, None)
    target = screen()
    target.print(console.render(found.snapshot()))
    lines = text(target).splitlines()
    assert sum("p-base" in line for line in lines) == 20
    assert any("★ 45" in line and "COMPLETE" in line and "100%" in line for line in lines)
    assert any("40" in line and "RUNNING" in line for line in lines)
    assert "… 30 more" in text(target)
    assert "actor_lr" in text(target) and "0.0001234" in text(target)


def test_table_fits_a_narrow_terminal() -> None:
    found, _ = progress(3)
    found.start("t-0")
    found.result("t-0", {"env_steps": 500, "score": 123.456, "steps_per_second": 12345.0})
    target = screen(80)
    target.print(console.render(found.snapshot(), 80))
    (line,) = [line for line in text(target).splitlines() if "★ 0" in line]
    assert "p-base" in line and "RUNNING" in line and "50%" in line and "123.5" in line and "12,345" in line
    assert "…" not in text(target)


def test_lines_where_there_is_no_terminal() -> None:
    found, clock = progress(3)
    target = screen(40)
    display = console.make_display(target, found)
    assert isinstance(display, console.LineDisplay)
    with display:
        for clock.now in (1.0, 9.0, 10.5, 11.0, 15.0, 20.0, 21.0):
            display.tick()
        found.result("t-0", {"env_steps": 1000, "score": 1.5, "steps_per_second": 2000.0})
        display.ended(found.end("t-0", State.COMPLETE, None))
        display.retried(found.retry("t-1"), "the worker process died")
    lines = text(target).splitlines()
    assert len(lines) == 4
    assert lines[:2] == [f"0/3 ended (3 pending); {gone} gone, ETA ?" for gone in ("0:10", "0:21")]
    assert lines[2] == ("trial 0 COMPLETE p-base actor_lr=0.0001234 lr=0; score 1.5; 1,000 steps at 2,000/s")
    assert lines[3] == "trial 1 tried again (1): the worker process died"
    assert "\x1b" not in text(target)


def test_live_table_on_a_terminal() -> None:
    found, _ = progress(2)
    target = Console(file=io.StringIO(), width=120, force_terminal=True)
    with console.make_display(target, found) as display:
        assert isinstance(display, console.LiveDisplay)
        display.tick()
    assert "2 pending" in text(target)


def test_report_names_the_best_and_the_failed(tmp_path: Path) -> None:
    found, _ = progress(2)
    found.result("t-0", {"env_steps": 1000, "score": 1.5})
    found.end("t-0", State.COMPLETE, None)
    found.end("t-1", State.FAILED, "TrainingDiverged: policy_loss is nan")
    target = screen()
    snapshot = found.snapshot()
    record = TrialRecord(trial_id="t-0", algorithm="ff_ippo", environment="JaxParty", scenario="p-base", seed=0)
    candidate = Candidate("t-0", 0, "ff_ippo", "p-base", "c", "COMPLETE", 0, [{"score": 1.25}], settled=True)
    ranked = rank([candidate], Objective("score", "max"))["ff_ippo p-base"]
    ranking = Ranking({"ff_ippo p-base": [Entry(ranked[0], (record,), record.hyperparameters)]}, "2 were falling")
    console.show_report(target, snapshot, ranking, tmp_path)
    output = text(target)
    assert "1 COMPLETE, 1 FAILED" in output and "score 1.25: t-0\n" in output and "2 were falling" in output
    assert "TrainingDiverged: policy_loss is nan" in output and "index.csv" not in output
    (tmp_path / "index.parquet").touch()  # the last of the tables
    target = screen()
    console.show_report(target, snapshot, ranking, tmp_path)
    output = text(target)
    assert all(str(tmp_path / name) in output for name in ("index.csv", "index.parquet", "evaluations.parquet"))


@pytest.mark.parametrize(("seconds", "shown"), [(None, "?"), (5, "0:05"), (65.4, "1:05"), (3723, "1:02:03")])
def test_durations(seconds: float | None, shown: str) -> None:
    assert console.duration(seconds) == shown


def test_scores_come_from_the_folder(tmp_path: Path) -> None:
    found = record(0, objective=Objective("score", "min", at="best"))
    create_trial_folder(tmp_path / "t-0", {}, found)
    assert outcome.score(tmp_path / "t-0", found) is None
    for step, value in ((10, 3.0), (20, 1.0), (30, None)):
        append_metrics(tmp_path / "t-0", {"step": step, "evaluate": {"score": value}})
    append_metrics(tmp_path / "t-0", {"step": 30, "evaluate": {"score": 0.5}, "absolute": True})
    assert outcome.score(tmp_path / "t-0", found) == 0.5, "played again"
    assert outcome.quick_score(found) is None
    done = update_record(tmp_path / "t-0", absolute_metrics={"score": 0.5})
    assert outcome.quick_score(done) == 0.5


def test_untrained_networks_do_not_make_the_score(tmp_path: Path) -> None:
    found = record(0, objective=Objective("score", "max", at="best"))
    folder = tmp_path / "t-0"
    create_trial_folder(folder, {}, found)
    append_metrics(folder, {"step": 10, "evaluate": {"score": 9.0}, "untrained": True})
    assert outcome.score(folder, found) is None and outcome.metrics(folder, found) == {}
    assert outcome.seed_scores(folder, found) == []
    for step, value in ((20, 3.0), (30, 1.0)):
        append_metrics(folder, {"step": step, "evaluate": {"score": value}})
    assert outcome.score(folder, found) == 3.0 and outcome.metrics(folder, found) == {"score": 3.0}
    assert outcome.seed_scores(folder, found) == [3.0]
    assert len(outcome.evaluations(folder, found)) == 3


def test_mavas_systems_are_estimated_by_what_they_took() -> None:
    steps = {"rec_qmix": 8 * 262_144}
    guess = estimate(Path("nowhere"), steps, False, 8, 2, "mava")
    assert guess.seconds == pytest.approx(START_S + (8 * 262_144 / 13 + 8 * (186 + TRIAL_S)) / 2)
    assert set(SPEEDS["mava"]) == set(ALGORITHMS) - {"ff_iql", "ff_isac", "ff_masac", "ff_hasac"}


def test_estimates_rest_on_earlier_trials_of_this_machine(tmp_path: Path) -> None:
    guess = estimate(tmp_path, {"ff_mappo": 1_000_000}, False, 4, 2)
    running = (1_000_000 / SPEEDS["native"]["ff_mappo"].steps_per_second + 4 * TRIAL_S) / 2
    assert guess.seconds == pytest.approx(START_S + SPEEDS["native"]["ff_mappo"].compile_s + running)
    assert set(SPEEDS["native"]) == set(ALGORITHMS)
    assert "assumed" in guess.source
    here = current_provenance()["host"]
    for number, (host, device, rate) in enumerate(
        [(here, "cpu:1", 1000.0), (here, "cpu:1", 3000.0), ("elsewhere", "cpu:1", 9.0), (here, "NVIDIA H100", 9.0)]
    ):
        folder = tmp_path / "ff_mappo" / "2026-01-01" / "00-00-00" / f"t-{number}"
        found = record(number, state=State.COMPLETE, host=host, device=device, steps_per_second=rate)
        create_trial_folder(folder, {}, found)
    guess = estimate(tmp_path, {"ff_mappo": 1_000_000}, False, 4, 2)
    assert guess.seconds == pytest.approx(START_S + (1_000_000 / 2000.0 + 4 * TRIAL_S) / 2)
    assert guess.source == "2,000 steps/s per worker, the median of 2 earlier trials here"
