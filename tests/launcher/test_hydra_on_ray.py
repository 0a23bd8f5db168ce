"""`python -m jax_party.run -m hydra/launcher=ray`: Hydra's jobs on a Ray of their own, in the layout of a sweep."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
from omegaconf import OmegaConf

import results
from jax_party.trial.folder import read_record
from jax_party.trial.manifest import read_manifest
from launcher import hydra_ray
from mava_configs import compose
from tests.launcher.drivers import ROOT, Driver, sweep_folder

TINY = (
    "arch.num_envs=4", "arch.num_eval_episodes=4", "arch.absolute_metric=false", "arch.gradient_chunk_size=null",
    "env/scenario=p-short", "env.scenario.task_config.time_limit=24", "system.rollout_length=16",
    "system.ppo_epochs=2", "system.num_minibatches=2", "network.actor_network.pre_torso.layer_sizes=[16,16]",
    "network.critic_network.pre_torso.layer_sizes=[16,16]",
)  # fmt: skip


def _start(out: Path, *words: str) -> Driver:
    log = out / "log.txt"
    environment = os.environ | {"PYTHONPATH": str(ROOT), "RAY_AUTH_MODE": "disabled"}  # a sweep's Ray asks all the same
    with log.open("w") as stream:
        process = subprocess.Popen(
            [sys.executable, "-m", "jax_party.run", "-m", "hydra/launcher=ray", "--config-name", "ff_ippo", *TINY,
             f"logger.base_exp_path={out / 'results'}", *words],
            cwd=ROOT, env=environment, text=True, stdout=stream, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
    return Driver(process, log)


def _addresses(driver: Driver) -> set[str]:
    """Where processes of a driver listen."""
    found = set()
    for pid in driver.descendants:
        try:
            connections = psutil.Process(pid).net_connections("tcp")
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
        listening = {one.laddr.ip for one in connections if one.status == psutil.CONN_LISTEN}
        found |= {address.removeprefix("::ffff:") for address in listening}
    return found


@pytest.mark.slow
def test_three_seeds_on_ray_are_a_sweep(tmp_path: Path) -> None:
    driver = _start(tmp_path, "arch.num_evaluation=2", "system.total_timesteps=256", "system.seed=1,2,3")
    try:
        driver.until(lambda: list((tmp_path / "results").glob("ff_ippo/*/*/*/metrics/metrics.jsonl")))
        assert _addresses(driver) <= {"127.0.0.1", "::1"}
        (manifest,) = (tmp_path / "results").glob("ff_ippo/*/*/sweep.yaml")
        assert len(list(manifest.parent.glob("*/record.json"))) == 3
        assert driver.wait() == 0, driver.output()
    finally:
        driver.process.kill()
    driver.assert_nothing_left()
    assert "3 COMPLETE" in driver.output() and "UserWarning" not in driver.output()

    folder = sweep_folder(tmp_path / "results")
    results.write_index(folder)
    index = results.load_index(folder)
    assert index["system.seed"].tolist() == index["seed"].tolist() == [1, 2, 3]
    assert set(index["state"]) == {"COMPLETE"} and index["attempts"].tolist() == [1, 1, 1]
    assert index["device"].tolist() == ["cpu:1"] * 3
    assert index["env_steps"].tolist() == [256] * 3
    assert len(results.load_evaluations(folder).query("metric == 'episode_return'")) == 6
    manifest_read = read_manifest(folder)
    assert (manifest_read.name, manifest_read.num_trials) == (index["sweep"][0], 3)


@pytest.mark.slow
def test_what_was_stopped_is_finished_by_resume(tmp_path: Path) -> None:
    driver = _start(tmp_path, "arch.num_evaluation=30", "system.total_timesteps=1920", "system.seed=1,2,3")
    try:
        driver.until(lambda: list((tmp_path / "results").glob("ff_ippo/*/*/*/metrics/metrics.jsonl")))
        time.sleep(1.0)
        driver.process.send_signal(signal.SIGINT)
        assert driver.wait() == 130, driver.output()
    finally:
        driver.process.kill()
    driver.assert_nothing_left()
    folder = sweep_folder(tmp_path / "results")
    assert f"Stopped. Finish it with: python -m launcher.sweep resume {folder}" in driver.output()
    found = [read_record(path.parent) for path in folder.glob("*/record.json")]
    assert {record.state for record in found} == {"PENDING"} and any(record.env_steps for record in found)

    done = subprocess.run(
        [sys.executable, "-m", "launcher.sweep", "resume", str(folder)], cwd=ROOT, capture_output=True, text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)}, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    index = results.load_index(folder)
    assert set(index["state"]) == {"COMPLETE"} and index["env_steps"].tolist() == [1920] * 3
    assert (index["evaluations"] == 30).all() and (index["attempts"] <= 2).all()


@pytest.mark.parametrize("given", [{"address": None}, {"address": None, "num_cpus": 7, "include_dashboard": True}])
def test_settings_of_ray_are_safe_unless_others_are_asked_for(
    given: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hydra_ray.atexit, "register", lambda *_: None)
    monkeypatch.setattr(hydra_ray, "prepare_driver", lambda: monkeypatch.setenv("RAY_AUTH_MODE", "token"))
    monkeypatch.setenv("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    defaults = OmegaConf.load(ROOT / "mava_configs/hydra/callbacks/ray.yaml").ray
    launcher = {"_target_": hydra_ray.RAY_LAUNCHER, "ray": {"init": given, "remote": {}}}
    config = OmegaConf.create({"hydra": {"launcher": launcher, "sweep": {"dir": str(tmp_path / "hydra" / "mat")}}})
    hydra_ray.OnRay(defaults.init, defaults.remote).on_multirun_start(config)
    init = config.hydra.launcher.ray.init
    assert (init.address, init._node_ip_address) == ("local", "127.0.0.1")
    assert init.num_cpus == given.get("num_cpus", len(os.sched_getaffinity(0)))
    assert init.include_dashboard == given.get("include_dashboard", False)
    assert config.hydra.launcher.ray.remote == {"num_cpus": 1}
    assert os.environ["RAY_AUTH_MODE"] == "token"


def test_every_system_has_the_settings_of_ray() -> None:
    for path in sorted((ROOT / "mava_configs" / "default").glob("*.yaml")):
        assert "  - override hydra/callbacks: ray\n" in path.read_text(), path
    assert "hydra" not in compose("mat")
