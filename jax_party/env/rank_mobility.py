"""Whether ranks can change, from a scenario's settings alone. Imports no JAX: sweeps and reports use it, too."""

from __future__ import annotations

import enum
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

GAME: Final = "JaxParty-v0"
NEW_STUDY: Final = "p-contest"
"""The recommended scenario for a new study: its ranks can change, and agents see what the others did last."""
ROUNDING: Final = 1e-6
"""Payoffs and rank rewards this close, relatively, count as equal: scores are sums of float32 numbers."""


class Mobility(enum.StrEnum):
    """Whether ranks can move away from those drawn at the start of an episode."""

    YES = "yes"
    WHILE_LEVEL = "while level"
    NO = "no"


@dataclass(frozen=True)
class RankMobility:
    """Whether ranks can move in a game, and why.

    Attributes:
      place_worth: what a place is worth: how much more per step, without payoffs, an agent's score grows than that of
        the agent one place below. 2b/(N-1) with `rank_by: total`; 0 with `payoff`.
      payoff_gap: the most by which the payoffs of two agents can differ in one step.
    """

    place_worth: float
    payoff_gap: float

    @property
    def can_move(self) -> Mobility:
        """Whether ranks can move, by comparing what a place is worth with what payoffs can make up.

        Agents begin level, in a random order. While that order stands, an agent leads the one below it by at least t (w
        - g) after t steps, where w is `place_worth` and g `payoff_gap`.

        - w <= 0: YES. Only payoffs separate agents, or the leader is fined.
        - w < g: YES. The agent below can make up a lead; under `round_robin` perhaps only in the first steps.
        - w = g: WHILE_LEVEL. A lead never shrinks. Two agents change places only by lot, while they are still level:
          the one below has gained g over the other in every step so far.
        - w > g: NO. After the first step every agent leads the one below it, and leads only grow.
        """
        if self.place_worth <= 0:
            return Mobility.YES
        if math.isclose(self.place_worth, self.payoff_gap, rel_tol=ROUNDING):
            return Mobility.WHILE_LEVEL
        return Mobility.YES if self.place_worth < self.payoff_gap else Mobility.NO


def rank_mobility(task_config: Mapping[str, Any]) -> RankMobility:
    """Return whether ranks can move in a game.

    Args:
      task_config: a scenario's checked settings; `num_agents`, `payoff`, `rank_reward`, `rank_by` and `matching` are
        read.

    Raises:
      KeyError: one of these is missing.
    """
    num_agents = int(task_config["num_agents"])
    payoff = {name: float(value) for name, value in task_config["payoff"].items()}
    worth = 2.0 * float(task_config["rank_reward"]) / (num_agents - 1)
    return RankMobility(
        place_worth=worth if task_config["rank_by"] == "total" else 0.0,
        payoff_gap=_payoff_gap(payoff, num_agents, task_config["matching"]),
    )


def mobility_in(scenario: Mapping[str, Any]) -> RankMobility | None:
    """Return the same for `env.scenario` in a trial's config; None for another game, or if settings are missing."""
    if scenario.get("name") != GAME:
        return None
    try:
        return rank_mobility(scenario["task_config"])
    except KeyError:
        return None


def _payoff_gap(payoff: Mapping[str, float], num_agents: int, matching: str) -> float:
    """Return the largest difference between two agents' payoffs in one step of legal play (nobody forfeits)."""
    outcomes = [payoff[name] for name in ("reward", "sucker", "temptation", "punishment")]
    reward, sucker, temptation, punishment = outcomes
    if matching == "all_pairs":
        # A defector's payoff minus a cooperator's is linear in the number of cooperators: extreme at either end.
        others = num_agents - 1
        one_cooperates = temptation + (others - 1) * punishment - others * sucker
        one_defects = others * temptation - (others - 1) * reward - sucker
        return max(abs(one_cooperates), abs(one_defects)) / others
    of_one_pair = abs(temptation - sucker)
    if num_agents == 2:
        return of_one_pair
    idle = 0.0
    if matching == "random_matching" and num_agents > 3:  # two agents of different pairs, each with any outcome
        paid = [*outcomes, idle] if num_agents % 2 else outcomes
        return max(paid) - min(paid)
    return max(of_one_pair, *(abs(outcome - idle) for outcome in outcomes))


def rank_note(of_trials: Iterable[tuple[str, RankMobility]]) -> str | None:
    """Return a line on the scenarios whose ranks cannot move, or move only while agents are level.

    Args:
      of_trials: the scenario of each trial, and what its own settings allow.

    Returns:
      `p-base: ranks never change (…); begin a new study with p-contest`; None if ranks can move in all trials.
    """
    by_scenario: dict[str, list[RankMobility]] = {}
    for scenario, mobility in of_trials:
        by_scenario.setdefault(scenario, []).append(mobility)
    alike: dict[str, list[str]] = {}
    for scenario, trials in by_scenario.items():
        for verdict, what in _FIXED.items():
            fixed = [mobility for mobility in trials if mobility.can_move is verdict]
            if fixed:
                where = "" if len(fixed) == len(trials) else f" in {len(fixed):,} of {len(trials):,} trials"
                alike.setdefault(f"{what}{where} ({_reason(fixed)})", []).append(scenario)
    if not alike:
        return None
    return "; ".join([*(f"{', '.join(names)}: {text}" for text, names in alike.items()), _ADVICE])


_FIXED: Final = {
    Mobility.NO: "ranks never change",
    Mobility.WHILE_LEVEL: "ranks change only while agents are level",
}
_ADVICE: Final = f"begin a new study with {NEW_STUDY}"


def _reason(trials: Iterable[RankMobility]) -> str:
    worth, gap = zip(*((one.place_worth, one.payoff_gap) for one in trials), strict=True)
    return f"a place is worth {_span(worth)} per step, payoffs differ by at most {_span(gap)}"


def _span(values: tuple[float, ...]) -> str:
    low, high = f"{min(values):.4g}", f"{max(values):.4g}"
    return low if low == high else f"{low} to {high}"
