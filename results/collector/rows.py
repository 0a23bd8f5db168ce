"""What a trial has left, as rows of tables: one of the index, and many of the evaluations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from jax_party.judging.standings import Candidate
from results.collector.ranking import ranked_as


class Evaluation(NamedTuple):
    """One evaluation of one seed: a number or None for each metric."""

    seed: int
    step: int
    metrics: Mapping[str, float | None]


@dataclass(frozen=True)
class IndexRow:
    """One planned trial: the index's row in four groups of columns, its evaluations, each seed's values of the metrics
    that the sweep's objectives and constraints name, and whether its files could be read.
    """

    fixed: dict[str, Any]
    hyperparameters: Mapping[str, Any] = field(default_factory=dict)
    metrics: Mapping[str, float | None] = field(default_factory=dict)
    config: Mapping[str, Any] = field(default_factory=dict)
    evaluations: Sequence[Evaluation] = ()
    of_seeds: Sequence[Mapping[str, float | None]] = ()
    readable: bool = True

    @property
    def seed_values(self) -> list[float]:
        """The objective of each seed; empty if any seed lacks it."""
        metric = self.fixed.get("objective.metric")
        values = [value for one in self.of_seeds if (value := one.get(str(metric))) is not None]
        return values if len(values) == len(self.of_seeds) else []

    @property
    def candidate(self) -> Candidate:
        """The trial as `judging.standings` ranks it."""
        return Candidate(
            trial_id=str(self.fixed["trial_id"]),
            number=int(self.fixed.get("number") or 0),
            algorithm=str(self.fixed["algorithm"]),
            scenario=str(self.fixed["scenario"]),
            configuration=ranked_as(self.fixed),
            state=str(self.fixed["state"]),
            first_seed=int(self.fixed.get("seed") or 0),
            of_seeds=self.of_seeds,
            settled=self.fixed.get("settled"),
        )

    @property
    def order(self) -> tuple[bool, int, str]:
        """The sort key of rows: by place in the plan; rows with an unknown place come last."""
        number = self.fixed.get("number")
        return number is None, number or 0, str(self.fixed["trial_id"])
