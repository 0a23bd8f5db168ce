"""Which experiment the trials run: the engine's own, or a stand-in that tests and benchmarks set in the environment."""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable
from typing import Any, Final

from jax_party.errors import SweepError

EXPERIMENT_VARIABLE: Final = "JAX_PARTY_EXPERIMENT"


def load_factory(name: str) -> Callable[..., Any]:
    """Return the factory that `module:factory` names.

    Raises:
      SweepError: the module or the factory does not exist.
    """
    module, _, attribute = name.partition(":")
    try:
        factory: Callable[..., Any] = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise SweepError(f"{EXPERIMENT_VARIABLE}={name}: cannot be loaded: {error}") from error
    return factory


def chosen_experiment() -> str | None:
    """Return the stand-in that the environment names, as `module:factory`, or None."""
    return os.environ.get(EXPERIMENT_VARIABLE) or None
