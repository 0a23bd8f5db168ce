"""Engines, which run trials: this project's own systems, or those of an installed Mava.

An engine has a config tree, parses composed configs, knows which metrics their evaluations give, and opens experiments
in trial folders. The launcher, the collector and the vault do not know which engine ran. Importing this package imports
neither JAX nor an engine.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any

from jax_party.engines.protocol import (
    ENGINE_KEY,
    ENGINES,
    MAVA,
    NATIVE,
    ConfigTree,
    Engine,
    Experiment,
    Outline,
    options_in,
)
from jax_party.errors import ConfigError

__all__ = [
    "ENGINES",
    "ENGINE_KEY",
    "MAVA",
    "NATIVE",
    "ConfigTree",
    "Engine",
    "Experiment",
    "Outline",
    "engine_of",
    "get_engine",
    "options_in",
]


def get_engine(name: str) -> Engine:
    """Return the engine of this name.

    Raises:
      ConfigError: there is no such engine.
    """
    if name == NATIVE:
        from jax_party.engines.native import NativeEngine

        return NativeEngine()
    if name == MAVA:
        from jax_party.engines.mava import MavaEngine

        return MavaEngine()
    close = difflib.get_close_matches(name, ENGINES, n=1)
    hint = f"did you mean {close[0]}? " if close else ""
    raise ConfigError(f"engine: unknown {name!r}; {hint}choose one of {', '.join(ENGINES)}")


def engine_of(mapping: Mapping[str, Any]) -> Engine:
    """Return the engine that a composed config is for.

    Raises:
      ConfigError: there is no engine of that name.
    """
    return get_engine(str(mapping.get(ENGINE_KEY, NATIVE)))
