"""The game: cooperation, outcomes, welfare against equality, leader changes; and the front of several objectives."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from results.report.charts import Chart, figure, tags
from results.report.data import BEST, VIEWS, SweepData
from results.report.learning import learning_charts
from results.report.theme import OUTCOME_COLOURS, axis_title, metric_name, styles

CURVES: Final = ("cooperation_rate", "leader_change_rate", "welfare_per_step", "equality")


def game_curves(data: SweepData) -> Iterator[Chart]:
    """The curve of each of the game's metrics, a scenario and view each."""
    for view in VIEWS:
        by_metric = [
            list(learning_charts(data, view, [name], f"game-{name}")) for name in CURVES if name in data.metrics
        ]
        for of_scenario in zip(*by_metric, strict=True):
            yield from of_scenario


def final_charts(data: SweepData) -> Iterator[Chart]:
    """Final values: outcome shares of each algorithm, and every trial's welfare and equality."""
    for scenario in data.scenarios:
        if set(OUTCOME_COLOURS) <= set(data.metrics):
            for view in VIEWS:
                yield _outcomes(data, view, scenario)
        if {"welfare_per_step", "equality"} <= set(data.metrics):
            yield _scatter(data, scenario, "welfare_per_step", "equality", "Welfare against equality")


def outcome_shares(data: SweepData, view: str, scenario: str) -> dict[str, dict[str, float]]:
    """Algorithm -> outcome -> its final share, a mean over the trials of the view."""
    found = {}
    for algorithm in data.algorithms:
        if view == BEST:
            chosen = data.best.get((algorithm, scenario))
            rows = data.trials[data.trials["trial_id"].isin(chosen.curve_trials if chosen else [])]
        else:
            rows = data.searched[(data.searched["algorithm"] == algorithm) & (data.searched["scenario"] == scenario)]
        trials = [{str(name): value for name, value in row.items()} for row in rows.to_dict("records")]
        shares = {
            outcome: [value for trial in trials if (value := data.final(trial, outcome)) is not None]
            for outcome in OUTCOME_COLOURS
        }
        if all(shares.values()):
            found[algorithm] = {outcome: float(np.mean(values)) for outcome, values in shares.items()}
    return found


def _outcomes(data: SweepData, view: str, scenario: str) -> Chart:
    shares = outcome_shares(data, view, scenario)
    traces = []
    for algorithm, of_algorithm in shares.items():
        for outcome, share in of_algorithm.items():
            traces.append(
                go.Bar(
                    x=[share], y=[algorithm], orientation="h", name=metric_name(outcome), legendgroup=outcome,
                    showlegend=algorithm == next(iter(shares)), marker={"color": OUTCOME_COLOURS[outcome]},
                    text=[f"{share:.0%}" if share >= 0.08 else ""], textposition="inside", insidetextanchor="middle",
                    textfont={"color": "#ffffff" if outcome != "outcome_share_cd" else "#000000"}, textangle=0,
                    hovertemplate=f"{algorithm}, {metric_name(outcome)}: %{{x:.1%}}<extra></extra>",
                    meta=tags(algorithm),
                )
            )  # fmt: skip
    made = figure(traces, "share of meetings", "", barmode="stack")
    made.update_yaxes(autorange="reversed", type="category")
    made.update_xaxes(range=[0, 1], tickformat=".0%")
    whose = "each algorithm's best configuration" if view == BEST else "all of an algorithm's trials"
    caption = f"How the meetings of {whose} ended, at their final evaluation."
    return Chart(f"outcomes-{view}-{scenario}", f"Outcomes, {scenario}", caption, made, scenario, view)


def _scatter(data: SweepData, scenario: str, x: str, y: str, what: str) -> Chart:
    of_algorithm = styles(data.algorithms)
    traces = []
    for algorithm in data.algorithms:
        of_both = (data.searched["algorithm"] == algorithm) & (data.searched["scenario"] == scenario)
        rows = [{str(k): v for k, v in row.items()} for row in data.searched[of_both].to_dict("records")]
        points = [(data.final(row, x), data.final(row, y), row["trial_id"]) for row in rows]
        known = [point for point in points if point[0] is not None and point[1] is not None]
        if known:
            style = of_algorithm[algorithm]
            traces.append(
                go.Scatter(
                    x=[point[0] for point in known], y=[point[1] for point in known], mode="markers", name=algorithm,
                    text=[point[2] for point in known], meta=tags(algorithm),
                    marker={"symbol": style.marker, "size": 9, "color": style.colour, "opacity": 0.8},
                    hovertemplate="%{text}<br>%{x:.4g}, %{y:.4g}<extra></extra>",
                )
            )  # fmt: skip
    made = figure(traces, axis_title(x), axis_title(y))
    caption = "A point a trial of the search, at its final evaluation."
    return Chart(f"scatter-{x}-{y}-{scenario}", f"{what}, {scenario}", caption, made, scenario)


def front_charts(data: SweepData) -> Iterator[Chart]:
    """Of a sweep with several objectives: the first two, with the Pareto front marked, a scenario each."""
    names = data.objective.metrics
    if len(names) < 2:
        return
    for scenario in data.scenarios:
        chart = _scatter(data, scenario, names[0], names[1], "Pareto front")
        for algorithm in data.algorithms:
            trace = _front(data, algorithm, scenario)
            if trace is not None:
                chart.figure.add_trace(trace)
        modes = " and ".join(f"{name} ({mode})" for name, mode in zip(names, data.objective.modes, strict=True))
        caption = f"A point a trial; on the line those that none is better than in every objective: {modes}."
        yield Chart(f"front-{scenario}", chart.title, caption, chart.figure, scenario)


def _front(data: SweepData, algorithm: str, scenario: str) -> go.Scatter | None:
    x, y = data.objective.metrics[:2]
    rows = data.searched
    rows = rows[(rows["algorithm"] == algorithm) & (rows["scenario"] == scenario)]
    rows = rows[rows["objective.pareto"].fillna(False).astype(bool)]
    records = [{str(k): v for k, v in row.items()} for row in rows.to_dict("records")]
    points = sorted((data.final(row, x) or 0.0, data.final(row, y) or 0.0, row["trial_id"]) for row in records)
    if not points:
        return None
    style = styles(data.algorithms)[algorithm]
    frame = pd.DataFrame(points, columns=["x", "y", "trial"])
    return go.Scatter(
        x=frame["x"].to_numpy(), y=frame["y"].to_numpy(), text=frame["trial"].tolist(), mode="lines+markers",
        name=f"{algorithm}, front", line={"color": style.colour, "dash": style.dash, "width": 2},
        marker={"symbol": "star", "size": 13, "color": style.colour}, meta=tags(algorithm),
        hovertemplate="%{text}<br>%{x:.4g}, %{y:.4g}<extra>front</extra>",
    )  # fmt: skip
