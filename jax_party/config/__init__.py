"""One experiment's configuration: frozen, typed, and split into its static, traced and host parts.

Defaults live in `mava_configs/` alone. `parse_config` is the one way in.
"""

from jax_party.config.budget import Budget, make_budget
from jax_party.config.experiment import (
    EnvConfig,
    ExperimentConfig,
    GameScenario,
    JumanjiScenario,
    check_metric,
    evaluation_metrics,
)
from jax_party.config.networks import TorsoConfig
from jax_party.config.parsing import known_keys, names_of, parse_config
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
    "check_metric",
    "compile_signature",
    "evaluation_metrics",
    "known_keys",
    "make_budget",
    "names_of",
    "parse_config",
    "static_key",
    "static_names",
    "static_part",
    "traced_part",
    "with_values",
    "without_values",
]
