"""Ray's token: whoever has none may not use the Ray of a sweep."""

from __future__ import annotations

import os
from pathlib import Path

from jax_party.errors import SweepError


def has_token() -> bool:
    """Whether the user has a token where Ray looks for it."""
    named = os.environ.get("RAY_AUTH_TOKEN") or os.environ.get("RAY_AUTH_TOKEN_PATH")
    return bool(named) or (Path.home() / ".ray" / "auth_token").is_file()


def check_token() -> None:
    """See that the file with the user's token can be read, before anything is made.

    Raises:
      SweepError: it cannot, or is empty.
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
