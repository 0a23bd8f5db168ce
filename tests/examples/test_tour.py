"""The tour is walked: its commands are run, its change is made, in a copy of the tree, and what it shows is printed."""

from __future__ import annotations

import fnmatch
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TOUR = ROOT / "docs" / "tour.md"
_BLOCK = re.compile(r"^```(bash|text|diff|python)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_PREPARE = 'make() { command make -o .venv/.stamp-run -o .venv/.stamp-dev "$@"; }\n'
"""The environment is there, however old its stamps are beside the copy's files."""


@pytest.fixture
def copy(tmp_path: Path) -> Iterator[Path]:
    """The files that the repository holds, with this repository's environment."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True)
    for name in filter(None, listed.stdout.split("\0")):
        if (ROOT / name).is_file():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, tmp_path / name)
    (tmp_path / ".venv").symlink_to(ROOT / ".venv")
    yield tmp_path
    shutil.rmtree(tmp_path / "experiment_results", ignore_errors=True)


def run(script: str, folder: Path) -> str:
    """What the commands print, on both channels."""
    # A make that runs the tests would hand its own variables on to the make of the tour.
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}
    environment |= {"PYTHONPATH": str(folder), "COLUMNS": "200"}
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", _PREPARE + script], cwd=folder, env=environment,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=400,
    )  # fmt: skip
    assert done.returncode == 0, f"{script}\n{done.stdout}"
    return done.stdout


def check_printed(expected: str, printed: str) -> None:
    """Each line that the tour shows is printed, in their order."""
    left = iter(printed.splitlines())
    for line in expected.splitlines():
        pattern = re.sub(r"([\[\]?*])", r"[\1]", line).replace("…", "*")
        assert any(fnmatch.fnmatchcase(found.rstrip(), pattern) for found in left), f"{line!r} is not in\n{printed}"


def change(diff: str, folder: Path) -> None:
    """Make the change of a diff whose places are told by their lines alone."""
    for part in re.split(r"^--- .*\n", diff, flags=re.MULTILINE)[1:]:
        head, _, hunk = part.partition("@@\n")
        path = folder / head.strip().removeprefix("+++ b/")
        lines = hunk.splitlines(keepends=True)
        before = "".join(line[1:] for line in lines if line[0] in " -")
        after = "".join(line[1:] for line in lines if line[0] in " +")
        text = path.read_text()
        assert text.count(before) == 1, f"{path}: the tour's lines are there {text.count(before)} times:\n{before}"
        path.write_text(text.replace(before, after))


def test_the_tour_is_true(copy: Path) -> None:
    printed, ran = "", []
    for kind, content in _BLOCK.findall(TOUR.read_text(encoding="utf-8")):
        if kind == "bash":
            printed = run(content, copy)
            ran.append(content)
        elif kind == "text":
            check_printed(content, printed)
        elif kind == "diff":
            change(content, copy)
        else:
            head, _, code = content.partition("\n")
            (copy / head.removeprefix("# ")).write_text(code)
    assert len(ran) >= 7


def test_rooms_that_the_tour_names_are_there() -> None:
    text = TOUR.read_text(encoding="utf-8")
    named = set(re.findall(r"`((?:jax_party|launcher|results|sweeps|mava_configs|tests)/[\w./]*)`", text))
    missing = sorted(name for name in named if not (ROOT / name).exists() and "payoff_gap" not in name)
    assert named and not missing
