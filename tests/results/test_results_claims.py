"""The report's section of claims: what was claimed, whether it is intact, and the verdicts on it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import report_sweep

from jax_party.judging.claim_tests import Evidence, judge
from jax_party.judging.claims import Claim, Claims, compose, kept_in_provenance
from jax_party.store.files import write_yaml_atomically
from jax_party.trial.folder import CONFIG_FILE, holds_its_config
from jax_party.trial.identity import new_trial_id
from jax_party.trial.manifest import CLAIM_FILE, VERDICT_FILE, read_manifest, read_sweep_file, write_manifest
from results.report.claims import claims
from results.report.load import load
from results.report.page import command, render

CLAIM = Claim("ff_mappo", ">", "ff_ippo", "episode_return", "p-base")


@pytest.fixture(autouse=True)
def made_up_ids(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The synthetic sweep's ids are no digests of its trials' configs."""
    if "own_ids" not in request.fixturenames:
        monkeypatch.setattr("results.report.claims.holds_its_config", lambda folder, record: True)
        monkeypatch.setattr("launcher.commands.claim.holds_its_config", lambda folder, record: True)


@pytest.fixture
def own_ids() -> None:
    """A test that looks at ids."""


def make(folder: Path) -> dict[str, Any]:
    """A sweep with a claim; the content of claim.yaml."""
    report_sweep.make(folder, scenarios=("p-base",), configurations=1)
    manifest = read_manifest(folder)
    content = compose(Claims((CLAIM,), 0.05, 4), 1_000_010_000, read_sweep_file(folder), "2026-01-02")
    provenance = {**manifest.provenance, "claim": kept_in_provenance(content)}
    write_yaml_atomically(folder / CLAIM_FILE, content)
    write_manifest(folder, type(manifest)(**{**vars(manifest), "provenance": provenance}))
    return content


def give(folder: Path, sha256: str) -> None:
    a, b = [10.0, 11.0, 12.0, 13.0], [5.0, 6.0, 7.0, 8.0]
    (judged,) = judge([Evidence(a, b, ">")], 0.05)
    told = {"text": CLAIM.text, "verdict": "supported", "reason": None, "difference": judged.difference,
            "low": judged.low, "high": judged.high, "p": judged.p, "p_holm": judged.adjusted,
            "a": {"values": a}, "b": {"values": b}}  # fmt: skip
    verdict = {"claim_sha256": sha256, "given": "2026-01-03", "alpha": 0.05, "claims": [told]}
    (folder / VERDICT_FILE).write_text(json.dumps(verdict))


def test_a_sweep_without_claims_has_no_such_section(tmp_path: Path) -> None:
    data = load(report_sweep.make(tmp_path, scenarios=("p-base",), configurations=1))
    assert claims(data) is None
    assert 'id="claims"' not in render(data) and 'href="#claims"' not in render(data)


def test_claims_and_verdicts_are_shown(tmp_path: Path) -> None:
    content = make(tmp_path)
    before = claims(load(tmp_path))
    assert before is not None and before["rows"][0]["verdict"] == "none yet" and before["given"] is None
    give(tmp_path, content["sha256"])
    page = render(load(tmp_path))
    assert 'href="#claims"' in page and content["sha256"] in page
    row = page[page.index('id="claimed"') :].partition("</table>")[0]
    for text in ("ff_mappo &gt; ff_ippo on episode_return in p-base", "the mean of episode_return over",
                 "5 [2.766, 7.234]", "0.0143", ">supported<"):  # fmt: skip
        assert text in row


def test_a_verdict_on_other_claims_is_none(tmp_path: Path) -> None:
    make(tmp_path)
    give(tmp_path, "0" * 64)
    found = claims(load(tmp_path))
    assert found is not None and found["rows"][0]["verdict"] == "none yet"


@pytest.mark.parametrize("gone", [False, True])
def test_claims_that_are_not_intact_have_no_verdict(gone: bool, tmp_path: Path) -> None:
    give_to = make(tmp_path)
    give(tmp_path, give_to["sha256"])
    path = tmp_path / CLAIM_FILE
    if gone:
        path.unlink()
    else:
        path.write_text(path.read_text().replace("alpha: 0.05", "alpha: 0.5"))
    page = render(load(tmp_path))
    assert (
        "not intact" in page and ("no such file" if gone else "claim.yaml: alpha: was edited since the claim") in page
    )
    assert 'id="claimed"' not in page


def test_the_command_of_a_claimed_sweep_is_makes() -> None:
    assert command("python -m launcher.sweep claim CLAIM=x ALG=mappo") == "make claim CLAIM=x ALG=mappo"
    assert command("python -m launcher.sweep ALG=mappo") == "make sweep ALG=mappo"


@pytest.mark.parametrize(("name", "value"), [("p", 1e-9), ("difference", 500.0), ("verdict", "not supported")])
def test_a_verdict_that_is_not_what_its_seeds_give_is_not_shown(name: str, value: Any, tmp_path: Path) -> None:
    content = make(tmp_path)
    give(tmp_path, content["sha256"])
    path = tmp_path / VERDICT_FILE
    verdict = json.loads(path.read_text())
    verdict["claims"][0][name] = value
    path.write_text(json.dumps(verdict))
    found = claims(load(tmp_path))
    assert found is not None and found["rows"] == []
    assert found["problem"] == f"verdict.json: claims.1.{name}: is not what its seeds give; give it anew: make verdict"


def test_a_trial_whose_config_was_edited_decides_no_claim(tmp_path: Path, own_ids: None) -> None:
    """An id is a digest of the config that the trial was made with."""
    config = {"system": {"name": "ff_ippo", "actor_lr": 0.001}}
    record = report_sweep.record_of(0, "ff_ippo", "p-base", 0, 1, trial_id=new_trial_id("demo", config, 0))
    trial = report_sweep.write_trial(tmp_path, record, [1.0])
    write_yaml_atomically(trial / CONFIG_FILE, config)
    assert holds_its_config(trial, record)
    (trial / CONFIG_FILE).write_text((trial / CONFIG_FILE).read_text().replace("0.001", "99.0"))
    assert not holds_its_config(trial, record)
    folder = tmp_path / "claimed"
    make(folder)
    found = claims(load(folder))
    assert found is not None and found["problem"] == ("demo-00000000/config.yaml: was edited since the trial was made")
