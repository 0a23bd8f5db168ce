"""Sweeps of this machine whose folder is on an S3 server: what breaks with it, and what passes through it."""

from __future__ import annotations

import json
import os
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from s3fs import S3FileSystem

import results
from jax_party.store.storage import as_folder
from results.fetch import fetch
from tests.conftest import free_port, start_s3
from tests.launcher.drivers import Driver, kill_driver, start_driver
from tests.launcher.test_cluster import sweep_of, trained, trials
from tests.launcher.test_conformance import SPACE, check_trial
from tests.launcher.test_real_trials_on_ray import TRIALS, WORDS, assert_same, unbroken

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
__all__ = ["unbroken"]  # a fixture
OUTAGE_S = 30.0


class Server:
    """An S3 server that can be taken away and brought back with all that is on it."""

    def __init__(self) -> None:
        self.port = free_port()
        self._server = start_s3(self.port)

    def stop(self) -> None:
        self._server.stop()

    def start(self) -> None:
        self._server = start_s3(self.port)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """With its address and credentials in the environment."""
    S3FileSystem.clear_instance_cache()  # one is kept for each address that was given, not for the environment's
    found = Server()
    for name, value in {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{found.port}", "AWS_ACCESS_KEY_ID": "a-test",
        "AWS_SECRET_ACCESS_KEY": "a-secret-of-tests", "AWS_DEFAULT_REGION": "us-east-1",
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    yield found
    found.stop()
    S3FileSystem.clear_instance_cache()


@pytest.fixture
def place(server: Server) -> Path:
    root = as_folder(f"s3://b{uuid.uuid4().hex}")
    root.fs.call_s3("create_bucket", Bucket=root.path.strip("/"))  # type: ignore[attr-defined]
    return root


def begin(place: Path, tmp_path: Path, *words: str, **environment: str) -> Driver:
    return start_driver((*words, f"STORAGE={place}"), tmp_path / "log", {**os.environ, **environment})


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_server_that_is_gone_for_half_a_minute(
    server: Server, place: Path, tmp_path: Path, unbroken: dict[int, Path], seed: int
) -> None:
    """Workers and driver wait for it; then everything is as if it had been there all the time."""
    generator = np.random.default_rng(500 + seed)
    share, seconds = generator.uniform(0.02, 0.7), generator.uniform(0.0, 1.5)
    driver = begin(place, tmp_path, *WORDS, "WORKERS=2")
    try:
        driver.until(lambda: trained(trials(place)) >= share, 300)
        time.sleep(seconds)
        server.stop()
        time.sleep(OUTAGE_S)
        assert driver.process.poll() is None, driver.output()
        server.start()
        assert driver.wait(500.0) == 0, driver.output()
        driver.assert_nothing_left()
    finally:
        kill_driver(driver)
    sweep = sweep_of(place)
    assert sweep is not None
    assert list(results.load_index(str(sweep))["state"]) == ["COMPLETE"] * TRIALS
    for number, record in trials(place).items():
        assert_same(fetch(sweep / record.trial_id, tmp_path / f"fetched-{number}"), unbroken[number])


def test_a_population_passes_its_learners_through_storage(place: Path, tmp_path: Path) -> None:
    file = tmp_path / "space.yaml"
    file.write_text(SPACE)
    driver = begin(
        place, tmp_path, "ALG=mappo", f"SPACE={file}", "SCHEDULER=pbt", "SAMPLES=6", "SEED=1",
        JAX_PARTY_EXPERIMENT="tests.launcher.synthetic:Synthetic",
    )  # fmt: skip
    try:
        assert driver.wait(400.0) == 0, driver.output()
        driver.assert_nothing_left()
    finally:
        kill_driver(driver)
    sweep = sweep_of(place)
    assert sweep is not None
    index = results.load_index(str(sweep))
    assert list(index["state"]) == ["COMPLETE"] * 6
    assert index["lineage"].notna().sum() >= 2
    found = {record.trial_id: record for record in trials(place).values()}
    for record in found.values():
        check_trial(sweep, record, found)
    for _, row in index[index["lineage"].notna()].iterrows():
        assert row["config.system.actor_lr"] == row["system.actor_lr"]
        assert json.loads(row["lineage"])[0]["source"] in found
