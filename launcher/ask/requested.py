"""The parsed options of each verb of `python -m launcher.sweep`; `options` defines how they are read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from jax_party.engines import NATIVE
from launcher.ask.choices import Batch, Duplicates, Sampler, Scheduler, Search, Track
from sweeps.space import ScenarioMode


@dataclass(frozen=True)
class Watching:
    """Where else a sweep's progress is shown: Ray's dashboard on this machine, and an external tracking service."""

    dashboard: bool = False
    track: Track | None = None


@dataclass(frozen=True)
class SweepOptions:
    """The options of a new sweep; None leaves the choice to the sweep file."""

    algorithms: tuple[str, ...]
    engine: str = NATIVE
    samples: int | None = None
    scenarios: tuple[str, ...] | None = None
    timesteps: int | None = None
    evaluations: int | None = None
    seed: int = 0
    seeds: int | None = None
    aggregate: str | None = None
    batch: Batch | None = None
    scenario_mode: ScenarioMode | None = None
    search: Search = Search.RANDOM
    sampler: Sampler | None = None
    duplicates: Duplicates = Duplicates.SEEDS
    scheduler: Scheduler | None = None
    warm_start: tuple[str, ...] = ()
    workers: int | None = None
    pack: int = 1
    devices_per_trial: int | None = None
    gpus_per_trial: float | None = None
    budget: str | None = None
    period_timeout: float | None = None
    name: str | None = None
    space: Path | None = None
    metric: tuple[str, ...] | None = None
    mode: tuple[str, ...] | None = None
    at: str | None = None
    constraints: Mapping[str, str] | None = None
    out: Path = Path("experiment_results")
    storage: Path | None = None
    address: str | None = None
    overrides: tuple[str, ...] = ()
    watching: Watching = Watching()
    dry_run: bool = False

    @property
    def root(self) -> Path:
        """The folder that holds the sweep folders."""
        return self.storage or self.out


@dataclass(frozen=True)
class ResumeOptions:
    """A sweep folder to finish."""

    folder: Path
    workers: int | None = None
    pack: int | None = None
    gpus_per_trial: float | None = None
    budget: str | None = None
    retry_failed: bool = False
    address: str | None = None
    period_timeout: float | None = None
    watching: Watching = Watching()


@dataclass(frozen=True)
class ExtendOptions:
    """A sweep to add configurations to."""

    resume: ResumeOptions
    samples: int


@dataclass(frozen=True)
class PromoteOptions:
    """A sweep whose winners to test."""

    folder: Path
    top: int = 3
    seeds: int = 10
    race: float | None = None
    workers: int | None = None
    pack: int | None = None
    gpus_per_trial: float | None = None
    address: str | None = None
    period_timeout: float | None = None
    watching: Watching = Watching()


@dataclass(frozen=True)
class RerunOptions:
    """A trial to repeat, by its id or its folder."""

    trial: str
    out: Path = Path("experiment_results")
