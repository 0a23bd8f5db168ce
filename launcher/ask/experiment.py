"""Which experiment the trials play: the engine's, or a stand-in that tests and benchmarks name in the environment."""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable
from typing import Any, Final

from jax_party.errors import SweepError

EXPERIMENT_VARIABLE: Final = "JAX_PARTY_EXPERIMENT"


def load_factory(name: str) -> Callable[..., Any]:
    """What `module:factory` names.

    Raises:
      SweepError: there is no such thing.
    """
    module, _, attribute = name.partition(":")
    try:
        factory: Callable[..., Any] = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise SweepError(f"{EXPERIMENT_VARIABLE}={name}: cannot be loaded: {error}") from error
    return factory


def chosen_experiment() -> str | None:
    """The stand-in that tests and benchmarks put into the environment, or None."""
    return os.environ.get(EXPERIMENT_VARIABLE) or None
