"""What the dashboards show: files that this process makes from the trial folders and keeps up to date.

A journal is for Optuna's dashboard, event files are for TensorBoard.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Final

from jax_party.errors import RecordError
from jax_party.store.storage import store_of
from jax_party.trial.manifest import MANIFEST_FILE
from jax_party.trial.record import RECORD_FILE
from results.live.following import Follower

REFRESH_S: Final = 3.0
_MARKS: Final = (MANIFEST_FILE, RECORD_FILE)


class Source:
    """What the dashboards show: one sweep or run, or all of those under a folder, newest first."""

    def __init__(self, folder: Path, own_folder: Path) -> None:
        """Use `own_folder` for generated files, except the journal of a sweep that is writable.

        Raises:
          RecordError: there is nothing to show.
        """
        from results.live.events import EventFiles
        from results.live.journal import JOURNAL_FILE, Journal

        self._root: Path | None = None
        self._folder = folder
        self._followers: dict[Path, Follower] = {}
        if _is_local_folder(folder) and not _is_sweep_or_run(folder):
            self._root = folder
            self._find()
        else:
            self._followers[folder] = Follower(folder)
        self.events = own_folder / "events"
        self.events.mkdir()
        self.journal = own_folder / JOURNAL_FILE
        if self._root is None and self._followers[folder].manifest is not None and _can_write(folder):
            self.journal = folder / JOURNAL_FILE
        self._files = EventFiles(self.events)
        self._journal = Journal(self.journal)

    @property
    def refresh_s(self) -> float:
        """Seconds between updates."""
        return max(REFRESH_S, store_of(self._folder).look_every_s)

    def update(self) -> int:
        """Bring the journal and the event files up to date; return the number of trials that changed."""
        self._find()
        changed = 0
        for folder, follower in self._followers.items():
            trials = follower.changed()
            label = "" if self._root is None else _label(folder, self._root)
            self._journal.update(follower.manifest, trials, label)
            self._files.update(trials, label)
            changed += len(trials)
        return changed

    def _find(self) -> None:
        """Look for new sweeps and runs."""
        if self._root is None:
            return
        found = {path.parent for name in _MARKS for path in self._root.glob(f"*/*/*/{name}")}
        if not found:
            raise RecordError(
                f"{self._root}: no sweeps in it (<algorithm>/<date>/<time>); run one: make sweep ALG=mappo"
            )
        for folder in sorted(found - set(self._followers), key=lambda path: path.parts[-2:], reverse=True):
            self._followers[folder] = Follower(folder)


def _is_local_folder(folder: Path) -> bool:
    return store_of(folder).on_disk(folder) is not None and folder.is_dir()


def _is_sweep_or_run(folder: Path) -> bool:
    return any((folder / name).is_file() for name in _MARKS)


def _can_write(folder: Path) -> bool:
    if store_of(folder).on_disk(folder) is None:
        return False
    try:
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError:
        return False


def _label(folder: Path, root: Path) -> str:
    """Return the label of a sweep among several: its date, time and name."""
    return "_".join(folder.relative_to(root).parts[1:])
