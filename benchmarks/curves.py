"""What `learning` found, for the docs: a table in Markdown between two marks, and a picture per case."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from benchmarks.harness import ROOT, BenchmarkError
from benchmarks.learning import CASES, Case, cell, verdict
from mava_configs import ALGORITHMS

DOCS: Final = ROOT / "docs" / "learning.md"
IMAGES: Final = ROOT / "docs" / "images"
BEGIN: Final = "<!-- begin: make bench-learning -->"
END: Final = "<!-- end: make bench-learning -->"
COLUMNS: Final = 4


def write_docs(results: Mapping[str, Mapping[str, Any]], docs: Path = DOCS, images: Path = IMAGES) -> None:
    """Put the tables between the marks of docs/learning.md, and the pictures beside it.

    Args:
      results: of `learning`: case -> system -> what it reached.

    Raises:
      BenchmarkError: the marks are missing.
    """
    text = docs.read_text(encoding="utf-8")
    if BEGIN not in text or END not in text:
        raise BenchmarkError(f"{docs}: the lines {BEGIN} and {END} are missing; put them where the tables belong")
    before, rest = text.split(BEGIN)
    after = rest.split(END)[1]
    docs.write_text(f"{before}{BEGIN}\n\n{markdown(results)}\n{END}{after}", encoding="utf-8")
    images.mkdir(parents=True, exist_ok=True)
    for case in CASES:
        if case.name in results:
            draw(case, results[case.name], images / f"learning-{case.name}.svg")


def markdown(results: Mapping[str, Mapping[str, Any]]) -> str:
    """A section per case: its table, mean (least to most) over seeds, and its picture."""
    parts = []
    for case in CASES:
        if case.name not in results:
            continue
        heads = ["system", *(f"{steps:,} steps" for steps in case.read_at), "seeds"]
        heads += [f"{case.bound} at {case.held_at:,}"] if case.bound else []
        lines = [f"### {case.title}", "", _row(heads), _row(["---"] * len(heads))]
        for system in ALGORITHMS:
            if system in results[case.name]:
                part = results[case.name][system]
                cells = [f"`{system}`", *(cell(part["at"][str(steps)]) for steps in case.read_at)]
                cells += [str(len(part["last"])), *([verdict(case, system, part)] if case.bound else [])]
                lines.append(_row(cells))
        parts.append("\n".join([*lines, "", f"![{case.title}](images/learning-{case.name}.svg)", ""]))
    return "\n".join(parts)


def draw(case: Case, results: Mapping[str, Any], path: Path) -> None:
    """A small chart per system: the mean over seeds, every seed's curve behind it, and the bound."""
    import matplotlib
    from matplotlib.figure import Figure

    from results.report.theme import COLOURS, metric_label

    systems = [system for system in ALGORITHMS if system in results]
    rows = -(-len(systems) // COLUMNS)
    figure = Figure(figsize=(2.6 * COLUMNS, 1.9 * rows + 0.5))
    axes = figure.subplots(rows, COLUMNS, sharex=True, sharey=True, squeeze=False)
    for place, (axis, system) in enumerate(zip(axes.flat, systems, strict=False)):
        curves = results[system]["curves"]
        steps = [value / 1e6 for value in curves[0]["steps"]]
        for curve in curves:
            axis.plot(steps, curve["values"], color=COLOURS[4], linewidth=0.8, alpha=0.7)
        means = [statistics.fmean(values) for values in zip(*(curve["values"] for curve in curves), strict=True)]
        axis.plot(steps, means, color=COLOURS[0], linewidth=1.8)
        bound = case.at_least if case.at_least is not None else case.at_most
        if bound is not None and system in case.held_to:
            axis.axhline(bound, color=COLOURS[1], linewidth=0.9, linestyle="--")
        axis.set_title(system, fontsize=9)
        axis.tick_params(labelsize=7, labelbottom=place + COLUMNS >= len(systems))
        axis.spines[["top", "right"]].set_visible(False)
    for axis in axes.flat[len(systems) :]:
        axis.set_visible(False)
    figure.supxlabel("environment steps, millions", fontsize=8)
    figure.supylabel(metric_label(case.metric), fontsize=8)
    figure.tight_layout()
    with matplotlib.rc_context({"svg.hashsalt": case.name}):  # the same numbers make the same file
        figure.savefig(path, metadata={"Date": None})


def _row(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


__all__ = ["draw", "markdown", "write_docs"]
