"""Checks of values from sweep files and command lines."""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping
from typing import Any

from jax_party.errors import SweepError


def did_you_mean(word: str, known: Mapping[str, Any] | tuple[str, ...]) -> str:
    """Return `; did you mean X?`, or an empty string if no known word is close."""
    close = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f"; did you mean {close[0]}?" if close else ""


def check_known(raw: Mapping[str, Any], known: tuple[str, ...], place: str) -> None:
    """Refuse unknown keys.

    Raises:
      SweepError: a key is unknown; the message names it, the closest known key and all known keys.
    """
    for key in raw:
        if key not in known:
            raise SweepError(f"{place}: {key}: unknown{did_you_mean(str(key), known)} (known: {', '.join(known)})")


MOST = 10**12
"""General upper bound; a larger number is a typing error."""


def positive_int(value: object, place: str, most: int = MOST) -> int:
    """Read a whole number from 1 to `most`; text such as `1e6` is also accepted.

    Raises:
      SweepError: the value is anything else.
    """
    try:
        number = float(value) if isinstance(value, (int, float, str)) and not isinstance(value, bool) else math.nan
    except ValueError:
        number = math.nan
    if not (math.isfinite(number) and number == int(number) and number >= 1):
        raise SweepError(f"{place}: expected a whole number from 1, got {value!r}")
    if number > most:
        raise SweepError(f"{place}: expected a whole number of at most {most:,}, got {value!r}")
    return int(number)


def section(raw: Mapping[str, Any], name: str, known: tuple[str, ...], source: str) -> Mapping[str, Any]:
    """Return a section of a sweep file, empty if it is absent; refuse keys that are not in `known`."""
    section = raw.get(name) or {}
    if not isinstance(section, Mapping):
        raise SweepError(f"{source}: {name}: expected a mapping with {', '.join(known)}, got {section!r}")
    check_known(section, known, f"{source}: {name}")
    return section


def names_of(raw: Mapping[str, Any], name: str, source: str) -> tuple[str, ...]:
    """Return a list of at least one name from a sweep file."""
    names = raw.get(name)
    if not isinstance(names, list) or not names or not all(isinstance(item, str) and item for item in names):
        raise SweepError(f"{source}: {name}: expected a list of at least one name, got {names!r}")
    return tuple(names)
