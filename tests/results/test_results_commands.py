"""Bad words on the command lines of `results` and of `make`: one line each, with the names that the reader has used."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from jax_party import episode
from results import command as show
from results import dashboard, fetch, watch
from results.analysis import diff, power, sensitivity
from results.report.write import main as report_main
from results.vaults.__main__ import main as vaults_main

ROOT = Path(__file__).parents[2]
Main = Callable[[Sequence[str]], int]

CASES: tuple[tuple[Main, list[str], str], ...] = (
    (show.show_main, ["x", "--top", "abc"], "TOP (--top): expected a whole number of 1 or more, got 'abc'"),
    (show.show_main, ["x", "--top=0"], "TOP (--top): expected a whole number of 1 or more, got '0'"),
    (show.show_main, ["x", "--mode", "up"], "MODE (--mode): invalid choice: 'up' (choose from"),
    (show.show_main, [], "SWEEP (folder): not given, but python -m results.index needs it; add SWEEP=…"),
    (show.show_main, ["x", "--fly"], "--fly: unknown; python -m results.index --help lists what there is"),
    (show.collect_main, [], "SWEEP (folder): not given, but python -m results.collect needs it; add SWEEP=…"),
    (vaults_main, ["fly", "x"], "DO (command): invalid choice: 'fly' (choose from"),
    (vaults_main, ["merge", "x"], "TO (--to): not given, but python -m results.vaults merge needs it; add TO=…"),
    (vaults_main, ["find", "x", "--kind=all"], "KIND (--kind): invalid choice: 'all' (choose from"),
    (vaults_main, ["thin", "x", "--to=y", "--best=x"], "--best: expected a whole number of 1 or more, got 'x'"),
    (dashboard.main, ["--port", "abc"], "PORT (--port): expected a whole number from 1 to 65534, got 'abc'"),
    (dashboard.main, ["--port=65535"], "PORT (--port): expected a whole number from 1 to 65534, got '65535'"),
    (episode.main, ["x", "--steps", "x"], "STEPS (--steps): expected a whole number of 1 or more, got 'x'"),
    (episode.main, ["x", "--seed", "y"], "SEED (--seed): expected a whole number from 0 to 999999999, got 'y'"),
    (diff.main, ["x"], "B (b): not given, but python -m results.diff needs it; add B=…"),
    (fetch.main, [], "TRIAL (trial): not given, but python -m results.fetch needs it; add TRIAL=…"),
    (report_main, [], "SWEEP (folder): not given, but python -m results.report needs it; add SWEEP=…"),
    (sensitivity.main, [], "SWEEP (folder): not given, but python -m results.sensitivity needs it; add SWEEP=…"),
    (power.main, [], "SWEEP (folder): not given, but python -m results.power needs it; add SWEEP=…"),
    (watch.main, [], "SWEEP (folder): not given, but python -m results.watch needs it; add SWEEP=…"),
)


@pytest.mark.parametrize(("main", "words", "message"), CASES)
def test_bad_words_are_one_line(main: Main, words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as refused:
        main(words)
    captured = capsys.readouterr()
    assert refused.value.code == 2
    assert captured.out == "" and captured.err.count("\n") == 1
    assert captured.err.startswith(f"error: {message}")


@pytest.mark.parametrize("main", [watch.main, show.show_main, report_main, sensitivity.main])
def test_where_there_is_nothing_to_collect_nobody_is_sent_to_collect(
    main: Main, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert show.collect_main([str(tmp_path)]) == 2
    said = capsys.readouterr().err
    assert "no trials in it" in said
    assert main([str(tmp_path)]) == 2
    assert capsys.readouterr().err == said


@pytest.fixture
def made(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """`made("index", "TOP=abc")` runs `make` with an environment that is set up already, whose Python is this one."""
    if shutil.which("make") is None:
        pytest.skip("no make on this machine (Debian: apt-get install make)")
    programs = tmp_path / "venv" / "bin"
    programs.mkdir(parents=True)
    for name, line in (("uv", "exit 1"), ("python", f'exec "{sys.executable}" "$@"')):
        (programs / name).write_text(f"#!/bin/sh\n{line}\n")
        (programs / name).chmod(0o755)
    for stamp in (".stamp-run", ".stamp-rundashboard", ".stamp-dev"):
        (programs.parent / stamp).touch()

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        known = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}
        command = ["make", *words, f"VENV={programs.parent}"]
        return subprocess.run(command, cwd=ROOT, env=known, capture_output=True, text=True, timeout=120, check=False)

    return run


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("index", "SWEEP=x", "TOP=-x"), "error: TOP (--top): expected a whole number of 1 or more, got '-x'"),
        (("vaults", "SWEEP=x", "DO=merge"), "error: TO (--to): not given, but"),
        (
            ("claim", "SWEEP_ARGS=ALG=mappo,ippo SCENARIO=p-short", "CLAIM=mappo > sable on equality in p-short"),
            "SweepError: CLAIM: mappo > sable on equality in p-short: sable: is no algorithm of the sweep",
        ),
        (("verdict",), "SWEEP: name the sweep folder: make verdict SWEEP=experiment_results/…"),
        (("diff", "A=nothing", "B=x"), "error: A=nothing: no such trial or sweep, nor a trial of that id under"),
        (("dashboard", "PORT=abc"), "error: PORT (--port): expected a whole number"),
    ],
)
def test_make_says_the_same_and_no_more(
    words: tuple[str, ...], message: str, made: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    done = made(*words)
    said, ended = done.stderr.splitlines()
    assert said.startswith(message) and ended.startswith("make: ***")
    assert (done.returncode, done.stdout) == (2, "")


@pytest.mark.parametrize("words", [("setup",), ("setup", "EXTRA=dashboard"), ("setup-dev",)])
def test_what_is_set_up_already_says_nothing(
    words: tuple[str, ...], made: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    done = made(*words)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
