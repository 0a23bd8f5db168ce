"""Exclusive access to a trial while it is played."""

from __future__ import annotations

import contextlib
from pathlib import Path

from jax_party.store.storage import store_of


def held(folder: Path, timeout: float) -> contextlib.AbstractContextManager[None]:
    """Hold a trial's folder, so that no other process writes in it.

    Nothing is held on object storage, where `mirror.json` says which worker owns the trial (`jax_party.trial.mirror`).

    Args:
      folder: the trial's.
      timeout: seconds to wait for another holder.

    Raises:
      FolderHeld: another process still holds it after `timeout`.
    """
    store = store_of(folder)
    return contextlib.nullcontext() if store.on_disk(folder) is None else store.lock(folder, timeout)
