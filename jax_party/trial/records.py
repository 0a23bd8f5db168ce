"""What a trial leaves on disk, and the one way to read and write it.

A trial owns a folder: `config.yaml`, `record.json`, `metrics/metrics.jsonl` and `metrics/metrics.json`; their fields
are in `docs/design.md`. Files appear whole or not at all; `metrics.jsonl` grows by whole lines, and a line without its
newline is what a kill left behind, so nobody reads it. Needs neither JAX nor Ray nor pandas.
"""

from __future__ import annotations

import contextlib
import dataclasses
import enum
import errno
import fcntl
import functools
import hashlib
import importlib.metadata
import json
import math
import os
import platform
import re
import socket
import subprocess
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO, Final

import yaml

from jax_party.errors import RecordError
from jax_party.judging import replicates
from jax_party.judging import seeds as judging_seeds
from jax_party.judging.aggregate import Aggregate
from jax_party.judging.objectives import MODES, At, Objective
from jax_party.judging.scores import Judgement, ends_a_period, judge
from jax_party.judging.settling import end_of
from jax_party.judging.standings import Candidate
from jax_party.store import storage
from jax_party.store.storage import as_folder, is_remote

SCHEMA_VERSION: Final = 6
CONFIG_FILE: Final = "config.yaml"
RECORD_FILE: Final = "record.json"
MANIFEST_FILE: Final = "sweep.yaml"
METRICS_FILE: Final = "metrics/metrics.jsonl"
MARL_EVAL_FILE: Final = "metrics/metrics.json"
LOCK_FILE: Final = ".lock"
CLAIM_FILE: Final = "claim.yaml"
VERDICT_FILE: Final = "verdict.json"
FIRST_FRESH_SEED: Final = judging_seeds.FIRST_FRESH_SEED
"""Seeds of sweeps are below; from here on they are kept for testing what sweeps have chosen."""
TAKEOVER: Final = "takeover."
"""Begins the name of a folder beside a trial's checkpoints with a learner that it took over; then comes the step."""
PACKAGES: Final = (
    "jax", "jaxlib", "jumanji", "flashbax", "flax", "optax", "orbax-checkpoint", "ray", "numpy", "jax-party",
)  # fmt: skip

_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_Dumper: Any = getattr(yaml, "CSafeDumper", yaml.SafeDumper)


class State(enum.StrEnum):
    """Where a trial stands."""

    PENDING = "PENDING"
    RUNNING = "RUNNING"
    COMPLETE = "COMPLETE"
    FAILED = "FAILED"
    PRUNED = "PRUNED"


FINISHED: Final = frozenset({State.COMPLETE, State.FAILED, State.PRUNED})


@dataclass(frozen=True)
class Takeover:
    """A trial of a population went on from another's learner, with new values.

    Attributes:
      step: environment steps that the trial had trained.
      source: the other trial's id.
      source_step: environment steps that its learner had trained.
      hyperparameters: the values that the trial had until then.
    """

    step: int
    source: str
    source_step: int
    hyperparameters: Mapping[str, Any]


@dataclass(frozen=True)
class Span:
    """A stretch of time in which a worker played a trial.

    Attributes:
      worker: its host and process id, `node-1:4711`.
      start: when it began.
      end: when it last wrote the record.
    """

    worker: str
    start: str
    end: str


@dataclass(frozen=True)
class VaultEntry:
    """One Flashbax vault of a trial: `kind` is `train` or `test`, `rows` batch rows, `steps` its time axis."""

    uid: str
    kind: str
    rows: int
    steps: int


@dataclass(frozen=True, kw_only=True)
class TrialRecord:
    """The content of record.json; `docs/design.md` has the meaning of each field."""

    schema_version: int = SCHEMA_VERSION
    trial_id: str
    number: int = 0
    sweep: str | None = None
    engine: str = "native"
    engine_version: str | None = None
    algorithm: str
    environment: str
    scenario: str
    seed: int
    num_seeds: int = 1
    promoted_from: str | None = None
    lineage: tuple[Takeover, ...] = ()
    hyperparameters: Mapping[str, Any] = field(default_factory=dict)
    objective: Objective = field(default_factory=lambda: Objective("episode_return", "max"))
    state: State = State.PENDING
    error: str | None = None
    attempts: int = 0
    retries: tuple[str, ...] = ()
    started_at: str | None = None
    ended_at: str | None = None
    spans: tuple[Span, ...] = ()
    duration_s: float = 0.0
    device: str | None = None
    host: str | None = None
    git_sha: str | None = None
    git_dirty: bool | None = None
    versions: Mapping[str, str | None] = field(default_factory=dict)
    compile_signature: str | None = None
    compile_time_s: float | None = None
    compile_time_saved_s: float | None = None
    compile_cache: str | None = None
    batch: str | None = None
    steps_per_second: float | None = None
    env_steps: int = 0
    total_steps: int = 0
    final_metrics: Mapping[str, float | None] | None = None
    absolute_metrics: Mapping[str, float | None] | None = None
    vaults: tuple[VaultEntry, ...] = ()
    checkpoint: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """The record as JSON can hold it; measurements that are not finite become null.

        Raises:
          RecordError: a hyperparameter is not finite, or a value has no place in JSON.
        """
        place = f"record of {self.trial_id}"
        fields = {item.name: getattr(self, item.name) for item in dataclasses.fields(self)}
        fields["objective"] = dataclasses.asdict(self.objective)
        fields["lineage"] = [dataclasses.asdict(takeover) for takeover in self.lineage]
        fields["spans"] = [dataclasses.asdict(span) for span in self.spans]
        fields["vaults"] = [dataclasses.asdict(entry) for entry in self.vaults]
        values: dict[str, Any] = plain(fields, place)
        if finite(values["hyperparameters"]) != values["hyperparameters"]:
            raise RecordError(
                f"{place}: hyperparameters: {values['hyperparameters']} holds a number that is not finite, "
                "which JSON cannot keep; sample finite values or null"
            )
        return {key: finite(value) for key, value in values.items()}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], source: str | Path = RECORD_FILE) -> TrialRecord:
        """The record in `data`, checked.

        Args:
          data: what JSON gave.
          source: the file's name, for messages.

        Raises:
          RecordError: an unknown schema version, or a key that is missing, unknown or ill-typed.
        """
        _check_schema_version(data, source)
        data = _upgraded(data)
        _check_fields(data, _RECORD_CHECKS, source)
        values = dict(data)
        values["state"] = State(data["state"])
        values["objective"] = _objective(data["objective"])
        values["lineage"] = tuple(Takeover(**takeover) for takeover in data["lineage"])
        values["retries"] = tuple(data["retries"])
        values["spans"] = tuple(Span(**span) for span in data["spans"])
        values["vaults"] = tuple(VaultEntry(**entry) for entry in data["vaults"])
        return cls(**values)


@dataclass(frozen=True, kw_only=True)
class SweepManifest:
    """The content of sweep.yaml: the sweep as composed, and its provenance."""

    name: str
    engine: str = "native"
    algorithm: str
    algorithms: tuple[str, ...]
    created: str
    num_trials: int
    samples: int | None = None
    objective: Objective
    seed: int
    num_seeds: int = 1
    pack: int = 1
    gpus_per_trial: float | None = None
    budget: Mapping[str, float] = field(default_factory=dict)
    search: Any = None
    sampler: Any = None
    scheduler: Any = None
    scenario_mode: str = "grid"
    warm_start: tuple[str, ...] = ()
    duplicates: str = "seeds"
    space: Any = None
    overrides: Any = None
    provenance: Mapping[str, Any] = field(default_factory=dict)

    @property
    def scenarios(self) -> tuple[str, ...]:
        """Those that were asked for, in their order; none where the config's own is meant."""
        named = self.overrides.get("env/scenario") if isinstance(self.overrides, Mapping) else None
        return (named,) if isinstance(named, str) else tuple(dict.fromkeys(named or ()))


# -- Checks ------------------------------------------------------------------------------------------------------------

_Check = tuple[str, Callable[[Any], bool]]


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    return _is_int(value) or isinstance(value, float)


def _is_str_dict(value: Any) -> bool:
    return isinstance(value, Mapping) and all(isinstance(key, str) for key in value)


def _is_objective(value: Any) -> bool:
    return (
        _is_str_dict(value)
        and set(value) == {"metric", "mode", "aggregate", "others", "constraints", "at"}
        and isinstance(value["metric"], str)
        and value["mode"] in MODES
        and value["aggregate"] in set(Aggregate)
        and value["at"] in set(At)
        and isinstance(value["others"], (list, tuple))
        and all(len(pair) == 2 and isinstance(pair[0], str) and pair[1] in MODES for pair in value["others"])
        and _is_str_dict(value["constraints"])
        and all(_is_number(bound) for bound in value["constraints"].values())
    )


def _is_takeover(value: Any) -> bool:
    return (
        _is_str_dict(value)
        and set(value) == {"step", "source", "source_step", "hyperparameters"}
        and _is_int(value["step"])
        and isinstance(value["source"], str)
        and _is_int(value["source_step"])
        and _is_str_dict(value["hyperparameters"])
    )


def _is_span(value: Any) -> bool:
    return (
        _is_str_dict(value)
        and set(value) == {"worker", "start", "end"}
        and all(isinstance(text, str) for text in value.values())
    )


def _is_vault(value: Any) -> bool:
    return (
        _is_str_dict(value)
        and set(value) == {"uid", "kind", "rows", "steps"}
        and isinstance(value["uid"], str)
        and value["kind"] in ("train", "test")
        and _is_int(value["rows"])
        and _is_int(value["steps"])
    )


def _or_null(check: _Check) -> _Check:
    description, test = check
    return f"{description} or null", lambda value: value is None or test(value)


_STR: _Check = ("a string", lambda value: isinstance(value, str))
_INT: _Check = ("an integer", _is_int)
_COUNT: _Check = ("an integer of 0 or more", lambda value: _is_int(value) and value >= 0)
_NUMBER: _Check = ("a number", _is_number)
_BOOL: _Check = ("a boolean", lambda value: isinstance(value, bool))
_DICT: _Check = ("a mapping with string keys", _is_str_dict)
_OBJECTIVE: _Check = (
    f"{{metric: a string, mode: max or min, aggregate: {' or '.join(Aggregate)}, others, constraints, at: "
    f"{' or '.join(At)}}}",
    _is_objective,
)
_LINEAGE: _Check = (
    "a list of {step, source, source_step, hyperparameters}",
    lambda value: isinstance(value, list) and all(map(_is_takeover, value)),
)
_SPANS: _Check = (
    "a list of {worker, start, end}, strings all",
    lambda value: isinstance(value, list) and all(map(_is_span, value)),
)
_VERSIONS: _Check = (
    "a mapping from package to version or null",
    lambda value: _is_str_dict(value) and all(v is None or isinstance(v, str) for v in value.values()),
)
_MEANS: _Check = (
    "a mapping from metric to number or null",
    lambda value: _is_str_dict(value) and all(v is None or _is_number(v) for v in value.values()),
)
_VAULTS: _Check = (
    "a list of {uid, kind: train or test, rows, steps}",
    lambda value: isinstance(value, list) and all(map(_is_vault, value)),
)
_REASONS: _Check = (
    "a list of strings",
    lambda value: isinstance(value, (list, tuple)) and all(isinstance(reason, str) for reason in value),
)
_DUPLICATES: _Check = ("seeds, reuse or refuse", lambda value: value in ("seeds", "reuse", "refuse"))
_CACHE: _Check = ("process, disk or miss", lambda value: value in ("process", "disk", "miss"))
_STATE: _Check = (f"one of {', '.join(State)}", lambda value: isinstance(value, str) and value in set(State))
_ANY: _Check = ("anything", lambda value: True)

_RECORD_CHECKS: Final[Mapping[str, _Check]] = {
    "schema_version": _INT,
    "trial_id": _STR,
    "number": _COUNT,
    "sweep": _or_null(_STR),
    "engine": _STR,
    "engine_version": _or_null(_STR),
    "algorithm": _STR,
    "environment": _STR,
    "scenario": _STR,
    "seed": _INT,
    "num_seeds": _COUNT,
    "promoted_from": _or_null(_STR),
    "lineage": _LINEAGE,
    "hyperparameters": _DICT,
    "objective": _OBJECTIVE,
    "state": _STATE,
    "error": _or_null(_STR),
    "attempts": _COUNT,
    "retries": _REASONS,
    "started_at": _or_null(_STR),
    "ended_at": _or_null(_STR),
    "spans": _SPANS,
    "duration_s": _NUMBER,
    "device": _or_null(_STR),
    "host": _or_null(_STR),
    "git_sha": _or_null(_STR),
    "git_dirty": _or_null(_BOOL),
    "versions": _VERSIONS,
    "compile_signature": _or_null(_STR),
    "compile_time_s": _or_null(_NUMBER),
    "compile_time_saved_s": _or_null(_NUMBER),
    "compile_cache": _or_null(_CACHE),
    "batch": _or_null(_STR),
    "steps_per_second": _or_null(_NUMBER),
    "env_steps": _COUNT,
    "total_steps": _COUNT,
    "final_metrics": _or_null(_MEANS),
    "absolute_metrics": _or_null(_MEANS),
    "vaults": _VAULTS,
    "checkpoint": _or_null(_STR),
}

_MANIFEST_CHECKS: Final[Mapping[str, _Check]] = {
    "name": _STR,
    "engine": _STR,
    "algorithm": _STR,
    "algorithms": _REASONS,
    "created": _STR,
    "num_trials": _COUNT,
    "samples": _or_null(_COUNT),
    "objective": _OBJECTIVE,
    "seed": _INT,
    "num_seeds": _COUNT,
    "pack": _COUNT,
    "gpus_per_trial": _or_null(_NUMBER),
    "budget": _DICT,
    "search": _ANY,
    "sampler": _ANY,
    "scheduler": _ANY,
    "scenario_mode": _STR,
    "warm_start": _REASONS,
    "duplicates": _DUPLICATES,
    "space": _ANY,
    "overrides": _ANY,
    "provenance": _DICT,
}


def _check_schema_version(data: Mapping[str, Any], source: str | Path) -> None:
    version: Any = data.get("schema_version")
    if not _is_int(version):
        raise RecordError(f"{source}: schema_version: expected {SCHEMA_VERSION}, got {version!r}; give a trial record")
    if version > SCHEMA_VERSION:
        raise RecordError(
            f"{source}: schema_version: {version} is newer than {SCHEMA_VERSION}, the newest that is known here; "
            "upgrade jax-party"
        )
    if version < 1:
        raise RecordError(
            f"{source}: schema_version: unknown version {version}; this jax-party reads 1 to {SCHEMA_VERSION}"
        )


def _upgraded(data: Mapping[str, Any]) -> dict[str, Any]:
    """A record of an earlier version as this one has it. 1 knew one seed per trial, 2 one objective, 3 one engine, 4 no
    spans of time, 5 one rule for what a trial is judged by."""
    if data["schema_version"] == SCHEMA_VERSION:
        return dict(data)
    objective = _upgraded_objective(data.get("objective"))
    new = dict.fromkeys(("batch", "compile_time_saved_s", "compile_cache", "promoted_from", "final_metrics"))
    new |= {"retries": [], "num_seeds": 1, "lineage": [], "spans": [], "engine": "native"}
    new["engine_version"] = data.get("git_sha")
    return {**new, **data, "objective": objective, "schema_version": SCHEMA_VERSION}


def _upgraded_objective(objective: Any) -> Any:
    if not _is_str_dict(objective):
        return objective
    before = {"aggregate": Aggregate.MEAN.value, "others": [], "constraints": {}, "at": At.BEST_PER_SEED.value}
    return {**before, **objective}


def _objective(data: Mapping[str, Any]) -> Objective:
    return Objective(**{**data, "others": tuple((metric, mode) for metric, mode in data["others"])})


def _check_fields(data: Mapping[str, Any], checks: Mapping[str, _Check], source: str | Path) -> None:
    for key in checks:
        if key not in data:
            raise RecordError(
                f"{source}: {key}: missing; expected {checks[key][0]}; restore the file or remove the folder"
            )
    for key, value in data.items():
        if key not in checks:
            raise RecordError(f"{source}: {key}: unknown key with value {value!r}; remove it or upgrade jax-party")
        description, test = checks[key]
        if not test(value):
            raise RecordError(f"{source}: {key}: expected {description}, got {value!r}; correct the value")


# -- Values ------------------------------------------------------------------------------------------------------------


def plain(value: Any, place: str) -> Any:
    """`value` as dicts, lists, strings, numbers, booleans and None; arrays and NumPy scalars become theirs.

    Raises:
      RecordError: some value in it is none of these; `place` begins the message.
    """
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return str(value.value) if isinstance(value, enum.Enum) else str(value)
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return float(value)
    if isinstance(value, Mapping):
        return {str(key): plain(item, f"{place}: {key}") for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item, place) for item in value]
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if hasattr(value, "tolist"):
        return plain(value.tolist(), place)
    raise RecordError(
        f"{place}: {value!r} is a {type(value).__name__}; give a number, string, boolean, list or mapping"
    )


def finite(value: Any) -> Any:
    """`value` with every number that is not finite replaced by None; takes what `plain` gives."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [finite(item) for item in value]
    return value


def timestamp() -> str:
    """Now, in ISO 8601 and UTC, to the millisecond."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def _canonical(value: Any, place: str) -> str:
    """JSON that is the same for equal values: sorted keys, no spaces, floats by their shortest repr."""
    return json.dumps(plain(value, place), sort_keys=True, separators=(",", ":"))


def trial_id(sweep_name: str, config: Mapping[str, Any], seed: int) -> str:
    """`<sweep name>-<8 hex digits>`: the digits are of the SHA-256 of the config and the seed.

    Raises:
      RecordError: the name cannot name a folder, or the config holds what JSON cannot.
    """
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", sweep_name):
        raise RecordError(
            f"sweep name {sweep_name!r}: it names folders; use letters, digits, '.', '_' and '-', and begin with a "
            "letter or digit"
        )
    content = _canonical({"config": config, "seed": seed}, "config")
    return f"{sweep_name}-{hashlib.sha256(content.encode()).hexdigest()[:8]}"


def holds_its_config(folder: Path, record: TrialRecord) -> bool:
    """Whether config.yaml is what the trial's id is a digest of. Those of a population change, which is no edit."""
    name = re.sub(r"-r\d+$", "", record.trial_id)  # an older sweep's copies
    sweep = name.rpartition("-")[0]
    return bool(record.lineage) or not sweep or trial_id(sweep, read_config(folder), record.seed) == name


def configuration_id(record: TrialRecord) -> str:
    """8 hex digits that trials of the same algorithm and values share, whatever their seed and scenario."""
    values = {key: value for key, value in record.hyperparameters.items() if key != "system.seed"}
    content = _canonical([record.algorithm, values], "configuration")
    return hashlib.sha256(content.encode()).hexdigest()[:8]


# -- Files -------------------------------------------------------------------------------------------------------------


def write_bytes_atomically(path: Path, content: bytes) -> None:
    """Make `path` hold `content`, or leave it as it was: written aside, synced, then renamed; or in one request."""
    if is_remote(path):
        storage.write_bytes(path, content)
        return
    aside = path.with_name(f".{path.name}.{os.getpid()}-{uuid.uuid4().hex[:8]}.tmp")
    try:
        with open(aside, "xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(aside, path)
    except BaseException:
        aside.unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


def write_text_atomically(path: Path, text: str) -> None:
    """Make `path` hold `text` in UTF-8, or leave it as it was."""
    write_bytes_atomically(path, text.encode())


def write_json_atomically(path: Path, value: Any) -> None:
    """Make `path` hold `value` as indented JSON, or leave it as it was; numbers that are not finite become null."""
    write_bytes_atomically(path, _json(value, path))


def _json(value: Any, path: Path) -> bytes:
    return (json.dumps(finite(plain(value, str(path))), indent=2) + "\n").encode()


def write_yaml_atomically(path: Path, value: Any) -> None:
    """Make `path` hold `value` as YAML in the keys' own order, or leave it as it was."""
    write_text_atomically(path, yaml.dump(plain(value, str(path)), Dumper=_Dumper, sort_keys=False, allow_unicode=True))


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _read_text(path: Path, remedy: str) -> str:
    try:
        return storage.read_bytes(path).decode()
    except FileNotFoundError:
        raise RecordError(f"{path}: no such file; {remedy}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise RecordError(f"{path}: cannot be read ({error}); {remedy}") from error


def _read_yaml(path: Path, remedy: str) -> dict[str, Any]:
    try:
        value = yaml.load(_read_text(path, remedy), Loader=_Loader)
    except yaml.YAMLError as error:
        problem = " ".join(str(error).split())
        raise RecordError(f"{path}: not YAML ({problem}); {remedy}") from error
    if not _is_str_dict(value):
        raise RecordError(f"{path}: expected a mapping with string keys, got {type(value).__name__}; {remedy}")
    return dict(value)


class FolderHeld(RecordError):
    """Another process holds the folder."""


@contextlib.contextmanager
def lock_folder(folder: Path, timeout: float = 5.0) -> Iterator[None]:
    """Hold `<folder>/.lock` for this process; the kernel lets go of it when the process dies.

    On remote storage the file is a lease (`storage.lease`), which waits for no holder that lives.

    Args:
      folder: an existing folder.
      timeout: seconds to wait for another holder.

    Raises:
      FolderHeld: another process still holds it after `timeout`.
      RecordError: there is no such folder, or it cannot be locked.
    """
    folder = as_folder(folder)
    if is_remote(folder):
        with storage.lease(folder / LOCK_FILE):
            yield
        return
    if not folder.is_dir():
        raise RecordError(f"{folder}: no such folder to lock; create it first")
    descriptor = os.open(folder / LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        _wait_for_lock(descriptor, folder, timeout)
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"process {os.getpid()} on {socket.gethostname()}".encode(), 0)
        yield
    finally:
        os.close(descriptor)


def _wait_for_lock(descriptor: int, folder: Path, timeout: float) -> None:
    deadline = time.monotonic() + timeout
    while True:
        try:
            return fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in (errno.EAGAIN, errno.EACCES):
                raise RecordError(f"{folder}: cannot be locked ({error}); use a file system with flock") from error
            if time.monotonic() >= deadline:
                holder = os.pread(descriptor, 200, 0).decode(errors="replace") or "another process"
                raise FolderHeld(
                    f"{folder}: {holder} holds this folder (waited {timeout:g} s); let it finish or stop it"
                ) from None
        time.sleep(0.02)


# -- A trial's folder --------------------------------------------------------------------------------------------------

_IDENTITY: Final = (
    "trial_id", "number", "sweep", "algorithm", "environment", "scenario", "seed", "hyperparameters", "objective",
)  # fmt: skip


def label_of(algorithms: Sequence[str]) -> str:
    """One word for the algorithms of a sweep, which its folder is named after."""
    if len(algorithms) <= 3:
        return "-".join(algorithms)
    return f"{algorithms[0]}-and-{len(algorithms) - 1}-more"


def create_trial_folder(folder: Path, config: Mapping[str, Any], record: TrialRecord) -> None:
    """Make a trial's folder with config.yaml and then record.json, so that a folder with a record is whole.

    A folder that holds this very trial is left as it is, with the state it has reached.

    Raises:
      RecordError: the folder holds another trial.
    """
    folder = as_folder(folder)
    if storage.is_file(folder / RECORD_FILE):
        _check_same_trial(folder, config, record)
        return
    if not is_remote(folder):
        folder.mkdir(parents=True, exist_ok=True)
    write_yaml_atomically(folder / CONFIG_FILE, config)
    write_record(folder, record)


def _check_same_trial(folder: Path, config: Mapping[str, Any], record: TrialRecord) -> None:
    there, here = read_record(folder).to_dict(), record.to_dict()
    if there["lineage"]:  # its values have changed since, which its id has not
        there["hyperparameters"] = there["lineage"][0]["hyperparameters"]
        config = read_config(folder)
    for key in _IDENTITY:
        if there[key] != here[key]:
            raise RecordError(
                f"{folder / RECORD_FILE}: {key}: the folder holds another trial ({there[key]!r}, not {here[key]!r}); "
                "choose another folder"
            )
    if _canonical(read_config(folder), "config") != _canonical(config, "config"):
        raise RecordError(
            f"{folder / CONFIG_FILE}: the folder holds this trial with another config; choose another folder"
        )


def read_record(folder: Path) -> TrialRecord:
    """The record of the trial in `folder`.

    Raises:
      RecordError: it is missing, not JSON, or not a record that this version reads.
    """
    path = as_folder(folder) / RECORD_FILE
    return _parse_record(_read_text(path, "give a trial's folder"), path)


def _parse_record(text: str | bytes, path: Path) -> TrialRecord:
    try:
        data = json.loads(text)
    except json.JSONDecodeError as error:
        raise RecordError(f"{path}: not JSON ({error}); restore the file or remove the folder") from error
    if not isinstance(data, dict):
        raise RecordError(
            f"{path}: expected an object, got {type(data).__name__}; restore the file or remove the folder"
        )
    return TrialRecord.from_dict(data, path)


def write_record(folder: Path, record: TrialRecord) -> None:
    """Write record.json whole.

    Raises:
      RecordError: a field has the wrong type; the file stays as it was.
    """
    path = as_folder(folder) / RECORD_FILE
    data = record.to_dict()
    TrialRecord.from_dict(data, path)
    write_json_atomically(path, data)


def change_record(folder: Path, change: Callable[[TrialRecord], TrialRecord]) -> TrialRecord:
    """Read the record, change it, write it, and return it; on remote storage again from the start where another process
    has changed it meanwhile.

    Raises:
      RecordError: it cannot be read, or a field has the wrong type; the file stays as it was.
    """
    path = as_folder(folder) / RECORD_FILE
    if not is_remote(path):
        record = change(read_record(folder))
        write_record(folder, record)
        return TrialRecord.from_dict(record.to_dict())
    while True:
        there = storage.read_version(path)
        if there is None:
            raise RecordError(f"{path}: no such file; give a trial's folder")
        data = change(_parse_record(there.content, path)).to_dict()
        record = TrialRecord.from_dict(data, path)
        with contextlib.suppress(storage.ChangedError):
            storage.write_version(path, _json(data, path), there.tag)
            return record


def update_record(folder: Path, **changes: Any) -> TrialRecord:
    """Read the record, change the named fields, write it, and return it.

    Raises:
      RecordError: a name is no field of a record, or a value has the wrong type.
    """
    for name in changes:
        if name not in _RECORD_CHECKS:
            raise RecordError(
                f"{as_folder(folder) / RECORD_FILE}: {name}: no such field; use one of {', '.join(_RECORD_CHECKS)}"
            )
    return change_record(folder, lambda record: dataclasses.replace(record, **changes))


def spans_until_now(record: TrialRecord, start: str) -> tuple[Span, ...]:
    """The record's spans with the one that this process began at `start`, now that it is being written."""
    worker = f"{socket.gethostname()}:{os.getpid()}"
    before = [span for span in record.spans if (span.worker, span.start) != (worker, start)]
    return (*before, Span(worker, start, timestamp()))


def add_retry(folder: Path, reason: str) -> TrialRecord:
    """Note why the trial is tried again.

    Raises:
      RecordError: the record cannot be read.
    """
    note = f"{timestamp()} {reason}"
    return change_record(folder, lambda record: dataclasses.replace(record, retries=(*record.retries, note)))


def trial_folders(sweep: Path, *files: str) -> list[Path]:
    """The folders right below a sweep's that hold one of these files, by default a record; by name."""
    wanted = files or (RECORD_FILE,)
    if is_remote(sweep):
        names = (name.partition("/") for name in storage.files_below(sweep))
        found = {name for name, _, rest in names if rest in wanted}
    else:
        found = {path.relative_to(sweep).parts[0] for name in wanted for path in sweep.glob(f"*/{name}")}
    return [sweep / name for name in sorted(found)]


def takeover_folder(folder: Path, step: int) -> Path:
    """Where a trial keeps the learner that it took over after `step` environment steps: an Orbax checkpoint."""
    return Path(folder) / "checkpoints" / f"{TAKEOVER}{step}"


def read_config(folder: Path) -> dict[str, Any]:
    """The composed config of the trial in `folder`.

    Raises:
      RecordError: it is missing or not a YAML mapping.
    """
    return _read_yaml(as_folder(folder) / CONFIG_FILE, "restore the file or remove the folder")


# -- Metrics -----------------------------------------------------------------------------------------------------------


def append_metrics(folder: Path, *rows: Mapping[str, Any]) -> None:
    """Add lines to metrics.jsonl and sync it; numbers that are not finite become null.

    What a kill left of an unfinished line is cut first.

    Raises:
      RecordError: a row has no integer `step`, or holds what JSON cannot.
    """
    path = as_folder(folder) / METRICS_FILE
    lines = []
    for row in rows:
        values = finite(plain(row, str(path)))
        if not _is_int(values.get("step")):
            raise RecordError(f"{path}: step: expected an integer, got {values.get('step')!r}; give the row its step")
        lines.append(json.dumps(values) + "\n")
    path.parent.mkdir(parents=True, exist_ok=True)
    new = not path.exists()
    with open(path, "x+b" if new else "r+b") as file:
        _cut_unfinished_line(file)
        file.write("".join(lines).encode())
        file.flush()
        os.fsync(file.fileno())
    if new:
        _sync_folder(path.parent)


def _cut_unfinished_line(file: BinaryIO) -> None:
    """Leave `file` at its end, which is after a newline or at its beginning."""
    size = file.seek(0, os.SEEK_END)
    if size:
        file.seek(size - 1)
        if file.read(1) != b"\n":
            file.seek(0)
            file.seek(_whole_length(file.read()))
            file.truncate()


def _whole_length(content: bytes) -> int:
    """Bytes of `content` up to and with its last newline."""
    return content.rfind(b"\n") + 1


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """The rows of metrics.jsonl in order; empty where there is no file. A line without its newline is not read.

    Raises:
      RecordError: a whole line is not a JSON object.
    """
    path = as_folder(folder) / METRICS_FILE
    try:
        content = storage.read_bytes(path)
    except FileNotFoundError:
        return []
    except OSError as error:
        raise RecordError(f"{path}: cannot be read ({error}); restore the file") from error
    lines = content[: _whole_length(content)].splitlines()
    return [_parse_row(line, path, number) for number, line in enumerate(lines, start=1)]


def _parse_row(line: bytes, path: Path, number: int) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise RecordError(f"{path}: line {number}: not JSON ({error}); remove the line or restore the file") from error
    if not isinstance(row, dict):
        raise RecordError(f"{path}: line {number}: expected an object, got {type(row).__name__}; remove the line")
    if not _is_int(row.get("step")):
        raise RecordError(f"{path}: line {number}: step: expected an integer, got {row.get('step')!r}; remove the line")
    return row


def truncate_metrics(folder: Path, step: int) -> None:
    """Keep the rows of metrics.jsonl with a step of at most `step`, and drop an unfinished last line.

    Raises:
      RecordError: a whole line is not a row.
    """
    path = as_folder(folder) / METRICS_FILE
    if not path.exists():
        return
    content = path.read_bytes()
    lines = content[: _whole_length(content)].splitlines(keepends=True)
    kept = [line for number, line in enumerate(lines, start=1) if _parse_row(line, path, number)["step"] <= step]
    result = b"".join(kept)
    if result != content:
        write_bytes_atomically(path, result)


def judgement(record: TrialRecord, rows: Iterable[Mapping[str, Any]]) -> Judgement | None:
    """What a trial is judged by, as its objective says; None where the objective has not been measured.

    Args:
      record: of the trial.
      rows: of its metrics.jsonl.
    """
    return judge(record.objective, record.num_seeds, rows)


def score_in(folder: Path) -> float:
    """What the trial in `folder` is judged by; NaN where it has failed, or has nothing.

    Raises:
      RecordError: its record or its metrics cannot be read.
    """
    record = read_record(folder)
    found = None if record.state is State.FAILED else judgement(record, read_metrics(folder))
    value = None if found is None else found.metrics.get(record.objective.metric)
    return math.nan if value is None else value


def contender(record: TrialRecord) -> str:
    """Return what a trial is ranked as (`judging.replicates.contender`)."""
    return replicates.contender(configuration_id(record), record.trial_id, bool(record.lineage))


def candidate(record: TrialRecord, rows: Sequence[Mapping[str, Any]]) -> Candidate:
    """A trial as it is ranked; without seeds where its objective has not been measured.

    Args:
      record: of the trial.
      rows: of its metrics.jsonl.
    """
    found = judgement(record, rows)
    trend, settled = end_of(rows, record.num_seeds, record.objective)
    return Candidate(
        trial_id=record.trial_id,
        number=record.number,
        algorithm=record.algorithm,
        scenario=record.scenario,
        configuration=contender(record),
        state=record.state.value,
        first_seed=record.seed,
        of_seeds=() if found is None else found.of_seeds,
        settled=settled,
        trend=trend,
    )


def hyperparameters_at(record: TrialRecord, step: int | None) -> Mapping[str, Any]:
    """The values in force when the trial had trained `step` steps; None: those that it has now."""
    if step is not None:
        for takeover in record.lineage:
            if takeover.step >= step:
                return takeover.hyperparameters
    return record.hyperparameters


def judged_hyperparameters(record: TrialRecord, rows: Iterable[Mapping[str, Any]]) -> Mapping[str, Any]:
    """The values that gave the trial its score: those of a population change while it trains.

    Args:
      record: of the trial.
      rows: of its metrics.jsonl.
    """
    if not record.lineage:
        return record.hyperparameters
    found = judgement(record, rows)
    return hyperparameters_at(record, None if found is None else found.step)


# -- marl-eval ---------------------------------------------------------------------------------------------------------


def write_marl_eval(folder: Path) -> None:
    """Write metrics/metrics.json from the record and metrics.jsonl, in marl-eval's format.

    environment -> task (the scenario) -> algorithm -> `seed_<n>` -> `step_<k>`, k from 0, with `step_count`,
    `elapsed_time` (seconds since the first evaluation, as marl-eval's own logger counts them, so without compile time)
    and a list of values a metric; and `absolute_metrics`. marl-eval wants the same metrics at every step and takes
    means without asking, so nulls are left out of the lists, and a metric with no number in some row is left out.

    Source: https://github.com/instadeepai/marl-eval, README and `marl_eval/json_tools/json_logger.py`.

    Raises:
      RecordError: the record or the metrics cannot be read.
    """
    record = read_record(folder)
    rows = read_metrics(folder)
    seeds = dict.fromkeys([row["seed"] for row in rows if _is_int(row.get("seed"))] or [record.seed])
    runs = {
        f"seed_{seed}": _marl_eval_run(record, [row for row in rows if row.get("seed", record.seed) == seed])
        for seed in seeds
    }
    path = as_folder(folder) / MARL_EVAL_FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json_atomically(path, {record.environment: {record.scenario: {record.algorithm: runs}}})


def _marl_eval_run(record: TrialRecord, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """One seed's part of marl-eval's file."""
    evaluations = [row for row in rows if ends_a_period(row)]
    values = [_episode_values(row) for row in evaluations]
    absolute = _absolute_values(record, [row for row in rows if row.get("absolute")])
    common = set.intersection(*map(set, values)) if values else set()
    start = _elapsed(evaluations[0]) if evaluations else 0.0
    run: dict[str, Any] = {
        f"step_{index}": {"step_count": row["step"], "elapsed_time": _elapsed(row) - start}
        | {name: of_row[name] for name in of_row if name in common}
        for index, (row, of_row) in enumerate(zip(evaluations, values, strict=True))
    }
    return run | {"absolute_metrics": {name: absolute[name] for name in absolute if name in common or not evaluations}}


def _elapsed(row: Mapping[str, Any]) -> float:
    seconds: Any = row.get("wall_time_s")
    return float(seconds) if _is_number(seconds) else 0.0


def _episode_values(row: Mapping[str, Any]) -> dict[str, list[float]]:
    """Metric -> its numbers in this row: of each episode where the row has them, otherwise the mean alone."""
    source = row.get("episodes") or {name: [mean] for name, mean in (row.get("evaluate") or {}).items()}
    numbers = {name: [value for value in values if _is_number(value)] for name, values in source.items()}
    return {name: values for name, values in numbers.items() if values}


def _absolute_values(record: TrialRecord, rows: list[dict[str, Any]]) -> dict[str, list[float]]:
    if rows:
        return _episode_values(rows[-1])
    means = record.absolute_metrics or {}
    return {name: [mean] for name, mean in means.items() if mean is not None}


# -- The sweep's manifest ----------------------------------------------------------------------------------------------


def read_manifest(folder: Path) -> SweepManifest:
    """The manifest of the sweep in `folder`.

    Raises:
      RecordError: it is missing, not YAML, or a key is missing, unknown or ill-typed.
    """
    path = as_folder(folder) / MANIFEST_FILE
    data = _read_yaml(path, "give a sweep's folder")
    if "num_seeds" not in data:  # written before a trial could have several seeds
        data |= {"algorithms": [data.get("algorithm")], "num_seeds": 1, "pack": 1, "gpus_per_trial": None}
        data |= {"budget": {}}
    data["objective"] = _upgraded_objective(data.get("objective"))
    if "scenario_mode" not in data:  # nor several objectives, nor scenarios but as a grid
        data |= {"samples": None, "sampler": None, "scenario_mode": "grid", "warm_start": []}
    data.setdefault("engine", "native")  # there was one
    data.setdefault("duplicates", "seeds")  # earlier sweeps ran copies; what is still to be drawn runs none
    _check_fields(data, _MANIFEST_CHECKS, path)
    tuples = {name: tuple(data[name]) for name in ("algorithms", "warm_start")}
    return SweepManifest(**{**data, **tuples, "objective": _objective(data["objective"])})


def write_manifest(folder: Path, manifest: SweepManifest) -> None:
    """Write sweep.yaml whole, making the folder where there is none.

    Raises:
      RecordError: a field has the wrong type; the file stays as it was.
    """
    path = as_folder(folder) / MANIFEST_FILE
    data = {item.name: getattr(manifest, item.name) for item in dataclasses.fields(manifest)}
    data["objective"] = dataclasses.asdict(manifest.objective)
    content = plain(data, str(path))
    _check_fields(content, _MANIFEST_CHECKS, path)
    if not is_remote(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    write_yaml_atomically(path, content)


def read_sweep_file(folder: Path) -> dict[str, Any]:
    """The content of sweep.yaml as it is written, whatever its version.

    Raises:
      RecordError: it is missing or not a YAML mapping.
    """
    return _read_yaml(as_folder(folder) / MANIFEST_FILE, "give a sweep's folder")


def read_claim(folder: Path) -> tuple[dict[str, Any], dict[str, Any]] | None:
    """The contents of claim.yaml and sweep.yaml as they are written; None where nothing was claimed.

    Raises:
      RecordError: claim.yaml is gone although sweep.yaml's provenance knows of it, or one of them is not YAML.
    """
    folder = as_folder(folder)
    manifest = read_sweep_file(folder)
    provenance = manifest.get("provenance")
    known = isinstance(provenance, Mapping) and "claim" in provenance
    if not known and not storage.is_file(folder / CLAIM_FILE):
        return None
    return _read_yaml(folder / CLAIM_FILE, "restore it: verdicts are on the claims as they were made"), manifest


def read_verdict(folder: Path) -> dict[str, Any] | None:
    """The content of verdict.json; None where none was given.

    Raises:
      RecordError: it is not a JSON object.
    """
    path = as_folder(folder) / VERDICT_FILE
    if not storage.is_file(path):
        return None
    remedy = "remove it, and give the verdict again: make verdict SWEEP=…"
    try:
        found = json.loads(_read_text(path, remedy))
    except json.JSONDecodeError as error:
        raise RecordError(f"{path}: not JSON ({error}); {remedy}") from error
    if not _is_str_dict(found) or not isinstance(found.get("claims"), list):
        raise RecordError(f"{path}: expected an object with claims; {remedy}")
    return dict(found)


# -- Provenance --------------------------------------------------------------------------------------------------------


def provenance() -> dict[str, Any]:
    """`git_sha`, `git_dirty`, `versions` of the packages that matter, `host`, `python` and `platform`.

    Read once a process. Git's two are None where this package is not part of a checkout.
    """
    known = _provenance()
    return {**known, "versions": dict(known["versions"])}


def our_version() -> str | None:
    """The commit of this project where it is a checkout, else its package's version."""
    known = _provenance()
    version: str | None = known["git_sha"] or known["versions"]["jax-party"]
    return version


def set_code(git_sha: str | None, git_dirty: bool | None) -> None:
    """Say which code this is, where it was sent from a checkout and is none itself."""
    _provenance().update(git_sha=git_sha, git_dirty=git_dirty)


@functools.cache
def _provenance() -> dict[str, Any]:
    sha, dirty = _git_state()
    return {
        "git_sha": sha,
        "git_dirty": dirty,
        "versions": {name: _version(name) for name in PACKAGES},
        "host": socket.gethostname(),
        "python": platform.python_version(),
        "platform": platform.platform(),
    }


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _git_state() -> tuple[str | None, bool | None]:
    # An installed copy may lie inside somebody else's checkout: only one that git tracks counts.
    if _git("ls-files", "--error-unmatch", "__init__.py") is None:
        return None, None
    sha = _git("rev-parse", "HEAD")
    changes = _git("status", "--porcelain")
    return sha, None if changes is None else bool(changes)


def _git(*arguments: str) -> str | None:
    """What git prints, run beside this file; None where it fails or there is no git."""
    try:
        done = subprocess.run(
            ["git", "--no-optional-locks", *arguments],
            cwd=Path(__file__).resolve().parent, capture_output=True, text=True, timeout=10, check=False,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
