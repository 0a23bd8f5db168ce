"""What `python -m launcher.sweep` was asked, verb by verb, and what each option means."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from jax_party.engines import NATIVE
from jax_party.judging.claims import FORM
from launcher.ask.choices import Batch, Duplicates, Sampler, Scheduler, Search, Track
from sweeps.space import ScenarioMode


@dataclass(frozen=True)
class Watching:
    """Who else is shown how a sweep goes: Ray's dashboard on this machine, and whoever keeps the runs besides."""

    dashboard: bool = False
    track: Track | None = None


HELP: Mapping[str, str] = {
    "ALG": "algorithm or its alias (mappo, ff_mappo, ippo, ...), or several by commas; required",
    "ENGINE": "what runs the trials: native (our own systems) or mava (an installed Mava's); default native",
    "SAMPLES": "configurations to draw for every algorithm and scenario; default: the sweep file's",
    "SCENARIO": "scenarios, by commas: p-base,p-no-rank; default: the sweep file's",
    "TIMESTEPS": "environment steps of each seed of a trial; default: the sweep file's",
    "EVALUATIONS": "evaluations a trial; default: the sweep file's",
    "SEED": "seeds the search, and is every trial's system.seed; default 0",
    "SEEDS": "seeds that each trial trains side by side, from SEED on; default: the sweep file's",
    "AGGREGATE": "how seeds become one number: mean, iqm, median or min; default: the sweep file's objective",
    "BATCH": "how seeds go side by side: map (one after another), vmap (one batched program) or auto (the faster)",
    "SCENARIO_MODE": "grid (each configuration in every one), axis (each drawn with one), mean (every one, averaged)",
    "SEARCH": "random, grid, optuna, hyperopt or bohb; default random",
    "SAMPLER": "how optuna draws: tpe, gp, cmaes or nsga2; default tpe, for several objectives nsga2",
    "DUPLICATES": "what a configuration drawn again gets: seeds (new ones), reuse (its results), refuse; default seeds",
    "SCHEDULER": "fifo, asha, median, hyperband (stop weak trials), pbt, pb2 (weak go on from better); default fifo",
    "FROM": "earlier sweeps' folders, by commas, whose trials the searcher is told of",
    "WORKERS": "worker processes; default: one a core, or one an accelerator",
    "PACK": "trials that share a worker, side by side in one program where they can; default 1",
    "DEVICES_PER_TRIAL": "devices that each experiment is spread over: GPUs, or CPU cores; default 1",
    "GPUS_PER_TRIAL": "share of a GPU that each worker takes, such as 0.25; default: one for each device",
    "BUDGET": "what the sweep may spend: time=2h,steps=1e8,device_hours=4,trials=64; default: no limit",
    "PERIOD_TIMEOUT": "how long an evaluation period may take before it is given up and tried again: 90s, 30m, 2h, "
    "none; default auto (20 times the longest yet, at least 10 minutes)",
    "NAME": "added to the sweep's name and folder",
    "SPACE": "your own sweep file; default: the one in sweeps/ that names the algorithm",
    "METRIC": "what the sweep looks for, or several by commas; default: the sweep file's objective",
    "AT": "which networks of a trial are judged: final (as training ended), last, last-5-avg, last-10-avg, avg (means "
    "of evaluations), best (the best evaluation's, played again); default: the sweep file's, or the environment's",
    "MODE": "max or min, or one a metric by commas; default: the sweep file's objective",
    "CONSTRAINTS": "bounds that a trial must keep to: min_cooperation_rate=0.2,max_episode_length=50",
    "OUT": "where sweep folders go; default experiment_results",
    "STORAGE": "where sweep folders go instead: a path that all machines share, or s3://bucket/prefix",
    "STORAGE_ENDPOINT": "the S3 server, such as http://127.0.0.1:5000; default: AWS_ENDPOINT_URL, or AWS",
    "ADDRESS": "a Ray cluster to join: auto, host:port or ray://host:port; default: a Ray of our own, on this machine",
    "TRACK": "wandb or mlflow: send every trial's values and metrics there, too; default: nowhere",
    "DASHBOARD": "1 starts Ray's dashboard and metrics on 127.0.0.1 for the sweep",
    "OVERRIDES": 'fixed settings for every trial: OVERRIDES="arch.num_envs=64 network=mlp"',
    "DRY_RUN": "1 prints the plan and starts nothing",
}
RESUME_HELP: Mapping[str, str] = {
    "WORKERS": HELP["WORKERS"],
    "PACK": "trials that share a worker; default: as the sweep began",
    "GPUS_PER_TRIAL": "share of a GPU that each worker takes; default: as the sweep began",
    "BUDGET": "what the sweep may spend, what it has spent included; default: as it began",
    "PERIOD_TIMEOUT": HELP["PERIOD_TIMEOUT"],
    "RETRY_FAILED": "1 runs the failed trials again",
    "TRACK": HELP["TRACK"],
    "DASHBOARD": HELP["DASHBOARD"],
    "ADDRESS": HELP["ADDRESS"],
    "STORAGE_ENDPOINT": HELP["STORAGE_ENDPOINT"],
}
EXTEND_HELP: Mapping[str, str] = {
    "SAMPLES": "further configurations for every algorithm and scenario; required",
    **{key: meaning for key, meaning in RESUME_HELP.items() if key != "RETRY_FAILED"},
}
PROMOTE_HELP: Mapping[str, str] = {
    "TOP": "configurations of each algorithm and scenario; default 3",
    "SEEDS": "fresh seeds for each; default 10",
    "RACE": "a confidence such as 0.95: play in rounds and stop what cannot be the best; SEEDS are then the most",
    "WORKERS": HELP["WORKERS"],
    "PACK": RESUME_HELP["PACK"],
    "GPUS_PER_TRIAL": RESUME_HELP["GPUS_PER_TRIAL"],
    "PERIOD_TIMEOUT": HELP["PERIOD_TIMEOUT"],
    "TRACK": HELP["TRACK"],
    "DASHBOARD": HELP["DASHBOARD"],
    "ADDRESS": HELP["ADDRESS"],
    "STORAGE_ENDPOINT": HELP["STORAGE_ENDPOINT"],
}
VERDICT_HELP: Mapping[str, str] = {key: PROMOTE_HELP[key] for key in PROMOTE_HELP if key not in ("TOP", "SEEDS")}
CLAIM_HELP: Mapping[str, str] = {
    "CLAIM": f"what is claimed, several by semicolons: '{FORM}'; required",
    "...": "and every option of a sweep",
}
RERUN_HELP: Mapping[str, str] = {"OUT": HELP["OUT"], "STORAGE_ENDPOINT": HELP["STORAGE_ENDPOINT"]}


@dataclass(frozen=True)
class SweepOptions:
    """A sweep as it was asked for; None leaves the choice to the sweep file."""

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
        """Where sweep folders go."""
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
    """A sweep that is to have more trials."""

    resume: ResumeOptions
    samples: int


@dataclass(frozen=True)
class PromoteOptions:
    """A sweep whose winners are to be tested."""

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
