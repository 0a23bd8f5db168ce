"""Plays a trial that is on object storage in a local folder.

On storage a trial is a few objects: `config.yaml`, `record.json` and `metrics/` as they are; each checkpoint a tar,
`checkpoints/<step>-<attempt>.tar`; the vaults in tars `vaults/<step>-<attempt>.tar`, each with the files that are new
since the one before, and a single one once the trial is complete; and `mirror.json`, which names the tars that belong
together. Objects that it does not name were left behind by a kill."""

from __future__ import annotations

import dataclasses
import logging
import os
import shutil
import tarfile
import uuid
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from jax_party.errors import StorageError
from jax_party.store.protocol import ChangedError
from jax_party.store.scratch import make_scratch
from jax_party.store.storage import store_of
from jax_party.trial.folder import CONFIG_FILE, add_retry, change_record, read_record
from jax_party.trial.marl_eval import MARL_EVAL_FILE
from jax_party.trial.metrics import METRICS_FILE
from jax_party.trial.record import RECORD_FILE, TrialRecord
from jax_party.trial.states import FINISHED
from jax_party.trial.transfer import (
    CHECKPOINTS,
    MIRROR_FILE,
    VAULTS,
    Contents,
    download,
    is_whole,
    merge_records,
    number_of,
    step_of,
)

_Stamp = tuple[int, int, int]
_logger = logging.getLogger(__name__)


@dataclass
class _Snapshot:
    """A trial's folder between two periods: the bytes of small files, hard links to the others."""

    folder: Path
    record: TrialRecord
    small: dict[str, bytes]
    checkpoints: list[str]
    new_checkpoints: list[str]
    new_vault_files: bool
    stamps: dict[str, _Stamp] = field(default_factory=dict)


class Mirror:
    """Plays a remote trial in a local folder.

    `open` takes the trial, so its previous owner can no longer write. `push` uploads the results of a period while the
    next one runs; at most one upload is under way.

    Args:
      remote: the trial's folder.
    """

    def __init__(self, remote: Path) -> None:
        self.remote = remote
        self._store = store_of(remote)
        self._scratch = make_scratch(remote.name)
        self.local = self._scratch / remote.name
        self._contents = Contents()
        self._tag: str | None = None
        self._tags: dict[str, str | None] = {}
        self._sent: dict[str, bytes] = {}
        self._stamps: dict[str, _Stamp] = {}
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="mirror")
        self._under_way: Future[None] | None = None

    def open(self) -> Path:
        """Take the trial and download its files; return the local folder.

        Raises:
          RecordError, CheckpointError, VaultError: the files on storage cannot be used.
          StorageError: another worker is taking it at the same time, or the storage refuses.
        """
        self.local.mkdir()
        path = self.remote / MIRROR_FILE
        there = self._store.read_version(path)
        before = Contents.read(there, path)
        self._contents = dataclasses.replace(before, attempt=before.attempt + 1)
        try:
            self._tag = self._store.write_version(path, self._contents.to_bytes(), there.tag if there else None)
        except ChangedError as error:
            raise self._taken() from error
        self._tags, passed_over = download(self.remote, self.local, before)
        self._sent = {name: (self.local / name).read_bytes() for name in self._tags if (self.local / name).exists()}
        self._stamps = stamps_of(self.local / VAULTS)
        if before.attempt:
            self._remove_strays()
        if passed_over:
            add_retry(self.local, passed_over)
        return self.local

    def push(self) -> None:
        """Wait for the previous upload, then start uploading what is new.

        Raises:
          StorageError: the previous upload failed, or another worker has taken the trial.
        """
        self.wait()
        snapshot = self._snapshot()
        self._under_way = self._pool.submit(self._commit, snapshot)

    def wait(self) -> None:
        """Wait for the upload to finish.

        Raises:
          StorageError: it failed, or another worker has taken the trial.
        """
        under_way, self._under_way = self._under_way, None
        if under_way is not None:
            under_way.result()

    def close(self) -> None:
        """Wait for the upload and remove the local folder; may be called twice."""
        try:
            self.wait()
        except StorageError as error:
            _logger.warning("%s", error)
        finally:
            self._pool.shutdown()
            shutil.rmtree(self._scratch, ignore_errors=True)

    # -- One push ------------------------------------------------------------------------------------------------------

    def _snapshot(self) -> _Snapshot:
        """Return what to upload. The next period cannot change it, because files are replaced, never written into."""
        folder = self._scratch / f"push-{uuid.uuid4().hex[:8]}"
        folder.mkdir()
        record = read_record(self.local)
        small = {
            name: (self.local / name).read_bytes()
            for name in (CONFIG_FILE, METRICS_FILE, MARL_EVAL_FILE, RECORD_FILE)
            if (self.local / name).exists()
        }
        kept = self.local / CHECKPOINTS
        steps = sorted(filter(is_whole, (path.name for path in kept.iterdir())), key=number_of) if kept.is_dir() else []
        sent = {step_of(name) for name in self._contents.checkpoints}
        new = [step for step in steps if step not in sent]
        for step in new:
            link_files(self.local, folder, [path for path in (kept / step).rglob("*") if path.is_file()])
        stamps = stamps_of(self.local / VAULTS)
        changed = [name for name, stamp in stamps.items() if self._stamps.get(name) != stamp]
        if record.state in FINISHED and len(self._contents.vaults) + bool(changed) > 1:  # one tar in place of several
            changed = list(stamps)
        link_files(self.local, folder, [self.local / VAULTS / name for name in changed])
        return _Snapshot(folder, record, small, steps, new, bool(changed), stamps)

    def _commit(self, snapshot: _Snapshot) -> None:
        """Upload vaults, metrics and checkpoints, then mirror.json, which makes them count, then the record."""
        try:
            self._refuse_if_taken()
            before, finished = self._contents, snapshot.record.state in FINISHED
            vaults = before.vaults
            if snapshot.new_vault_files:
                name = self._new_name(VAULTS, str(snapshot.record.env_steps))
                self._put_tar(snapshot.folder, VAULTS, name)
                vaults = (name,) if finished else (*vaults, name)
            for name in (CONFIG_FILE, METRICS_FILE, MARL_EVAL_FILE):
                self._put_small(name, snapshot.small.get(name))
            checkpoints = [name for name in before.checkpoints if step_of(name) in snapshot.checkpoints]
            for step in snapshot.new_checkpoints:
                checkpoints.append(self._new_name(CHECKPOINTS, step))
                self._put_tar(snapshot.folder, f"{CHECKPOINTS}/{step}", checkpoints[-1])
            after = Contents(before.attempt, tuple(checkpoints), vaults)
            if after != before:
                self._replace_contents(after)
            self._stamps = snapshot.stamps
            self._put_record(snapshot)
            gone = {*before.checkpoints, *before.vaults} - {*after.checkpoints, *after.vaults}
            self._store.remove(self.remote / name for name in gone)
        finally:
            shutil.rmtree(snapshot.folder, ignore_errors=True)

    def _put_tar(self, folder: Path, what: str, name: str) -> None:
        """Upload one of a snapshot's folders as a tar."""
        packed = folder / f"{name.replace('/', '-')}.new"
        with tarfile.open(packed, "w") as tar:
            tar.add(folder / what, arcname=what)
        self._store.put_file(packed, self.remote / name)
        packed.unlink()

    def _put_small(self, name: str, content: bytes | None) -> None:
        """Upload a small file if it has changed; leave one that another worker has written."""
        if content is None or self._sent.get(name) == content:
            return
        path = self.remote / name
        while True:
            try:
                self._tags[name] = self._store.write_version(path, content, self._tags.get(name))
            except ChangedError:  # by us, before an answer was lost; or by whoever had the trial before
                self._refuse_if_taken()
                there = self._store.read_version(path)
                self._tags[name] = there.tag if there else None
            else:
                self._sent[name] = content
                return

    def _put_record(self, snapshot: _Snapshot) -> None:
        if self._sent.get(RECORD_FILE) != snapshot.small[RECORD_FILE]:
            change_record(self.remote, lambda there: merge_records(there, snapshot.record))
            self._sent[RECORD_FILE] = snapshot.small[RECORD_FILE]

    def _replace_contents(self, after: Contents) -> None:
        try:
            self._tag = self._store.write_version(self.remote / MIRROR_FILE, after.to_bytes(), self._tag)
        except ChangedError as error:
            raise self._taken() from error
        self._contents = after

    def _refuse_if_taken(self) -> None:
        there = self._store.read_version(self.remote / MIRROR_FILE)
        if there is None or there.tag != self._tag:
            raise self._taken()

    def _taken(self) -> StorageError:
        return StorageError(f"{self.remote}: another worker has taken this trial; this one lets go of it")

    def _new_name(self, kind: str, step: str) -> str:
        taken = {*self._contents.checkpoints, *self._contents.vaults}
        name = f"{kind}/{step}-{self._contents.attempt}"
        number = 1
        while f"{name}.tar" in taken:
            number += 1
            name = f"{kind}/{step}-{self._contents.attempt}.{number}"
        return f"{name}.tar"

    def _remove_strays(self) -> None:
        """Delete tars that a kill, or a worker that had lost the trial, left behind."""
        known = {*self._contents.checkpoints, *self._contents.vaults}
        names = [name for name in self._store.files_below(self.remote) if name.endswith(".tar") and name not in known]
        self._store.remove(self.remote / name for name in names)


def stamps_of(folder: Path) -> dict[str, _Stamp]:
    """Return a stamp per file that changes with its content; skip lock files and unfinished files."""
    stamps = {}
    for path in sorted(folder.rglob("*")) if folder.is_dir() else []:
        parts = path.relative_to(folder).parts
        if any(part.endswith((".lock", ".new", ".__lock")) for part in parts) or not path.is_file():
            continue
        status = path.stat()
        stamps[str(Path(*parts))] = (status.st_ino, status.st_size, status.st_mtime_ns)
    return stamps


def link_files(root: Path, into: Path, files: Sequence[Path]) -> None:
    """Hard-link files below `root` to the same relative paths below `into`."""
    for path in files:
        place = into / path.relative_to(root)
        place.parent.mkdir(parents=True, exist_ok=True)
        os.link(path, place)
