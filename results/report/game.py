"""The game: cooperation, outcomes, welfare against equality, leader changes, and the front of several objectives.

Also which scenarios have ranks that cannot change.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from statistics import fmean
from typing import Any, Final, NamedTuple

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from jax_party.env.rank_mobility import RankMobility, mobility_in, rank_note
from results.collector.ranking import EVERY_SCENARIO
from results.report.charts import Chart, figure, tags
from results.report.data import BEST, VIEWS, SweepData
from results.report.learning import learning_charts
from results.report.theme import OUTCOME_COLOURS, axis_title, metric_name, styles

CURVES: Final = ("cooperation_rate", "leader_change_rate", "welfare_per_step", "equality")


_SCENARIO: Final = "config.env.scenario."


def ranks(data: SweepData) -> str | None:
    """Return a line on the scenarios whose ranks cannot change, from their trials' settings; None if there are none."""
    columns = [name for name in data.trials.columns if name.startswith(_SCENARIO)]
    found: list[tuple[str, RankMobility]] = []
    for row in data.trials[["scenario", *columns]].to_dict("records"):
        settings = _nested({name.removeprefix(_SCENARIO): row[name] for name in columns if not pd.isna(row[name])})
        if (mobility := mobility_in(settings)) is not None:
            found.append((row["scenario"], mobility))
    return rank_note(found)


def _nested(leaves: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in leaves.items():
        *parents, leaf = key.split(".")
        node = found
        for parent in parents:
            node = node.setdefault(parent, {})
        node[leaf] = value
    return found


def game_curves(data: SweepData) -> Iterator[Chart]:
    """Yield the curve of each of the game's metrics, for each scenario and view."""
    for view in VIEWS:
        by_metric = [
            list(learning_charts(data, view, [name], f"game-{name}")) for name in CURVES if name in data.metrics
        ]
        for of_scenario in zip(*by_metric, strict=True):
            yield from of_scenario


def final_charts(data: SweepData) -> Iterator[Chart]:
    """Yield charts of final values: outcome shares of each algorithm, and every trial's welfare and equality."""
    for scenario in data.scenarios:
        if set(OUTCOME_COLOURS) <= set(data.metrics):
            for view in VIEWS:
                yield _outcomes(data, view, scenario)
        if {"welfare_per_step", "equality"} <= set(data.metrics):
            yield _scatter(data, scenario, "welfare_per_step", "equality", "Welfare against equality")


def outcome_shares(data: SweepData, view: str, scenario: str) -> dict[str, dict[str, float]]:
    """Return algorithm -> outcome -> its final share, averaged over the trials of the view."""
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
    caption = f"Outcomes of meetings at the final evaluation, for {whose}."
    return Chart(f"outcomes-{view}-{scenario}", f"Outcomes, {scenario}", caption, made, scenario, view)


class _Point(NamedTuple):
    """A trial at its final evaluation, or a configuration by its means over scenarios."""

    x: float
    y: float
    name: str
    on_front: bool


def _points(data: SweepData, algorithm: str, scenario: str, x: str, y: str) -> list[_Point]:
    rows = data.searched[data.searched["algorithm"] == algorithm]
    keys, wanted = ["configuration", "seed"], len(data.scenarios)
    if scenario != EVERY_SCENARIO:
        rows, keys, wanted = rows[rows["scenario"] == scenario], ["trial_id"], 1
    together: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for row in rows.to_dict("records"):
        together.setdefault(tuple(row[key] for key in keys), []).append({str(k): v for k, v in row.items()})
    found = []
    for trials in together.values():
        at = [[value for row in trials if (value := data.final(row, name)) is not None] for name in (x, y)]
        if all(len(values) == wanted for values in at):
            on_front = all(row["objective.pareto"] is True for row in trials)
            found.append(_Point(fmean(at[0]), fmean(at[1]), "<br>".join(row["trial_id"] for row in trials), on_front))
    return found


def _scatter(data: SweepData, scenario: str, x: str, y: str, what: str) -> Chart:
    of_algorithm = styles(data.algorithms)
    traces = []
    for algorithm in data.algorithms:
        known = _points(data, algorithm, scenario, x, y)
        if known:
            style = of_algorithm[algorithm]
            traces.append(
                go.Scatter(
                    x=[point.x for point in known], y=[point.y for point in known], mode="markers", name=algorithm,
                    text=[point.name for point in known], meta=tags(algorithm),
                    marker={"symbol": style.marker, "size": 9, "color": style.colour, "opacity": 0.8},
                    hovertemplate="%{text}<br>%{x:.4g}, %{y:.4g}<extra></extra>",
                )
            )  # fmt: skip
    made = figure(traces, axis_title(x), axis_title(y))
    caption = "One point per trial of the search, at its final evaluation."
    return Chart(f"scatter-{x}-{y}-{scenario}", f"{what}, {scenario}", caption, made, scenario)


def front_charts(data: SweepData) -> Iterator[Chart]:
    """Yield charts of the first two of several objectives, with the Pareto front marked: one per scenario, or one of
    the means over scenarios if configurations are ranked by them.
    """
    names = data.objective.metrics
    if len(names) < 2:
        return
    for scenario in [EVERY_SCENARIO] if data.is_over_scenarios else data.scenarios:
        chart = _scatter(data, scenario, names[0], names[1], "Pareto front")
        for algorithm in data.algorithms:
            trace = _front(data, algorithm, scenario)
            if trace is not None:
                chart.figure.add_trace(trace)
        modes = " and ".join(f"{name} ({mode})" for name, mode in zip(names, data.objective.modes, strict=True))
        what = "One point per trial"
        title = chart.title
        if scenario == EVERY_SCENARIO:
            what, title = "One point per configuration, its means over scenarios", "Pareto front, mean over scenarios"
        caption = f"{what}; on the line are those that no other beats in every objective: {modes}."
        name = "all" if scenario == EVERY_SCENARIO else scenario
        yield Chart(f"front-{name}", title, caption, chart.figure, scenario)


def _front(data: SweepData, algorithm: str, scenario: str) -> go.Scatter | None:
    x, y = data.objective.metrics[:2]
    points = sorted(point for point in _points(data, algorithm, scenario, x, y) if point.on_front)
    if not points:
        return None
    style = styles(data.algorithms)[algorithm]
    return go.Scatter(
        x=[point.x for point in points], y=[point.y for point in points], text=[point.name for point in points],
        mode="lines+markers",
        name=f"{algorithm}, front", line={"color": style.colour, "dash": style.dash, "width": 2},
        marker={"symbol": "star", "size": 13, "color": style.colour}, meta=tags(algorithm),
        hovertemplate="%{text}<br>%{x:.4g}, %{y:.4g}<extra>front</extra>",
    )  # fmt: skip
