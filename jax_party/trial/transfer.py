"""Download a trial, or a part of it, from object storage into a local folder."""

from __future__ import annotations

import dataclasses
import json
import logging
import shutil
import socket
import tarfile
import uuid
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from jax_party.errors import CheckpointError, RecordError, VaultError
from jax_party.store.protocol import Version
from jax_party.store.storage import store_of
from jax_party.trial.folder import CONFIG_FILE, TAKEOVER, read_record
from jax_party.trial.marl_eval import MARL_EVAL_FILE
from jax_party.trial.metrics import METRICS_FILE
from jax_party.trial.record import RECORD_FILE, TrialRecord
from jax_party.trial.states import FINISHED, State

_logger = logging.getLogger(__name__)

MIRROR_FILE: Final = "mirror.json"
CHECKPOINTS: Final = "checkpoints"
VAULTS: Final = "vaults"


@dataclass(frozen=True)
class Contents:
    """The content of mirror.json: the tars of the trial, oldest first, and the attempt that wrote it."""

    attempt: int = 0
    checkpoints: tuple[str, ...] = ()
    vaults: tuple[str, ...] = ()

    @classmethod
    def read(cls, version: Version | None, path: Path) -> Contents:
        """Parse mirror.json as `Store.read_version` returned it; None is an empty one.

        Raises:
          RecordError: it is damaged.
        """
        if version is None:
            return cls()
        try:
            data = json.loads(version.content)
            return cls(int(data["attempt"]), tuple(data[CHECKPOINTS]), tuple(data[VAULTS]))
        except (ValueError, KeyError, TypeError) as error:
            raise RecordError(
                f"{path}: damaged ({error}); remove the trial's {CHECKPOINTS}, {VAULTS} and this file to train it again"
            ) from error

    def to_bytes(self) -> bytes:
        """Return JSON that is unique to this write, so that its tag tells who wrote it."""
        data = {"attempt": self.attempt, CHECKPOINTS: self.checkpoints, VAULTS: self.vaults}
        return (json.dumps(data | {"host": socket.gethostname(), "id": uuid.uuid4().hex}, indent=2) + "\n").encode()


def download(remote: Path, local: Path, contents: Contents) -> tuple[dict[str, str | None], str | None]:
    """Download a trial into an empty local folder, in the layout of a local trial.

    A checkpoint that cannot be read is skipped with a warning; the one before it is used.

    Returns:
      The tags of its small files, and a message about skipped checkpoints, if any.

    Raises:
      RecordError: it has no record or config.
      CheckpointError, VaultError: none of its checkpoints, or not all of its vaults, can be read.
    """
    small = (CONFIG_FILE, RECORD_FILE, METRICS_FILE, MARL_EVAL_FILE)
    store = store_of(remote)
    versions = store.each(lambda name: store.read_version(remote / name), small)
    found = {name: version for name, version in zip(small, versions, strict=True) if version is not None}
    for name, version in found.items():
        (local / name).parent.mkdir(parents=True, exist_ok=True)
        (local / name).write_bytes(version.content)
    for name in (CONFIG_FILE, RECORD_FILE):
        if name not in found:
            raise RecordError(f"{remote / name}: no such file; give a trial's folder")
    unpacked = {name: _unpack(remote, local, name) for name in contents.checkpoints}
    bad = {step_of(name): problem for name, problem in unpacked.items() if problem is not None}
    if bad and len(bad) == len(unpacked):
        raise CheckpointError(f"{remote}: none of {', '.join(unpacked)} can be read; restore them, or remove the "
                              f"trial's {CHECKPOINTS}, {VAULTS} and {MIRROR_FILE} to train it again")  # fmt: skip
    for name in contents.vaults:
        problem = _unpack(remote, local, name)
        if problem is not None:
            raise VaultError(f"{remote / name}: cannot be read ({problem}); restore it, or remove the trial's "
                             f"{CHECKPOINTS}, {VAULTS} and {MIRROR_FILE} to train it again")  # fmt: skip
    return {name: version.tag for name, version in found.items()}, passed_over(bad, unpacked)


def passed_over(bad: Mapping[str, str], names: Iterable[str]) -> str | None:
    """Return a message: which checkpoints could not be read, why, and where the trial continues; None if all could."""
    if not bad:
        return None
    left = [int(step) for step in map(step_of, names) if step not in bad and step.isdigit()]
    where = f"from checkpoint {max(left)}" if left else "from the start"
    problems = (f"checkpoint {step} cannot be read ({problem})" for step, problem in bad.items())
    return f"{', '.join(problems)}: went on {where}"


def fetch(remote: Path, local: Path) -> TrialRecord:
    """Download a trial into a new local folder, in the layout of a local trial.

    Raises:
      RecordError: there is no such trial, or the folder is there already.
      CheckpointError, VaultError: what is on storage cannot be read.
    """
    return _fetch(remote, local, lambda contents: contents)


def fetch_vaults(remote: Path, local: Path) -> TrialRecord:
    """Download a trial without its checkpoints."""
    return _fetch(remote, local, lambda contents: dataclasses.replace(contents, checkpoints=()))


def _fetch(remote: Path, local: Path, wanted: Callable[[Contents], Contents]) -> TrialRecord:
    if local.exists() and (not local.is_dir() or any(local.iterdir())):
        raise RecordError(f"{local}: is there already; name a new folder")
    path = remote / MIRROR_FILE
    local.mkdir(parents=True, exist_ok=True)
    while True:
        before = store_of(path).read_version(path)
        try:
            download(remote, local, wanted(Contents.read(before, path)))
            return read_record(local)
        except _UNREADABLE:
            after = store_of(path).read_version(path)
            shutil.rmtree(local)
            if (after.tag if after else None) == (before.tag if before else None):
                raise
            local.mkdir()  # a worker has put newer tars in the place of these meanwhile


def merge_records(there: TrialRecord, mine: TrialRecord) -> TrialRecord:
    """Return a worker's record merged with what the driver wrote on storage: retries, and how the trial ended.

    The record of a worker that took the trial later wins.
    """
    if there.attempts > mine.attempts:
        return there
    retries = (*there.retries, *(reason for reason in mine.retries if reason not in there.retries))
    mine = dataclasses.replace(mine, retries=retries)
    decided = there.state is not State.RUNNING and there.attempts == mine.attempts
    if decided and (there.state in FINISHED or mine.state not in FINISHED):
        return dataclasses.replace(mine, state=there.state, error=there.error, ended_at=there.ended_at)
    return mine


_UNREADABLE: Final = (RecordError, CheckpointError, VaultError)


def _unpack(remote: Path, local: Path, name: str) -> str | None:
    """Unpack one of a trial's tars; return the reason if it cannot be read, else None."""
    packed = local / f".{name.replace('/', '-')}"
    try:
        store_of(remote).get_file(remote / name, packed)
        with tarfile.open(packed) as tar:
            tar.extractall(local, filter="data")
    except (FileNotFoundError, tarfile.TarError, EOFError) as error:
        _logger.warning("%s: cannot be read (%s)", remote / name, error)
        shutil.rmtree(local / CHECKPOINTS / step_of(name), ignore_errors=True)
        return " ".join(str(error).split())[:200] or type(error).__name__
    finally:
        packed.unlink(missing_ok=True)
    return None


def step_of(name: str) -> str:
    """Return the step in the name of a tar, `checkpoints/<step>-<attempt>.tar`."""
    return name.rpartition("/")[2].partition("-")[0]


def is_whole(name: str) -> bool:
    """Return whether a folder among the checkpoints is complete: a checkpoint, or a learner that was taken over."""
    return name.removeprefix(TAKEOVER).isdigit()


def number_of(name: str) -> int:
    """Return the step in the name of a checkpoint's folder, or of the folder of a learner that was taken over."""
    return int(name.removeprefix(TAKEOVER))
