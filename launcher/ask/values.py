"""Read and check the value of each single option."""

from __future__ import annotations

import math
import os
import re
import shlex
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import TypeVar

from jax_party.engines import ENGINES
from jax_party.errors import StorageError, SweepError
from jax_party.judging.racing import first_look
from jax_party.store.protocol import without_password
from jax_party.store.storage import as_folder
from launcher.ask.choices import Track
from launcher.ask.quantities import parse_period_timeout
from launcher.ask.requested import (
    Watching,
)
from sweeps import checks
from sweeps.checks import did_you_mean, positive_int
from sweeps.space import ScenarioMode, check_scenario_mode

MAX_PACK = 512
LEAST_SHARE = 0.01
MOST: Mapping[str, int] = {
    "SAMPLES": 100_000, "EVALUATIONS": 1_000_000, "SEEDS": 10_000, "WORKERS": 10_000, "DEVICES_PER_TRIAL": 10_000,
}  # fmt: skip
"""Upper bounds of the options whose bound is lower than the general one (`checks.MOST`)."""
M = TypeVar("M", bound=StrEnum)


def set_endpoint_in(values: Mapping[str, str]) -> None:
    """Set the S3 endpoint for this process and for the processes that it starts.

    Raises:
      SweepError: the endpoint is not an http or https URL of a host.
    """
    endpoint = values.get("STORAGE_ENDPOINT")
    if endpoint is None:
        return
    if not re.fullmatch(r"https?://[^/@\s]+/?", endpoint):
        shown = without_password(endpoint)
        raise SweepError(f"STORAGE_ENDPOINT: expected http://host:port or https://host, got {shown!r}")
    os.environ["AWS_ENDPOINT_URL"] = endpoint.rstrip("/")


def folder_in(text: str, place: str) -> Path:
    """Return the folder that `text` names, local or remote; `place` is the option's name."""
    try:
        return as_folder(text)
    except StorageError as error:
        raise SweepError(f"{place}: {error}") from error


def out_in(values: Mapping[str, str]) -> Path | None:
    """Read `OUT`, a folder on this machine."""
    if "://" in values.get("OUT", ""):
        raise SweepError(f"OUT: expected a folder of this machine, got {values['OUT']!r}; use STORAGE")
    return Path(values["OUT"]) if "OUT" in values else None


def address_in(values: Mapping[str, str]) -> str | None:
    """Read `ADDRESS`: auto, host:port or ray://host:port."""
    text = values.get("ADDRESS")
    if text is None or text == "auto":
        return text
    match = re.fullmatch(r"(?:ray://)?(?:\[[0-9a-fA-F:]+\]|[^\s:/@\[\]]+):(\d{1,5})", text)
    if match is None or not 0 < int(match[1]) < 65_536:
        raise SweepError(f"ADDRESS: expected auto, host:port or ray://host:port, got {text!r}")
    return text


def count_in(values: Mapping[str, str], key: str) -> int | None:
    """Read a whole number from 1 to the option's maximum."""
    return positive_int(values[key], key, MOST.get(key, checks.MOST)) if key in values else None


def share_in(values: Mapping[str, str], key: str) -> float | None:
    """Read a share of one, or a whole number."""
    if key not in values:
        return None
    try:
        number = float(values[key])
    except ValueError:
        number = 0.0
    if not 0.0 < number < math.inf or (number > 1 and number != int(number)):
        raise SweepError(f"{key}: expected a share of one, such as 0.25, or a whole number, got {values[key]!r}")
    if number < LEAST_SHARE:
        raise SweepError(f"{key}: expected a share of at least {LEAST_SHARE}, got {values[key]!r}")
    return number


def race_in(values: Mapping[str, str], top: int, seeds: int) -> float | None:
    """Read `RACE`, the confidence of a race; refuse fewer than two configurations or too few seeds for a first look."""
    if "RACE" not in values:
        return None
    try:
        confidence = float(values["RACE"])
    except ValueError:
        confidence = math.nan
    if not 0.5 <= confidence < 1.0:
        raise SweepError(f"RACE: expected a confidence from 0.5 to below 1, such as 0.95, got {values['RACE']!r}")
    if top < 2:
        raise SweepError(f"TOP={top}: a race needs two configurations; give TOP=2 or more, or leave RACE out")
    if seeds < (least := first_look(confidence)):
        raise SweepError(
            f"SEEDS={seeds}: with RACE={confidence:g} the first look is after {least} seeds; give SEEDS={least} or more"
        )
    return confidence


def pack_in(values: Mapping[str, str]) -> int | None:
    """Read `PACK`, which is bounded because each trial takes a share of a CPU, and Ray counts in ten-thousandths."""
    number = count_in(values, "PACK")
    if number is not None and number > MAX_PACK:
        raise SweepError(f"PACK: expected a whole number from 1 to {MAX_PACK}, got {values['PACK']!r}")
    return number


def period_timeout_in(values: Mapping[str, str]) -> float | None:
    """Read `PERIOD_TIMEOUT`."""
    return parse_period_timeout(values["PERIOD_TIMEOUT"]) if "PERIOD_TIMEOUT" in values else None


def names_in(values: Mapping[str, str], key: str) -> tuple[str, ...] | None:
    """Read different names, separated by commas."""
    if key not in values:
        return None
    names = [name.strip() for name in values[key].split(",")]
    repeated = [name for index, name in enumerate(names) if name in names[:index]]
    if "" in names or repeated:
        raise SweepError(f"{key}: expected different names by commas, got {values[key]!r}")
    return tuple(names)


def engine_in(values: Mapping[str, str]) -> str | None:
    """Read `ENGINE`."""
    name = values.get("ENGINE")
    if name is not None and name not in ENGINES:
        raise SweepError(f"ENGINE: unknown {name!r}{did_you_mean(name, ENGINES)} (known: {', '.join(ENGINES)})")
    return name


def scenario_mode_in(values: Mapping[str, str]) -> ScenarioMode | None:
    """Read `SCENARIO_MODE`."""
    return check_scenario_mode(values["SCENARIO_MODE"], "SCENARIO_MODE") if "SCENARIO_MODE" in values else None


def bounds_in(values: Mapping[str, str]) -> dict[str, str] | None:
    """Read `CONSTRAINTS` as text; the numbers are checked together with the objective."""
    if "CONSTRAINTS" not in values:
        return None
    bounds = {}
    for part in values["CONSTRAINTS"].split(","):
        name, separator, bound = (word.strip() for word in part.partition("="))
        if not separator or name in bounds:
            raise SweepError(f"CONSTRAINTS: expected different bounds such as min_cooperation_rate=0.2, got {part!r}")
        bounds[name] = bound
    return bounds


def words_in(values: Mapping[str, str], key: str) -> tuple[str, ...]:
    """Read words, quoted as in a shell."""
    try:
        return tuple(shlex.split(values.get(key, "")))
    except ValueError as error:
        raise SweepError(f"{key}: {str(error).lower()} in {values[key]!r}") from None


def seed_in(values: Mapping[str, str]) -> int | None:
    """Read `SEED`."""
    if "SEED" not in values:
        return None
    if not re.fullmatch(r"\d{1,9}", values["SEED"]):
        raise SweepError(f"SEED: expected a whole number from 0 to 999999999, got {values['SEED']!r}")
    return int(values["SEED"])


def member_in(values: Mapping[str, str], key: str, kind: type[M]) -> M | None:
    """Read a member of the enum `kind`, by its value."""
    if key not in values:
        return None
    known = tuple(member.value for member in kind)
    if values[key] not in known:
        raise SweepError(
            f"{key}: unknown {values[key]!r}{did_you_mean(values[key], known)} (known: {', '.join(known)})"
        )
    return kind(values[key])


def watching_in(values: Mapping[str, str]) -> Watching:
    """Read `DASHBOARD` and `TRACK`."""
    return Watching(flag_in(values, "DASHBOARD"), member_in(values, "TRACK", Track))


def flag_in(values: Mapping[str, str], key: str) -> bool:
    """Read 0 or 1; 0 if it is not given."""
    value = values.get(key, "0")
    if value not in ("0", "1"):
        raise SweepError(f"{key}: expected 0 or 1, got {value!r}")
    return value == "1"


def sweep_name_in(values: Mapping[str, str]) -> str | None:
    """Read `NAME`, which becomes part of folder names."""
    name = values.get("NAME")
    if name is not None and not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}", name):
        raise SweepError(f"NAME: expected up to 64 letters, digits, '.', '_' or '-', got {name!r}")
    return name
