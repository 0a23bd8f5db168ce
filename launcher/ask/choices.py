"""Options that have a fixed set of values."""

from __future__ import annotations

from enum import StrEnum


class Search(StrEnum):
    """Where configurations come from."""

    RANDOM = "random"
    GRID = "grid"
    OPTUNA = "optuna"
    HYPEROPT = "hyperopt"
    BOHB = "bohb"

    @property
    def learns(self) -> bool:
        """Whether it draws configurations based on the scores of earlier trials."""
        return self not in (Search.RANDOM, Search.GRID)


class Sampler(StrEnum):
    """How Optuna draws configurations."""

    TPE = "tpe"
    GP = "gp"
    CMAES = "cmaes"
    NSGA2 = "nsga2"


class Duplicates(StrEnum):
    """What to do with a configuration that a searcher draws again."""

    SEEDS = "seeds"
    REUSE = "reuse"
    REFUSE = "refuse"


class Batch(StrEnum):
    """How the seeds of a trial are trained together."""

    AUTO = "auto"
    MAP = "map"
    VMAP = "vmap"


class Scheduler(StrEnum):
    """Whether weak trials are stopped early, or continue from better ones."""

    FIFO = "fifo"
    ASHA = "asha"
    MEDIAN = "median"
    HYPERBAND = "hyperband"
    PBT = "pbt"
    PB2 = "pb2"

    @property
    def is_population(self) -> bool:
        """Whether trials take over the learners of other trials."""
        return self in (Scheduler.PBT, Scheduler.PB2)

    @property
    def by_group(self) -> bool:
        """Whether it judges all trials of a pass together, so that each algorithm and scenario needs its own pass."""
        return self.is_population or self is Scheduler.HYPERBAND


class Track(StrEnum):
    """External service that also receives the runs."""

    WANDB = "wandb"
    MLFLOW = "mlflow"
