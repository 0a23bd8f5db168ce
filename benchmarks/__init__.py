"""Benchmarks: `make bench`, or `python -m benchmarks [name …]` from the repository's root.

Each module here with a `run` is one benchmark. What it times runs in processes of its own, held to the cores that it
is meant for; a table goes to the terminal and the numbers, with their provenance, to `benchmark_results/<name>.json`.
"""

from __future__ import annotations

from typing import Final

NAMES: Final = ("throughput", "systems", "compile", "recording", "launcher", "collector", "sweep")
LONG: Final = ("learning", "scaling", "resume", "checkpoints", "recovery", "busy", "engines")
"""Run only when named, as `make bench-learning` and `make bench-engines` do."""
