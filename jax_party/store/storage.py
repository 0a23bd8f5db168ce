"""Paths on any kind of storage, and the store of each.

A folder is a `Path`; one that was given as `s3://bucket/prefix` is a `UPath`, which has the methods of a `Path` that we
use. `store_of(path)` is the store that keeps it: this machine's disk (`local`) or object storage (`s3`). Importing this
is cheap: what speaks S3 is imported with the first such folder.
"""

from __future__ import annotations

import os
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Final

from jax_party.errors import StorageError
from jax_party.store.protocol import Store, without_password

ENDPOINT_VARIABLES: Final = ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3")


def as_folder(text: str | Path) -> Path:
    """Return the folder that a user names by a path or as `s3://bucket/prefix`; return a path unchanged.

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
    from jax_party.store import s3

    return s3.folder("/".join(parts))


def is_remote(path: Path) -> bool:
    """Return whether a path is on object storage."""
    return not isinstance(path, Path)


def store_of(path: Path) -> Store:
    """Return the store that keeps a path."""
    if is_remote(path):
        from jax_party.store.s3 import S3

        return S3
    from jax_party.store.local import LOCAL

    return LOCAL


def lock_folder(folder: Path, timeout: float = 5.0) -> AbstractContextManager[None]:
    """Hold a folder for this process: `Store.lock` of the store that keeps it."""
    folder = as_folder(folder)
    return store_of(folder).lock(folder, timeout)
