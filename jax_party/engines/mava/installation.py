"""Where Mava is installed, its version, and what it needs to be imported with our versions of its libraries."""

from __future__ import annotations

import contextlib
import functools
import importlib
import importlib.abc
import importlib.machinery
import importlib.metadata
import importlib.util
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, Final

from jax_party.errors import ConfigError

NEEDED: Final = ("colorama", "distrax", "tensorflow_probability")
"""Packages that Mava's systems use and this project does not install."""

STOOD_IN: Final = ("brax", "gigastep", "gymnax", "jaxmarl", "marl_eval", "matrax", "neptune", "tensorboard_logger")
"""Packages that Mava imports for other environments and for loggers that this project does not use. If one of them is
not installed, an empty module replaces it while Mava is imported, and only then."""

PACKAGES: Final = ("id-mava", "mava")
"""The possible names of a Mava that was installed as a package."""

REMEDY: Final = 'see "Mava\'s own systems" in README.md, or leave ENGINE out'

_importing = threading.Lock()


def check() -> None:
    """Check that a JAX version of Mava and its dependencies are installed.

    Raises:
      ConfigError: something is missing; the message says what, and where to find the remedy.
    """
    package = package_folder()
    if package is None:
        raise ConfigError(f"ENGINE=mava: the package mava is not importable; {REMEDY}")
    if not (package / "systems").is_dir() or not systems():
        raise ConfigError(
            f"ENGINE=mava: {package} has none of the JAX systems (the package index serves an old Mava of another "
            f"kind); {REMEDY}"
        )
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise ConfigError(f"ENGINE=mava: Mava needs {', '.join(missing)}, which cannot be imported; {REMEDY}")


def package_folder() -> Path | None:
    """Return the folder of Mava's package, found without importing it; None if there is none."""
    try:
        spec = importlib.util.find_spec("mava")
    except (ImportError, ValueError):
        return None
    if spec is None or not spec.submodule_search_locations:
        return None
    return Path(next(iter(spec.submodule_search_locations)))


def config_root() -> Path:
    """Return the folder of Mava's config groups.

    Raises:
      ConfigError: Mava is not importable, or was installed without its configs.
    """
    check()
    package = package_folder()
    assert package is not None
    root = package / "configs"
    if not (root / "default").is_dir():
        raise ConfigError(f"ENGINE=mava: {root} is missing: install Mava from a checkout of it; {REMEDY}")
    return root


def systems() -> tuple[str, ...]:
    """Return the anakin systems that can play JaxParty: those with their own config and discrete actions."""
    package = package_folder()
    if package is None:
        return ()
    named = {path.stem for path in (package / "configs" / "default").glob("*.yaml")}
    return tuple(sorted(name for name in _modules(package) if name in named and "sac" not in name))


def _modules(package: Path) -> dict[str, str]:
    """Return system -> its module."""
    return {
        path.stem: ".".join(("mava", *path.relative_to(package).with_suffix("").parts))
        for path in (package / "systems").glob("*/anakin/*.py")
        if path.stem != "__init__"
    }


@functools.cache
def version() -> str | None:
    """Return Mava's commit if it is a checkout, `…-dirty` if it was changed; else its package's version, or None."""
    package = package_folder()
    if package is None:
        return None
    with contextlib.suppress(OSError, subprocess.TimeoutExpired):
        done = subprocess.run(
            ["git", "--no-optional-locks", "-C", str(package), "rev-parse", "HEAD"],
            capture_output=True, text=True, timeout=10, check=False,
        )  # fmt: skip
        if done.returncode == 0 and _is_tracked(package):
            return done.stdout.strip() + ("-dirty" if _is_changed(package) else "")
    for name in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            return importlib.metadata.version(name)
    return None


def _is_tracked(package: Path) -> bool:
    """Return whether the package is tracked by the checkout that it lies in."""
    asked = ["git", "--no-optional-locks", "-C", str(package), "ls-files", "--error-unmatch", "__init__.py"]
    return subprocess.run(asked, capture_output=True, timeout=10, check=False).returncode == 0


def _is_changed(package: Path) -> bool:
    """Return whether a tracked file of the package differs from the commit."""
    asked = ["git", "--no-optional-locks", "-C", str(package), "diff", "--quiet", "HEAD", "--", "."]
    return subprocess.run(asked, capture_output=True, timeout=10, check=False).returncode == 1


def import_system(algorithm: str) -> ModuleType:
    """Import the module of one of Mava's systems, with what it imports, and with JAX as Mava expects it.

    Raises:
      ConfigError: the installed Mava needs other versions of its libraries.
    """
    package = package_folder()
    assert package is not None, "checked before"
    restore_removed_functions()
    with stand_ins():
        try:
            importlib.import_module("mava.utils.make_env")
            return importlib.import_module(_modules(package)[algorithm])
        except ImportError as error:
            raise ConfigError(
                f"ENGINE=mava: {package}, version {version() or 'unknown'}, does not go with the libraries here "
                f"({error}); {REMEDY}"
            ) from error


class _Placeholder(type):
    """A class whose attributes are all such classes: for type hints and base classes."""

    def __getattr__(cls, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return _Placeholder(name, (), {})


class _StandIn(ModuleType):
    """A module that contains only placeholders."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return _Placeholder(name, (), {"__module__": self.__name__})


class _StandIns(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """An import finder of last resort for the packages in `STOOD_IN`."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname.partition(".")[0] not in STOOD_IN:
            return None
        return importlib.machinery.ModuleSpec(fullname, self, is_package=True)

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType:
        return _StandIn(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        """Do nothing: the module is empty."""


@contextlib.contextmanager
def stand_ins() -> Iterator[None]:
    """Let imports find an empty module for each missing package of `STOOD_IN`; remove these modules afterwards."""
    with _importing:
        finder = _StandIns()
        sys.meta_path.append(finder)
        try:
            yield
        finally:
            sys.meta_path.remove(finder)
            for name, module in list(sys.modules.items()):
                if isinstance(module, _StandIn):
                    del sys.modules[name]


def restore_removed_functions() -> None:
    """Restore `jax.device_put_replicated`, which JAX 0.10 has removed and Mava's Q-learning calls.

    `jax.device_put_replicated(tree, devices)` puts each leaf on every device, along a new leading axis.
    """
    import jax

    if not hasattr(jax, "device_put_replicated"):
        setattr(jax, "device_put_replicated", _device_put_replicated)  # noqa: B010 # no stub has it


def _device_put_replicated(tree: Any, devices: Sequence[Any]) -> Any:
    import jax
    import jax.numpy as jnp
    import numpy as np
    from jax.sharding import Mesh, NamedSharding, PartitionSpec

    sharding = NamedSharding(Mesh(np.array(devices), ("device",)), PartitionSpec("device"))
    return jax.tree.map(
        lambda leaf: jax.device_put(jnp.broadcast_to(leaf, (len(devices), *jnp.shape(leaf))), sharding), tree
    )
