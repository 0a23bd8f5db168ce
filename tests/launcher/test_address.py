"""A cluster, as a driver finds it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from jax_party.errors import SweepError
from launcher.machine import join as address

NODE = {"name": "a", "ip": "127.0.0.2", "cpus": 3, "gpus": 0, "cuda": False, "sees": True}


@pytest.fixture
def joining(monkeypatch: pytest.MonkeyPatch) -> list[list[dict[str, Any]]]:
    """What the cluster has, one look after another; nothing after the last."""
    here = address.our_versions()
    python = here.pop("Python")
    looks: list[list[dict[str, Any]]] = [[], [], [NODE | {"python": python, "versions": here}]]
    monkeypatch.setenv("RAY_AUTH_TOKEN", "0" * 32)
    monkeypatch.setattr(address, "NODES_LOOK_S", 0.0)
    monkeypatch.setattr(address, "_check_reachable", lambda place: None)
    monkeypatch.setattr(address, "_probe", lambda place, request: looks.pop(0) if looks else [])
    return looks


def test_a_cluster_that_is_being_started_is_waited_for(
    joining: list[list[dict[str, Any]]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    machine = address.find_cluster("auto", tmp_path, shared=True)
    assert len(machine.cores) == 3 and joining == []
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("ADDRESS=auto: no node has a CPU to work with yet; waiting up to 15 minutes")


def test_a_cluster_that_stays_empty_is_refused(
    joining: list[list[dict[str, Any]]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    joining.clear()
    monkeypatch.setattr(address, "NODES_WAIT_S", 0.01)
    with pytest.raises(SweepError, match="ADDRESS=auto: no node with a CPU has joined the cluster within"):
        address.find_cluster("auto", tmp_path, shared=True)
