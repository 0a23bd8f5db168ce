"""`python -m results.vaults find|card|verify|merge|thin|export <folder> …`: work with vaults from the command line."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Final

from jax_party.cli.arguments import BAD_INPUT, OneLineParser, print_error, whole_number
from jax_party.errors import JaxPartyError
from results.vaults.commands import VERBS
from results.vaults.derive import ALONG
from results.vaults.finding import KINDS

_VARIABLES: Final = {"command": "DO", "folder": "SWEEP", "--query": "QUERY", "--kind": "KIND", "--to": "TO"}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return 0, 1 if `verify` found a problem, or 2 if the command failed."""
    options = _parser().parse_args(arguments)
    try:
        return VERBS[options.command](options)
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
    form.add_argument("--json", action="store_true", help="as JSON, one line per vault")
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


if __name__ == "__main__":
    sys.exit(main())
