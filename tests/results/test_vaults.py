"""Vaults of known content: what is read, how little is read, what is made of them, and what is said of damage."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import tensorstore
from vault_factory import AGENTS, CONFIG, LIMIT, fields_of, read_with_flashbax, write_vault

import results
from jax_party.errors import RecordError, VaultError
from jax_party.store.storage import store_of
from jax_party.trial.folder import read_record, trial_folders, update_record
from jax_party.trial.record import VaultEntry
from results import vaults
from results.vaults.__main__ import main
from results.vaults.finding import select

ROOT = Path(__file__).parents[2]


@pytest.fixture
def vault(tmp_path: Path) -> vaults.Vault:
    """4 environments of 25 steps: two whole episodes and half of one in each."""
    return write_vault(tmp_path / "v" / "jax_party" / "one", fields_of(4, 25))


@pytest.fixture
def sweep_of_vaults(sweep: Callable[..., Path]) -> Path:
    """Three trials with both vaults each; the objective of trial n is best at 10 n + 5."""
    folder = sweep(3)
    for trial in trial_folders(folder):
        record = read_record(trial)
        place = trial / "vaults" / "jax_party"
        write_vault(place / record.trial_id, fields_of(4, 25, 10 * record.number))
        write_vault(place / f"{record.trial_id}-test", fields_of(2, 20, 10 * record.number), kind="test")
        entries = (VaultEntry(record.trial_id, "train", 4, 25), VaultEntry(f"{record.trial_id}-test", "test", 2, 20))
        update_record(trial, vaults=entries)
    results.write_index(folder)
    return folder


def bytes_read() -> int:
    (metric,) = tensorstore.experimental_collect_matching_metrics("/tensorstore/kvstore/file/bytes_read", True)
    return int(metric["values"][0]["value"])


# -- Reading -----------------------------------------------------------------------------------------------------------


def test_importing_it_brings_in_neither_jax_nor_ray() -> None:
    script = "import results.vaults, sys; print(sorted({'jax', 'ray', 'flashbax', 'flax'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.returncode) == ("[]\n", 0), done.stderr


def test_a_part_is_what_it_should_be(vault: vaults.Vault) -> None:
    assert (vault.rows, vault.steps, vault.num_agents, vault.kind, vault.time_limit) == (4, 25, AGENTS, "train", LIMIT)
    read = vault.read(["reward", "done"], slice(8, 12), [3, 1])
    assert set(read) == {"reward", "done"}
    assert read["reward"][:, :, 0].tolist() == [[308, 309, 310, 311], [108, 109, 110, 111]]
    assert read["done"].tolist() == [[False, False, True, False]] * 2
    assert vault.read(["reward"], slice(-1, None), slice(0, 1))["reward"].tolist() == [[[24.0, 24.25, 24.5]]]


def test_flashbax_reads_what_was_written(vault: vaults.Vault) -> None:
    read = read_with_flashbax(vault.path)
    for name, values in fields_of(4, 25).items():
        np.testing.assert_array_equal(np.asarray(read[name]), values)
        assert read[name].dtype == values.dtype


def test_a_slice_does_not_load_the_rest(tmp_path: Path) -> None:
    """Noise does not compress: 128 of 8,192 steps of one field of 24 bytes a step are far less than all."""
    noise = np.random.default_rng(0)
    fields = fields_of(8, 8192) | {"observation": noise.random((8, 8192, AGENTS, 2)).astype(np.float32)}
    path = write_vault(tmp_path / "jax_party" / "large", fields).path
    whole = 8 * 8192 * AGENTS * 2 * 4
    before = bytes_read()
    opened = vaults.Vault(path)
    assert bytes_read() - before < 50_000, "opening reads no data"
    before = bytes_read()
    part = opened.read(["observation"], slice(256, 384))["observation"]
    assert part.tolist() == fields["observation"][:, 256:384].tolist()
    assert whole / 64 * 0.8 < bytes_read() - before < whole / 20


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"fields": ["rewards"]}, "no field 'rewards'; it has action, done, legal_action_mask, observation, reward"),
        ({"time": slice(20, 26)}, "time 20:26 is out of range; give a part of 0:25"),
        ({"time": slice(0, 20, 2)}, "steps of 1 only; thin the vault"),
        ({"envs": [4]}, "environment 4 is out of range; give numbers of 0 to 3"),
        ({"envs": slice(2, 9)}, "envs 2:9 is out of range; give a part of 0:4"),
        ({"envs": []}, "no environment is out of range"),
    ],
)
def test_what_is_not_there_is_refused(vault: vaults.Vault, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(VaultError, match=message):
        vault.read(**arguments)


# -- Episodes ----------------------------------------------------------------------------------------------------------


def test_episodes_of_training_and_their_returns(vault: vaults.Vault) -> None:
    found = vaults.episodes(vault)
    assert [(one.env, one.start, one.stop, one.whole) for one in found[:3]] == [
        (0, 0, 10, True), (0, 10, 20, True), (0, 20, 25, False),
    ]  # fmt: skip
    assert len(found) == 12
    assert vaults.returns(vault, found[:2]).tolist() == [[45.0, 47.5, 50.0], [145.0, 147.5, 150.0]]


def test_what_is_recorded_every_other_update_has_breaks(tmp_path: Path) -> None:
    config = CONFIG | {"vault": {"every": 2}}
    vault = write_vault(tmp_path / "j" / "gaps", fields_of(1, 20), config=config)
    spans = [(one.start, one.stop, one.whole) for one in vaults.episodes(vault)]
    assert spans == [(0, 5, False), (5, 10, False), (10, 15, False), (15, 20, False)]


def test_a_test_episode_ends_before_its_padding(tmp_path: Path) -> None:
    fields = fields_of(1, 20)
    fields["done"][0, 4:10] = True  # the first episode has four steps
    vault = write_vault(tmp_path / "j" / "early", fields, kind="test")
    assert [(one.start, one.stop, one.whole) for one in vaults.episodes(vault)] == [(0, 4, True), (10, 20, True)]
    assert vaults.card(vault)["transitions"] == 14


# -- Finding -----------------------------------------------------------------------------------------------------------


def test_a_query_on_the_index_finds_vaults(sweep_of_vaults: Path) -> None:
    everything = vaults.find(sweep_of_vaults)
    assert [place.kind for place in everything] == ["train", "test"] * 3
    found = vaults.find(sweep_of_vaults, 'algorithm == "ff_mappo" and episode_return > 12 and number < 2', "train")
    index = results.load_index(sweep_of_vaults)
    assert [place.trial_id for place in found] == index["trial_id"].tolist()[1:2]
    assert found[0].open().read(["reward"], slice(0, 1), [0])["reward"][0, 0, 0] == 1000.0
    assert (found[0].rows, found[0].steps) == (4, 25)


@pytest.mark.parametrize(
    ("query", "numbers"),
    [
        ("system.actor_lr > 0.0015", [1, 2]),
        ("last.episode_return in [3.0, 23.0]", [0, 2]),
        ('scenario.str.contains("base") and not `number` == 1', [0, 2]),
        ("(number == 2) | (best.episode_return < 6)", [0, 2]),
    ],
)
def test_queries_name_columns_as_they_are(sweep_of_vaults: Path, query: str, numbers: list[int]) -> None:
    chosen = select(results.load_index(sweep_of_vaults), query)
    assert chosen["number"].tolist() == numbers


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("coperation_rate > 0.5", "no column 'coperation_rate'"),
        ("episode_retrun > 1", "near it: .*episode_return"),
        ("number + 1", "not true or false for each row"),
        ("number > @top", "@ is for variables"),
        ("number ==", "cannot be understood"),
        ("number > 7", "no vault of a trial for which"),
    ],
)
def test_queries_that_cannot_be_answered(sweep_of_vaults: Path, query: str, message: str) -> None:
    with pytest.raises((RecordError, VaultError), match=message):
        vaults.find(sweep_of_vaults, query)


def test_a_trial_on_s3_is_opened_and_leaves_nothing(
    sweep_of_vaults: Path, bucket: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import tarfile

    trial = vaults.find(sweep_of_vaults, "number == 1")[0].folder
    remote = bucket / "sweep" / trial.name
    packed = tmp_path / "vaults.tar"
    with tarfile.open(packed, "w") as tar:
        tar.add(trial / "vaults", arcname="vaults")

    store_of(remote).put_file(packed, remote / "vaults" / "300-1.tar")
    for name in ("config.yaml", "record.json"):
        store_of(remote).write_bytes(remote / name, (trial / name).read_bytes())
    contents = {"attempt": 1, "checkpoints": ["checkpoints/gone.tar"], "vaults": ["vaults/300-1.tar"]}
    store_of(remote).write_bytes(remote / "mirror.json", json.dumps(contents).encode())
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(scratch))
    places = vaults.find(str(remote))
    assert [place.kind for place in places] == ["train", "test"]
    with vaults.opened(places) as (train, test):
        assert train.read(["reward"], slice(3, 4), [2])["reward"].tolist() == [[[1203.0, 1203.25, 1203.5]]]
        assert test.steps == 20
        assert list(scratch.iterdir())
    assert not list(scratch.iterdir())
    with pytest.raises(VaultError, match=r"is on remote storage; use results\.vaults\.opened"):
        places[0].open()


# -- Data sets ---------------------------------------------------------------------------------------------------------


def test_a_dataset_gives_every_slice_once(tmp_path: Path) -> None:
    several = [write_vault(tmp_path / "j" / f"v{n}", fields_of(2, 12, 10 * n)) for n in range(3)]
    in_order = vaults.Dataset(several, length=5, batch=4, fields=["reward", "action"])
    assert (in_order.num_slices, len(in_order)) == (12, 3)
    batches = list(in_order)
    assert [batch["reward"].shape for batch in batches] == [(4, 5, AGENTS)] * 3
    firsts = [float(one) for batch in batches for one in batch["reward"][:, 0, 0]]
    assert firsts == [0, 100, 5, 105, 1000, 1100, 1005, 1105, 2000, 2100, 2005, 2105]
    assert batches[0]["reward"][1, :, 0].tolist() == [100, 101, 102, 103, 104]


def test_a_seed_shuffles_and_repeats(tmp_path: Path) -> None:
    vault = write_vault(tmp_path / "j" / "v", fields_of(4, 40))

    def order(seed: int, epoch: int) -> list[float]:
        shuffled = vaults.Dataset([vault], length=4, batch=7, fields=["reward"], seed=seed)
        batches = list(shuffled.epoch(epoch))
        for batch in batches:
            np.testing.assert_array_equal(np.diff(batch["reward"], axis=1), 1.0)
        return [float(one) for batch in batches for one in batch["reward"][:, 0, 0]]

    assert order(1, 0) == order(1, 0)
    assert order(1, 0) != order(2, 0)
    assert order(1, 0) != order(1, 1)
    assert sorted(order(1, 0)) == [100 * env + start for env in range(4) for start in range(0, 40, 4)]


def test_datasets_that_do_not_fit_are_refused(vault: vaults.Vault, tmp_path: Path) -> None:
    other = fields_of(4, 25) | {"action": np.zeros((4, 25, 5), np.int8)}
    five = write_vault(tmp_path / "j" / "five", other)
    with pytest.raises(VaultError, match=r"action is int8 \(5,\), but int8 \(3,\) in .*choose vaults of one game"):
        vaults.Dataset([vault, five], length=2)
    with pytest.raises(VaultError, match="length 26: no vault has so many steps; give at most 25"):
        vaults.Dataset([vault], length=26)


# -- Merging and thinning ----------------------------------------------------------------------------------------------


def test_vaults_are_merged_behind_each_other(vault: vaults.Vault, tmp_path: Path) -> None:
    other = write_vault(tmp_path / "j" / "two", {k: v for k, v in fields_of(4, 12, 50).items() if k != "value"})
    new = vaults.merge([vault, other], tmp_path / "m" / "jax_party" / "both")
    assert (new.rows, new.steps) == (4, 37)
    assert "value" not in new.fields
    read = read_with_flashbax(new.path)
    assert np.asarray(read["reward"])[1, 23:27, 0].tolist() == [123, 124, 5100, 5101]
    assert [source["first_step"] for source in new.metadata["sources"]] == [0, 25]
    spans = [(one.start, one.stop, one.whole) for one in vaults.episodes(new) if one.env == 0]
    assert spans == [(0, 10, True), (10, 20, True), (20, 25, False), (25, 35, True), (35, 37, False)]


def test_vaults_are_merged_beside_each_other(vault: vaults.Vault, tmp_path: Path) -> None:
    other = write_vault(tmp_path / "j" / "two", fields_of(2, 25, 50))
    new = vaults.merge([vault, other], tmp_path / "m" / "jax_party" / "both")
    assert (new.rows, new.steps) == (6, 25)
    assert new.read(["reward"], slice(7, 8))["reward"][:, 0, 0].tolist() == [7, 107, 207, 307, 5007, 5107]
    with pytest.raises(VaultError, match=r"4 and 2 environments|2 and 4 environments"):
        vaults.merge([vault, other], tmp_path / "m" / "no", along="time")
    with pytest.raises(VaultError, match="is there already; name a new folder"):
        vaults.merge([vault, other], new.path)


def test_a_vault_without_a_whole_episode_says_so(tmp_path: Path) -> None:
    vault = write_vault(tmp_path / "j" / "short", fields_of(2, LIMIT - 1))
    with pytest.raises(
        VaultError, match=rf"no whole episode in 9 steps \(an episode takes {LIMIT}\); record test episodes"
    ):
        vaults.thin(vault, tmp_path / "t", best=1)


def test_vaults_of_different_games_are_not_merged(vault: vaults.Vault, tmp_path: Path) -> None:
    """They would go by the first one's time limit and horizon, and be exported under its name."""
    scenario = CONFIG["env"]["scenario"]
    env = CONFIG["env"] | {"scenario": scenario | {"task_name": "p-other"}}
    other = write_vault(tmp_path / "j" / "two", fields_of(4, 12, 50), config=CONFIG | {"env": env})
    with pytest.raises(VaultError, match=r"\(p-other\): are of different games; choose one, as by QUERY='scenario == "):
        vaults.merge([vault, other], tmp_path / "m" / "both")
    assert not (tmp_path / "m" / "both").exists()


def test_every_third_step_keeps_the_beginnings(vault: vaults.Vault, tmp_path: Path) -> None:
    new = vaults.thin(vault, tmp_path / "t" / "third", every=3, envs=slice(1, 3))
    assert (new.rows, new.steps) == (2, 9)
    read = new.read(["reward", "done"])
    assert read["reward"][0, :, 0].tolist() == [100, 103, 106, 109, 112, 115, 118, 121, 124]
    assert read["done"][0].tolist() == [True, False, False, False, True, False, False, True, False]
    assert vaults.card(new)["stride"] == 3


@pytest.mark.parametrize(("which", "returns"), [("best", [145.0 + 3000, 45.0 + 3000]), ("worst", [45.0, 145.0])])
def test_the_best_and_the_worst_episodes(vault: vaults.Vault, tmp_path: Path, which: str, returns: list[float]) -> None:
    new = vaults.thin(vault, tmp_path / "t" / which, **{which: 2})
    assert (new.rows, new.steps) == (2, LIMIT)
    found = vaults.episodes(new)
    assert all(one.whole for one in found)
    assert vaults.returns(new, found)[:, 0].tolist() == returns
    with pytest.raises(VaultError, match="9 episodes: it has 8 whole ones"):
        vaults.thin(vault, tmp_path / "t" / "more", **{which: 9})


def test_episodes_of_unlike_lengths_go_behind_each_other(tmp_path: Path) -> None:
    fields = fields_of(1, 20)
    fields["done"][0] = [step in (0, 3, 11) for step in range(20)]
    config = {"env": {"env_name": "Other"}}
    vault = write_vault(tmp_path / "j" / "unlike", fields, config=config)
    new = vaults.thin(vault, tmp_path / "t" / "best", best=2)
    assert (new.rows, new.steps) == (1, 11)
    assert [(one.start, one.stop, one.whole) for one in vaults.episodes(new)] == [(0, 8, True), (8, 11, True)]


# -- Verifying ---------------------------------------------------------------------------------------------------------


def test_a_whole_vault_has_no_problems(sweep_of_vaults: Path) -> None:
    for place in vaults.find(sweep_of_vaults):
        assert vaults.verify(place.open(), place) == []


def test_counts_are_compared_with_record_and_index(sweep_of_vaults: Path) -> None:
    place = vaults.find(sweep_of_vaults)[0]
    update_record(place.folder, vaults=(VaultEntry(place.uid, "train", 4, 30),))
    assert vaults.verify(place.open(), place) == ["holds 4 environments × 25 steps, but record.json says 4 × 30"]


def test_time_that_does_not_go_on_is_found(tmp_path: Path) -> None:
    fields = fields_of(2, 30)
    fields["done"][1, 16] = True
    fields["done"][0, 0] = False
    problems = vaults.verify(write_vault(tmp_path / "j" / "v", fields))
    assert problems == [
        "environment 0: does not begin with an episode",
        "environment 1: the episode at step 10 has 6 steps, not 10",
        "environment 1: the episode at step 16 has 4 steps, not 10",
    ]


def test_checksums_tell_changes(vault: vaults.Vault) -> None:
    file = vaults.write_checksums(vault)
    assert subprocess.run(["sha256sum", "-c", "--quiet", file.name], cwd=file.parent, check=False).returncode == 0
    assert vaults.verify(vault) == []
    metadata = vault.path / "metadata.json"
    metadata.write_text(metadata.read_text() + " ")
    (vault.path / "new").touch()
    assert vaults.verify(vault) == [
        "new: is new since the checksums were written", "metadata.json: has changed since its checksum was written",
    ]  # fmt: skip


def test_a_vault_cut_short_is_named(vault: vaults.Vault, capsys: pytest.CaptureFixture[str]) -> None:
    largest = max((vault.path / "d").iterdir(), key=lambda path: path.stat().st_size)
    largest.write_bytes(largest.read_bytes()[: largest.stat().st_size // 2])
    assert main(["card", str(vault.path)]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "cannot be read, the vault is cut short or damaged" in error
    assert "make rerun TRIAL=" in error


def test_a_missing_chunk_is_found(vault: vaults.Vault) -> None:
    import tensorstore as ts

    kvstore = ts.KvStore.open({"driver": "ocdbt", "base": f"file://{vault.path}"}).result()
    kvstore.write("reward./0.0.0", None).result()
    assert vaults.verify(vaults.Vault(vault.path)) == ["reward: 1 chunks are missing, and read as zeros"]


# -- The card ----------------------------------------------------------------------------------------------------------


def test_a_card_counts(vault: vaults.Vault) -> None:
    card = vaults.card(vault)
    assert card["episodes"] == {"total": 12, "whole": 8, "min_length": 10, "mean_length": 10.0, "max_length": 10}
    assert card["transitions"] == 100
    assert card["returns"]["by_agent"] == [1595.0, 1597.5, 1600.0]
    assert card["returns"]["histogram"]["counts"] == [2, 0, 0, 2, 0, 0, 2, 0, 0, 2]
    assert card["actions"][0] == {"C": 34, "D": 33, "-": 33}
    assert card["joint_actions"]["distinct"] == 3
    assert card["joint_actions"]["most_common"] == {"C D -": 34, "D - C": 33, "- C D": 33}
    assert card["coverage"] == {"decimals": 2, "joint_observations": 100, "joint_pairs": 100, "pairs_per_step": 1.0}
    assert card["cooperation_rate"] == 0.5
    json.dumps(card)
    text, markdown = vaults.text(card), vaults.markdown(card)
    assert "12, 8 of them whole, of 10 to 10 steps" in text
    assert "| agent 0 | 34 | 33 | 33 |" in markdown
    assert markdown.startswith("# one\n")


def test_coverage_counts_pairs_once(tmp_path: Path) -> None:
    fields = fields_of(2, 20)
    fields["observation"][:] = 0.001  # all the same when rounded
    card = vaults.card(write_vault(tmp_path / "j" / "v", fields))
    assert card["coverage"] == {"decimals": 2, "joint_observations": 1, "joint_pairs": 3, "pairs_per_step": 3 / 40}


# -- Exports -----------------------------------------------------------------------------------------------------------


def test_parquet_has_a_row_a_transition_and_agent(vault: vaults.Vault, tmp_path: Path) -> None:
    file = vaults.export_parquet([vault], tmp_path / "out" / "table.parquet")
    table = pd.read_parquet(file)
    assert len(table) == 4 * 25 * AGENTS
    row = table[(table["env"] == 2) & (table["step"] == 13) & (table["agent"] == 1)].iloc[0]
    assert (row["trial_id"], row["episode"], row["t"], row["whole"], row["done"]) == ("one", 1, 3, True, False)
    assert (row["action"], row["reward"], row["observation"].tolist()) == (1, 213.25, [213.25, -213.25])
    assert not table[table["step"] >= 20]["whole"].any()
    with pytest.raises(VaultError, match="is there already; name a new file"):
        vaults.export_parquet([vault], file)


def test_og_marl_reads_its_layout(vault: vaults.Vault, tmp_path: Path) -> None:
    (path,) = vaults.export_og_marl([vault], tmp_path / "vaults", "Good")
    assert path == tmp_path / "vaults" / "JaxParty" / "p-short.vlt" / "Good"
    read = read_with_flashbax(path)
    assert set(read) == {"observations", "actions", "rewards", "terminals", "truncations", "infos"}
    shapes = {name: np.asarray(values).shape for name, values in read.items() if name != "infos"}
    assert shapes == {"observations": (1, 80, 3, 2)} | dict.fromkeys(
        ("actions", "rewards", "terminals", "truncations"), (1, 80, 3)
    )
    assert np.asarray(read["infos"]["state"]).shape == (1, 80, 6)
    assert np.asarray(read["infos"]["legals"]).shape == (1, 80, 3, 3)
    ends = np.flatnonzero(np.asarray(read["terminals"])[0, :, 0])
    assert ends.tolist() == [9, 19, 29, 39, 49, 59, 69, 79]
    assert not np.asarray(read["truncations"]).any()
    assert np.asarray(read["rewards"])[0, 29:31, 0].tolist() == [109, 110]
    assert np.asarray(read["infos"]["state"])[0, 30].tolist() == [110, -110, 110.25, -110.25, 110.5, -110.5]


def test_og_marl_marks_truncations(tmp_path: Path) -> None:
    task = CONFIG["env"]["scenario"]["task_config"] | {"horizon": "truncate"}  # type: ignore[index]
    config = CONFIG | {"env": CONFIG["env"] | {"scenario": {"task_name": "p-open-ended", "task_config": task}}}  # type: ignore[operator]
    vault = write_vault(tmp_path / "j" / "v", fields_of(1, 15), config=config)
    (path,) = vaults.export_og_marl([vault], tmp_path / "vaults", "Replay", partial=True)
    read = read_with_flashbax(path)
    assert np.flatnonzero(np.asarray(read["truncations"])[0, :, 2]).tolist() == [9, 14]
    assert not np.asarray(read["terminals"]).any()
    short = write_vault(tmp_path / "j" / "short", fields_of(1, 5))
    with pytest.raises(VaultError, match="no whole episode in it; take those that were cut, too, with --partial"):
        vaults.export_og_marl([short], tmp_path / "vaults", "Short")


# -- The command line --------------------------------------------------------------------------------------------------


def test_commands(sweep_of_vaults: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sweep = str(sweep_of_vaults)
    assert main(["find", sweep, "--kind", "test"]) == 0
    assert "3 vaults" in capsys.readouterr().out
    assert main(["card", sweep, "--query", "number == 2", "--kind", "train", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["returns"]["by_agent"][0] == 21595.0
    assert main(["card", sweep, "--markdown", str(tmp_path / "cards.md")]) == 0
    assert (tmp_path / "cards.md").read_text().count("## Returns") == 6
    assert main(["verify", sweep, "--write"]) == 0
    assert main(["merge", sweep, "--kind", "train", "--to", str(tmp_path / "m" / "jax_party" / "all")]) == 0
    merged = str(tmp_path / "m" / "jax_party" / "all")
    assert vaults.Vault(merged).steps == 75
    assert main(["thin", merged, "--best", "3", "--to", str(tmp_path / "best")]) == 0
    assert main(["export", merged, "--format", "og-marl", "--to", str(tmp_path / "og")]) == 0
    assert main(["export", merged, "--to", str(tmp_path / "all.parquet")]) == 0
    capsys.readouterr()
    damaged = vaults.find(sweep)[0].path / "metadata.json"
    damaged.write_text(damaged.read_text() + " ")
    assert main(["verify", sweep]) == 1
    assert "metadata.json: has changed" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["find", "{tmp}/nowhere"], "no such folder; give a sweep's folder"),
        (["find", "{tmp}"], "no trials in it (neither sweep.yaml nor a folder with record.json)"),
        (["find", "{sweep}", "--query", "nonsense > 1"], "the index has no column 'nonsense'"),
        (["thin", "{sweep}", "--every", "2", "--to", "{tmp}/t"], "6 vaults; thin one"),
        (["merge", "{sweep}", "--to", "{tmp}/t"], "are train and test vaults; choose one with KIND=train or test"),
        (["thin", "{sweep}", "--query", "number==0", "--kind", "train", "--envs", "a", "--to", "{tmp}/t"], "--envs a"),
    ],
)
def test_bad_input_is_one_line(
    sweep_of_vaults: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    assert main([word.format(tmp=tmp_path, sweep=sweep_of_vaults) for word in words]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert message in error


def test_an_empty_sweep_is_told(sweep: Callable[..., Path], capsys: pytest.CaptureFixture[str]) -> None:
    for trials, message in ((0, "no trial of the sweep has begun; run it first: make resume SWEEP="),
                            (1, "no vaults; record them with OVERRIDES='vault=both'")):  # fmt: skip
        folder = sweep(trials, planned=2)
        for record in folder.glob("*/record.json"):
            update_record(record.parent, vaults=())
        results.write_index(folder)
        assert main(["find", str(folder)]) == 2
        assert message in capsys.readouterr().err
