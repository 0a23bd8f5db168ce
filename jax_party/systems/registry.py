"""The systems by name."""

from __future__ import annotations

import importlib
from typing import Any

SYSTEMS: dict[str, str] = {
    "ff_ippo": "ppo:PPO",
    "ff_mappo": "ppo:PPO",
    "rec_ippo": "recurrent_ppo:RecurrentPPO",
    "rec_mappo": "recurrent_ppo:RecurrentPPO",
    "ff_sable": "sable:Sable",
    "rec_sable": "sable:Sable",
    "mat": "mat:MAT",
    "ff_iql": "q_learning:IQL",
    "rec_iql": "q_learning:RecurrentIQL",
    "rec_qmix": "q_learning:QMIX",
    "ff_isac": "sac:ISAC",
    "ff_masac": "sac:MASAC",
    "ff_hasac": "hasac:HASAC",
}
"""System name -> module and class in this package; a system's module is imported when it is first requested."""


def system_class(name: str) -> Any:
    """Return the class of the system named in `system.name`; it takes (config, env, chunk_size, mesh)."""
    module, _, cls = SYSTEMS[name].partition(":")
    return getattr(importlib.import_module(f"jax_party.systems.{module}"), cls)
