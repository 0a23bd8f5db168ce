"""The report of a sweep: `python -m results.report <folder>` writes `report.html` and `plots/`.

`data` reads the tables and folders; `learning`, `comparison`, `hyperparameters`, `game`, `health` and `leaderboard`
turn them into charts and tables; `page` puts these on one page, and `paper` draws the figures for papers.
`docs/report.md` explains each chart.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from results.report.write import write_report as write_report

__all__ = ["write_report"]


def __getattr__(name: str) -> Any:
    if name == "write_report":
        from results.report.write import write_report

        return write_report
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
