"""One experiment's configuration: frozen, typed, and split into its static, traced and host parts.

Defaults live only in `mava_configs/`. `parse_config` is the only way to make a config.
"""

from jax_party.config.budget import Budget, make_budget, whole_budget
from jax_party.config.experiment import (
    EnvConfig,
    ExperimentConfig,
    GameScenario,
    JumanjiScenario,
    VaultConfig,
    check_metric,
    evaluation_metrics,
    evaluation_metrics_of,
)
from jax_party.config.networks import TorsoConfig
from jax_party.config.parsing import explain, known_keys, names_of, parse_config
from jax_party.config.parts import (
    compile_signature,
    static_key,
    static_names,
    static_part,
    traced_part,
    with_values,
    without_values,
)

__all__ = [
    "Budget",
    "EnvConfig",
    "ExperimentConfig",
    "GameScenario",
    "JumanjiScenario",
    "TorsoConfig",
    "VaultConfig",
    "check_metric",
    "compile_signature",
    "explain",
    "evaluation_metrics",
    "evaluation_metrics_of",
    "known_keys",
    "make_budget",
    "names_of",
    "parse_config",
    "static_key",
    "static_names",
    "static_part",
    "traced_part",
    "whole_budget",
    "with_values",
    "without_values",
]
