"""Ids of trials and configurations, derived from their content."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from jax_party.errors import RecordError
from jax_party.store.files import plain_value
from jax_party.trial.record import TrialRecord


def canonical_json(value: Any, place: str) -> str:
    """Return JSON that is the same for equal values: sorted keys, no spaces, floats by their shortest repr."""
    return json.dumps(plain_value(value, place), sort_keys=True, separators=(",", ":"))


def new_trial_id(sweep_name: str, config: Mapping[str, Any], seed: int) -> str:
    """Return `<sweep name>-<8 hex digits>`; the digits are of the SHA-256 of config and seed.

    Raises:
      RecordError: the name is not valid for a folder, or JSON cannot hold the config.
    """
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", sweep_name):
        raise RecordError(
            f"sweep name {sweep_name!r}: it names folders; use letters, digits, '.', '_' and '-', starting "
            "with a letter or digit"
        )
    content = canonical_json({"config": config, "seed": seed}, "config")
    return f"{sweep_name}-{hashlib.sha256(content.encode()).hexdigest()[:8]}"


def configuration_id(record: TrialRecord) -> str:
    """Return 8 hex digits shared by trials with equal algorithm and values, whatever their seed and scenario."""
    values = {key: value for key, value in record.hyperparameters.items() if key != "system.seed"}
    content = canonical_json([record.algorithm, values], "configuration")
    return hashlib.sha256(content.encode()).hexdigest()[:8]


def label_of(algorithms: Sequence[str]) -> str:
    """Return one word for a sweep's algorithms, used in the name of its folder."""
    if len(algorithms) <= 3:
        return "-".join(algorithms)
    return f"{algorithms[0]}-and-{len(algorithms) - 1}-more"
