"""Temporary local folders that are removed with their process; the next process removes those of a killed one.

They are in `$TMPDIR/jax_party-<user id>/scratch`, each named after its process. Needs neither JAX nor Ray.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import shutil
import tempfile
import uuid
from pathlib import Path


def scratch_folder() -> Path:
    """Return the folder that holds them on this machine."""
    return Path(tempfile.gettempdir()) / f"jax_party-{os.getuid()}" / "scratch"


def make_scratch(purpose: str) -> Path:
    """Create an empty folder; remove it when this process ends, if it still exists.

    Args:
      purpose: the end of its name.
    """
    remove_abandoned()
    folder = scratch_folder() / f"{os.getpid()}-{uuid.uuid4().hex[:8]}-{purpose}"
    folder.mkdir(parents=True, mode=0o700)
    atexit.register(_remove, folder, os.getpid())
    return folder


def remove_abandoned() -> None:
    """Remove the folders of processes that have ended."""
    folder = scratch_folder()
    for path in folder.iterdir() if folder.is_dir() else []:
        owner = path.name.partition("-")[0]
        if owner.isdigit() and not lives(int(owner)):
            with contextlib.suppress(OSError):
                shutil.rmtree(path)


def _remove(folder: Path, owner: int) -> None:
    """Remove a folder, unless this is a forked child: the folder is the parent's."""
    if os.getpid() == owner:
        shutil.rmtree(folder, ignore_errors=True)


def lives(pid: int) -> bool:
    """Return whether a process with this id exists on this machine."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return True


__all__ = ["lives", "make_scratch", "remove_abandoned", "scratch_folder"]
