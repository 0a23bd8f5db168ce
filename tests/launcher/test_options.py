"""The command line: KEY=VALUE words, and one line and exit code 2 for everything that cannot be."""

from __future__ import annotations

import dataclasses
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from jax_party.errors import SweepError
from launcher import sweep
from launcher.ask import tables
from launcher.ask.choices import Sampler, Scheduler, Search
from launcher.ask.options import OPTIONS, VERBS, options_of
from launcher.ask.parsing import parse_resume_options, parse_sweep_options
from launcher.ask.requested import ExtendOptions, PromoteOptions, RerunOptions, ResumeOptions, SweepOptions
from sweeps.space import ScenarioMode

GRID = "{type: grid, values: [1.0e-4, 1.0e-3]}"
FILE = """
algorithms: [ff_mappo]
num_samples: 2
objective: {{metric: episode_return, mode: max}}
scenarios: [p-base]
budget: {{total_timesteps: 8192, num_evaluation: 2}}
space: {space}
"""


def test_make_variables() -> None:
    words = ["ALG=mappo", "SAMPLES=16", "SCENARIO=p-base,p-no-rank", "TIMESTEPS=1e6", "EVALUATIONS=4", "SEED=3",
             "SEARCH=optuna", "SCHEDULER=asha", "WORKERS=2", "NAME=first", "SPACE=my.yaml", "METRIC=equality",
             "MODE=min", "SAMPLER=gp", "SCENARIO_MODE=mean", "FROM=a,b", "CONSTRAINTS=min_equality=0.2",
             "OUT=/tmp/out", "OVERRIDES=arch.num_envs=64 network=mlp", "DRY_RUN=1"]  # fmt: skip
    assert parse_sweep_options(words) == SweepOptions(
        algorithms=("mappo",), samples=16, scenarios=("p-base", "p-no-rank"), timesteps=1_000_000, evaluations=4,
        seed=3,
        search=Search.OPTUNA, scheduler=Scheduler.ASHA, workers=2, name="first", space=Path("my.yaml"),
        metric=("equality",), mode=("min",), sampler=Sampler.GP, scenario_mode=ScenarioMode.MEAN,
        warm_start=("a", "b"), constraints={"min_equality": "0.2"}, out=Path("/tmp/out"),
        overrides=("arch.num_envs=64", "network=mlp"),
        dry_run=True,
    )  # fmt: skip


def test_empty_values_mean_the_default() -> None:
    words = ["ALG=mappo", *(f"{one.name}=" for one in options_of("sweep") if one.name != "ALG")]
    assert parse_sweep_options(words) == SweepOptions(("mappo",))


@pytest.mark.parametrize(("content", "message"), [(None, "cannot be read (No such file"), ("\n", "is empty; write a")])
def test_a_token_that_is_not_there_is_refused_before_anything_is_made(
    content: str | None,
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    token = tmp_path / "token"
    if content is not None:
        token.write_text(content)
    monkeypatch.delenv("RAY_AUTH_TOKEN", raising=False)
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(token))
    line = refused(["ALG=mappo", f"OUT={tmp_path / 'out'}"], capsys)
    assert line.startswith(f"SweepError: RAY_AUTH_TOKEN_PATH={token}: {message}")
    assert not (tmp_path / "out").exists()


def test_ray_that_cannot_be_started_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def start_ray(*given: object) -> None:
        raise RuntimeError("no port is free\nthat was all")

    monkeypatch.setattr("launcher.drive.run.start_ray", start_ray)
    assert sweep.main(["ALG=mappo", "SAMPLES=1", f"OUT={tmp_path}", "PACK=2"]) == 2
    (folder,) = tmp_path.glob("*/*/*")
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"SweepError: {folder}: Ray cannot be started (no port is free that was all); mend that")


def test_resume_words(tmp_path: Path) -> None:
    options = parse_resume_options([str(tmp_path), "WORKERS=2", "RETRY_FAILED=1"])
    assert (options.folder, options.workers, options.retry_failed) == (tmp_path, 2, True)
    with pytest.raises(SweepError, match="expected one sweep folder, got 0"):
        parse_resume_options(["WORKERS=2"])


def refused(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    assert sweep.main(words) == 2
    captured = capsys.readouterr()
    (line,) = captured.err.splitlines()
    assert captured.out == ""
    return line


MANY = "p-base,p-no-rank,p-rank-1,p-payoff-rank,p-memory,p-5,p-10,p-stag-hunt,p-chicken,p-noisy,p-short"
BAD = [
    (["SAMPLES=4"], "SweepError: ALG: which algorithm?"),
    (["ALG="], "SweepError: ALG: which algorithm?"),
    (["ALG=mapo"], "ConfigError: ALG=mapo: unknown system; choose one of ff_hasac (hasac), ff_ippo (ippo), "),
    (["ALG=mappo", "SAMPLE=4"], "SweepError: SAMPLE: unknown option; did you mean SAMPLES?"),
    (["ALG=mappo", "samples=4"], "SweepError: samples: unknown option; did you mean SAMPLES?"),
    (["ALG=mappo", "fast"], "SweepError: fast: expected KEY=VALUE"),
    (["ALG=mappo", "SAMPLES=0"], "SweepError: SAMPLES: expected a whole number from 1, got '0'"),
    (["ALG=mappo", "SAMPLES=-1"], "SweepError: SAMPLES: expected a whole number from 1, got '-1'"),
    (["ALG=mappo", "SAMPLES=abc"], "SweepError: SAMPLES: expected a whole number from 1, got 'abc'"),
    (["ALG=mappo", "TIMESTEPS=0"], "SweepError: TIMESTEPS: expected a whole number from 1, got '0'"),
    (["ALG=mappo", "TIMESTEPS=1.5"], "SweepError: TIMESTEPS: expected a whole number from 1, got '1.5'"),
    (["ALG=mappo", "EVALUATIONS=nan"], "SweepError: EVALUATIONS: expected a whole number from 1, got 'nan'"),
    (["ALG=mappo", "WORKERS=0"], "SweepError: WORKERS: expected a whole number from 1, got '0'"),
    (["ALG=mappo", "SEED=-1"], "SweepError: SEED: expected a whole number from 0 to 999999999, got '-1'"),
    (["ALG=mappo", "SEED=abc"], "SweepError: SEED: expected a whole number from 0"),
    (["ALG=mappo", "SEARCH=optunna"], "SweepError: SEARCH: unknown 'optunna'; did you mean optuna?"),
    (["ALG=mappo", "SCHEDULER=pbtt"], "SweepError: SCHEDULER: unknown 'pbtt'; did you mean pbt?"),
    (["ALG=mappo", "MODE=up"], "SweepError: MODE: expected max or min, got 'up'"),
    (["ALG=mappo", "DRY_RUN=yes"], "SweepError: DRY_RUN: expected 0 or 1, got 'yes'"),
    (["ALG=mappo", "NAME=a/b"], "SweepError: NAME: expected up to 64 letters"),
    (["ALG=mappo", "SCENARIO=p-base,p-base"], "SweepError: SCENARIO: expected different names by commas"),
    (["ALG=mappo", "SCENARIO=p-bas"], "ConfigError: env/scenario=p-bas: unknown option; did you mean p-base?"),
    (["ALG=mappo", "SCENARIO=tiny-2ag"], "ConfigError: SCENARIO=tiny-2ag: is no scenario of env=jaxparty"),
    (["ALG=mappo", "SPACE=/nothing.yaml"], "SweepError: /nothing.yaml: cannot read the sweep file"),
    (["ALG=mappo", "OUT=/proc/nowhere"], "SweepError: OUT: /proc/nowhere: cannot make a folder there"),
    (["ALG=mappo", "OUT=/dev/null"], "SweepError: OUT: /dev/null: cannot make a folder there"),
    (["ALG=mappo", "OUT=/dev/null/x", "DRY_RUN=1"], "SweepError: /dev/null/x: cannot make a folder there, in"),
    (["ALG=mappo", "OUT=s3://bucket/x"], "SweepError: OUT: expected a folder of this machine, got 's3://bucket/x'"),
    (["ALG=mappo", "OUT=a", "STORAGE=b"], "SweepError: OUT=a: STORAGE says where sweep folders go; leave one"),
    (["ALG=mappo", "STORAGE=gs://bucket"], "SweepError: STORAGE: gs://bucket: expected a path or s3://bucket/prefix"),
    (["ALG=mappo", "STORAGE=/dev/null"], "SweepError: STORAGE: /dev/null: cannot make a folder there"),
    (["ALG=mappo", "STORAGE_ENDPOINT=10.0.0.5:9000"], "SweepError: STORAGE_ENDPOINT: expected http://host:port or"),
    (
        ["ALG=mappo", "STORAGE_ENDPOINT=http://me:word@host"],
        "SweepError: STORAGE_ENDPOINT: expected http://host:port or https://host, got 'http://…@host'",
    ),
    (["ALG=mappo", "ADDRESS=head"], "SweepError: ADDRESS: expected auto, host:port or ray://host:port, got 'head'"),
    (["ALG=mappo", "ADDRESS=head:99999"], "SweepError: ADDRESS: expected auto, host:port or ray://host:port"),
    (["ALG=mappo", "ADDRESS=http://head:6379"], "SweepError: ADDRESS: expected auto, host:port or ray://host:port"),
    (["resume", "/tmp", "ADDRESS=head"], "SweepError: ADDRESS: expected auto, host:port or ray://host:port"),
    (["resume", "gs://bucket/x"], "SweepError: resume: gs://bucket/x: expected a path or s3://bucket/prefix"),
    (["rerun", "t", "OUT=s3://bucket"], "SweepError: OUT: expected a folder of this machine"),
    (["ALG=mappo", "OVERRIDES=system.actor_lrr=1"], "ConfigError: system.actor_lrr: unknown; did you mean actor_lr?"),
    (["ALG=mappo", "OVERRIDES=arch.num_envs=many"], "ConfigError: arch.num_envs"),
    (["ALG=mappo", "OVERRIDES=arch.num_envs=[1"], "SweepError: OVERRIDES: arch.num_envs=[1: the value is neither"),
    (["ALG=mappo", "OVERRIDES=a='b"], "SweepError: OVERRIDES: no closing quotation"),
    (["ALG=mappo", "OVERRIDES=arch.num_envs"], "SweepError: OVERRIDES: arch.num_envs: expected key=value"),
    (["ALG=mappo", "OVERRIDES=+preset=maba"], "ConfigError: +preset=maba: unknown preset; did you mean mava?"),
    (["ALG=mappo", "OVERRIDES=preset=mava"], "ConfigError: preset=mava: a preset is added to a config; write +preset="),
    (["ALG=idqn", "OVERRIDES=+preset=mava"], "ConfigError: +preset=mava: the preset has no ff_iql; leave it out, or"),
    (["ALG=mappo", "OVERRIDES=env/scenario=p-base"], "SweepError: OVERRIDES: env/scenario=p-base: give scenarios as"),
    (["ALG=mappo", "OVERRIDES=system.seed=3"], "SweepError: system.seed: give the seed as SEED=3"),
    (["ALG=mappo", "SEARCH=grid"], "SweepError: sweeps/ppo.yaml: SEARCH=grid needs every axis to be a grid"),
    (["resume", "/nothing/here"], "SweepError: /nothing/here: no sweep's folder (sweep.yaml is missing)"),
    (["resume"], "SweepError: resume: expected one sweep folder, got 0"),
    (["resume", "/tmp", "SAMPLES=3"], "SweepError: SAMPLES: unknown option"),
    (["ALG=mappo", "SAMPLES=1e7"], "SweepError: SAMPLES: expected a whole number of at most 100,000, got '1e7'"),
    (
        ["ALG=mappo", "SAMPLES=1e5", f"SCENARIO={MANY}"],
        "SweepError: SAMPLES=100000: would make 1,100,000 trials; a sweep has at most 1,000,000",
    ),
    (["ALG=mappo", "SEEDS=1e30"], "SweepError: SEEDS: expected a whole number of at most 10,000, got '1e30'"),
    (["ALG=mappo", "TIMESTEPS=1e30"], "SweepError: TIMESTEPS: expected a whole number of at most 1,000,000,000,000,"),
    (["ALG=mappo", "WORKERS=1e300"], "SweepError: WORKERS: expected a whole number of at most 10,000, got '1e300'"),
    (["ALG=mappo", "GPUS_PER_TRIAL=1e-9"], "SweepError: GPUS_PER_TRIAL: expected a share of at least 0.01, got"),
    (["ALG=mappo", "PERIOD_TIMEOUT=200000d"], "SweepError: PERIOD_TIMEOUT: expected at most 30d, or none, got"),
    (["ALG=mappo", "BUDGET=steps=1e999"], "SweepError: BUDGET: steps: expected at most 1e18, got '1e999'"),
    (["ALG=mappo", "BUDGET=trials=1e999"], "SweepError: BUDGET: trials: expected at most 1e9, got '1e999'"),
    (["ALG=mappo", "BUDGET=time=1e999h"], "SweepError: BUDGET: time: expected at most 36500d, got '1e999h'"),
    (
        ["ALG=mappo", "TIMESTEPS=1e5", "OVERRIDES=system.total_timesteps=5"],
        "SweepError: TIMESTEPS=100000: OVERRIDES says system.total_timesteps=5; leave one of them out",
    ),
    (
        ["ALG=mappo", "EVALUATIONS=2", "OVERRIDES=arch.num_evaluation=5"],
        "SweepError: EVALUATIONS=2: OVERRIDES says arch.num_evaluation=5; leave one of them out",
    ),
    (
        ["ALG=mappo", "CONSTRAINTS=max_cooperation_rate=0.1,min_cooperation_rate=0.9"],
        "SweepError: CONSTRAINTS: min_cooperation_rate=0.9: no trial has more than that and less than max_cooperation",
    ),
    (
        ["ALG=mappo", "SEARCH=optuna", "FROM=gs://bucket/x"],
        "SweepError: FROM=gs://bucket/x: gs://bucket/x: expected a path or s3://bucket/prefix",
    ),
    (["resume", "/tmp", "WORKERS=0"], "SweepError: WORKERS: expected a whole number from 1, got '0'"),
]


@pytest.mark.parametrize(("words", "message"), BAD, ids=[" ".join(words) for words, _ in BAD])
def test_bad_input_is_one_line(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert refused(words, capsys).startswith(message)


@pytest.mark.parametrize(
    ("space", "words", "message"),
    [
        ("{}", [], "space: is empty"),
        (f"{{system.actor_lr: {GRID}}}", ["SEARCH=optuna"], "system.actor_lr: SEARCH=optuna has no grid"),
        (f"{{system.actor_lr: {GRID}}}", ["OVERRIDES=system.actor_lr=0.1"], "space: is empty once OVERRIDES fixes"),
        (f"{{system.actor_lrr: {GRID}}}", [], "system.actor_lrr: unknown key; did you mean system.actor_lr?"),
        ("{system.actor_lr: {type: choice, values: [fast]}}", [], "system.actor_lr: 'fast' is not valid"),
        ("{system.gamma: {type: uniform, low: 0.5, high: 1.5}}", [], "system.gamma: 1.5 is not valid"),
        ("{system.ppo_epochs: {type: uniform, low: 1, high: 2.5}}", [], "system.ppo_epochs: 2.5 is not valid"),
    ],
)
def test_bad_spaces(
    space: str, words: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(FILE.format(space=space))
    line = refused(["ALG=mappo", f"SPACE={path}", f"OUT={tmp_path}", *words], capsys)
    assert line.startswith(f"SweepError: {path}: {message}")
    assert list(tmp_path.iterdir()) == [path], "nothing is made before everything is checked"


def test_other_algorithm_than_the_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(FILE.format(space=f"{{system.actor_lr: {GRID}}}"))
    line = refused(["ALG=ippo", f"SPACE={path}"], capsys)
    assert line == f"SweepError: {path}: algorithms: ff_ippo is not among ff_mappo"


def test_grid_takes_no_samples(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(FILE.format(space=f"{{system.actor_lr: {GRID}}}"))
    line = refused(["ALG=mappo", f"SPACE={path}", "SEARCH=grid", "SAMPLES=3"], capsys)
    assert line == "SweepError: SAMPLES: SEARCH=grid runs every point of the grid once; leave SAMPLES out"


def test_help_and_algorithms(capsys: pytest.CaptureFixture[str]) -> None:
    assert sweep.main(["--help"]) == 0
    text = capsys.readouterr().out
    assert all(f"  {option.name} " in text for option in OPTIONS)
    assert sweep.main(["list-algorithms"]) == 0
    assert {"ff_ippo (ippo)", "ff_mappo (mappo)"} <= set(capsys.readouterr().out.splitlines())


def test_the_docs_and_make_help_are_written_from_the_options() -> None:
    for file, content in tables.written().items():
        assert file.read_text(encoding="utf-8") == content, f"{file}: run python -m launcher.ask.tables"


@pytest.mark.parametrize(
    ("verb", "kinds"),
    [("sweep", [SweepOptions]), ("resume", [ResumeOptions]), ("extend", [ResumeOptions, ExtendOptions]),
     ("promote", [PromoteOptions]), ("rerun", [RerunOptions])],
)  # fmt: skip
def test_every_field_is_filled_by_an_option(verb: str, kinds: list[Any]) -> None:
    fields = {item.name: item.default for kind in kinds for item in dataclasses.fields(kind)}
    filled = {option.fills for option in options_of(verb) if option.fills}
    assert filled <= set(fields)
    assert set(fields) - filled <= {"folder", "trial", "resume", "retry_failed"}
    assert "retry_failed" in filled or verb != "resume"
    for option in options_of(verb):
        if re.fullmatch(r"`\w+`|\d+", said := option.default_of(verb)) and option.fills:
            default = fields[option.fills]
            assert default in (None, dataclasses.MISSING) or str(
                int(default) if isinstance(default, bool) else default
            ) == said.strip("`")


def test_a_verb_takes_only_its_own_options(capsys: pytest.CaptureFixture[str]) -> None:
    for verb in set(VERBS) - {"sweep", "claim"}:
        others = {option.name for option in OPTIONS} - {option.name for option in options_of(verb)}
        for name in sorted(others):
            assert refused([verb, "a-folder", f"{name}=1"], capsys).startswith(f"SweepError: {name}: unknown option")


def test_dry_run_leaves_nothing_and_the_driver_never_imports_jax(tmp_path: Path) -> None:
    code = (
        "import sys; from launcher.sweep import main; import launcher.drive.run; "
        "import launcher.work.trainable, launcher.drive.trial_events; "
        f"rc = main(['ALG=mappo', 'SAMPLES=3', 'SCENARIO=p-base,p-no-rank', 'DRY_RUN=1', 'OUT={tmp_path}/out']); "
        "print('rc', rc, 'jax' in sys.modules, 'results' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60, env={**os.environ}
    )
    lines = done.stdout.splitlines()
    assert lines[-1] == "rc 0 False False"
    assert "6 = 3 configurations × 2 scenarios (p-base, p-no-rank)" in done.stdout
    assert sum(line.strip().startswith(tuple("012345")) for line in lines[1:-1]) == 6
    assert list(tmp_path.iterdir()) == []
