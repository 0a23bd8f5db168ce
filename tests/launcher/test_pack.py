"""Trials that share a process: each runs as it would alone, in step with the others."""

from __future__ import annotations

import errno
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, ClassVar

import pytest

from jax_party.errors import RecordError, SweepError, TrainingDiverged
from jax_party.store.storage import lock_folder
from jax_party.trial.folder import read_record
from jax_party.trial.record import RECORD_FILE
from launcher.ask.experiment_factory import load_factory
from launcher.ask.parsing import parse_sweep_options
from launcher.plan.compose import read_study
from launcher.plan.write import draw_plan, write_plan
from launcher.work.pack import Pack

PERIODS = 3


class Counting:
    """An experiment that counts its periods, and records which trials ran, in order."""

    width = num_learners = 1
    played: ClassVar[list[str]] = []
    open_now: ClassVar[set[str]] = set()

    def __init__(self, config: Any, folder: Path) -> None:
        self.name = folder.name
        self.number = read_record(folder).number
        self.period = 0
        self.open_now.add(self.name)

    def step(self) -> dict[str, Any]:
        if self.number == 1:
            raise TrainingDiverged("it did")
        self.period += 1
        self.played.append(self.name)
        return {"env_steps": self.period, "finished": self.period == PERIODS}

    def close(self) -> None:
        self.open_now.discard(self.name)


class Together(Counting):
    """The same, run side by side in a batched program that fits into memory up to a width."""

    fits: ClassVar[int] = 1
    widths: ClassVar[list[int]] = []

    def __init__(self, config: Any, folder: Path, *, company: int, most_at_once: int | None) -> None:
        super().__init__(config, folder)
        self.width = min(company, most_at_once or company)

    @staticmethod
    def side_by_side(experiments: list[Any]) -> list[Any]:
        width = experiments[0].width
        Together.widths.append(width)
        if width > Together.fits:
            raise RuntimeError(f"RESOURCE_EXHAUSTED: Out of memory allocating {width} bytes.")
        return [one.step() for one in experiments]


@pytest.fixture
def folders(tmp_path: Path) -> list[Path]:
    """A sweep of four trials."""
    options = parse_sweep_options(["ALG=mappo", "SAMPLES=4", "TIMESTEPS=4096", "EVALUATIONS=1"])
    study, samples = read_study(options, "sweep-1")
    trials = draw_plan(study, samples)
    write_plan(tmp_path, study, trials, len(trials), options, "the command")
    return [tmp_path / trial.trial_id for trial in trials]


@pytest.fixture
def pack(folders: list[Path]) -> Iterator[Callable[..., Pack]]:
    """`pack(size, factory)`."""
    made: list[Pack] = []
    Counting.played.clear()
    Together.widths.clear()

    def make(size: int, factory: Callable[..., Any] = Counting, gather_s: float = 30.0, **options: Any) -> Pack:
        made.append(Pack(folders[0].parent, size, factory, gather_s, **options))
        return made[-1]

    yield make
    for one in made:
        one.close()
    assert not Counting.open_now


def step_all(pack: Pack, names: list[str]) -> list[Any]:
    """Request one period of each at the same time, and return the results and errors."""

    def step(name: str) -> Any:
        try:
            return pack.step(name)
        except Exception as error:
            return error

    with ThreadPoolExecutor(len(names)) as threads:
        return list(threads.map(step, names))


def wait_for_request(pack: Pack, name: str) -> None:
    """Wait until a period of the trial has been requested."""
    while pack._members[name].asked is None:
        time.sleep(0.01)


def test_a_pack_has_room_for_its_size(pack: Callable[..., Pack], folders: list[Path]) -> None:
    two = pack(2)
    names = [folder.name for folder in folders]
    assert [two.join(name) for name in names[:3]] == [True, True, False]
    assert two.join(names[0]), "it has joined already"
    two.leave(names[1])
    assert two.join(names[2])
    assert two.members == 2
    two.leave("nobody")


def test_a_period_waits_for_the_last_request(
    pack: Callable[..., Pack], folders: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Together, "fits", 3)
    names = [folders[number].name for number in (0, 2, 3)]
    three = pack(3, Together, gather_s=3600.0)
    assert all(three.join(name) for name in names)
    with ThreadPoolExecutor(1) as threads:
        early = threads.submit(step_all, three, names[:2])
        for name in names[:2]:
            wait_for_request(three, name)
        assert Counting.played == []
        three.step(names[2])
        assert [outcome["env_steps"] for outcome in early.result()] == [1, 1]
    assert Together.widths == [3], "all ran at once"


def test_a_period_waits_for_no_longer_than_it_may(pack: Callable[..., Pack], folders: list[Path]) -> None:
    names = [folders[number].name for number in (0, 2)]
    hasty = pack(2, gather_s=0.01)
    assert all(hasty.join(name) for name in names)
    hasty.step(names[0])
    assert Counting.played == [names[0]]


def test_an_error_of_one_trial_leaves_the_others_alone(pack: Callable[..., Pack], folders: list[Path]) -> None:
    names = [folder.name for folder in folders]
    four = pack(4)
    assert all(four.join(name) for name in names)
    for period in range(1, PERIODS + 1):
        outcomes = step_all(four, names)
        assert isinstance(outcomes[1], TrainingDiverged)
        assert [outcomes[n]["env_steps"] for n in (0, 2, 3)] == [period] * 3
    assert [outcomes[n]["finished"] for n in (0, 2, 3)] == [True] * 3
    four._gather_s = 3600.0  # it does not wait for trials that have ended
    step_all(four, names[:1])
    (folders[3] / RECORD_FILE).unlink()
    four.leave(names[3])
    assert four.join(names[3])
    outcomes = step_all(four, names)
    assert isinstance(outcomes[3], RecordError)
    assert isinstance(outcomes[0], dict)
    assert folders[1].name not in Counting.open_now, "a failed trial is closed"


def test_a_trial_that_cannot_be_closed_leaves_the_others_alone(pack: Callable[..., Pack], folders: list[Path]) -> None:
    """The disk may be full when the last files are written."""

    class Stuck(Counting):
        def close(self) -> None:
            super().close()
            if self.number == 1:
                raise OSError(errno.ENOSPC, "No space left on device")

    names = [folder.name for folder in folders]
    four = pack(4, Stuck)
    assert all(four.join(name) for name in names)
    outcomes = step_all(four, names)
    assert isinstance(outcomes[1], TrainingDiverged)
    assert [outcomes[n]["env_steps"] for n in (0, 2, 3)] == [1, 1, 1]
    four.leave(names[1])
    assert four.members == 3
    with lock_folder(folders[1], timeout=0.0):
        pass


def test_a_trial_in_its_turn_runs_alone(pack: Callable[..., Pack], folders: list[Path]) -> None:
    """If the process dies, this trial is the cause; the others' periods come after it."""
    names = [folders[number].name for number in (0, 2)]
    two = pack(2, gather_s=30.0)
    assert all(two.join(name) for name in names)
    two.take_turn(names[1])
    with ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(two.step, names[0])
        wait_for_request(two, names[0])
        assert two.step(names[1])["env_steps"] == 1
        two.leave(names[1])
        assert waiting.result(30.0)["env_steps"] == 1
    assert Counting.played == [names[1], names[0]]


def test_a_trial_that_leaves_gives_up_its_turn(pack: Callable[..., Pack], folders: list[Path]) -> None:
    names = [folders[number].name for number in (0, 2)]
    two = pack(2, gather_s=30.0)
    assert all(two.join(name) for name in names)
    two.take_turn(names[1])
    two.leave(names[1])
    assert (two.has(names[0]), two.has(names[1])) == (True, False)
    with ThreadPoolExecutor(1) as threads:
        assert threads.submit(two.step, names[0]).result(30.0)["env_steps"] == 1


def test_an_idle_trial_makes_room(pack: Callable[..., Pack], folders: list[Path]) -> None:
    names = [folders[number].name for number in (0, 2, 3)]
    now_s = 100.0
    two = pack(2, gather_s=0.0, idle_s=30.0, clock=lambda: now_s)
    assert two.join(names[0]) and two.join(names[1])
    two.step(names[0])
    now_s += 30.0
    assert not two.join(names[2]), "none has been idle for longer than that"
    two.step(names[1])
    now_s += 0.1
    assert two.join(names[2])
    assert Counting.open_now == {names[1]}
    with pytest.raises(SweepError, match="has not joined, or was idle for so long that its place was taken"):
        two.step(names[0])


def test_leaving_waits_for_the_requested_period(pack: Callable[..., Pack], folders: list[Path]) -> None:
    """A trainable may have died during its step; its request is still answered."""
    names = [folders[0].name, folders[2].name]
    two = pack(2, gather_s=30.0)
    assert all(two.join(name) for name in names)
    with ThreadPoolExecutor(2) as threads:
        waiting = threads.submit(two.step, names[0])
        wait_for_request(two, names[0])
        leaving = threads.submit(two.leave, names[0])
        assert two.step(names[1])["env_steps"] == 1
        assert waiting.result(10.0)["env_steps"] == 1
        leaving.result(10.0)
    assert (two.members, Counting.open_now) == (1, {names[1]})


def test_out_of_memory_halves_the_width(pack: Callable[..., Pack], folders: list[Path]) -> None:
    names = [folders[number].name for number in (0, 2, 3)]
    four = pack(4, Together)
    assert all(four.join(name) for name in names)
    outcomes = step_all(four, names)
    assert [outcome["env_steps"] for outcome in outcomes] == [1, 1, 1]
    assert Together.widths == [4, 2, 1]
    assert [outcome["env_steps"] for outcome in step_all(four, names)] == [2, 2, 2]
    assert Together.widths == [4, 2, 1, 1], "the width stays small"
    retries = [reason.split(" ", 1)[1] for reason in read_record(folders[0]).retries]
    assert retries == [
        "out of memory with 4 at once (RESOURCE_EXHAUSTED: Out of memory allocating 4 bytes.): 2 from now on",
        "out of memory with 2 at once (RESOURCE_EXHAUSTED: Out of memory allocating 2 bytes.): 1 from now on",
    ]
    assert read_record(folders[1]).retries == ()


def test_out_of_memory_while_a_trial_is_opened_halves_the_width_too(
    pack: Callable[..., Pack], folders: list[Path]
) -> None:
    class Large(Together):
        def __init__(self, config: Any, folder: Path, *, company: int, most_at_once: int | None) -> None:
            if (most_at_once or company) > 2:
                raise RuntimeError("RESOURCE_EXHAUSTED: Out of memory while trying to allocate 1 bytes.")
            super().__init__(config, folder, company=company, most_at_once=most_at_once)

    four = pack(4, Large)
    assert four.join(folders[0].name)
    assert four.step(folders[0].name)["env_steps"] == 1
    assert Together.widths == [2, 1]


def test_a_trial_that_does_not_fit_alone_fails(
    pack: Callable[..., Pack], folders: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Together, "fits", 0)
    two = pack(2, Together)
    assert two.join(folders[0].name)
    with pytest.raises(RuntimeError, match="RESOURCE_EXHAUSTED"):
        two.step(folders[0].name)
    assert Together.widths == [2, 1]
    assert not Counting.open_now


def test_a_trials_folder_is_held_while_it_is_in_the_pack(pack: Callable[..., Pack], folders: list[Path]) -> None:
    one = pack(1)
    assert one.join(folders[0].name)
    one.step(folders[0].name)
    with pytest.raises(RecordError, match="holds this folder"), lock_folder(folders[0], timeout=0.0):
        pass
    one.leave(folders[0].name)
    with lock_folder(folders[0], timeout=0.0):
        pass


@pytest.mark.parametrize("name", ["no.such.module:Thing", "launcher.work.pack:Nothing", "launcher.work.pack"])
def test_an_unknown_factory_is_named(name: str) -> None:
    with pytest.raises(SweepError, match=f"JAX_PARTY_EXPERIMENT={name}: cannot be loaded"):
        load_factory(name)
