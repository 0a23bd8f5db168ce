"""The verbs of `python -m results.vaults`: each takes the parsed command line and returns the exit code."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from rich.console import Console

from jax_party.errors import VaultError
from jax_party.store.files import write_text_atomically
from jax_party.store.storage import store_of
from results import vaults
from results.printing import print_table
from results.vaults.finding import Place

DAMAGED: Final = 1


def _places(options: argparse.Namespace) -> list[Place]:
    return [place for source in options.sources for place in vaults.find(source, options.query, options.kind)]


def list_vaults(options: argparse.Namespace) -> int:
    """Print a table of the vaults."""
    headings = ("vault", "kind", "algorithm", "scenario", "environments", "steps", "folder")
    places = _places(options)
    rows = [
        [place.uid, place.kind, place.algorithm, place.scenario]
        + [str(number) if number else "" for number in (place.rows, place.steps)] + [str(place.path)]
        for place in places
    ]  # fmt: skip
    print_table(headings, rows, left=("vault", "kind", "algorithm", "scenario", "folder"), spare=("vault",))
    _say(f"{len(places)} vaults")
    return 0


def print_cards(options: argparse.Namespace) -> int:
    """Print the data card of each vault, or write all of them into a Markdown file."""
    with vaults.opened(_places(options)) as found:
        cards = [vaults.card(vault) for vault in found]
    if options.markdown:
        write_text_atomically(Path(options.markdown), "\n".join(map(vaults.markdown, cards)))
        _say(options.markdown)
        return 0
    for card in cards:
        _say(json.dumps(card) if options.json else vaults.text(card))
    return 0


def verify(options: argparse.Namespace) -> int:
    """Print the damage in each vault; return `DAMAGED` if there is any."""
    places = _places(options)
    damaged = False
    for place in places:
        if options.write and store_of(place.folder).on_disk(place.folder) is None:
            raise VaultError(f"{place.path}: is on remote storage; fetch the trial, and write checksums in the copy")
        with vaults.opened([place]) as (vault,):
            problems = vaults.verify(vault, place)
            for problem in problems:
                _say(f"{place.path}: {problem}")
            if not problems:
                wrote = f", checksums in {vaults.write_checksums(vault)}" if options.write else ""
                _say(f"{place.path}: whole, {vault.rows} environments × {vault.steps:,} steps{wrote}")
            damaged = damaged or bool(problems)
    return DAMAGED if damaged else 0


def merge(options: argparse.Namespace) -> int:
    """Merge the vaults into one."""
    with vaults.opened(_places(options)) as found:
        new = vaults.merge(found, options.to, options.along)
        _say(f"{new.path}: {new.rows} environments × {new.steps:,} steps, of {len(found)} vaults")
    return 0


def thin(options: argparse.Namespace) -> int:
    """Make a smaller copy of one vault."""
    places = _places(options)
    if len(places) > 1:
        raise VaultError(
            f"{options.sources[0]}: {len(places)} vaults; thin one, by its folder, or by --query and --kind"
        )
    with vaults.opened(places) as (vault,):
        new = vaults.thin(vault, options.to, every=options.every, envs=_envs(options.envs),
                          best=options.best, worst=options.worst)  # fmt: skip
        _say(f"{new.path}: {new.rows} environments × {new.steps:,} steps")
    return 0


def export(options: argparse.Namespace) -> int:
    """Write the vaults in another tool's format."""
    with vaults.opened(_places(options)) as found:
        if options.format == "parquet":
            _say(str(vaults.export_parquet(found, options.to)))
        else:
            for path in vaults.export_og_marl(found, options.to, options.label, options.partial):
                _say(str(path))
    return 0


def _envs(text: str | None) -> slice | list[int] | None:
    if text is None:
        return None
    try:
        if ":" in text:
            start, stop = (int(part) if part else None for part in text.split(":"))
            return slice(start, stop)
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise VaultError(f"--envs {text}: give a part, 0:4, or a list, 0,3,5") from None


def _say(text: str) -> None:
    Console(soft_wrap=True).print(text, markup=False, highlight=False)


VERBS: Final[Mapping[str, Callable[[argparse.Namespace], int]]] = {
    "find": list_vaults,
    "card": print_cards,
    "verify": verify,
    "merge": merge,
    "thin": thin,
    "export": export,
}
