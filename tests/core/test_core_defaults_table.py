"""The tables of defaults in docs/systems.md are those of the YAML, and every difference has a reason."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import yaml

from jax_party.errors import ConfigError
from mava_configs import ALGORITHMS, compose, defaults_table
from mava_configs.defaults_table import NOTES, PAGE, Family, Row


@pytest.fixture(scope="module")
def families() -> list[Family]:
    return defaults_table.read_families()


def test_the_page_is_what_the_yaml_gives(families: list[Family]) -> None:
    page = PAGE.read_text()
    assert defaults_table.insert(page, defaults_table.render(families)) == page, (
        "docs/systems.md is out of date: run python -m mava_configs.defaults_table"
    )


def test_whatever_differs_has_a_reason(families: list[Family]) -> None:
    assert defaults_table.unexplained(families) == [], "say why in docs/defaults.yaml"


def test_every_system_is_in_a_table_with_all_its_keys(families: list[Family]) -> None:
    rows = [row for family in families for row in family.rows]
    assert {system for row in rows for system in row.ours} == set(ALGORITHMS)
    by_key = {(system, row.key): value for row in rows for system, value in row.ours.items()}
    for system in ALGORITHMS:
        composed = compose(system)
        for key in composed["system"].keys() - {"name", "seed", "total_timesteps", "num_updates"}:
            assert by_key[system, f"system.{key}"] == composed["system"][key]
    assert by_key["rec_qmix", "network.mixer_network.embed_dim"] == 32


def test_mavas_column_is_the_presets(families: list[Family]) -> None:
    rows = [row for family in families for row in family.rows]
    mavas = {(system, row.key): value for row in rows for system, value in row.mavas.items()}
    assert mavas["mat", "network.net_config.attention_gain"] == 0.01
    assert mavas["rec_sable", "network.memory_config.decay_scaling_factor"] == 0.8
    assert mavas["rec_iql", "system.buffer_size"] == 80_000
    assert {system for system, _ in mavas} == set(ALGORITHMS) - {"ff_iql"}


@pytest.mark.parametrize(
    ("mavas", "papers", "differs"),
    [
        ({}, {}, False),
        ({"a": 1.0}, {"P": 1}, False),
        ({"a": 2}, {}, True),
        ({}, {"P": 2}, True),
        ({"a": 1}, {"P": 1, "Q": "an episode"}, True),
    ],
)
def test_a_row_differs_from_mavas_or_from_any_paper(
    mavas: dict[str, Any], papers: dict[str, Any], differs: bool
) -> None:
    row = Row("system.epochs", {"a": 1}, mavas, papers, None)
    assert row.differs is differs
    family = Family("Both", "", (row,))
    assert defaults_table.unexplained([family]) == (["Both: system.epochs"] if differs else [])
    assert defaults_table.unexplained([Family("Both", "", (dataclasses.replace(row, reason="so"),))]) == []


def test_a_table() -> None:
    """Lines of one meaning are merged, and a reason is shown where values differ."""
    rows = (
        Row("network.actor.sizes", {"a": [8, 8]}, {"a": [8, 8]}, {}, "not shown"),
        Row("network.critic.sizes", {"a": [8, 8]}, {"a": [8, 8]}, {}, "not shown"),
        Row("system.rate", {"a": 5e-4, "b": 1e-3}, {"a": 2.5e-4}, {"P": 0.99, "Q": 1e9}, "why"),
        Row("system.size", {"a": 51_200}, {}, {"P": True, "Q": None}, "because"),
    )
    assert defaults_table.render([Family("Two", "From two papers.", rows)]) == "\n".join(
        (
            "### Two", "", "From two papers.", "",
            "| key | ours | Mava's | papers' | why ours |", "|---|---|---|---|---|",
            "| `network.actor.sizes`, `network.critic.sizes` | 8, 8 | 8, 8 | – |  |",
            "| `system.rate` | 5e-4 (a), 1e-3 (b) | 2.5e-4 | 0.99 (P), 1e9 (Q) | why |",
            "| `system.size` | 51,200 | – | true (P), null (Q) | because |",
        )
    )  # fmt: skip


def test_the_command_rewrites_the_page_or_says_what_lacks_a_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    notes = yaml.safe_load(NOTES.read_text())
    notes["families"] = [part for part in notes["families"] if part["systems"] == ["mat"]]
    (tmp_path / "systems.md").write_text(f"before\n{defaults_table.BEGIN}\nold\n{defaults_table.END}\nafter\n")
    (tmp_path / "defaults.yaml").write_text(yaml.safe_dump(notes))
    monkeypatch.setattr(defaults_table, "PAGE", tmp_path / "systems.md")
    monkeypatch.setattr(defaults_table, "NOTES", tmp_path / "defaults.yaml")
    assert defaults_table.main() == 0
    page = (tmp_path / "systems.md").read_text()
    assert page.startswith("before\n") and page.endswith("after\n") and "\nold\n" not in page and "### MAT" in page

    del notes["families"][0]["reasons"]["system.ppo_epochs"]
    (tmp_path / "defaults.yaml").write_text(yaml.safe_dump(notes))
    assert defaults_table.main() == 2
    assert capsys.readouterr().err == f"{tmp_path / 'defaults.yaml'}: MAT: system.ppo_epochs: differs; say why\n"


def test_notes_about_a_key_that_is_not_there_are_refused(tmp_path: Path) -> None:
    part = {"title": "MAT", "systems": ["mat"], "sources": "", "papers": {"system.tau": {"P": 1}}}
    (tmp_path / "defaults.yaml").write_text(yaml.safe_dump({"reasons": {}, "families": [part]}))
    with pytest.raises(ConfigError, match=r"^defaults.yaml: MAT: system.tau: no such key; take it out$"):
        defaults_table.read_families(tmp_path / "defaults.yaml")


def test_a_page_without_its_markers_is_refused() -> None:
    with pytest.raises(ConfigError, match="missing; put both markers back"):
        defaults_table.insert("a page", "a section")
