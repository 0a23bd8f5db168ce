"""TensorBoard event files of trials, generated from their metrics: scalars and hyperparameters, readable run names."""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from tensorboardX import summary
from tensorboardX.proto.event_pb2 import Event
from tensorboardX.proto.summary_pb2 import Summary
from tensorboardX.record_writer import masked_crc32c

from jax_party.trial.record import TrialRecord
from jax_party.trial.states import FINISHED
from results.live.following import FollowedTrial, numbers, seconds

EVENT_FILE: Final = "events.out.tfevents.0.jax_party"
_VERSION: Final = "brain.Event:2"  # of the format; TensorBoard looks for it

_PARTS: Final = ("evaluate", "train")


@dataclass
class _Written:
    """The contents of a run's file: the last step per seed, and whether its begin and its end are written."""

    begun: bool = False
    ended: bool = False
    last: dict[str, int] = field(default_factory=dict)


class EventFiles:
    """Event files below `root`: one per run (`run_name`), and below it one per seed if there are several."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._written: dict[str, _Written] = {}

    def update(self, trials: Sequence[FollowedTrial], label: str = "") -> None:
        """Append to the files what they lack of these trials; `label` is the prefix of their runs' names."""
        for trial in trials:
            name = run_name(trial.record, label)
            written = self._written.setdefault(name, _Written())
            events = [*self._hyperparameters(trial, written), *self._evaluations(trial, written)]
            events += self._ending(trial, written)
            self._append(name, events)
            if trial.record.num_seeds > 1:
                for seed, rows in _by_seed(trial).items():
                    self._append(f"{name}/s{seed}", self._seed(trial.record, seed, rows, written))

    def _hyperparameters(self, trial: FollowedTrial, written: _Written) -> Iterator[Event]:
        if written.begun or not trial.rows:
            return
        written.begun = True
        _, begin, _ = summary.hparams({key: _cell(value) for key, value in _hyperparameters(trial).items()}, {})
        yield Event(wall_time=_began(trial.record), summary=begin)

    def _evaluations(self, trial: FollowedTrial, written: _Written) -> Iterator[Event]:
        began = _began(trial.record)
        for step, rows in trial.by_step.items():
            if step > written.last.get("", -1):
                written.last[""] = step
                yield _event(began + seconds(rows[-1]), step, {part: trial.metrics(rows, part) for part in _PARTS})

    def _ending(self, trial: FollowedTrial, written: _Written) -> Iterator[Event]:
        record = trial.record
        if written.ended or not written.begun or record.state not in FINISHED:
            return
        written.ended = True
        ended = datetime.fromisoformat(record.ended_at).timestamp() if record.ended_at else _began(record)
        played = {"final": record.final_metrics, "absolute": record.absolute_metrics}
        parts = {part: dict(numbers(metrics)) for part, metrics in played.items() if metrics}
        if parts:
            yield _event(ended, record.env_steps, parts)
        if record.error is None:
            _, _, end = summary.hparams({}, {})
            yield Event(wall_time=ended, summary=end)

    def _seed(
        self, record: TrialRecord, seed: int, rows: Sequence[Mapping[str, Any]], written: _Written
    ) -> Iterator[Event]:
        began = _began(record)
        for row in rows:
            if row["step"] > written.last.get(str(seed), -1):
                written.last[str(seed)] = row["step"]
                parts = {part: dict(numbers(row.get(part))) for part in _PARTS}
                yield _event(began + seconds(row), row["step"], parts)

    def _append(self, name: str, events: Sequence[Event] | Iterator[Event]) -> None:
        content = b"".join(_framed(event) for event in events)
        if not content:
            return
        file = self._root / name / EVENT_FILE
        if not file.exists():
            file.parent.mkdir(parents=True, exist_ok=True)
            content = _framed(Event(file_version=_VERSION)) + content
        with file.open("ab") as stream:
            stream.write(content)


def run_name(record: TrialRecord, label: str = "") -> str:
    """Return `<algorithm>/<scenario>/<number>-<hash>`; the hash is the end of the trial's id."""
    place = f"{record.number:04d}-{record.trial_id.removeprefix(f'{record.sweep}-')}"
    words = [label, record.algorithm, record.scenario, place]
    return "/".join(re.sub(r"[^A-Za-z0-9._-]", "_", word) for word in words if word)


def _hyperparameters(trial: FollowedTrial) -> dict[str, Any]:
    return {**trial.hyperparameters, "algorithm": trial.record.algorithm, "scenario": trial.record.scenario}


def _cell(value: Any) -> Any:
    """Return a value in a type that HParams shows: number, flag or text."""
    return value if isinstance(value, (bool, int, float, str)) else str(value)


def _by_seed(trial: FollowedTrial) -> dict[int, list[Mapping[str, Any]]]:
    found: dict[int, list[Mapping[str, Any]]] = {}
    for rows in trial.by_step.values():
        for row in rows:
            found.setdefault(row.get("seed", trial.record.seed), []).append(row)
    return found


def _began(record: TrialRecord) -> float:
    return datetime.fromisoformat(record.started_at).timestamp() if record.started_at else 0.0


def _event(moment: float, step: int, parts: Mapping[str, Mapping[str, float | None]]) -> Event:
    values = [
        Summary.Value(tag=f"{part}/{name}", simple_value=value)
        for part, metrics in parts.items()
        for name, value in metrics.items()
        if value is not None
    ]
    return Event(wall_time=moment, step=step, summary=Summary(value=values))


def _framed(event: Event) -> bytes:
    """Return an event as a TFRecord, the format of event files: its length and its content, each with a checksum."""
    content = event.SerializeToString()
    length = struct.pack("<Q", len(content))
    return b"".join(
        [length, struct.pack("<I", masked_crc32c(length)), content, struct.pack("<I", masked_crc32c(content))]
    )
