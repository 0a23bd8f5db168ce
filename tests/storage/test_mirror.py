"""A trial on an S3 server: what is there after each push, and what comes back from it."""

from __future__ import annotations

import dataclasses
import logging
import os
import re
from pathlib import Path
from typing import Any

import pytest

from jax_party.errors import CheckpointError, RecordError, StorageError, VaultError
from jax_party.store import scratch
from jax_party.store.protocol import Version
from jax_party.store.s3 import S3
from jax_party.store.storage import store_of
from jax_party.trial import mirror
from jax_party.trial.folder import add_retry, create_trial_folder, read_record, update_record
from jax_party.trial.metrics import append_metrics
from jax_party.trial.mirror import Mirror
from jax_party.trial.record import TrialRecord
from jax_party.trial.states import State
from jax_party.trial.transfer import Contents, fetch

RECORD = TrialRecord(trial_id="t", algorithm="a", environment="e", scenario="s", seed=0)


@pytest.fixture
def trial(bucket: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(scratch, "scratch_folder", lambda: tmp_path / "scratch")
    folder = bucket / "sweep" / "t"
    create_trial_folder(folder, {"x": 1}, RECORD)
    return folder


def begin(trial: Path) -> Mirror:
    taken = Mirror(trial)
    taken.open()
    play(taken, 0, state=State.RUNNING, attempts=read_record(taken.local).attempts + 1)
    return taken


def play(taken: Mirror, period: int, wait: bool = True, **changes: Any) -> None:
    """Write as an experiment does: a chunk of the vault a period, its index, a checkpoint, metrics, the record."""
    folder = taken.local
    if period:
        vault = folder / "vaults" / "jax_party" / "t"
        vault.mkdir(parents=True, exist_ok=True)
        for name, text in ((f"chunk.{period}", f"period {period}"), ("index", str(period))):
            (vault / f"{name}.new").write_text(text)
            os.replace(vault / f"{name}.new", vault / name)
        (folder / "checkpoints" / str(10 * period)).mkdir(parents=True)
        (folder / "checkpoints" / str(10 * period) / "state").write_text(f"state {period}")
        for old in sorted((folder / "checkpoints").iterdir(), key=lambda path: int(path.name))[:-2]:
            (old / "state").unlink()
            old.rmdir()
        append_metrics(folder, {"step": 10 * period})
        changes |= {"env_steps": 10 * period, "checkpoint": f"checkpoints/{10 * period}"}
    update_record(folder, **changes)
    taken.push()
    if wait:
        taken.wait()


def names(trial: Path) -> list[str]:
    return store_of(trial).files_below(trial)


def files(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}


def test_a_trial_is_few_objects_and_comes_back_whole(trial: Path, tmp_path: Path) -> None:
    taken = begin(trial)
    assert read_record(trial).state is State.RUNNING
    for period in (1, 2, 3):
        play(taken, period, wait=period == 3)
    assert names(trial) == [
        "checkpoints/20-1.tar", "checkpoints/30-1.tar", "config.yaml", "metrics/metrics.jsonl", "mirror.json",
        "record.json", "vaults/10-1.tar", "vaults/20-1.tar", "vaults/30-1.tar",
    ]  # fmt: skip
    sizes = {name: (trial / name).stat().st_size for name in names(trial) if name.startswith("vaults")}
    assert len(set(sizes.values())) == 1, f"each tar holds what is new: {sizes}"
    expected = files(taken.local)
    taken.close()
    assert not list((tmp_path / "scratch").iterdir())

    fetch(trial, tmp_path / "fetched")
    assert files(tmp_path / "fetched") == expected
    again = Mirror(trial)
    assert files(again.open()) == expected
    play(again, 4, state=State.COMPLETE, attempts=2)
    assert [name for name in names(trial) if name.startswith("vaults")] == ["vaults/40-2.tar"], "one in the end"
    expected = files(again.local)
    again.close()
    fetch(trial, tmp_path / "complete")
    assert files(tmp_path / "complete") == expected
    with pytest.raises(RecordError, match="is there already; name a new folder"):
        fetch(trial, tmp_path / "complete")


@pytest.mark.parametrize("periods", [1, 2, 3])
def test_the_last_tar_holds_what_the_earlier_ones_did(trial: Path, tmp_path: Path, periods: int) -> None:
    """However many there were, and whether or not the last period has added anything to the vaults."""
    for last in (True, False):
        store_of(trial).remove(trial / name for name in names(trial) if name not in ("config.yaml", "record.json"))
        taken = begin(trial)
        for period in range(1, periods + 1):
            play(taken, period, state=State.COMPLETE if last and period == periods else State.RUNNING)
        if not last:
            play(taken, 0, state=State.COMPLETE)
        expected = files(taken.local)
        taken.close()
        assert len([name for name in names(trial) if name.startswith("vaults")]) == 1
        fetch(trial, tmp_path / f"fetched-{last}")
        assert files(tmp_path / f"fetched-{last}") == expected
        update_record(trial, state=State.PENDING)


def test_what_is_pushed_is_what_was_there_then(trial: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Training goes on beside the push, and replaces files and removes checkpoints."""
    taken = begin(trial)
    play(taken, 1)
    put, began = S3.put_file, []

    def slow(local: Path, path: Path) -> None:
        if not began:
            began.append(path)
            for period in (3, 4):
                vault = taken.local / "vaults" / "jax_party" / "t"
                (vault / "index.new").write_text(str(period))
                os.replace(vault / "index.new", vault / "index")
            for old in list((taken.local / "checkpoints").iterdir()):
                (old / "state").unlink()
                old.rmdir()
        put(local, path)

    monkeypatch.setattr(S3, "put_file", slow)
    play(taken, 2)
    assert began
    fetch(trial, tmp_path / "fetched")
    found = files(tmp_path / "fetched")
    assert found["vaults/jax_party/t/index"] == "2"
    assert found["checkpoints/20/state"] == "state 2"
    taken.close()


def test_who_has_lost_the_trial_writes_no_more(trial: Path) -> None:
    zombie = begin(trial)
    play(zombie, 1)
    heir = begin(trial)
    play(heir, 2)
    before = {name: (trial / name).read_bytes() for name in names(trial)}
    with pytest.raises(StorageError, match="another worker has taken this trial; this one lets go of it"):
        play(zombie, 2)
    zombie.close()
    assert {name: (trial / name).read_bytes() for name in names(trial)} == before
    heir.close()


def test_who_loses_the_trial_in_the_middle_of_a_push_changes_nothing_that_counts(
    trial: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    zombie = begin(trial)
    play(zombie, 1)
    heirs: list[Mirror] = []
    put = S3.put_file

    def meanwhile(local: Path, path: Path) -> None:
        if not heirs:
            heirs.append(Mirror(trial))
            heirs[0].open()
            play(heirs[0], 0, state=State.RUNNING, attempts=2)
            play(heirs[0], 2)
        put(local, path)

    monkeypatch.setattr(S3, "put_file", meanwhile)
    with pytest.raises(StorageError, match="another worker has taken this trial"):
        play(zombie, 2)
    assert read_record(trial).attempts == 2
    fetch(trial, tmp_path / "fetched")
    assert files(tmp_path / "fetched") == files(heirs[0].local)
    assert any(name.endswith("-1.tar") and name.startswith("vaults/20") for name in names(trial)), "a stray"
    heirs[0].close()
    begin(trial).close()
    assert not any(name.startswith("vaults/20-1") for name in names(trial)), "who takes it next tidies up"
    zombie.close()


@pytest.mark.parametrize("object_number", range(6))
def test_a_worker_that_dies_at_any_write_leaves_a_whole_trial(
    trial: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, object_number: int
) -> None:
    """Period 2 is pushed as far as so many writes: what comes back is period 1 or period 2, and goes on to the same."""
    taken = begin(trial)
    play(taken, 1)
    after_one = files(taken.local)
    left = [object_number]

    def counted(name: str) -> Any:
        call = getattr(S3, name)

        def count(*arguments: Any, **options: Any) -> Any:
            if not left[0]:
                raise StorageError("dead")
            left[0] -= 1
            return call(*arguments, **options)

        return count

    with monkeypatch.context() as patched:
        for name in ("put_file", "write_version", "write_bytes"):
            patched.setattr(S3, name, counted(name))
        if object_number < 5:
            with pytest.raises(StorageError, match="dead"):
                play(taken, 2)
        else:
            play(taken, 2)
    after_two = files(taken.local)
    taken.close()

    heir = Mirror(trial)
    found = files(heir.open())
    committed = object_number >= 4
    for name in ("vaults/jax_party/t/index", "checkpoints/20/state"):
        assert found.get(name) == (after_two if committed else after_one).get(name)
    assert found["metrics/metrics.jsonl"].startswith(after_one["metrics/metrics.jsonl"])
    heir.close()


def test_a_damaged_checkpoint_is_passed_over(trial: Path, caplog: pytest.LogCaptureFixture) -> None:
    taken = begin(trial)
    play(taken, 1)
    play(taken, 2)
    taken.close()
    (trial / "checkpoints/20-1.tar").write_bytes(b"not a tar")
    again = Mirror(trial)
    with caplog.at_level(logging.WARNING):
        folder = again.open()
    assert "checkpoints/20-1.tar: cannot be read" in caplog.text
    assert [path.name for path in (folder / "checkpoints").iterdir()] == ["10"]
    again.push()
    again.close()
    (note,) = read_record(trial).retries
    assert re.search(r" checkpoint 20 cannot be read \(.*\): went on from checkpoint 10$", note), "the index says so"
    (trial / "checkpoints/10-1.tar").write_bytes((trial / "checkpoints/10-1.tar").read_bytes()[:700])
    with pytest.raises(CheckpointError, match=r"none of checkpoints/10-1\.tar can be read"):
        Mirror(trial).open()


def test_damage_elsewhere_is_named(trial: Path) -> None:
    taken = begin(trial)
    play(taken, 1)
    taken.close()
    (trial / "vaults/10-1.tar").unlink()
    with pytest.raises(VaultError, match=r"vaults/10-1\.tar: cannot be read (.*); restore it, or remove"):
        Mirror(trial).open()
    (trial / "mirror.json").write_text("{}")
    with pytest.raises(RecordError, match=r"mirror\.json: damaged"):
        Mirror(trial).open()


def test_what_the_driver_has_noted_stays(trial: Path) -> None:
    taken = begin(trial)
    add_retry(trial, "why")
    update_record(trial, state=State.PRUNED, error="asha", ended_at="then")
    play(taken, 1)
    there = read_record(trial)
    assert (there.state, there.error, there.ended_at, there.env_steps) == (State.PRUNED, "asha", "then", 10)
    assert [reason.split(" ", 1)[1] for reason in there.retries] == ["why"]
    taken.close()
    complete = dataclasses.replace(RECORD, state=State.COMPLETE, attempts=1)
    pending = dataclasses.replace(RECORD, state=State.PENDING, attempts=1)
    running = dataclasses.replace(RECORD, state=State.RUNNING, attempts=2)
    assert mirror.merge_records(pending, complete).state is State.COMPLETE
    assert mirror.merge_records(pending, running).state is State.RUNNING
    assert mirror.merge_records(running, complete) == running


def test_what_the_dead_left_in_the_scratch_folder_is_removed(trial: Path, tmp_path: Path) -> None:
    (tmp_path / "scratch" / "999999999-x").mkdir(parents=True)
    other = tmp_path / "scratch" / f"{os.getppid()}-x"
    other.mkdir()
    begin(trial).close()
    assert list((tmp_path / "scratch").iterdir()) == [other]


def test_contents_survive(tmp_path: Path) -> None:
    contents = Contents(3, ("checkpoints/1-3.tar",), ("vaults/1-2.tar", "vaults/2-3.tar"))
    assert Contents.read(Version(contents.to_bytes(), "tag"), tmp_path) == contents
    assert contents.to_bytes() != contents.to_bytes()
