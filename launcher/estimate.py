"""How long a sweep will take, and how we know."""

from __future__ import annotations

import socket
import statistics
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from jax_party import records
from jax_party.errors import RecordError
from jax_party.records import State, TrialRecord

DEFAULT_RATE = 12_000.0
START_S = 15.0
TRIAL_S = 1.0
MAX_RECORDS = 50


@dataclass(frozen=True)
class Estimate:
    """Seconds for the whole sweep, and in words what the number rests on."""

    seconds: float
    source: str


def estimate(out: Path, algorithm: str, gpu: bool, steps: int, trials: int, workers: int) -> Estimate:
    """Estimate the wall time of `trials` trials with `steps` environment steps in all, on `workers` workers.

    The rate is the median of earlier trials of this algorithm under `out` on this host and kind of device;
    without any, `DEFAULT_RATE` steps a second and worker.
    """
    rates = [rate for record in _earlier(out, algorithm, gpu) if (rate := record.steps_per_second)]
    rate = statistics.median(rates) if rates else DEFAULT_RATE
    busy = max(1, min(workers, trials))
    seconds = START_S + (steps / rate + trials * TRIAL_S) / busy
    if rates:
        return Estimate(seconds, f"{rate:,.0f} steps/s a worker, the median of {len(rates)} earlier trials here")
    return Estimate(seconds, f"{rate:,.0f} steps/s a worker, assumed: no earlier trials of {algorithm} under {out}")


def _earlier(out: Path, algorithm: str, gpu: bool) -> list[TrialRecord]:
    """The newest complete trials that ran on a machine like this."""
    host = socket.gethostname()
    found: list[TrialRecord] = []
    for record in _records(out / algorithm):
        on_gpu = not (record.device or "cpu").lower().startswith("cpu")
        if record.state is State.COMPLETE and record.host == host and on_gpu == gpu and record.steps_per_second:
            found.append(record)
        if len(found) == MAX_RECORDS:
            break
    return found


def _records(root: Path) -> Iterator[TrialRecord]:
    for sweep in sorted(root.glob("*/*"), reverse=True):
        for path in sorted(sweep.glob(f"*/{records.RECORD_FILE}")):
            try:
                yield records.read_record(path.parent)
            except RecordError:
                continue
