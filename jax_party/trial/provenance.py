"""Provenance: code, packages, machine and time."""

from __future__ import annotations

import functools
import importlib.metadata
import platform
import socket
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

PACKAGES: Final = (
    "jax", "jaxlib", "jumanji", "flashbax", "flax", "optax", "orbax-checkpoint", "ray", "numpy", "jax-party",
)  # fmt: skip


def utc_timestamp() -> str:
    """Return the current time in ISO 8601 and UTC, to the millisecond."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def current_provenance() -> dict[str, Any]:
    """Return `git_sha`, `git_dirty`, `versions` of the main packages, `host`, `python` and `platform`.

    Computed once per process. Git's two are None outside a checkout.
    """
    known = _provenance()
    return {**known, "versions": dict(known["versions"])}


def our_version() -> str | None:
    """Return the commit of this checkout, or the package's version outside one."""
    known = _provenance()
    version: str | None = known["git_sha"] or known["versions"]["jax-party"]
    return version


def set_code(git_sha: str | None, git_dirty: bool | None) -> None:
    """Set the commit of code that was sent from a checkout to a machine without one."""
    _provenance().update(git_sha=git_sha, git_dirty=git_dirty)


@functools.cache
def _provenance() -> dict[str, Any]:
    sha, dirty = _git_state()
    return {
        "git_sha": sha,
        "git_dirty": dirty,
        "versions": {name: _version(name) for name in PACKAGES},
        "host": socket.gethostname(),
        "python": platform.python_version(),
        "platform": platform.platform(),
    }


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _git_state() -> tuple[str | None, bool | None]:
    # An installed copy may lie inside somebody else's checkout: only one that git tracks counts.
    if _git("ls-files", "--error-unmatch", "__init__.py") is None:
        return None, None
    sha = _git("rev-parse", "HEAD")
    changes = _git("status", "--porcelain")
    return sha, None if changes is None else bool(changes)


def _git(*arguments: str) -> str | None:
    """Run git in the folder of this file; return its output, or None if it fails."""
    try:
        done = subprocess.run(
            ["git", "--no-optional-locks", *arguments],
            cwd=Path(__file__).resolve().parent, capture_output=True, text=True, timeout=10, check=False,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
