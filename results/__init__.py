"""Tables of what trials did, read from their folders alone: no Ray, no JAX.

`collect(folder)` writes a sweep's index, `load_index(folder)` and `load_evaluations(folder)` read it back, and
`aggregate_outputs("ff_mappo")` makes one table of every run of an algorithm. `docs/results_format.md` has the columns.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from results.collector import collect as collect
    from results.index import aggregate_outputs, load_evaluations, load_index

__all__ = ["aggregate_outputs", "collect", "load_evaluations", "load_index"]


def __getattr__(name: str) -> Any:
    if name == "collect":
        from results.collector import collect

        return collect
    if name in __all__:
        from results import index

        return getattr(index, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
