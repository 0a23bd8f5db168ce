"""The two notebooks about sweeps, executed on a synthetic sweep; the numbers that they tell are computed here again."""

from __future__ import annotations

import re
from pathlib import Path

import nbformat
import pytest

import results
from jax_party.trial.folder import read_record, trial_folders, update_record
from jax_party.trial.record import VaultEntry
from tests.examples.test_vault_reading import ROOT, figures, printed, run
from tests.results.synthetic_sweep import make_sweep
from tests.results.vault_factory import fields_of, write_vault

NOTEBOOKS = ("analysing_a_sweep", "comparing_algorithms")


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four trials, two of each algorithm; the vault of each has environments of 25 steps."""
    folder = make_sweep(tmp_path_factory.mktemp("notebooks") / "sweep", 4)
    for trial in trial_folders(folder):
        record = read_record(trial)
        write_vault(trial / "vaults" / "jax_party" / record.trial_id, fields_of(2, 25, record.number))
        changes = {"vaults": (VaultEntry(record.trial_id, "train", 2, 25),)}
        update_record(trial, **changes, algorithm=("ff_ippo", "ff_mappo")[record.number % 2])
    results.write_index(folder)
    return folder


def execute(name: str, sweep: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> nbformat.NotebookNode:
    monkeypatch.setenv("JAXPARTY_SWEEP_FOLDER", str(sweep))
    return run(nbformat.read(ROOT / "examples" / f"{name}.ipynb", as_version=4), folder)


def test_analysing_a_sweep(sweep: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    executed = execute("analysing_a_sweep", sweep, tmp_path, monkeypatch)
    text = printed(executed)
    best = results.load_index(sweep).sort_values("number").iloc[-1]
    assert "trials: 4 COMPLETE" in text
    assert f"best: {best['trial_id']}, episode_return 35.0000 at step 200" in text
    assert "6, 4 of them whole, of 10 to 10 steps" in text
    assert len(figures(executed)) == 2


def test_comparing_algorithms(sweep: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The scores of the best of each are 23 of IPPO and 33 of MAPPO, as the report and `make index` have them."""
    executed = execute("comparing_algorithms", sweep, tmp_path, monkeypatch)
    text = printed(executed)
    assert re.findall(r"^p-base (\d)\. (\w+): ([\d.]+) \[nan, nan\] \(1 searched seeds\)", text, re.MULTILINE) == [
        ("1", "ff_mappo", "33.0000"), ("2", "ff_ippo", "23.0000"),
    ]  # fmt: skip
    assert "p-base: ff_mappo better than ff_ippo: 1.000" in text
    assert len(figures(executed)) == 1


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_they_are_committed_without_outputs(name: str) -> None:
    notebook = nbformat.read(ROOT / "examples" / f"{name}.ipynb", as_version=4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all(not cell.outputs and cell.execution_count is None for cell in code)
    assert "JAXPARTY_SWEEP_FOLDER" in code[0].source
