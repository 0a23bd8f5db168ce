"""What `jax_party.trial` promises of the files in a trial's folder."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import synthetic_sweep
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from jax_party.errors import RecordError
from jax_party.judging.aggregate import Aggregate
from jax_party.judging.objectives import Objective
from jax_party.store.flock import changing
from jax_party.store.protocol import FolderHeld
from jax_party.store.storage import lock_folder
from jax_party.trial import provenance
from jax_party.trial import record as record_module
from jax_party.trial.folder import create_trial_folder, read_config, read_record, update_record, write_record
from jax_party.trial.identity import new_trial_id
from jax_party.trial.judged import hyperparameters_at, judged_hyperparameters
from jax_party.trial.manifest import SweepManifest, read_manifest, write_manifest
from jax_party.trial.marl_eval import write_marl_eval
from jax_party.trial.metrics import append_metrics, read_metrics, truncate_metrics
from jax_party.trial.provenance import PACKAGES, _git_state, current_provenance, utc_timestamp
from jax_party.trial.record import Span, Takeover, TrialRecord, VaultEntry, spans_until_now
from jax_party.trial.states import State
from jax_party.trial.upgrades import SCHEMA_VERSION

ROOT = Path(__file__).parents[2]

texts = st.text(st.characters(codec="utf-8"), max_size=8)
numbers = st.floats(allow_nan=False, allow_infinity=False)
counts = st.integers(0, 2**53)
cells = st.none() | st.booleans() | st.integers() | numbers | texts | st.lists(st.integers(), max_size=3)
modes = st.sampled_from(["max", "min"])
some_records = st.builds(
    TrialRecord,
    schema_version=st.just(SCHEMA_VERSION),
    trial_id=texts,
    number=counts,
    sweep=st.none() | texts,
    engine=texts,
    engine_version=st.none() | texts,
    algorithm=texts,
    environment=texts,
    scenario=texts,
    seed=st.integers(),
    hyperparameters=st.dictionaries(texts, cells, max_size=3),
    objective=st.builds(
        Objective,
        texts,
        modes,
        st.sampled_from(list(map(str, Aggregate))),
        st.lists(st.tuples(texts, modes), max_size=2).map(tuple),
        st.dictionaries(texts, numbers, max_size=2),
    ),
    lineage=st.lists(
        st.builds(Takeover, counts, texts, counts, st.dictionaries(texts, cells, max_size=2)), max_size=2
    ).map(tuple),
    num_seeds=counts,
    promoted_from=st.none() | texts,
    retries=st.lists(texts, max_size=2).map(tuple),
    batch=st.none() | texts,
    compile_time_saved_s=st.none() | numbers,
    compile_cache=st.none() | st.sampled_from(["process", "disk", "miss"]),
    state=st.sampled_from(State),
    error=st.none() | texts,
    attempts=counts,
    started_at=st.none() | texts,
    ended_at=st.none() | texts,
    spans=st.lists(st.builds(Span, texts, texts, texts), max_size=2).map(tuple),
    duration_s=numbers,
    device=st.none() | texts,
    host=st.none() | texts,
    git_sha=st.none() | texts,
    git_dirty=st.none() | st.booleans(),
    versions=st.dictionaries(texts, st.none() | texts, max_size=3),
    compile_signature=st.none() | texts,
    compile_time_s=st.none() | numbers,
    steps_per_second=st.none() | numbers,
    env_steps=counts,
    total_steps=counts,
    absolute_metrics=st.none() | st.dictionaries(texts, st.none() | numbers, max_size=3),
    vaults=st.lists(st.builds(VaultEntry, texts, st.sampled_from(["train", "test"]), counts, counts)).map(tuple),
    checkpoint=st.none() | texts,
)


# -- record.json -------------------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(record=some_records)
def test_a_record_comes_back_from_json_as_it_was(record: TrialRecord) -> None:
    assert TrialRecord.from_dict(json.loads(json.dumps(record.to_dict()))) == record


def test_a_record_of_version_1_is_read() -> None:
    """Which knew one seed a trial."""
    written = synthetic_sweep.record_of(0).to_dict() | {"schema_version": 1}
    later = ("num_seeds", "promoted_from", "retries", "batch", "compile_time_saved_s", "compile_cache", "lineage")
    for key in (*later, "engine", "engine_version", "spans", "final_metrics"):
        del written[key]
    for key in ("aggregate", "others", "constraints", "at"):
        del written["objective"][key]
    assert TrialRecord.from_dict(written) == before_rules()


def test_a_record_of_version_2_is_read() -> None:
    """Which knew one objective, and no populations."""
    written = synthetic_sweep.record_of(0).to_dict() | {"schema_version": 2}
    del written["lineage"], written["objective"]["others"], written["objective"]["constraints"]
    del written["engine"], written["engine_version"], written["spans"], written["objective"]["at"]
    assert TrialRecord.from_dict(written) == before_rules()


def test_a_record_of_version_3_is_read() -> None:
    """Which knew one engine, whose version is the commit."""
    now = before_rules(git_sha="abc", engine_version="abc")
    written = now.to_dict() | {"schema_version": 3}
    del written["engine"], written["engine_version"], written["spans"], written["objective"]["at"]
    assert (now.engine, TrialRecord.from_dict(written)) == ("native", now)


def test_a_record_of_version_4_is_read() -> None:
    """Which knew no spans."""
    written = synthetic_sweep.record_of(0).to_dict() | {"schema_version": 4}
    del written["spans"], written["objective"]["at"], written["final_metrics"]
    assert TrialRecord.from_dict(written) == before_rules()


def test_a_record_of_version_5_keeps_its_rule() -> None:
    """Which judged each seed by its own best evaluation."""
    written = synthetic_sweep.record_of(0).to_dict() | {"schema_version": 5}
    del written["objective"]["at"], written["final_metrics"]
    assert TrialRecord.from_dict(written) == before_rules()
    assert TrialRecord.from_dict(written).objective.at == "best-per-seed"


def before_rules(**changes: Any) -> TrialRecord:
    """A record as versions before 6 are read."""
    return synthetic_sweep.record_of(0, **changes, objective=Objective("episode_return", "max", at="best-per-seed"))


def test_spans_grow_as_long_as_one_process_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    record = synthetic_sweep.record_of(0, spans=(Span("alpha:1", "then", "later"),))
    monkeypatch.setattr(record_module, "utc_timestamp", lambda: "now")
    first = spans_until_now(record, "start")
    worker = f"{socket.gethostname()}:{os.getpid()}"
    assert first == (*record.spans, Span(worker, "start", "now"))
    monkeypatch.setattr(record_module, "utc_timestamp", lambda: "after that")
    went_on = dataclasses.replace(record, spans=first)
    assert spans_until_now(went_on, "start") == (*record.spans, Span(worker, "start", "after that"))
    assert len(spans_until_now(went_on, "again")) == 3, "one that was taken up once more"


def test_a_populations_trial_is_judged_by_the_values_of_its_best_evaluation() -> None:
    """It had 1 until step 200, 2 until 400, and 3 since; the evaluation at a takeover's step comes before that."""
    values = [{"system.actor_lr": float(value)} for value in (1, 2, 3)]
    lineage = (Takeover(200, "other", 100, values[0]), Takeover(400, "other", 300, values[1]))
    record = synthetic_sweep.record_of(0, lineage=lineage, hyperparameters=values[2], num_seeds=1)
    assert [hyperparameters_at(record, step) for step in (200, 300, 400, 500, None)] == [
        values[0], values[1], values[1], values[2], values[2],
    ]  # fmt: skip
    for best, expected in ((200, values[0]), (300, values[1]), (500, values[2])):
        rows = [{"step": step, "seed": 0, "evaluate": {"episode_return": float(step == best)}}
                for step in range(100, 600, 100)]  # fmt: skip
        assert judged_hyperparameters(record, rows) == expected
    assert judged_hyperparameters(record, []) == values[2], "nothing measured yet"


@settings(max_examples=15, deadline=None)
@given(record=some_records)
def test_a_record_comes_back_from_its_file_as_it_was(record: TrialRecord) -> None:
    with tempfile.TemporaryDirectory() as folder:
        write_record(Path(folder), record)
        assert read_record(Path(folder)) == record
        assert os.listdir(folder) == ["record.json"]


def test_the_fields_are_those_of_the_design() -> None:
    design = (ROOT / "docs" / "design.md").read_text()
    table = design.split("### record.json")[1].split("### metrics.jsonl")[0]
    cells = [line.split("|")[1] for line in table.splitlines() if line.startswith("| `")]
    named = [name for cell in cells for name in re.findall(r"`(\w+)`", cell)]
    assert [field.name for field in dataclasses.fields(TrialRecord)] == named


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema_version": 7}, "schema_version: 7 is newer than 6, the newest that is known here; upgrade jax-party"),
        ({"schema_version": 0}, "schema_version: unknown version 0"),
        ({"schema_version": None}, "schema_version: expected 6, got None"),
        ({"state": "DONE"}, "state: expected one of PENDING, RUNNING, COMPLETE, FAILED, PRUNED, got 'DONE'"),
        ({"number": -1}, "number: expected an integer of 0 or more, got -1"),
        ({"seed": True}, "seed: expected an integer, got True"),
        ({"duration_s": "1"}, "duration_s: expected a number, got '1'"),
        (
            {"objective": {"metric": "m", "mode": "best"}},
            "objective: expected {metric: a string, mode: max or min, aggregate: mean or",
        ),
        ({"vaults": [{"uid": "u"}]}, "vaults: expected a list of {uid, kind: train or test, rows, steps}"),
        ({"colour": "red"}, "colour: unknown key with value 'red'"),
    ],
)
def test_a_bad_key_is_named_with_its_file(trial: Path, change: dict[str, Any], message: str) -> None:
    path = trial / "record.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(RecordError) as caught:
        read_record(trial)
    assert str(caught.value).startswith(f"{path}: {message}")


def test_a_missing_key_is_named_with_its_file(trial: Path) -> None:
    path = trial / "record.json"
    data = json.loads(path.read_text())
    del data["algorithm"]
    path.write_text(json.dumps(data))
    with pytest.raises(RecordError, match=re.escape(f"{path}: algorithm: missing; expected a string")):
        read_record(trial)


@pytest.mark.parametrize("content", ["", "{", "[]", "nonsense"])
def test_a_file_that_is_no_record_is_one_error(trial: Path, content: str) -> None:
    (trial / "record.json").write_text(content)
    with pytest.raises(RecordError, match=r"record\.json: (not JSON|expected an object)"):
        read_record(trial)


def test_a_folder_without_a_record_is_one_error(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match=r"record\.json: no such file; give a trial's folder"):
        read_record(tmp_path)


def test_update_changes_the_named_fields_alone(trial: Path) -> None:
    before = read_record(trial)
    after = update_record(trial, state="RUNNING", attempts=1, steps_per_second=float("nan"))
    assert after.state is State.RUNNING
    assert (after.attempts, after.steps_per_second) == (1, None)
    assert after == read_record(trial) == dataclasses.replace(before, state=State.RUNNING, attempts=1)


@pytest.mark.parametrize("change", [{"colour": "red"}, {"attempts": "one"}, {"state": "DONE"}, {"duration_s": np.inf}])
def test_an_update_that_is_refused_leaves_the_file(trial: Path, change: dict[str, Any]) -> None:
    before = (trial / "record.json").read_bytes()
    with pytest.raises(RecordError, match=next(iter(change))):
        update_record(trial, **change)
    assert (trial / "record.json").read_bytes() == before


def test_an_infinite_hyperparameter_is_refused_not_dropped() -> None:
    with pytest.raises(RecordError, match="hyperparameters"):
        synthetic_sweep.record_of(0, hyperparameters={"system.max_grad_norm": float("inf")}).to_dict()


# -- Identity ----------------------------------------------------------------------------------------------------------


def test_a_trial_id_is_the_sweep_name_and_eight_hex_digits_of_the_content() -> None:
    config = {"b": 1e-05, "a": [1, 2]}
    # sha256 of '{"config":{"a":[1,2],"b":1e-05},"seed":7}'
    assert new_trial_id("demo", config, 7) == "demo-46b1b32c"
    assert new_trial_id("demo", {"a": (1, 2), "b": np.float64(1e-05)}, 7) == "demo-46b1b32c"


def test_a_trial_id_depends_on_config_and_seed() -> None:
    ids = {new_trial_id("demo", {"lr": lr}, seed) for lr in (0.1, 0.10000000000000001, 0.2) for seed in (1, 2)}
    assert len(ids) == 4


@pytest.mark.parametrize("name", ["", "a/b", "..", "-x", "a b"])
def test_a_name_that_cannot_name_a_folder_is_refused(name: str) -> None:
    with pytest.raises(RecordError, match="it names folders"):
        new_trial_id(name, {}, 0)


def test_a_config_that_json_cannot_hold_is_refused_by_its_key() -> None:
    with pytest.raises(RecordError, match=r"config: config: system: net: .* is a object"):
        new_trial_id("demo", {"system": {"net": object()}}, 0)


# -- The folder --------------------------------------------------------------------------------------------------------


def test_creating_a_folder_again_keeps_what_its_trial_has_reached(trial: Path) -> None:
    update_record(trial, state=State.RUNNING, attempts=2)
    create_trial_folder(trial, synthetic_sweep.config_of(0), synthetic_sweep.record_of(0))
    assert read_record(trial).attempts == 2
    assert read_config(trial) == synthetic_sweep.config_of(0)


def test_creating_another_trial_in_the_folder_is_refused(trial: Path) -> None:
    with pytest.raises(RecordError, match="trial_id: the folder holds another trial"):
        create_trial_folder(trial, synthetic_sweep.config_of(1), synthetic_sweep.record_of(1))
    with pytest.raises(RecordError, match="another config"):
        create_trial_folder(trial, synthetic_sweep.config_of(1), synthetic_sweep.record_of(0))


def test_the_record_is_written_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[str] = []
    replace = os.replace

    def note(source: Any, target: Any) -> None:
        written.append(Path(target).name)
        replace(source, target)

    monkeypatch.setattr(os, "replace", note)
    create_trial_folder(tmp_path / "t", synthetic_sweep.config_of(0), synthetic_sweep.record_of(0))
    assert written == ["config.yaml", "record.json"]


def test_a_folder_whose_creation_was_killed_is_made_whole(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("half: [")
    create_trial_folder(tmp_path, synthetic_sweep.config_of(0), synthetic_sweep.record_of(0))
    assert read_config(tmp_path) == synthetic_sweep.config_of(0)


def test_a_crash_before_the_rename_leaves_the_old_file(trial: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = (trial / "record.json").read_bytes()

    def crash(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", crash)
    with pytest.raises(KeyboardInterrupt):
        update_record(trial, state=State.RUNNING)
    assert (trial / "record.json").read_bytes() == before
    assert sorted(os.listdir(trial)) == ["config.yaml", "record.json"]


def python(code: str, folder: Path) -> subprocess.Popen[str]:
    """Another process that runs `code` with the trial's folder as `folder`."""
    begin = (
        "import os, sys, time; from pathlib import Path; from jax_party.trial.folder import update_record\n"
        "from jax_party.store.storage import lock_folder\n"
        "folder = Path(sys.argv[1])\n"
    )
    command = [sys.executable, "-c", begin + code, str(folder)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)


def test_a_record_that_is_no_text_is_one_error_also_for_who_changes_it(trial: Path) -> None:
    (trial / "record.json").write_bytes(b'{"trial_id": "\xff"}')
    for use in (read_record, lambda folder: update_record(folder, state=State.RUNNING)):
        with pytest.raises(RecordError, match=r"record\.json: "):
            use(trial)


def test_a_process_killed_before_the_rename_leaves_the_old_file(trial: Path) -> None:
    code = "os.replace = lambda *_: os._exit(9)\nupdate_record(folder, state='RUNNING')"
    with python(code, trial) as process:
        assert process.wait(30) == 9
    assert len(list(trial.glob(".record.json.*.tmp"))) == 1
    assert read_record(trial).state is State.PENDING
    assert update_record(trial, state=State.RUNNING).state is State.RUNNING


def test_no_change_of_a_record_is_lost_between_two_processes(trial: Path) -> None:
    """Read, changed and written without a lock, a hundred changes of each left 103 of 200."""
    code = (
        "from jax_party.trial.folder import add_retry\nprint('go', flush=True)\nsys.stdin.readline()\n"
        "for number in range(100): add_retry(folder, f'{os.getpid()} {number}')"
    )
    begin = "import os, sys; from pathlib import Path; folder = Path(sys.argv[1])\n"
    command = [sys.executable, "-c", begin + code, str(trial)]
    pipes: Any = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "cwd": ROOT}
    with subprocess.Popen(command, **pipes) as one, subprocess.Popen(command, **pipes) as other:
        assert {process.stdout.readline() for process in (one, other) if process.stdout} == {"go\n"}
        for process in (one, other):
            assert process.stdin is not None
            process.stdin.write("go\n")
            process.stdin.flush()
        assert (one.wait(60), other.wait(60)) == (0, 0)
    found = [note.split(" ", 1)[1] for note in read_record(trial).retries]
    assert sorted(found) == sorted(f"{process.pid} {number}" for process in (one, other) for number in range(100))


def test_a_record_that_is_being_changed_is_waited_for_and_then_named(trial: Path) -> None:
    code = (
        "from jax_party.store.flock import changing\n"
        "with changing(folder):\n  print('held', flush=True)\n  time.sleep(60)"
    )
    with python(code, trial) as process:
        assert process.stdout is not None and process.stdout.readline() == "held\n"
        with (
            pytest.raises(FolderHeld, match=r"another process has been changing it for 0\.05 s"),
            changing(trial, 0.05),
        ):
            pass
        process.kill()
    with changing(trial):
        pass


def test_a_folder_has_one_holder_at_a_time(trial: Path) -> None:
    code = "with lock_folder(folder):\n  print('held', flush=True)\n  time.sleep(60)"
    with python(code, trial) as process:
        assert process.stdout is not None and process.stdout.readline() == "held\n"
        with pytest.raises(RecordError) as caught, lock_folder(trial, timeout=0.05):
            pass
        process.kill()
    assert f"{trial}: process {process.pid} on " in str(caught.value)
    with lock_folder(trial, timeout=5):
        pass


def test_locking_nothing_is_one_error(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match="no such folder to lock"), lock_folder(tmp_path / "absent"):
        pass


# -- metrics.jsonl -----------------------------------------------------------------------------------------------------


def test_rows_come_back_in_order_and_nan_is_null(trial: Path) -> None:
    append_metrics(trial, {"step": 1, "evaluate": {"r": float("nan"), "s": np.float32(0.5)}, "x": np.arange(2)})
    append_metrics(trial, {"step": np.int64(2), "evaluate": {"r": float("-inf")}})
    assert read_metrics(trial) == [
        {"step": 1, "evaluate": {"r": None, "s": 0.5}, "x": [0, 1]},
        {"step": 2, "evaluate": {"r": None}},
    ]
    assert "NaN" not in (trial / "metrics" / "metrics.jsonl").read_text()


def test_a_trial_without_metrics_has_no_rows(trial: Path) -> None:
    truncate_metrics(trial, 0)
    assert read_metrics(trial) == []


@settings(max_examples=40, deadline=None)
@given(cut=st.integers(1, 400), then=st.sampled_from(["append", "truncate"]))
def test_whatever_a_kill_cuts_off_the_whole_lines_stay(cut: int, then: str) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        rows = [synthetic_sweep.row_of(0, evaluation) for evaluation in (1, 2)]
        for row in rows:
            append_metrics(folder, row)
        path = folder / "metrics" / "metrics.jsonl"
        content = path.read_bytes()[: -min(cut, path.stat().st_size)]
        path.write_bytes(content)
        whole = rows[: content.count(b"\n")]
        assert read_metrics(folder) == whole
        if then == "append":
            append_metrics(folder, {"step": 300})
            assert read_metrics(folder) == [*whole, {"step": 300}]
        else:
            truncate_metrics(folder, 10**9)
            assert path.read_bytes() == content[: content.rfind(b"\n") + 1]


@pytest.mark.parametrize(
    ("line", "reason"),
    [("{nonsense", "not JSON"), ("[]", "expected an object"), ('{"step": "1"}', "step: expected an")],
)
def test_a_corrupt_whole_line_is_named(trial: Path, line: str, reason: str) -> None:
    append_metrics(trial, {"step": 1})
    path = trial / "metrics" / "metrics.jsonl"
    path.write_text(path.read_text() + line + '\n{"step": 3}\n')
    for act in (lambda: read_metrics(trial), lambda: truncate_metrics(trial, 1)):
        with pytest.raises(RecordError, match=re.escape(f"{path}: line 2: {reason}")):
            act()


def test_a_row_without_a_step_is_not_written(trial: Path) -> None:
    with pytest.raises(RecordError, match="step: expected an integer, got None"):
        append_metrics(trial, {"evaluate": {}})
    assert read_metrics(trial) == []


def test_truncating_keeps_rows_up_to_the_step(trial: Path) -> None:
    for step in (100, 200, 300):
        append_metrics(trial, {"step": step})
    append_metrics(trial, {"step": 300, "absolute": True})
    truncate_metrics(trial, 300)
    assert len(read_metrics(trial)) == 4
    truncate_metrics(trial, 299)
    assert read_metrics(trial) == [{"step": 100}, {"step": 200}]
    truncate_metrics(trial, 0)
    assert read_metrics(trial) == []


# -- marl-eval ---------------------------------------------------------------------------------------------------------


def test_marl_eval_has_its_levels_steps_and_absolute_metrics(trial: Path) -> None:
    synthetic_sweep.complete(trial, 0)
    write_marl_eval(trial)
    assert json.loads((trial / "metrics" / "metrics.json").read_text()) == {
        "JaxParty": {"p-base": {"ff_mappo": {"seed_42": {
            "step_0": {"step_count": 100, "elapsed_time": 0.0, "episode_return": [0.0, 2.0]},
            "step_1": {"step_count": 200, "elapsed_time": 1.0, "episode_return": [4.0, 6.0]},
            "step_2": {"step_count": 300, "elapsed_time": 2.0, "episode_return": [2.0, 4.0]},
            "absolute_metrics": {"episode_return": [4.0, 6.0, 8.0]},
        }}}}
    }  # fmt: skip


def test_marl_eval_uses_means_where_there_are_no_episodes(trial: Path) -> None:
    append_metrics(trial, {"step": 1, "evaluate": {"a": 1.0, "b": 2.0, "c": float("nan")}})
    append_metrics(trial, {"step": 2, "evaluate": {"a": 3.0, "b": None, "c": 1.0}})
    update_record(trial, absolute_metrics={"a": 3.5, "b": 1.0})
    write_marl_eval(trial)
    run = json.loads((trial / "metrics" / "metrics.json").read_text())["JaxParty"]["p-base"]["ff_mappo"]["seed_42"]
    assert run == {
        "step_0": {"step_count": 1, "elapsed_time": 0.0, "a": [1.0]},
        "step_1": {"step_count": 2, "elapsed_time": 0.0, "a": [3.0]},
        "absolute_metrics": {"a": [3.5]},
    }


def test_marl_eval_of_a_trial_that_has_not_begun_is_empty(trial: Path) -> None:
    write_marl_eval(trial)
    run = json.loads((trial / "metrics" / "metrics.json").read_text())["JaxParty"]["p-base"]["ff_mappo"]["seed_42"]
    assert run == {"absolute_metrics": {}}


# -- sweep.yaml and provenance -----------------------------------------------------------------------------------------


def manifest(**changes: Any) -> SweepManifest:
    values: dict[str, Any] = {
        "name": "demo", "algorithm": "ff_mappo", "created": utc_timestamp(), "num_trials": 4,
        "objective": Objective("episode_return", "max"), "seed": 1, "search": "optuna", "algorithms": ("ff_mappo",),
        "scheduler": {"name": "asha"}, "space": {"system.actor_lr": {"low": 1e-5}}, "overrides": ["a=1"],
        "provenance": {"git_sha": None},
    }  # fmt: skip
    return SweepManifest(**{**values, **changes})


def test_a_manifest_comes_back_as_it_was(tmp_path: Path) -> None:
    write_manifest(tmp_path / "new", manifest())
    back = read_manifest(tmp_path / "new")
    assert dataclasses.replace(back, created="") == manifest(created="")


def test_a_manifest_from_before_there_were_several_seeds_is_read(tmp_path: Path) -> None:
    write_manifest(tmp_path, manifest())
    written = yaml.safe_load((tmp_path / "sweep.yaml").read_text())
    new = ("samples", "sampler", "scenario_mode", "warm_start")
    for key in ("algorithms", "num_seeds", "pack", "gpus_per_trial", "budget", *new):
        del written[key]
    for key in ("aggregate", "others", "constraints"):
        del written["objective"][key]
    (tmp_path / "sweep.yaml").write_text(yaml.safe_dump(written))
    back = read_manifest(tmp_path)
    assert (back.num_seeds, back.objective) == (1, Objective("episode_return", "max", "mean"))
    assert back.algorithms == (back.algorithm,)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("name: demo\n", "algorithm: missing"),
        ("[1, 2]\n", "expected a mapping"),
        ("a: [\n", "not YAML"),
        (None, "no such file; give a sweep's folder"),
    ],
)
def test_a_bad_manifest_is_one_error(tmp_path: Path, content: str | None, message: str) -> None:
    if content is not None:
        (tmp_path / "sweep.yaml").write_text(content)
    with pytest.raises(RecordError, match=r"sweep\.yaml: .*" + message):
        read_manifest(tmp_path)


def test_a_manifest_with_an_ill_typed_field_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match="num_trials: expected an integer of 0 or more, got 'x'"):
        write_manifest(tmp_path, manifest(num_trials="x"))
    assert not (tmp_path / "sweep.yaml").exists()


def test_provenance_names_what_is_needed_and_cannot_be_spoilt() -> None:
    found = current_provenance()
    assert list(found) == ["git_sha", "git_dirty", "versions", "host", "python", "platform"]
    assert found["versions"]["numpy"] == np.__version__
    assert list(found["versions"]) == list(PACKAGES)
    found["versions"].clear()
    assert current_provenance()["versions"]["numpy"] == np.__version__


def test_there_is_no_git_state_outside_a_checkout(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(provenance, "_git", lambda *_: None)
    assert _git_state() == (None, None)


# -- Threads -----------------------------------------------------------------------------------------------------------

FIRST_READS = """
import sys, threading
from pathlib import Path
from jax_party.trial.record import parse_record
sys.setswitchinterval(1e-6)
text, together, read = sys.stdin.read(), threading.Barrier(4), []
def first():
    together.wait()
    read.append(parse_record(text, Path("record.json")))
threads = [threading.Thread(target=first) for _ in range(4)]
[thread.start() for thread in threads], [thread.join() for thread in threads]
assert len(read) == 4 and all(record == read[0] for record in read)
"""


def test_threads_may_read_the_first_records_at_once() -> None:
    """In a new process, six times: two of three such processes used to crash in the library that checks the types."""
    text = json.dumps(synthetic_sweep.record_of(0).to_dict())
    for _ in range(6):
        done = subprocess.run(
            [sys.executable, "-c", FIRST_READS], input=text, text=True, capture_output=True, timeout=60
        )
        assert done.returncode == 0, done.stderr
