"""What must stay cheap to import. Who may import whom is in `pyproject.toml`, and held by `make lint`."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_cheap_imports_bring_in_neither_jax_nor_ray() -> None:
    modules = (
        "jax_party", "jax_party.config", "jax_party.engines", "jax_party.engines.native", "jax_party.engines.mava",
        "jax_party.trial.folder", "jax_party.errors", "jax_party.env.settings", "jax_party.env.rank_mobility",
        "mava_configs", "sweeps", "results", "results.report", "results.vaults",
    )  # fmt: skip
    script = f"""
import importlib, sys
for name in {modules!r}:
    importlib.import_module(name)
    heavy = sorted({{"jax", "ray", "jumanji", "flax"}} & set(sys.modules))
    assert not heavy, f"{{name}} imports {{heavy}}"
print("cheap")
"""
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.returncode) == ("cheap\n", 0), done.stderr
