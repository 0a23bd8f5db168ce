"""The engine of this project's own systems."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from jax_party.config import (
    ExperimentConfig,
    evaluation_metrics,
    known_keys,
    make_budget,
    names_of,
    parse_config,
    static_names,
    traced_part,
)
from jax_party.engines.presets import PRESET
from jax_party.engines.protocol import NATIVE, ConfigTree, Experiment, Outline, options_in
from jax_party.errors import JaxPartyError
from jax_party.trial.provenance import our_version


class NativeEngine:
    """Our own systems, which need nothing but this project."""

    name = NATIVE
    side_by_side = True

    def check(self) -> None:
        """Do nothing: this engine is always available."""

    def version(self) -> str | None:
        """Return this project's commit if it is a checkout, otherwise its package's version."""
        return our_version()

    def check_algorithm(self, algorithm: str) -> None:
        """Do nothing: this engine has every algorithm."""

    def tree(self) -> ConfigTree:
        """Return the config tree of `mava_configs`.

        Raises:
          JaxPartyError: there is no such package.
        """
        root = our_config_root()
        return ConfigTree(root, partial(options_in, root), lambda system: (), _keys, root / PRESET)

    def parse(self, mapping: Mapping[str, Any]) -> ExperimentConfig:
        """Return a composed config as our own dataclasses."""
        return parse_config(mapping)

    def outline(self, config: ExperimentConfig) -> Outline:
        """Return the engine-independent outline of a config."""
        kept = config.logger.checkpointing
        return Outline(
            system=config.logger.system_name,
            environment=config.env.env_name,
            scenario=config.env.scenario.task_name,
            eval_metric=config.env.eval_metric,
            eval_at=config.env.eval_at,
            seed=config.system.seed,
            num_seeds=config.arch.num_seeds,
            num_devices=config.arch.num_devices,
            num_evaluation=config.arch.num_evaluation,
            budget=make_budget(config),
            keeps_each_period=kept.save_model and kept.save_args.save_interval_steps == 1,
            own_checkpoints=False,
            base_exp_path=config.logger.base_exp_path,
            run_name=config.logger.run_name,
            use_console=config.logger.use_console,
        )

    def metrics(self, config: ExperimentConfig) -> list[str]:
        """Return the metrics that an evaluation gives."""
        return evaluation_metrics(config)

    def static_names(self, config: ExperimentConfig) -> Sequence[str]:
        """Return the keys that change shapes or the structure of the program."""
        return tuple(static_names(config))

    def traced_names(self, config: ExperimentConfig) -> frozenset[str]:
        """Return the keys of the numbers that are passed to the compiled program."""
        return frozenset(_dotted(traced_part(config)))

    def experiment(self) -> Callable[..., Experiment]:
        """Return `jax_party.training.experiment.Experiment`."""
        from jax_party.training.experiment import Experiment as NativeExperiment

        return NativeExperiment


def our_config_root() -> Path:
    """Return the folder of our own config groups.

    Raises:
      JaxPartyError: there is no such package.
    """
    spec = importlib.util.find_spec("mava_configs")
    if spec is None or spec.origin is None:
        raise JaxPartyError("mava_configs: not importable; install the project with `make setup` or `pip install .`")
    return Path(spec.origin).parent


def _keys(group: Sequence[str], system: str | None) -> list[str]:
    return known_keys(group, names_of(system) if system else ())


def _dotted(part: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    for name, value in part.items():
        if isinstance(value, Mapping):
            yield from _dotted(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}"
