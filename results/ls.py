"""`python -m results.ls [root]`: print every sweep below a folder. In Python: `results.list_sweeps(root)`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any, Final

import pandas as pd

from jax_party.cli.arguments import BAD_INPUT, OneLineParser, print_error
from jax_party.errors import JaxPartyError
from results.analysis.sweep_list import COLUMNS, list_sweeps
from results.printing import print_table
from results.tables import DEFAULT_ROOT

SPARE: Final = ("provisional", "best", "states", "algorithms", "scenarios", "metric", "when", "name")
"""Columns that a narrow terminal drops, the last one first: the folder's path already has the name and the time."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return 0, or 2 if there is nothing to list."""
    parser = OneLineParser(
        "python -m results.ls", description="List the sweeps below a folder.", variables={"root": "OUT"}
    )
    parser.add_argument("root", nargs="?", default=DEFAULT_ROOT, help=f"where sweeps are ({DEFAULT_ROOT})")
    try:
        found = list_sweeps(parser.parse_args(arguments).root)
    except (JaxPartyError, OSError) as error:
        print_error(error)
        return BAD_INPUT
    rows = [[_text(row[name]) for name in COLUMNS] for row in found.to_dict("records")]
    print_table(COLUMNS, rows, left=[name for name in COLUMNS if name != "best"], spare=SPARE)
    return 0


def _text(value: Any) -> str:
    if pd.isna(value):
        return ""
    return f"{value:.5g}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    sys.exit(main())
