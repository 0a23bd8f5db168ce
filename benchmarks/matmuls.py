"""Matrix multiplications of a traced program, counted from its jaxpr: a scan counts its length times over.

Only `dot_general` counts; a multiply-add is 2 FLOPs. Element-wise work, the game and the optimiser are left out, as in
`benchmarks.flops`, and so is what is computed only at steps where an episode ends (`where_ended`). Where a program
branches otherwise, the dearer branch counts.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any


def count(jaxpr: Any) -> int:
    """FLOPs of all `dot_general`s of a jaxpr.

    Raises:
      ValueError: a while loop multiplies matrices: how often cannot be known.
    """
    return sum(_equation(equation) for equation in jaxpr.eqns)


def _equation(equation: Any) -> int:
    name = equation.primitive.name
    if name == "dot_general":
        return _dot(equation)
    if equation.params.get("name") == "where_ended":
        return 0
    if name == "cond":
        return max(count(branch.jaxpr) for branch in equation.params["branches"])
    inner = sum(count(jaxpr) for jaxpr in _inner(equation.params))
    if name == "scan":
        return int(equation.params["length"]) * inner
    if name == "while" and inner:
        raise ValueError("a while loop multiplies matrices: how often cannot be known")
    return inner


def _dot(equation: Any) -> int:
    (contracted, _), _ = equation.params["dimension_numbers"]
    left, result = equation.invars[0].aval.shape, equation.outvars[0].aval.shape
    return 2 * math.prod(result) * math.prod(left[axis] for axis in contracted)


def _inner(params: dict[str, Any]) -> Iterator[Any]:
    """The jaxprs in an equation's parameters; of a custom derivative's, the call alone."""
    for name, value in params.items():
        if hasattr(value, "eqns"):
            yield value
        elif hasattr(value, "jaxpr") and not name.startswith(("fwd", "bwd", "jvp")):
            yield value.jaxpr
