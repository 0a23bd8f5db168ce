"""Whether ranks can move: the rule against all play of small games, against play in every scenario, and in the docs."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from fractions import Fraction
from functools import cache
from itertools import combinations, groupby, permutations, product
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from jax_party.env.env import JaxParty
from jax_party.env.matching import round_robin_schedule
from jax_party.env.rank_mobility import NEW_STUDY, Mobility, RankMobility, mobility_in, rank_mobility, rank_note
from jax_party.env.settings import MATCHINGS

ROOT = Path(__file__).parents[2]
SCENARIOS = {
    path.stem: yaml.safe_load(path.read_text())["task_config"]
    for path in sorted((ROOT / "mava_configs" / "env" / "scenario").glob("p-*.yaml"))
}
C, D = 0, 1
Scores = tuple[Fraction, ...]

# -- The rule against every play of small games, in exact numbers ------------------------------------------------------


def config(payoffs: tuple[int, ...], num_agents: int, matching: str) -> dict[str, Any]:
    payoff = dict(zip(("reward", "sucker", "temptation", "punishment"), payoffs, strict=True))
    return {"num_agents": num_agents, "payoff": payoff, "rank_reward": 0.0, "rank_by": "total", "matching": matching}


def meetings(matching: str, num_agents: int, step: int) -> Iterator[list[tuple[int, int]]]:
    """Every set of pairs that may meet at a step."""
    pairs = list(combinations(range(num_agents), 2))
    if matching == "all_pairs":
        yield pairs
    elif matching == "round_robin":
        yield [round_robin_schedule(num_agents)[step % len(pairs)]]
    else:
        size = 1 if matching == "random_pair" else num_agents // 2
        for chosen in combinations(pairs, size):
            if len({agent for pair in chosen for agent in pair}) == 2 * size:
                yield list(chosen)


def payoffs_at(game: dict[str, Any], step: int) -> set[Scores]:
    """What a step may pay the agents."""
    num_agents, p = game["num_agents"], game["payoff"]
    pays = {(C, C): p["reward"], (C, D): p["sucker"], (D, C): p["temptation"], (D, D): p["punishment"]}
    found = set()
    for pairs in meetings(game["matching"], num_agents, step):
        for actions in product((C, D), repeat=num_agents):
            paid = [Fraction(0)] * num_agents
            for i, j in pairs:
                paid[i] += pays[actions[i], actions[j]]
                paid[j] += pays[actions[j], actions[i]]
            found.add(tuple(one / (num_agents - 1 if game["matching"] == "all_pairs" else 1) for one in paid))
    return found


@given(
    st.tuples(*[st.integers(-3, 5)] * 4),
    st.integers(2, 5),
    st.sampled_from(MATCHINGS),
)
@settings(max_examples=200, deadline=None)
def test_payoffs_differ_by_at_most_what_it_says(payoffs: tuple[int, ...], num_agents: int, matching: str) -> None:
    game = config(payoffs, num_agents, matching)
    steps = num_agents * (num_agents - 1) // 2 if matching == "round_robin" else 1
    gap = max(max(paid) - min(paid) for step in range(steps) for paid in payoffs_at(game, step))
    assert rank_mobility(game).payoff_gap == pytest.approx(float(gap))


def orders_of(scores: Scores) -> Iterator[tuple[int, ...]]:
    """Every order by score, of equal scores each."""
    agents = sorted(range(len(scores)), key=lambda agent: -scores[agent])
    level = [list(of_score) for _, of_score in groupby(agents, key=lambda agent: scores[agent])]
    for parts in product(*map(permutations, level)):
        yield tuple(agent for part in parts for agent in part)


def changes(game: dict[str, Any], steps: int) -> tuple[list[bool], bool]:
    """Play every game of so many steps.

    Returns:
      Of each step whether it can change the order, and whether an agent that led was ever overtaken.
    """
    num_agents = game["num_agents"]
    b = Fraction(game["rank_reward"]).limit_denominator(1000) if game["rank_by"] == "total" else Fraction(0)
    of_place = [b - 2 * b * place / (num_agents - 1) for place in range(num_agents)]
    level = (Fraction(0),) * num_agents
    reached = {(level, order) for order in permutations(range(num_agents))}
    if game["matching"] != "round_robin":  # which agent is called what makes no difference
        reached = {(level, tuple(range(num_agents)))}
    changed, overtaken = [], False
    for step in range(steps):
        then: set[tuple[Scores, tuple[int, ...]]] = set()
        changed.append(False)
        paid_at = payoffs_at(game, step)
        for scores, order in reached:
            for paid in paid_at:
                grown = tuple(scores[i] + paid[i] + of_place[order.index(i)] for i in range(num_agents))
                for later in orders_of(grown):
                    then.add((grown, later))
                    if later != order:
                        changed[-1] = True
                        overtaken |= any(
                            scores[i] > scores[j] and later.index(i) > later.index(j)
                            for i, j in permutations(range(num_agents), 2)
                        )
        reached = then
    return changed, overtaken


@st.composite
def games(draw: st.DrawFn) -> dict[str, Any]:
    game = config(draw(st.tuples(*[st.integers(-2, 5)] * 4)), draw(st.integers(2, 4)), draw(st.sampled_from(MATCHINGS)))
    gap = rank_mobility(game).payoff_gap
    worth = draw(st.one_of(st.integers(-2, 9), st.sampled_from([gap, gap - 1 / 3, gap + 1 / 3])))
    b = Fraction(worth).limit_denominator(12) * (game["num_agents"] - 1) / 2
    return {**game, "rank_reward": float(b), "rank_by": draw(st.sampled_from(["total", "total", "payoff"]))}


@given(games())
@settings(max_examples=100, deadline=None)
def test_rule_agrees_with_every_play_of_small_games(game: dict[str, Any]) -> None:
    mobility = rank_mobility(game)
    changed, overtaken = changes(game, steps=3 if game["num_agents"] < 4 and game["matching"] != "all_pairs" else 2)
    if mobility.can_move is Mobility.NO:
        assert not any(changed)
    elif mobility.can_move is Mobility.WHILE_LEVEL:
        assert changed[0] and not overtaken
    else:
        assert changed[0]
        assert overtaken or mobility.place_worth <= 0 or game["matching"] == "round_robin"
    if mobility.can_move is not Mobility.NO and game["matching"] != "round_robin":
        assert all(changed), "after the first step, too"


# -- The rule against play in every scenario ---------------------------------------------------------------------------

STEPS, EPISODES = 40, 256


@cache
def episodes(num_agents: int, matching: str, rank_by: str) -> Any:
    """Episodes of chance mixed with play that is to change ranks: who is behind defects, who is ahead cooperates."""
    game = JaxParty(num_agents, STEPS, matching=matching, rank_by=rank_by, observe=["ranks"])

    def play(params: Any, key: jax.Array, daring: jax.Array) -> Any:
        env = game.with_params(params)
        reset_key, play_key = jax.random.split(key)
        first, _ = env.reset(reset_key)

        def step(state: Any, step_key: jax.Array) -> Any:
            coin_key, dare_key = jax.random.split(step_key)
            behind = jnp.any(state.meeting & (state.ranks[None, :] < state.ranks[:, None]), axis=1)
            coins = jax.random.bernoulli(coin_key, shape=(num_agents,))
            dares = jax.random.bernoulli(dare_key, daring)
            state, _ = env.step(state, jnp.where(dares, behind, coins).astype(jnp.int32))
            return state, (state.ranks, state.totals, state.payoff_totals)

        _, (ranks, totals, payoffs) = jax.lax.scan(step, first, jax.random.split(play_key, STEPS))
        return jnp.concatenate([first.ranks[None], ranks]), totals if rank_by == "total" else payoffs

    return jax.jit(jax.vmap(play, in_axes=(None, 0, 0)))


@pytest.mark.parametrize("name", SCENARIOS)
def test_ranks_move_in_play_as_the_rule_says(name: str) -> None:
    game = SCENARIOS[name]
    env = JaxParty(**game)
    run = episodes(game["num_agents"], game["matching"], game["rank_by"])
    daring = jnp.asarray([0.0, 0.5, 0.9, 1.0] * (EPISODES // 4))
    ranks, scores = map(np.asarray, run(env.params, jax.random.split(jax.random.key(0), EPISODES), daring))
    changed = (ranks[:, 1:] != ranks[:, :-1]).any(axis=2)
    verdict = rank_mobility(game).can_move
    if verdict is Mobility.NO:
        assert not changed.any(), "not even in the first step"
        return
    assert changed[:, 1:].any(), "after the first step"
    led = scores[:, :-1, :, None] > scores[:, :-1, None, :]
    behind_then = ranks[:, 2:, :, None] > ranks[:, 2:, None, :]
    assert (led & behind_then).any() == (verdict is Mobility.YES), "whether a lead was made up"


@pytest.mark.parametrize(
    ("name", "changed", "mobility"),
    [
        ("p-base", {}, (10.0, 5.0, "no")),
        ("p-base", {"rank_reward": 5.0}, (5.0, 5.0, "while level")),
        ("p-base", {"rank_reward": 4.9}, (4.9, 5.0, "yes")),
        ("p-base", {"rank_reward": 0.0}, (0.0, 5.0, "yes")),
        ("p-base", {"rank_reward": -10.0}, (-10.0, 5.0, "yes")),
        ("p-base", {"rank_by": "payoff"}, (0.0, 5.0, "yes")),
        ("p-base", {"num_agents": 2}, (20.0, 5.0, "no")),
        ("p-stag-hunt", {}, (10.0, 4.0, "no")),  # 3 within a pair, 4 over the idle agent
        ("p-5", {}, (5.0, 5.0, "while level")),
        ("p-10", {}, (20 / 9, 5.0, "yes")),
    ],
)
def test_rule_by_hand(name: str, changed: dict[str, Any], mobility: tuple[float, float, str]) -> None:
    found = rank_mobility({**SCENARIOS[name], **changed})
    assert (found.place_worth, found.payoff_gap, found.can_move) == mobility


def test_only_whole_scenarios_of_this_game_are_judged() -> None:
    task_config = SCENARIOS["p-base"]
    assert mobility_in({"name": "JaxParty-v0", "task_config": task_config}) == rank_mobility(task_config)
    assert mobility_in({"name": "Connector-v3", "task_config": {"grid_size": 5, "num_agents": 3}}) is None
    for name in ("num_agents", "payoff", "rank_reward", "rank_by", "matching"):
        lacking = {key: value for key, value in task_config.items() if key != name}
        assert mobility_in({"name": "JaxParty-v0", "task_config": lacking}) is None
    assert mobility_in({}) is None


def test_rule_needs_no_jax() -> None:
    code = "import sys, jax_party.env.rank_mobility; sys.exit('jax' in sys.modules or 'jumanji' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# -- What is said of it ------------------------------------------------------------------------------------------------


def test_note_names_scenarios_whose_ranks_cannot_move() -> None:
    def note(*names: str) -> str | None:
        return rank_note((name, rank_mobility(SCENARIOS[name])) for name in names)

    base = "ranks never change (a place is worth 10 per step, payoffs differ by at most 5)"
    assert note("p-base") == f"p-base: {base}; begin a new study with p-contest"
    assert (
        note("p-base", "p-short", "p-base", "p-contest") == f"p-base, p-short: {base}; begin a new study with p-contest"
    )
    assert note("p-5", "p-stag-hunt") == (
        "p-5: ranks change only while agents are level (a place is worth 5 per step, payoffs differ by at most 5); "
        "p-stag-hunt: ranks never change (a place is worth 10 per step, payoffs differ by at most 4); "
        "begin a new study with p-contest"
    )
    assert note("p-contest", "p-no-rank", "p-10", "p-rank-1") is None
    assert note() is None


def test_note_counts_trials_that_differ_in_the_games_settings() -> None:
    trials = [("p-base", RankMobility(worth, 5.0)) for worth in (1.0, 6.0, 10.0)]
    assert rank_note(trials) == (
        "p-base: ranks never change in 2 of 3 trials (a place is worth 6 to 10 per step, payoffs differ by at most 5); "
        "begin a new study with p-contest"
    )


def test_docs_say_of_every_scenario_whether_ranks_can_move() -> None:
    text = (ROOT / "docs" / "environment.md").read_text()
    table = text[text.index("## Scenarios") :].split("\n## ")[0]
    said = {
        name: row[1]
        for line in table.splitlines()
        if line.startswith("| `p-")
        for row in [[cell.strip() for cell in line.strip("|").split("|")]]
        for name in re.findall(r"`(p-[\w-]+)`", row[0])
    }
    assert said == {name: str(rank_mobility(game).can_move) for name, game in SCENARIOS.items()}


@pytest.mark.parametrize("name", SCENARIOS)
def test_scenario_files_say_whether_ranks_can_move(name: str) -> None:
    text = (ROOT / "mava_configs" / "env" / "scenario" / f"{name}.yaml").read_text()
    (said,) = re.findall(r"^# Can ranks move\? (\w[\w ]*)[.,:]", text, re.MULTILINE)
    assert said.lower() == rank_mobility(SCENARIOS[name]).can_move


def test_new_study_begins_where_ranks_can_move() -> None:
    assert rank_mobility(SCENARIOS[NEW_STUDY]).can_move is Mobility.YES
    text = (ROOT / "docs" / "environment.md").read_text()
    assert re.search(rf"new study[^.]*`{NEW_STUDY}`", text)
    for page in ("README.md", "docs/sweeps.md"):
        assert "environment.md#scenarios" in (ROOT / page).read_text(), page
