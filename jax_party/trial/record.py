"""A trial's record."""

from __future__ import annotations

import dataclasses
import json
import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Final

from msgspec import Meta

from jax_party.errors import RecordError
from jax_party.judging.objectives import Objective
from jax_party.store.files import finite_value, plain_value
from jax_party.trial.field_types import (
    Cache,
    Count,
    Fields,
    Flag,
    Integer,
    Means,
    Number,
    ObjectiveField,
    StateField,
    Text,
    Texts,
    Versions,
    typed,
)
from jax_party.trial.provenance import utc_timestamp
from jax_party.trial.states import State
from jax_party.trial.upgrades import SCHEMA_VERSION, check_schema_version, upgraded_record

RECORD_FILE: Final = "record.json"


@dataclass(frozen=True)
class Takeover:
    """A population's trial continued from another trial's learner, with new hyperparameters.

    Attributes:
      step: environment steps that the trial had trained.
      source: the other trial's id.
      source_step: environment steps that its learner had trained.
      hyperparameters: the values that the trial had before.
    """

    step: int
    source: str
    source_step: int
    hyperparameters: Mapping[str, Any]


@dataclass(frozen=True)
class Span:
    """A period of time in which a worker played a trial.

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
    """A Flashbax vault: `kind` is `train` or `test`, `rows` the batch size, `steps` the length of the time axis."""

    uid: str
    kind: Annotated[str, Meta(pattern="^(train|test)$")]
    rows: int
    steps: int


Lineage = Annotated[tuple[Takeover, ...], Meta(description="a list of {step, source, source_step, hyperparameters}")]
Spans = Annotated[tuple[Span, ...], Meta(description="a list of {worker, start, end}, all strings")]
Vaults = Annotated[tuple[VaultEntry, ...], Meta(description="a list of {uid, kind: train or test, rows, steps}")]


@dataclass(frozen=True, kw_only=True)
class TrialRecord:
    """The content of record.json; `docs/design.md` has the meaning of each field."""

    schema_version: Integer = SCHEMA_VERSION
    trial_id: Text
    number: Count = 0
    sweep: Text | None = None
    engine: Text = "native"
    engine_version: Text | None = None
    algorithm: Text
    environment: Text
    scenario: Text
    seed: Integer
    num_seeds: Count = 1
    promoted_from: Text | None = None
    lineage: Lineage = ()
    hyperparameters: Fields = field(default_factory=dict)
    objective: ObjectiveField = field(default_factory=lambda: Objective("episode_return", "max"))
    state: StateField = State.PENDING
    error: Text | None = None
    attempts: Count = 0
    retries: Texts = ()
    started_at: Text | None = None
    ended_at: Text | None = None
    spans: Spans = ()
    duration_s: Number = 0.0
    device: Text | None = None
    host: Text | None = None
    git_sha: Text | None = None
    git_dirty: Flag | None = None
    versions: Versions = field(default_factory=dict)
    compile_signature: Text | None = None
    compile_time_s: Number | None = None
    compile_time_saved_s: Number | None = None
    compile_cache: Cache | None = None
    batch: Text | None = None
    steps_per_second: Number | None = None
    env_steps: Count = 0
    total_steps: Count = 0
    final_metrics: Means | None = None
    absolute_metrics: Means | None = None
    vaults: Vaults = ()
    checkpoint: Text | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the record as JSON can hold it; measurements that are not finite become null.

        Raises:
          RecordError: a hyperparameter is not finite, or a value has no place in JSON.
        """
        place = f"record of {self.trial_id}"
        fields = {item.name: getattr(self, item.name) for item in dataclasses.fields(self)}
        fields["objective"] = dataclasses.asdict(self.objective)
        fields["lineage"] = [dataclasses.asdict(takeover) for takeover in self.lineage]
        fields["spans"] = [dataclasses.asdict(span) for span in self.spans]
        fields["vaults"] = [dataclasses.asdict(entry) for entry in self.vaults]
        values: dict[str, Any] = plain_value(fields, place)
        if finite_value(values["hyperparameters"]) != values["hyperparameters"]:
            raise RecordError(
                f"{place}: hyperparameters: {values['hyperparameters']} has a number that is "
                "not finite, which JSON cannot store; sample finite values or null"
            )
        return {key: finite_value(value) for key, value in values.items()}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], source: str | Path = RECORD_FILE) -> TrialRecord:
        """Return the record in `data`, validated.

        Args:
          data: the decoded JSON.
          source: the file's name, for messages.

        Raises:
          RecordError: an unknown schema version, or a key that is missing, unknown or ill-typed.
        """
        check_schema_version(data, source)
        return typed(cls, upgraded_record(data), source)


FIELDS: Final = tuple(item.name for item in dataclasses.fields(TrialRecord))


def parse_record(text: str | bytes, path: Path) -> TrialRecord:
    """Return the validated record in a record.json's content; `path` is for messages.

    Raises:
      RecordError: it is not a JSON object, or not a valid record.
    """
    try:
        data = json.loads(text)
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise RecordError(f"{path}: not JSON ({error}); restore the file or remove the folder") from error
    if not isinstance(data, dict):
        raise RecordError(
            f"{path}: expected an object, got {type(data).__name__}; restore the file or remove the folder"
        )
    return TrialRecord.from_dict(data, path)


def spans_until_now(record: TrialRecord, start: str) -> tuple[Span, ...]:
    """Return the record's spans, with the one that this process began at `start` extended to now."""
    worker = f"{socket.gethostname()}:{os.getpid()}"
    before = [span for span in record.spans if (span.worker, span.start) != (worker, start)]
    return (*before, Span(worker, start, utc_timestamp()))
