"""A plain-NumPy rewrite of the game steps beside it; it takes from the game only what chance decided."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import numpy as np
import pytest

from jax_party.env.env import JaxParty
from jax_party.env.matching import round_robin_schedule
from jax_party.env.settings import FEATURES

C, D, NOOP = 0, 1, 2
STEPS = 300
PAYOFF = {"reward": 3.0, "sucker": -1.0, "temptation": 5.0, "punishment": 0.5}


class Reference:
    """The game by loops and dictionaries, in float64."""

    def __init__(self, settings: Any) -> None:
        self.settings = settings
        self.n = settings.num_agents
        self.step_count = 0
        self.totals = [0.0] * self.n
        self.payoff_totals = [0.0] * self.n
        self.last: dict[tuple[int, int], int] = {}

    def payoff_of(self, mine: int, theirs: int) -> float:
        p = self.settings.payoff
        payoffs = {(C, C): p.reward, (C, D): p.sucker, (D, C): p.temptation, (D, D): p.punishment}
        return float(payoffs[mine, theirs])

    def step(self, played: list[int], pairs: list[tuple[int, int]], ranks: list[int]) -> dict[str, Any]:
        payoff = [0.0] * self.n
        counts = {"cc": 0, "cd": 0, "dd": 0}
        for i, j in pairs:
            if NOOP in (played[i], played[j]):
                continue
            payoff[i] += self.payoff_of(played[i], played[j])
            payoff[j] += self.payoff_of(played[j], played[i])
            counts["cd" if played[i] != played[j] else "cc" if played[i] == C else "dd"] += 1
            self.last[i, j], self.last[j, i] = played[i], played[j]
        if self.settings.matching == "all_pairs":
            payoff = [p / (self.n - 1) for p in payoff]
        b = self.settings.rank_reward
        reward = [p + b - 2 * b * rank / (self.n - 1) for p, rank in zip(payoff, ranks, strict=True)]
        self.step_count += 1
        self.totals = [t + r for t, r in zip(self.totals, reward, strict=True)]
        self.payoff_totals = [t + p for t, p in zip(self.payoff_totals, payoff, strict=True)]
        return {
            **counts,
            "payoff": payoff,
            "reward": reward,
            "welfare": sum(payoff),
            "cooperations": played.count(C),
            "defections": played.count(D),
        }

    def view(self, i: int, active: list[bool], ranks: list[int]) -> list[float]:
        order = [(i + k) % self.n for k in range(self.n)]
        scale = max(self.step_count, 1) if self.settings.totals_scale == "per_step" else 1
        row: list[float] = []
        for feature in FEATURES:
            if feature not in self.settings.observe:
                continue
            if feature == "active":
                row += [float(active[j]) for j in order]
            elif feature == "totals":
                row += [self.totals[j] / scale for j in order]
            elif feature == "ranks":
                row += [float(ranks[j]) for j in order]
            elif feature == "memory":
                for j in order[1:]:
                    kinds = [(C, C), (C, D), (D, C), (D, D), (None, None)]
                    row += [float(kind == (self.last.get((i, j)), self.last.get((j, i)))) for kind in kinds]
            else:
                row.append(self.step_count / self.settings.time_limit)
        return row


def pairs_of(meeting: np.ndarray) -> list[tuple[int, int]]:
    return [(i, j) for i, j in combinations(range(len(meeting)), 2) if meeting[i, j]]


def assert_meetings_fit(matching: str, num_agents: int, pairs: list[tuple[int, int]]) -> None:
    players = [agent for pair in pairs for agent in pair]
    if matching == "all_pairs":
        assert pairs == list(combinations(range(num_agents), 2))
    else:
        assert len(players) == len(set(players))
        assert len(pairs) == (num_agents // 2 if matching == "random_matching" else 1)


def executed(states: Any, t: int, action: np.ndarray) -> list[int]:
    """What agents played after noise, as their memory has it (if all others forfeit, it has nothing)."""
    active, meeting, memory = states.active[t], states.meeting[t], states.last_meeting[t + 1]
    sends = active & np.isin(action, (C, D))
    played = [NOOP] * len(action)
    for i in np.flatnonzero(sends):
        seen = [int(memory[i, j]) for j in np.flatnonzero(meeting[i] & sends)]
        assert len(set(seen)) <= 1
        played[i] = seen[0] if seen else int(action[i])
    return played


@pytest.mark.parametrize("action_noise", [0.0, 0.3])
@pytest.mark.parametrize(
    ("matching", "num_agents", "rank_by", "totals_scale"),
    [
        ("random_pair", 3, "total", "per_step"),
        ("round_robin", 4, "total", "raw"),
        ("random_matching", 5, "payoff", "per_step"),
        ("all_pairs", 2, "payoff", "raw"),
        ("all_pairs", 4, "total", "per_step"),
    ],
)
def test_game_agrees_with_reference(
    play: Any, matching: str, num_agents: int, rank_by: str, totals_scale: str, action_noise: float
) -> None:
    env = JaxParty(
        num_agents=num_agents,
        time_limit=STEPS,
        payoff=PAYOFF,
        rank_reward=7.0,
        rank_by=rank_by,
        matching=matching,
        observe=FEATURES,
        totals_scale=totals_scale,
        action_noise=action_noise,
    )
    # C and D mostly, some forfeits, and some numbers that are no action at all.
    rng = np.random.default_rng(num_agents)
    actions = rng.choice([C, D, NOOP, 7, -1], p=[0.45, 0.4, 0.1, 0.03, 0.02], size=(STEPS, num_agents)).astype(np.int32)
    states, _, timesteps = play(env, actions)
    metrics = timesteps.extras["metrics"]
    reference = Reference(env.settings)
    flips = 0
    for t in range(STEPS):
        pairs = pairs_of(states.meeting[t])
        assert_meetings_fit(matching, num_agents, pairs)
        players = {agent for pair in pairs for agent in pair}
        assert set(np.flatnonzero(states.active[t])) == players
        mask = [[i in players, i in players, i not in players] for i in range(num_agents)]
        np.testing.assert_array_equal(states.action_mask[t], mask)

        played = executed(states, t, actions[t])
        sent = [a if a in (C, D) and i in players else NOOP for i, a in enumerate(actions[t].tolist())]
        flips += sum(a != b for a, b in zip(sent, played, strict=True))
        assert action_noise > 0.0 or played == sent
        expected = reference.step(played, pairs, states.ranks[t].tolist())

        for name in ("cc", "cd", "dd"):
            assert metrics[name][t] == expected[name]
        acted = sum(action != NOOP for action in played)
        assert metrics["cooperations"][t] + metrics["defections"][t] == acted
        if action_noise == 0.0:
            assert metrics["cooperations"][t] == expected["cooperations"]
        for name in ("payoff", "reward", "welfare"):
            np.testing.assert_allclose(metrics[name][t], expected[name], rtol=1e-5, atol=1e-5)
        np.testing.assert_array_equal(timesteps.reward[t], metrics["reward"][t])

        np.testing.assert_allclose(states.totals[t + 1], reference.totals, rtol=1e-4, atol=1e-3)
        np.testing.assert_allclose(states.payoff_totals[t + 1], reference.payoff_totals, rtol=1e-4, atol=1e-3)
        ranks = states.ranks[t + 1]
        scores = states.totals[t + 1] if rank_by == "total" else states.payoff_totals[t + 1]
        assert sorted(ranks) == list(range(num_agents))
        assert (np.diff(scores[np.argsort(ranks)]) <= 0).all()
        leads = [int(np.argmin(states.ranks[u])) for u in (t, t + 1)]
        assert metrics["leader_changed"][t] == (leads[0] != leads[1])
        assert np.flatnonzero(metrics["leader"][t]).tolist() == [leads[1]]

        observation = timesteps.observation
        for i in range(num_agents):
            row = reference.view(i, states.active[t + 1].tolist(), ranks.tolist())
            np.testing.assert_allclose(observation.agents_view[t, i], row, rtol=1e-4, atol=1e-3)
        np.testing.assert_array_equal(observation.action_mask[t], states.action_mask[t + 1])
        assert (observation.step_count[t] == t + 1).all()
    if action_noise == 0.0:
        assert flips == 0
    else:
        noisy = flips / max(np.isin(actions, (C, D))[states.active[:-1]].sum(), 1)
        assert 0.15 < noisy < 0.4


@pytest.mark.parametrize("num_agents", [2, 3, 4, 5, 8, 11])
def test_round_robin_schedule_holds_each_pair_once(num_agents: int) -> None:
    schedule = round_robin_schedule(num_agents)
    assert sorted(schedule) == list(combinations(range(num_agents), 2))
    a_round = num_agents // 2
    for start in range(0, len(schedule), a_round):
        players = [agent for pair in schedule[start : start + a_round] for agent in pair]
        assert len(players) == len(set(players))


def test_round_robin_goes_round(play: Any) -> None:
    env = JaxParty(num_agents=4, matching="round_robin")
    meetings = play(env, np.zeros((17, 4), np.int32)).states.meeting
    cycle = [[(0, 3)], [(1, 2)], [(0, 2)], [(1, 3)], [(0, 1)], [(2, 3)]]
    assert [pairs_of(meeting) for meeting in meetings] == cycle * 3
