"""What an option may be, where it is one of a few."""

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
        """Whether it draws by what earlier trials have scored."""
        return self not in (Search.RANDOM, Search.GRID)


class Sampler(StrEnum):
    """How Optuna draws."""

    TPE = "tpe"
    GP = "gp"
    CMAES = "cmaes"
    NSGA2 = "nsga2"


class Duplicates(StrEnum):
    """What becomes of a configuration that a searcher draws again."""

    SEEDS = "seeds"
    REUSE = "reuse"
    REFUSE = "refuse"


class Batch(StrEnum):
    """How the seeds of a trial go side by side."""

    AUTO = "auto"
    MAP = "map"
    VMAP = "vmap"


class Scheduler(StrEnum):
    """Whether weak trials are stopped early, or go on from better ones."""

    FIFO = "fifo"
    ASHA = "asha"
    MEDIAN = "median"
    HYPERBAND = "hyperband"
    PBT = "pbt"
    PB2 = "pb2"

    @property
    def is_population(self) -> bool:
        """Whether trials take over the learners of others."""
        return self in (Scheduler.PBT, Scheduler.PB2)

    @property
    def by_group(self) -> bool:
        """Whether it looks at all trials at once, so that each algorithm and scenario needs a pass of its own."""
        return self.is_population or self is Scheduler.HYPERBAND


class Track(StrEnum):
    """Where runs are kept besides."""

    WANDB = "wandb"
    MLFLOW = "mlflow"
