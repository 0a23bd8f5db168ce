"""Tables of what trials did, read from their folders alone: no Ray, no JAX.

`write_index(folder)` writes a sweep's index; `load_index(folder)` and `load_evaluations(folder)` read it back.
`compare(sweep_a, sweep_b)` compares two sweeps; `leaders(sweep)` and `compare_algorithms(sweep)` rank and compare the
algorithms of one sweep. `differences(a, b)` lists what differs between two trials or sweeps, `sensitivity_card(sweep)`
shows how the score depends on the hyperparameters, `list_sweeps(root)` lists sweeps, and
`aggregate_outputs("ff_mappo")` makes one table of every run of an algorithm. `docs/results_format.md` lists the
columns.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from results.analysis.comparison import compare as compare
    from results.analysis.comparison import compare_algorithms as compare_algorithms
    from results.analysis.comparison import leaders as leaders
    from results.analysis.diff import differences as differences
    from results.analysis.sensitivity import sensitivity_card as sensitivity_card
    from results.analysis.sweep_list import list_sweeps as list_sweeps
    from results.collector.write import write_index as write_index
    from results.tables import aggregate_outputs, load_evaluations, load_index

__all__ = [
    "aggregate_outputs",
    "compare",
    "compare_algorithms",
    "differences",
    "leaders",
    "list_sweeps",
    "load_evaluations",
    "load_index",
    "sensitivity_card",
    "write_index",
]
_PLACES = {
    "aggregate_outputs": "tables",
    "compare": "analysis.comparison",
    "compare_algorithms": "analysis.comparison",
    "differences": "analysis.diff",
    "leaders": "analysis.comparison",
    "list_sweeps": "analysis.sweep_list",
    "load_evaluations": "tables",
    "load_index": "tables",
    "sensitivity_card": "analysis.sensitivity",
    "write_index": "collector.write",
}


def __getattr__(name: str) -> Any:
    if name in __all__:
        return getattr(importlib.import_module(f"results.{_PLACES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
