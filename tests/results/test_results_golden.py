"""Sweeps as earlier versions have left them: trial folders and tables are read by every later one.

`golden/index-<n>` is a sweep whose tables are of version n (`results.columns.INDEX_VERSION`). A new version gets a
folder of its own; those that are there do not change.
"""

from __future__ import annotations

import math
import shutil
from pathlib import Path

import pandas as pd
import pytest

import results
from results.collector.packing import INDEX_VERSION

GOLDEN = Path(__file__).parent / "golden"
VERSIONS = sorted(GOLDEN.glob("index-*"))

STATES = ["COMPLETE", "COMPLETE", "FAILED", "PENDING", "COMPLETE"]


def test_this_version_has_a_golden_folder() -> None:
    assert f"index-{INDEX_VERSION}" in [folder.name for folder in VERSIONS]


def check(folder: Path) -> None:
    index = results.load_index(folder)
    assert index["state"].tolist() == STATES and index["number"].tolist() == [0, 1, 2, 3, 4]
    assert index["error"][2] == "the loss is not finite at step 100"
    promoted = index.loc[4]
    assert (promoted["promoted_from"], promoted["num_seeds"]) == (index["trial_id"][1], 3)
    assert (promoted["last.agent_return.0"], promoted["last.agent_return.1"]) == (13.0, 15.0)
    for row in (1, 4):
        assert (index["fresh.value"][row], index["fresh.num_seeds"][row]) == (14.0, 3)
        assert index["fresh.low"][row] == pytest.approx(14 - 4.302653 * 2 / math.sqrt(3))
    assert (index["optimism_gap"][1], index["objective.value"][0]) == (-1.0, 3.0)
    assert index["system.actor_lr"].dropna().tolist() == [0.001, 0.002, 0.003, 0.002]
    assert index["config.network.layers"][0] == "[64, 64]"
    assert index["vault.train.path"][0] == f"{index['trial_id'][0]}/vaults/jax_party/{index['trial_id'][0]}"
    long = results.load_evaluations(folder, metrics=["episode_return"])
    assert long["value"].tolist() == [1.0, 5.0, 3.0, 11.0, 15.0, 13.0, 21.0, 12.0, 14.0, 16.0]
    assert long["seed"].tolist() == [42, 42, 42, 43, 43, 43, 44, 1000, 1001, 1002]


@pytest.mark.parametrize("golden", VERSIONS, ids=lambda folder: folder.name)
def test_tables_are_read_as_they_were_written(golden: Path) -> None:
    check(golden)


@pytest.mark.parametrize("golden", VERSIONS, ids=lambda folder: folder.name)
def test_trial_folders_are_collected_again(golden: Path, tmp_path: Path) -> None:
    folder = tmp_path / "sweep"
    shutil.copytree(golden, folder)
    results.write_index(folder)
    check(folder)
    before, after = results.load_index(golden), results.load_index(folder)
    pd.testing.assert_frame_equal(after[before.columns], before)
