"""What every test process has: the persistent compilation cache, so that a program compiles once for all tests; and how
the suite is shared out between processes (`make test` runs one a core)."""

# ruff: noqa: E402  (JAX reads the environment when it is imported)

from __future__ import annotations

import os

from jax_party.runtime import prepare_process

prepare_process(1 if "PYTEST_XDIST_WORKER" in os.environ else None)

import pytest


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A system's tests go to one process, which compiles its programs once; so does each file's remainder."""
    for item in items:
        parameters = getattr(item, "callspec", None)
        algorithm = None if parameters is None else parameters.params.get("algorithm")
        group = algorithm if isinstance(algorithm, str) else item.path.stem
        item.add_marker(pytest.mark.xdist_group(group))
