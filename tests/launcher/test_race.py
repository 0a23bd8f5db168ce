"""A race of winners: rounds on common seeds, derived from the folders, so that a kill costs nothing."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from jax_party.errors import SweepError
from jax_party.judging.intervals import interval
from jax_party.judging.seeds import fresh_seeds
from jax_party.trial.folder import read_record, update_record
from jax_party.trial.identity import configuration_id
from jax_party.trial.record import TrialRecord
from jax_party.trial.states import State
from launcher import sweep as command
from launcher.ask.parsing import parse_promote_options
from launcher.ask.requested import PromoteOptions
from launcher.commands.race import run_race
from launcher.commands.winners import Winner, show_promotions, winners, write_promotions
from launcher.plan.sweep import Sweep
from results.collector.write import write_index
from results.tables import load_index
from tests.launcher.drivers import ROOT, sweep_folder
from tests.launcher.test_promote import end, make_sweep

SEEDS = fresh_seeds("sweep-1")
QUALITY = {0: 0.0, 1: 10.0, 2: 9.9, 3: 4.0}
Score = Callable[[TrialRecord, int], float]


def close_and_poor(record: TrialRecord, seed: int) -> float:
    """By the configuration that is tested: 1 and 2 cannot be told apart, 0 and 3 are worse on every seed."""
    noise = np.random.default_rng([seed, record.number if record.promoted_from is None else 7]).normal()
    return QUALITY[tuned_number(record)] + (0.3 if (seed + tuned_number(record)) % 2 else 0.0) + float(noise)


def tuned_number(record: TrialRecord) -> int:
    return int(record.hyperparameters["number"])


class Rounds:
    """Drives a race without Ray: trials that are to be run get their scores at once."""

    def __init__(self, folder: Path, score: Score = close_and_poor, killed_after: int | None = None) -> None:
        self.sweep = Sweep.read(folder)
        self.screen = Console(file=io.StringIO(), width=400)
        self.played: list[list[TrialRecord]] = []
        self.fail: set[tuple[int, int]] = set()
        self._score, self._left = score, killed_after

    def __call__(self, options: PromoteOptions) -> int:
        return run_race(self.sweep, options, self.screen, self._drive)

    def _drive(self, prepare: Callable[[], None]) -> int:
        prepare()
        round_ = [record for record in self.sweep.records.values() if record.state is State.PENDING]
        self.played.append(round_)
        for record in round_:
            if self._left == 0:
                raise KeyboardInterrupt
            self._left = None if self._left is None else self._left - 1
            seeds = range(record.seed, record.seed + record.num_seeds)
            failed = (tuned_number(record), record.seed) in self.fail
            end(self.sweep.folder / record.trial_id, [] if failed else [self._score(record, seed) for seed in seeds])
            self.sweep.records[record.trial_id] = read_record(self.sweep.folder / record.trial_id)
        return 0

    def promote(self, chosen: list[Winner], seeds: range) -> None:
        """Without a race."""

        def write() -> None:
            write_promotions(self.sweep, chosen, seeds)

        self._drive(write)

    @property
    def text(self) -> str:
        return self.screen.file.getvalue()  # type: ignore[attr-defined,no-any-return]

    @property
    def blocks(self) -> list[list[tuple[int, int, int]]]:
        """Of each round (tuned trial, first seed's place, seeds)."""
        return [
            [(tuned_number(record), record.seed - SEEDS.start, record.num_seeds) for record in round_]
            for round_ in self.played
        ]


def made(path: Path, *words: str, quality: dict[int, float] = QUALITY) -> Path:
    """A sweep that has ended, of configurations that are told apart by their number."""
    path.mkdir(exist_ok=True)
    sweep = make_sweep(path, *words, samples=len(quality), scores=dict.fromkeys(range(2 * len(quality)), 5.0))
    averaged = sweep.manifest.scenario_mode == "mean"
    for record in sweep.records.values():
        number = record.number // 2 if averaged else record.number
        update_record(sweep.folder / record.trial_id, hyperparameters={"number": number})
    return sweep.folder


def options(folder: Path, **changes: object) -> PromoteOptions:
    return PromoteOptions(folder, **{"top": 4, "seeds": 20, "race": 0.95, **changes})  # type: ignore[arg-type]


def test_what_is_worse_is_stopped_and_the_others_go_on(tmp_path: Path) -> None:
    folder = made(tmp_path)
    rounds = Rounds(folder)
    assert rounds(options(folder)) == 0
    assert sorted(rounds.blocks[0]) == [(0, 0, 6), (1, 0, 6), (2, 0, 6), (3, 0, 6)]
    assert [sorted(block) for block in rounds.blocks[1:4]] == [
        [(1, 6, 2), (2, 6, 2)], [(1, 8, 2), (2, 8, 2)], [(1, 10, 2), (2, 10, 2)],
    ]  # fmt: skip
    assert rounds.blocks[-1] == [] or sum(number for _, _, number in rounds.blocks[-1]) > 0
    assert rounds.text.count("is out after 6 seeds") == 2 and "where 20 is enough" in rounds.text
    assert "2 of 4 could still be the best after 20 seeds (RACE=0.95)" in rounds.text
    write_index(folder)
    index = load_index(folder)
    searched = index[index["promoted_from"].isna()].set_index("number")
    assert searched["fresh.num_seeds"].tolist() == [6, 20, 20, 6]
    assert searched["tests"].tolist() == [1, 1, 1, 1]
    origin = read_record(folder / searched.loc[1, "trial_id"])
    values = [close_and_poor(next(r for r in rounds.played[0] if tuned_number(r) == 1), seed) for seed in SEEDS[:20]]
    assert searched.loc[1, "fresh.value"] == pytest.approx(interval(values).value) and origin.num_seeds == 1
    assert re.search(r"fresh \S+ \[\S+, \S+\] \(iqm of 20 seeds\)", rounds.text)


def test_a_winner_ends_the_race(tmp_path: Path) -> None:
    folder = made(tmp_path, quality=dict(enumerate((0.0, 10.0, 3.0, 4.0))))
    rounds = Rounds(folder, lambda record, seed: 3.0 * tuned_number(record) + 0.01 * (seed % 3))
    assert rounds(options(folder)) == 0
    assert len(rounds.played) == 1, "six seeds are enough"
    (name,) = {configuration_id(r) for r in rounds.played[0] if tuned_number(r) == 3}
    assert f"ff_mappo p-base: {name} is the best after 6 seeds (RACE=0.95)" in rounds.text


def test_less_is_better_in_min(tmp_path: Path) -> None:
    folder = made(tmp_path, "MODE=min")
    rounds = Rounds(folder, lambda record, seed: 3.0 * tuned_number(record) + 0.01 * (seed % 3))
    assert rounds(options(folder)) == 0
    (name,) = {configuration_id(r) for r in rounds.played[0] if tuned_number(r) == 0}
    assert f"{name} is the best after 6 seeds" in rounds.text
    assert "is out after 6 seeds (mean 9.01, where the best has 0.01;" in rounds.text


@pytest.mark.parametrize("killed_after", [2, 5])
def test_after_a_kill_the_race_goes_on_and_no_round_is_played_twice(tmp_path: Path, killed_after: int) -> None:
    whole = made(tmp_path / "whole")
    unbroken = Rounds(whole)
    unbroken(options(whole))
    folder = made(tmp_path / "broken")
    broken = Rounds(folder, killed_after=killed_after)
    with pytest.raises(KeyboardInterrupt):
        broken(options(folder))
    done = {r.trial_id for r in Sweep.read(folder).records.values() if r.promoted_from and r.state is State.COMPLETE}
    assert len(done) == killed_after
    again = Rounds(folder)
    assert again(options(folder)) == 0
    assert not done & {record.trial_id for round_ in again.played for record in round_}
    assert sorted(Sweep.read(folder).records) == sorted(Sweep.read(whole).records)
    assert again.text.splitlines()[-4:] == unbroken.text.splitlines()[-4:]
    once_more = Rounds(folder)
    assert once_more(options(folder)) == 0 and once_more.blocks == [[]], "it is over: nothing is played"


def test_seeds_that_a_promotion_has_played_count(tmp_path: Path) -> None:
    """And more SEEDS go on with a race that could not tell."""
    folder = made(tmp_path)
    before = Rounds(folder)
    before.promote(winners(before.sweep, 4), SEEDS[:8])
    rounds = Rounds(folder)
    assert rounds(options(folder)) == 0
    assert sorted(rounds.blocks[0]) == [(1, 8, 2), (2, 8, 2)]
    longer = Rounds(folder)
    assert longer(options(folder, seeds=30)) == 0
    assert sorted(longer.blocks[0]) == [(1, 18, 4), (2, 18, 4)]
    write_index(folder)
    searched = load_index(folder).set_index("number").loc[[1, 2]]
    assert set(searched["fresh.num_seeds"]) == {30}, "seeds 18 and 19 count once"


def test_a_trial_that_fails_is_out(tmp_path: Path) -> None:
    folder = made(tmp_path)
    rounds = Rounds(folder)
    rounds.fail = {(1, SEEDS.start + 6)}
    assert rounds(options(folder)) == 0
    assert "is out after 8 seeds (its trial failed)" in rounds.text
    assert len(rounds.played) == 2
    (name,) = {configuration_id(r) for r in rounds.played[0] if tuned_number(r) == 2}
    assert f"{name} is the best after 8 seeds" in rounds.text


def test_over_scenarios_a_seed_counts_by_its_mean(tmp_path: Path) -> None:
    """In each scenario alone neither could be told from the other: what one loses it wins in the other one."""
    folder = made(tmp_path, "SCENARIO=p-base,p-short", "SCENARIO_MODE=mean", quality={0: 0.0, 1: 0.0})

    def score(record: TrialRecord, seed: int) -> float:
        swing = 50.0 if (seed % 2) == (record.scenario == "p-base") else -50.0
        return tuned_number(record) * (1.0 + swing)

    rounds = Rounds(folder, score)
    assert rounds(options(folder)) == 0
    assert len(rounds.played[0]) == 4 and len(rounds.played) == 1
    (name,) = {configuration_id(r) for r in rounds.played[0] if tuned_number(r) == 1}
    assert "Racing 2 configurations of ff_mappo in 2 scenarios" in rounds.text
    assert f"ff_mappo: {name} is the best after 6 seeds" in rounds.text


def test_configurations_found_after_the_test_are_told(tmp_path: Path) -> None:
    """promote, extend, promote: the later one was searched for after the seeds that test it had been seen."""
    folder = made(tmp_path)
    early, late = "2026-01-01T00:00:00.000+00:00", "2026-01-03T00:00:00.000+00:00"
    rounds = Rounds(folder)
    for record in rounds.sweep.searched:
        update_record(folder / record.trial_id, started_at=late if record.number == 3 else early)
    rounds.sweep = Sweep.read(folder)
    chosen = winners(rounds.sweep, 4)
    for some in (chosen[:3], chosen[3:]):
        rounds.promote(some, SEEDS[:4])
    for record in rounds.played[0]:
        update_record(folder / record.trial_id, ended_at="2026-01-02T00:00:00.000+00:00")
    rounds.sweep = Sweep.read(folder)
    tests = [record for record in rounds.sweep.records.values() if record.promoted_from]
    show_promotions(rounds.sweep, tests, rounds.screen)
    origin = next(record.trial_id for record in rounds.sweep.searched if record.number == 3)
    assert f"Test seeds were used before: 1 of 4 winners ({origin})" in rounds.text
    write_index(folder)
    index = load_index(folder)
    told = index[index["test_seeds_reused"].fillna(False)]
    assert sorted(told["trial_id"]) == sorted([origin, *(r.trial_id for r in tests if r.promoted_from == origin)])
    assert index["test_seeds_reused"].notna().all() and index["tests"].tolist() == [1] * 8


# -- Bad input ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["RACE=1"], "RACE: expected a confidence from 0.5 to below 1, such as 0.95, got '1'"),
        (["RACE=0.4"], "RACE: expected a confidence from 0.5 to below 1"),
        (["RACE=95%"], "RACE: expected a confidence from 0.5 to below 1, such as 0.95, got '95%'"),
        (["RACE=nan"], "RACE: expected a confidence from 0.5 to below 1"),
        (["RACE=0.95", "TOP=1"], "TOP=1: a race needs two configurations; give TOP=2 or more, or leave RACE out"),
        (["RACE=0.95", "SEEDS=5"], "SEEDS=5: with RACE=0.95 the first look is after 6 seeds; give SEEDS=6 or more"),
        (["RACE=0.999"], "SEEDS=10: with RACE=0.999 the first look is after 11 seeds; give SEEDS=11 or more"),
    ],
)
def test_bad_words_are_one_line(
    words: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command.main(["promote", str(tmp_path), *words]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"SweepError: {message}")
    assert parse_promote_options([str(tmp_path), "RACE=0.95", "SEEDS=6", "TOP=2"]).race == 0.95


def test_one_configuration_cannot_race(tmp_path: Path) -> None:
    folder = made(tmp_path, quality={0: 1.0})
    rounds = Rounds(folder)
    with pytest.raises(SweepError, match="ff_mappo p-base has one configuration to promote, and a race needs two"):
        rounds(options(folder))
    assert rounds.played == [] and len(Sweep.read(folder).records) == 1


# -- With Ray ----------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_race_on_ray(tmp_path: Path) -> None:
    steer = {"noise": 0.1}
    environment = os.environ | {
        "JAX_PARTY_EXPERIMENT": "tests.launcher.racer:Racer", "JAX_PARTY_RACER": json.dumps(steer),
    }  # fmt: skip

    def run(*words: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "launcher.sweep", *words], cwd=ROOT, env=environment, text=True,
            capture_output=True, timeout=280, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    run("ALG=mappo", "SCENARIO=p-base", "SAMPLES=3", "TIMESTEPS=16384", "EVALUATIONS=2", "WORKERS=1", f"OUT={tmp_path}")
    folder = sweep_folder(tmp_path)
    said = run("promote", str(folder), "TOP=3", "RACE=0.95", "SEEDS=12", "WORKERS=1")
    index = load_index(folder)
    searched = index[index["promoted_from"].isna()]
    best = searched.loc[searched["objective.value"].idxmax()]
    assert f"{best['configuration']} is the best after 6 seeds" in said
    assert set(index[index["promoted_from"].notna()]["seed"]) == {fresh_seeds(str(best["sweep"])).start}
