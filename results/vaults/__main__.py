"""`python -m results.vaults find|card|verify|merge|thin|export <folder> …`: work with vaults from the command line."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from rich.console import Console

from jax_party.cli.arguments import BAD_INPUT, OneLineParser, print_error, whole_number
from jax_party.errors import JaxPartyError, VaultError
from jax_party.store.files import write_text_atomically
from jax_party.store.storage import store_of
from results import vaults
from results.printing import print_table
from results.vaults.derive import ALONG
from results.vaults.finding import KINDS, Place

DAMAGED: Final = 1
_VARIABLES: Final = {"command": "DO", "folder": "SWEEP", "--query": "QUERY", "--kind": "KIND", "--to": "TO"}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return 0, 1 if `verify` found a problem, or 2 if the command failed."""
    options = _parser().parse_args(arguments)
    commands: dict[str, Callable[[argparse.Namespace], int]] = {
        "find": _find, "card": _card, "verify": _verify, "merge": _merge, "thin": _thin, "export": _export,
    }  # fmt: skip
    try:
        return commands[options.command](options)
    except (JaxPartyError, OSError) as error:
        print_error(error)
        return BAD_INPUT


def _parser() -> OneLineParser:
    parser = OneLineParser(
        "python -m results.vaults", description="Find trajectories and work with them.", variables=_VARIABLES
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="command")

    def command(name: str, about: str) -> OneLineParser:
        added = commands.add_parser(name, help=about, description=about, variables=_VARIABLES)
        added.add_argument(
            "sources", nargs="+", metavar="folder", help="folder of a sweep, a trial or a vault; s3://… too"
        )
        added.add_argument("--query", help='condition on the index: algorithm == "ff_mappo" and cooperation_rate > 0.5')
        added.add_argument("--kind", choices=KINDS, help="of vaults (both)")
        return added

    command("find", "List the vaults.")
    card = command("card", "Describe each vault.")
    form = card.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="as JSON, a line a vault")
    form.add_argument("--markdown", metavar="FILE", help="into a Markdown file")
    verify = command("verify", "Look for damage; exit code 1 if there is any.")
    verify.add_argument("--write", action="store_true", help="write checksums beside intact vaults")
    merge = command("merge", "Merge several vaults into one.")
    merge.add_argument("--along", choices=ALONG, default="auto", help="behind each other (time) or beside (auto)")
    thin = command("thin", "Make a smaller copy of a vault.")
    thin.add_argument("--every", type=whole_number(1), default=1, metavar="K", help="keep every k-th step")
    thin.add_argument("--envs", metavar="A:B", help="keep environments A to B (exclusive), or a list: 0,3,5")
    thin.add_argument(
        "--best", type=whole_number(1), metavar="N", help="keep the N whole episodes with the highest return"
    )
    thin.add_argument(
        "--worst", type=whole_number(1), metavar="N", help="keep the N whole episodes with the lowest return"
    )
    export = command("export", "Export vaults for other tools.")
    export.add_argument("--format", choices=("parquet", "og-marl"), default="parquet")
    export.add_argument("--label", default="Replay", help="og-marl: the data set's name (Replay)")
    export.add_argument("--partial", action="store_true", help="og-marl: include truncated episodes")
    for added in (merge, thin, export):
        added.add_argument("--to", required=True, metavar="PATH", help="the output")
    return parser


def _places(options: argparse.Namespace) -> list[Place]:
    return [place for source in options.sources for place in vaults.find(source, options.query, options.kind)]


def _find(options: argparse.Namespace) -> int:
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


def _card(options: argparse.Namespace) -> int:
    with vaults.opened(_places(options)) as found:
        cards = [vaults.card(vault) for vault in found]
    if options.markdown:
        write_text_atomically(Path(options.markdown), "\n".join(map(vaults.markdown, cards)))
        _say(options.markdown)
        return 0
    for card in cards:
        _say(json.dumps(card) if options.json else vaults.text(card))
    return 0


def _verify(options: argparse.Namespace) -> int:
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


def _merge(options: argparse.Namespace) -> int:
    with vaults.opened(_places(options)) as found:
        new = vaults.merge(found, options.to, options.along)
        _say(f"{new.path}: {new.rows} environments × {new.steps:,} steps, of {len(found)} vaults")
    return 0


def _thin(options: argparse.Namespace) -> int:
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


def _export(options: argparse.Namespace) -> int:
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


if __name__ == "__main__":
    sys.exit(main())
