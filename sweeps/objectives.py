"""Read and check the objective of a sweep."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from jax_party.errors import SweepError
from jax_party.judging.aggregate import Aggregate
from jax_party.judging.objectives import MODES, RULES, Objective
from sweeps.checks import did_you_mean


def check_rule(text: Any, place: str) -> str:
    """Check and return the rule that says which networks of a trial are judged.

    Raises:
      SweepError: it is not one of `RULES`.
    """
    if text not in RULES:
        raise SweepError(f"{place}: unknown {text!r}{did_you_mean(str(text), RULES)} (known: {', '.join(RULES)})")
    return str(text)


def make_objective(
    metric: Any, mode: Any, aggregate: Any, constraints: Any, place: str = "", names: Mapping[str, str] | None = None
) -> Objective:
    """Create an objective from its written form: one metric or a list, with one mode for all or one per metric.

    Args:
      metric, mode, aggregate, constraints: the values as written.
      place: the prefix of every error message.
      names: parameter -> its name in error messages, for those that are called differently there.

    Raises:
      SweepError: one of the values is invalid.
    """
    called = {name: f"{place}{(names or {}).get(name, name)}" for name in _OBJECTIVE_PARTS}
    metrics = list(metric) if isinstance(metric, (list, tuple)) else [metric]
    modes = list(mode) if isinstance(mode, (list, tuple)) else [mode] * len(metrics)
    if not metrics or not all(isinstance(one, str) and one for one in metrics) or len(set(metrics)) < len(metrics):
        raise SweepError(f"{called['metric']}: expected a metric, or a list of distinct ones, got {metric!r}")
    if len(modes) != len(metrics):
        raise SweepError(f"{called['mode']}: expected one for all or {len(metrics)}, one per metric, got {mode!r}")
    for one in modes:
        if one not in MODES:
            raise SweepError(f"{called['mode']}: expected max or min, got {one!r}")
    pairs = [(str(name), str(one)) for name, one in zip(metrics, modes, strict=True)]
    return Objective(
        *pairs[0],
        aggregate=check_aggregate(aggregate, called["aggregate"]),
        others=tuple(pairs[1:]),
        constraints=_constraints(constraints, called["constraints"]),
    )


_OBJECTIVE_PARTS = ("metric", "mode", "aggregate", "constraints")


def _constraints(raw: Any, place: str) -> dict[str, float]:
    if not isinstance(raw, Mapping):
        raise SweepError(f"{place}: expected bounds such as min_cooperation_rate: 0.2, got {raw!r}")
    found = {}
    for name, bound in raw.items():
        if not isinstance(name, str) or name[:4] not in ("min_", "max_") or not name[4:]:
            raise SweepError(f"{place}: {name}: expected min_ or max_ and a metric, such as min_cooperation_rate")
        try:
            found[name] = (
                float(bound) if isinstance(bound, (int, float, str)) and not isinstance(bound, bool) else math.nan
            )
        except ValueError:
            found[name] = math.nan
        if not math.isfinite(found[name]):
            raise SweepError(f"{place}: {name}: expected a finite number, got {bound!r}")
    for name, bound in found.items():
        most = found.get(f"max_{name[4:]}", math.inf)
        if name.startswith("min_") and bound > most:
            raise SweepError(f"{place}: {name}={bound:g}: no trial has more than that and less than max_{name[4:]}="
                             f"{most:g}; change one of them")  # fmt: skip
    return found


def check_aggregate(value: object, place: str) -> str:
    """Check and return how seeds are aggregated into one number.

    Raises:
      SweepError: it is not one of the known ways.
    """
    known = tuple(member.value for member in Aggregate)
    if value not in known:
        raise SweepError(f"{place}: unknown {value!r}{did_you_mean(str(value), known)} (known: {', '.join(known)})")
    return str(value)
