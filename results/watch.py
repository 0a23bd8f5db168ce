"""`python -m results.watch <folder>`: a live table of a sweep, from its index alone."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from rich.console import Console

from jax_party.cli.arguments import BAD_INPUT, OneLineParser, print_error
from jax_party.errors import RecordError
from jax_party.store.storage import as_folder
from results.live.index_table import watch


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return 0, also after Ctrl-C, or 2 if there is nothing to watch."""
    parser = OneLineParser(
        "python -m results.watch", description="A live table of a sweep.", variables={"folder": "SWEEP"}
    )
    parser.add_argument("folder", help="a sweep's folder, or a single run's")
    options = parser.parse_args(arguments)
    console = Console()
    try:
        watch(as_folder(options.folder), console if console.is_terminal else Console(width=160))
    except KeyboardInterrupt:
        return 0
    except (RecordError, OSError) as error:
        print_error(error)
        return BAD_INPUT
    return 0


if __name__ == "__main__":
    sys.exit(main())
