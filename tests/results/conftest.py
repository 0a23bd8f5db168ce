"""Fixtures of the tests of trial folders and of the tables made from them."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from jax_party.trial.folder import create_trial_folder

# `synthetic_sweep` lies beside this file, under every import mode of pytest.
sys.path.insert(0, str(Path(__file__).parent))

import synthetic_sweep


@pytest.fixture
def sweep(tmp_path: Path) -> Callable[..., Path]:
    """`sweep(trials=3, planned=None)` makes a sweep's folder."""

    def make(trials: int = 3, planned: int | None = None) -> Path:
        return synthetic_sweep.make_sweep(tmp_path / "sweep", trials, planned)

    return make


@pytest.fixture
def trial(tmp_path: Path) -> Path:
    """A planned trial's folder."""
    folder = tmp_path / "trial"
    create_trial_folder(folder, synthetic_sweep.config_of(0), synthetic_sweep.record_of(0))
    return folder
