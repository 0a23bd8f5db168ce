"""Metrics: those of each step, and how they are combined for an episode."""

from __future__ import annotations

from typing import NamedTuple

import chex
import jax.numpy as jnp

from jax_party.env.payoffs import Outcome

StepMetrics = dict[str, chex.Array]


def step_metrics(outcome: Outcome, reward: chex.Array, ranks: chex.Array, new_ranks: chex.Array) -> StepMetrics:
    """Return the metrics of one step, as in `timestep.extras["metrics"]`.

    Args:
      outcome: the outcome of the step.
      reward: (N,) float32, payoff + rank reward.
      ranks: (N,) int32 that agents saw when they acted.
      new_ranks: (N,) int32 after the step.

    Returns:
      `cooperations`, `defections`, `cc`, `cd`, `dd` () int32; `welfare` () float32, sum of payoffs;
      `leader_changed` () bool, whether another agent leads after the step than before it; `leader` (N,) bool,
      one-hot, who leads after the step; `payoff`, `reward` (N,) float32.
    """
    return {
        "cooperations": outcome.cooperations,
        "defections": outcome.defections,
        "cc": outcome.cc,
        "cd": outcome.cd,
        "dd": outcome.dd,
        "welfare": jnp.sum(outcome.payoff),
        "leader_changed": jnp.any((ranks == 0) != (new_ranks == 0)),
        "leader": new_ranks == 0,
        "payoff": outcome.payoff,
        "reward": reward,
    }


def no_step_metrics(num_agents: int) -> StepMetrics:
    """Return the metrics of `reset`: the keys, shapes and dtypes of `step_metrics`, all zero (nobody leads)."""
    count, per_agent = jnp.zeros((), jnp.int32), jnp.zeros((num_agents,), jnp.float32)
    return {
        "cooperations": count,
        "defections": count,
        "cc": count,
        "cd": count,
        "dd": count,
        "welfare": jnp.zeros((), jnp.float32),
        "leader_changed": jnp.zeros((), bool),
        "leader": jnp.zeros((num_agents,), bool),
        "payoff": per_agent,
        "reward": per_agent,
    }


class EpisodeTotals(NamedTuple):
    """Step metrics summed over an episode so far."""

    steps: chex.Array  # () int32
    cooperations: chex.Array  # () int32
    defections: chex.Array  # () int32
    cc: chex.Array  # () int32
    cd: chex.Array  # () int32
    dd: chex.Array  # () int32
    welfare: chex.Array  # () float32
    leader_changes: chex.Array  # () int32
    leader_steps: chex.Array  # (N,) int32
    payoff: chex.Array  # (N,) float32


class EpisodeMetrics:
    """How JaxParty's step metrics become episode metrics. A wrapper finds this at `env.episode_metrics`."""

    @staticmethod
    def zero(num_agents: int) -> EpisodeTotals:
        """Return the totals of an episode that has not begun."""
        count = jnp.zeros((), jnp.int32)
        return EpisodeTotals(
            steps=count,
            cooperations=count,
            defections=count,
            cc=count,
            cd=count,
            dd=count,
            welfare=jnp.zeros((), jnp.float32),
            leader_changes=count,
            leader_steps=jnp.zeros((num_agents,), jnp.int32),
            payoff=jnp.zeros((num_agents,), jnp.float32),
        )

    @staticmethod
    def add(totals: EpisodeTotals, metrics: StepMetrics) -> EpisodeTotals:
        """Return the totals with one more step. The metrics of `reset` add nothing and do not count as a step."""
        return EpisodeTotals(
            steps=totals.steps + jnp.sum(metrics["leader"], dtype=jnp.int32),
            cooperations=totals.cooperations + metrics["cooperations"],
            defections=totals.defections + metrics["defections"],
            cc=totals.cc + metrics["cc"],
            cd=totals.cd + metrics["cd"],
            dd=totals.dd + metrics["dd"],
            welfare=totals.welfare + metrics["welfare"],
            leader_changes=totals.leader_changes + metrics["leader_changed"].astype(jnp.int32),
            leader_steps=totals.leader_steps + metrics["leader"].astype(jnp.int32),
            payoff=totals.payoff + metrics["payoff"],
        )

    @staticmethod
    def summarise(totals: EpisodeTotals, num_agents: int) -> dict[str, chex.Array]:
        """Return the metrics of the episode, each () float32.

        Returns:
          `cooperation_rate`: C among the C and D played; `outcome_share_{cc,cd,dd}`: among meetings that took
          place; `welfare_per_step`: sum of payoffs per step; `equality`: 1 - Gini of payoff totals;
          `leader_change_rate`: changes per step; `leader_share_agent_<i>`: share of steps after which agent i led.
          A share of nothing is 0.
        """
        meetings = totals.cc + totals.cd + totals.dd
        summary = {
            "cooperation_rate": _share(totals.cooperations, totals.cooperations + totals.defections),
            "outcome_share_cc": _share(totals.cc, meetings),
            "outcome_share_cd": _share(totals.cd, meetings),
            "outcome_share_dd": _share(totals.dd, meetings),
            "welfare_per_step": _share(totals.welfare, totals.steps),
            "equality": equality(totals.payoff),
            "leader_change_rate": _share(totals.leader_changes, totals.steps),
        }
        shares = _share(totals.leader_steps, totals.steps)
        return summary | {f"leader_share_agent_{i}": shares[i] for i in range(num_agents)}


def equality(payoff_totals: chex.Array) -> chex.Array:
    """Return 1 - Gini of (N,) payoff totals, () float32 in [0, 1]; 1 when all are 0.

    Gini = sum_ij |x_i - x_j| / (2 N sum_i |x_i|). For totals of one sign this is the usual coefficient; the
    absolute values in the denominator keep it in [0, 1] when losses and gains are mixed.
    """
    num_agents = payoff_totals.shape[0]
    size = jnp.sum(jnp.abs(payoff_totals))
    spread = jnp.sum(jnp.abs(payoff_totals[:, None] - payoff_totals[None, :]))
    gini = spread / jnp.where(size > 0, 2.0 * num_agents * size, 1.0)
    return jnp.clip(1.0 - gini, 0.0, 1.0)


def _share(part: chex.Array, whole: chex.Array) -> chex.Array:
    return part.astype(jnp.float32) / jnp.maximum(whole, 1).astype(jnp.float32)
