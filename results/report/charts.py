"""A chart of the page: a Plotly figure and the information that the page's filters need about it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray

from results.analysis.statistics import Band
from results.report.theme import Style, axis_range, faint


@dataclass(frozen=True)
class Chart:
    """A figure with its title and a one-line caption.

    Attributes:
      scenario: the scenario it shows; `*` if it covers all scenarios, so that it is shown only when all are selected;
        None if it does not depend on the selection.
      view: `best` or `all`, the runs that it shows; None if it does not depend on the selection.
      metrics: metric -> axis title, for the metrics that the reader can choose from.
      wide: whether it takes the full width of the page.
      height: in pixels.
    """

    name: str
    title: str
    caption: str
    figure: go.Figure
    scenario: str | None = None
    view: str | None = None
    metrics: dict[str, str] = field(default_factory=dict)
    wide: bool = False
    height: int = 340

    @property
    def empty(self) -> bool:
        """Whether it has nothing to show."""
        return not self.figure.data


def tags(*algorithms: str, **others: str) -> dict[str, Any]:
    """Return a trace's data for the filters: its algorithms, and `scenario` and `metric` if the chart has several."""
    return {"algorithms": list(algorithms), **others}


def band_traces(
    x: Sequence[float] | NDArray[np.float64], band: Band, name: str, style: Style, meta: dict[str, Any]
) -> list[go.Scatter]:
    """Return a line with its interval behind it; with markers if there are few points."""
    at = np.asarray(x, np.float64)
    traces = []
    known = np.isfinite(band.low)
    if known.any():
        traces.append(
            go.Scatter(
                x=np.concatenate([at[known], at[known][::-1]]),
                y=np.concatenate([band.high[known], band.low[known][::-1]]),
                mode="lines", line={"width": 0}, fill="toself", fillcolor=faint(style.colour, 0.18),
                hoverinfo="skip", showlegend=False, legendgroup=name, name=name, meta=meta,
            )
        )  # fmt: skip
    interval = " [%{customdata[0]:.4g}, %{customdata[1]:.4g}]" if known.any() else ""
    traces.append(
        go.Scatter(
            x=at, y=band.value, mode="lines+markers" if len(at) <= 30 else "lines", name=name, legendgroup=name,
            line={"color": style.colour, "dash": style.dash, "width": 2.2},
            marker={"symbol": style.marker, "size": 6, "color": style.colour}, meta=meta,
            customdata=np.stack([band.low, band.high], axis=-1) if known.any() else None,
            hovertemplate="%{y:.4g}" + interval,
        )
    )  # fmt: skip
    return traces


def figure(traces: Sequence[Any], x: str, y: str, **layout: Any) -> go.Figure:
    """Return a figure with axis titles; an axis of shares has a fixed range. The page colours text and grid."""
    made = go.Figure(data=list(traces), layout={"template": None, "hovermode": "closest", **layout})
    made.update_xaxes(title={"text": x}, automargin=True, range=axis_range(x))
    made.update_yaxes(title={"text": y}, automargin=True, range=axis_range(y))
    made.update_layout(margin={"l": 10, "r": 14, "t": 10, "b": 10})
    made.update_layout(legend={"orientation": "h", "y": -0.28, "yanchor": "top", "x": 0, "xanchor": "left"})
    return made
