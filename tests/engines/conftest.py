"""Engines; tests that need Mava are collected always, and skipped where it is absent."""

# ruff: noqa: E402  (JAX reads the environment when it is imported)

from __future__ import annotations

from jax_party.runtime import prepare_process

prepare_process(cpu_devices=1)

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

# `engine_trials` lies beside this file, under every import mode of pytest.
sys.path.insert(0, str(Path(__file__).parent))

from engine_trials import MISSING, Trial

from jax_party.engines import Engine, get_engine


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what is marked `needs_mava` where Mava is not there, with the reason."""
    for item in items:
        if item.get_closest_marker("needs_mava") is not None and MISSING is not None:
            item.add_marker(pytest.mark.skip(reason=MISSING))


@pytest.fixture(params=["native", pytest.param("mava", marks=pytest.mark.needs_mava)])
def engine(request: pytest.FixtureRequest) -> Engine:
    """Every engine."""
    return get_engine(request.param)


@pytest.fixture
def make_trial(engine: Engine, tmp_path: Path) -> Callable[..., Trial]:
    """`make_trial(name, algorithm, *overrides)`."""
    return lambda name, algorithm, *overrides: Trial(engine, tmp_path / name, algorithm, *overrides)
