"""A vault's data card: its contents in numbers, as text and as Markdown."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from results.vaults.episode_bounds import Episode, episodes, returns
from results.vaults.store import Vault

BINS: Final = 10
SHOWN_JOINT_ACTIONS: Final = 12
_GAME_LETTERS: Final = ("C", "D", "-")
_BAR: Final = 30


def card(vault: Vault, decimals: int = 2) -> dict[str, Any]:
    """Return the data card of a vault.

    Joint state-action coverage counts the distinct pairs of joint observation (all agents' views, rounded to
    `decimals`) and joint action, divided by the number of steps: 1 if no pair repeats. The count of unique pairs is
    that of SACo (Schweighofer et al. 2022, arXiv:2111.04714), over joint observations and actions; unlike there, it is
    not divided by the count of a reference data set.

    Args:
      vault: read once, in blocks.
      decimals: to which observations are rounded for coverage.

    Returns:
      JSON types: `uid`, `trial_id`, `kind`, `seed`, `algorithm`, `environment`, `scenario`, `rows`, `steps`,
      `transitions`, `agents`, `fields`, `bytes`, `stride`, `episodes`, `returns`, `actions`, `joint_actions`,
      `coverage`; also `cooperation_rate` if the game is JaxParty.
    """
    found = episodes(vault)
    config = vault.config
    played = _inside(vault, found)
    counted = _Counts(vault, decimals)
    for first, block in vault.blocks(["action", "observation"]):
        length = block["action"].shape[1]
        counted.add(block["action"], block["observation"], played[:, first : first + length])
    env = config.get("env", {})
    told = {
        "uid": vault.uid,
        "trial_id": vault.trial_id,
        "kind": vault.kind,
        "seed": vault.metadata.get("seed"),
        "algorithm": config.get("logger", {}).get("system_name"),
        "environment": env.get("env_name"),
        "scenario": env.get("scenario", {}).get("task_name"),
        "rows": vault.rows,
        "steps": vault.steps,
        "transitions": int(played.sum()),
        "agents": vault.num_agents,
        "fields": {name: f"{spec.dtype.name} {list(spec.shape)}" for name, spec in vault.fields.items()},
        "bytes": sum(path.stat().st_size for path in vault.path.rglob("*") if path.is_file()),
        "stride": int(vault.metadata.get("stride") or 1),
        "episodes": _lengths(found),
        "returns": _returns(vault, found),
    }
    return told | counted.summary(is_game=env.get("env_name") == "JaxParty")


class _Counts:
    """Counts of actions and of joint observation-action pairs, added block by block."""

    def __init__(self, vault: Vault, decimals: int) -> None:
        self._decimals = decimals
        self._num_actions = vault.spec("legal_action_mask").shape[-1] if "legal_action_mask" in vault.fields else 0
        self._by_agent = [Counter[int]() for _ in range(vault.num_agents)]
        self._joint: Counter[tuple[int, ...]] = Counter()
        self._pairs: set[int] = set()
        self._observations: set[int] = set()
        self._steps = 0

    def add(self, action: NDArray[Any], observation: NDArray[Any], played: NDArray[Any]) -> None:
        """Count the steps of (rows, steps, …) arrays at which `played` is set."""
        actions = action[played].astype(np.int64)
        if not len(actions):
            return
        for agent, counter in enumerate(self._by_agent):
            values, numbers = np.unique(actions[:, agent], return_counts=True)
            counter.update(dict(zip(values.tolist(), numbers.tolist(), strict=True)))
        joint, numbers = np.unique(actions, axis=0, return_counts=True)
        self._joint.update(dict(zip(map(tuple, joint.tolist()), numbers.tolist(), strict=True)))
        seen = np.rint(observation[played].astype(np.float64).reshape(len(actions), -1) * 10**self._decimals)
        views = seen.astype(np.int64)
        self._observations.update(_hashes(views).tolist())
        self._pairs.update(_hashes(np.concatenate([views, actions], axis=1)).tolist())
        self._steps += len(actions)

    def summary(self, is_game: bool) -> dict[str, Any]:
        """Return the counts as entries of the card."""
        most = max(self._num_actions, *(max(counter, default=-1) + 1 for counter in self._by_agent))
        names = [_name(action, is_game) for action in range(most)]
        by_agent = [{name: counter.get(action, 0) for action, name in enumerate(names)} for counter in self._by_agent]
        shown = self._joint.most_common(SHOWN_JOINT_ACTIONS)
        told: dict[str, Any] = {
            "actions": by_agent,
            "joint_actions": {
                "distinct": len(self._joint),
                "most_common": {" ".join(_name(action, is_game) for action in joint): n for joint, n in shown},
            },
            "coverage": {
                "decimals": self._decimals,
                "joint_observations": len(self._observations),
                "joint_pairs": len(self._pairs),
                "pairs_per_step": len(self._pairs) / self._steps if self._steps else None,
            },
        }
        if is_game:
            played = [sum(one.get(name, 0) for one in by_agent) for name in ("C", "D")]
            told["cooperation_rate"] = played[0] / sum(played) if sum(played) else None
        return told


def text(told: Mapping[str, Any]) -> str:
    """Return a card as text for the terminal."""
    return "\n".join([f"{told['uid']}", *(f"  {label:<18} {value}" for label, value in _facts(told)),
                      "  returns of whole episodes, mean over agents:",
                      *(f"    {line}" for line in _histogram(told["returns"].get("histogram")))]) + "\n"  # fmt: skip


def markdown(told: Mapping[str, Any]) -> str:
    """Return a card as a Markdown file."""
    facts = [f"| {label} | {value} |" for label, value in _facts(told)]
    actions = list(told["actions"][0])
    counts = [f"| agent {agent} | " + " | ".join(f"{n:,}" for n in one.values()) + " |"
              for agent, one in enumerate(told["actions"])]  # fmt: skip
    joint = [f"| {name} | {n:,} |" for name, n in told["joint_actions"]["most_common"].items()]
    fields = [f"| `{name}` | {described} |" for name, described in told["fields"].items()]
    parts = [
        [f"# {told['uid']}"],
        ["| | |", "|---|---|", *facts],
        ["## Returns", "", "Of whole episodes, mean over agents.", "", "```",
         *_histogram(told["returns"].get("histogram")), "```"],
        ["## Actions", "", "| | " + " | ".join(actions) + " |", "|---|" + "---:|" * len(actions), *counts],
        ["## Joint actions", "", f"{told['joint_actions']['distinct']} different ones; the most common:", "",
         "| joint action | steps |", "|---|---:|", *joint],
        ["## Fields", "", "| field | dtype and shape of a step |", "|---|---|", *fields],
    ]  # fmt: skip
    return "\n\n".join("\n".join(part) for part in parts) + "\n"


def _facts(told: Mapping[str, Any]) -> list[tuple[str, str]]:
    of_episodes, scores, coverage = told["episodes"], told["returns"], told["coverage"]
    facts = [
        ("trial", f"{told['trial_id']}" + ("" if told["seed"] is None else f", seed {told['seed']}")),
        ("what", " ".join(str(told[name]) for name in ("algorithm", "environment", "scenario", "kind") if told[name])),
        ("size", f"{told['rows']} environments × {told['steps']:,} steps, {told['transitions']:,} transitions of "
                 f"{told['agents']} agents, {told['bytes'] / 2**20:,.1f} MiB"),
        ("episodes", f"{of_episodes['total']:,}, {of_episodes['whole']:,} of them whole"
                     + (f", of {of_episodes['min_length']} to {of_episodes['max_length']} steps"
                        if of_episodes["whole"] else "")),
    ]  # fmt: skip
    if told["stride"] > 1:
        facts.append(("thinned", f"every {told['stride']} steps: returns are of the steps that were kept"))
    if scores["mean"] is not None:
        facts.append(
            ("return", f"{scores['mean']:.4g} ± {scores['std']:.4g}, {scores['min']:.4g} to {scores['max']:.4g}")
        )
        facts.append(("return by agent", ", ".join(f"{value:.4g}" for value in scores["by_agent"])))
    if told.get("cooperation_rate") is not None:
        facts.append(("cooperation rate", f"{told['cooperation_rate']:.4f}"))
    totals = Counter[str]()
    for one in told["actions"]:
        totals.update(one)
    facts.append(("actions", ", ".join(f"{name} {number:,}" for name, number in totals.items())))
    share = coverage["pairs_per_step"]
    facts.append(("joint coverage", f"{coverage['joint_pairs']:,} different pairs of joint observation and action"
                  + ("" if share is None else f", {share:.3f} per step")))  # fmt: skip
    return facts


def _histogram(histogram: Mapping[str, Any] | None) -> list[str]:
    if not histogram:
        return ["no whole episode"]
    edges, counts = histogram["edges"], histogram["counts"]
    most = max(counts)
    return [
        f"{low:>12.5g} … {high:<12.5g} {count:>7,} {'█' * round(_BAR * count / most)}".rstrip()
        for low, high, count in zip(edges[:-1], edges[1:], counts, strict=True)
    ]


def _lengths(found: Sequence[Episode]) -> dict[str, Any]:
    lengths = [one.length for one in found if one.whole]
    return {
        "total": len(found),
        "whole": len(lengths),
        "min_length": min(lengths, default=None),
        "mean_length": float(np.mean(lengths)) if lengths else None,
        "max_length": max(lengths, default=None),
    }


def _returns(vault: Vault, found: Sequence[Episode]) -> dict[str, Any]:
    whole = [one for one in found if one.whole]
    if not whole:
        return dict.fromkeys(("mean", "std", "min", "median", "max", "by_agent", "histogram"))
    totals = returns(vault, whole)
    means = totals.mean(axis=1)
    counts, edges = np.histogram(means, bins=BINS)
    return {
        "mean": float(means.mean()),
        "std": float(means.std(ddof=1)) if len(means) > 1 else 0.0,
        "min": float(means.min()),
        "median": float(np.median(means)),
        "max": float(means.max()),
        "by_agent": totals.mean(axis=0).tolist(),
        "histogram": {"edges": edges.tolist(), "counts": counts.tolist()},
    }


def _inside(vault: Vault, found: Sequence[Episode]) -> NDArray[np.bool_]:
    """Return (rows, steps): whether a step belongs to an episode and does not follow a test episode's end."""
    inside = np.zeros((vault.rows, vault.steps), bool)
    for one in found:
        inside[one.env, one.start : one.stop] = True
    return inside


def _hashes(rows: NDArray[np.int64]) -> NDArray[np.uint64]:
    """Return a 64-bit hash of each row: among a million distinct rows, any two collide with probability 3e-8."""
    draw = np.random.default_rng(0)
    factors = draw.integers(0, 2**64, (2, rows.shape[1]), np.uint64) | np.uint64(1)
    unsigned = rows.view(np.uint64)
    low, high = ((unsigned * factor).sum(axis=1, dtype=np.uint64) for factor in factors)
    return low ^ (high >> np.uint64(29)) * np.uint64(0x9E3779B97F4A7C15)


def _name(action: int, is_game: bool) -> str:
    return _GAME_LETTERS[action] if is_game and action < len(_GAME_LETTERS) else str(action)


__all__ = ["card", "markdown", "text"]
