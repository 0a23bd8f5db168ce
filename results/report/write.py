"""Write the report; also its command line."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from rich.console import Console

from jax_party.cli.arguments import BAD_INPUT, OneLineParser, print_error
from jax_party.errors import RecordError
from jax_party.store.files import write_bytes_atomically, write_text_atomically
from jax_party.store.storage import store_of
from results.report.load import load

REPORT_FILE: Final = "report.html"
PLOTS_FOLDER: Final = "plots"


@dataclass(frozen=True)
class ReportPaths:
    """The page, and the figures for papers."""

    page: Path
    plots: list[Path]


def write_report(sweep_folder: str | Path) -> ReportPaths:
    """Write `report.html` and `plots/*.{svg,png}` into a sweep's folder, or into a single run's.

    It may run at any time, also while the sweep runs; older files are replaced.

    Raises:
      RecordError: there is no such sweep, nothing has been evaluated yet, or the folder cannot be written.
    """
    data = load(sweep_folder)
    from results.report.page import render
    from results.report.paper import pictures

    page = data.folder / REPORT_FILE
    write_text_atomically(page, render(data))
    plots = []
    store_of(data.folder).make_folder(data.folder / PLOTS_FOLDER)
    for name, content in pictures(data):
        plots.append(data.folder / PLOTS_FOLDER / name)
        write_bytes_atomically(plots[-1], content)
    return ReportPaths(page, plots)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return 0, or 2 if there is nothing to report or it cannot be written."""
    parser = OneLineParser(
        "python -m results.report", description="Write a sweep's report.", variables={"folder": "SWEEP"}
    )
    parser.add_argument("folder", help="a sweep's folder, or a single run's; s3://… too")
    options = parser.parse_args(arguments)
    try:
        paths = write_report(options.folder)
    except (RecordError, OSError) as error:
        print_error(error)
        return BAD_INPUT
    say = Console(soft_wrap=True)
    say.print(f"{paths.page}", markup=False, highlight=False)
    say.print(f"{len(paths.plots)} pictures in {data_folder(paths)}", markup=False, highlight=False)
    return 0


def data_folder(paths: ReportPaths) -> Path:
    """Return the folder of the figures."""
    return paths.page.parent / PLOTS_FOLDER
