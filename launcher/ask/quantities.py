"""Parse amounts: times with a unit, and budgets."""

from __future__ import annotations

import re
from typing import Final

from jax_party.errors import SweepError
from sweeps.checks import did_you_mean

MOST_S: Final = 30 * 86_400.0
KINDS: Final = ("time", "steps", "device_hours", "trials")
_MOST: Final = {"time": (36_500 * 86_400.0, "36500d"), "steps": (1e18, "1e18"), "device_hours": (1e9, "1e9"),
                "trials": (1e9, "1e9")}  # fmt: skip
_UNITS: Final = {"": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}


def parse_period_timeout(text: str, place: str = "PERIOD_TIMEOUT") -> float | None:
    """Return the seconds that a period may take; None for `auto`, infinity for `none`.

    Raises:
      SweepError: the text is none of `auto`, `none` and a time above 0, or the time is longer than 30 days.
    """
    if text in ("auto", "none"):
        return None if text == "auto" else float("inf")
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd]?)", text)
    seconds = float(match[1]) * _UNITS[match[2]] if match else 0.0
    if seconds <= 0:
        raise SweepError(f"{place}: expected a time above 0, such as 90s, 30m or 2h, or auto, or none, got {text!r}")
    if seconds > MOST_S:
        raise SweepError(f"{place}: expected at most {MOST_S / _UNITS['d']:g}d, or none, got {text!r}")
    return seconds


def parse_budget(text: str, place: str = "BUDGET") -> dict[str, float]:
    """Parse a budget such as `time=2h,steps=1e8,device_hours=4,trials=64`.

    Returns:
      Kind -> amount; the time is in seconds.

    Raises:
      SweepError: a kind is unknown or given twice, or an amount is not above 0 or is too large.
    """
    limits: dict[str, float] = {}
    for part in text.split(","):
        kind, separator, amount = (word.strip() for word in part.partition("="))
        if not separator:
            raise SweepError(f"{place}: expected kinds and amounts, such as time=2h,steps=1e8, got {part!r}")
        if kind not in KINDS:
            raise SweepError(f"{place}: {kind}: unknown{did_you_mean(kind, KINDS)} (known: {', '.join(KINDS)})")
        if kind in limits:
            raise SweepError(f"{place}: {kind} is listed twice")
        limits[kind] = _amount(kind, amount, place)
    return limits


def _amount(kind: str, text: str, place: str) -> float:
    match = re.fullmatch(r"([0-9.]+(?:e[+-]?[0-9]+)?)([smhd]?)", text, re.IGNORECASE)
    number = 0.0
    if match is not None and (kind == "time") == bool(match[2]):
        try:
            number = float(match[1]) * _UNITS.get(match[2].lower(), 1.0)
        except ValueError:
            number = 0.0
    most, written = _MOST[kind]
    if number > most:
        raise SweepError(f"{place}: {kind}: expected at most {written}, got {text!r}")
    if number <= 0 or (kind in ("steps", "trials") and number != int(number)):
        expected = {"time": "a time above 0 with its unit, such as 90m, 2h or 3d", "device_hours": "a number above 0"}
        raise SweepError(f"{place}: {kind}: expected {expected.get(kind, 'a whole number from 1')}, got {text!r}")
    return number
