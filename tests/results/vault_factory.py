"""Vaults with known content: every number tells its place."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from results.vaults import FieldSpec, Vault, create

AGENTS, FEATURES, ACTIONS = 3, 2, 3
LIMIT = 10
CONFIG = {
    "env": {
        "env_name": "JaxParty",
        "scenario": {
            "task_name": "p-short",
            "task_config": {"time_limit": LIMIT, "payoff": {"reward": 3.0}, "horizon": "terminate"},
        },
    },
    "logger": {"system_name": "ff_mappo"},
    "vault": {"every": 1},
    "system": {"rollout_length": 5},
}


def fields_of(rows: int, steps: int, first: int = 0, limit: int = LIMIT) -> dict[str, np.ndarray]:
    """Episodes of `limit` steps; reward = 100 × (first + row) + step + agent / 4."""
    row, step, agent = np.meshgrid(np.arange(rows), np.arange(steps), np.arange(AGENTS), indexing="ij")
    reward = (100.0 * (first + row) + step + agent / 4).astype(np.float32)
    return {
        "done": np.broadcast_to(np.arange(steps) % limit == 0, (rows, steps)).copy(),
        "action": ((row + step + agent) % ACTIONS).astype(np.int8),
        "reward": reward,
        "observation": np.stack([reward, -reward], axis=-1),
        "legal_action_mask": np.ones((rows, steps, AGENTS, ACTIONS), bool),
        "value": reward / 2,
    }


def write_vault(path: Path, fields: Mapping[str, np.ndarray], **metadata: Any) -> Vault:
    """A vault of `fields`, its metadata those of a train vault under `CONFIG` unless others are given."""
    rows = next(iter(fields.values())).shape[0]
    specs = {name: FieldSpec(values.dtype, values.shape[2:]) for name, values in fields.items()}
    known = {"trial_id": path.name, "kind": "train", "seed": 42, "config": CONFIG}
    with create(path, specs, rows, known | metadata) as new:
        new.append(fields)
    return Vault(path)


def read_with_flashbax(path: Path) -> dict[str, Any]:
    """What Flashbax alone reads there."""
    from flashbax.vault import Vault as FlashbaxVault

    vault = FlashbaxVault(rel_dir=str(path.parents[1]), vault_name=path.parent.name, vault_uid=path.name)
    return dict(vault.read().experience)
