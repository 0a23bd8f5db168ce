"""Estimate how long a sweep will take, and say what the estimate is based on."""

from __future__ import annotations

import socket
import statistics
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from jax_party.engines import MAVA, NATIVE
from jax_party.errors import RecordError
from jax_party.store.storage import store_of
from jax_party.trial.folder import read_record
from jax_party.trial.record import RECORD_FILE, TrialRecord
from jax_party.trial.states import State

ASSUMED_RATE = {
    NATIVE: {
        "ff_ippo": 25_000.0, "ff_mappo": 24_000.0, "rec_ippo": 3_600.0, "rec_mappo": 3_500.0,
        "ff_sable": 6_000.0, "rec_sable": 4_000.0, "mat": 8_000.0,
        "ff_iql": 30_000.0, "rec_iql": 9_000.0, "rec_qmix": 8_000.0,
        "ff_isac": 10_000.0, "ff_masac": 9_000.0, "ff_hasac": 8_000.0,
    },
    MAVA: {
        "ff_ippo": 15_000.0, "ff_mappo": 14_000.0, "rec_ippo": 700.0, "rec_mappo": 700.0,
        "ff_sable": 1_500.0, "rec_sable": 18.0, "mat": 900.0, "rec_iql": 200.0, "rec_qmix": 13.0,
    },
}  # fmt: skip
"""Environment steps per second on one core at the defaults, rounded from docs/systems.md and docs/mava.md; rates on
GPUs are unknown."""
ASSUMED_COMPILE_S = {
    "rec_ippo": 100.0, "rec_mappo": 190.0, "ff_sable": 80.0, "rec_sable": 91.0, "mat": 136.0, "rec_iql": 71.0,
    "rec_qmix": 186.0,
}  # fmt: skip
"""Compile time of Mava's systems, which compile for every trial, rounded from docs/mava.md; else `COLD_COMPILE_S`."""
COLD_COMPILE_S = 20.0
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

    The rate is the median of earlier trials of an algorithm under `out` on this host and kind of device. Without any,
    it is `ASSUMED_RATE`, and nothing is assumed to be compiled yet. Mava's systems compile for every trial.

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
        rate = statistics.median(rates) if rates else ASSUMED_RATE[engine][algorithm]
        seconds += number / rate / busy
        if engine == MAVA:
            seconds += ASSUMED_COMPILE_S.get(algorithm, COLD_COMPILE_S) * trials / len(steps) / busy
        elif not rates:
            seconds += COLD_COMPILE_S
        known = f"the median of {len(rates)} earlier trials here"
        assumed = f"assumed: no earlier trials of {algorithm} under {out}"
        sources.append(f"{rate:,.0f} steps/s a worker, {known if rates else assumed}")
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
