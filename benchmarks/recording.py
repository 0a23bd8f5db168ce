"""What recording training rollouts to the vault costs: periods with it and without it, in turn, in one process.

A period is what the outer loop does between two evaluations: updates, each rollout handed to the writer's thread,
and at the end the wait until all of it is on disk. The process has one core, so the writer's work is paid for too.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from rich.table import Table

from benchmarks.harness import Options, Report, call_in_process, one_core, summary
from benchmarks.setting import STANDARD, STEPS_PER_UPDATE, SYSTEMS, Learner, make_config

REPEATS: Final = 15
UPDATES: Final = 4
TIMEOUT_S: Final = 600.0
ASKED_SHARE: Final = 0.05


def run(options: Options) -> Report:
    """Each system in a process on one core."""
    arguments = {"repeats": options.repeats or REPEATS, "updates": UPDATES}
    results = {
        system: call_in_process("benchmarks.recording:measure", arguments | {"system": system}, one_core(), TIMEOUT_S)
        for system in SYSTEMS
    }
    settings = {"overrides": list(STANDARD), "steps_per_period": UPDATES * STEPS_PER_UPDATE, **arguments}
    return Report(settings, results, {"*.cost_share": f"< {ASKED_SHARE}"}, [_table(results)])


def measure(system: str, repeats: int, updates: int) -> dict[str, Any]:
    """Steps a second with and without recording, and the share that recording costs, pair by pair."""
    from jax_party.training.vault import VaultWriter

    on, off = Learner(make_config(system, "vault=train")), Learner(make_config(system, "vault=none"))
    with tempfile.TemporaryDirectory(prefix="bench-vault-") as scratch:
        vault = VaultWriter(Path(scratch), "bench", {"trial_id": "bench"})
        try:
            _recorded_period(on, vault, updates)
            pairs = [(off.advance(updates), *_recorded_period(on, vault, updates)) for _ in range(repeats)]
        finally:
            vault.close()
        size = sum(path.stat().st_size for path in Path(scratch).rglob("*") if path.is_file())
        stored = vault.steps * vault.rows
    steps = updates * STEPS_PER_UPDATE
    plain, recorded, flush = (list(column) for column in zip(*pairs, strict=True))
    return {
        "off_steps_per_second": summary([steps / one for one in plain]),
        "on_steps_per_second": summary([steps / one for one in recorded]),
        "cost_share": summary([1.0 - without / with_ for without, with_ in zip(plain, recorded, strict=True)]),
        "flush_s": summary(flush),
        "bytes_per_step": size / stored,
    }


def _recorded_period(learner: Learner, vault: Any, updates: int) -> tuple[float, float]:
    """One period with recording: its seconds, and how long it waited for the vault at its end."""
    import jax

    start = time.perf_counter()
    for _ in range(updates):
        learner.state, output = learner.program.update(learner.hyper, learner.state)
        vault.submit(output.trajectory)
    jax.block_until_ready(learner.state)
    trained = time.perf_counter()
    vault.flush()
    return time.perf_counter() - start, time.perf_counter() - trained


def _table(results: Mapping[str, Any]) -> Table:
    caption = f"asked: costs < {ASKED_SHARE:.0%} of throughput, the wait for the disk included"
    table = Table(title="Recording training rollouts, one core", caption=caption)
    table.add_column("system", no_wrap=True)
    for column in ("off steps/s", "on steps/s", "cost", "least", "most", "flush ms", "bytes/step"):
        table.add_column(column, justify="right", no_wrap=True)
    for system, found in results.items():
        cost = found["cost_share"]
        table.add_row(
            system, *(f"{found[f'{key}_steps_per_second']['median']:,.0f}" for key in ("off", "on")),
            *(f"{cost[key]:.1%}" for key in ("median", "min", "max")),
            f"{found['flush_s']['median'] * 1e3:.0f}", f"{found['bytes_per_step']:.1f}",
        )  # fmt: skip
    return table
