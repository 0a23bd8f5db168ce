"""Ray's authentication token, which every connection to a sweep's Ray needs."""

from __future__ import annotations

import os
from pathlib import Path

from jax_party.errors import SweepError


def has_token() -> bool:
    """Return whether the user has a token in a place where Ray looks for it."""
    named = os.environ.get("RAY_AUTH_TOKEN") or os.environ.get("RAY_AUTH_TOKEN_PATH")
    return bool(named) or (Path.home() / ".ray" / "auth_token").is_file()


def check_token() -> None:
    """Check that the token file that the user has named can be read, before anything is created.

    Raises:
      SweepError: the file cannot be read or is empty.
    """
    named = os.environ.get("RAY_AUTH_TOKEN_PATH")
    if not named or os.environ.get("RAY_AUTH_TOKEN"):
        return
    try:
        empty = not Path(named).expanduser().read_bytes().strip()
    except OSError as error:
        raise SweepError(
            f"RAY_AUTH_TOKEN_PATH={named}: cannot be read ({error.strerror}); name the token's file, or unset it"
        ) from error
    if empty:
        raise SweepError(f"RAY_AUTH_TOKEN_PATH={named}: is empty; write a token into it, or unset it")
