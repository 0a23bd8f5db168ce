"""Colours, and the names and units of metrics."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

#: Okabe and Ito's colours (https://jfly.uni-koeln.de/color/) without black and yellow, each of which is invisible on
#: one of the backgrounds.
COLOURS: Final = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")
#: If there are more series than colours, dashes distinguish them; each series also has a marker.
DASHES: Final = ("solid", "dash", "dot")
MARKERS: Final = ("circle", "square", "diamond", "triangle-up", "cross", "x")
SEQUENTIAL: Final = "Cividis"
#: The theme of the page -> a scale from blue to yellow like Cividis, without the end that is invisible on the page:
#: lines and areas of every value have a contrast of 3 to 1 with the page, as WCAG 2.2 (1.4.11) asks of graphics.
SCALES: Final = {
    "light": ((0.0, "#00224e"), (0.5, "#5f6470"), (1.0, "#a68400")),
    "dark": ((0.0, "#4a7fd6"), (0.5, "#a0a69d"), (1.0, "#fee838")),
}

STATE_COLOURS: Final = {
    "COMPLETE": "#009E73",
    "RUNNING": "#56B4E9",
    "PRUNED": "#E69F00",
    "FAILED": "#D55E00",
    "PENDING": "#8A8F98",
}
OUTCOME_COLOURS: Final = {
    "outcome_share_cc": "#0072B2",
    "outcome_share_cd": "#E69F00",
    "outcome_share_dd": "#D55E00",
}

#: Metric -> its name and its unit; other metrics are shown by their key.
METRICS: Final = {
    "episode_return": ("episode return", "reward, mean over agents"),
    "episode_length": ("episode length", "steps"),
    "cooperation_rate": ("cooperation rate", "share of actions"),
    "outcome_share_cc": ("both cooperate (CC)", "share of meetings"),
    "outcome_share_cd": ("one defects (CD)", "share of meetings"),
    "outcome_share_dd": ("both defect (DD)", "share of meetings"),
    "welfare_per_step": ("welfare", "payoff / step, all agents"),
    "equality": ("equality", "1 − Gini"),
    "leader_change_rate": ("leader changes", "changes / step"),
}

#: Metrics that are rates or shares: never below 0 nor above 1.
SHARES: Final = ("cooperation_rate", "leader_change_rate", "outcome_share_cc", "outcome_share_cd", "outcome_share_dd")
#: From 0 to 1, with a margin for a line at either end.
SHARE_RANGE: Final = (-0.02, 1.02)


class Style(NamedTuple):
    """How a series is drawn, on the page and on paper."""

    colour: str
    dash: str
    marker: str


def styles(names: Sequence[str]) -> dict[str, Style]:
    """Return a style for each name; styles repeat after 18 names."""
    count = len(COLOURS)
    return {
        name: Style(
            COLOURS[place % count],
            DASHES[place // count % len(DASHES)],
            MARKERS[place % count],
        )
        for place, name in enumerate(names)
    }


def faint(colour: str, alpha: float) -> str:
    """Return `#rrggbb` as `rgba(…)`."""
    red, green, blue = (int(colour[place : place + 2], 16) for place in (1, 3, 5))
    return f"rgba({red},{green},{blue},{alpha:g})"


def metric_name(metric: str) -> str:
    """Return the display name of a metric."""
    return METRICS[metric][0] if metric in METRICS else metric.replace("_", " ")


def metric_label(metric: str) -> str:
    """Return the display name of a metric, with its unit."""
    return f"{METRICS[metric][0]} ({METRICS[metric][1]})" if metric in METRICS else metric.replace("_", " ")


def axis_title(metric: str) -> str:
    """Return the same label in two lines, for the axis of a narrow chart."""
    return metric_label(metric).replace(" (", "<br>(")


def axis_range(title: str) -> tuple[float, float] | None:
    """Return the ends of the axis with this title if it shows a share; None to derive them from the values."""
    return SHARE_RANGE if title in map(axis_title, SHARES) else None


def short_names(keys: Sequence[str]) -> dict[str, str]:
    """Return each key's short name: its last part, or as many of its last parts as make it unique."""
    names: dict[str, str] = {}
    for key in keys:
        parts = key.split(".")
        for count in range(1, len(parts) + 1):
            name = ".".join(parts[-count:])
            if sum(other == name or other.endswith(f".{name}") for other in keys) == 1:
                break
        names[key] = name
    return names


def number(value: float | None, digits: int = 4) -> str:
    """Format a number for tables; an absent one gives an empty string."""
    if value is None or value != value:
        return ""
    text = f"{value:.{digits}g}"
    return f"{value:,.0f}" if "e+" in text or abs(value) >= 10_000 else text
