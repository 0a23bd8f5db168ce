"""What every store keeps to: the same tests for this machine's disk and for object storage."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from jax_party.errors import RecordError, StorageError
from jax_party.store import lease, s3
from jax_party.store.protocol import LOCK_FILE, ChangedError, FolderHeld, Store
from jax_party.store.retry import PATIENCE_VARIABLE, patience_of, patiently
from jax_party.store.storage import as_folder, store_of


@pytest.fixture(params=["local", "s3"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """An empty folder of each kind of storage."""
    found: Path = (request.getfixturevalue("bucket") if request.param == "s3" else tmp_path) / "folder"
    store_of(found).make_folder(found)
    return found


@pytest.fixture
def store(folder: Path) -> Store:
    return store_of(folder)


@pytest.fixture
def other_process() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts a Python script in a process of its own; all are ended with the test."""
    started: list[subprocess.Popen[str]] = []

    def start(script: str, *arguments: object) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", script, *map(str, arguments)]
        started.append(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.communicate()


@pytest.fixture
def refusing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[int], list[str]]:
    """Makes the storage refuse the next writes, so many of them; what it refused."""

    def refuse(times: int) -> list[str]:
        refused: list[str] = []

        def turn(call: Callable[..., Any]) -> Callable[..., Any]:
            def refuse_or_call(*arguments: Any, **options: Any) -> Any:
                if len(refused) < times:
                    refused.append(call.__name__)
                    raise OSError(errno.EIO, os.strerror(errno.EIO))
                return call(*arguments, **options)

            return refuse_or_call

        if store_of(folder).on_disk(folder) is None:
            monkeypatch.setattr(s3, "_put", turn(s3._put))
        else:
            monkeypatch.setattr(os, "fsync", turn(os.fsync))
        return refused

    return refuse


# -- Files -------------------------------------------------------------------------------------------------------------


def test_what_is_written_is_read(folder: Path, store: Store) -> None:
    path = folder / "x"
    assert not store.is_file(path) and store.stamp(path) is None and store.read_version(path) is None
    with pytest.raises(FileNotFoundError):
        store.read_bytes(path)
    first = store.write_bytes(path, b"one")
    assert store.is_file(path) and store.read_bytes(path) == b"one"
    second = store.write_bytes(path, b"two", durable=False)
    assert store.read_bytes(path) == b"two" and first != second
    stamp, version = store.stamp(path), store.read_version(path)
    assert stamp is not None and version is not None
    assert stamp.tag == version.tag == second and version.content == b"two"
    assert 0 <= stamp.age_s < 60 and 0 <= version.age_s < 60
    assert not store.is_file(folder)


def test_equal_content_written_again_is_told_or_is_the_same_version(folder: Path, store: Store) -> None:
    """A tag may name content or a write, but never two contents."""
    path = folder / "x"
    tags = {store.write_bytes(path, content): content for content in (b"a", b"b", b"a", b"c")}
    assert sorted(set(tags.values())) == [b"a", b"b", b"c"]


def test_a_write_that_fails_leaves_the_file_as_it_was(
    folder: Path, store: Store, refusing: Callable[[int], list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(PATIENCE_VARIABLE, "0")
    store.write_bytes(folder / "x", b"whole")
    refused = refusing(1)
    with pytest.raises((OSError, StorageError)):
        store.write_bytes(folder / "x", b"torn")
    assert refused and store.read_bytes(folder / "x") == b"whole"
    assert store.files_below(folder) == ["x"], "nothing is left of what was begun"


def test_a_process_killed_while_it_writes_leaves_the_file_whole(
    folder: Path, store: Store, other_process: Callable[..., subprocess.Popen[str]]
) -> None:
    script = (
        "import sys\n"
        "from jax_party.store.storage import as_folder, store_of\n"
        "path = as_folder(sys.argv[1]) / 'x'\n"
        "print('began', flush=True)\n"
        "for turn in range(10**6):\n"
        "    store_of(path).write_bytes(path, bytes([turn % 256]) * 100_000, durable=False)\n"
    )
    for _ in range(3):
        writer = other_process(script, folder)
        assert writer.stdout is not None and writer.stdout.readline() == "began\n"
        while not store.is_file(folder / "x"):
            pass
        for _ in range(20):
            content = store.read_bytes(folder / "x")
            assert len(content) == 100_000 and len(set(content)) == 1
        writer.kill()
        writer.wait()
        content = store.read_bytes(folder / "x")
        assert len(content) == 100_000 and len(set(content)) == 1


def test_files_are_copied_whole_or_not_at_all(folder: Path, store: Store, tmp_path: Path) -> None:
    (tmp_path / "mine").write_bytes(b"content")
    store.put_file(tmp_path / "mine", folder / "below" / "x")
    assert store.files_below(folder) == ["below/x"]
    store.get_file(folder / "below" / "x", tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == b"content"
    with pytest.raises(FileNotFoundError):
        store.get_file(folder / "nothing", tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == b"content"
    assert not [path.name for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_removing_passes_over_what_is_gone(folder: Path, store: Store) -> None:
    store.write_bytes(folder / "x", b"")
    store.remove([folder / "x", folder / "y"])
    store.remove([folder / "x"])
    assert store.files_below(folder) == []


# -- Versions ----------------------------------------------------------------------------------------------------------


def test_only_the_version_that_was_read_is_replaced(folder: Path, store: Store) -> None:
    path = folder / "x"
    first = store.write_version(path, b"1", None)
    with pytest.raises(ChangedError, match="has been changed by another process"):
        store.write_version(path, b"2", None)
    second = store.write_version(path, b"2", first)
    for content, stale in ((b"3", first), (b"3", "another"), (b"2", first)):
        with pytest.raises(ChangedError):
            store.write_version(path, content, stale)
    assert store.read_bytes(path) == b"2"
    store.remove([path])
    with pytest.raises(ChangedError):
        store.write_version(path, b"3", second)
    assert not store.is_file(path)


def test_one_of_two_who_make_a_file_makes_it(folder: Path, store: Store) -> None:
    barrier = threading.Barrier(4)

    def make(content: int) -> bool:
        barrier.wait()
        try:
            store.write_version(folder / "x", str(content).encode(), None)
        except ChangedError:
            return False
        return True

    with ThreadPoolExecutor(4) as pool:
        made = list(pool.map(make, range(4)))
    assert sum(made) == 1
    assert store.read_bytes(folder / "x") == str(made.index(True)).encode()


def test_no_change_of_another_process_is_lost(
    folder: Path, store: Store, other_process: Callable[..., subprocess.Popen[str]]
) -> None:
    script = (
        "import sys\n"
        "from jax_party.store.storage import as_folder, store_of\n"
        "path = as_folder(sys.argv[1]) / 'count'\n"
        "for _ in range(25):\n"
        "    store_of(path).change(path, lambda content: str(int(content) + 1).encode())\n"
    )
    store.write_bytes(folder / "count", b"0")
    for process in [other_process(script, folder) for _ in range(2)]:
        assert process.wait(timeout=120) == 0
    assert store.read_bytes(folder / "count") == b"50"


def test_a_change_that_fails_leaves_the_file_as_it_was(folder: Path, store: Store) -> None:
    def fail(content: bytes) -> bytes:
        raise RecordError(f"{content!r}: not what was expected")

    with pytest.raises(FileNotFoundError):
        store.change(folder / "nowhere" / "x", bytes.upper)
    with pytest.raises(FileNotFoundError):
        store.change(folder / "x", bytes.upper)
    store.write_bytes(folder / "x", b"as it was")
    with pytest.raises(RecordError, match="not what was expected"):
        store.change(folder / "x", fail)
    assert store.read_bytes(folder / "x") == b"as it was"
    assert store.change(folder / "x", bytes.upper) == b"AS IT WAS" == store.read_bytes(folder / "x")


# -- Folders -----------------------------------------------------------------------------------------------------------

HOLD = (
    "import sys, time\n"
    "from jax_party.store.storage import as_folder, lock_folder\n"
    "with lock_folder(as_folder(sys.argv[1])):\n"
    "    print('held', flush=True)\n"
    "    time.sleep(60)\n"
)
HOLD_REFRESHING = f"from jax_party.store import lease; lease.REFRESH_S = 0.2\n{HOLD}"


def test_one_of_several_makes_a_new_folder(folder: Path, store: Store) -> None:
    barrier = threading.Barrier(4)

    def make(_: int) -> bool:
        barrier.wait()
        return store.make_new_folder(folder / "deep" / "new")

    with ThreadPoolExecutor(4) as pool:
        assert sorted(pool.map(make, range(4))) == [False, False, False, True]
    with store.lock(folder / "deep" / "new"):
        pass


def test_a_folder_has_one_holder_until_it_dies(
    folder: Path, store: Store, other_process: Callable[..., subprocess.Popen[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    holder = other_process(HOLD_REFRESHING, folder)
    assert holder.stdout is not None and holder.stdout.readline() == "held\n"
    with (
        pytest.raises((FolderHeld, StorageError), match=rf"process {holder.pid} on .* holds this folder"),
        store.lock(folder, 0.5),
    ):
        pass
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    with store.lock(folder, 0.5):
        assert store.is_file(folder / LOCK_FILE)
    with store.lock(folder, 0.5):
        pass


def test_a_suspended_holder_keeps_its_lock_and_loses_its_lease(
    folder: Path, store: Store, other_process: Callable[..., subprocess.Popen[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A lease that is not refreshed goes stale; who took it is not disturbed, and the old holder is interrupted."""
    holder = other_process(HOLD_REFRESHING, folder)
    assert holder.stdout is not None and holder.stdout.readline() == "held\n"
    holder.send_signal(signal.SIGSTOP)
    os.waitid(os.P_PID, holder.pid, os.WSTOPPED | os.WNOWAIT)
    if store.on_disk(folder) is not None:
        with pytest.raises(FolderHeld, match=f"process {holder.pid} on"), store.lock(folder, 0.0):
            pass
        holder.kill()
        holder.wait()
        with store.lock(folder, 0.0):
            pass
        return
    monkeypatch.setattr(s3, "_age_s", lambda answer: lease.STALE_S + 1)
    with store.lock(folder):
        holder.send_signal(signal.SIGCONT)
        assert holder.wait(30) == -signal.SIGINT
        assert json.loads(store.read_bytes(folder / LOCK_FILE))["process"] == os.getpid()


def test_what_a_holder_on_a_machine_that_died_left_is_taken(
    folder: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A lease once it is older than `STALE_S` seconds, a lock file at once: the kernel has released the lock."""
    path = folder / LOCK_FILE
    store.write_bytes(path, json.dumps({"process": 1, "host": "another", "boot": ""}).encode())
    ages, pauses = iter([0.0, lease.STALE_S, lease.STALE_S + 0.1]), list[float]()
    monkeypatch.setattr(s3, "_age_s", lambda answer: next(ages))
    monkeypatch.setattr(lease, "time", SimpleNamespace(sleep=pauses.append))
    with store.lock(folder, 0.0):
        assert b"another" not in store.read_bytes(path)
    assert len(pauses) == (2 if store.on_disk(folder) is None else 0)


@pytest.fixture
def tree(folder: Path, store: Store) -> Path:
    names = (
        "sweep.yaml",
        "a/record.json",
        "a/deep/x",
        "b/record.json",
        "b/metrics/m.jsonl",
        "c/other",
        "t/part-1",
        "t/u/y",
    )
    for name in names:
        store.make_folder((folder / name).parent)
        store.write_bytes(folder / name, name.encode())
    return folder


def test_files_below_are_listed(tree: Path, store: Store) -> None:
    assert store.files_below(tree / "b") == ["metrics/m.jsonl", "record.json"]
    assert len(store.files_below(tree)) == 8
    assert store.files_below(tree / "nothing") == []


def test_tags_below_are_those_of_their_versions(tree: Path, store: Store) -> None:
    found = store.tags_below(tree, ("sweep.yaml", "t", "missing"), ("record.json", "metrics/m.jsonl"))
    assert sorted(found) == ["a/record.json", "b/metrics/m.jsonl", "b/record.json", "sweep.yaml", "t/part-1"]
    for name, tag in found.items():
        version = store.read_version(tree / name)
        assert version is not None and version.tag == tag
    assert not store.tags_below(tree / "nothing", ("x",), ("y",))


def test_folders_with_a_file_are_found(tree: Path, store: Store) -> None:
    assert store.folders_with(tree, ("record.json",)) == ["a", "b"]
    assert store.folders_with(tree, ("record.json", "other")) == ["a", "b", "c"]
    assert store.folders_with(tree, ("metrics/m.jsonl",)) == ["b"]
    assert store.folders_with(tree, ("x", "y")) == []
    assert store.folders_with(tree, ("x", "y"), depth=2) == ["a/deep", "t/u"]
    assert store.folders_with(tree, ("record.json", "x"), depth=3) == ["a", "b"], "not what lies in one that was found"
    assert store.folders_with(tree / "nothing", ("x",), depth=2) == []


def test_paths_from_the_root(folder: Path, store: Store) -> None:
    assert store.absolute(folder) == folder
    on_disk, (text, filesystem) = store.on_disk(folder), store.arrow(folder)
    assert (on_disk is None) == (filesystem is not None)
    assert store.is_folder(folder) and str(folder).endswith(text)
    assert store_of(as_folder(str(folder))) is store


def test_each_keeps_the_order_and_what_is_raised(store: Store) -> None:
    assert store.each(lambda x: x * x, range(40)) == [x * x for x in range(40)]
    with pytest.raises(ZeroDivisionError):
        store.each(lambda x: 1 // x, [1, 0])


# -- Refusals ----------------------------------------------------------------------------------------------------------


def test_storage_that_refuses_for_a_while_is_asked_again(
    folder: Path, store: Store, refusing: Callable[[int], list[str]]
) -> None:
    refused = refusing(2)
    patiently()(store.write_bytes, folder / "x", b"written in the end")
    assert len(refused) == 2
    assert store.read_bytes(folder / "x") == b"written in the end"


def test_patience_ends(folder: Path, store: Store, refusing: Callable[[int], list[str]]) -> None:
    refused = refusing(10**6)
    with pytest.raises((OSError, StorageError), match="Input/output error"), patience_of(0.6):
        patiently()(store.write_bytes, folder / "x", b"never")
    assert len(refused) >= 2
    assert store.files_below(folder) == []


def test_a_place_that_takes_no_folder_is_refused_before_anything_is_written(folder: Path, store: Store) -> None:
    store.check(folder, writing=True)
    store.check_new(folder / "a" / "b")
    assert store.files_below(folder) == []
    store.write_bytes(folder / "x", b"a file")
    taken = folder / "x" / "y" if store.on_disk(folder) else as_folder("s3://no-such-bucket/y")
    with pytest.raises(StorageError, match=r"name (one|another)"):
        store.check_new(taken)
