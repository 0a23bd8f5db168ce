"""No module and no function is too long to be read at once."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[2]
PACKAGES: Final = ("jax_party", "mava_configs", "sweeps", "launcher", "results", "benchmarks")
MOST_LINES: Final = 400
MOST_LINES_OF_A_FUNCTION: Final = 60
LARGER: Final = {
    "jax_party/engines/mava/session.py": "what is known of the insides of Mava's modules, in one place",
}


def _sources() -> Iterator[tuple[str, str]]:
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            yield str(path.relative_to(ROOT)), path.read_text()


def test_modules_have_at_most_400_lines() -> None:
    large = {name for name, text in _sources() if len(text.splitlines()) > MOST_LINES}
    assert large == set(LARGER), "split what is new here, and strike out what is small now"


def test_functions_have_at_most_60_lines() -> None:
    found = [
        f"{name}: {node.name} has {node.end_lineno - node.lineno + 1} lines"
        for name, text in _sources()
        for node in ast.walk(ast.parse(text))
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
        and node.end_lineno is not None
        and node.end_lineno - node.lineno >= MOST_LINES_OF_A_FUNCTION
    ]
    assert found == []
