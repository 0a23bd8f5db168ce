"""Every private name of Ray that we use is listed, and the installed Ray has it."""

from __future__ import annotations

import ast
import functools
import inspect
import re
import textwrap
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from launcher import ray_compat
from launcher.ray_compat import ATTRIBUTES, PARAMETERS, PRIVATE

ROOT = Path(__file__).parents[2]
PRIVATE_MODULES = re.compile(
    r"ray\.(_private|_raylet|core\.generated|train\._internal)|ray\.tune\.execution\.class_cache"
)
LISTED = {**PRIVATE, **ATTRIBUTES, **PARAMETERS}
LOOK_PUBLIC = {"filled", "get_session_dir_path", "head", "is_being_processed", "mlflow_util", "PrestartWorkers"}
"""Listed attributes without an underscore, of objects that Ray does not document."""


# -- The installed Ray -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PRIVATE)
def test_ray_has_the_name(name: str) -> None:
    try:
        ray_compat.find(name)
    except (AttributeError, ImportError) as error:
        pytest.fail(f"{name}: {error}; without it: {PRIVATE[name]}")


@pytest.mark.parametrize("name", ATTRIBUTES)
def test_rays_objects_have_the_attribute(name: str) -> None:
    owner, _, attribute = name.rpartition(".")
    assert attribute in assigned(ray_compat.find(owner)), f"{name}: is not assigned; without it: {ATTRIBUTES[name]}"


@pytest.mark.parametrize("name", PARAMETERS)
def test_rays_functions_take_the_parameter(name: str) -> None:
    owner, _, parameter = name.rpartition(".")
    function = inspect.unwrap(ray_compat.find(owner))
    taken = parameter in inspect.signature(function).parameters  # `ray.init` takes its private ones from `**kwargs`
    taken = taken or f'kwargs.pop("{parameter}"' in inspect.getsource(function)
    assert taken, f"{name}: there is no such parameter; without it: {PARAMETERS[name]}"


def test_a_missing_name_is_an_error() -> None:
    with pytest.raises(AttributeError, match="no_such_thing"):
        ray_compat.find("ray.tune.tune.no_such_thing")
    with pytest.raises(ImportError, match=r"nowhere\.at: there is no such module"):
        ray_compat.find("nowhere.at")


@functools.cache
def assigned(owner: type) -> frozenset[str]:
    """The attributes that the methods of a class and its bases assign to `self`."""
    found: set[str] = set()
    for base in owner.__mro__:
        if base.__module__.startswith("ray."):
            tree = ast.parse(textwrap.dedent(inspect.getsource(base)))
            found |= {node.attr for node in ast.walk(tree) if is_of_self(node) and isinstance(node.ctx, ast.Store)}
    return frozenset(found)


# -- The launcher's source ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Use:
    """A private name of Ray that the launcher uses.

    Attributes:
      place: where.
      name: the dotted name if it is known, else its last part.
      owners: the classes of Ray that define or assign it; empty if they are unknown.
    """

    place: str
    name: str
    owners: tuple[type, ...] = ()

    def is_in(self, listed: Iterable[str]) -> bool:
        """Whether the name, of one of the owners or of their bases, is listed."""
        if "." in self.name:
            return self.name in listed
        classes = [entry.rpartition(".")[0] for entry in listed if entry.endswith(f".{self.name}")]
        bases = {base for owner in self.owners for base in owner.__mro__}
        return bool(classes) if not self.owners else any(ray_compat.find(name) in bases for name in classes)


def test_every_private_name_of_ray_in_the_launcher_is_listed() -> None:
    """Private are: what our subclasses of Ray's classes share with them, and what none of our modules defines."""
    assert [use for use in uses_in_launcher() if not use.is_in(LISTED)] == []


@pytest.mark.parametrize("name", LISTED)
def test_a_listed_name_is_used_and_would_be_missed(name: str) -> None:
    others = LISTED.keys() - {name}
    assert not all(use.is_in(others) for use in uses_in_launcher())


SCHEDULER = """
from ray.tune.schedulers import HyperBandScheduler
class Added:
    ours = _ours = 1
    def choose(self): return self._ours, self._metric_op
class Ours(Added, HyperBandScheduler):
    def _create_bracket(self, s): return super()._create_bracket(s)
"""


@pytest.mark.parametrize(
    ("source", "names"),
    [
        ("def f(x): return x._hidden", ["_hidden"]),
        ("def f(x): x.y()._hidden = 1", ["_hidden"]),
        ("def f(x): return getattr(x, '_hidden')", ["_hidden"]),
        ("def f(x): return x(_hidden=1)", ["_hidden"]),
        ("class C:\n  def __init__(self): self._ours = 1\ndef f(x): return x._ours", []),
        ("import os\nos._exit(1)", []),
        ("def f(x): return x.__class__, x._target_, x.head", ["head"]),
        (SCHEDULER, ["_create_bracket", "_metric_op"]),
        ("find('ray._private.nothing')", ["ray._private.nothing"]),
    ],
)
def test_private_names_are_found_in_source(source: str, names: list[str]) -> None:
    assert sorted({use.name for use in uses({"x.py": source})}) == names


def test_only_ray_compat_imports_rays_private_modules() -> None:
    found = []
    for place, source in launcher().items():
        if place == "launcher/ray_compat.py":
            continue
        tree = ast.parse(source)
        names = [node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
        names += [alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names]
        names += [ast.unparse(node) for node in ast.walk(tree) if isinstance(node, ast.Attribute)]
        found += [f"{place}: {name}" for name in names if PRIVATE_MODULES.match(name)]
    assert found == []


def launcher() -> dict[str, str]:
    return {path.relative_to(ROOT).as_posix(): path.read_text() for path in sorted((ROOT / "launcher").rglob("*.py"))}


@functools.cache
def uses_in_launcher() -> tuple[Use, ...]:
    return tuple(uses(launcher()))


def uses(sources: Mapping[str, str]) -> Iterator[Use]:
    """The private names in these sources that our classes share with Ray's, or that none of our code defines."""
    trees = {place: ast.parse(source) for place, source in sources.items()}
    rays = rays_of_classes(trees.values())
    ours = {place: defined(tree, rays) for place, tree in trees.items()}
    everywhere = set().union(*ours.values())
    for place, tree in trees.items():
        modules, shared = imported_modules(tree), set()
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef) and node.name in rays:
                for name in sorted(touched(node)):
                    if owners := tuple(ray for ray in rays[node.name] if has(ray, name)):
                        shared |= {part for part in ast.walk(node) if is_of_self(part) and part.attr == name}
                        yield Use(f"{place}: {node.name}", name, owners)
        for node in ast.walk(tree):
            known = everywhere if is_of_self(node) else ours[place]
            for name in mentioned(node, modules) if node not in shared else ():
                if "." in name or name not in known:
                    yield Use(f"{place}:{node.lineno}", name)


def rays_of_classes(trees: Iterable[ast.Module]) -> dict[str, list[type]]:
    """The classes of Ray that each of our classes extends, or is mixed with in a subclass."""
    bases: dict[str, list[str]] = {}
    rays: dict[str, list[type]] = {}
    for tree in trees:
        names = {
            alias.asname or alias.name: f"{node.module}.{alias.name}"
            for node in ast.walk(tree)
            if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "ray"
            for alias in node.names
        }
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef):
                bases[node.name] = [ast.unparse(base) for base in node.bases]
                split = [name.partition(".") for name in bases[node.name]]  # `tune.Trainable`
                full = [names.get(head, head) + dot + rest for head, dot, rest in split]
                rays[node.name] = [ray_compat.find(name) for name in full if name.startswith("ray.")]
    for _ in range(5):  # classes above each other, at most
        for name, above in bases.items():
            for base in (one for one in above if one in rays):
                rays[base] += [ray for ray in rays[name] if ray not in rays[base]]
                rays[name] += [ray for ray in rays[base] if ray not in rays[name]]
    return {name: found for name, found in rays.items() if found}


def has(ray: type, name: str) -> bool:
    return hasattr(ray, name) or name in assigned(ray)


def is_private(name: str | None) -> bool:
    return name is not None and (name in LOOK_PUBLIC or bool(re.match(r"_[^_].*[^_]$|_[^_]$", name)))


def is_of_self(node: ast.AST) -> bool:
    """Whether this is `self.x`, `cls.x` or `super().x`."""
    return isinstance(node, ast.Attribute) and ast.unparse(node.value) in ("self", "cls", "super()")


def touched(node: ast.ClassDef) -> set[str]:
    """The private names that a class defines, or uses on itself."""
    found = {part.attr for part in ast.walk(node) if is_of_self(part)}
    found |= {part.name for part in ast.walk(node) if isinstance(part, ast.FunctionDef)}
    found |= {part.id for part in ast.walk(node) if isinstance(part, ast.Name) and isinstance(part.ctx, ast.Store)}
    return {name for name in found if is_private(name)}


def defined(tree: ast.Module, rays: Mapping[str, list[type]]) -> set[str]:
    """The names that a module defines; those that a class shares with Ray's are Ray's."""
    found = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    found |= {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    found |= {node.attr for node in ast.walk(tree) if is_of_self(node) and isinstance(node.ctx, ast.Store)}
    found |= {node.arg for node in ast.walk(tree) if isinstance(node, ast.arg)}
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef):
            found -= {name for name in touched(node) for ray in rays.get(node.name, []) if has(ray, name)}
    return found


def imported_modules(tree: ast.Module) -> set[str]:
    """The names of imported modules, Ray's excluded."""
    names = [alias for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names]
    return {alias.asname or alias.name for alias in names if alias.name.partition(".")[0] != "ray"}


def mentioned(node: Any, modules: set[str]) -> Iterator[str]:
    """The private names in a node itself: attribute, keyword, or text that names one."""
    if isinstance(node, ast.Attribute) and is_private(node.attr) and ast.unparse(node.value) not in modules:
        yield node.attr
    if isinstance(node, ast.Call):
        yield from (keyword.arg for keyword in node.keywords if keyword.arg and is_private(keyword.arg))
        texts = [part.value for part in node.args if isinstance(part, ast.Constant) and isinstance(part.value, str)]
        called = ast.unparse(node.func).rpartition(".")[2]
        if called in ("find", "_replace"):
            yield from (text for text in texts if text.startswith("ray."))
        if called in ("getattr", "setattr", "hasattr", "delattr"):
            yield from (text for text in texts if is_private(text))


# -- The functions -----------------------------------------------------------------------------------------------------


def test_only_hidden_variables_are_kept_from_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    class_cache = ModuleType("class_cache")
    vars(class_cache).update(ENV_VARS_TO_PROPAGATE={"AWS_SECRET", "PATH"}, DEFAULT_ENV_VARS={"X": "1"})
    monkeypatch.setattr(ray_compat, "find", lambda name: getattr(class_cache, name.rpartition(".")[2]))
    ray_compat.hide_environment(lambda name: name.startswith("AWS_"), everything=False)
    assert ({"PATH"}, {"X": "1"}) == (class_cache.ENV_VARS_TO_PROPAGATE, class_cache.DEFAULT_ENV_VARS)
    ray_compat.hide_environment(lambda name: False, everything=True)
    assert (set(), {}) == (class_cache.ENV_VARS_TO_PROPAGATE, class_cache.DEFAULT_ENV_VARS)
