"""Several devices of one trial: the same results, and the environments really are spread."""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

ROOT = Path(__file__).parents[2]
SCRIPT = """
import json, sys
import jax, numpy as np
from jax_party.config import make_budget, parse_config
from jax_party.training.program import get_program, make_hyper

mapping = json.loads(sys.stdin.read())
report = []
for devices in (1, 4):
    mapping["arch"]["num_devices"] = devices
    config = parse_config(mapping)
    program = get_program(config)
    hyper = program.put(make_hyper(config, make_budget(config)))
    state = program.init(hyper, jax.random.PRNGKey(0))
    losses = []
    for _ in range(2):
        state, output = program.update(hyper, state)
        losses.append({name: float(value) for name, value in output.losses.items()})
    evaluation = program.evaluate(hyper, state.params, jax.random.PRNGKey(1))
    kept = (state.envs.states, state.envs.observation, state.memory, state.replay)
    spread = [leaf for leaf in jax.tree.leaves(kept) if leaf.ndim]
    report.append({
        "devices": sorted({len(leaf.sharding.device_set) for leaf in spread}),
        "rows": sorted({(leaf.shape[0], shard.data.shape[0]) for leaf in spread for shard in leaf.addressable_shards}),
        "losses": losses,
        "params": [np.asarray(leaf).ravel().tolist() for leaf in jax.tree.leaves(state.params)],
        "actions": np.asarray(output.trajectory["action"]).tolist(),
        "returns": np.asarray(evaluation.episodes["episode_return"]).tolist(),
    })
print(json.dumps(report))
"""


@pytest.fixture(scope="module")
def report(tiny_mapping: Callable[..., Any]) -> Callable[[str], Any]:
    """`report("ff_mappo")`: what one device and four give, with the same global batch."""

    @functools.cache
    def make(algorithm: str) -> Any:
        mapping = tiny_mapping(algorithm, "arch.num_envs=8", "env.scenario.task_config.time_limit=12")
        environment = os.environ | {"XLA_FLAGS": "--xla_force_host_platform_device_count=4", "JAX_PLATFORMS": "cpu"}
        done = subprocess.run(
            [sys.executable, "-c", SCRIPT], input=json.dumps(mapping), cwd=ROOT, env=environment, capture_output=True,
            text=True, timeout=300,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    return make


@pytest.fixture(params=["ff_mappo", *(pytest.param(name, marks=pytest.mark.slow) for name in ("rec_sable", "rec_iql"))])
def reports(request: pytest.FixtureRequest, report: Callable[[str], Any]) -> Any:
    """Systems that are plain, with memory, with replay."""
    return report(request.param)


def test_environments_are_spread_over_the_devices(reports: Any) -> None:
    one, four = reports
    assert (one["devices"], four["devices"]) == ([1], [4])
    assert (one["rows"], four["rows"]) == ([[8, 8]], [[8, 2]])


def test_four_devices_learn_what_one_does(reports: Any) -> None:
    one, four = reports
    assert one["actions"] == four["actions"]
    for mine, other in zip(one["losses"], four["losses"], strict=True):
        for name, value in mine.items():
            assert other[name] == pytest.approx(value, rel=1e-4, abs=1e-5), name
    for mine, other in zip(one["params"], four["params"], strict=True):
        np.testing.assert_allclose(mine, other, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(one["returns"], four["returns"], rtol=1e-4)
