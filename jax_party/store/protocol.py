"""The protocol of storage; `local` and `s3` implement it."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol, TypeVar

from jax_party.errors import RecordError, StorageError

LOCK_FILE: Final = ".lock"
"""Held by the process that works in a folder; on object storage, the lease."""
CHANGE_FILE: Final = ".change.lock"
"""Held while a process changes a file of a folder that machines share by a network file system."""

A = TypeVar("A")
B = TypeVar("B")


class ChangedError(StorageError):
    """The file has changed since the version to be replaced was read."""


class FolderHeld(RecordError):
    """Another process holds the folder."""


@dataclass(frozen=True)
class Version:
    """A file as it was read.

    Attributes:
      content: its bytes.
      tag: identifies this version; it changes with the content.
      age_s: seconds since it was written, by the storage's clock.
    """

    content: bytes
    tag: str
    age_s: float = 0.0


@dataclass(frozen=True)
class Stamp:
    """A file's tag and age in seconds, known without reading it."""

    tag: str
    age_s: float


class Store(Protocol):
    """Files on one kind of storage. Every path passed to a method must be on it.

    A file appears whole or not at all. Methods raise OSError or StorageError if the storage refuses; requests to object
    storage are first retried for up to `retry.patience_s()` seconds.
    """

    @property
    def look_every_s(self) -> float:
        """Seconds to wait between polls for changes."""

    def absolute(self, path: Path) -> Path:
        """Return the path from the root."""

    def on_disk(self, path: Path) -> Path | None:
        """Return the path at which other programs on this machine can open it; None if they cannot."""

    def arrow(self, folder: Path) -> tuple[str, Any]:
        """Return the folder as text and its `pyarrow.fs` file system (None for the local one)."""

    def each(self, function: Callable[[A], B], items: Iterable[A]) -> list[B]:
        """Call the function on each item and return the results in order; on object storage, in threads."""

    # Before anything is done

    def check(self, folder: Path, writing: bool = False) -> None:
        """Check, without retries, that the storage answers and accepts the credentials, and a write if `writing`.

        Raises:
          StorageError: it does not.
        """

    def check_new(self, folder: Path) -> None:
        """Check that a folder could be made there, without writing anything.

        Raises:
          StorageError: it could not.
        """

    # Files

    def is_file(self, path: Path) -> bool:
        """Return whether there is such a file."""

    def stamp(self, path: Path) -> Stamp | None:
        """Return the tag and age of a file; None if there is none."""

    def read_bytes(self, path: Path) -> bytes:
        """Return the content of a file; raise FileNotFoundError if there is none."""

    def write_bytes(self, path: Path, content: bytes, durable: bool = True) -> str:
        """Replace the content of a file, or leave it unchanged on failure; return its tag.

        Args:
          path: in an existing folder.
          content: the new bytes.
          durable: whether it must survive a power cut.
        """

    def put_file(self, local: Path, path: Path) -> None:
        """Copy a local file to `path`."""

    def get_file(self, path: Path, local: Path) -> None:
        """Copy the file at `path` to a local one; raise FileNotFoundError if there is none."""

    def remove(self, paths: Iterable[Path]) -> None:
        """Delete files; ignore those that do not exist."""

    # Versions

    def read_version(self, path: Path) -> Version | None:
        """Return a file with its tag; None if there is none."""

    def write_version(self, path: Path, content: bytes, tag: str | None) -> str:
        """Replace the version that has this tag (None: there is no file yet); return the new tag.

        Raises:
          ChangedError: the file has another version.
        """

    def change(self, path: Path, change: Callable[[bytes], bytes]) -> bytes:
        """Read, change and write a file atomically, so that no concurrent change is lost.

        `change` is called again if another process writes in between; if it raises, the file stays unchanged.

        Returns:
          The new content.

        Raises:
          FileNotFoundError: there is no such file.
        """

    # Folders

    def is_folder(self, folder: Path) -> bool:
        """Return whether there is such a folder; on object storage every prefix is one."""

    def make_folder(self, folder: Path) -> None:
        """Create a folder and its parents, if they are missing."""

    def make_new_folder(self, folder: Path) -> bool:
        """Create a folder; return False if it exists already. One of several processes that try succeeds."""

    def lock(self, folder: Path, timeout: float = 5.0) -> AbstractContextManager[None]:
        """Hold an existing folder for this process until the context ends or the process dies.

        Raises:
          FolderHeld, StorageError: a living process holds it, and still does after `timeout` seconds.
          RecordError: there is no such folder, or it cannot be locked.
        """

    def files_below(self, folder: Path) -> list[str]:
        """Return the names of all files below a folder, relative to it and sorted; none if it is missing."""

    def tags_below(self, folder: Path, places: Collection[str], children: Collection[str]) -> Mapping[str, str]:
        """Return the tags of some files below a folder, by their names relative to it.

        Args:
          folder: where to look; missing files and folders are passed over.
          places: names of files and folders right in it; every file directly in such a folder counts.
          children: names of files, to be found in each folder right below it.
        """

    def folders_with(self, folder: Path, names: Collection[str], depth: int = 1) -> list[str]:
        """Return the folders that hold a file of one of these names, relative to `folder` and sorted.

        Args:
          folder: where to look; it is no result itself.
          names: of files.
          depth: how far below; what lies in a folder that was found is not looked at.
        """


def without_password(text: str) -> str:
    """Return the text with credentials (anything before an @ in an address) removed."""
    return re.sub(r"//\S*@", "//…@", text)
