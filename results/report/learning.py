"""Learning curves, and how many steps it takes to reach a given score."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from numpy.typing import NDArray

from jax_party.judging.resampling import trimmed_mean
from jax_party.judging.settling import settling_step
from results.analysis.statistics import Band, curve_over_configurations, curve_over_seeds, first_step_at
from results.report.charts import Chart, band_traces, figure, tags
from results.report.data import ALL, BEST, VIEWS, SweepData
from results.report.theme import METRICS, axis_title, metric_name, styles

STEPS = "environment steps"
#: Fractions of the way from the lowest to the highest point of a scenario's curves.
FRACTIONS = np.arange(0.05, 1.0001, 0.05)
_OF_VIEW = {
    BEST: "Each algorithm's best configuration; bands are 95 % intervals over its seeds (fresh ones if promoted).",
    ALL: "The interquartile mean over all configurations; bands contain the middle half.",
}


def curve_metrics(data: SweepData) -> list[str]:
    """Return the metrics that curves are drawn for: the objectives and the game's own."""
    return [name for name in data.metrics if name in METRICS or name in data.objective.metrics]


def band_of(data: SweepData, view: str, algorithm: str, scenario: str, metric: str) -> tuple[NDArray[np.float64], Band]:
    """Return the steps and the band of an algorithm's learning curve; empty if it has none."""
    table = whole_steps(data.curves(view, algorithm, scenario, metric))
    if table.empty:
        nothing = np.empty(0)
        return nothing, Band(nothing, nothing, nothing)
    values = table.to_numpy(np.float64).T
    band = curve_over_seeds(values) if view == BEST else curve_over_configurations(values)
    return table.index.to_numpy(np.float64), band


def whole_steps(table: pd.DataFrame) -> pd.DataFrame:
    """Return the steps at which every run has a value; runs without any value are ignored."""
    return table.dropna(axis=1, how="all").dropna(axis=0, how="any")


def learning_charts(data: SweepData, view: str, metrics: Sequence[str], name: str) -> Iterator[Chart]:
    """Yield one chart per scenario that holds every metric; the page shows one metric at a time."""
    of_algorithm = styles(data.algorithms)
    for scenario in data.scenarios:
        traces = []
        for metric in metrics:
            for algorithm in data.algorithms:
                steps, band = band_of(data, view, algorithm, scenario, metric)
                if len(steps):
                    meta = tags(algorithm, metric=metric) if len(metrics) > 1 else tags(algorithm)
                    traces += band_traces(steps, band, algorithm, of_algorithm[algorithm], meta)
        first = metrics[0] if metrics else ""
        made = figure(traces, STEPS, axis_title(first), hovermode="x unified")
        made.update_xaxes(rangemode="tozero")
        titles = {metric: axis_title(metric) for metric in metrics}
        title = scenario if len(metrics) > 1 else f"{metric_name(first)}, {scenario}"
        yield Chart(f"{name}-{view}-{scenario}", title, _OF_VIEW[view], made, scenario, view,
                    titles if len(metrics) > 1 else {})  # fmt: skip


def scaled_curves(data: SweepData, view: str, scenario: str) -> dict[str, pd.DataFrame]:
    """Return algorithm -> its objective's curves in a scenario, scaled together; larger is better.

    0 is the lowest point of the algorithms' middle curves (interquartile means), 1 the highest.
    """
    metric = data.objective.metric
    tables = {name: whole_steps(data.curves(view, name, scenario, metric)) * data.sign for name in data.algorithms}
    tables = {name: table for name, table in tables.items() if not table.empty}
    middles = [trimmed_mean(table.to_numpy(np.float64), axis=1) for table in tables.values()]
    if not middles:
        return {}
    low, high = min(one.min() for one in middles), max(one.max() for one in middles)
    return {name: (table - low) / (high - low) if high > low else table * 0 for name, table in tables.items()}


def efficiency(data: SweepData, view: str, scenario: str) -> dict[str, NDArray[np.float64]]:
    """Return algorithm -> the first step at which its middle curve reaches each of `FRACTIONS`."""
    found = {}
    for algorithm, table in scaled_curves(data, view, scenario).items():
        middle = trimmed_mean(table.to_numpy(np.float64), axis=1)
        found[algorithm] = first_step_at(table.index.to_numpy(), middle, FRACTIONS)
    return found


def falls(data: SweepData, view: str, scenario: str) -> bool:
    """Return whether learning makes the objective worse: most algorithms' middle curves end below their start."""
    tables = scaled_curves(data, view, scenario).values()
    middles = [trimmed_mean(table.to_numpy(np.float64), axis=1) for table in tables]
    return 2 * sum(bool(middle[-1] < middle[0]) for middle in middles) > len(middles)


def settling_steps(data: SweepData, view: str, scenario: str) -> dict[str, NDArray[np.float64]]:
    """Return algorithm -> the settling time of each run: the first step from which it stays within 5 % of its end."""
    found = {}
    for algorithm in data.algorithms:
        table = whole_steps(data.curves(view, algorithm, scenario, data.objective.metric))
        if not table.empty:
            steps = [float(step) for step in table.index]
            runs = table.to_numpy(np.float64).T.tolist()
            found[algorithm] = np.array([settling_step(steps, run) for run in runs], np.float64)
    return found


def _settling_chart(data: SweepData, view: str, scenario: str) -> Chart:
    of_algorithm = styles(data.algorithms)
    traces = [
        go.Box(
            x=steps, y=[algorithm] * len(steps), orientation="h", name=algorithm, boxpoints="all", jitter=0.4,
            pointpos=0, line={"color": of_algorithm[algorithm].colour, "width": 1.5}, marker={"size": 5},
            meta=tags(algorithm), hovertemplate="settled at %{x:,.0f} steps<extra></extra>",
        )
        for algorithm, steps in settling_steps(data, view, scenario).items()
    ]  # fmt: skip
    made = figure(traces, f"settling time ({STEPS})", "", showlegend=False)
    made.update_yaxes(autorange="reversed", type="category")
    made.update_xaxes(rangemode="tozero")
    caption = (
        "Learning makes the objective worse here, so the time until it is high is meaningless. One dot per run: "
        "the first step from which its curve stays within 5 % of its final level. A run with its dot at the end of "
        "training has not settled."
    )
    return Chart(f"efficiency-{view}-{scenario}", f"Settling time, {scenario}", caption, made, scenario, view)


def efficiency_charts(data: SweepData) -> Iterator[Chart]:
    """Yield for each scenario and view the steps needed to reach each fraction of the way, or the settling times if
    learning makes the objective worse; and one chart over all scenarios.
    """
    of_algorithm = styles(data.algorithms)
    for view in VIEWS:
        for scenario in data.scenarios:
            if falls(data, view, scenario):
                yield _settling_chart(data, view, scenario)
                continue
            traces = []
            for algorithm, steps in efficiency(data, view, scenario).items():
                nothing = np.full_like(steps, np.nan)
                band = Band(steps, nothing, nothing)
                made = band_traces(FRACTIONS * 100, band, algorithm, of_algorithm[algorithm], tags(algorithm))
                for trace in made:
                    trace.hovertemplate = "%{y:,.0f} steps to %{x:.0f} %"
                traces += made
            made_figure = figure(traces, "way from worst to best score (%)", f"{STEPS} needed")
            made_figure.update_yaxes(rangemode="tozero")
            caption = (
                "Steps until the middle curve has covered this part of the way from the scenario's lowest to "
                "its highest point. Lower is better; a line ends at the best that its algorithm reached."
            )
            yield Chart(
                f"efficiency-{view}-{scenario}", f"Sample efficiency, {scenario}", caption, made_figure, scenario, view
            )
        if len(data.scenarios) > 1 and not any(falls(data, view, scenario) for scenario in data.scenarios):
            yield _over_scenarios(data, view)


def _over_scenarios(data: SweepData, view: str) -> Chart:
    """Return the interquartile mean of all runs of all scenarios, each scaled to [0, 1], at each step."""
    of_algorithm = styles(data.algorithms)
    traces = []
    of_scenarios = [scaled_curves(data, view, scenario) for scenario in data.scenarios]
    for algorithm in data.algorithms:
        tables = [tables[algorithm] for tables in of_scenarios if algorithm in tables]
        if len(tables) < len(data.scenarios):
            continue
        together = pd.concat(tables, axis=1).sort_index().ffill().dropna(how="any")
        if together.empty:
            continue
        values = together.to_numpy(np.float64).T
        low, high = _stratified(values, [table.shape[1] for table in tables])
        band = Band(trimmed_mean(values), low, high)
        traces += band_traces(together.index.to_numpy(), band, algorithm, of_algorithm[algorithm], tags(algorithm))
    made = figure(traces, STEPS, "scaled score<br>(0 to 1 per scenario)", hovermode="x unified")
    caption = (
        "The interquartile mean over all runs of all scenarios; bands are 95 % stratified-bootstrap intervals. "
        "Only algorithms that ran in every scenario."
    )
    return Chart(f"efficiency-{view}-all", "All scenarios", caption, made, "*", view)


def _stratified(values: NDArray[np.float64], sizes: Sequence[int]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the ends of each step's interval; `values` are `(runs, steps)`, with runs grouped by scenario."""
    from results.analysis.statistics import interquartile_mean_of_tasks

    ends = np.cumsum(sizes)[:-1]
    found = [interquartile_mean_of_tasks(np.split(column, ends), resamples=500) for column in values.T]
    return np.array([one.low for one in found]), np.array([one.high for one in found])
