"""A population's lineage: which trial continued from which other trial's learner, as a table and as a chart."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, Final

import pandas as pd
import plotly.graph_objects as go

from results.report.charts import Chart, figure, tags
from results.report.data import SweepData
from results.report.theme import Style, styles

_PALE: Final = "#8A8F98"


def lineage(data: SweepData) -> list[dict[str, Any]]:
    """Return the takeovers by step, with the values that the trial had until then."""
    found = []
    for row in data.trials[data.trials["lineage"].notna()].to_dict("records"):
        for one in json.loads(row["lineage"]):
            values = ", ".join(f"{key}={_value(value)}" for key, value in one["hyperparameters"].items())
            found.append({"algorithm": row["algorithm"], "scenario": row["scenario"], "trial": row["trial_id"],
                          "step": one["step"], "source": one["source"], "source_step": one["source_step"],
                          "values": values})  # fmt: skip
    return sorted(found, key=lambda one: (one["step"], one["trial"]))


def _value(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def lineage_charts(data: SweepData) -> Iterator[Chart]:
    """Yield a chart per population: one line per trial, and links between lines for learners that were taken over."""
    of_algorithm = styles(data.algorithms)
    takeovers = pd.DataFrame(lineage(data))
    for keys, some in takeovers.groupby(["algorithm", "scenario"], sort=False) if len(takeovers) else ():
        algorithm, scenario = (str(key) for key in keys)
        rows = data.searched[(data.searched["algorithm"] == algorithm) & (data.searched["scenario"] == scenario)]
        places = {row["trial_id"]: f"trial {row['number']}" for row in rows.sort_values("number").to_dict("records")}
        traces = [_lives(rows, places, algorithm), *_takeovers(some, places, algorithm, of_algorithm[algorithm])]
        made = figure(traces, "environment steps", "", showlegend=False)
        made.update_yaxes(type="category", categoryorder="array", categoryarray=list(reversed(places.values())))
        caption = (
            "One line per trial; where another line joins it, the trial continued from that learner, with new values."
        )
        yield Chart(f"lineage-{algorithm}-{scenario}", f"{algorithm}, {scenario}", caption, made, scenario, wide=True,
                    height=max(240, 110 + 24 * len(places)))  # fmt: skip


def _lives(rows: pd.DataFrame, places: dict[str, str], algorithm: str) -> go.Scatter:
    x: list[int | None] = []
    y: list[str | None] = []
    for row in rows[rows["env_steps"].notna()].to_dict("records"):
        x += [0, int(row["env_steps"]), None]
        y += [places[row["trial_id"]]] * 2 + [None]
    return go.Scatter(x=x, y=y, mode="lines", line={"color": _PALE, "width": 2}, hoverinfo="skip", meta=tags(algorithm))


def _takeovers(some: pd.DataFrame, places: dict[str, str], algorithm: str, style: Style) -> Iterator[go.Scatter]:
    """Yield the takeovers between trials that are in the index; others may have been removed since."""
    known = [one for one in some.to_dict("records") if one["trial"] in places and one["source"] in places]
    x, y = [], []
    for one in known:
        x += [one["source_step"], one["step"], None]
        y += [places[one["source"]], places[one["trial"]], None]
    line = {"color": style.colour, "width": 1.5}
    yield go.Scatter(x=x, y=y, mode="lines", line=line, hoverinfo="skip", meta=tags(algorithm))
    texts = [f"{places[one['trial']]} from {places[one['source']]} at its step {one['source_step']:,}"
             f"<br>until then {one['values']}" for one in known]  # fmt: skip
    yield go.Scatter(
        x=[one["step"] for one in known], y=[places[one["trial"]] for one in known], mode="markers", text=texts,
        marker={"color": style.colour, "size": 8, "symbol": style.marker}, meta=tags(algorithm),
        hovertemplate="step %{x:,}<br>%{text}<extra></extra>",
    )  # fmt: skip
