"""JaxParty: an iterated social dilemma with a ranking, and the systems that learn in it.

Importing this package is cheap: JAX and Jumanji are imported when they are first needed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jax_party.env.registration import register_JaxParty
    from jax_party.run import hydra_entry_point

__version__ = "0.1.0"
__all__ = ["__version__", "hydra_entry_point", "register_JaxParty"]


def __getattr__(name: str) -> Any:
    if name == "register_JaxParty":
        from jax_party.env.registration import register_JaxParty

        return register_JaxParty
    if name == "hydra_entry_point":
        from jax_party.run import hydra_entry_point

        return hydra_entry_point
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
