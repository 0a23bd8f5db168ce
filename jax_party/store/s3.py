"""The store on object storage that speaks S3.

Objects appear whole or not at all, but cannot be locked or appended to: a write can name the version that it replaces,
and a folder is held by a lease. Credentials come from AWS's own chain and the endpoint from `AWS_ENDPOINT_URL`; neither
is written anywhere. Storage that refuses for a while is asked again for up to `retry.patience_s()` seconds.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import logging
import os
import uuid
from collections.abc import Callable, Collection, Iterable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any, Final, TypeVar

import tenacity
from upath import UPath

from jax_party.errors import StorageError
from jax_party.store import lease
from jax_party.store.local import aside
from jax_party.store.protocol import LOCK_FILE, ChangedError, Stamp, Store, Version, without_password
from jax_party.store.retry import limit_s, patiently

MAX_PAUSE_S: Final = 10.0
THREADS: Final = 16
_WRITE: Final = "write"
"""Metadata of an object: the number of the write that made it."""
_OPTIONS: Final[dict[str, Any]] = {
    "use_listings_cache": False,
    "config_kwargs": {"connect_timeout": 5, "read_timeout": 30, "retries": {"max_attempts": 1}},
}

A = TypeVar("A")
B = TypeVar("B")

_logger = logging.getLogger(__name__)


def folder(place: str) -> Path:
    """Return the folder `bucket/prefix`."""
    found: Any = UPath(f"s3://{place}", **_OPTIONS)
    return found


class _S3:
    """The store on S3; `Store` documents the methods."""

    look_every_s = 10.0

    def absolute(self, path: Path) -> Path:
        return path

    def on_disk(self, path: Path) -> Path | None:
        return None

    def arrow(self, folder: Path) -> tuple[str, Any]:
        from pyarrow.fs import FSSpecHandler, PyFileSystem

        remote: Any = folder
        return remote.path, PyFileSystem(FSSpecHandler(remote.fs))

    def each(self, function: Callable[[A], B], items: Iterable[A]) -> list[B]:
        with ThreadPoolExecutor(THREADS) as pool:
            return list(pool.map(function, items))

    def check(self, folder: Path, writing: bool = False) -> None:
        bucket, _ = _place(folder)
        try:
            _filesystem(folder).call_s3("head_bucket", Bucket=bucket)
        except FileNotFoundError:
            raise StorageError(f"{folder}: there is no bucket {bucket}; create it, or name another") from None
        except Exception as error:
            raise _explained(folder, error) from error
        if writing:
            _check_writing(folder)

    def check_new(self, folder: Path) -> None:
        self.check(folder)

    def is_file(self, path: Path) -> bool:
        return self.stamp(path) is not None

    def stamp(self, path: Path) -> Stamp | None:
        found = _head(path)
        return None if found is None else Stamp(found["ETag"], _age_s(found))

    def read_bytes(self, path: Path) -> bytes:
        content: bytes = request(path, lambda: _filesystem(path).cat_file(_key(path)))
        return content

    def write_bytes(self, path: Path, content: bytes, durable: bool = True) -> str:
        return str(request(path, lambda: _put(path, content), writing=True))

    def put_file(self, local: Path, path: Path) -> None:
        request(path, lambda: _filesystem(path).put_file(str(local), _key(path)), writing=True)

    def get_file(self, path: Path, local: Path) -> None:
        with aside(local, durable=False) as place:
            request(path, lambda: _filesystem(path).get_file(_key(path), str(place)))

    def remove(self, paths: Iterable[Path]) -> None:
        for path in paths:
            bucket, key = _place(path)
            call = functools.partial(_filesystem(path).call_s3, "delete_object", Bucket=bucket, Key=key)
            request(path, call, writing=True)

    def read_version(self, path: Path) -> Version | None:
        try:
            return request(path, lambda: _get(path))
        except FileNotFoundError:
            return None

    def write_version(self, path: Path, content: bytes, tag: str | None) -> str:
        """As in `Store`; on storage without conditional writes, compare the tag before writing.

        Each write carries a number, which tells our write whose answer was lost from another process's equal one.
        """
        condition = {"IfNoneMatch": "*"} if tag is None else {"IfMatch": tag}
        number = uuid.uuid4().hex
        try:
            return request(path, lambda: _put(path, content, Metadata={_WRITE: number}, **condition), writing=True)
        except (OSError, StorageError) as error:
            code = _code(error)
            if code not in ("PreconditionFailed", "412", "NotImplemented", "501", "NoSuchKey", "404"):
                raise
            there = _head(path)
            if there is not None and there["Metadata"].get(_WRITE) == number:  # it was written, and the answer was lost
                return str(there["ETag"])
            if code in ("NotImplemented", "501") and (there["ETag"] if there else None) == tag:
                return self.write_bytes(path, content)
            raise ChangedError(f"{path}: has been changed by another process") from error

    def change(self, path: Path, change: Callable[[bytes], bytes]) -> bytes:
        while True:
            there = self.read_version(path)
            if there is None:
                raise FileNotFoundError(f"{path}: no such file")
            content = change(there.content)
            with contextlib.suppress(ChangedError):
                self.write_version(path, content, there.tag)
                return content

    def is_folder(self, folder: Path) -> bool:
        return True

    def make_folder(self, folder: Path) -> None:
        """Do nothing: a prefix exists once it has an object."""

    def make_new_folder(self, folder: Path) -> bool:
        return lease.claim(self, folder / LOCK_FILE)

    def lock(self, folder: Path, timeout: float = 5.0) -> contextlib.AbstractContextManager[None]:
        """Hold a lease on the folder; do not wait for a living holder, whatever `timeout` is."""
        return lease.lease(self, folder / LOCK_FILE)

    def files_below(self, folder: Path) -> list[str]:
        return list(_tags(folder))

    def tags_below(self, folder: Path, places: Collection[str], children: Collection[str]) -> dict[str, str]:
        def wanted(name: str) -> bool:
            return name in places or name.rpartition("/")[0] in places or name.partition("/")[2] in children

        return {name: tag for name, tag in _tags(folder).items() if wanted(name)}

    def folders_with(self, folder: Path, names: Collection[str], depth: int = 1) -> list[str]:
        ends = tuple(f"/{name}" for name in names)
        holding = {name.removesuffix(end) for name in self.files_below(folder) for end in ends if name.endswith(end)}
        found: list[str] = []
        for place in sorted(name for name in holding if name.count("/") < depth):
            if not any(place.startswith(f"{above}/") for above in found):
                found.append(place)
        return found


def _check_writing(folder: Path) -> None:
    path = folder / f".write-{uuid.uuid4().hex}"
    bucket, key = _place(path)
    try:
        _put(path, b"")
        _filesystem(path).call_s3("delete_object", Bucket=bucket, Key=key)
    except PermissionError as error:
        raise StorageError(
            f"{folder}: the credentials may read there, but not write and delete ({_reason(error)}); give them "
            "s3:PutObject and s3:DeleteObject, or name another folder"
        ) from error
    except Exception as error:
        raise _explained(folder, error) from error


# -- Requests ----------------------------------------------------------------------------------------------------------


def request(path: Path, call: Callable[[], A], writing: bool = False) -> A:
    """Call a function, and retry while the storage refuses.

    Args:
      path: for messages.
      call: makes the request.
      writing: whether to retry a refused permission, too.

    Raises:
      OSError: an error that retrying cannot change, such as FileNotFoundError.
      StorageError: it has refused for too long, or refuses the credentials.
    """
    told = False

    def tell(error: BaseException) -> None:
        nonlocal told
        if not told:
            _logger.warning("%s: storage refuses (%s); retrying", path, _reason(error))
        told = True

    retrying = patiently(
        lambda error: _reason(error) if _is_transient(error, writing) else None,
        tell,
        wait=tenacity.wait_random_exponential(multiplier=0.5, max=MAX_PAUSE_S),
        with_calls=True,
    )
    try:
        return retrying(call)
    except Exception as error:
        if _is_transient(error, writing):
            raise StorageError(
                f"{path}: storage has refused for {limit_s():g} s ({_reason(error)}); resume once it answers again"
            ) from error
        if isinstance(error, PermissionError) or not isinstance(error, OSError):
            raise _explained(path, error) from error
        raise


def _put(path: Path, content: bytes, **options: Any) -> str:
    """Put an object in one request; return its tag."""
    bucket, key = _place(path)
    answer = _filesystem(path).call_s3("put_object", Bucket=bucket, Key=key, Body=content, **options)
    return str(answer["ETag"])


def _head(path: Path) -> Any:
    """Return an object's metadata; None if there is no object."""
    bucket, key = _place(path)
    try:
        return request(path, lambda: _filesystem(path).call_s3("head_object", Bucket=bucket, Key=key))
    except FileNotFoundError:
        return None


def _get(path: Path) -> Version:
    from fsspec.asyn import sync

    filesystem = _filesystem(path)
    bucket, key = _place(path)

    async def get() -> Version:
        answer = await filesystem._call_s3("get_object", Bucket=bucket, Key=key)
        async with answer["Body"] as body:
            content = await body.read()
        return Version(content, answer["ETag"], _age_s(answer))

    found: Version = sync(filesystem.loop, get)
    return found


def _tags(folder: Path) -> dict[str, str]:
    """Return the tag of each object below a folder, by name relative to it, sorted; one listing, however deep."""
    root = _key(folder)
    found: dict[str, Any] = request(folder, lambda: _filesystem(folder).find(root, detail=True))
    return {name.removeprefix(f"{root}/"): str(entry["ETag"]) for name, entry in sorted(found.items())}


def _age_s(answer: Any) -> float:
    """Return the seconds since an object was written, by the clock of the server that answered."""
    headers = answer["ResponseMetadata"]["HTTPHeaders"]
    now = parsedate_to_datetime(headers["date"]) if "date" in headers else datetime.now(UTC)
    return float((now - answer["LastModified"]).total_seconds())


def _is_transient(error: BaseException, writing: bool) -> bool:
    from botocore.exceptions import ConnectTimeoutError, EndpointConnectionError
    from s3fs.core import S3_RETRYABLE_ERRORS

    if isinstance(error, (*S3_RETRYABLE_ERRORS, ConnectTimeoutError, EndpointConnectionError)):
        return True
    if isinstance(error, PermissionError):
        return writing
    lasting = (errno.EINVAL, errno.ENOSYS, errno.ENAMETOOLONG, errno.EPERM, errno.ENOSPC)
    return (
        isinstance(error, OSError)
        and not isinstance(error, (FileNotFoundError, FileExistsError, IsADirectoryError, NotADirectoryError))
        and error.errno not in lasting
    )


def _explained(path: Path, error: BaseException) -> StorageError:
    reason = _reason(error)
    if isinstance(error, PermissionError) or type(error).__name__ in ("NoCredentialsError", "PartialCredentialsError"):
        return StorageError(f"{path}: the credentials are refused ({reason}); set AWS_ACCESS_KEY_ID and "
                            "AWS_SECRET_ACCESS_KEY, or AWS_PROFILE")  # fmt: skip
    endpoint = without_password(os.environ.get("AWS_ENDPOINT_URL", "AWS"))
    return StorageError(f"{path}: storage at {endpoint} does not answer ({reason}); check STORAGE_ENDPOINT")


def _reason(error: BaseException | None) -> str:
    text = without_password(" ".join(str(error).split()))
    return text or type(error).__name__


def _code(error: BaseException) -> str:
    """Return S3's error code; empty if the error has none."""
    response = getattr(error.__cause__, "response", None) or {}
    return str(response.get("Error", {}).get("Code", ""))


def _filesystem(path: Path) -> Any:
    remote: Any = path
    return remote.fs


def _key(path: Path) -> str:
    remote: Any = path
    return str(remote.path).rstrip("/")


def _place(path: Path) -> tuple[str, str]:
    """Return bucket and key."""
    bucket, _, key = _key(path).partition("/")
    return bucket, key


S3: Final[Store] = _S3()
"""The store of every path on object storage."""
