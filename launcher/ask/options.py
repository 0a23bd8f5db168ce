"""What `python -m launcher.sweep` was asked: KEY=VALUE words, as `make` variables are written."""

from __future__ import annotations

import math
import os
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, TypeVar

from jax_party.engines import ENGINES, NATIVE
from jax_party.errors import StorageError, SweepError
from jax_party.judging.claims import FORM
from jax_party.judging.racing import first_look
from jax_party.store.storage import as_folder, without_password
from launcher.ask.quantities import parse_period_timeout
from sweeps import space
from sweeps.space import ScenarioMode, check_aggregate, check_rule, check_scenario_mode, did_you_mean, positive_int

MAX_PACK = 512
LEAST_SHARE = 0.01
MOST: Mapping[str, int] = {
    "SAMPLES": 100_000, "EVALUATIONS": 1_000_000, "SEEDS": 10_000, "WORKERS": 10_000, "DEVICES_PER_TRIAL": 10_000,
}  # fmt: skip
"""What an option may be at most, where that is less than for others."""

M = TypeVar("M", bound=StrEnum)


class Search(StrEnum):
    """Where configurations come from."""

    RANDOM = "random"
    GRID = "grid"
    OPTUNA = "optuna"
    HYPEROPT = "hyperopt"
    BOHB = "bohb"

    @property
    def learns(self) -> bool:
        """Whether it draws by what earlier trials have scored."""
        return self not in (Search.RANDOM, Search.GRID)


class Sampler(StrEnum):
    """How Optuna draws."""

    TPE = "tpe"
    GP = "gp"
    CMAES = "cmaes"
    NSGA2 = "nsga2"


class Duplicates(StrEnum):
    """What becomes of a configuration that a searcher draws again."""

    SEEDS = "seeds"
    REUSE = "reuse"
    REFUSE = "refuse"


class Batch(StrEnum):
    """How the seeds of a trial go side by side."""

    AUTO = "auto"
    MAP = "map"
    VMAP = "vmap"


class Scheduler(StrEnum):
    """Whether weak trials are stopped early, or go on from better ones."""

    FIFO = "fifo"
    ASHA = "asha"
    MEDIAN = "median"
    HYPERBAND = "hyperband"
    PBT = "pbt"
    PB2 = "pb2"

    @property
    def is_population(self) -> bool:
        """Whether trials take over the learners of others."""
        return self in (Scheduler.PBT, Scheduler.PB2)

    @property
    def by_group(self) -> bool:
        """Whether it looks at all trials at once, so that each algorithm and scenario needs a pass of its own."""
        return self.is_population or self is Scheduler.HYPERBAND


class Track(StrEnum):
    """Where runs are kept besides."""

    WANDB = "wandb"
    MLFLOW = "mlflow"


@dataclass(frozen=True)
class Watching:
    """Who else is shown how a sweep goes: Ray's dashboard on this machine, and whoever keeps the runs besides."""

    dashboard: bool = False
    track: Track | None = None


HELP: Mapping[str, str] = {
    "ALG": "algorithm or its alias (mappo, ff_mappo, ippo, ...), or several by commas; required",
    "ENGINE": "what runs the trials: native (our own systems) or mava (an installed Mava's); default native",
    "SAMPLES": "configurations to draw for every algorithm and scenario; default: the sweep file's",
    "SCENARIO": "scenarios, by commas: p-base,p-no-rank; default: the sweep file's",
    "TIMESTEPS": "environment steps of each seed of a trial; default: the sweep file's",
    "EVALUATIONS": "evaluations a trial; default: the sweep file's",
    "SEED": "seeds the search, and is every trial's system.seed; default 0",
    "SEEDS": "seeds that each trial trains side by side, from SEED on; default: the sweep file's",
    "AGGREGATE": "how seeds become one number: mean, iqm, median or min; default: the sweep file's objective",
    "BATCH": "how seeds go side by side: map (one after another), vmap (one batched program) or auto (the faster)",
    "SCENARIO_MODE": "grid (each configuration in every one), axis (each drawn with one), mean (every one, averaged)",
    "SEARCH": "random, grid, optuna, hyperopt or bohb; default random",
    "SAMPLER": "how optuna draws: tpe, gp, cmaes or nsga2; default tpe, for several objectives nsga2",
    "DUPLICATES": "what a configuration drawn again gets: seeds (new ones), reuse (its results), refuse; default seeds",
    "SCHEDULER": "fifo, asha, median, hyperband (stop weak trials), pbt, pb2 (weak go on from better); default fifo",
    "FROM": "earlier sweeps' folders, by commas, whose trials the searcher is told of",
    "WORKERS": "worker processes; default: one a core, or one an accelerator",
    "PACK": "trials that share a worker, side by side in one program where they can; default 1",
    "DEVICES_PER_TRIAL": "devices that each experiment is spread over: GPUs, or CPU cores; default 1",
    "GPUS_PER_TRIAL": "share of a GPU that each worker takes, such as 0.25; default: one for each device",
    "BUDGET": "what the sweep may spend: time=2h,steps=1e8,device_hours=4,trials=64; default: no limit",
    "PERIOD_TIMEOUT": "how long an evaluation period may take before it is given up and tried again: 90s, 30m, 2h, "
    "none; default auto (20 times the longest yet, at least 10 minutes)",
    "NAME": "added to the sweep's name and folder",
    "SPACE": "your own sweep file; default: the one in sweeps/ that names the algorithm",
    "METRIC": "what the sweep looks for, or several by commas; default: the sweep file's objective",
    "AT": "which networks of a trial are judged: final (as training ended), last, last-5-avg, last-10-avg, avg (means "
    "of evaluations), best (the best evaluation's, played again); default: the sweep file's, or the environment's",
    "MODE": "max or min, or one a metric by commas; default: the sweep file's objective",
    "CONSTRAINTS": "bounds that a trial must keep to: min_cooperation_rate=0.2,max_episode_length=50",
    "OUT": "where sweep folders go; default experiment_results",
    "STORAGE": "where sweep folders go instead: a path that all machines share, or s3://bucket/prefix",
    "STORAGE_ENDPOINT": "the S3 server, such as http://127.0.0.1:5000; default: AWS_ENDPOINT_URL, or AWS",
    "ADDRESS": "a Ray cluster to join: auto, host:port or ray://host:port; default: a Ray of our own, on this machine",
    "TRACK": "wandb or mlflow: send every trial's values and metrics there, too; default: nowhere",
    "DASHBOARD": "1 starts Ray's dashboard and metrics on 127.0.0.1 for the sweep",
    "OVERRIDES": 'fixed settings for every trial: OVERRIDES="arch.num_envs=64 network=mlp"',
    "DRY_RUN": "1 prints the plan and starts nothing",
}
RESUME_HELP: Mapping[str, str] = {
    "WORKERS": HELP["WORKERS"],
    "PACK": "trials that share a worker; default: as the sweep began",
    "GPUS_PER_TRIAL": "share of a GPU that each worker takes; default: as the sweep began",
    "BUDGET": "what the sweep may spend, what it has spent included; default: as it began",
    "PERIOD_TIMEOUT": HELP["PERIOD_TIMEOUT"],
    "RETRY_FAILED": "1 runs the failed trials again",
    "TRACK": HELP["TRACK"],
    "DASHBOARD": HELP["DASHBOARD"],
    "ADDRESS": HELP["ADDRESS"],
    "STORAGE_ENDPOINT": HELP["STORAGE_ENDPOINT"],
}
EXTEND_HELP: Mapping[str, str] = {
    "SAMPLES": "further configurations for every algorithm and scenario; required",
    **{key: meaning for key, meaning in RESUME_HELP.items() if key != "RETRY_FAILED"},
}
PROMOTE_HELP: Mapping[str, str] = {
    "TOP": "configurations of each algorithm and scenario; default 3",
    "SEEDS": "fresh seeds for each; default 10",
    "RACE": "a confidence such as 0.95: play in rounds and stop what cannot be the best; SEEDS are then the most",
    "WORKERS": HELP["WORKERS"],
    "PACK": RESUME_HELP["PACK"],
    "GPUS_PER_TRIAL": RESUME_HELP["GPUS_PER_TRIAL"],
    "PERIOD_TIMEOUT": HELP["PERIOD_TIMEOUT"],
    "TRACK": HELP["TRACK"],
    "DASHBOARD": HELP["DASHBOARD"],
    "ADDRESS": HELP["ADDRESS"],
    "STORAGE_ENDPOINT": HELP["STORAGE_ENDPOINT"],
}
VERDICT_HELP: Mapping[str, str] = {key: PROMOTE_HELP[key] for key in PROMOTE_HELP if key not in ("TOP", "SEEDS")}
CLAIM_HELP: Mapping[str, str] = {
    "CLAIM": f"what is claimed, several by semicolons: '{FORM}'; required",
    "...": "and every option of a sweep",
}
RERUN_HELP: Mapping[str, str] = {"OUT": HELP["OUT"], "STORAGE_ENDPOINT": HELP["STORAGE_ENDPOINT"]}


@dataclass(frozen=True)
class SweepOptions:
    """A sweep as it was asked for; None leaves the choice to the sweep file."""

    algorithms: tuple[str, ...]
    engine: str = NATIVE
    samples: int | None = None
    scenarios: tuple[str, ...] | None = None
    timesteps: int | None = None
    evaluations: int | None = None
    seed: int = 0
    seeds: int | None = None
    aggregate: str | None = None
    batch: Batch | None = None
    scenario_mode: ScenarioMode | None = None
    search: Search = Search.RANDOM
    sampler: Sampler | None = None
    duplicates: Duplicates = Duplicates.SEEDS
    scheduler: Scheduler | None = None
    warm_start: tuple[str, ...] = ()
    workers: int | None = None
    pack: int = 1
    devices_per_trial: int | None = None
    gpus_per_trial: float | None = None
    budget: str | None = None
    period_timeout: float | None = None
    name: str | None = None
    space: Path | None = None
    metric: tuple[str, ...] | None = None
    mode: tuple[str, ...] | None = None
    at: str | None = None
    constraints: Mapping[str, str] | None = None
    out: Path = Path("experiment_results")
    storage: Path | None = None
    address: str | None = None
    overrides: tuple[str, ...] = ()
    watching: Watching = Watching()
    dry_run: bool = False

    @property
    def root(self) -> Path:
        """Where sweep folders go."""
        return self.storage or self.out


@dataclass(frozen=True)
class ResumeOptions:
    """A sweep folder to finish."""

    folder: Path
    workers: int | None = None
    pack: int | None = None
    gpus_per_trial: float | None = None
    budget: str | None = None
    retry_failed: bool = False
    address: str | None = None
    period_timeout: float | None = None
    watching: Watching = Watching()


@dataclass(frozen=True)
class ExtendOptions:
    """A sweep that is to have more trials."""

    resume: ResumeOptions
    samples: int


@dataclass(frozen=True)
class PromoteOptions:
    """A sweep whose winners are to be tested."""

    folder: Path
    top: int = 3
    seeds: int = 10
    race: float | None = None
    workers: int | None = None
    pack: int | None = None
    gpus_per_trial: float | None = None
    address: str | None = None
    period_timeout: float | None = None
    watching: Watching = Watching()


@dataclass(frozen=True)
class RerunOptions:
    """A trial to repeat, by its id or its folder."""

    trial: str
    out: Path = Path("experiment_results")


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
    return positive_int(values[key], key, MOST.get(key, space.MOST)) if key in values else None


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
