"""JaxParty in Jumanji's registry."""

from __future__ import annotations

from jumanji.registration import register, registered_environments

ENVIRONMENT_ID = "JaxParty-v0"


def register_JaxParty() -> None:
    """Register `JaxParty-v0` with Jumanji, so that `jumanji.make("JaxParty-v0", **settings)` works. Idempotent."""
    if ENVIRONMENT_ID not in registered_environments():
        register(id=ENVIRONMENT_ID, entry_point="jax_party.env.env:JaxParty")
