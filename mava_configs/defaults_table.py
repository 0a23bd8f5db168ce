"""The tables of defaults in `docs/systems.md`; `python -m mava_configs.defaults_table` rewrites them.

Our values are composed from the YAML files, Mava's from `+preset=mava`. The papers' values, and the reasons why ours
differ, are in `docs/defaults.yaml`.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml

from jax_party.errors import ConfigError
from mava_configs import CONFIG_DIR, compose

DOCS: Final = CONFIG_DIR.parent / "docs"
PAGE: Final = DOCS / "systems.md"
NOTES: Final = DOCS / "defaults.yaml"
BEGIN: Final = "<!-- defaults: begin (python -m mava_configs.defaults_table writes what follows, from the YAML) -->"
END: Final = "<!-- defaults: end -->"
NOTHING: Final = "–"

OUR_OWN: Final = (
    "arch.architecture_name", "arch.num_devices", "arch.num_seeds", "arch.batch", "arch.gradient_chunk_size",
    "system.name", "system.seed", "system.total_timesteps", "system.num_updates", "network.name",
)  # fmt: skip
"""Keys that are not choices of an algorithm: how it is computed, names, the seed and the budget."""


@dataclass(frozen=True)
class Row:
    """A config key of a family of systems.

    Attributes:
      key: the dotted key.
      ours: system -> our value, for systems that have the key.
      mavas: system -> Mava's value, for systems that have the key and that Mava has too.
      papers: paper -> its value.
      reason: why we chose our value; None if no reason is given.
    """

    key: str
    ours: Mapping[str, Any]
    mavas: Mapping[str, Any]
    papers: Mapping[str, Any]
    reason: str | None

    @property
    def differs(self) -> bool:
        """Whether our value differs from Mava's or a paper's."""
        mavas = any(self.ours[system] != value for system, value in self.mavas.items())
        return mavas or any(value != paper for value in self.ours.values() for paper in self.papers.values())


@dataclass(frozen=True)
class Family:
    """Systems that share a table.

    Attributes:
      title: the table's heading.
      sources: where the papers' values are from, in Markdown.
      rows: the keys, in the order of the YAML.
    """

    title: str
    sources: str
    rows: tuple[Row, ...]


def read_families(notes: Path | None = None) -> list[Family]:
    """Compose every family's values and combine them with the notes about them.

    Args:
      notes: the file with the notes, None for `docs/defaults.yaml`.

    Raises:
      ConfigError: the notes mention a key that the family does not have.
    """
    written = yaml.safe_load((notes or NOTES).read_text(encoding="utf-8"))
    return [_family(part, written["reasons"]) for part in written["families"]]


def unexplained(families: list[Family]) -> list[str]:
    """Return the rows whose values differ without a reason, each as `title: key`."""
    return [
        f"{family.title}: {row.key}" for family in families for row in family.rows if row.differs and not row.reason
    ]


def render(families: list[Family]) -> str:
    """Return the page's section with all tables, in Markdown."""
    return "\n\n".join(_table(family) for family in families)


def insert(page: str, section: str) -> str:
    """Return the page with the section between its markers.

    Raises:
      ConfigError: the page lacks a marker.
    """
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ConfigError(f"{PAGE.name}: {END if begin else BEGIN}: missing; put both markers back")
    return f"{before}{BEGIN}\n\n{section}\n\n{END}{after}"


def main() -> int:
    """Rewrite the page, and return the exit code: 2 if a difference has no reason, else 0."""
    families = read_families()
    missing = unexplained(families)
    if missing:
        sys.stderr.write("".join(f"{NOTES}: {line}: differs; say why\n" for line in missing))
        return 2
    PAGE.write_text(insert(PAGE.read_text(encoding="utf-8"), render(families)), encoding="utf-8")
    return 0


# -- Values ------------------------------------------------------------------------------------------------------------


def _family(part: Mapping[str, Any], common: Mapping[str, str]) -> Family:
    groups = tuple(part.get("groups", ("system", "network")))
    systems = tuple(part["systems"])
    ours = {system: _settings(system, groups) for system in systems}
    presets = (system for system in systems if system not in part.get("not_mava", ()))
    mavas = {system: _settings(system, groups, "+preset=mava") for system in presets}
    papers, reasons = part.get("papers", {}), {**common, **part.get("reasons", {})}
    keys = list(dict.fromkeys(key for settings in ours.values() for key in settings))
    unknown = {*papers, *part.get("reasons", {})} - set(keys)
    if unknown:
        raise ConfigError(f"{NOTES.name}: {part['title']}: {', '.join(sorted(unknown))}: no such key; take it out")
    rows = (Row(key, _of(key, ours), _of(key, mavas), papers.get(key, {}), reasons.get(key)) for key in keys)
    return Family(part["title"], part["sources"], tuple(rows))


def _settings(system: str, groups: tuple[str, ...], *overrides: str) -> dict[str, Any]:
    composed = compose(system, overrides)
    return {
        key: value for group in groups for key, value in _leaves(composed[group], f"{group}.") if key not in OUR_OWN
    }


def _leaves(node: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for key, value in node.items():
        yield from _leaves(value, f"{prefix}{key}.") if isinstance(value, Mapping) else [(f"{prefix}{key}", value)]


def _of(key: str, settings: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    return {system: values[key] for system, values in settings.items() if key in values}


# -- Markdown ----------------------------------------------------------------------------------------------------------


def _table(family: Family) -> str:
    head = "| key | ours | Mava's | papers' | why ours |"
    lines = [f"### {family.title}", "", family.sources, "", head, "|" + "---|" * 5]
    cells: dict[tuple[str, ...], list[str]] = {}
    for row in family.rows:
        reason = (row.reason or "") if row.differs else ""
        same = (row.key.rpartition(".")[2], _by_name(row.ours), _by_name(row.mavas), _by_name(row.papers), reason)
        cells.setdefault(same, []).append(row.key)
    for (_, *rest), keys in cells.items():
        lines.append(f"| {', '.join(f'`{key}`' for key in keys)} | {' | '.join(rest)} |")
    return "\n".join(lines)


def _by_name(values: Mapping[str, Any]) -> str:
    """Format the values: a single value if all are equal, else each with its name."""
    texts = {name: _text(value) for name, value in values.items()}
    if len(set(texts.values())) <= 1:
        return next(iter(texts.values()), NOTHING)
    return ", ".join(f"{text} ({name})" for name, text in texts.items())


def _text(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return ", ".join(map(_text, value))
    return _number(value) if isinstance(value, (int, float)) else str(value)


def _number(value: float) -> str:
    """Format a number, such as `5e-4`, `51,200` or `0.99`."""
    if abs(value) >= 1e9 or 0.0 < abs(value) < 0.01:
        mantissa, _, exponent = f"{value:.6e}".partition("e")
        return f"{float(mantissa):g}e{int(exponent)}"
    return f"{int(value):,}" if value == int(value) else f"{value:g}"


__all__ = ["Family", "Row", "insert", "read_families", "render", "unexplained"]


if __name__ == "__main__":
    sys.exit(main())
