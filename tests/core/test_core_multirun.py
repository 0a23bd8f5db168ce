"""`python -m jax_party.run -m`: several runs in the layout of a sweep."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

import results
from jax_party.cli.multirun import CommandLine, Plan
from jax_party.errors import ConfigError, JaxPartyError
from jax_party.trial.folder import read_record
from jax_party.trial.manifest import read_manifest

ROOT = Path(__file__).parents[2]


def _call(*words: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"COLUMNS": "200", "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, "-m", "jax_party.run", *words], cwd=cwd, env=environment, capture_output=True, text=True,
        timeout=300,
    )  # fmt: skip


def test_seeds_of_two_systems_are_one_sweep(tiny_overrides: Callable[[str], tuple[str, ...]], tmp_path: Path) -> None:
    shorter = [word for word in tiny_overrides("ff_ippo") if not word.startswith(("arch.num_eval", "system.total"))]
    place = tmp_path / "it's, (here)"
    place.mkdir()
    done = _call(
        "-m", "hydra/launcher=basic", "--config-name", "ff_ippo,ff_mappo", *shorter, "system.seed=3,4",
        "arch.num_evaluation=1", "arch.num_eval_episodes=4", "system.total_timesteps=64", "arch.absolute_metric=false",
        "logger.run_name=look", cwd=place,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    (folder,) = place.glob("experiment_results/ff_ippo-ff_mappo/*/*-look")
    manifest = read_manifest(folder)
    assert (manifest.num_trials, manifest.algorithms) == (4, ("ff_ippo", "ff_mappo"))
    assert manifest.space == {"system.seed": {"type": "grid", "values": [3, 4]}}
    assert manifest.overrides is not None and manifest.overrides["system.total_timesteps"] == 64
    assert "system.seed=3,4" in manifest.provenance["command"]

    results.write_index(folder)
    index = results.load_index(folder)
    assert index["algorithm"].tolist() == ["ff_ippo", "ff_ippo", "ff_mappo", "ff_mappo"]
    assert index["system.seed"].tolist() == index["seed"].tolist() == [3, 4, 3, 4]
    assert index["number"].tolist() == [0, 1, 2, 3]
    assert set(index["state"]) == {"COMPLETE"} and set(index["sweep"]) == {manifest.name}
    assert index["env_steps"].tolist() == [64] * 4
    assert index["compile_cache"].tolist()[1::2] == ["process", "process"]
    for row in index.to_dict("records"):
        assert row["trial_id"].startswith(f"{manifest.name}-")
        assert row["vault.train.uid"] == row["trial_id"] and (folder / row["vault.train.path"]).is_dir()
    names = {path.name for path in folder.iterdir()}
    assert names == {
        *index["trial_id"],
        "hydra",
        "sweep.yaml",
        "index.parquet",
        "index.csv",
        "evaluations.parquet",
        ".index",
    }
    assert done.stdout == done.stderr == ""  # logger.use_console=false


def test_a_run_that_fails_leaves_the_others_alone(
    tiny_overrides: Callable[[str], tuple[str, ...]], tmp_path: Path
) -> None:
    words = ("--config-name=ff_ippo", *tiny_overrides("ff_ippo"), f"logger.base_exp_path={tmp_path}")
    done = _call("-m", *words, "system.actor_lr=1e30,1e-3")
    assert done.returncode == 0
    (folder,) = tmp_path.glob("ff_ippo/*/*")
    results.write_index(folder)
    index = results.load_index(folder).set_index("system.actor_lr")
    assert index.loc[1e30, "state"] == "FAILED" and "TrainingDiverged" in index.loc[1e30, "error"]
    assert index.loc[1e-3, "state"] == "COMPLETE"
    assert len(done.stderr.strip().splitlines()) == 1 and "TrainingDiverged" in done.stderr

    failed = _call("-m", *words, "system.actor_lr=1e30", "logger.run_name=all")
    assert failed.returncode == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--config-name", "ff_ippo,mat"], "--config-name ff_ippo,mat: several configs are several runs; add -m"),
        (["-m", "--config-name=mat,mat"], "--config-name mat,mat: mat is listed twice"),
        (["-m", "--config-name=mat,"], "--config-name mat,: a name is empty"),
        (["-m", "--config-name=mat,ff_mapo"], "--config-name ff_mapo: unknown; did you mean ff_mappo?"),
        (["-m", "system.seed=1,2", "system.actor_lrr=1"], "system.actor_lrr: unknown; did you mean actor_lr?"),
        (
            ["-m", "system.seed=1,1000000000"],
            "system.seed: 1000000000: seeds from 1,000,000,000 on are kept for testing",
        ),
        (["-m", "arch.num_envs=4,-4"], "arch.num_envs: -4"),
        (["-m", "env/scenario=p-short,p-shrt"], "env/scenario=p-shrt: unknown option; did you mean p-short?"),
        (["-m", "logger.run_name=a,b"], "logger.run_name: a, b: runs of one command line lie in one folder"),
        (["-m", "--config-dir=elsewhere"], "--config-dir, --config-path: runs of -m are planned from mava_configs"),
        (["-m", "logger.base_exp_path=/proc/nowhere"], "logger.base_exp_path: /proc/nowhere"),
    ],
    ids=lambda value: " ".join(value)[:30] if isinstance(value, list) else "",
)
def test_a_bad_command_line_gets_one_line(words: list[str], message: str, tmp_path: Path) -> None:
    done = _call(*words, cwd=tmp_path)
    assert done.returncode == 2, done.stdout + done.stderr
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1 and message in lines[0], done.stderr
    assert list(tmp_path.iterdir()) == []


def test_overrides_may_stand_anywhere() -> None:
    words = ["-m", "hydra/launcher=ray", "--config-name", "ff_ippo,mat", "system.seed=1,2,3"]
    asked = CommandLine.read(words, "ff_mappo")
    assert asked.config_names == ("ff_ippo", "mat") and asked.several and asked.runs
    assert asked.options == ("-m", "--config-name", "ff_ippo,mat")
    assert asked.overrides == ("hydra/launcher=ray", "system.seed=1,2,3")
    assert asked.for_config("mat", "x=1") == [
        "--config-name=mat", "-m", "hydra/launcher=ray", "system.seed=1,2,3", "x=1",
    ]  # fmt: skip
    assert not CommandLine.read(["-m", "--cfg", "job"], "mat").runs
    assert CommandLine.read([], "mat").config_names == ("mat",)


def test_a_plan_has_every_combination(tmp_path: Path) -> None:
    words = ["-m", "system.seed=range(0,2)", "env/scenario=p-base,p-short", "arch.num_envs=8", "hydra/launcher=ray"]
    plan = Plan.make(CommandLine.read([*words, f"logger.base_exp_path={tmp_path}"], "ff_ippo"))
    drawn = [(job.outline.seed, job.outline.scenario) for job in plan.jobs]
    assert drawn == [(0, "p-base"), (0, "p-short"), (1, "p-base"), (1, "p-short")]
    assert plan.jobs[1].hyperparameters == {"system.seed": 0, "env/scenario": "p-short"}
    assert plan.overrides == {"arch.num_envs": 8, "logger.base_exp_path": str(tmp_path)}
    name, folder = plan.write()
    assert yaml.safe_load((folder / "sweep.yaml").read_text())["num_trials"] == 4
    found = [read_record(path.parent) for path in folder.glob("*/record.json")]
    assert {record.state for record in found} == {"PENDING"} and len(found) == 4
    assert {record.sweep for record in found} == {name}


def test_a_searching_sweeper_is_refused() -> None:
    with pytest.raises(ConfigError, match="hydra/sweeper=optuna: runs are planned before"):
        Plan.make(CommandLine.read(["-m", "hydra/sweeper=optuna"], "ff_ippo"))
    with pytest.raises(JaxPartyError):
        CommandLine.read(["--config-name=,"], "ff_ippo")
