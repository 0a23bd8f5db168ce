"""What differs between two trials or sweeps is named, and no more; their scores have the interval of the difference."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import report_sweep
import yaml
from scipy import stats

from jax_party.errors import RecordError
from jax_party.judging.objectives import Objective
from jax_party.store.files import write_bytes_atomically
from jax_party.trial.folder import create_trial_folder, read_record, trial_folders
from jax_party.trial.judged import judge_trial
from jax_party.trial.metrics import append_metrics, read_metrics
from jax_party.trial.record import TrialRecord
from jax_party.trial.states import State
from results import compare, differences, write_index
from results.analysis import diff
from results.analysis.diff import ABSENT, Difference

CONFIG: dict[str, Any] = {
    "system": {"actor_lr": 0.001, "add_agent_id": True, "decay": None, "seed": 3},
    "network": {"layers": [64, 64]},
}


def make_trial(
    root: Path, name: str, values: Sequence[float], config: dict[str, Any] | None = None, **changes: Any
) -> Path:
    """A trial that ended with an absolute metric a seed, where `make diff` looks for ids."""
    folder = root / "ff_ippo" / "2026-01-02" / "03-04-05" / name
    given: dict[str, Any] = {
        "trial_id": name, "algorithm": "ff_ippo", "environment": "JaxParty", "scenario": "p-base", "seed": 3,
        "num_seeds": len(values), "hyperparameters": {"system.actor_lr": 0.001}, "versions": {"jax": "0.10.2"},
        "git_sha": "abc", "git_dirty": False, "host": "alpha", "device": "cpu:1", "state": State.COMPLETE,
    }  # fmt: skip
    record = TrialRecord(**{**given, **changes})
    create_trial_folder(folder, config or CONFIG, record)
    for index, value in enumerate(values):
        row = {"step": 10, "seed": record.seed + index, "final": True, "evaluate": {"episode_return": value}}
        append_metrics(folder, row)
    return folder


def rows(found: Difference) -> list[tuple[Any, ...]]:
    return [tuple(row) for row in found.differences.itertuples(index=False)]


def test_equal_trials_differ_in_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_trial(tmp_path, "one", [1.0, 2.0])
    make_trial(tmp_path, "other", [1.0, 2.0])
    found = differences("one", "other", tmp_path)
    assert rows(found) == [] and (found.kind, found.a, found.b) == ("trials", "one", "other")
    (score,) = found.scores.to_dict("records")
    assert (score["difference"], score["difference_low"], score["difference_high"]) == (0.0, 0.0, 0.0)
    assert diff.main(["one", "other", f"--root={tmp_path}"]) == 0
    assert "nothing" in capsys.readouterr().out


def test_each_thing_that_differs_is_named_and_no_other(tmp_path: Path) -> None:
    config = {
        "system": {"actor_lr": 0.002, "add_agent_id": 1, "decay": 0.5, "seed": 3, "extra": "x"},
        "network": {"layers": [64, 32]},
    }
    a = make_trial(tmp_path, "one", [1.0])
    b = make_trial(
        tmp_path, "other", [2.0], config, hyperparameters={"system.actor_lr": 0.002}, git_sha="def", git_dirty=True,
        versions={"jax": "0.10.3", "ray": "2"}, host="beta", device="gpu:1",
        objective=Objective("episode_return", "max", constraints={"min_equality": 0.5}),
    )  # fmt: skip
    assert rows(differences(a, b)) == [
        ("hyperparameters", "system.actor_lr", 0.001, 0.002),
        ("settings", "network.layers", "[64, 64]", "[64, 32]"),
        ("settings", "system.add_agent_id", True, 1),
        ("settings", "system.decay", None, 0.5),
        ("settings", "system.extra", ABSENT, "x"),
        ("objective", "constraints.min_equality", ABSENT, 0.5),
        ("code", "git_dirty", False, True),
        ("code", "git_sha", "abc", "def"),
        ("versions", "jax", "0.10.2", "0.10.3"),
        ("versions", "ray", ABSENT, "2"),
        ("machine", "device", "cpu:1", "gpu:1"),
        ("machine", "host", "alpha", "beta"),
    ]
    swapped = differences(b, a)
    assert rows(swapped) == [(part, name, b, a) for part, name, a, b in rows(differences(a, b))]


def test_equal_seeds_are_paired(tmp_path: Path) -> None:
    """By hand: the differences 1, 2, 3 have mean 2 and standard error 1/√3; t(0.975, 2) is 4.302653."""
    a, b = make_trial(tmp_path, "one", [10.0, 20.0, 30.0]), make_trial(tmp_path, "other", [11.0, 22.0, 33.0])
    found = differences(a, b)
    (score,) = found.scores.to_dict("records")
    half = 4.302653 / math.sqrt(3)
    assert (score["interval"], score["difference"]) == ("paired t", 2.0)
    assert (score["difference_low"], score["difference_high"]) == pytest.approx((2 - half, 2 + half), rel=1e-6)
    assert found.seeds.to_dict("list") == {
        "seed": [3, 4, 5], "a": [10.0, 20.0, 30.0], "b": [11.0, 22.0, 33.0], "difference": [1.0, 2.0, 3.0],
    }  # fmt: skip


def test_other_seeds_are_not_paired(tmp_path: Path) -> None:
    x, y = [1.0, 2.0, 4.0], [5.0, 9.0, 6.0, 7.0]
    found = differences(make_trial(tmp_path, "one", x), make_trial(tmp_path, "other", y, seed=5))
    (score,) = found.scores.to_dict("records")
    expected = stats.ttest_ind(y, x, equal_var=False).confidence_interval(0.95)
    assert score["interval"] == "Welch t"
    assert (score["difference_low"], score["difference_high"]) == pytest.approx((expected.low, expected.high))
    assert found.seeds["seed"].tolist() == [3, 4, 5, 6, 7, 8]
    assert found.seeds["difference"].dropna().tolist() == [1.0], "seed 5 is in both"


def test_scores_that_cannot_be_compared_are_told_and_the_rest_is_shown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_trial(tmp_path, "one", [1.0, 2.0])
    make_trial(tmp_path, "other", [3.0], objective=Objective("equality", "max"))
    found = differences("one", "other", tmp_path)
    note = "A is judged by episode_return (max) at final, B by equality (max) at final"
    assert found.note == note and found.scores.empty
    assert ("objective", "metric", "episode_return", "equality") in rows(found)
    assert diff.main(["one", "other", "--root", str(tmp_path)]) == 0
    assert f"Scores are not compared: {note}" in capsys.readouterr().out
    make_trial(tmp_path, "by-best", [3.0], objective=Objective("episode_return", "max", at="best"))
    note = "A is judged by episode_return (max) at final, B by episode_return (max) at best"
    assert differences("one", "by-best", tmp_path).note == note
    make_trial(tmp_path, "failed", [], num_seeds=2, state=State.FAILED)
    assert differences("one", "failed", tmp_path).note == "B has no score of every seed (FAILED)"


def test_one_seed_has_no_interval(tmp_path: Path) -> None:
    (score,) = differences(make_trial(tmp_path, "a", [1.0]), make_trial(tmp_path, "b", [2.0])).scores.to_dict("records")
    assert (score["difference"], score["interval"]) == (1.0, "none") and math.isnan(score["difference_low"])


# -- Sweeps ------------------------------------------------------------------------------------------------------------


def make_sweeps(path: Path) -> tuple[Path, Path]:
    """B has other seeds, a wider space, one setting more, and scores that are 4 higher."""
    a, b = report_sweep.make(path / "a"), report_sweep.make(path / "b")
    content = yaml.safe_load((b / "sweep.yaml").read_text())
    content |= {"seed": 2, "name": "demo-2"}
    content["space"]["system.actor_lr"]["high"] = 1.0
    content["overrides"]["arch.num_envs"] = 64
    content["provenance"]["versions"]["jax"] = "0.10.3"
    (b / "sweep.yaml").write_text(yaml.safe_dump(content))
    for record in [read_record(folder) for folder in trial_folders(b)]:
        judged = judge_trial(record, read_metrics(b / record.trial_id))
        values = [] if judged is None else judged.values("episode_return")
        report_sweep.rewrite(b, record.number, [value + 4.0 for value in values])
    for folder in (a, b):
        write_index(folder)
    return a, b


def test_sweeps_differ_by_their_manifests_and_their_best(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a, b = make_sweeps(tmp_path)
    found = differences(a, b)
    assert (found.kind, found.a, found.b, found.note) == ("sweeps", "demo", "demo-2", None)
    assert rows(found) == [
        ("settings", "overrides.arch.num_envs", ABSENT, 64),
        ("settings", "seed", 1, 2),
        ("settings", "space.system.actor_lr.high", 0.1, 1.0),
        ("versions", "jax", "0.10.2", "0.10.3"),
    ]
    pd.testing.assert_frame_equal(found.scores, compare(a, b))
    assert len(found.scores) == 4 and found.scores["difference"].tolist() == pytest.approx([4.0] * 4)
    assert diff.main([str(a), str(b)]) == 0
    first = capsys.readouterr().out
    assert "space.system.actor_lr.high" in first and "Scores, and their difference B - A" in first
    assert diff.main([str(a), str(b)]) == 0
    assert capsys.readouterr().out == first, "the same each time"


def test_sweeps_judged_by_other_rules_are_compared_with_a_warning(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    a = report_sweep.make(tmp_path / "a")
    b = report_sweep.make(tmp_path / "b", objective=Objective("episode_return", "max", at="best"))
    for folder in (a, b):
        write_index(folder)
    found = differences(a, b)
    assert found.note == "A is judged by final, B by best: their difference is one of rules, too"
    assert set(found.scores["at_a"]) == {"final"} and set(found.scores["at_b"]) == {"best"}
    assert diff.main([str(a), str(b)]) == 0
    assert f"Beware: {found.note}" in capsys.readouterr().out


def test_sweeps_that_are_not_collected_differ_all_the_same(tmp_path: Path) -> None:
    a, b = report_sweep.make(tmp_path / "a"), report_sweep.make(tmp_path / "b", configurations=2)
    found = differences(a, b)
    assert rows(found) == [("settings", "num_trials", 12, 8)]
    assert found.scores.empty and f"make it with: make collect SWEEP={a}" in str(found.note)


def test_a_trial_is_not_compared_with_a_sweep(tmp_path: Path) -> None:
    sweep, trial = report_sweep.make(tmp_path / "a"), make_trial(tmp_path, "one", [1.0])
    for pair, line in (((sweep, trial), "B: is a trial, and A a sweep"), ((trial, sweep), "A: is a trial, and B a sw")):
        with pytest.raises(RecordError, match=line) as refused:
            differences(*pair)
        assert f"name one of its trials, as make index SWEEP={sweep} lists them" in str(refused.value)


def test_what_is_not_there_is_told(tmp_path: Path) -> None:
    make_trial(tmp_path, "one", [1.0])
    with pytest.raises(RecordError, match=r"^B=none: no such trial or sweep, nor a trial of that id under"):
        differences("one", "none", tmp_path)
    second = tmp_path / "ff_ippo" / "2026-01-02" / "09-09-09" / "one"
    second.mkdir(parents=True)
    first = tmp_path / "ff_ippo" / "2026-01-02" / "03-04-05" / "one"
    (second / "record.json").write_text(json.dumps(read_record(first).to_dict()))
    with pytest.raises(RecordError, match=rf"^A=one: there are 2 trials of that id; give the path of one: {first}"):
        differences("one", first, tmp_path)


def test_trials_and_sweeps_on_remote_storage(bucket: Path, tmp_path: Path) -> None:
    a, b = make_sweeps(tmp_path)
    for folder in (a, b):
        for path in (path for path in folder.rglob("*") if path.is_file()):
            write_bytes_atomically(bucket / folder.name / str(path.relative_to(folder)), path.read_bytes())
    found, local = differences(f"{bucket}/a", b), differences(a, b)
    assert rows(found) == rows(local) and not found.scores.empty
    pd.testing.assert_frame_equal(found.scores, local.scores)
    one, other = "demo-00000000", "demo-00000001"
    assert rows(differences(str(bucket / "a" / one), a / other)) == rows(differences(a / one, a / other))
    with pytest.raises(RecordError, match=r"there is neither a trial nor a sweep there"):
        differences(str(bucket / "a" / "none"), a)
