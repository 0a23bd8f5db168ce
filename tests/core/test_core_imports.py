"""What must stay cheap to import. Who may import whom is in `pyproject.toml`, and held by `make lint`."""

from __future__ import annotations

import os
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


def test_importing_what_preloads_workers_starts_nothing() -> None:
    """The variable is read by the entry point that Ray runs, and by nobody else."""
    script = "import sys, launcher.work.preload, launcher.machine.preloading; print('jax' in sys.modules)"
    environment = os.environ | {"JAX_PARTY_PRELOAD": "no JSON"}
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert (done.stdout, done.returncode) == ("False\n", 0), done.stderr


def test_importing_a_command_hides_no_function() -> None:
    """`import results.collect` put the module in the place of the function of that name."""
    script = (
        "import results\nfor name in ('collect', 'index', 'diff', 'power', 'sensitivity', 'ls', 'watch'):\n"
        "  __import__(f'results.{name}')\n"
        "print({name for name in results.__all__ if not callable(getattr(results, name))} or 'all callable')"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True)
    assert (done.stdout, done.returncode) == ("all callable\n", 0), done.stderr
