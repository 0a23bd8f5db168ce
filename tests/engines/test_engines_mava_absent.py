"""What is said, and what is found, where Mava is not there, is another one, or lacks what is asked for."""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path

import pytest

from jax_party.engines.mava import installation
from jax_party.engines.mava.config import parse_mava_config
from jax_party.errors import ConfigError

ROOT = Path(__file__).parents[2]


def call(*words: str, folder: Path, path: Path | None = None) -> subprocess.CompletedProcess[str]:
    """A command of ours where only what lies in `path` could be a Mava."""
    hide = "import sys; sys.path[:] = [p for p in sys.path if not __import__('os').path.isdir(p + '/mava')]; "
    put = f"sys.path.insert(0, {str(path)!r}); " if path else ""
    script = f"{hide}{put}import runpy; sys.argv = {list(words)!r}; runpy.run_module({words[0]!r}, run_name='__main__')"
    return subprocess.run(
        [sys.executable, "-c", script], cwd=folder, capture_output=True, text=True, timeout=120, check=False,
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT), "HOME": str(folder)},
    )  # fmt: skip


def make_package(folder: Path, *files: str) -> Path:
    """A package `mava` of these files, empty."""
    for name in ("__init__.py", *files):
        path = folder / "mava" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return folder


@pytest.mark.parametrize(
    "words",
    [("launcher.sweep", "ALG=mappo", "ENGINE=mava"), ("jax_party.run", "engine=mava", "--config-name", "ff_mappo")],
    ids=["sweep", "run"],
)
def test_without_mava_one_line_says_what_is_missing(words: tuple[str, ...], tmp_path: Path) -> None:
    done = call(*words, folder=tmp_path)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.splitlines() == [
        "ConfigError: ENGINE=mava: the package mava is not importable; "
        'see "Mava\'s own systems" in README.md, or leave ENGINE out'
    ]
    assert list(tmp_path.iterdir()) == []


def test_the_readme_has_the_section() -> None:
    assert "## Mava's own systems" in (ROOT / "README.md").read_text()


def test_the_old_mava_is_told_apart(tmp_path: Path) -> None:
    make_package(tmp_path / "old", "systems/tf/madqn.py")
    done = call("launcher.sweep", "ALG=mappo", "ENGINE=mava", folder=tmp_path, path=tmp_path / "old")
    assert done.returncode == 2
    assert "has none of the JAX systems (the package index serves an old Mava of another kind)" in done.stderr


def test_what_mava_needs_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_package(tmp_path, "systems/ppo/anakin/ff_ippo.py", "configs/default/ff_ippo.yaml")
    monkeypatch.setattr(installation, "package_folder", lambda: tmp_path / "mava")
    monkeypatch.setattr(installation, "NEEDED", ("json", "a_package_that_nobody_has"))
    with pytest.raises(ConfigError, match="Mava needs a_package_that_nobody_has, which cannot be imported"):
        installation.check()


def test_the_systems_are_those_with_discrete_actions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_package(
        tmp_path, "systems/ppo/anakin/ff_ippo.py", "systems/ppo/anakin/__init__.py", "systems/ppo/sebulba/ff_ippo.py",
        "systems/sac/anakin/ff_isac.py", "systems/mat/anakin/mat.py", "configs/default/ff_ippo.yaml",
        "configs/default/ff_isac.yaml",
    )  # fmt: skip
    monkeypatch.setattr(installation, "package_folder", lambda: tmp_path / "mava")
    assert installation.systems() == ("ff_ippo",)


def test_the_version_is_the_commit_of_mavas_own_checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_package(tmp_path)
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b"]
    subprocess.run([*git, "init", "--quiet"], check=True)
    monkeypatch.setattr(installation, "package_folder", lambda: tmp_path / "mava")
    monkeypatch.setattr(installation, "PACKAGES", ("jumanji",))
    installation.version.cache_clear()
    assert installation.version() == importlib.metadata.version("jumanji"), "it lies in somebody else's checkout"
    subprocess.run([*git, "add", "mava/__init__.py"], check=True)
    subprocess.run([*git, "commit", "--quiet", "-m", "Mava"], check=True)
    head = subprocess.run([*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True).stdout.strip()
    installation.version.cache_clear()
    assert installation.version() == head
    installation.version.cache_clear()


def test_a_mava_for_other_libraries_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_package(tmp_path, "utils/__init__.py", "utils/make_env.py")
    (tmp_path / "mava" / "utils" / "make_env.py").write_text("from jumanji import MaConnector\n")
    monkeypatch.setattr(installation, "package_folder", lambda: tmp_path / "mava")
    monkeypatch.syspath_prepend(tmp_path)
    for name in [name for name in sys.modules if name.partition(".")[0] == "mava"]:
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(ConfigError, match=r"does not go with the libraries here \(cannot import name 'MaConnector'"):
        installation.import_system("ff_ippo")
    for name in [name for name in sys.modules if name.partition(".")[0] == "mava"]:
        del sys.modules[name]


def test_stand_ins_are_there_only_while_mava_is_imported() -> None:
    assert importlib.util.find_spec("jaxmarl") is None, "this test wants it absent"
    with installation.stand_ins():
        spaces = importlib.import_module("jaxmarl.environments.spaces")
        assert isinstance(spaces.Space.Box, type)
        with pytest.raises(ModuleNotFoundError):
            importlib.import_module("a_package_that_nobody_has")
    assert not [name for name in sys.modules if name.partition(".")[0] == "jaxmarl"]
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("jaxmarl")


def test_what_is_installed_is_not_stood_in_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(installation, "STOOD_IN", ("yaml",))
    with installation.stand_ins():
        assert importlib.import_module("yaml").safe_load("[1]") == [1]


def test_jax_has_its_old_function_again() -> None:
    import jax
    import numpy as np

    installation.restore_removed_functions()
    put = jax.device_put_replicated({"a": np.arange(3)}, jax.devices()[:1])  # type: ignore[attr-defined]
    assert np.array_equal(put["a"], [[0, 1, 2]]) and put["a"].devices() == {jax.devices()[0]}


def test_a_config_of_another_environment_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"env\.env_name: 'RobotWarehouse': ENGINE=mava plays JaxParty here"):
        parse_mava_config({"env": {"env_name": "RobotWarehouse"}})
