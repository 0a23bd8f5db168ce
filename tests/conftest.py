"""What every test process has: the persistent compilation cache, so that a program compiles once for all tests; and how
the suite is shared out between processes (`make test` runs one a core)."""

# ruff: noqa: E402  (JAX reads the environment when it is imported)

from __future__ import annotations

import gc
import os
import sys

from jax_party.runtime import prepare_process

prepare_process(1 if "PYTEST_XDIST_WORKER" in os.environ else None)

import pytest


def _group(item: pytest.Item) -> str:
    marker = item.get_closest_marker("xdist_group")
    assert marker is not None
    return str(marker.args[0])


def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> None:
    """Between groups, let compiled programs go: each holds memory maps, of which a process may have some 65,000."""
    module = sys.modules.get("jax_party.program")
    if module is None or (nextitem is not None and _group(item) == _group(nextitem)):
        return
    import jax

    module._program.cache_clear()
    jax.clear_caches()
    gc.collect()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A system's tests go to one process, which compiles its programs once; so does each file's remainder."""
    for item in items:
        parameters = getattr(item, "callspec", None)
        algorithm = None if parameters is None else parameters.params.get("algorithm")
        group = algorithm if isinstance(algorithm, str) else item.path.stem
        item.add_marker(pytest.mark.xdist_group(group))
