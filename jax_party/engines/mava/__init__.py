"""The engine of an installed Mava: its own systems, unmodified (docs/mava.md).

Importing this package imports neither JAX nor Mava.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from jax_party.config import evaluation_metrics_of
from jax_party.engines.mava import installation
from jax_party.engines.mava.config import MavaConfig, parse_mava_config
from jax_party.engines.native import our_config_root
from jax_party.engines.protocol import ENGINE_KEY, MAVA, ConfigTree, Experiment, Outline, options_in
from jax_party.errors import ConfigError

CONTINUOUS = ("ff_isac", "ff_masac", "ff_hasac")
"""Mava's soft actor-critics sample from a Gaussian; JaxParty's actions are C, D and nothing."""

OUR_DEFAULTS = (
    "env=jaxparty",
    "++env.log_win_rate=False",
    "+vault=train",
    "+arch.num_seeds=1",
    "+arch.num_devices=1",
    "+arch.batch=auto",
    "logger.base_exp_path=experiment_results",
    "+logger.run_name=null",
)
"""Keys that every engine's config has and Mava's tree lacks, at the defaults of our own tree."""

HYDRA = (
    "hydra.run.dir=.",
    "hydra.output_subdir=null",
    "hydra/job_logging=disabled",
    "hydra/hydra_logging=disabled",
    "hydra/callbacks=ray",
)
"""As in our own configs: Hydra writes no files of its own, and runs of `-m` may use Ray."""


OF_SYSTEM = {"rec_qmix": ("env.shared_reward=true",)}
"""As in our own config of this system. Mava's QMIX takes the mean of the agents' rewards, whatever they are."""


class MavaEngine:
    """Mava's anakin systems with discrete actions."""

    name = MAVA
    side_by_side = False

    def check(self) -> None:
        """Raise `ConfigError` if Mava, or one of its dependencies, cannot be imported."""
        installation.check()

    def version(self) -> str | None:
        """Return Mava's commit if it is a checkout, otherwise its package's version."""
        return installation.version()

    def check_algorithm(self, algorithm: str) -> None:
        """Raise `ConfigError` for a system that Mava does not have, or has only for continuous actions."""
        if algorithm in CONTINUOUS:
            raise ConfigError(
                f"ENGINE=mava: {algorithm}: Mava's soft actor-critics are for continuous actions, JaxParty's are "
                f"discrete; ENGINE=native has a discrete {algorithm} (leave ENGINE out)"
            )
        known = installation.systems()
        if algorithm not in known:
            close = difflib.get_close_matches(algorithm, known, n=1)
            hint = f"did you mean {close[0]}? " if close else ""
            raise ConfigError(
                f"ENGINE=mava: {algorithm}: the Mava that is installed has no such system; {hint}choose one of "
                f"{', '.join(known)}, or leave ENGINE out"
            )

    def tree(self) -> ConfigTree:
        """Return Mava's own tree, with our environment, scenarios and vaults after it on Hydra's search path."""
        root = installation.config_root()
        path = f"hydra.searchpath=[file://{root},pkg://mava_configs]"
        ours = (path, *HYDRA, f"+{ENGINE_KEY}={MAVA}", *OUR_DEFAULTS)

        def overrides(system: str) -> tuple[str, ...]:
            return (*ours, f"+logger.system_name={system}", *OF_SYSTEM.get(system, ()))

        return ConfigTree(root, partial(_options, root), overrides, partial(_keys, root))

    def parse(self, mapping: Mapping[str, Any]) -> MavaConfig:
        """Return the part of the config that this project reads, checked; the rest is left to Mava."""
        return parse_mava_config(mapping)

    def outline(self, config: MavaConfig) -> Outline:
        """Return the engine-independent outline of a config."""
        return Outline(
            system=config.algorithm,
            environment=config.env.env_name,
            scenario=config.env.scenario.task_name,
            eval_metric=config.env.eval_metric,
            eval_at=config.env.eval_at,
            seed=config.system.seed,
            num_seeds=config.arch.num_seeds,
            num_devices=config.arch.num_devices,
            num_evaluation=config.arch.num_evaluation,
            budget=config.budget,
            keeps_each_period=True,
            own_checkpoints=config.logger.checkpointing.save_model,
            base_exp_path=config.logger.base_exp_path,
            run_name=config.logger.run_name,
            use_console=config.logger.use_console,
        )

    def metrics(self, config: MavaConfig) -> list[str]:
        """Return the metrics of an evaluation, the same as for our own systems."""
        return evaluation_metrics_of(config.env.scenario)

    def static_names(self, config: MavaConfig) -> Sequence[str]:
        """Return every group: Mava compiles its hyperparameters into the program."""
        return ("arch", "env", "network", "system")

    def traced_names(self, config: MavaConfig) -> frozenset[str]:
        """Return the empty set: no value can change while a trial trains."""
        return frozenset()

    def experiment(self) -> Callable[..., Experiment]:
        """Return `jax_party.engines.mava.experiment.MavaExperiment`."""
        from jax_party.engines.mava.experiment import MavaExperiment

        return MavaExperiment


def _options(root: Path, group: str) -> list[str]:
    """Return our options for the game's scenarios and vaults, and Mava's for other groups."""
    ours = group in ("env/scenario", "vault")
    return options_in(our_config_root(), group) if ours else options_in(root, group)


def _keys(root: Path, group: Sequence[str], system: str | None) -> list[str]:
    """Return the keys of a group of a system's config, read from Mava's files and ours."""
    default = root / "default" / f"{system or 'ff_ippo'}.yaml"
    if not default.is_file():
        return []
    defaults = yaml.safe_load(default.read_text(encoding="utf-8")).get("defaults", [])
    chosen = dict(choice for entry in defaults if isinstance(entry, dict) for choice in entry.items())
    if not group:
        return [*chosen, "vault"]
    option = chosen.get(group[0])
    path = root / group[0] / f"{option}.yaml"
    node: Any = yaml.safe_load(path.read_text(encoding="utf-8")) if option and path.is_file() else {}
    for part in group[1:]:
        node = node.get(part) if isinstance(node, Mapping) else None
    return list(node) if isinstance(node, Mapping) else []
