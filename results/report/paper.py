"""Figures for papers, drawn with Matplotlib: no browser is needed, and equal folders give equal files."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from typing import Any, Final

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter

from jax_party.judging.aggregate import Aggregate
from results.analysis.importance import SCENARIO_AXIS
from results.analysis.statistics import Band
from results.report import comparison, game, hyperparameters, learning
from results.report.data import ALL, BEST, SweepData
from results.report.theme import OUTCOME_COLOURS, SHARE_RANGE, axis_range, axis_title, metric_name, short_names, styles

#: Widths in inches: one column of a paper, and the full page.
COLUMN: Final = 3.4
PAGE: Final = 7.0
_DASHES: Final = {"solid": "-", "dash": "--", "dot": ":"}
_MARKERS: Final = {"circle": "o", "square": "s", "diamond": "D", "triangle-up": "^", "cross": "P", "x": "X"}
_STYLE: Final[Any] = {
    "font.size": 8, "axes.titlesize": 8, "axes.labelsize": 8, "legend.fontsize": 7, "xtick.labelsize": 7,
    "ytick.labelsize": 7, "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "grid.alpha": 0.3,
    "grid.linewidth": 0.5, "axes.axisbelow": True, "lines.linewidth": 1.4, "svg.hashsalt": "jax-party",
    "svg.fonttype": "none",
}  # fmt: skip


def pictures(data: SweepData) -> Iterator[tuple[str, bytes]]:
    """Yield file name -> content of each figure, as SVG and as PNG; charts without data are left out."""
    view = paper_view(data)
    with matplotlib.rc_context(_STYLE):
        for name, made in _figures(data, view):
            FigureCanvasAgg(made)
            for kind, metadata in (("svg", {"Date": None}), ("png", {"Software": None})):
                buffer = io.BytesIO()
                made.savefig(buffer, format=kind, dpi=200, metadata=metadata)
                made.set_layout_engine("none")  # the layout is done; repeating it takes long
                yield f"{name}.{kind}", buffer.getvalue()


def paper_view(data: SweepData) -> str:
    """Return the best configurations' seeds as the view if each has at least two, otherwise every configuration."""
    thin = any(len(one.curve_values) < 2 for one in data.best.values())
    return ALL if thin else BEST


def _figures(data: SweepData, view: str) -> Iterator[tuple[str, Figure]]:
    for metric in learning.curve_metrics(data):
        made = _curves(data, view, metric)
        if made is not None:
            yield f"learning_{metric}", made
    for name, draw in (("efficiency", _efficiency), ("profiles", _profiles), ("aggregates", _aggregates),
                       ("improvement", _improvements), ("heatmap", _heat), ("outcomes", _outcomes),
                       ("importance", _importances)):  # fmt: skip
        made = draw(data, view)
        if made is not None:
            yield name, made


def _panels(titles: Sequence[str], height: float = 2.1) -> tuple[Figure, list[Axes]]:
    """Return a figure with one panel per title, at most three per row."""
    columns = min(3, len(titles))
    rows = -(-len(titles) // columns)
    made = Figure(figsize=(COLUMN if columns == 1 else PAGE, height * rows), layout="constrained")
    axes = list(made.subplots(rows, columns, squeeze=False).flat)
    for axis, title in zip(axes, titles, strict=False):
        axis.set_title(title)
    for axis in axes[len(titles) :]:
        axis.set_axis_off()
    return made, axes[: len(titles)]


def _legend(made: Figure, axes: Sequence[Axes]) -> None:
    """Add one legend below all panels."""
    known = {label: handle for axis in axes for handle, label in zip(*axis.get_legend_handles_labels(), strict=True)}
    made.legend(
        known.values(), known.keys(), loc="outside lower center", ncols=min(4, max(1, len(known))), frameon=False
    )


def _line(axis: Axes, x: Any, band: Band, algorithm: str, data: SweepData) -> None:
    style = styles(data.algorithms)[algorithm]
    axis.plot(x, band.value, _DASHES[style.dash], color=style.colour, label=algorithm,
              marker=_MARKERS[style.marker] if len(band.value) <= 30 else None, markersize=3)  # fmt: skip
    if np.isfinite(band.low).any():
        axis.fill_between(x, band.low, band.high, color=style.colour, alpha=0.18, linewidth=0)


def _curves(data: SweepData, view: str, metric: str) -> Figure | None:
    found = {
        scenario: {name: one for name in data.algorithms
                   if len((one := learning.band_of(data, view, name, scenario, metric))[0])}
        for scenario in data.scenarios
    }  # fmt: skip
    shown = [scenario for scenario, curves in found.items() if curves]
    if not shown:
        return None
    made, axes = _panels(shown)
    for axis, scenario in zip(axes, shown, strict=True):
        for algorithm, (steps, band) in found[scenario].items():
            _line(axis, steps, band, algorithm, data)
        axis.set_xlabel(learning.STEPS)
        axis.set_xlim(left=0)
        if (ends := axis_range(axis_title(metric))) is not None:
            axis.set_ylim(*ends)
        axis.xaxis.set_major_formatter(EngFormatter(sep=""))
    _label_left(axes, axis_title(metric).replace("<br>", "\n"))
    _legend(made, axes)
    return made


def _label_left(axes: Sequence[Axes], label: str) -> None:
    for place, axis in enumerate(axes):
        if place % 3 == 0:
            axis.set_ylabel(label)


def _efficiency(data: SweepData, view: str) -> Figure | None:
    found = {scenario: learning.efficiency(data, view, scenario) for scenario in data.scenarios}
    shown = [scenario for scenario, of_algorithms in found.items() if of_algorithms]
    if not shown:
        return None
    made, axes = _panels(shown)
    for axis, scenario in zip(axes, shown, strict=True):
        for algorithm, steps in found[scenario].items():
            nothing = np.full_like(steps, np.nan)
            _line(axis, learning.FRACTIONS * 100, Band(steps, nothing, nothing), algorithm, data)
        axis.set_xlabel("of the way to the best score (%)")
        axis.set_ylim(bottom=0)
        axis.yaxis.set_major_formatter(EngFormatter(sep=""))
    _label_left(axes, f"{learning.STEPS} needed")
    _legend(made, axes)
    return made


def _places(data: SweepData) -> list[str]:
    return data.scenarios + (["*"] if len(data.scenarios) > 1 else [])


def _rivals(data: SweepData, view: str, fewest: int) -> dict[str, comparison.Rivals]:
    found = {place: comparison.rivals(data, view, place) for place in _places(data)}
    return {place: one for place, one in found.items() if len(one.scores) >= fewest}


def _named(places: Sequence[str]) -> list[str]:
    return ["all scenarios" if place == "*" else place for place in places]


def _profiles(data: SweepData, view: str) -> Figure | None:
    found = _rivals(data, view, 1)
    if not found:
        return None
    made, axes = _panels(_named(list(found)))
    for axis, one in zip(axes, found.values(), strict=True):
        thresholds, bands = comparison.profiles(one)
        sign = 1.0 if one.scaled else data.sign
        for algorithm, band in bands.items():
            _line(axis, sign * thresholds, band, algorithm, data)
        axis.set_xlabel("τ: " + ("scaled score" if one.scaled else metric_name(data.objective.metric)))
        if not one.scaled and (ends := axis_range(axis_title(data.objective.metric))) is not None:
            axis.set_xlim(*ends)
        axis.set_ylim(*SHARE_RANGE)
    _label_left(axes, f"share of runs\nwith {'more' if data.sign > 0 else 'less'} than τ")
    _legend(made, axes)
    return made


def _whiskers(axis: Axes, rows: Sequence[tuple[str, float, float, float, str]]) -> None:
    """Draw points with intervals, the first on top: (label, value, low, high, colour)."""
    for place, (_, value, low, high, colour) in enumerate(rows):
        error = [[value - low], [high - value]] if low == low else None
        axis.errorbar([value], [place], xerr=error, fmt="o", color=colour, capsize=2, markersize=4)
    axis.set_yticks(range(len(rows)), [row[0] for row in rows])
    axis.set_ylim(len(rows) - 0.5, -0.5)


_SHORT: Final = {Aggregate.IQM.value: "IQM", Aggregate.MEAN.value: "mean"}


def _aggregates(data: SweepData, view: str) -> Figure | None:
    found = _rivals(data, view, 1)
    if not found:
        return None
    most = max(len(one.scores) for one in found.values())
    made, axes = _panels(_named(list(found)), height=0.75 + 0.24 * most)
    for axis, (place, one) in zip(axes, found.items(), strict=True):
        estimator, estimates = comparison.aggregates(data, view, place, one)
        of_algorithm = styles(data.algorithms)
        rows = [(name, *estimate, of_algorithm[name].colour) for name, estimate in estimates.items()]
        _whiskers(axis, rows)
        if not one.scaled and (limits := axis_range(axis_title(data.objective.metric))) is not None:
            axis.set_xlim(*limits)
        what = "scaled score" if one.scaled else metric_name(data.objective.metric)
        axis.set_xlabel(f"{_SHORT[estimator]}, {what}")
    return made


def _improvements(data: SweepData, view: str) -> Figure | None:
    found = _rivals(data, view, 2)
    if not found:
        return None
    pairs = {place: comparison.improvements(one) for place, one in found.items()}
    made, axes = _panels(_named(list(pairs)), height=0.75 + 0.24 * max(map(len, pairs.values())))
    for axis, of_place in zip(axes, pairs.values(), strict=True):
        _whiskers(axis, [
            (f"{x} > {y}", one.value, one.low, one.high, styles(data.algorithms)[x].colour)
            for (x, y), one in of_place.items()
        ])  # fmt: skip
        axis.set_xlim(*SHARE_RANGE)
        axis.axvline(0.5, color="#8A8F98", linestyle=":", linewidth=1)
        axis.set_xlabel("P(X > Y)")
    return made


def _heat(data: SweepData, view: str) -> Figure | None:
    rows = comparison.heat_map(data)
    if not any(cell.place is not None for row in rows for cell in row):
        return None
    columns = len(data.algorithms)
    made = Figure(figsize=(min(PAGE, 1.3 + 0.9 * columns), 0.8 + 0.36 * len(rows)), layout="constrained")
    axis = made.subplots()
    places = [[np.nan if cell.place is None else cell.place for cell in row] for row in rows]
    axis.imshow(places, cmap="cividis", vmin=0, vmax=1, aspect="auto")
    axis.grid(False)
    axis.set_xticks(range(columns), data.algorithms, rotation=0 if columns <= 5 else 45)
    axis.set_yticks(range(len(rows)), data.scenarios)
    for y, row in enumerate(rows):
        for x, cell in enumerate(row):
            if cell.value is not None:
                dark = (cell.place or 0.0) < 0.5
                axis.text(x, y, f"{cell.value:.4g}", ha="center", va="center", color="white" if dark else "black")
    axis.set_title(f"{metric_name(data.objective.metric)}, colours by row")
    return made


def _outcomes(data: SweepData, view: str) -> Figure | None:
    found = {scenario: game.outcome_shares(data, view, scenario) for scenario in data.scenarios}
    shown = [scenario for scenario, shares in found.items() if shares]
    if not shown:
        return None
    made, axes = _panels(shown, height=0.75 + 0.26 * max(len(found[scenario]) for scenario in shown))
    for axis, scenario in zip(axes, shown, strict=True):
        shares = found[scenario]
        left = np.zeros(len(shares))
        for outcome, colour in OUTCOME_COLOURS.items():
            values = np.array([of_algorithm[outcome] for of_algorithm in shares.values()])
            axis.barh(list(shares), values, left=left, color=colour, label=metric_name(outcome), height=0.7)
            left += values
        axis.invert_yaxis()
        axis.set_xlim(0, 1)
        axis.set_xlabel("share of meetings")
    _legend(made, axes)
    return made


def _importances(data: SweepData, view: str) -> Figure | None:
    is_axis = data.manifest is not None and data.manifest.scenario_mode == SCENARIO_AXIS
    found = {
        f"{algorithm}, {'all scenarios' if is_axis else scenario}": one
        for algorithm, of_scenarios in hyperparameters.importances(data).items()
        for scenario, one in of_scenarios.items()
        if one.shares
    }
    if not found:
        return None
    names = short_names(data.hyperparameters)
    made, axes = _panels(list(found), height=0.75 + 0.2 * max(len(one.shares) for one in found.values()))
    for axis, one in zip(axes, found.values(), strict=True):
        axis.barh([names.get(key, key) for key in one.shares], list(one.shares.values()), color="#0072B2", height=0.7)
        axis.invert_yaxis()
        axis.set_xlabel(f"share of importance ({one.evaluator})")
    return made
