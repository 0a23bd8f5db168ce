"""Versions, leases and patience on an S3 server."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from botocore.exceptions import EndpointConnectionError

from jax_party.errors import StorageError
from jax_party.store import lease, s3, storage
from jax_party.store.protocol import LOCK_FILE, ChangedError
from jax_party.store.retry import PATIENCE_VARIABLE
from jax_party.store.storage import as_folder, lock_folder, store_of
from jax_party.trial.folder import (
    add_retry,
    create_trial_folder,
    read_config,
    read_record,
    trial_folders,
    update_record,
)
from jax_party.trial.metrics import METRICS_FILE, read_metrics
from jax_party.trial.record import RECORD_FILE, TrialRecord
from jax_party.trial.states import State

RECORD = TrialRecord(trial_id="t", algorithm="a", environment="e", scenario="s", seed=0)


def test_a_folder_is_a_path_or_a_uri(tmp_path: Path) -> None:
    assert as_folder("a/b") == Path("a/b")
    assert as_folder(tmp_path) is tmp_path
    folder = as_folder("s3://bucket/prefix/")
    assert storage.is_remote(folder) and not storage.is_remote(tmp_path)
    assert str(folder / "x") == "s3://bucket/prefix/x"
    assert as_folder("s3://bucket//prefix") == folder
    assert store_of(folder).absolute(folder) == folder


@pytest.mark.parametrize("text", ["gs://bucket/x", "s3://", "s3:///", "http://host/x"])
def test_other_uris_are_refused(text: str) -> None:
    with pytest.raises(StorageError, match=r"expected a path or s3://bucket/prefix"):
        as_folder(text)


def test_what_speaks_s3_is_not_imported_for_local_folders() -> None:
    script = (
        "import sys; from jax_party.store import storage; storage.store_of(storage.as_folder('here')); "
        "print(sorted({'upath', 'fsspec', 's3fs', 'botocore', 'tenacity'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_only_the_version_that_was_read_is_replaced(bucket: Path) -> None:
    path = bucket / "x"
    assert store_of(path).read_version(path) is None
    tag = store_of(path).write_version(path, b"1", None)
    with pytest.raises(ChangedError):
        store_of(path).write_version(path, b"2", None)
    newer = store_of(path).write_version(path, b"2", tag)
    with pytest.raises(ChangedError):
        store_of(path).write_version(path, b"3", tag)
    there = store_of(path).read_version(path)
    assert there is not None and (there.content, there.tag) == (b"2", newer)
    with pytest.raises(ChangedError):  # another has written the very same
        store_of(path).write_version(path, b"2", tag)


@pytest.mark.parametrize("made_before", [False, True])
def test_a_write_whose_answer_is_lost_is_known_again(
    bucket: Path, monkeypatch: pytest.MonkeyPatch, made_before: bool
) -> None:
    path = bucket / "x"
    tag = store_of(path).write_version(path, b"1", None) if made_before else None
    filesystem, lost = s3._filesystem(path), []
    call = filesystem.call_s3

    def lose(method: str, **options: object) -> object:
        answer = call(method, **options)
        if method == "put_object" and not lost:
            lost.append(answer["ETag"])
            raise ConnectionResetError("gone")
        return answer

    monkeypatch.setattr(filesystem, "call_s3", lose)
    assert [store_of(path).write_version(path, b"2", tag)] == lost
    assert store_of(path).read_bytes(path) == b"2"


def test_records_of_several_writers_keep_every_change(bucket: Path) -> None:
    create_trial_folder(bucket / "t", {"x": 1}, RECORD)

    def note(writer: int) -> None:
        for number in range(5):
            add_retry(bucket / "t", f"{writer} {number}")

    threads = [threading.Thread(target=note, args=(writer,)) for writer in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    kept = [reason.split(" ", 1)[1] for reason in read_record(bucket / "t").retries]
    assert sorted(kept) == sorted(f"{writer} {number}" for writer in range(4) for number in range(5))


def test_trials_are_found_and_read(bucket: Path) -> None:
    for name in ("b", "a"):
        create_trial_folder(bucket / "sweep" / name, {"x": 1}, RECORD)
    (bucket / "sweep" / "lost" / METRICS_FILE).write_text('{"step": 1}\n')
    (bucket / "sweep" / "tune" / "deeper" / RECORD_FILE).write_text("{}")
    folders = trial_folders(bucket / "sweep", RECORD_FILE, METRICS_FILE)
    assert trial_folders(bucket / "sweep") == folders[:2]
    assert [folder.name for folder in folders] == ["a", "b", "lost"]
    assert read_config(folders[0]) == {"x": 1}
    assert update_record(folders[0], state=State.RUNNING) == read_record(folders[0])
    assert read_metrics(folders[2]) == [{"step": 1}]


def test_a_lease_is_held_by_one_that_lives(bucket: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "REFRESH_S", 0.2)
    with (
        lock_folder(bucket),
        pytest.raises(StorageError, match=rf"process {os.getpid()} on .* holds this folder"),
        lock_folder(bucket),
    ):
        pass
    with lock_folder(bucket):  # it was let go of
        pass
    assert not store_of(bucket).make_new_folder(bucket)
    assert store_of(bucket).make_new_folder(bucket / "new")
    with lock_folder(bucket / "new"):
        pass


def test_the_lease_of_the_dead_is_taken(bucket: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = bucket / LOCK_FILE
    gone = subprocess.Popen(["true"])
    gone.wait()
    holder = {"process": gone.pid, "host": socket.gethostname(), "boot": lease._boot_id()}
    path.write_text(json.dumps(holder))
    with lock_folder(bucket):
        assert json.loads(path.read_text())["process"] == os.getpid()
    path.write_text(json.dumps(holder | {"host": "another"}))
    monkeypatch.setattr(lease, "STALE_S", 1.0)
    with lock_folder(bucket):
        assert json.loads(path.read_text())["process"] == os.getpid()


def test_storage_that_refuses_for_a_while_is_asked_again(bucket: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (bucket / "x").write_bytes(b"1")
    nobody = EndpointConnectionError(endpoint_url="http://127.0.0.1:9")  # a server that is being started again
    failures = [ConnectionResetError("gone"), OSError(16, "SlowDown"), TimeoutError(), nobody]

    def read() -> str:
        if failures:
            raise failures.pop()
        return "read"

    assert s3.request(bucket, read) == "read"
    assert failures == []
    monkeypatch.setenv(PATIENCE_VARIABLE, "0.5")
    with pytest.raises(StorageError, match=r"s3://.*: storage has refused for 0\.5 s \(.*SlowDown\)"):
        s3.request(bucket, lambda: (_ for _ in ()).throw(OSError(16, "SlowDown")))
    with pytest.raises(FileNotFoundError):
        store_of(bucket).read_bytes(bucket / "nothing")


@pytest.mark.parametrize("denied", ["put_object", "delete_object"])
def test_credentials_that_may_only_read_are_refused_at_once(
    bucket: Path, monkeypatch: pytest.MonkeyPatch, denied: str
) -> None:
    """Before a sweep: no patience is had with them."""
    store_of(bucket).check(bucket, writing=True)
    assert store_of(bucket).files_below(bucket) == []
    filesystem = s3._filesystem(bucket)
    call, calls = filesystem.call_s3, []

    def refuse(method: str, *arguments: object, **options: object) -> object:
        calls.append(method)
        if method == denied:
            raise PermissionError("Access Denied")
        return call(method, *arguments, **options)

    monkeypatch.setattr(filesystem, "call_s3", refuse)
    store_of(bucket).check(bucket)
    with pytest.raises(StorageError, match=r"the credentials may read there, but not write and delete \(Access Denied"):
        store_of(bucket).check(bucket, writing=True)
    assert calls.count(denied) == 1


@pytest.mark.parametrize("name", storage.ENDPOINT_VARIABLES)
def test_a_password_in_the_endpoint_is_refused_and_never_shown(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "http://me:pa55@word@127.0.0.1:9")
    with pytest.raises(StorageError) as caught:
        as_folder("s3://b/x")
    assert str(caught.value).startswith(f"{name}=http://…@127.0.0.1:9: has a user or password in it; give them as AWS_")
    assert s3._reason(OSError('Could not connect to "http://me:pa55word@127.0.0.1:9/b"')) == (
        'Could not connect to "http://…@127.0.0.1:9/b"'
    )


def test_storage_is_checked_at_once(bucket: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store_of(bucket).check(bucket / "some" / "prefix")
    with pytest.raises(StorageError, match="there is no bucket nothing-here; create it, or name another"):
        store_of(bucket).check(as_folder("s3://nothing-here/x"))
    script = (
        "import sys; from jax_party.store.storage import as_folder, store_of; "
        "folder = as_folder(sys.argv[1]); store_of(folder).check(folder)"
    )
    for changes, message in (
        ({"AWS_ENDPOINT_URL": "http://127.0.0.1:9"}, "storage at http://127.0.0.1:9 does not answer"),
        ({"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": "", "AWS_EC2_METADATA_DISABLED": "true"},
         "the credentials are refused (Unable to locate credentials)"),
    ):  # fmt: skip
        environment = {k: v for k, v in (os.environ | changes).items() if v}
        done = subprocess.run([sys.executable, "-c", script, f"{bucket}"], env=environment, capture_output=True,
                              text=True, timeout=30)  # fmt: skip
        assert message in done.stderr.splitlines()[-1], done.stderr
        assert "a-secret-of-tests" not in done.stderr
