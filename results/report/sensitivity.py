"""Hyperparameter sensitivity: each algorithm's card, the performance-sensitivity plane, and the gain from tuning."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import plotly.graph_objects as go

from jax_party.errors import RecordError
from jax_party.judging.intervals import Interval
from jax_party.judging.sensitivity import PEAK_SHARE
from results.analysis.sensitivity import SensitivityCards, cards_of, sentences, text
from results.collector.ranking import EVERY_SCENARIO
from results.report.charts import Chart, figure, tags
from results.report.data import SweepData
from results.report.theme import Style, short_names, styles

_SCORE = "normalised score<br>(5th percentile 0, 95th 1)"


@dataclass(frozen=True)
class Row:
    """An algorithm's row of the table."""

    algorithm: str
    configurations: int
    tuned: str
    one_for_all: str
    sensitivity: str
    configuration: str
    dimensions: str


@dataclass(frozen=True)
class Section:
    """The page's content on sensitivity; `why` says why there are no cards."""

    cards: SensitivityCards | None
    why: str = ""

    @property
    def rows(self) -> list[Row]:
        """The rows of the table."""
        return [self._row(name) for name in (self.cards.cards if self.cards is not None else ())]

    @property
    def notes(self) -> list[str]:
        """The numbers in sentences."""
        return sentences(self.cards) if self.cards is not None else []

    def _row(self, name: str) -> Row:
        assert self.cards is not None
        card, names = self.cards.cards[name], self.cards.played[name].configurations
        found = card.dimensionality
        dimensions = ""
        if found is not None and found.dimensions is not None:
            dimensions = f"{text(found.dimensions)} of {len(found.effects)}"
        return Row(name, len(names), text(card.tuned_per_scenario), text(card.one_for_all), text(card.sensitivity),
                   names[card.best], dimensions)  # fmt: skip


def section(data: SweepData) -> Section | None:
    """Return the section of a sweep; None if it has only one scenario."""
    if len(data.scenarios) < 2:
        return None
    try:
        return Section(cards_of(data.index, data.folder))
    except RecordError as error:
        return Section(None, str(error).removeprefix(f"{data.folder}: "))


def sensitivity_charts(data: SweepData, found: Section | None) -> Iterator[Chart]:
    """Yield the plane, the gain from tuning, and the effect of each hyperparameter."""
    if found is None or found.cards is None:
        return
    of_algorithm = styles(data.algorithms)
    yield _plane(found.cards, of_algorithm)
    if any(card.dimensionality is not None for card in found.cards.cards.values()):
        yield _tuned(found.cards, of_algorithm)
        yield _effects(found.cards, of_algorithm)


def _plane(found: SensitivityCards, of_algorithm: dict[str, Style]) -> Chart:
    traces: list[Any] = []
    for name, card in found.cards.items():
        style = of_algorithm[name]
        traces.append(
            go.Scatter(
                x=[card.sensitivity.value], y=[card.tuned_per_scenario.value], mode="markers", name=name,
                meta=tags(name), marker={"symbol": style.marker, "size": 11, "color": style.colour},
                error_x=_bar([card.sensitivity], style), error_y=_bar([card.tuned_per_scenario], style),
                hovertemplate=f"{name}<br>sensitivity {text(card.sensitivity)}<br>tuned {text(card.tuned_per_scenario)}"
                f"<br>one for all {text(card.one_for_all)}<extra></extra>",
            )
        )  # fmt: skip
    first, card = next(iter(found.cards.items()))
    most = max(max(one.sensitivity.high or 0.0, one.sensitivity.value) for one in found.cards.values()) or 0.1
    level = card.one_for_all.value
    traces.append(
        go.Scatter(
            x=[0, most], y=[level, level + most], mode="lines", name=f"one for all as {first}", meta=tags(first),
            line={"dash": "dash", "width": 1, "color": of_algorithm[first].colour}, hoverinfo="skip",
        )
    )  # fmt: skip
    made = figure(traces, "sensitivity (normalised score)", f"tuned per scenario:<br>{_SCORE}")
    made.update_xaxes(rangemode="tozero")
    caption = (
        "Right: the score depends more on tuning per scenario; up: a better score when tuned; best is "
        f"the upper left. Above the dashed line one configuration for all scenarios beats that of {first}. Bars: 95 %."
    )
    return Chart("sensitivity-plane", "Performance and sensitivity", caption, made, EVERY_SCENARIO)


def _tuned(found: SensitivityCards, of_algorithm: dict[str, Style]) -> Chart:
    traces = []
    for name, card in found.cards.items():
        if card.dimensionality is not None:
            curve, style = card.dimensionality.curve, of_algorithm[name]
            traces.append(
                go.Scatter(
                    x=list(range(len(curve))), y=[score for _, score in curve], mode="lines+markers", name=name,
                    meta=tags(name), line={"color": style.colour, "dash": style.dash, "width": 2.2},
                    marker={"symbol": style.marker, "size": 8, "color": style.colour},
                    customdata=[", ".join(names) or "none" for names, _ in curve],
                    hovertemplate="%{y:.3g}, tuned: %{customdata}",
                )
            )  # fmt: skip
    made = figure(traces, "hyperparameters tuned per scenario", _SCORE)
    made.update_xaxes(dtick=1)
    caption = (
        "The best score with this many hyperparameters tuned per scenario, the others as in the configuration "
        f"that is best on average. The effective dimensionality is where {100 * PEAK_SHARE:.0f} % of the right end "
        "is reached."
    )
    return Chart("sensitivity-tuned", "Gain from tuning per scenario", caption, made, EVERY_SCENARIO)


def _effects(found: SensitivityCards, of_algorithm: dict[str, Style]) -> Chart:
    known = {name: card.dimensionality for name, card in found.cards.items() if card.dimensionality is not None}
    keys = list(dict.fromkeys(one.name for each in known.values() for one in each.effects))
    names = short_names(keys)
    traces = []
    for algorithm, each in known.items():
        swings, style = [one.swing for one in each.effects], of_algorithm[algorithm]
        bar = _bar(swings, style)
        traces.append(
            go.Scatter(
                x=[one.value for one in swings], y=[names[one.name] for one in each.effects], mode="markers",
                name=algorithm, meta=tags(algorithm), error_x=bar,
                marker={"symbol": style.marker, "size": 10, "color": style.colour},
                customdata=[[text(one.tuned_alone), text(one.left_alone)] for one in each.effects],
                hovertemplate="%{y}: %{x:.3g}<br>gain if tuned alone %{customdata[0]}<br>loss if left alone "
                "%{customdata[1]}",
            )
        )  # fmt: skip
    made = figure(traces, "best minus worst value (normalised score)", "")
    made.update_yaxes(autorange="reversed", type="category")
    made.update_xaxes(rangemode="tozero")
    caption = (
        "The mean over scenarios at a hyperparameter's best value minus that at its worst, the others as in the "
        "configuration that is best on average. Bars: 95 %."
    )
    return Chart("sensitivity-effects", "Effect of each hyperparameter", caption, made, EVERY_SCENARIO,
                 height=max(300, 130 + 34 * len(keys)))  # fmt: skip


def _bar(values: list[Interval], style: Style) -> dict[str, Any] | None:
    """Return error bars; the interval of a maximum may exclude the estimate, and its bar then has a single arm."""
    if any(one.low is None or one.high is None for one in values):
        return None
    return {
        "type": "data", "color": style.colour, "thickness": 2,
        "array": [max(0.0, (one.high or 0.0) - one.value) for one in values],
        "arrayminus": [max(0.0, one.value - (one.low or 0.0)) for one in values],
    }  # fmt: skip
