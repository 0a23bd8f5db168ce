"""Estimate how long a sweep will take, and say what the estimate is based on."""

from __future__ import annotations

import socket
import statistics
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import msgspec

from jax_party.engines import MAVA, NATIVE
from jax_party.errors import RecordError
from jax_party.store.storage import store_of
from jax_party.trial.folder import read_record
from jax_party.trial.record import RECORD_FILE, TrialRecord
from jax_party.trial.states import State


@dataclass(frozen=True)
class Speed:
    """How fast a system was when it was last measured.

    Attributes:
      steps_per_second: environment steps per second of one core, at the system's defaults.
      compile_s: seconds of a compilation from an empty cache.
    """

    steps_per_second: float
    compile_s: float


SPEEDS: Mapping[str, Mapping[str, Speed]] = msgspec.json.decode(
    Path(__file__).with_name("speeds.json").read_bytes(), type=dict[str, dict[str, Speed]]
)
"""By engine and system, on CPU cores; nothing is known of GPUs. `make bench ARGS='systems --docs'` and
`make bench-engines ARGS=--docs` write them."""
START_S = 15.0
TRIAL_S = 1.0
MAX_RECORDS = 50


@dataclass(frozen=True)
class Estimate:
    """Seconds for the whole sweep, and in words what the number is based on."""

    seconds: float
    source: str


def estimate(
    out: Path, steps: Mapping[str, int], gpu: bool, trials: int, workers: int, engine: str = NATIVE
) -> Estimate:
    """Estimate the wall time of a sweep.

    The rate is the median of earlier trials of an algorithm under `out` on this host and kind of device;
    without any, `SPEEDS`, and that nothing is compiled yet. Mava's systems compile for every trial.

    Args:
      out: the folder that holds the sweeps.
      steps: algorithm -> environment steps in total.
      gpu: whether trials run on GPUs.
      trials: the number of trials.
      workers: the number of workers.
      engine: the engine that runs them.
    """
    busy = max(1, min(workers, trials))
    seconds, sources = START_S + trials * TRIAL_S / busy, []
    for algorithm, number in steps.items():
        rates = [rate for record in _earlier(out, algorithm, gpu, engine) if (rate := record.steps_per_second)]
        speed = SPEEDS[engine][algorithm]
        rate = statistics.median(rates) if rates else speed.steps_per_second
        seconds += number / rate / busy
        if engine == MAVA:
            seconds += speed.compile_s * trials / len(steps) / busy
        elif not rates:
            seconds += speed.compile_s
        known = f"the median of {len(rates)} earlier trials here"
        assumed = f"assumed: no earlier trials of {algorithm} under {out}"
        sources.append(f"{rate:,.0f} steps/s per worker, {known if rates else assumed}")
    return Estimate(seconds, "; ".join(sources))


def _earlier(out: Path, algorithm: str, gpu: bool, engine: str) -> list[TrialRecord]:
    """Return the newest COMPLETE trials of this host, kind of device and engine, at most `MAX_RECORDS`."""
    host = socket.gethostname()
    found: list[TrialRecord] = []
    for record in _records(out / algorithm):
        on_gpu = not (record.device or "cpu").lower().startswith("cpu")
        alike = record.host == host and on_gpu == gpu and record.engine == engine
        if record.state is State.COMPLETE and alike and record.steps_per_second:
            found.append(record)
        if len(found) == MAX_RECORDS:
            break
    return found


def _records(root: Path) -> Iterator[TrialRecord]:
    if store_of(root).on_disk(root) is None:  # reading other sweeps from remote storage takes too long
        return
    for sweep in sorted(root.glob("*/*"), reverse=True):
        for path in sorted(sweep.glob(f"*/{RECORD_FILE}")):
            try:
                yield read_record(path.parent)
            except RecordError:
                continue
