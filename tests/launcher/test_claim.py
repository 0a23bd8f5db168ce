"""Claims are written before anything runs, and tested on the seeds that they named, unless something was edited."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from rich.console import Console

from jax_party.errors import SweepError
from jax_party.judging.seeds import fresh_seeds
from jax_party.store.files import write_text_atomically
from jax_party.store.storage import as_folder, store_of
from jax_party.trial.folder import read_record, update_record
from jax_party.trial.manifest import read_manifest, write_manifest
from jax_party.trial.metrics import append_metrics
from jax_party.trial.states import State
from launcher import sweep
from launcher.commands import claim
from launcher.commands.extend import extended
from launcher.plan.sweep import Sweep

SPACE = (
    "algorithms: [ff_mappo, ff_ippo]\nscenarios: [p-base, p-short]\n"
    "budget: {total_timesteps: 8192, num_evaluation: 2}\nspace:\n"
    "  system.actor_lr: {type: uniform, low: 0.0001, high: 0.001}\n"
)
CLAIM = "mappo > ff_ippo on welfare in p-short, seeds=5"
MAPPO, IPPO = ("ff_mappo", "p-short"), ("ff_ippo", "p-short")


def claimed(path: Path, text: str = CLAIM, *words: str, samples: int = 2) -> Path:
    """The folder of a sweep with claims, planned and not run."""
    space = path / "space.yaml"
    space.write_text(SPACE)
    asked = ["ALG=mappo,ippo", f"SPACE={space}", f"SAMPLES={samples}", f"OUT={path / 'out'}", *words]
    assert sweep.main(["claim", f"CLAIM={text}", *asked]) == 0
    (folder,) = (path / "out").glob("*/*/*")
    return folder


def end(folder: Path, values: list[float], welfare: list[float] | None = None) -> None:
    """End a trial with the final parameters' score of each seed, or as FAILED."""
    record = read_record(folder)
    for index, value in enumerate(values):
        metrics = {"episode_return": value, "welfare_per_step": (welfare or values)[index]}
        append_metrics(folder, {"step": 8192, "seed": record.seed + index, "evaluate": metrics, "final": True})
    mean = {"episode_return": float(np.mean(values))} if values else None
    error = None if values else "TrainingDiverged: nan"
    update_record(folder, state=State.COMPLETE if values else State.FAILED, final_metrics=mean, error=error)


def search(folder: Path, failed: tuple[int, ...] = ()) -> Sweep:
    """End every trial of the search; a trial's score is its number."""
    for record in Sweep.read(folder).records.values():
        end(folder / record.trial_id, [] if record.number in failed else [float(record.number)])
    return Sweep.read(folder)


def play_tests(folder: Path, welfare: dict[tuple[str, str], list[float]]) -> tuple[Sweep, dict[str, Any], Any]:
    """Play the test seeds: returns are equal, welfare is as given; without a value a test fails."""
    found = Sweep.read(folder)
    content = claim.read_intact(folder)
    tests = claim.write_tests(found, content)
    for key, record in tests.items():
        values = welfare[key]
        end(folder / record.trial_id, [7.0] * len(values), values)
    return Sweep.read(folder), content, tests


# -- Claiming ----------------------------------------------------------------------------------------------------------


def test_a_claim_is_written_before_anything_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = claimed(tmp_path)
    said = capsys.readouterr().out
    content = yaml.safe_load((folder / "claim.yaml").read_text())
    manifest = read_manifest(folder)
    assert content["sha256"] in said and manifest.provenance["claim"]["sha256"] == content["sha256"]
    assert "welfare is welfare_per_step here" in said and f"make verdict SWEEP={folder}" in said
    (written,) = content["claims"]
    assert written["text"] == "ff_mappo > ff_ippo on welfare_per_step in p-short"
    assert (content["alpha"], content["seeds"]) == (0.05, {"first": fresh_seeds(manifest.name).start, "number": 5})
    assert content["sweep"]["space"] == manifest.space and content["sweep"]["num_trials"] == 8
    states = [record.state for record in Sweep.read(folder).records.values()]
    assert states == [State.PENDING] * 8
    assert claim.read_intact(folder) == content


def test_a_search_that_learns_plans_its_trials_later(tmp_path: Path) -> None:
    folder = claimed(tmp_path, CLAIM, "SEARCH=optuna")
    assert Sweep.read(folder).records == {}
    assert claim.read_intact(folder)["sweep"]["search"] == "optuna"


def test_a_dry_run_shows_the_claims_and_writes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["ALG=mappo,ippo", "SCENARIO=p-short", f"OUT={tmp_path / 'out'}", "DRY_RUN=1"]
    assert sweep.main(["claim", f"CLAIM={CLAIM}; ippo < mappo on equality in p-short, alpha=0.1", *words]) == 0
    said = capsys.readouterr().out
    assert "ff_ippo < ff_mappo on equality in p-short" in said and "alpha        0.1" in said
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("mappo > ippo on fun in p-short", "fun: no such metric; choose one of episode_return, episode_length, "),
        ("mappo > ippo on episode in p-short", "episode: may be each of episode_return, episode_length, "),
        ("mappo > sable on equality in p-short", "sable: is no algorithm of the sweep; add it to ALG, or choose one"),
        ("mappo > x on equality in p-short", "x: is no algorithm of the sweep; add it to ALG, or choose one of ff_"),
        ("mappo > ippo on equality in p-memory", "p-memory: is no scenario of the sweep; add it to SCENARIO, or "),
        ("mappo > ff_mappo on equality in p-short", "both names are ff_mappo's; a claim is about two algorithms"),
        ("mappo > ippo on welfare in p-short; mappo > ippo on welfare_per_step in p-short", "is listed twice"),
        ("mappo > ippo on equality in p-short, alpha=0.6", "alpha: expected a number above 0 and at most 0.5"),
        ("mappo beats ippo", "'mappo beats ippo': expected A > B (or A < B) on METRIC in SCENARIO"),
    ],
)
def test_a_bad_claim_is_one_line_and_writes_nothing(
    text: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["ALG=mappo,ippo", "SCENARIO=p-short", f"OUT={tmp_path / 'out'}"]
    assert sweep.main(["claim", f"CLAIM={text}", *words]) == 2
    captured = capsys.readouterr()
    (line,) = captured.err.splitlines()
    assert captured.out == "" and line.startswith("SweepError: CLAIM: ") and message in line
    assert list(tmp_path.iterdir()) == []


def test_a_claim_is_given_once(capsys: pytest.CaptureFixture[str]) -> None:
    assert sweep.main(["claim", "ALG=mappo,ippo"]) == 2
    assert capsys.readouterr().err.startswith("SweepError: CLAIM: expected it once, got it 0 times; for example CLAIM=")


def test_a_sweep_with_claims_is_not_extended(tmp_path: Path) -> None:
    with pytest.raises(SweepError, match="has claims on its 8 trials; sweep anew with more: make claim"):
        extended(search(claimed(tmp_path)), 2)


# -- Verdicts ----------------------------------------------------------------------------------------------------------


def test_the_best_of_each_claimed_algorithm_play_the_claimed_seeds(tmp_path: Path) -> None:
    folder = claimed(tmp_path)
    before = search(folder)
    after, content, tests = play_tests(folder, {MAPPO: [1.0] * 5, IPPO: [1.0] * 5})
    assert set(tests) == {MAPPO, IPPO}, "p-base is not claimed"
    for (algorithm, scenario), test in tests.items():
        of_group = [r for r in before.records.values() if (r.algorithm, r.scenario) == (algorithm, scenario)]
        assert test.promoted_from == max(of_group, key=lambda record: record.number).trial_id
        assert (test.seed, test.num_seeds) == (content["seeds"]["first"], 5)
    assert len(after.records) == 10
    assert dict(claim.write_tests(after, content)) == {key: after.records[r.trial_id] for key, r in tests.items()}


def test_a_verdict_is_on_the_claimed_metric_and_is_written_once(tmp_path: Path) -> None:
    folder = claimed(tmp_path, f"{CLAIM}; ippo > mappo on episode_return in p-short")
    search(folder)
    welfare = {MAPPO: [5.0, 6.0, 7.0, 8.0, 9.0], IPPO: [0.0, 1.0, 2.0, 3.0, 4.0]}
    found, content, tests = play_tests(folder, welfare)
    verdict = claim.give_verdict(found, content, tests)
    above, other = verdict["claims"]
    assert above["verdict"] == "supported" and above["difference"] == 5.0 and above["a"]["values"] == welfare[MAPPO]
    assert above["p"] == pytest.approx(1 / 252) and above["p_holm"] == pytest.approx(2 / 252), "by hand: 10 choose 5"
    assert (other["verdict"], other["p"]) == ("not supported", 1.0), "returns are equal"
    assert json.loads((folder / "verdict.json").read_text()) == verdict
    assert claim.give_verdict(found, content, tests) == verdict, "with the time at which it was given first"
    screen = Console(file=io.StringIO(), width=80)
    claim.show_verdict(verdict, folder, screen)
    shown = screen.file.getvalue()  # type: ignore[attr-defined]
    assert "│ ff_mappo > ff_ippo on welfare_per_step in p-short │ 5 [2.694, 7.306] " in shown
    assert content["sha256"] in shown and "not that it is false" in shown


def test_a_claim_without_evidence_is_not_supported_and_says_why(tmp_path: Path) -> None:
    folder = claimed(tmp_path)
    search(folder)
    found, content, tests = play_tests(folder, {MAPPO: [5.0] * 5, IPPO: []})
    (told,) = claim.give_verdict(found, content, tests)["claims"]
    assert (told["verdict"], told["p"], told["difference"]) == ("not supported", 1.0, None)
    assert told["reason"].endswith("the test of ff_ippo, is FAILED (TrainingDiverged: nan)")


def test_an_algorithm_whose_trials_have_all_failed_is_no_evidence(tmp_path: Path) -> None:
    folder = claimed(tmp_path)
    numbers = [r.number for r in Sweep.read(folder).records.values() if (r.algorithm, r.scenario) == IPPO]
    search(folder, failed=tuple(numbers))
    found, content, tests = play_tests(folder, {MAPPO: [5.0] * 5})
    (told,) = claim.give_verdict(found, content, tests)["claims"]
    assert (told["verdict"], told["b"]["trial"]) == ("not supported", None)
    assert told["reason"] == "ff_ippo has no configuration in p-short that could be tested"


def test_a_verdict_does_not_move_to_other_configurations(tmp_path: Path) -> None:
    folder = claimed(tmp_path)
    (_, best) = sorted(
        record.number for record in Sweep.read(folder).records.values() if (record.algorithm, record.scenario) == MAPPO
    )
    search(folder, failed=(best,))
    found, content, tests = play_tests(folder, {MAPPO: [2.0] * 5, IPPO: [1.0] * 5})
    claim.give_verdict(found, content, tests)
    (late,) = [r for r in found.records.values() if r.number == best]
    end(folder / late.trial_id, [100.0])
    with pytest.raises(
        SweepError, match=r"verdict\.json: claims\.a: the verdict was given on .*, and the best of ff_m"
    ):
        claim.write_tests(Sweep.read(folder), content)


def test_where_scenarios_are_averaged_the_best_of_the_mean_is_tested(tmp_path: Path) -> None:
    folder = claimed(tmp_path, CLAIM, "SCENARIO_MODE=mean")
    search(folder)
    _, _, tests = play_tests(folder, {MAPPO: [1.0] * 5, IPPO: [1.0] * 5})
    assert {record.scenario for record in tests.values()} == {"p-short"} and len(tests) == 2


@pytest.mark.parametrize(
    ("file", "old", "new", "message"),
    [
        ("claim.yaml", "relation: '>'", "relation: <", "claim.yaml: claims.1: was edited since the claim; restore it"),
        ("claim.yaml", "alpha: 0.05", "alpha: 0.5", "claim.yaml: alpha: was edited"),
        ("sweep.yaml", "num_trials: 8", "num_trials: 4", "sweep.yaml: num_trials: was edited"),
        ("sweep.yaml", "metric: episode_return", "metric: equality", "sweep.yaml: objective: was edited"),
    ],
)
def test_after_an_edit_there_is_no_verdict(
    file: str, old: str, new: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = claimed(tmp_path)
    search(folder)
    path = folder / file
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    capsys.readouterr()
    assert sweep.main(["verdict", str(folder)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"SweepError: {folder}/{message}")
    assert len(Sweep.read(folder).records) == 8, "nothing is made"


def test_a_verdict_needs_claims_and_an_ended_search(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = claimed(tmp_path)
    capsys.readouterr()
    assert sweep.main(["verdict", str(folder)]) == 2
    assert f"its trials have not all ended; finish it: make resume SWEEP={folder}" in capsys.readouterr().err
    (folder / "claim.yaml").unlink()
    assert sweep.main(["verdict", str(folder)]) == 2
    assert "claim.yaml: no such file; restore it: verdicts are on the claims" in capsys.readouterr().err
    manifest = read_manifest(folder)
    write_manifest(folder, type(manifest)(**{**vars(manifest), "provenance": {}}))
    assert sweep.main(["verdict", str(folder)]) == 2
    assert "nothing was claimed before it ran; claim first" in capsys.readouterr().err


def test_claims_on_remote_storage(bucket: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["ALG=mappo,ippo", "SCENARIO=p-short", "SAMPLES=1", f"STORAGE={bucket / 'sweeps'}"]
    assert sweep.main(["claim", f"CLAIM={CLAIM}", *words]) == 0
    said = capsys.readouterr().out
    folder = as_folder(said.partition("make verdict SWEEP=")[2].split()[0])
    content = claim.read_intact(folder)
    assert content["sha256"] in said
    text = store_of(folder).read_bytes(folder / "claim.yaml").decode().replace("number: 5", "number: 50")
    write_text_atomically(folder / "claim.yaml", text)
    assert sweep.main(["verdict", str(folder)]) == 2
    assert f"{folder}/claim.yaml: seeds.number: was edited" in capsys.readouterr().err
