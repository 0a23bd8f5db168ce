"""How long a sweep will take, and how we know."""

from __future__ import annotations

import socket
import statistics
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from jax_party import records
from jax_party.engines import MAVA, NATIVE
from jax_party.errors import RecordError
from jax_party.records import State, TrialRecord
from jax_party.storage import is_remote

ASSUMED_RATE = {
    "ff_ippo": 25_000.0, "ff_mappo": 18_000.0, "rec_ippo": 3_200.0, "rec_mappo": 3_200.0,
    "ff_sable": 6_000.0, "rec_sable": 4_000.0, "mat": 7_000.0,
    "ff_iql": 23_000.0, "rec_iql": 9_000.0, "rec_qmix": 7_500.0,
    "ff_isac": 10_000.0, "ff_masac": 8_000.0, "ff_hasac": 8_000.0,
}  # fmt: skip
"""Environment steps a second of one core at the defaults, rounded from docs/systems.md; a GPU's are unknown."""
ASSUMED_SHARE = {NATIVE: 1.0, MAVA: 0.4}
"""Of these rates, by engine: docs/mava.md has what was measured."""
START_S = 15.0
COLD_COMPILE_S = 20.0
TRIAL_S = 1.0
MAX_RECORDS = 50


@dataclass(frozen=True)
class Estimate:
    """Seconds for the whole sweep, and in words what the number rests on."""

    seconds: float
    source: str


def estimate(
    out: Path, steps: Mapping[str, int], gpu: bool, trials: int, workers: int, engine: str = NATIVE
) -> Estimate:
    """Estimate the wall time of a sweep.

    The rate is the median of earlier trials of an algorithm under `out` on this host and kind of device;
    without any, `ASSUMED_RATE`, and that nothing is compiled yet.

    Args:
      out: where sweeps are.
      steps: environment steps in all, by algorithm.
      gpu: whether they are played on GPUs.
      trials: how many.
      workers: at a time.
      engine: what runs them.
    """
    busy = max(1, min(workers, trials))
    seconds, sources = START_S + trials * TRIAL_S / busy, []
    for algorithm, number in steps.items():
        rates = [rate for record in _earlier(out, algorithm, gpu, engine) if (rate := record.steps_per_second)]
        rate = statistics.median(rates) if rates else ASSUMED_RATE[algorithm] * ASSUMED_SHARE[engine]
        seconds += (0.0 if rates else COLD_COMPILE_S) + number / rate / busy
        known = f"the median of {len(rates)} earlier trials here"
        assumed = f"assumed: no earlier trials of {algorithm} under {out}"
        sources.append(f"{rate:,.0f} steps/s a worker, {known if rates else assumed}")
    return Estimate(seconds, "; ".join(sources))


def _earlier(out: Path, algorithm: str, gpu: bool, engine: str) -> list[TrialRecord]:
    """The newest complete trials that ran on a machine like this."""
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
    if is_remote(root):  # reading through other sweeps there takes longer than it is worth
        return
    for sweep in sorted(root.glob("*/*"), reverse=True):
        for path in sorted(sweep.glob(f"*/{records.RECORD_FILE}")):
            try:
                yield records.read_record(path.parent)
            except RecordError:
                continue
