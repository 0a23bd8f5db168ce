"""The single definition of every option: how it is read, what it means, its default, and which verbs take it.

The parsers (`words`) and `--help` are generated from it, and by `python -m launcher.ask.tables` also `make help` and
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
    Option("ALG", "algorithm or alias: `mappo`, `ff_mappo`, …; or several, by commas; required", _names("ALG"),
           "algorithms"),
    Option("ENGINE", "what runs the trials: `native` (this project's systems), or `mava`: those of an installed Mava "
           "(docs/mava.md)", engine_in, "engine", "`native`"),
    Option("SAMPLES", "configurations to draw for every algorithm and scenario", _count("SAMPLES"), "samples",
           _THE_FILES, ("sweep", "extend"), {"extend": "none: it is required"}),
    Option("SCENARIO", "scenarios, by commas: `p-base,p-no-rank`; each gets the same configurations",
           _names("SCENARIO"), "scenarios", _THE_FILES),
    Option("TIMESTEPS", "environment steps of each seed of a trial: `1e6`", _count("TIMESTEPS"), "timesteps",
           _THE_FILES),
    Option("EVALUATIONS", "evaluations per trial, spread over its steps", _count("EVALUATIONS"), "evaluations",
           _THE_FILES),
    Option("SEED", "seeds the search, and is `system.seed` of every trial", seed_in, "seed", "0"),
    Option("SEEDS", "seeds that each trial trains side by side: `SEED` and those that follow it", _count("SEEDS"),
           "seeds", "the sweep file's (3 for IPPO and MAPPO), else 1"),
    Option("AGGREGATE", "how seeds become one number: `mean`, `iqm`, `median`, `min`",
           _if_given("AGGREGATE", partial(check_aggregate, place="AGGREGATE")), "aggregate",
           "the sweep file's objective, else `mean`"),
    Option("BATCH", "how seeds go side by side: `map` (one after another), `vmap` (one batched program), or the faster "
           "of the two", _member("BATCH", Batch), "batch", "`auto`"),
    Option("SCENARIO_MODE", "what several scenarios are: `grid` (each configuration in every one), `axis` (each drawn "
           "with one), `mean` (every one, averaged)", scenario_mode_in, "scenario_mode", "`grid`"),
    Option("SEARCH", "where configurations come from: `random`, `grid`, `optuna`, `hyperopt`, `bohb`",
           _member("SEARCH", Search), "search", "`random`"),
    Option("SAMPLER", "how Optuna draws: `tpe`, `gp`, `cmaes`, `nsga2`", _member("SAMPLER", Sampler), "sampler",
           "`tpe`, for several objectives `nsga2`"),
    Option("DUPLICATES", "what a configuration that is drawn again gets: `seeds` (new ones), `reuse` (its results), "
           "`refuse`", _member("DUPLICATES", Duplicates), "duplicates", "`seeds`"),
    Option("SCHEDULER", "`fifo`, `asha`, `median`, `hyperband` (stop weak trials), `pbt`, `pb2` (weak trials go on "
           "from better ones)", _member("SCHEDULER", Scheduler), "scheduler", "`fifo` (with `bohb`: `hyperband`)"),
    Option("FROM", "folders of earlier sweeps, by commas, whose trials the searcher is told of", _names("FROM"),
           "warm_start"),
    Option("WORKERS", "worker processes", _count("WORKERS"), "workers", "one per core or accelerator",
           ("sweep", *_ON)),
    Option("PACK", "trials that share a worker, side by side in one program where they can", pack_in, "pack", "1",
           ("sweep", *_ON), _AS_BEGUN),
    Option("DEVICES_PER_TRIAL", "devices that each experiment is spread over: GPUs, or CPU cores (`arch.num_devices`)",
           _count("DEVICES_PER_TRIAL"), "devices_per_trial", "1"),
    Option("GPUS_PER_TRIAL", "share of a GPU that each worker takes: `0.25` puts four workers on one",
           lambda values: share_in(values, "GPUS_PER_TRIAL"), "gpus_per_trial", "one per device", ("sweep", *_ON),
           _AS_BEGUN),
    Option("BUDGET", "what the sweep may spend, what it has spent included: "
           "`time=2h,steps=1e8,device_hours=4,trials=64`", lambda values: values.get("BUDGET"), "budget", "no limit",
           ("sweep", "resume", "extend"), _AS_BEGUN),
    Option("PERIOD_TIMEOUT", "how long an evaluation period may take before it is given up and tried again: `90s`, "
           "`30m`, `2h`, `none`", period_timeout_in, "period_timeout",
           "`auto`: 20 times the longest yet, at least 10 minutes", ("sweep", *_ON)),
    Option("RETRY_FAILED", "`1` runs the failed trials again", lambda values: flag_in(values, "RETRY_FAILED"),
           "retry_failed", "0", ("resume",)),
    Option("TOP", "configurations of each algorithm and scenario that are played again", _count("TOP"), "top",
           str(PromoteOptions.top), ("promote",)),
    Option("SEEDS", "fresh seeds for each", _count("SEEDS"), "seeds", str(PromoteOptions.seeds), ("promote",)),
    Option("RACE", "a confidence such as `0.95`: play in rounds and stop what cannot be the best; `SEEDS` are then the "
           "most", _race, "race", "", ("promote",)),
    Option("NAME", "added to the sweep's name and folder", sweep_name_in, "name"),
    Option("SPACE", "your own sweep file, like `sweeps/ppo.yaml`", _if_given("SPACE", Path), "space",
           "the file in `sweeps/` that names the algorithm"),
    Option("METRIC", "what the sweep looks for, or several by commas", _names("METRIC"), "metric",
           "the sweep file's objective"),
    Option("MODE", "`max` or `min`, or one per metric by commas",
           _if_given("MODE", lambda text: tuple(text.split(","))), "mode", "the sweep file's objective"),
    Option("AT", "which networks of a trial are judged: `final` (as training ended), `last`, `last-5-avg`, "
           "`last-10-avg`, `avg` (means of evaluations), `best` (the best evaluation's, played again) "
           "(docs/statistics.md)", _if_given("AT", partial(check_rule, place="AT")), "at",
           "the sweep file's objective, else the environment's `env.eval_at`"),
    Option("CONSTRAINTS", "bounds that a trial must keep to: `min_cooperation_rate=0.2,max_episode_length=50`",
           bounds_in, "constraints", "the sweep file's objective"),
    Option("OUT", "where sweep folders go", out_in, "out", "`experiment_results`", ("sweep", "rerun")),
    Option("STORAGE", "where they go instead: a path that all machines share, or `s3://bucket/prefix` "
           "(docs/cluster.md)", _if_given("STORAGE", lambda text: folder_in(text, "STORAGE")), "storage"),
    Option("STORAGE_ENDPOINT", "the S3 server: `http://10.0.0.5:9000`", lambda values: None, "",
           "`AWS_ENDPOINT_URL`, or AWS", ("sweep", *_ON, "rerun")),
    Option("ADDRESS", "a Ray cluster to join: `auto`, `host:port`, `ray://host:port` (docs/cluster.md)", address_in,
           "address", "a Ray of our own, on this machine", ("sweep", *_ON)),
    Option("TRACK", "`wandb` or `mlflow`: send every trial's values and metrics there, too (docs/dashboards.md)",
           watching_in, "watching", "nowhere", ("sweep", *_ON)),
    Option("DASHBOARD", "`1` starts Ray's dashboard and metrics on 127.0.0.1 for the sweep (docs/dashboards.md)",
           lambda values: None, "", "0", ("sweep", *_ON)),
    Option("OVERRIDES", "fixed settings for every trial, as for Hydra: `OVERRIDES=\"arch.num_envs=64 env=lbf\"`, "
           "`+preset=mava` (docs/systems.md)", lambda values: words_in(values, "OVERRIDES"), "overrides"),
    Option("DRY_RUN", "`1` prints the plan and starts nothing", lambda values: flag_in(values, "DRY_RUN"), "dry_run",
           "0"),
    Option("CLAIM", f"what is claimed, several by semicolons: `{FORM}`; required; and every option of a sweep",
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
