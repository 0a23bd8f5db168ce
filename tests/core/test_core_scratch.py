"""Local folders that live no longer than their process."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from jax_party.store import scratch


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(scratch, "scratch_folder", lambda: tmp_path)
    return tmp_path


def test_what_a_process_leaves_is_removed_by_the_next(place: Path) -> None:
    dead = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, check=True)
    (place / f"{int(dead.stdout)}-x" / "deep").mkdir(parents=True)
    living = place / f"{os.getppid()}-x"
    living.mkdir()
    mine = scratch.make_scratch("mine")
    assert sorted(place.iterdir()) == sorted([mine, living])
    assert mine.name.startswith(f"{os.getpid()}-") and mine.name.endswith("-mine")


def test_a_process_removes_its_own_as_it_ends(tmp_path: Path) -> None:
    script = (
        "from jax_party.store.scratch import make_scratch\n"
        "folder = make_scratch('x'); (folder / 'file').touch(); print(folder)"
    )
    environment = os.environ | {"TMPDIR": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, env=environment)
    assert Path(done.stdout.strip()).is_relative_to(tmp_path) and not Path(done.stdout.strip()).exists()
