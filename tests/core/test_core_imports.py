"""Who imports whom, read from the sources; and what must stay cheap to import."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("jax_party", "mava_configs", "sweeps", "launcher", "results")
ALLOWED = {
    "jax_party": set(),
    "mava_configs": {"jax_party"},
    "sweeps": {"mava_configs", "jax_party"},
    "launcher": {"sweeps", "mava_configs", "jax_party", "results"},
    "results": {"jax_party"},
}
RAY_ONLY_IN = "launcher"


def _imports(path: Path) -> list[tuple[str, str]]:
    """(module, name or "") of every import in a file, nested ones too."""
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found += [(alias.name, "") for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found += [(str(node.module), alias.name) for alias in node.names]
    return found


def _sources(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


@pytest.mark.parametrize("package", PACKAGES)
def test_packages_import_only_what_lies_below_them(package: str) -> None:
    sources = _sources(package)
    assert sources
    wrong = [
        f"{path.relative_to(ROOT)} imports {module}"
        for path in sources
        for module, _ in _imports(path)
        if module.split(".")[0] in set(PACKAGES) - {package} - ALLOWED[package]
    ]
    assert wrong == []


def test_results_and_launcher_leave_each_others_insides_alone() -> None:
    wrong = [
        f"{path.relative_to(ROOT)} imports {module}.{name}"
        for package, other in (("results", "launcher"), ("launcher", "results"))
        for path in _sources(package)
        for module, name in _imports(path)
        if module.startswith(f"{other}.") or (module == other and name.startswith("_"))
    ]
    assert wrong == []


def test_results_reads_folders_through_records_alone() -> None:
    wrong = [
        f"{path.relative_to(ROOT)} imports {module}.{name}"
        for path in _sources("results")
        for module, name in _imports(path)
        if module.startswith("jax_party")
        and module != "jax_party.env.rank_mobility"  # a formula, which reads nothing
        and (name if module == "jax_party" else module.split(".")[1])
        not in ("records", "arguments", "draws", "errors", "judging", "mirror", "storage")
    ]  # fmt: skip
    assert wrong == []


@pytest.mark.parametrize(
    ("rooms", "forbidden"),
    [
        (["env"], {"systems", "training", "run", "wrappers", "networks", "ops", "environments", "evaluation", "vault"}),
        (["ops"], {"systems", "training", "run", "wrappers", "networks", "environments", "env", "config"}),
        (["networks"], {"systems", "training", "run", "wrappers", "environments", "env"}),
        (["wrappers.py", "environments.py"], {"systems", "training", "run", "networks", "ops"}),
        (["systems"], {"training", "run", "vault", "checkpointing", "records", "evaluation"}),
        (["training.py"], {"run", "console", "engines"}),
        (["engines"], {"run", "multirun", "console"}),
        (["records.py", "errors.py", "markers.py", "storage.py", "mirror.py"], {"training", "systems", "run", "vault"}),
        (["config"], {"training", "systems", "run", "vault", "records", "wrappers", "networks", "ops"}),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, list) else "",
)
def test_rooms_of_jax_party(rooms: list[str], forbidden: set[str]) -> None:
    paths = [path for room in rooms for path in
             ([ROOT / "jax_party" / room] if room.endswith(".py") else _sources(f"jax_party/{room}"))]  # fmt: skip
    assert paths
    wrong = []
    for path in paths:
        for module, name in _imports(path):
            parts = module.split(".")
            room = parts[1] if len(parts) > 1 else name
            if parts[0] == "jax_party" and room in forbidden:
                wrong.append(f"{path.relative_to(ROOT)} imports {module}.{name}")
    assert wrong == []


def test_ray_stays_in_the_launcher() -> None:
    wrong = [
        f"{path.relative_to(ROOT)} imports {module}"
        for package in PACKAGES
        if package != RAY_ONLY_IN
        for path in _sources(package)
        for module, _ in _imports(path)
        if module.split(".")[0] == "ray"
    ]
    assert wrong == []


def test_cheap_imports_bring_in_neither_jax_nor_ray() -> None:
    modules = (
        "jax_party", "jax_party.config", "jax_party.engines", "jax_party.engines.native", "jax_party.engines.mava",
        "jax_party.records", "jax_party.errors", "jax_party.env.settings", "jax_party.env.rank_mobility",
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
