"""What we use of Ray that is not public is there, and is used in one place."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from types import ModuleType

import pytest

from launcher import ray_compat

ROOT = Path(__file__).parents[2]
PRIVATE_MODULES = re.compile(
    r"ray\.(_private|_raylet|core\.generated|train\._internal)|ray\.tune\.execution\.class_cache"
)


@pytest.mark.parametrize("name", ray_compat.PRIVATE)
def test_the_name_is_there(name: str) -> None:
    """Else this happens, until it is mended in `launcher.ray_compat` and where the name is used."""
    try:
        ray_compat.find(name)
    except (AttributeError, ImportError) as error:
        pytest.fail(f"{name}: {error}; without it: {ray_compat.PRIVATE[name]}")


def test_a_name_that_is_gone_is_told() -> None:
    with pytest.raises(AttributeError, match="no_such_thing"):
        ray_compat.find("ray.tune.tune.no_such_thing")
    with pytest.raises(ImportError, match=r"nowhere\.at: there is no such module"):
        ray_compat.find("nowhere.at")


def test_nobody_else_reaches_into_ray() -> None:
    found = []
    for path in sorted((ROOT / "launcher").rglob("*.py")):
        if path.name == "ray_compat.py":
            continue
        tree = ast.parse(path.read_text())
        names = [node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
        names += [alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names]
        names += [ast.unparse(node) for node in ast.walk(tree) if isinstance(node, ast.Attribute)]
        found += [f"{path.relative_to(ROOT)}: {name}" for name in names if PRIVATE_MODULES.match(name)]
    assert found == []


def test_only_what_is_hidden_is_kept_from_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    class_cache = ModuleType("class_cache")
    vars(class_cache).update(ENV_VARS_TO_PROPAGATE={"AWS_SECRET", "PATH"}, DEFAULT_ENV_VARS={"X": "1"})
    monkeypatch.setattr(ray_compat, "find", lambda name: class_cache)
    ray_compat.hide_environment(lambda name: name.startswith("AWS_"), everything=False)
    assert ({"PATH"}, {"X": "1"}) == (class_cache.ENV_VARS_TO_PROPAGATE, class_cache.DEFAULT_ENV_VARS)
    ray_compat.hide_environment(lambda name: False, everything=True)
    assert (set(), {}) == (class_cache.ENV_VARS_TO_PROPAGATE, class_cache.DEFAULT_ENV_VARS)
