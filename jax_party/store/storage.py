"""Folders on object storage, for what a path alone cannot do there.

A folder is a `Path`; one that was given as `s3://bucket/prefix` is a `UPath`, which has the methods of a `Path` that we
use. Objects appear whole or not at all, but cannot be locked or appended to: here are reads and writes that name a
version, and leases. Credentials come from AWS's own chain and the endpoint from `AWS_ENDPOINT_URL`; neither is written
anywhere. Storage that refuses for a while is asked again for up to `patience_s()` seconds. Importing this is cheap:
what speaks S3 is imported with the first such folder.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import json
import logging
import math
import os
import re
import signal
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any, Final, TypeVar

from jax_party.errors import StorageError

ENDPOINT_VARIABLES: Final = ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3")
MAX_PAUSE_S: Final = 10.0
REFRESH_S: Final = 10.0
STALE_S: Final = 60.0
THREADS: Final = 16
_OPTIONS: Final[dict[str, Any]] = {
    "use_listings_cache": False,
    "config_kwargs": {"connect_timeout": 5, "read_timeout": 30, "retries": {"max_attempts": 1}},
}

A = TypeVar("A")
B = TypeVar("B")

_logger = logging.getLogger(__name__)


class ChangedError(StorageError):
    """An object is not the version that was to be replaced."""


@dataclass(frozen=True)
class Version:
    """An object as it was read: its tag names this version; its age is by the storage's own clock."""

    content: bytes
    tag: str
    age_s: float = 0.0


def as_folder(text: str | Path) -> Path:
    """The folder that a user names: a path, or `s3://bucket/prefix`; what is a folder already stays as it is.

    Raises:
      StorageError: it is a URI of another kind, or has no bucket; or the endpoint's address has a password in it, which
        messages, logs and Ray's pages would show.
    """
    if not isinstance(text, str):
        return text
    scheme, separator, rest = text.partition("://")
    if not separator:
        return Path(text)
    parts = [part for part in rest.split("/") if part]
    if scheme != "s3" or not parts:
        raise StorageError(f"{without_password(text)}: expected a path or s3://bucket/prefix")
    for name in ENDPOINT_VARIABLES:
        endpoint = os.environ.get(name, "")
        if "@" in endpoint:
            raise StorageError(
                f"{name}={without_password(endpoint)}: has a user or password in it; give them as AWS_ACCESS_KEY_ID "
                "and AWS_SECRET_ACCESS_KEY"
            )
    from upath import UPath

    folder: Any = UPath(f"s3://{'/'.join(parts)}", **_OPTIONS)
    return folder


def without_password(text: str) -> str:
    """A text that may be shown: what stands before an @ in an address is left out."""
    return re.sub(r"//\S*@", "//…@", text)


def is_remote(path: Path) -> bool:
    """Whether it is on object storage."""
    return not isinstance(path, Path)


def absolute(path: Path) -> Path:
    """The path from the root; what is remote is that already."""
    return path if is_remote(path) else path.absolute()


def each(function: Callable[[A], B], items: Iterable[A], remote: bool) -> list[B]:
    """What the function gives for each item, in their order; several at a time where the storage is remote."""
    if not remote:
        return [function(item) for item in items]
    with ThreadPoolExecutor(THREADS) as pool:
        return list(pool.map(function, items))


def check(folder: Path, writing: bool = False) -> None:
    """See that the storage answers, has the bucket and takes the credentials, without patience.

    Args:
      folder: on it.
      writing: whether objects are to be written there, too: one is, and is deleted again.

    Raises:
      StorageError: it does not.
    """
    if not is_remote(folder):
        return
    bucket, _ = _place(folder)
    try:
        _filesystem(folder).call_s3("head_bucket", Bucket=bucket)
    except FileNotFoundError:
        raise StorageError(f"{folder}: there is no bucket {bucket}; create it, or name another") from None
    except Exception as error:
        raise _explained(folder, error, _reason(error)) from error
    if writing:
        _check_writing(folder)


def _check_writing(folder: Path) -> None:
    bucket, key = _place(folder / f".write-{uuid.uuid4().hex}")
    try:
        _filesystem(folder).call_s3("put_object", Bucket=bucket, Key=key, Body=b"")
        _filesystem(folder).call_s3("delete_object", Bucket=bucket, Key=key)
    except PermissionError as error:
        raise StorageError(
            f"{folder}: the credentials may read there, but not write and delete ({_reason(error)}); give them "
            "s3:PutObject and s3:DeleteObject, or name another folder"
        ) from error
    except Exception as error:
        raise _explained(folder, error, _reason(error)) from error


def read_bytes(path: Path) -> bytes:
    """The content of a file.

    Raises:
      FileNotFoundError: there is none.
      OSError, StorageError: it cannot be read.
    """
    if not is_remote(path):
        return path.read_bytes()
    content: bytes = patiently(path, lambda: _filesystem(path).cat_file(_key(path)))
    return content


def write_bytes(path: Path, content: bytes) -> None:
    """Make the remote `path` hold `content`.

    Raises:
      StorageError: it cannot be written.
    """
    patiently(path, lambda: _filesystem(path).pipe_file(_key(path), content), writing=True)


def put_file(local: Path, path: Path) -> None:
    """Copy a local file to the remote `path`."""
    patiently(path, lambda: _filesystem(path).put_file(str(local), _key(path)), writing=True)


def get_file(path: Path, local: Path) -> None:
    """Copy the remote `path` to a local file, which is there whole or not at all.

    Raises:
      FileNotFoundError: there is none.
    """
    aside = local.with_name(f".{local.name}.part")
    patiently(path, lambda: _filesystem(path).get_file(_key(path), str(aside)))
    os.replace(aside, local)


def is_file(path: Path) -> bool:
    """Whether there is such a file."""
    if not is_remote(path):
        return path.is_file()
    bucket, key = _place(path)
    try:
        patiently(path, lambda: _filesystem(path).call_s3("head_object", Bucket=bucket, Key=key))
    except FileNotFoundError:
        return False
    return True


def files_below(folder: Path) -> list[str]:
    """The names of all objects below a remote folder, relative to it and sorted: one listing, however deep."""
    root = _key(folder)
    found: list[str] = patiently(folder, lambda: _filesystem(folder).find(root))
    return sorted(name.removeprefix(f"{root}/") for name in found)


def tags_below(folder: Path) -> dict[str, str]:
    """The tag of the version of each object below a remote folder, by its name relative to it: one listing."""
    root = _key(folder)
    found: dict[str, Any] = patiently(folder, lambda: _filesystem(folder).find(root, detail=True))
    return {name.removeprefix(f"{root}/"): str(entry["ETag"]) for name, entry in sorted(found.items())}


def remove(paths: Iterable[Path]) -> None:
    """Delete remote files; those that are gone already are passed over."""
    for path in paths:
        bucket, key = _place(path)
        call = functools.partial(_filesystem(path).call_s3, "delete_object", Bucket=bucket, Key=key)
        patiently(path, call, writing=True)


# -- Versions ----------------------------------------------------------------------------------------------------------


def read_version(path: Path) -> Version | None:
    """A remote file with the tag of its version; None where there is none."""
    try:
        found: Version = patiently(path, lambda: _get(path))
    except FileNotFoundError:
        return None
    return found


def write_version(path: Path, content: bytes, tag: str | None) -> str:
    """Replace the version of a remote file that has this tag (None: there is no such file yet); the new one's tag.

    Storage that knows no conditions is asked for the tag first.

    Raises:
      ChangedError: the file has another version.
    """
    bucket, key = _place(path)
    condition = {"IfNoneMatch": "*"} if tag is None else {"IfMatch": tag}

    def put(**condition: str) -> str:
        answer = _filesystem(path).call_s3("put_object", Bucket=bucket, Key=key, Body=content, **condition)
        return str(answer["ETag"])

    try:
        return str(patiently(path, lambda: put(**condition), writing=True))
    except (OSError, StorageError) as error:
        code = _code(error)
        if code not in ("PreconditionFailed", "412", "NotImplemented", "501", "NoSuchKey", "404"):
            raise
        there = read_version(path)
        if there is not None and there.content == content:  # it was written, and the answer was lost
            return there.tag
        if code in ("NotImplemented", "501") and (there.tag if there else None) == tag:
            return str(patiently(path, put, writing=True))
        raise ChangedError(f"{path}: has been changed by another process") from error


def write_tagged(path: Path, content: bytes) -> str:
    """Make the remote `path` hold `content`, whatever it held; the tag of this version."""
    bucket, key = _place(path)
    call = functools.partial(_filesystem(path).call_s3, "put_object", Bucket=bucket, Key=key, Body=content)
    return str(patiently(path, call, writing=True)["ETag"])


def _get(path: Path) -> Version:
    from fsspec.asyn import sync

    filesystem = _filesystem(path)
    bucket, key = _place(path)

    async def get() -> Version:
        answer = await filesystem._call_s3("get_object", Bucket=bucket, Key=key)
        async with answer["Body"] as body:
            content = await body.read()
        headers = answer["ResponseMetadata"]["HTTPHeaders"]
        now = parsedate_to_datetime(headers["date"]) if "date" in headers else datetime.now(UTC)
        return Version(content, answer["ETag"], (now - answer["LastModified"]).total_seconds())

    found: Version = sync(filesystem.loop, get)
    return found


# -- Patience ----------------------------------------------------------------------------------------------------------


_at_most_s: ContextVar[float] = ContextVar("at_most_s", default=math.inf)


@contextlib.contextmanager
def patience_of(seconds: float) -> Iterator[None]:
    """Have this thread ask storage that refuses for so many seconds at most."""
    before = _at_most_s.set(seconds)
    try:
        yield
    finally:
        _at_most_s.reset(before)


def patiently(path: Path, call: Callable[[], A], writing: bool = False) -> A:
    """Call, and call again while the storage refuses.

    Args:
      path: for messages.
      call: what to do.
      writing: whether a refused permission is to be waited for, too.

    Raises:
      OSError: what asking again does not change, such as FileNotFoundError.
      StorageError: it has refused for too long, or refuses the credentials.
    """
    import tenacity

    from jax_party.store.retry import patience_s

    def tell(state: tenacity.RetryCallState) -> None:
        if state.attempt_number == 1 and state.outcome is not None:
            _logger.warning("%s: storage refuses (%s); asking again", path, _reason(state.outcome.exception()))

    limit = min(patience_s(), _at_most_s.get())
    retrying = tenacity.Retrying(
        stop=tenacity.stop_after_delay(limit),
        wait=tenacity.wait_random_exponential(multiplier=0.5, max=MAX_PAUSE_S),
        retry=tenacity.retry_if_exception(lambda error: _is_transient(error, writing)),
        before_sleep=tell,
        reraise=True,
    )
    try:
        return retrying(call)
    except Exception as error:
        if _is_transient(error, writing):
            raise StorageError(
                f"{path}: storage has refused for {limit:g} s ({_reason(error)}); go on once it answers again"
            ) from error
        if isinstance(error, PermissionError) or not isinstance(error, OSError):
            raise _explained(path, error, _reason(error)) from error
        raise


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


def _explained(path: Path, error: BaseException, reason: str) -> StorageError:
    if isinstance(error, PermissionError) or type(error).__name__ in ("NoCredentialsError", "PartialCredentialsError"):
        return StorageError(f"{path}: the credentials are refused ({reason}); set AWS_ACCESS_KEY_ID and "
                            "AWS_SECRET_ACCESS_KEY, or AWS_PROFILE")  # fmt: skip
    endpoint = without_password(os.environ.get("AWS_ENDPOINT_URL", "AWS"))
    return StorageError(f"{path}: storage at {endpoint} does not answer ({reason}); check STORAGE_ENDPOINT")


def _reason(error: BaseException | None) -> str:
    text = without_password(" ".join(str(error).split()))
    return text or type(error).__name__


def _code(error: BaseException) -> str:
    """The code that S3 has answered with; empty where it has not."""
    response = getattr(error.__cause__, "response", None) or {}
    return str(response.get("Error", {}).get("Code", ""))


def _filesystem(path: Path) -> Any:
    remote: Any = path
    return remote.fs


def _key(path: Path) -> str:
    remote: Any = path
    return str(remote.path).rstrip("/")


def _place(path: Path) -> tuple[str, str]:
    """Bucket and key."""
    bucket, _, key = _key(path).partition("/")
    return bucket, key


# -- Leases ------------------------------------------------------------------------------------------------------------


def claim(path: Path) -> bool:
    """Make a lease that nobody holds; False where there is one already."""
    try:
        write_version(path, json.dumps({"free": True, "id": uuid.uuid4().hex}).encode(), None)
    except ChangedError:
        return False
    return True


@contextlib.contextmanager
def lease(path: Path) -> Iterator[None]:
    """Hold a lease in the place of a lock: a small object, written again every `REFRESH_S` seconds.

    A lease that another process holds is waited for until it shows that its holder lives, which is an error, or until
    it has not been refreshed for `STALE_S` seconds, or its holder was a process of this machine that has ended. A
    process whose lease is taken all the same (it was stopped, or cut off from the storage) gets an interrupt.

    Raises:
      StorageError: a living process holds it.
    """
    held = _Lease(path, _wait_for_lease(path))
    try:
        yield
    finally:
        held.release()


class _Lease:
    """A lease that this process holds, kept fresh by a thread."""

    def __init__(self, path: Path, tag: str | None) -> None:
        self._path = path
        self._tag: str | None = write_version(path, self._content(), tag)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._keep, name="lease", daemon=True)
        self._thread.start()

    def release(self) -> None:
        """Let go of it."""
        self._stop.set()
        self._thread.join()
        with contextlib.suppress(StorageError):
            write_version(self._path, json.dumps({"free": True, "id": uuid.uuid4().hex}).encode(), self._tag)

    def _keep(self) -> None:
        while not self._stop.wait(REFRESH_S):
            try:
                self._tag = write_version(self._path, self._content(), self._tag)
            except ChangedError:
                _logger.error("%s: another process has taken this folder; stopping", self._path)
                os.kill(os.getpid(), signal.SIGINT)
                return
            except StorageError as error:  # there is no need to give up before another has taken it
                _logger.warning("%s", error)

    def _content(self) -> bytes:
        holder = {"process": os.getpid(), "host": socket.gethostname(), "boot": _boot_id()}
        return json.dumps(holder | {"time": datetime.now(UTC).isoformat(), "id": uuid.uuid4().hex}).encode()


def _wait_for_lease(path: Path) -> str | None:
    """The tag of a lease that may be taken."""
    first = there = read_version(path)
    while there is not None and not _is_free(there):
        if first is not None and there.tag != first.tag:
            holder = json.loads(there.content)
            raise StorageError(
                f"{path.parent}: process {holder.get('process')} on {holder.get('host')} holds this folder; let it "
                "finish or stop it"
            )
        time.sleep(0.5)
        there = read_version(path)
    return None if there is None else there.tag


def _is_free(there: Version) -> bool:
    try:
        holder = json.loads(there.content)
    except ValueError:
        return True
    if holder.get("free") or there.age_s > STALE_S:
        return True
    here = holder.get("host") == socket.gethostname() and holder.get("boot") == _boot_id()
    return here and not Path(f"/proc/{holder.get('process')}").exists()


@functools.cache
def _boot_id() -> str:
    """What tells this run of this machine from others; empty where the system does not say."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="utf-8").strip()
    except OSError:
        return ""
