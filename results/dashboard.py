"""`python -m results.dashboard [folder]`: Optuna's dashboard and TensorBoard for one sweep, or for all sweeps."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Sequence
from typing import Any

from rich.console import Console

from jax_party.cli.arguments import BAD_INPUT, OneLineParser, print_error, whole_number
from jax_party.errors import JaxPartyError
from jax_party.store.storage import as_folder
from results.live.dashboards import LAST_PORT, show
from results.tables import DEFAULT_ROOT


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return 0, or 2 if there is nothing to show or a dashboard fails."""
    parser = OneLineParser(
        "python -m results.dashboard",
        description="Optuna's dashboard and TensorBoard.",
        variables={"folder": "SWEEP", "--port": "PORT"},
    )
    parser.add_argument(
        "folder", nargs="?", default=DEFAULT_ROOT, help=f"a sweep's folder, or one with all sweeps ({DEFAULT_ROOT})"
    )
    parser.add_argument(
        "--port",
        type=whole_number(1, LAST_PORT - 1),
        help="port of Optuna's dashboard; TensorBoard gets the next (free ports)",
    )
    options = parser.parse_args(arguments)
    console = Console(soft_wrap=True)
    stop = threading.Event()

    def end(*_: Any) -> None:
        stop.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, end)
    try:
        show(as_folder(options.folder), options.port, lambda line: console.print(line, markup=False), stop)
    except (JaxPartyError, OSError) as error:
        print_error(error)
        return BAD_INPUT
    return 0


if __name__ == "__main__":
    sys.exit(main())
