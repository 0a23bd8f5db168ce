"""A registry of trajectories: find vaults, read parts of them, make data sets from them. No JAX, no Ray.

`docs/trajectories.md` is the guide; `python -m results.vaults` is the command line.
"""

from __future__ import annotations

from results.vaults.check import compare_checksums, verify, write_checksums
from results.vaults.data_card import card, markdown, text
from results.vaults.dataset import Dataset
from results.vaults.derive import merge, thin
from results.vaults.episode_bounds import Episode, episodes, returns
from results.vaults.export import export_og_marl, export_parquet
from results.vaults.finding import Place, find, of_trial, opened
from results.vaults.store import FieldSpec, Vault, create

__all__ = [
    "Dataset",
    "Episode",
    "FieldSpec",
    "Place",
    "Vault",
    "card",
    "compare_checksums",
    "create",
    "episodes",
    "export_og_marl",
    "export_parquet",
    "find",
    "markdown",
    "merge",
    "of_trial",
    "opened",
    "returns",
    "text",
    "thin",
    "verify",
    "write_checksums",
]
