"""Sweeps on a Ray cluster of separate nodes that share no folder, with storage on an S3 server."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np
import pytest

import results
from jax_party.store.storage import store_of
from jax_party.trial.folder import read_record, trial_folders
from jax_party.trial.manifest import MANIFEST_FILE
from jax_party.trial.metrics import read_metrics
from jax_party.trial.provenance import current_provenance
from jax_party.trial.record import TrialRecord
from jax_party.trial.states import State
from results.fetch import fetch
from tests.launcher.drivers import ROOT, Driver, kill_driver
from tests.launcher.nodes import HEAD, Nodes
from tests.launcher.test_real_trials_on_ray import TRIALS, WORDS, assert_same, unbroken

pytestmark = [pytest.mark.timeout(1200), pytest.mark.xdist_group("cluster")]
__all__ = ["unbroken"]  # a fixture

KEYS = {"AWS_SECRET_ACCESS_KEY": "a-secret-of-nodes", "AWS_DEFAULT_REGION": "us-east-1"}
STANDIN = "tests.launcher.standin:StandIn"
Begin = Callable[..., Driver]


@pytest.fixture(scope="module")
def nodes(s3_endpoint: str) -> Iterator[Nodes]:
    """A head and two workers, `one` and `two`."""
    cluster = Nodes({**KEYS, "AWS_ACCESS_KEY_ID": "of-a-node"})
    try:
        cluster.add("one", "two")
        yield cluster
    finally:
        cluster.stop()


@pytest.fixture
def begin(bucket: Path, s3_endpoint: str, tmp_path: Path) -> Iterator[Begin]:
    """Start a driver in a folder of its own, with its own credentials and a cluster's token."""
    drivers: list[Driver] = []

    def start(*words: str, token: str, standin: Mapping[str, object] | None = None, **changes: str) -> Driver:
        home = tmp_path / f"driver-{len(drivers)}"
        home.mkdir()
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "RAY_"))}
        environment = {**kept, **KEYS, "AWS_ACCESS_KEY_ID": "of-the-driver", "RAY_AUTH_TOKEN": token, "HOME": str(home),
                       "PYTHONPATH": str(ROOT)}  # fmt: skip
        if standin is not None:
            environment |= {"JAX_PARTY_EXPERIMENT": STANDIN, "JAX_PARTY_STANDIN": json.dumps(standin)}
        log = home.with_suffix(".log")
        with log.open("w") as stream:
            process = subprocess.Popen(
                [sys.executable, "-m", "launcher.sweep", *words, f"STORAGE_ENDPOINT={s3_endpoint}"], cwd=home,
                env=environment | changes, text=True, stdout=stream, stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip
        drivers.append(Driver(process, log))
        return drivers[-1]

    yield start
    for driver in drivers:
        kill_driver(driver)


def sweep_of(bucket: Path) -> Path | None:
    """The one sweep's folder, once it is planned."""
    found = [name for name in store_of(bucket).files_below(bucket) if name.endswith(MANIFEST_FILE)]
    return bucket / found[0].rpartition("/")[0] if found else None


def trials(bucket: Path) -> dict[int, TrialRecord]:
    sweep = sweep_of(bucket)
    found = [read_record(folder) for folder in trial_folders(sweep)] if sweep else []
    return {record.number: record for record in found}


def trained(found: Mapping[int, TrialRecord]) -> float:
    """The share of a real sweep's steps that is recorded."""
    steps = [record.env_steps / record.total_steps for record in found.values() if record.total_steps]
    return sum(steps) / TRIALS


def whereabouts(bucket: Path, what: str) -> dict[int, list[str]]:
    """What stand-ins wrote of themselves, a period each."""
    sweep = sweep_of(bucket)
    assert sweep is not None
    return {
        number: [row["train"][what] for row in read_metrics(sweep / record.trial_id)]
        for number, record in trials(bucket).items()
    }


# -- Sweeps ------------------------------------------------------------------------------------------------------------


def test_a_sweep_over_two_nodes(nodes: Nodes, begin: Begin, bucket: Path, tmp_path: Path) -> None:
    driver = begin(
        "ALG=mappo", "SAMPLES=6", "TIMESTEPS=16384", "EVALUATIONS=4", f"ADDRESS={nodes.address}",
        f"STORAGE={bucket / 'here'}", token=nodes.token,
        standin={"delay_s": 0.3, "faults": {"1": ["raise", 2], "2": ["diverge", 2]}},
    )  # fmt: skip
    assert driver.wait() == 0, driver.output()
    assert "a cluster of 2 nodes, 2 cores, one per worker" in driver.output()
    ended = trials(bucket)
    states = [State.FAILED if number == 2 else State.COMPLETE for number in range(6)]
    assert [ended[number].state for number in range(6)] == states, driver.output()
    assert [ended[number].attempts for number in range(6)] == [1, 2, 1, 1, 1, 1]
    assert [reason.split(" ", 1)[1] for reason in ended[1].retries] == ["RuntimeError: the disk is made of cheese"]
    here = current_provenance()
    assert {(record.host, record.git_sha) for record in ended.values()} <= {(here["host"], here["git_sha"]),
                                                                            (here["host"], None)}  # fmt: skip

    sweep = sweep_of(bucket)
    assert sweep is not None and str(sweep).startswith(f"{bucket / 'here' / 'ff_mappo'}/")
    for number, record in ended.items():
        steps = [row["step"] for row in read_metrics(sweep / record.trial_id)]
        assert steps == [4096, 8192, 12288, 16384][: 1 if number == 2 else 4]
    index = results.load_index(str(sweep))
    assert list(index["state"]) == states
    assert list(index["number"]) == list(range(6))

    folders = {folder for of_trial in whereabouts(bucket, "folder").values() for folder in of_trial}
    for name in ("one", "two"):
        assert any(Path(folder).is_relative_to(nodes.temporary(name)) for folder in folders), folders
        assert not list(nodes.temporary(name).glob("jax_party-*/scratch/*")), "scratch is removed"
    assert all("runtime_resources" in code for of_trial in whereabouts(bucket, "code").values() for code in of_trial)
    keys = {key for of_trial in whereabouts(bucket, "key").values() for key in of_trial}
    assert keys == {"of-a-node"}, "credentials are each node's own"
    for name in store_of(bucket).files_below(bucket):
        content = (bucket / name).read_bytes()
        assert nodes.token.encode() not in content and KEYS["AWS_SECRET_ACCESS_KEY"].encode() not in content, name
    assert not [path for path in (tmp_path / "driver-0").iterdir() if path.name != ".cache"], "nothing local"
    driver.assert_nothing_left()


@pytest.mark.slow
def test_packs_share_a_node(nodes: Nodes, begin: Begin, bucket: Path) -> None:
    driver = begin(
        "ALG=mappo", "SAMPLES=6", "TIMESTEPS=8192", "EVALUATIONS=2", f"ADDRESS={nodes.address}", f"STORAGE={bucket}",
        "PACK=3", token=nodes.token, standin={"delay_s": 3.0},  # a pack is full before its first trial has ended
    )  # fmt: skip
    assert driver.wait(300.0) == 0, driver.output()
    assert [trials(bucket)[number].state for number in range(6)] == [State.COMPLETE] * 6
    assert [trials(bucket)[number].attempts for number in range(6)] == [1] * 6
    folders = [folder for of_trial in whereabouts(bucket, "folder").values() for folder in of_trial]
    for name in ("one", "two"):
        assert any(Path(folder).is_relative_to(nodes.temporary(name)) for folder in folders)


@pytest.mark.slow
@pytest.mark.parametrize(("pack", "searching"), [(1, ()), (2, ()), (1, ("SEARCH=optuna",))])
def test_a_node_that_joins_later_gets_work(
    s3_endpoint: str, begin: Begin, bucket: Path, pack: int, searching: tuple[str, ...]
) -> None:
    cluster = Nodes({**KEYS, "AWS_ACCESS_KEY_ID": "of-a-node"})
    try:
        cluster.add("one")
        driver = begin(
            "ALG=mappo", "SAMPLES=16", "TIMESTEPS=8192", "EVALUATIONS=2", f"ADDRESS={cluster.address}",
            f"STORAGE={bucket}", f"PACK={pack}", *searching, token=cluster.token, standin={"delay_s": 2.5},
        )  # fmt: skip
        driver.until(lambda: State.COMPLETE in {record.state for record in trials(bucket).values()}, 120)
        cluster.add("two")
        assert driver.wait(400.0) == 0, driver.output()
    finally:
        cluster.stop()
    assert [trials(bucket)[number].state for number in range(16)] == [State.COMPLETE] * 16
    of_trials = whereabouts(bucket, "folder").values()
    there = [number for number in of_trials if any(Path(f).is_relative_to(cluster.temporary("two")) for f in number)]
    assert len(there) >= 3, "of the sixteen, of which most had not begun"


@pytest.mark.slow
@pytest.mark.parametrize("pack", [1, 2])
def test_a_node_with_other_versions_that_joins_later_is_named_and_left_alone(
    s3_endpoint: str, begin: Begin, bucket: Path, tmp_path: Path, pack: int
) -> None:
    """No trial loses an attempt to it."""
    information = tmp_path / "jax-0.9.1.dist-info"
    information.mkdir()
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: jax\nVersion: 0.9.1\n")
    cluster = Nodes({**KEYS, "AWS_ACCESS_KEY_ID": "of-a-node"})
    try:
        cluster.add("one")
        driver = begin(
            "ALG=mappo", "SAMPLES=16", "TIMESTEPS=8192", "EVALUATIONS=2", f"ADDRESS={cluster.address}",
            f"STORAGE={bucket}", f"PACK={pack}", token=cluster.token, standin={"delay_s": 2.5},
        )  # fmt: skip
        driver.until(lambda: State.COMPLETE in {record.state for record in trials(bucket).values()}, 120)
        cluster.add("odd", environment={"PYTHONPATH": str(tmp_path)})
        assert driver.wait(400.0) == 0, driver.output()
    finally:
        cluster.stop()
    ended = trials(bucket)
    assert [(ended[number].state, ended[number].attempts) for number in range(16)] == [(State.COMPLETE, 1)] * 16
    for of_trial in whereabouts(bucket, "folder").values():
        assert not any(Path(folder).is_relative_to(cluster.temporary("odd")) for folder in of_trial)
    sweep = sweep_of(bucket)
    assert sweep is not None
    assert "jax 0.9.1, here " in (sweep / "sweep.log").read_text(), "which node, and why"


@pytest.mark.slow
def test_a_driver_outside_of_the_cluster(nodes: Nodes, begin: Begin, bucket: Path) -> None:
    driver = begin(
        "ALG=mappo", "SAMPLES=4", "TIMESTEPS=8192", "EVALUATIONS=2", f"ADDRESS=ray://{HEAD}:{nodes.client_port}",
        f"STORAGE={bucket}", token=nodes.token, standin={"delay_s": 0.2},
    )  # fmt: skip
    assert driver.wait() == 0, driver.output()
    assert [trials(bucket)[number].state for number in range(4)] == [State.COMPLETE] * 4


@pytest.mark.slow
@pytest.mark.parametrize(("seed", "pack"), [(0, 1), (1, 1), (2, 1), (3, 2)])
def test_a_killed_node_costs_no_bit(
    s3_endpoint: str, begin: Begin, bucket: Path, tmp_path: Path, unbroken: dict[int, Path], seed: int, pack: int
) -> None:
    """At a random moment; what the node played goes on on the other one, as if nothing had been broken."""
    generator = np.random.default_rng(600 + seed)
    share, seconds, name = generator.uniform(0.02, 0.7), generator.uniform(0.0, 1.5), generator.choice(["one", "two"])
    cluster = Nodes({**KEYS, "AWS_ACCESS_KEY_ID": "of-a-node"})
    try:
        cluster.add("one", "two")
        place = (f"ADDRESS={cluster.address}", f"STORAGE={bucket}")
        driver = begin(*WORDS, f"PACK={pack}", *place, token=cluster.token)
        driver.until(lambda: trained(trials(bucket)) >= share, 400)
        time.sleep(seconds)
        cluster.kill(name)
        assert driver.wait(500.0) == 0, driver.output()
        driver.assert_nothing_left()
    finally:
        cluster.stop()
    ended = trials(bucket)
    again = [record for record in ended.values() if record.attempts > 1]
    assert sum(record.attempts for record in ended.values()) == TRIALS + len(again), "none has begun three times"
    told = {record.number: record.retries for record in again}
    assert all(told.values())
    # A node has one core. Of a pack, whose trials have a process of their own each, these may be on the other node.
    assert len(again) <= (pack if pack == 1 else 2 * pack), told
    assert_all_as_unbroken(bucket, tmp_path, unbroken)


@pytest.mark.slow
def test_a_killed_driver_costs_no_bit(
    nodes: Nodes, begin: Begin, bucket: Path, tmp_path: Path, unbroken: dict[int, Path]
) -> None:
    """`resume` from another folder does what is left."""
    driver = begin(*WORDS, f"ADDRESS={nodes.address}", f"STORAGE={bucket}", token=nodes.token)
    driver.until(lambda: State.COMPLETE in {record.state for record in trials(bucket).values()}, 400)
    kill_driver(driver)
    resumed = begin("resume", str(sweep_of(bucket)), f"ADDRESS={nodes.address}", token=nodes.token)
    assert resumed.wait(500.0) == 0, resumed.output()
    assert_all_as_unbroken(bucket, tmp_path, unbroken)


def assert_all_as_unbroken(bucket: Path, tmp_path: Path, unbroken: dict[int, Path]) -> None:
    sweep = sweep_of(bucket)
    assert sweep is not None
    assert list(results.load_index(str(sweep))["state"]) == ["COMPLETE"] * TRIALS
    for number, record in trials(bucket).items():
        of_trial = store_of(sweep).files_below(sweep / record.trial_id)
        assert sum(name.startswith("vaults/") for name in of_trial) == 1, "few large files"
        assert len(of_trial) <= 9
        assert_same(fetch(sweep / record.trial_id, tmp_path / f"fetched-{number}"), unbroken[number])


# -- Refusals ----------------------------------------------------------------------------------------------------------


def refused(driver: Driver, message: str, bucket: Path, limit_s: float = 60.0) -> None:
    """One line, exit code 2, and nothing made."""
    assert driver.wait(limit_s) == 2, driver.output()
    line = driver.output().strip()
    assert "\n" not in line and line.startswith("SweepError: "), line
    assert re.search(message, line), line
    assert store_of(bucket).files_below(bucket) == []


def test_what_cannot_be_joined_is_refused(nodes: Nodes, begin: Begin, bucket: Path) -> None:
    words = ("ALG=mappo", "SAMPLES=1")
    there, place = f"ADDRESS={nodes.address}", f"STORAGE={bucket}"
    wrong = begin(*words, there, place, token="0" * 32)
    refused(wrong, f"ADDRESS={nodes.address}: the cluster refuses the token; set RAY_AUTH_TOKEN", bucket)
    none = begin(*words, there, place, token="")
    refused(none, f"ADDRESS={nodes.address}: there is no token for it; set RAY_AUTH_TOKEN", bucket)
    local = begin(*words, there, token=nodes.token)
    refused(local, r"workers on 2 nodes cannot write to .*experiment_results .*: STORAGE=s3://bucket/prefix", bucket)
    many = begin(*words, there, place, "WORKERS=3", token=nodes.token)
    refused(many, "WORKERS=3: the cluster has room for 2; ask for fewer, or add nodes", bucket)
    wide = begin(*words, there, place, "DEVICES_PER_TRIAL=2", token=nodes.token)
    refused(wide, "DEVICES_PER_TRIAL=2: there are 1 CPU cores on a node; ask for fewer", bucket)


def test_addresses_where_nothing_answers_are_refused_within_15_s(begin: Begin, bucket: Path) -> None:
    with socket.socket() as silent, socket.socket() as closed:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        closed.bind(("127.0.0.1", 0))
        for address, message in (
            (f"127.0.0.1:{closed.getsockname()[1]}", "nothing answers there .Connection refused.; start the cluster"),
            (f"ray://127.0.0.1:{closed.getsockname()[1]}", "nothing answers there .Connection refused.; start the"),
            (f"127.0.0.1:{silent.getsockname()[1]}", "no Ray lets us in there within 15 s; is that the head's port"),
        ):
            driver = begin("ALG=mappo", f"ADDRESS={address}", f"STORAGE={bucket}", token="0" * 32)
            refused(driver, f"ADDRESS={address}: {message}", bucket)


def test_storage_that_cannot_be_used_is_refused(begin: Begin, bucket: Path) -> None:
    nothing = begin("ALG=mappo", f"STORAGE=s3://nothing-{uuid.uuid4().hex}/x", token="0" * 32)
    refused(nothing, "STORAGE: .*: there is no bucket nothing-.*; create it, or name another", bucket)
    secret = {"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": "", "AWS_EC2_METADATA_DISABLED": "true"}
    without = begin("ALG=mappo", f"STORAGE={bucket}", token="0" * 32, **secret)
    refused(without, "STORAGE: .*: the credentials are refused .*; set AWS_ACCESS_KEY_ID", bucket)
    missing = begin("resume", f"{bucket / 'nowhere'}", token="0" * 32)
    refused(missing, r"no sweep's folder \(sweep.yaml is missing\)", bucket)


@pytest.mark.slow
def test_a_node_with_other_versions_is_refused_by_name(
    nodes: Nodes, begin: Begin, bucket: Path, tmp_path: Path
) -> None:
    information = tmp_path / "jax-0.9.1.dist-info"
    information.mkdir()
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: jax\nVersion: 0.9.1\n")
    nodes.add("odd", environment={"PYTHONPATH": str(tmp_path)})
    driver = begin("ALG=mappo", f"ADDRESS={nodes.address}", f"STORAGE={bucket}", token=nodes.token)
    try:
        here = current_provenance()["versions"]["jax"]
        named = rf"node {socket.gethostname()} \(127\.0\.0\.5\): jax 0\.9\.1, here {here}; install the same"
        refused(driver, named, bucket)
    finally:
        nodes.kill("odd")
