"""Integrity checks of a vault: counts, chunks, the order of time, checksums."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Final

import numpy as np

from jax_party.errors import RecordError, VaultError
from results.tables import load_index
from results.vaults.episode_bounds import episodes
from results.vaults.finding import Place, of_trial
from results.vaults.store import Vault

CHECKSUMS_SUFFIX: Final = ".sha256"


def verify(vault: Vault, place: Place | None = None) -> list[str]:
    """Return what is wrong with a vault, one line per problem; empty if nothing is.

    A vault is intact if every expected chunk exists and can be read; rows and steps match the trial's record, and the
    sweep's index if there is one; `done` starts each environment's time axis, unless training was recorded from the
    middle of the first episodes, and in JaxParty recurs every `time_limit` steps; and the files match those that
    `write_checksums` recorded, if it was called.

    Args:
      vault: read in full.
      place: where it was found, to look up the record and the index.
    """
    problems = [f"{name}: {number} chunks are missing, and read as zeros"
                for name, number in vault.missing_chunks().items()]  # fmt: skip
    problems += _counts(vault, place)
    try:
        for _ in vault.blocks():
            pass
        problems += _order(vault)
    except VaultError as error:
        problems.append(str(error).removeprefix(f"{vault.path}: "))
    return problems + compare_checksums(vault.path)


def write_checksums(vault: Vault) -> Path:
    """Write the checksums of the vault's files beside it, to `<uid>.sha256`, in the format of `sha256sum -c`."""
    file = _checksum_file(vault.path)
    lines = [f"{_sha256(path)}  {vault.path.name}/{name}\n" for name, path in _files(vault.path).items()]
    try:
        file.write_text("".join(lines), encoding="utf-8")
    except OSError as error:
        raise VaultError(
            f"{file}: cannot be written ({error.strerror}); copy the vault to a writable folder"
        ) from error
    return file


def compare_checksums(path: Path) -> list[str]:
    """Return the differences from the checksums beside the vault; empty if there are none."""
    file = _checksum_file(path)
    if not file.is_file():
        return []
    known = {}
    for line in file.read_text(encoding="utf-8").splitlines():
        digest, _, name = line.partition("  ")
        known[name.removeprefix(f"{path.name}/")] = digest
    found = _files(path)
    problems = [f"{name}: is gone since its checksum was written" for name in known if name not in found]
    problems += [f"{name}: is new since the checksums were written" for name in found if name not in known]
    changed = [name for name in known if name in found and _sha256(found[name]) != known[name]]
    return problems + [f"{name}: has changed since its checksum was written" for name in changed]


def _counts(vault: Vault, place: Place | None) -> list[str]:
    if place is None or not place.trial_id:
        return []
    expected = [("record.json", one.rows, one.steps) for one in of_trial(place.folder) if one.uid == vault.uid]
    if not expected:
        return ["record.json does not know this vault"]
    try:
        index = load_index(place.folder.parent)
    except RecordError:
        index = None
    if index is not None:
        of_row = index[index["trial_id"] == place.trial_id]
        for uids, rows, steps in zip(*(of_row[f"vault.{vault.kind}.{name}"] for name in ("uid", "rows", "steps")),
                                     strict=True):  # fmt: skip
            if uids == vault.uid:  # for several seeds the index has the sum of their numbers
                expected.append(("the sweep's index", int(rows), int(steps)))
    return [
        f"holds {vault.rows} environments × {vault.steps} steps, but {where} says {rows} × {steps}"
        for where, rows, steps in expected
        if (rows, steps) != (vault.rows, vault.steps)
    ]


def _order(vault: Vault) -> list[str]:
    """Return where the time axis is inconsistent."""
    if vault.metadata.get("stride"):
        return []
    problems = []
    first = vault.read(["done"], slice(0, 1))["done"][:, 0]
    if not _begins_midway(vault):
        problems += [f"environment {env}: does not begin with an episode" for env in np.flatnonzero(~first)]
    limit = vault.time_limit
    if "payoff" not in vault.config.get("env", {}).get("scenario", {}).get("task_config", {}) or limit is None:
        return problems
    for one in episodes(vault):
        if (one.whole and one.length != limit) or one.length > limit:
            problems.append(
                f"environment {one.env}: the episode at step {one.start} has {one.length} steps, not {limit}"
            )
    return problems


def _begins_midway(vault: Vault) -> bool:
    """Return whether environments were played before recording began (`arch.stagger_episodes`)."""
    return vault.kind == "train" and bool(vault.config.get("arch", {}).get("stagger_episodes"))


def _checksum_file(path: Path) -> Path:
    return path.with_name(path.name + CHECKSUMS_SUFFIX)


def _files(path: Path) -> dict[str, Path]:
    return {str(file.relative_to(path)): file for file in sorted(path.rglob("*")) if file.is_file()}


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


__all__ = ["compare_checksums", "verify", "write_checksums"]
