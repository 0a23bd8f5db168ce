"""This machine's file systems as a store: files are written aside, synced and renamed; locks end with the process."""

from __future__ import annotations

import contextlib
import os
import shutil
import time
import uuid
from collections.abc import Callable, Collection, Iterable, Iterator
from pathlib import Path
from typing import Any, Final, TypeVar

from jax_party.errors import StorageError
from jax_party.store.flock import changing, hold
from jax_party.store.protocol import ChangedError, Stamp, Store, Version

A = TypeVar("A")
B = TypeVar("B")


class _Local:
    """The local store; `Store` documents the methods."""

    look_every_s = 1.0

    def absolute(self, path: Path) -> Path:
        return path.absolute()

    def on_disk(self, path: Path) -> Path | None:
        return path

    def arrow(self, folder: Path) -> tuple[str, Any]:
        return str(folder), None

    def each(self, function: Callable[[A], B], items: Iterable[A]) -> list[B]:
        return [function(item) for item in items]

    def check(self, folder: Path, writing: bool = False) -> None:
        """Do nothing: a disk shows its errors when it is used."""

    def check_new(self, folder: Path) -> None:
        there = next(place for place in (folder.absolute(), *folder.absolute().parents) if place.exists())
        if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
            raise StorageError(f"{folder}: cannot make a folder there, in {there}; name one that can be written to")

    def is_file(self, path: Path) -> bool:
        return path.is_file()

    def stamp(self, path: Path) -> Stamp | None:
        try:
            status = path.stat()
        except OSError:
            return None
        return Stamp(tag_of(status), max(0.0, time.time() - status.st_mtime))

    def read_bytes(self, path: Path) -> bytes:
        return path.read_bytes()

    def write_bytes(self, path: Path, content: bytes, durable: bool = True) -> str:
        with aside(path, durable) as place, open(place, "xb") as file:
            file.write(content)
            file.flush()
            if durable:
                os.fsync(file.fileno())
            return tag_of(os.fstat(file.fileno()))

    def put_file(self, local: Path, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        with aside(path) as place:
            shutil.copyfile(local, place)
            sync(place)

    def get_file(self, path: Path, local: Path) -> None:
        self.put_file(path, local)

    def remove(self, paths: Iterable[Path]) -> None:
        for path in paths:
            path.unlink(missing_ok=True)

    def read_version(self, path: Path) -> Version | None:
        try:
            with open(path, "rb") as file:
                status = os.fstat(file.fileno())
                return Version(file.read(), tag_of(status), max(0.0, time.time() - status.st_mtime))
        except FileNotFoundError:
            return None

    def write_version(self, path: Path, content: bytes, tag: str | None) -> str:
        path.parent.mkdir(parents=True, exist_ok=True)
        with changing(path.parent):
            there = self.stamp(path)
            if (there.tag if there else None) != tag:
                raise ChangedError(f"{path}: has been changed by another process")
            return self.write_bytes(path, content)

    def change(self, path: Path, change: Callable[[bytes], bytes]) -> bytes:
        if not path.parent.is_dir():
            raise FileNotFoundError(f"{path}: no such file")
        with changing(path.parent):
            content = change(path.read_bytes())
            self.write_bytes(path, content)
        return content

    def is_folder(self, folder: Path) -> bool:
        return folder.is_dir()

    def make_folder(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)

    def make_new_folder(self, folder: Path) -> bool:
        folder.parent.mkdir(parents=True, exist_ok=True)
        try:
            folder.mkdir()
        except FileExistsError:
            if not folder.exists():
                raise
            return False
        return True

    def lock(self, folder: Path, timeout: float = 5.0) -> contextlib.AbstractContextManager[None]:
        return hold(folder, timeout)

    def files_below(self, folder: Path) -> list[str]:
        found = (Path(place, name) for place, _, names in os.walk(folder) for name in names)
        return sorted(path.relative_to(folder).as_posix() for path in found)

    def tags_below(self, folder: Path, places: Collection[str], children: Collection[str]) -> dict[str, str]:
        tags: dict[str, str] = {}
        with contextlib.suppress(FileNotFoundError, NotADirectoryError), os.scandir(folder) as entries:
            below = sorted(entry.name for entry in entries if children and entry.is_dir())
            _add_tags(tags, folder, (f"{child}/{name}" for child in below for name in children))
        for place in places:
            with contextlib.suppress(FileNotFoundError, NotADirectoryError), os.scandir(folder / place) as entries:
                tags |= {f"{place}/{entry.name}": tag_of(entry.stat()) for entry in entries if entry.is_file()}
        _add_tags(tags, folder, (place for place in places if (folder / place).is_file()))
        return tags

    def folders_with(self, folder: Path, names: Collection[str], depth: int = 1) -> list[str]:
        if depth == 1:
            return sorted({path.relative_to(folder).parts[0] for name in names for path in folder.glob(f"*/{name}")})
        return sorted(_walk(folder, names, depth))


def tag_of(status: os.stat_result) -> str:
    """Return the tag of a local file. Each write is renamed into place, so it has another inode even within a tick."""
    return f"{status.st_size}-{status.st_mtime_ns}-{status.st_ino}"


@contextlib.contextmanager
def aside(path: Path, durable: bool = True, name: str | None = None) -> Iterator[Path]:
    """Yield a path beside `path` to write to; rename it to `path` on success, remove it on failure.

    Args:
      path: a file, or a folder that does not exist yet; nobody ever sees it half written.
      durable: whether the rename must survive a power cut.
      name: of the path beside it, if only one process writes at a time; leftovers of a killed process are removed
        first. None: a new name each time.
    """
    place = path.with_name(name or f".{path.name}.{os.getpid()}-{uuid.uuid4().hex[:8]}.tmp")
    if name is not None:
        _remove(place)
    try:
        yield place
        os.replace(place, path)
    except BaseException:
        _remove(place)
        raise
    if durable:
        sync(path.parent)


def _remove(place: Path) -> None:
    if place.is_dir():
        shutil.rmtree(place)
    else:
        place.unlink(missing_ok=True)


def sync(path: Path) -> None:
    """Flush a file or folder to disk, so that it survives a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _add_tags(tags: dict[str, str], folder: Path, names: Iterable[str]) -> None:
    for name in names:
        with contextlib.suppress(OSError):
            tags[name] = tag_of(os.stat(f"{folder}/{name}"))  # noqa: PTH116 -- three times as fast


def _walk(folder: Path, names: Collection[str], depth: int) -> Iterator[str]:
    for place, below, _ in os.walk(folder):
        parts = Path(place).relative_to(folder).parts
        if parts and any(Path(place, name).is_file() for name in names):
            yield "/".join(parts)
            below.clear()
        elif len(parts) >= depth:
            below.clear()


LOCAL: Final[Store] = _Local()
"""The store of every path of this machine."""
