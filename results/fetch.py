"""`python -m results.fetch s3://bucket/…/<trial> [to]`: copy a trial from remote storage to a local folder.

The local copy has the layout of `docs/design.md`: checkpoints and vaults are folders that Orbax and Flashbax can read.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from jax_party.cli.arguments import BAD_INPUT, OneLineParser, print_error
from jax_party.errors import JaxPartyError, RecordError
from jax_party.store.storage import as_folder, store_of
from jax_party.trial import transfer


def fetch(trial: str | Path, to: str | Path | None = None) -> Path:
    """Copy a trial to a local folder, by default one of the trial's name in the working directory; return the folder.

    Raises:
      JaxPartyError: remote storage has no such trial, it cannot be read, or the local folder already exists.
    """
    remote = as_folder(trial)
    if store_of(remote).on_disk(remote) is not None:
        raise RecordError(f"{trial}: is not a trial on remote storage; give s3://bucket/…/<trial id>")
    store_of(remote).check(remote)
    local = Path(to) if to is not None else Path(remote.name)
    transfer.fetch(remote, local)
    return local


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return 0, or 2 if the trial could not be fetched."""
    parser = OneLineParser(
        "python -m results.fetch",
        description="Download a trial from remote storage.",
        variables={"trial": "TRIAL", "to": "TO"},
    )
    parser.add_argument("trial", help="s3://bucket/…/<trial id>")
    parser.add_argument("to", nargs="?", help="the new folder (the trial's id)")
    options = parser.parse_args(arguments)
    try:
        local = fetch(options.trial, options.to)
    except (JaxPartyError, OSError) as error:
        print_error(error)
        return BAD_INPUT
    Console(soft_wrap=True).print(f"{local}", markup=False, highlight=False)
    return 0


if __name__ == "__main__":
    sys.exit(main())
