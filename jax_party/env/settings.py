"""The parameters of the game, checked. Imports no JAX, so that configs and sweeps can be read without it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from jax_party.setting_kinds import Traced

MATCHINGS = ("random_pair", "round_robin", "random_matching", "all_pairs")
RANKINGS = ("total", "payoff")
FEATURES = ("active", "totals", "ranks", "memory", "step")
TOTALS_SCALES = ("per_step", "raw")
HORIZONS = ("terminate", "truncate")

MAX_TIME_LIMIT = 2**31 - 1
MAX_SIZE = 1e30


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class PayoffSettings:
    """The 2x2 game from the row player's view, `[[R, S], [T, P]]`. Traced.

    Attributes:
      reward: R, to each of two cooperators.
      sucker: S, to a cooperator that meets a defector.
      temptation: T, to a defector that meets a cooperator.
      punishment: P, to each of two defectors.

    Raises:
      ValueError: a payoff is not finite (or its absolute value exceeds 1e30, where float32 totals overflow).
    """

    reward: Traced
    sucker: Traced
    temptation: Traced
    punishment: Traced

    def __post_init__(self) -> None:
        for name in ("reward", "sucker", "temptation", "punishment"):
            _require_finite(f"payoff.{name}", getattr(self, name))


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class GameSettings:
    """Every parameter of the game. There are no defaults here: a scenario states all of them.

    Attributes:
      num_agents: N, at least 2.
      time_limit: steps per episode, at least 1.
      payoff: the 2x2 game. Traced.
      rank_reward: b; the leader gets +b per step, the last agent -b. Traced.
      rank_by: what ranks follow, one of `RANKINGS`.
      matching: who meets whom, one of `MATCHINGS`.
      observe: what agents see, any of `FEATURES`, at least one, each once.
      totals_scale: how totals are shown, one of `TOTALS_SCALES`.
      horizon: what the time limit means, one of `HORIZONS`.
      action_noise: probability in [0, 1] that a played C or D is flipped. Traced.

    Raises:
      ValueError: a parameter is out of range; the message names it, its value and what is allowed.
        (Pydantic's `ValidationError`, which is a `ValueError`.)
    """

    num_agents: int
    time_limit: int
    payoff: PayoffSettings
    rank_reward: Traced
    rank_by: str
    matching: str
    observe: tuple[str, ...]
    totals_scale: str
    horizon: str
    action_noise: Traced

    def __post_init__(self) -> None:
        validate_settings(self)


def validate_settings(settings: GameSettings) -> None:
    """Raise `ValueError` for the first parameter of `settings` that is not allowed, with name, value and remedy."""
    if settings.num_agents < 2:
        raise ValueError(f"num_agents must be a whole number of at least 2, got {settings.num_agents!r}")
    if not 1 <= settings.time_limit <= MAX_TIME_LIMIT:
        raise ValueError(f"time_limit must be a whole number from 1 to {MAX_TIME_LIMIT}, got {settings.time_limit!r}")
    _require_finite("rank_reward", settings.rank_reward)
    if not 0.0 <= settings.action_noise <= 1.0:
        raise ValueError(f"action_noise must be a probability from 0 to 1, got {settings.action_noise!r}")
    _require_member("rank_by", settings.rank_by, RANKINGS)
    _require_member("matching", settings.matching, MATCHINGS)
    _require_member("totals_scale", settings.totals_scale, TOTALS_SCALES)
    _require_member("horizon", settings.horizon, HORIZONS)
    _require_features(settings.observe)


def parse_settings(parameters: Mapping[str, Any]) -> GameSettings:
    """Check a mapping of all parameters (such as a scenario's `task_config`), and return it as `GameSettings`.

    Args:
      parameters: every field of `GameSettings` by name; `payoff` a mapping or `PayoffSettings`, `observe` any
        list or tuple of names.

    Raises:
      ValueError: a parameter is missing, unknown, ill-typed or out of range. One line per fault.
    """
    try:
        return TypeAdapter(GameSettings).validate_python(dict(parameters))
    except ValidationError as error:
        raise ValueError("JaxParty: " + "\n".join(_describe(fault) for fault in error.errors())) from error


def _describe(fault: Any) -> str:
    if fault["type"] == "value_error":
        return str(fault["ctx"]["error"])
    place = ".".join(str(part) for part in fault["loc"])
    if fault["type"] == "missing":
        return f"{place} is missing"
    if fault["type"] in ("unexpected_keyword_argument", "extra_forbidden"):
        known = PayoffSettings if place.startswith("payoff.") else GameSettings
        return f"{place} is not a parameter (got {fault['input']!r}); there are {', '.join(known.__annotations__)}"
    message = fault["msg"][:1].lower() + fault["msg"][1:]
    return f"{place}: {message}, got {fault['input']!r}"


def _require_finite(name: str, value: float) -> None:
    if not (math.isfinite(value) and abs(value) <= MAX_SIZE):
        raise ValueError(f"{name} must be a finite number of size at most {MAX_SIZE:g}, got {value!r}")


def _require_member(name: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ValueError(f"{name} must be one of {', '.join(allowed)}, got {value!r}")


def _require_features(observe: tuple[str, ...]) -> None:
    if not observe:
        raise ValueError(f"observe must name at least one of {', '.join(FEATURES)}, got {observe!r}")
    for feature in observe:
        _require_member("observe", feature, FEATURES)
    if len(set(observe)) < len(observe):
        raise ValueError(f"observe must name each of {', '.join(FEATURES)} at most once, got {observe!r}")
