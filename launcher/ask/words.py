"""Read KEY=VALUE words, as `make` variables are written, into options."""

from __future__ import annotations

import math
import os
import re
import shlex
from collections.abc import Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Any, TypeVar

from jax_party.engines import ENGINES
from jax_party.errors import StorageError, SweepError
from jax_party.judging.claims import FORM
from jax_party.judging.racing import first_look
from jax_party.store.storage import as_folder, without_password
from launcher.ask.choices import Batch, Duplicates, Sampler, Scheduler, Search, Track
from launcher.ask.options import (
    EXTEND_HELP,
    HELP,
    PROMOTE_HELP,
    RERUN_HELP,
    RESUME_HELP,
    VERDICT_HELP,
    ExtendOptions,
    PromoteOptions,
    RerunOptions,
    ResumeOptions,
    SweepOptions,
    Watching,
)
from launcher.ask.quantities import parse_period_timeout
from sweeps import checks
from sweeps.checks import did_you_mean, positive_int
from sweeps.objectives import check_aggregate, check_rule
from sweeps.space import ScenarioMode, check_scenario_mode

MAX_PACK = 512
LEAST_SHARE = 0.01
MOST: Mapping[str, int] = {
    "SAMPLES": 100_000, "EVALUATIONS": 1_000_000, "SEEDS": 10_000, "WORKERS": 10_000, "DEVICES_PER_TRIAL": 10_000,
}  # fmt: skip
"""What an option may be at most, where that is less than for others."""
M = TypeVar("M", bound=StrEnum)


def read_words(words: Sequence[str], known: Mapping[str, str]) -> dict[str, str]:
    """KEY=VALUE words as a dictionary; an empty value means the default and is left out.

    Raises:
      SweepError: a word without `=`, or an unknown key.
    """
    values: dict[str, str] = {}
    for word in words:
        key, separator, value = word.partition("=")
        if not separator:
            raise SweepError(f"{word}: expected KEY=VALUE (known: {', '.join(known)})")
        if key not in known:
            raise SweepError(
                f"{key}: unknown option{did_you_mean(key.upper(), tuple(known))} (known: {', '.join(known)})"
            )
        values[key] = value.strip()
    return {key: value for key, value in values.items() if value}


def parse_sweep_options(words: Sequence[str]) -> SweepOptions:
    """Options of a new sweep.

    Raises:
      SweepError: an unknown option, or a value that it cannot have.
    """
    values = read_words(words, HELP)
    _set_endpoint(values)
    if "OUT" in values and "STORAGE" in values:
        raise SweepError(f"OUT={values['OUT']}: STORAGE says where sweep folders go; leave one of them out")
    if "ALG" not in values:
        raise SweepError("ALG: which algorithm? For example ALG=mappo; `list-algorithms` lists them")
    read: dict[str, Any] = {
        "algorithms": _names(values, "ALG"),
        "engine": _engine(values),
        "samples": _count(values, "SAMPLES"),
        "scenarios": _names(values, "SCENARIO"),
        "timesteps": _count(values, "TIMESTEPS"),
        "evaluations": _count(values, "EVALUATIONS"),
        "seed": _seed(values),
        "seeds": _count(values, "SEEDS"),
        "aggregate": check_aggregate(values["AGGREGATE"], "AGGREGATE") if "AGGREGATE" in values else None,
        "batch": _member(values, "BATCH", Batch),
        "search": _member(values, "SEARCH", Search),
        "sampler": _member(values, "SAMPLER", Sampler),
        "duplicates": _member(values, "DUPLICATES", Duplicates),
        "scheduler": _member(values, "SCHEDULER", Scheduler),
        "scenario_mode": _scenario_mode(values),
        "warm_start": _names(values, "FROM"),
        "workers": _count(values, "WORKERS"),
        "pack": _pack(values),
        "devices_per_trial": _count(values, "DEVICES_PER_TRIAL"),
        "gpus_per_trial": _share(values, "GPUS_PER_TRIAL"),
        "budget": values.get("BUDGET"),
        "period_timeout": _period_timeout(values),
        "name": _sweep_name(values),
        "space": Path(values["SPACE"]) if "SPACE" in values else None,
        "metric": _names(values, "METRIC"),
        "mode": tuple(values["MODE"].split(",")) if "MODE" in values else None,
        "at": check_rule(values["AT"], "AT") if "AT" in values else None,
        "constraints": _bounds(values),
        "out": _out(values),
        "storage": _folder(values["STORAGE"], "STORAGE") if "STORAGE" in values else None,
        "address": _address(values),
        "overrides": _words(values, "OVERRIDES"),
        "watching": _watching(values),
        "dry_run": _flag(values, "DRY_RUN"),
    }
    return SweepOptions(**{key: value for key, value in read.items() if value is not None})


def parse_resume_options(words: Sequence[str]) -> ResumeOptions:
    """Options of `resume <folder>`.

    Raises:
      SweepError: no folder, an unknown option, or a value that it cannot have.
    """
    folder, values = _folder_and_values("resume", words, RESUME_HELP)
    return ResumeOptions(
        folder,
        _count(values, "WORKERS"),
        _pack(values),
        _share(values, "GPUS_PER_TRIAL"),
        values.get("BUDGET"),
        _flag(values, "RETRY_FAILED"),
        _address(values),
        _period_timeout(values),
        _watching(values),
    )


def parse_extend_options(words: Sequence[str]) -> ExtendOptions:
    """Options of `extend <folder>`.

    Raises:
      SweepError: no folder, no SAMPLES, an unknown option, or a value that it cannot have.
    """
    folder, values = _folder_and_values("extend", words, EXTEND_HELP)
    samples = _count(values, "SAMPLES")
    if samples is None:
        raise SweepError("SAMPLES: how many more configurations? For example SAMPLES=8")
    return ExtendOptions(
        ResumeOptions(
            folder,
            _count(values, "WORKERS"),
            _pack(values),
            _share(values, "GPUS_PER_TRIAL"),
            values.get("BUDGET"),
            address=_address(values),
            period_timeout=_period_timeout(values),
            watching=_watching(values),
        ),
        samples,
    )


def parse_promote_options(words: Sequence[str]) -> PromoteOptions:
    """Options of `promote <folder>`.

    Raises:
      SweepError: no folder, an unknown option, or a value that it cannot have.
    """
    folder, values = _folder_and_values("promote", words, PROMOTE_HELP)
    top = _count(values, "TOP") or PromoteOptions.top
    seeds = _count(values, "SEEDS") or PromoteOptions.seeds
    return PromoteOptions(
        folder,
        top,
        seeds,
        _race(values, top, seeds),
        _count(values, "WORKERS"),
        _pack(values),
        _share(values, "GPUS_PER_TRIAL"),
        _address(values),
        _period_timeout(values),
        _watching(values),
    )


def parse_claim_options(words: Sequence[str]) -> tuple[SweepOptions, str]:
    """Options of the sweep that claims are made about, and the claims.

    Raises:
      SweepError: no CLAIM, an unknown option, or a value that it cannot have.
    """
    claims = [word.removeprefix("CLAIM=") for word in words if word.startswith("CLAIM=")]
    if len(claims) != 1:
        raise SweepError(f"CLAIM: expected it once, got it {len(claims)} times; for example CLAIM='{FORM}'")
    return parse_sweep_options([word for word in words if not word.startswith("CLAIM=")]), claims[0]


def parse_verdict_options(words: Sequence[str]) -> PromoteOptions:
    """Options of `verdict <folder>`; the claims say which seeds are played.

    Raises:
      SweepError: no folder, an unknown option, or a value that it cannot have.
    """
    folder, values = _folder_and_values("verdict", words, VERDICT_HELP)
    return PromoteOptions(
        folder,
        1,
        workers=_count(values, "WORKERS"),
        pack=_pack(values),
        gpus_per_trial=_share(values, "GPUS_PER_TRIAL"),
        address=_address(values),
        period_timeout=_period_timeout(values),
        watching=_watching(values),
    )


def parse_rerun_options(words: Sequence[str]) -> RerunOptions:
    """Options of `rerun <trial>`.

    Raises:
      SweepError: no trial, or an unknown option.
    """
    trials = [word for word in words if "=" not in word or Path(word).is_dir()]
    if len(trials) != 1:
        raise SweepError(f"rerun: expected one trial's id or folder, got {len(trials)}")
    values = read_words([word for word in words if word not in trials], RERUN_HELP)
    _set_endpoint(values)
    return RerunOptions(trials[0], _out(values) or RerunOptions.out)


def _folder_and_values(command: str, words: Sequence[str], known: Mapping[str, str]) -> tuple[Path, dict[str, str]]:
    folders = [word for word in words if "=" not in word or Path(word).is_dir()]
    if len(folders) != 1:
        raise SweepError(f"{command}: expected one sweep folder, got {len(folders)}")
    values = read_words([word for word in words if word not in folders], known)
    _set_endpoint(values)
    return _folder(folders[0], command), values


def _set_endpoint(values: Mapping[str, str]) -> None:
    """Where all that speaks S3 looks for its server, also in the processes that are started from here."""
    endpoint = values.get("STORAGE_ENDPOINT")
    if endpoint is None:
        return
    if not re.fullmatch(r"https?://[^/@\s]+/?", endpoint):
        shown = without_password(endpoint)
        raise SweepError(f"STORAGE_ENDPOINT: expected http://host:port or https://host, got {shown!r}")
    os.environ["AWS_ENDPOINT_URL"] = endpoint.rstrip("/")


def _folder(text: str, place: str) -> Path:
    try:
        return as_folder(text)
    except StorageError as error:
        raise SweepError(f"{place}: {error}") from error


def _out(values: Mapping[str, str]) -> Path | None:
    """`OUT`, a folder of this machine."""
    if "://" in values.get("OUT", ""):
        raise SweepError(f"OUT: expected a folder of this machine, got {values['OUT']!r}; give it as STORAGE")
    return Path(values["OUT"]) if "OUT" in values else None


def _address(values: Mapping[str, str]) -> str | None:
    """`ADDRESS`: auto, host:port or ray://host:port."""
    text = values.get("ADDRESS")
    if text is None or text == "auto":
        return text
    match = re.fullmatch(r"(?:ray://)?(?:\[[0-9a-fA-F:]+\]|[^\s:/@\[\]]+):(\d{1,5})", text)
    if match is None or not 0 < int(match[1]) < 65_536:
        raise SweepError(f"ADDRESS: expected auto, host:port or ray://host:port, got {text!r}")
    return text


def _count(values: Mapping[str, str], key: str) -> int | None:
    return positive_int(values[key], key, MOST.get(key, checks.MOST)) if key in values else None


def _share(values: Mapping[str, str], key: str) -> float | None:
    """A share of one, or a whole number."""
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


def _race(values: Mapping[str, str], top: int, seeds: int) -> float | None:
    """`RACE`: the confidence of a race between at least two configurations, long enough for a first look."""
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


def _pack(values: Mapping[str, str]) -> int | None:
    """`PACK`: each trial takes a share of a CPU, of which Ray counts ten-thousandths."""
    number = _count(values, "PACK")
    if number is not None and number > MAX_PACK:
        raise SweepError(f"PACK: expected a whole number from 1 to {MAX_PACK}, got {values['PACK']!r}")
    return number


def _period_timeout(values: Mapping[str, str]) -> float | None:
    return parse_period_timeout(values["PERIOD_TIMEOUT"]) if "PERIOD_TIMEOUT" in values else None


def _names(values: Mapping[str, str], key: str) -> tuple[str, ...] | None:
    if key not in values:
        return None
    names = [name.strip() for name in values[key].split(",")]
    repeated = [name for index, name in enumerate(names) if name in names[:index]]
    if "" in names or repeated:
        raise SweepError(f"{key}: expected different names by commas, got {values[key]!r}")
    return tuple(names)


def _engine(values: Mapping[str, str]) -> str | None:
    name = values.get("ENGINE")
    if name is not None and name not in ENGINES:
        raise SweepError(f"ENGINE: unknown {name!r}{did_you_mean(name, ENGINES)} (known: {', '.join(ENGINES)})")
    return name


def _scenario_mode(values: Mapping[str, str]) -> ScenarioMode | None:
    return check_scenario_mode(values["SCENARIO_MODE"], "SCENARIO_MODE") if "SCENARIO_MODE" in values else None


def _bounds(values: Mapping[str, str]) -> dict[str, str] | None:
    """Constraints as they are written; their numbers are checked with the objective."""
    if "CONSTRAINTS" not in values:
        return None
    bounds = {}
    for part in values["CONSTRAINTS"].split(","):
        name, separator, bound = (word.strip() for word in part.partition("="))
        if not separator or name in bounds:
            raise SweepError(f"CONSTRAINTS: expected different bounds such as min_cooperation_rate=0.2, got {part!r}")
        bounds[name] = bound
    return bounds


def _words(values: Mapping[str, str], key: str) -> tuple[str, ...]:
    try:
        return tuple(shlex.split(values.get(key, "")))
    except ValueError as error:
        raise SweepError(f"{key}: {str(error).lower()} in {values[key]!r}") from None


def _seed(values: Mapping[str, str]) -> int | None:
    if "SEED" not in values:
        return None
    if not re.fullmatch(r"\d{1,9}", values["SEED"]):
        raise SweepError(f"SEED: expected a whole number from 0 to 999999999, got {values['SEED']!r}")
    return int(values["SEED"])


def _member(values: Mapping[str, str], key: str, kind: type[M]) -> M | None:
    if key not in values:
        return None
    known = tuple(member.value for member in kind)
    if values[key] not in known:
        raise SweepError(
            f"{key}: unknown {values[key]!r}{did_you_mean(values[key], known)} (known: {', '.join(known)})"
        )
    return kind(values[key])


def _watching(values: Mapping[str, str]) -> Watching:
    return Watching(_flag(values, "DASHBOARD"), _member(values, "TRACK", Track))


def _flag(values: Mapping[str, str], key: str) -> bool:
    value = values.get(key, "0")
    if value not in ("0", "1"):
        raise SweepError(f"{key}: expected 0 or 1, got {value!r}")
    return value == "1"


def _sweep_name(values: Mapping[str, str]) -> str | None:
    name = values.get("NAME")
    if name is not None and not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}", name):
        raise SweepError(f"NAME: expected up to 64 letters, digits, '.', '_' or '-', got {name!r}")
    return name
