"""The example notebook, executed on a tiny real run; what it computes is computed here again from the vault."""

from __future__ import annotations

import base64
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbclient
import nbformat
import numpy as np
import pytest

from jax_party.config import parse_config
from jax_party.runtime import prepare_process
from jax_party.trial.folder import create_trial_folder, read_record
from jax_party.trial.identity import new_trial_id
from jax_party.trial.record import TrialRecord
from mava_configs import compose

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOK = ROOT / "examples" / "vault_reading.ipynb"
TINY = (
    "arch.num_envs=4", "arch.num_eval_episodes=4", "arch.num_evaluation=2", "arch.absolute_metric=false",
    "arch.gradient_chunk_size=null", "system.rollout_length=32", "system.ppo_epochs=1", "system.num_minibatches=1",
    "system.total_timesteps=512", "network.actor_network.pre_torso.layer_sizes=[8]",
    "network.critic_network.pre_torso.layer_sizes=[8]", "env/scenario=p-short",
    "env.scenario.task_config.time_limit=24", "logger.use_console=false", "vault=train",
)  # fmt: skip
"""4 environments × 128 steps; episodes of 24 steps, the last of each environment unfinished."""

Fields = dict[str, np.ndarray[Any, Any]]


@pytest.fixture(scope="session")
def trial_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished trial."""
    prepare_process()  # before JAX is imported
    from jax_party.training.experiment import Experiment

    mapping = compose("ff_ippo", TINY)
    config = parse_config(mapping)
    folder = tmp_path_factory.mktemp("run") / "trial"
    record = TrialRecord(
        trial_id=new_trial_id("example", mapping, config.system.seed), algorithm="ff_ippo",
        environment="JaxParty", scenario="p-short", seed=config.system.seed,
    )  # fmt: skip
    create_trial_folder(folder, mapping, record)
    experiment = Experiment(config, folder)
    try:
        while not experiment.finished:
            experiment.step()
    finally:
        experiment.close()
    return folder


@pytest.fixture(scope="session")
def fields(trial_folder: Path) -> Fields:
    """The vault, read directly."""
    from flashbax.vault import Vault

    uid = read_record(trial_folder).trial_id
    vault = Vault(rel_dir=str(trial_folder.resolve() / "vaults"), vault_name="jax_party", vault_uid=uid)
    return {name: np.asarray(values) for name, values in vault.read().experience.items()}


@pytest.fixture(scope="session")
def executed(trial_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[nbformat.NotebookNode]:
    """The notebook after it has run; `JAXPARTY_KEEP_FIGURES=<folder>` keeps its figures."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JAXPARTY_TRIAL_FOLDER", str(trial_folder))
        patch.setenv("JAX_PLATFORMS", "cpu")
        yield run(nbformat.read(NOTEBOOK, as_version=4), tmp_path_factory.mktemp("notebook"))


def run(notebook: nbformat.NotebookNode, folder: Path) -> nbformat.NotebookNode:
    client = nbclient.NotebookClient(
        notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": str(folder)}}
    )
    client.execute()
    return notebook


def printed(notebook: nbformat.NotebookNode) -> str:
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    return "".join(output.text for output in outputs if output.output_type == "stream" and output.name == "stdout")


def figures(notebook: nbformat.NotebookNode) -> list[bytes]:
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    images = [output.data["image/png"] for output in outputs if "image/png" in output.get("data", {})]
    return [base64.b64decode(image) for image in images]


def numbers(text: str, label: str) -> list[float]:
    """The numbers behind a label in what was printed."""
    line = next(line for line in text.splitlines() if line.startswith(label))
    return [float(number) for number in re.findall(r"-?\d+\.?\d*", line[len(label) :])]


def whole_episodes(fields: Fields, length: int = 24) -> list[tuple[int, int]]:
    """(environment, first step): with a fixed length, episodes follow one another from an environment's first on."""
    num_steps = fields["done"].shape[1]
    first = fields["done"].argmax(axis=1)
    return [(env, start) for env, begins in enumerate(first) for start in range(begins, num_steps - length + 1, length)]


def test_every_cell_runs(executed: nbformat.NotebookNode) -> None:
    cells = [cell for cell in executed.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    kinds = {(output.output_type, output.get("name")) for cell in cells for output in cell.outputs}
    assert kinds <= {("stream", "stdout"), ("display_data", None)}, "nothing on stderr, no error"


def test_three_figures_are_drawn(executed: nbformat.NotebookNode) -> None:
    images = figures(executed)
    assert [image[:8] for image in images] == [b"\x89PNG\r\n\x1a\n"] * 3
    keep = os.environ.get("JAXPARTY_KEEP_FIGURES")
    if keep:
        for number, image in enumerate(images):
            (Path(keep) / f"vault_reading_{number}.png").write_bytes(image)


def test_fields_are_listed(executed: nbformat.NotebookNode, fields: Fields) -> None:
    lines = {
        line.split()[0]: line.split(maxsplit=2)[1:] for line in printed(executed).splitlines() if " (4, 128" in line
    }
    assert lines == {name: [str(values.dtype), str(values.shape)] for name, values in fields.items()}
    assert {"done", "action", "reward", "observation", "legal_action_mask"} <= set(lines)


def test_episodes(executed: nbformat.NotebookNode, fields: Fields) -> None:
    """128 steps are, in each of 4 environments, the rest of an episode, 4 or 5 whole ones of 24, and one begun."""
    text = printed(executed)
    whole = len(whole_episodes(fields))
    assert whole in range(4 * 4, 4 * 5 + 1)
    assert f"{int(fields['done'].sum())} episodes, {whole} of them whole" in text
    returns = [fields["reward"][env, start : start + 24].sum(axis=0) for env, start in whole_episodes(fields)]
    told = numbers(text, "mean return of a whole episode, by agent:")
    assert told == pytest.approx(np.mean(returns, axis=0), abs=0.006)


def test_actions_rewards_and_ranks(executed: nbformat.NotebookNode, fields: Fields) -> None:
    text = printed(executed)
    played = fields["action"][fields["action"] < 2]
    assert numbers(text, "cooperation rate over all:") == pytest.approx([(played == 0).mean()], abs=6e-4)
    start = max(start for env, start in whole_episodes(fields) if env == 0)
    last = slice(start, start + 24)
    told = numbers(text, "return of this episode, by agent:")
    assert told == pytest.approx(fields["reward"][0, last].sum(axis=0), abs=0.006)
    own_place = fields["observation"][0, last, :, 6]  # after 3 entries of `active` and 3 of `totals`
    told = numbers(text, "share of steps in the lead, by agent:")
    assert told == pytest.approx((own_place == 0).mean(axis=0), abs=6e-4)
    assert sum(told) == pytest.approx(1.0, abs=2e-3)


def test_a_folder_without_vaults_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JAXPARTY_TRIAL_FOLDER", str(tmp_path / "nowhere"))
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    with pytest.raises(nbclient.exceptions.CellExecutionError, match=r"nowhere/vaults: no vaults; set TRIAL_FOLDER"):
        run(notebook, tmp_path)


def test_it_is_committed_without_outputs() -> None:
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all(not cell.outputs and cell.execution_count is None for cell in code)
    assert "TRIAL_FOLDER" in code[0].source
    imports = set(re.findall(r"^(?:import|from) (\w+)", "\n".join(cell.source for cell in code), re.MULTILINE))
    assert imports == {"os", "json", "pathlib", "matplotlib", "numpy", "flashbax"}, "nothing of JaxParty"
