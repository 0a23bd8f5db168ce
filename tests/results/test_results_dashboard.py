"""`python -m results.dashboard` and `python -m results.watch` as their users see them."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import psutil
import pytest
import report_sweep
import synthetic_sweep
from rich.console import Console

from jax_party.errors import RecordError
from jax_party.trial.folder import create_trial_folder
from jax_party.trial.metrics import append_metrics, read_metrics
from results.collector import metrics_lines
from results.collector.ranking import best_score
from results.collector.write import write_index
from results.command import collect_main, show_main
from results.dashboard import main as dashboard_main
from results.live.index_table import IndexWatch, render
from results.tables import load_index
from results.watch import main as watch_main

pytest.importorskip("optuna_dashboard")
pytest.importorskip("tensorboard")
LIMIT_S = 240.0


@contextlib.contextmanager
def dashboard(folder: Path | str, log: Path) -> Iterator[tuple[subprocess.Popen[bytes], dict[str, str]]]:
    """A running dashboard with its addresses; it and what it has started are ended by their process ids."""
    with log.open("wb") as stream:
        process = subprocess.Popen(
            [sys.executable, "-m", "results.dashboard", str(folder)], stdout=stream, stderr=stream
        )
    try:
        deadline = time.monotonic() + LIMIT_S
        while "Ctrl-C" not in log.read_text():
            assert process.poll() is None and time.monotonic() < deadline, log.read_text()
            time.sleep(0.2)
        yield process, dict(re.findall(r"(\w+): +(http\S+)", log.read_text()))
    finally:
        if process.poll() is None:
            children = psutil.Process(process.pid).children()
            process.kill()
            for child in children:
                child.kill()
            process.wait()


def get(url: str) -> object:
    with urllib.request.urlopen(url, timeout=30) as answer:
        return json.load(answer)


def eventually(url: str, expected: Callable[[object], bool]) -> object:
    deadline = time.monotonic() + LIMIT_S
    while not expected(found := get(url)):
        assert time.monotonic() < deadline, found
        time.sleep(0.5)
    return found


@pytest.mark.timeout(600)
def test_both_dashboards_follow_a_sweep_and_end_with_it(sweep: Callable[..., Path], tmp_path: Path) -> None:
    folder = sweep(2)
    with dashboard(folder, tmp_path / "log") as (process, urls):
        assert all(url.startswith("http://127.0.0.1:") for url in urls.values())
        optuna_api = urls["Optuna"].replace("dashboard/", "api/studies/0")
        study = get(optuna_api)
        assert isinstance(study, dict)
        assert [trial["values"] for trial in study["trials"]] == [[3.0], [13.0]]
        runs = eventually(urls["TensorBoard"] + "data/runs", lambda found: len(found) == 2)  # type: ignore[arg-type]
        assert runs == [f"ff_mappo/p-base/000{n}-{synthetic_sweep.record_of(n).trial_id[-8:]}" for n in range(2)]
        record = synthetic_sweep.record_of(2)
        create_trial_folder(folder / record.trial_id, synthetic_sweep.config_of(2), record)
        synthetic_sweep.complete(folder / record.trial_id, 2)
        eventually(optuna_api, lambda found: len(found["trials"]) == 3)  # type: ignore[index]
        children = psutil.Process(process.pid).children()
        assert len(children) == 2
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
        assert not any(child.is_running() and child.status() != psutil.STATUS_ZOMBIE for child in children)
    assert (folder / "optuna.journal").is_file()


@pytest.mark.timeout(600)
def test_all_sweeps_are_shown_by_their_time_and_nothing_is_written_into_them(
    sweep: Callable[..., Path], tmp_path: Path
) -> None:
    made = sweep(1)
    for day in ("2026-01-02", "2026-01-03"):
        shutil.copytree(made, tmp_path / "root" / "ff_mappo" / day / "10-00-00-demo")
    before = sorted(tmp_path.glob("root/**/*"))
    with dashboard(tmp_path / "root", tmp_path / "log") as (process, urls):
        found = get(urls["Optuna"].replace("dashboard/", "api/studies"))
        assert isinstance(found, dict)
        names = [study["study_name"] for study in found["study_summaries"]]
        assert names == [f"2026-01-0{day}_10-00-00-demo ff_mappo p-base" for day in (3, 2)]
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0
    assert sorted(tmp_path.glob("root/**/*")) == before


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: path / "nowhere", "no such folder"),
        (lambda path: path, "no sweeps in it"),
    ],
)
def test_bad_folders_are_one_line(
    make: Callable[[Path], Path], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert dashboard_main([str(make(tmp_path))]) == 2
    assert watch_main([str(make(tmp_path))]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 2
    assert message in lines[0]
    assert lines[1].startswith("error: ")


def test_a_port_in_use_is_one_line(sweep: Callable[..., Path], capsys: pytest.CaptureFixture[str]) -> None:
    before = psutil.Process().children()  # of other tests in this process
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert dashboard_main([str(sweep(1)), "--port", str(port)]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith(f"error: port {port}: cannot be used")
    assert set(psutil.Process().children()) <= set(before)


def test_watch_ends_with_the_sweep(sweep: Callable[..., Path], capsys: pytest.CaptureFixture[str]) -> None:
    folder = sweep(2)
    write_index(folder)
    assert watch_main([str(folder)]) == 0
    out = capsys.readouterr().out
    assert "demo: 2 complete; the index is" in out
    assert out.count("COMPLETE") == 2


def test_watch_reads_the_index_again_when_it_has_changed(sweep: Callable[..., Path]) -> None:
    folder = sweep(1, 2)
    write_index(folder)
    seen = IndexWatch(folder)
    assert (seen.look(), seen.over) == (True, False)
    assert seen.look() is False
    record = synthetic_sweep.record_of(1)
    create_trial_folder(folder / record.trial_id, synthetic_sweep.config_of(1), record)
    synthetic_sweep.complete(folder / record.trial_id, 1)
    write_index(folder)
    assert (seen.look(), seen.over) == (True, True)
    assert seen.age_s < 600.0


def test_watch_shows_the_best_first_and_then_what_runs(sweep: Callable[..., Path]) -> None:
    folder = sweep(4)
    index = (
        load_index(write_index(folder).index)
        .drop(columns="standing")
        .assign(
            state=["COMPLETE", "RUNNING", "COMPLETE", "COMPLETE"],
            **{"objective.value": [1.0, 2.0, 9.0, 5.0], "score": [1.0, 2.0, 9.0, 5.0]},
        )
    )
    console = Console(width=160, record=True, file=io.StringIO())
    console.print(render(index, 12.0, 160, max_rows=3))
    text = console.export_text()
    rows = [line.split()[1] for line in text.splitlines() if line.startswith("│")]
    assert rows == ["2", "1", "3"]
    assert "… 1 more" in text
    assert "3 complete" in text and "12 s old" in text


def test_watch_and_index_go_by_what_the_sweep_goes_by(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:  # fmt: skip
    """The mean over scenarios; a trial that breaks a constraint, or tests a winner, is not the best."""
    folder = report_sweep.make(tmp_path / "s", ["ff_ippo", "ff_mappo"], configurations=2, scenario_mode="mean")
    report_sweep.rewrite(folder, 6, [97.0, 98.0, 99.0])  # with 240 in p-no-rank, where trial 3 has 260
    index = load_index(write_index(folder).index)
    console = Console(width=160, record=True, file=io.StringIO())
    console.print(render(index, 12.0, 160, max_rows=2))
    heading, *rows = [line for line in console.export_text().splitlines() if line.startswith(("┃", "│"))]
    assert "over scenarios" in heading and rows[0].split()[1] == "6" and " 169 " in rows[0]
    infeasible = index.drop(columns="standing").assign(
        **{"objective.feasible": [number not in (6, 7) for number in index["number"]]}
    )
    console.print(render(infeasible, 12.0, 160, max_rows=1))
    row = [line for line in console.export_text().splitlines() if line.startswith("│")][-1]
    assert row.split()[1] == "2" and " 143 " in row and " yes " in row  # 26 and 260
    narrow = Console(width=80, record=True, file=io.StringIO())
    narrow.print(render(index.assign(steps_per_second=16_460.0), 12.0, 80, max_rows=2))
    assert "…" not in narrow.export_text().replace("… 6 more", "")
    assert best_score(index) == 169.0 and best_score(index.assign(**{"objective.feasible": False})) is None
    assert show_main([str(folder), "--top", "1"]) == 0
    text = capsys.readouterr().out
    test = report_sweep.record_of(100, "ff_mappo", "p-base", 1, 2, promoted_from="demo-00000006", seed=1000)
    report_sweep.write_trial(folder, test, [1.0, 2.0])
    other = dataclasses.replace(test, trial_id="demo-00000065", scenario="p-no-rank", promoted_from="demo-00000007")
    report_sweep.write_trial(folder, other, [500.0, 600.0])
    write_index(folder)
    assert show_main([str(folder), "--top", "2", "--promoted"]) == 0
    assert "demo-00000064" in capsys.readouterr().out, "a mean of 275.75"
    assert "by score (max; final)" in text and "algorithm" in text and "ff_mappo" in text


def test_an_empty_index_is_one_line(sweep: Callable[..., Path]) -> None:
    folder = sweep(1)
    index = load_index(write_index(folder).index)
    pd.DataFrame(index).head(0).to_parquet(folder / "index.parquet", index=False)
    with pytest.raises(RecordError, match="no trials in the index"):
        IndexWatch(folder).look()


def test_collecting_writes_the_journal(sweep: Callable[..., Path], capfd: pytest.CaptureFixture[str]) -> None:
    folder = sweep(1)
    assert collect_main([str(folder)]) == 0
    assert (folder / "optuna.journal").is_file()
    (folder / "optuna.journal").write_text("no journal\n{}\n")
    capfd.readouterr()
    assert collect_main([str(folder)]) == 0  # the tables are there all the same
    assert "delete it" in capfd.readouterr().err


def test_what_dashboards_read_is_what_records_read(sweep: Callable[..., Path]) -> None:
    folder = sweep(1)
    (trial,) = (path.parent for path in folder.glob("*/record.json"))
    for line in (
        {"step": 400, "seed": 7, "evaluation": 4, "wall_time_s": 1.5, "evaluate": {"a": 1.0, "by": [1.0, None]},
         "train": {"loss": None}, "episodes": {"a": [1.0] * 9}, "absolute": True},
        {"step": 500, "evaluate": {"a": 2}},
    ):  # fmt: skip
        append_metrics(trial, line)

    def shown(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        names = ("step", "seed", "evaluation", "wall_time_s", "evaluate", "train")
        return [{name: row.get(name) for name in names} | {"absolute": bool(row.get("absolute"))} for row in rows]

    found = metrics_lines.read_with_training(trial)
    assert shown(found) == shown(read_metrics(trial)) and len(found) == 6
    assert "seed" not in found[-1] and not any("episodes" in row for row in found)
    with (trial / "metrics" / "metrics.jsonl").open("a") as file:
        file.write('{"step": 600, "evaluate": {"a": NaN}}\n{"step": 700, "eval')
    assert [row["step"] for row in metrics_lines.read_with_training(trial)[-2:]] == [500, 600]
    with (trial / "metrics" / "metrics.jsonl").open("a") as file:
        file.write("\n")
    with pytest.raises(RecordError, match=r"metrics\.jsonl: line 8: not JSON"):
        metrics_lines.read_with_training(trial)
