"""The single definition of every option: how it is read, what it means, its default, and which verbs take it.

The parsers (`parsing`) and `--help` are generated from it, and by `python -m launcher.ask.tables` also `make help` and
the table in docs/sweeps.md. What an option fills is a field in `requested`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final

from jax_party.judging.claims import FORM
from launcher.ask.choices import Batch, Duplicates, Sampler, Scheduler, Search
from launcher.ask.requested import PromoteOptions
from launcher.ask.values import (
    address_in,
    bounds_in,
    count_in,
    engine_in,
    flag_in,
    folder_in,
    member_in,
    names_in,
    out_in,
    pack_in,
    period_timeout_in,
    race_in,
    scenario_mode_in,
    seed_in,
    share_in,
    sweep_name_in,
    watching_in,
    words_in,
)
from sweeps.objectives import check_aggregate, check_rule

_Values = Mapping[str, str]
_ON = ("resume", "extend", "promote", "verdict")
"""Verbs that continue the sweep in an existing folder."""


@dataclass(frozen=True)
class Option:
    """A variable that a verb takes.

    Attributes:
      name: the variable's name, as in `NAME=value`.
      meaning: its meaning in words; values and variables are in backticks, pages are named as `docs/x.md`.
      read: reads its value from all values by name; None keeps the default.
      fills: the field of the verb's options that it fills; empty if it fills no field itself.
      default: the default in words; empty if there is nothing to say about it.
      verbs: the verbs that take it; `sweep` starts a new sweep.
      others: verb -> its own default in words, for verbs whose default differs.
    """

    name: str
    meaning: str
    read: Callable[[_Values], Any]
    fills: str
    default: str = ""
    verbs: tuple[str, ...] = ("sweep",)
    others: Mapping[str, str] = field(default_factory=dict)

    def default_of(self, verb: str) -> str:
        """Return the default for this verb, in words."""
        return self.others.get(verb, self.default)


def _count(name: str) -> Callable[[_Values], int | None]:
    return lambda values: count_in(values, name)


def _names(name: str) -> Callable[[_Values], tuple[str, ...] | None]:
    return lambda values: names_in(values, name)


def _member(name: str, kind: Any) -> Callable[[_Values], Any]:
    return lambda values: member_in(values, name, kind)


def _if_given(name: str, read: Callable[[str], Any]) -> Callable[[_Values], Any]:
    return lambda values: read(values[name]) if name in values else None


def _race(values: _Values) -> float | None:
    top = count_in(values, "TOP") or PromoteOptions.top
    return race_in(values, top, count_in(values, "SEEDS") or PromoteOptions.seeds)


_THE_FILES = "the sweep file's"
_AS_BEGUN = dict.fromkeys(_ON, "as the sweep began")

OPTIONS: Final = (
    Option("ALG", "algorithm or alias (`mappo`, `ff_mappo`, …), or several separated by commas; required",
           _names("ALG"), "algorithms"),
    Option("ENGINE", "what runs the trials: `native` (this project's systems) or `mava` (those of an installed Mava; "
           "docs/mava.md)", engine_in, "engine", "`native`"),
    Option("SAMPLES", "configurations to draw for every algorithm and scenario", _count("SAMPLES"), "samples",
           _THE_FILES, ("sweep", "extend"), {"extend": "none: it is required"}),
    Option("SCENARIO", "scenarios separated by commas: `p-base,p-no-rank`; each gets the same configurations",
           _names("SCENARIO"), "scenarios", _THE_FILES),
    Option("TIMESTEPS", "environment steps per seed of a trial, such as `1e6`", _count("TIMESTEPS"), "timesteps",
           _THE_FILES),
    Option("EVALUATIONS", "evaluations per trial, evenly spaced", _count("EVALUATIONS"), "evaluations",
           _THE_FILES),
    Option("SEED", "seed of the search, and `system.seed` of every trial", seed_in, "seed", "0"),
    Option("SEEDS", "seeds per trial, trained side by side: `SEED`, `SEED` + 1, …", _count("SEEDS"),
           "seeds", "the sweep file's (3 for IPPO and MAPPO), else 1"),
    Option("AGGREGATE", "how the seeds' scores are combined: `mean`, `iqm`, `median`, `min`",
           _if_given("AGGREGATE", partial(check_aggregate, place="AGGREGATE")), "aggregate",
           "the sweep file's objective, else `mean`"),
    Option("BATCH", "how the seeds of a trial are trained: `map` (one after another), `vmap` (one batched program), "
           "`auto` (the faster one)", _member("BATCH", Batch), "batch", "`auto`"),
    Option("SCENARIO_MODE", "how several scenarios are combined: `grid` (every configuration in each), `axis` (one "
           "drawn per configuration), `mean` (every configuration in each, scores averaged)", scenario_mode_in,
           "scenario_mode", "`grid`"),
    Option("SEARCH", "how configurations are chosen: `random`, `grid`, `optuna`, `hyperopt`, `bohb`",
           _member("SEARCH", Search), "search", "`random`"),
    Option("SAMPLER", "Optuna's sampler: `tpe`, `gp`, `cmaes`, `nsga2`", _member("SAMPLER", Sampler), "sampler",
           "`tpe`, for several objectives `nsga2`"),
    Option("DUPLICATES", "what to do with a configuration that is drawn again: `seeds` (train new seeds), `reuse` "
           "(copy its results), `refuse`", _member("DUPLICATES", Duplicates), "duplicates", "`seeds`"),
    Option("SCHEDULER", "`fifo` (run every trial to its end), `asha`, `median`, `hyperband` (stop weak trials early), "
           "`pbt`, `pb2` (weak trials continue from better ones)", _member("SCHEDULER", Scheduler), "scheduler",
           "`fifo` (with `bohb`: `hyperband`)"),
    Option("FROM", "earlier sweeps' folders, separated by commas; the searcher starts from their results",
           _names("FROM"),
           "warm_start"),
    Option("WORKERS", "worker processes", _count("WORKERS"), "workers", "one per core or accelerator",
           ("sweep", *_ON)),
    Option("PACK", "trials per worker; those with the same program are trained in one batch", pack_in, "pack", "1",
           ("sweep", *_ON), _AS_BEGUN),
    Option("DEVICES_PER_TRIAL", "devices per trial: GPUs, or CPU cores (`arch.num_devices`)",
           _count("DEVICES_PER_TRIAL"), "devices_per_trial", "1"),
    Option("GPUS_PER_TRIAL", "GPUs per worker: `0.25` puts four workers on one",
           lambda values: share_in(values, "GPUS_PER_TRIAL"), "gpus_per_trial", "one per device", ("sweep", *_ON),
           _AS_BEGUN),
    Option("BUDGET", "the most that the sweep may spend in total: "
           "`time=2h,steps=1e8,device_hours=4,trials=64`", lambda values: values.get("BUDGET"), "budget", "no limit",
           ("sweep", "resume", "extend"), _AS_BEGUN),
    Option("PERIOD_TIMEOUT", "time limit per evaluation period, after which the attempt is ended and retried: `90s`, "
           "`30m`, `2h`, `none`", period_timeout_in, "period_timeout",
           "`auto`: 20 times the longest so far, at least 10 minutes", ("sweep", *_ON)),
    Option("RETRY_FAILED", "`1` retries the failed trials", lambda values: flag_in(values, "RETRY_FAILED"),
           "retry_failed", "0", ("resume",)),
    Option("TOP", "configurations to retrain, per algorithm and scenario", _count("TOP"), "top",
           str(PromoteOptions.top), ("promote",)),
    Option("SEEDS", "fresh seeds per configuration", _count("SEEDS"), "seeds", str(PromoteOptions.seeds), ("promote",)),
    Option("RACE", "a confidence such as `0.95`: train in rounds and drop configurations that cannot be the best; "
           "`SEEDS` is then the maximum", _race, "race", "", ("promote",)),
    Option("NAME", "suffix of the sweep's name and folder", sweep_name_in, "name"),
    Option("SPACE", "a sweep file of your own, such as a changed copy of `sweeps/ppo.yaml`", _if_given("SPACE", Path),
           "space",
           "the file in `sweeps/` that names the algorithm"),
    Option("METRIC", "the metric to optimise, or several separated by commas", _names("METRIC"), "metric",
           "the sweep file's objective"),
    Option("MODE", "`max` or `min`, or one per metric, separated by commas",
           _if_given("MODE", lambda text: tuple(text.split(","))), "mode", "the sweep file's objective"),
    Option("AT", "which networks a trial is judged by: `final` (those at the end), `best` (those of the best "
           "evaluation, played again), or its evaluations: `last`, `last-5-avg`, `last-10-avg`, `avg` "
           "(docs/statistics.md)", _if_given("AT", partial(check_rule, place="AT")), "at",
           "the sweep file's objective, else the environment's `env.eval_at`"),
    Option("CONSTRAINTS", "bounds for a trial's metrics: `min_cooperation_rate=0.2,max_episode_length=50`",
           bounds_in, "constraints", "the sweep file's objective"),
    Option("OUT", "folder for sweeps on this machine", out_in, "out", "`experiment_results`", ("sweep", "rerun")),
    Option("STORAGE", "shared folder for sweeps, instead of `OUT`: a path that all machines share, or "
           "`s3://bucket/prefix` (docs/cluster.md)", _if_given("STORAGE", lambda text: folder_in(text, "STORAGE")),
           "storage"),
    Option("STORAGE_ENDPOINT", "the S3 server: `http://10.0.0.5:9000`", lambda values: None, "",
           "`AWS_ENDPOINT_URL`, or AWS", ("sweep", *_ON, "rerun")),
    Option("ADDRESS", "a Ray cluster to join: `auto`, `host:port`, `ray://host:port` (docs/cluster.md)", address_in,
           "address", "none: start Ray on this machine", ("sweep", *_ON)),
    Option("TRACK", "`wandb` or `mlflow`: also send every trial's hyperparameters and metrics there "
           "(docs/dashboards.md)",
           watching_in, "watching", "nowhere", ("sweep", *_ON)),
    Option("DASHBOARD", "`1` starts Ray's dashboard and metrics on 127.0.0.1 while the sweep runs (docs/dashboards.md)",
           lambda values: None, "", "0", ("sweep", *_ON)),
    Option("OVERRIDES", "Hydra overrides for every trial: `OVERRIDES=\"arch.num_envs=64 env=lbf\"`, `+preset=mava` "
           "(docs/systems.md)", lambda values: words_in(values, "OVERRIDES"), "overrides"),
    Option("DRY_RUN", "`1` prints the plan without starting anything", lambda values: flag_in(values, "DRY_RUN"),
           "dry_run",
           "0"),
    Option("CLAIM", f"one or more claims, separated by semicolons: `{FORM}`; required; and every option of a sweep",
           lambda values: values.get("CLAIM"), "", "", ("claim",)),
)  # fmt: skip
VERBS: Final = ("sweep", "resume", "extend", "promote", "claim", "verdict", "rerun")


def options_of(verb: str) -> tuple[Option, ...]:
    """Return the options that a verb takes, in the order in which the help lists them."""
    return tuple(option for option in OPTIONS if verb in option.verbs)


def fields_in(verb: str, values: _Values) -> dict[str, Any]:
    """Return the values that a verb was given, by field of its options; fields without a value are left out.

    Raises:
      SweepError: an option has an invalid value.
    """
    read = {option.fills: option.read(values) for option in options_of(verb) if option.fills}
    return {name: value for name, value in read.items() if value is not None}
