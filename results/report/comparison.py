"""Algorithms compared: aggregates, performance profiles, probability of improvement, and the heat map."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray

from jax_party.judging.aggregate import Aggregate
from jax_party.judging.intervals import Interval
from results.analysis.statistics import (
    Band,
    Estimate,
    interquartile_mean_of_tasks,
    normalised,
    probability_of_improvement,
    profile_band,
)
from results.report.charts import Chart, band_traces, figure, tags
from results.report.data import BEST, VIEWS, SweepData
from results.report.theme import SHARE_RANGE, Style, axis_range, axis_title, styles

THRESHOLDS = 101


@dataclass(frozen=True)
class Rivals:
    """The scores of algorithms in the same scenarios; larger is better.

    Attributes:
      scores: algorithm -> one array per scenario.
      scaled: whether the scores of each scenario are scaled together to [0, 1], as they are if there are several
        scenarios.
    """

    scores: dict[str, list[NDArray[np.float64]]]
    scaled: bool


def rivals(data: SweepData, view: str, scenario: str) -> Rivals:
    """Return the runs of the algorithms that have some in `scenario`, or in every scenario if it is `*`."""
    scenarios = data.scenarios if scenario == "*" else [scenario]
    runs = {name: [data.runs(view, name, one) for one in scenarios] for name in data.algorithms}
    runs = {name: tasks for name, tasks in runs.items() if all(len(task) for task in tasks)}
    if scenario != "*" or not runs:
        return Rivals(runs, False)
    by_scenario = [normalised(list(of_algorithms)) for of_algorithms in zip(*runs.values(), strict=True)]
    return Rivals({name: [task[place] for task in by_scenario] for place, name in enumerate(runs)}, True)


def comparison_charts(data: SweepData) -> Iterator[Chart]:
    """Yield aggregates, profiles and probabilities for each scenario and over all of them."""
    places = data.scenarios + (["*"] if len(data.scenarios) > 1 else [])
    for view in VIEWS:
        for place in places:
            found = rivals(data, view, place)
            if found.scores:
                yield _aggregates(data, view, place, found)
                yield _profiles(data, view, place, found)
            if len(found.scores) > 1:
                yield _improvements(data, view, place, found)


def _title(what: str, place: str) -> str:
    return f"{what}, {'all scenarios' if place == '*' else place}"


def _score_label(data: SweepData, found: Rivals) -> str:
    return "scaled score<br>(0 to 1 per scenario)" if found.scaled else axis_title(data.objective.metric)


def _runs_text(view: str) -> str:
    return "Runs: the seeds of each algorithm's best configuration." if view == BEST else "Runs: every configuration."


def aggregates(data: SweepData, view: str, place: str, found: Rivals) -> tuple[str, dict[str, Estimate]]:
    """Return the algorithms' scores, in the units of the chart.

    Returns:
      The estimator, and algorithm -> its estimate. The best configurations of one scenario have the order and numbers
      of `results.leaders`, followed by algorithms without a complete trial; otherwise the estimate is the interquartile
      mean of all runs.
    """
    if view == BEST and place in data.leaders:
        leaders = data.leaders[place]
        ordered = [*leaders, *(name for name in found.scores if name not in leaders)]
        known = {name: one for name in ordered if (one := _estimate(data, name, place)) is not None}
        estimator = next(str(row["estimator"]) for row in leaders.values())
        return estimator, {name: Estimate(one.value, *_ends(one)) for name, one in known.items()}
    sign = 1.0 if found.scaled else data.sign
    estimates = {name: interquartile_mean_of_tasks(tasks) for name, tasks in found.scores.items()}
    ends = {name: sorted((sign * one.low, sign * one.high)) for name, one in estimates.items()}
    return Aggregate.IQM.value, {name: Estimate(sign * one.value, *ends[name]) for name, one in estimates.items()}


def _ends(one: Interval) -> tuple[float, float]:
    low, high = (math.nan if end is None else end for end in (one.low, one.high))
    return low, high


_ESTIMATORS: Final[Mapping[str, tuple[str, str]]] = {
    Aggregate.IQM.value: ("Interquartile mean", "Interquartile mean with its 95 % stratified-bootstrap interval."),
    Aggregate.MEAN.value: ("Mean", "Mean with its 95 % interval of Student's t."),
}
"""The title and the caption for each estimator."""


def _aggregates(data: SweepData, view: str, place: str, found: Rivals) -> Chart:
    of_algorithm = styles(data.algorithms)
    estimator, estimates = aggregates(data, view, place, found)
    title, explained = _ESTIMATORS[estimator]
    traces = []
    for name, one in estimates.items():
        runs = sum(len(task) for task in found.scores.get(name, ()))
        traces.append(_whisker(one.value, [one.low, one.high], name, of_algorithm[name], f"{name}, {runs} runs"))
    made = figure(traces, _score_label(data, found), "", showlegend=False)
    made.update_yaxes(autorange="reversed", type="category")
    caption = f"{explained} {_runs_text(view)}"
    return Chart(f"aggregate-{view}-{place}", _title(title, place), caption, made, place, view,
                 height=max(240, 110 + 34 * len(traces)))  # fmt: skip


def _whisker(value: float, ends: list[float], name: str, style: Style, text: str) -> go.Scatter:
    low, high = ends
    bar = {"type": "data", "array": [high - value], "arrayminus": [value - low], "color": style.colour, "thickness": 2}
    return go.Scatter(
        x=[value], y=[name], mode="markers", name=name, meta=tags(name),
        marker={"symbol": style.marker, "size": 11, "color": style.colour}, error_x=bar if low == low else None,
        hovertemplate=f"{text}: %{{x:.4g}}" + (f" [{low:.4g}, {high:.4g}]" if low == low else "") + "<extra></extra>",
    )  # fmt: skip


def profiles(found: Rivals) -> tuple[NDArray[np.float64], dict[str, Band]]:
    """Return the thresholds, and each algorithm's performance profile at them."""
    together = np.concatenate([task for tasks in found.scores.values() for task in tasks])
    low, high = together.min(), together.max()
    room = 0.02 * (high - low) or 1.0
    thresholds = np.linspace(low - room, high + room, THRESHOLDS)
    return thresholds, {name: profile_band(tasks, thresholds) for name, tasks in found.scores.items()}


def _profiles(data: SweepData, view: str, place: str, found: Rivals) -> Chart:
    of_algorithm = styles(data.algorithms)
    thresholds, bands = profiles(found)
    sign = 1.0 if found.scaled else data.sign
    traces = []
    for name, band in bands.items():
        traces += band_traces(sign * thresholds, band, name, of_algorithm[name], tags(name))
    better = "more" if sign > 0 else "less"
    made = figure(traces, f"τ: {_score_label(data, found)}", f"share of runs<br>with {better} than τ")
    made.update_xaxes(range=axis_range(_score_label(data, found)))
    made.update_yaxes(range=SHARE_RANGE)
    caption = f"The share of runs that score {better} than τ: a higher curve is better. Bands: 95 %. {_runs_text(view)}"
    return Chart(f"profile-{view}-{place}", _title("Performance profile", place), caption, made, place, view)


def improvements(found: Rivals) -> dict[tuple[str, str], Estimate]:
    """Return (X, Y) -> the probability that a run of X beats one of Y, once per pair, the likelier one first."""
    names = list(found.scores)
    pairs = {}
    for place, x in enumerate(names):
        for y in names[place + 1 :]:
            one = probability_of_improvement(found.scores[x], found.scores[y])
            if one.value >= 0.5:
                pairs[x, y] = one
            else:
                pairs[y, x] = Estimate(1 - one.value, 1 - one.high, 1 - one.low)
    return pairs


def _improvements(data: SweepData, view: str, place: str, found: Rivals) -> Chart:
    of_algorithm = styles(data.algorithms)
    traces = []
    for (x, y), one in improvements(found).items():
        traces.append(_whisker(one.value, [one.low, one.high], x, of_algorithm[x], f"P({x} > {y})"))
        traces[-1].y = [f"{x} > {y}"]
        traces[-1].meta = tags(x, y)
    made = figure(traces, "P(X > Y)", "", showlegend=False)
    made.update_xaxes(range=SHARE_RANGE)
    made.update_yaxes(autorange="reversed", type="category")
    made.add_vline(x=0.5, line={"dash": "dot", "width": 1, "color": "#8A8F98"})
    caption = (
        "The probability that a run of X scores better than one of Y. An interval that contains 0.5 is no evidence "
        "for either. " + _runs_text(view)
    )
    height = max(240, 90 + 34 * len(traces))
    return Chart(f"improvement-{view}-{place}", _title("Probability of improvement", place), caption, made, place, view,
                 height=height)  # fmt: skip


@dataclass(frozen=True)
class Cell:
    """A cell of the heat map.

    Attributes:
      value: the score of the algorithm's best configuration in the scenario; `text` is its interval.
      place: its position between the scenario's worst (0) and best (1) algorithm.
    """

    algorithm: str
    scenario: str
    value: float | None
    place: float | None
    text: str


def heat_map(data: SweepData) -> list[list[Cell]]:
    """Return the cells of the heat map: one row per scenario, one cell per algorithm."""
    rows = []
    for scenario in data.scenarios:
        values = [_estimate(data, algorithm, scenario) for algorithm in data.algorithms]
        known = [data.sign * one.value for one in values if one is not None]
        span = (max(known) - min(known)) if known else 0.0
        row = []
        for algorithm, one in zip(data.algorithms, values, strict=True):
            place = None if one is None else (data.sign * one.value - min(known)) / span if span else 0.5
            text = "" if one is None or one.low is None or one.high is None else f"[{one.low:.4g}, {one.high:.4g}]"
            row.append(Cell(algorithm, scenario, None if one is None else one.value, place, text))
        rows.append(row)
    return rows


def _estimate(data: SweepData, algorithm: str, scenario: str) -> Interval | None:
    """Return the score of an algorithm's best configuration in a scenario, as in `results.leaders`; if no trial is
    complete yet, from the seeds of its best configuration so far.
    """
    row = data.leaders.get(scenario, {}).get(algorithm)
    if row is None:
        best = data.best.get((algorithm, scenario))
        return None if best is None else best.seeds
    low, high = (None if math.isnan(row[name]) else float(row[name]) for name in ("low", "high"))
    return Interval(float(row["value"]), low, high, str(row["estimator"]))
