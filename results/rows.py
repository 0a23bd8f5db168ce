"""What a trial has left, as the rows of tables: one of the index, and many of the evaluations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple


class Evaluation(NamedTuple):
    """One evaluation of one seed: its number, or none, for each metric."""

    seed: int
    step: int
    metrics: Mapping[str, float | None]


@dataclass(frozen=True)
class IndexRow:
    """One planned trial: the index's row in four groups of columns, its evaluations, the objective of each seed, and
    the metrics that it is judged by; whether its files could be read.
    """

    fixed: dict[str, Any]
    hyperparameters: Mapping[str, Any] = field(default_factory=dict)
    metrics: Mapping[str, float | None] = field(default_factory=dict)
    config: Mapping[str, Any] = field(default_factory=dict)
    evaluations: Sequence[Evaluation] = ()
    seed_values: Sequence[float] = ()
    score_metrics: dict[str, float | None] = field(default_factory=dict)
    readable: bool = True

    @property
    def order(self) -> tuple[bool, int, str]:
        """Rows go by their place in the plan; those whose place is unknown come last."""
        number = self.fixed.get("number")
        return number is None, number or 0, str(self.fixed["trial_id"])
