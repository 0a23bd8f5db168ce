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


def test_no_exported_name_is_also_a_submodule() -> None:
    """Where a package exports a function and has a module of the same name, an import yields either of the two."""
    script = """
import importlib, pkgutil, types
clashes = set()
for root in ("jax_party", "mava_configs", "sweeps", "launcher", "results", "benchmarks"):
    package = importlib.import_module(root)
    found = [module.name for module in pkgutil.walk_packages(package.__path__, f"{root}.") if module.ispkg]
    for name in (root, *found):
        package = importlib.import_module(name)
        modules = {module.name for module in pkgutil.iter_modules(package.__path__)}
        exported = {*vars(package), *getattr(package, "__all__", ())}
        clashes |= {f"{name}.{both}" for both in modules & exported
                    if not isinstance(getattr(package, both), types.ModuleType)}
print(sorted(clashes))
"""
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.returncode) == ("[]\n", 0), done.stderr
