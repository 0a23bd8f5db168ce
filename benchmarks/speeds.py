"""What benchmarks measured of each system's speed, for the launcher's estimates: `launcher/plan/speeds.json`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from benchmarks.harness import ROOT
from jax_party.store.files import write_text_atomically

SPEEDS: Final = ROOT / "launcher" / "plan" / "speeds.json"


def write_speeds(engine: str, measured: Mapping[str, tuple[float, float]], path: Path = SPEEDS) -> None:
    """Put an engine's systems into the file; what it knows of others stays.

    Args:
      engine: `native` or `mava`.
      measured: by system, environment steps per second of one core, and seconds of a cold compilation; rounded to two
        digits, which is as much as holds for another machine.
      path: the file.
    """
    known = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    systems = known.setdefault(engine, {})
    for system, (rate, compile_s) in measured.items():
        systems[system] = {"steps_per_second": _rounded(rate), "compile_s": _rounded(compile_s)}
    lines = []
    for name in sorted(known):
        rows = (f"    {json.dumps(system)}: {json.dumps(row)}" for system, row in known[name].items())
        lines.append(f"  {json.dumps(name)}: {{\n" + ",\n".join(rows) + "\n  }")
    write_text_atomically(path, "{\n" + ",\n".join(lines) + "\n}\n")


def _rounded(value: float) -> int | float:
    number = float(f"{value:.2g}")
    return int(number) if number == int(number) else number


__all__ = ["SPEEDS", "write_speeds"]
