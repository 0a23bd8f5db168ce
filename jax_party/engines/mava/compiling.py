"""The time that JAX has spent tracing and compiling in this process, from JAX's own events."""

from __future__ import annotations

import threading
import time
from typing import Any, Final

import jax

_EVENTS: Final = (
    "/jax/core/compile/jaxpr_trace_duration",
    "/jax/core/compile/jaxpr_to_mlir_module_duration",
    "/jax/core/compile/backend_compile_duration",
)
_KEPT: Final = 100_000
_intervals: list[tuple[float, float]] = []
_lock = threading.Lock()


def _note(event: str, duration_secs: float, **_: Any) -> None:
    if event in _EVENTS:
        now = time.perf_counter()
        with _lock:
            _intervals.append((now - duration_secs, now))
            del _intervals[:-_KEPT]


jax.monitoring.register_event_duration_secs_listener(_note)


def compile_seconds(since: float, until: float) -> float:
    """Return the seconds between two moments of `time.perf_counter` that went into tracing and compiling.

    Events can contain one another (a function is traced while another is), so their union is measured, not their sum.
    """
    with _lock:
        known = [(begin, end) for begin, end in _intervals if end > since and begin < until]
    total, reached = 0.0, since
    for begin, end in sorted(known):
        total += max(0.0, min(end, until) - max(begin, reached))
        reached = max(reached, end)
    return total
