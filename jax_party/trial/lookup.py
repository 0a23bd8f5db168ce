"""Find the trial that a user means."""

from __future__ import annotations

import glob
from pathlib import Path

from jax_party.store.storage import as_folder, store_of
from jax_party.trial.record import RECORD_FILE


def find_trials(given: str, root: Path) -> list[Path]:
    """Return the folders of the trials that a path, an s3:// URI or a trial id means.

    Args:
      given: a trial's folder, or the id of a trial below `root`.
      root: holds sweeps at `<algorithm>/<date>/<time>`.

    Returns:
      One folder, none, or several where several trials have that id; by name.

    Raises:
      StorageError: the storage of a URI does not answer.
    """
    folder = as_folder(given)
    store = store_of(folder)
    store.check(folder)
    if store.is_file(folder / RECORD_FILE):
        return [store.absolute(folder)]
    if store.on_disk(folder) is None or not folder.name:
        return []
    return sorted(path.parent.absolute() for path in root.glob(f"*/*/*/{glob.escape(folder.name)}/{RECORD_FILE}"))
