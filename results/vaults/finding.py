"""Find vaults: by a query on a sweep's index, of a trial, or by their folder; on disk or on S3."""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import re
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pandas as pd

from jax_party.errors import RecordError, VaultError
from jax_party.store.storage import as_folder, store_of
from jax_party.trial import transfer
from jax_party.trial.folder import read_record
from jax_party.trial.record import RECORD_FILE
from results.tables import load_index
from results.vaults.store import METADATA_FILE, Vault

KINDS: Final = ("train", "test")
_METRICS: Final = ("best.", "last.", "absolute.")
_TOKEN: Final = re.compile(r"'[^']*'|\"[^\"]*\"|`[^`]*`|\d[\w.]*(?:[eE][+-]?\d+)?|[A-Za-z_][\w.]*|@")
_WORDS: Final = frozenset({"and", "or", "not", "in", "True", "False", "None"})


@dataclass(frozen=True)
class Place:
    """The location of a vault, and what is known about it without opening it.

    Attributes:
      uid, kind: the vault's.
      trial_id, algorithm, scenario: those of its trial; empty if unknown.
      folder: the trial's folder, local or remote; for a vault on its own, the vault's folder.
      rows, steps: from the record or the index; 0 if unknown.
    """

    uid: str
    kind: str
    folder: Path
    trial_id: str = ""
    algorithm: str = ""
    scenario: str = ""
    rows: int = 0
    steps: int = 0

    @property
    def path(self) -> Path:
        """The vault's folder, once the trial's folder is local."""
        inside = self.folder / "vaults" / "jax_party" / self.uid
        return inside if self.trial_id else self.folder

    def open(self) -> Vault:
        """Open the vault if it is on disk; use `opened` for vaults on S3.

        Raises:
          VaultError: it is on S3, is missing, or is damaged.
        """
        if store_of(self.folder).on_disk(self.folder) is None:
            raise VaultError(f"{self.path}: is on remote storage; use results.vaults.opened([place])")
        return Vault(self.path)


def find(source: str | Path, query: str | None = None, kind: str | None = None) -> list[Place]:
    """Return the vaults of a sweep or of a trial, or the one in a vault's own folder.

    Args:
      source: a sweep's folder with an index, a trial's folder, or a vault's; the first two may be `s3://…`.
      query: a condition on the index's columns in pandas' query syntax; dotted columns need no backticks, and a
        metric's bare name means `best.<metric>`: `algorithm == "ff_mappo" and cooperation_rate > 0.5`.
      kind: `train` or `test`, None for both.

    Raises:
      RecordError: there is no such folder, no index in it, or the query is invalid.
      VaultError: nothing is found, or `kind` is invalid.
    """
    if kind not in (None, *KINDS):
        raise VaultError(f"kind {kind!r}: no such kind of vault; use {' or '.join(KINDS)}")
    folder = as_folder(source)
    store_of(folder).check(folder)
    if query is None and store_of(folder).on_disk(folder) and (folder / METADATA_FILE).is_file():
        vault = Vault(folder)
        found = [Place(vault.uid, vault.kind, folder.absolute(), rows=vault.rows, steps=vault.steps)]
    elif query is None and store_of(folder).is_file(folder / RECORD_FILE):
        found = of_trial(folder)
    else:
        found = _of_index(folder, query)
    kept = [place for place in found if kind in (None, place.kind)]
    if not kept:
        raise VaultError(_nothing(source, query, kind, found))
    return kept


def of_trial(folder: str | Path) -> list[Place]:
    """Return the vaults of a trial, from its record."""
    folder = as_folder(folder)
    folder = store_of(folder).absolute(folder)
    record = read_record(folder)
    return [
        Place(one.uid, one.kind, folder, record.trial_id, record.algorithm, record.scenario, one.rows, one.steps)
        for one in record.vaults
    ]


@contextlib.contextmanager
def opened(places: Sequence[Place]) -> Iterator[list[Vault]]:
    """Open vaults; those on S3 are copied, once per trial, to a temporary folder that is removed at the end.

    Raises:
      VaultError: a vault is missing or damaged.
    """
    brought: dict[str, Path] = {}
    with tempfile.TemporaryDirectory(prefix="jax_party-vaults-") as scratch:
        try:
            yield [_brought(place, Path(scratch), brought).open() for place in places]
        except VaultError as error:  # name the remote folder: the copy is gone when this is read
            message = str(error)
            for name, folder in brought.items():
                message = message.replace(str(folder), name)
            raise VaultError(message) from error


def _brought(place: Place, scratch: Path, brought: dict[str, Path]) -> Place:
    """Return a place that is local; `brought` has the local folders of trials that were on S3."""
    if store_of(place.folder).on_disk(place.folder) is not None:
        return place
    name = str(place.folder)
    if name not in brought:
        folder = scratch / f"{len(brought)}" / place.trial_id
        transfer.fetch_vaults(place.folder, folder)
        brought[name] = folder
    return dataclasses.replace(place, folder=brought[name])


def _of_index(folder: Path, query: str | None) -> list[Place]:
    index = load_index(folder)
    root = folder.parent if folder.suffix == ".parquet" else folder
    if not index["folder"].notna().any():
        raise RecordError(f"{folder}: no trial of the sweep has begun; run it first: make resume SWEEP={root}")
    chosen = index if query is None else select(index, query)
    places = []
    for row in chosen.to_dict("records"):
        trial = store_of(root).absolute(root / _name(row["folder"]))
        trial_id, algorithm, scenario = (_name(row[name]) for name in ("trial_id", "algorithm", "scenario"))
        for kind in KINDS:
            uids = [uid for uid in _name(row[f"vault.{kind}.uid"]).split(";") if uid]
            for uid in uids:
                rows, steps = int(row[f"vault.{kind}.rows"]) // len(uids), int(row[f"vault.{kind}.steps"])
                places.append(Place(uid, kind, trial, trial_id, algorithm, scenario, rows, steps))
    return places


def select(index: pd.DataFrame, query: str) -> pd.DataFrame:
    """Return the rows of an index for which `query` holds; see `find`.

    Raises:
      RecordError: the query names an unknown column, or is not a condition.
    """
    written = _with_columns(query, [str(name) for name in index.columns])
    try:
        mask = index.eval(written, engine="python")
        if not isinstance(mask, pd.Series) or mask.dtype not in ("bool", "boolean"):
            raise ValueError("it is not true or false for each row")
        return index[mask.fillna(False).astype(bool)]
    except Exception as error:  # errors of pandas, of Python's parser and of the columns' operators
        reason = " ".join(str(error).split())
        raise RecordError(f"query {query!r}: cannot be understood ({reason}); write a condition on columns, such as "
                          "algorithm == \"ff_mappo\" and cooperation_rate > 0.5") from error  # fmt: skip


def _with_columns(query: str, columns: Sequence[str]) -> str:
    """Return the query with its columns in backticks."""

    def quoted(match: re.Match[str]) -> str:
        word = match.group()
        if word in _WORDS or not (word[0].isalpha() or word[0] == "_"):
            if word == "@":
                raise RecordError(f"query {query!r}: @ is for variables of Python; write the value itself")
            return word
        if query[: match.start()].rstrip().endswith((")", "`")) or (match.start() and query[match.start() - 1] == "."):
            return word
        parts = word.split(".")
        for end in range(len(parts), 0, -1):
            name, rest = ".".join(parts[:end]), parts[end:]
            for column in (name, *(prefix + name for prefix in _METRICS)):
                if column in columns:
                    return ".".join([f"`{column}`", *rest])
        known = dict.fromkeys([*columns, *(name.split(".", 1)[1] for name in columns if name.startswith(_METRICS))])
        near = difflib.get_close_matches(word, known, n=3, cutoff=0.5) or ["trial_id", "algorithm", "scenario", "state"]
        raise RecordError(f"query {query!r}: the index has no column {word!r}; near it: {', '.join(near)}")

    return _TOKEN.sub(quoted, query)


def _nothing(source: Any, query: str | None, kind: str | None, found: Sequence[Place]) -> str:
    if found:
        return f"{source}: no {kind} vaults; there are {found[0].kind} vaults only: record {kind} ones with vault=both"
    if query is not None:
        return (
            f"{source}: no vault of a trial for which {query!r} holds; ask for less, or see: make index SWEEP={source}"
        )
    return f"{source}: no vaults; record them with OVERRIDES='vault=both' (docs/configs.md)"


def _name(value: Any) -> str:
    return value if isinstance(value, str) else ""


__all__ = ["Place", "find", "of_trial", "opened", "select"]
