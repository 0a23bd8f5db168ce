"""The leaderboard: configurations by their score, with intervals, cost and the location of their files."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, Final
from urllib.parse import quote

import pandas as pd
import plotly.graph_objects as go

from jax_party.judging.intervals import Interval
from jax_party.judging.objectives import At
from jax_party.judging.standings import why_provisional
from jax_party.trial.states import State
from results.collector.ranking import EVERY_SCENARIO, settling_note
from results.report.charts import Chart, figure, tags
from results.report.configurations import Configuration
from results.report.data import SweepData, joined
from results.report.health import device_hours, hours, wall_hours
from results.report.theme import axis_title, faint, number, short_names, styles

#: The number of configurations on the page; the index has all of them.
MOST: Final = 200
_IN_CHART: Final = 12


def rows(data: SweepData) -> list[dict[str, Any]]:
    """Return the table's rows, best configuration first."""
    names = short_names(data.hyperparameters)
    return [_row(data, place, one, names) for place, one in placed(data)[:MOST]]


def placed(data: SweepData) -> list[tuple[int, Configuration]]:
    """Return the contenders with their places: within their scenario, unless the sweep searches over scenarios."""
    searched_over = data.manifest is not None and data.manifest.scenario_mode == "axis"
    taken: dict[str, int] = {}
    found = []
    for one in data.contenders:
        group = "" if searched_over else one.scenario
        taken[group] = taken.get(group, 0) + 1
        found.append((taken[group], one))
    order = {scenario: place for place, scenario in enumerate([EVERY_SCENARIO, *data.scenarios])}
    if EVERY_SCENARIO in taken:  # configurations that lack a scenario come last
        return sorted(found, key=lambda pair: (pair[1].scenario != EVERY_SCENARIO, pair[0], order[pair[1].scenario]))
    return sorted(found, key=lambda pair: (pair[0], order[pair[1].scenario]))


def _row(data: SweepData, place: int, one: Configuration, names: dict[str, str]) -> dict[str, Any]:
    first = one.trials.iloc[0]
    over_scenarios = one.scenario == EVERY_SCENARIO
    gap = one.trials["optimism_gap.over_scenarios" if over_scenarios else "optimism_gap"].dropna()
    states = one.trials["state"].value_counts()
    return {
        "place": place,
        "algorithm": one.algorithm,
        "scenario": one.scenario,
        "name": one.name,
        "values": [(names[key], _value(first[key])) for key in data.hyperparameters if pd.notna(first[key])],
        "score": (_score(one), one.score),
        "seeds": len(one.values),
        "fresh": _interval(one.fresh),
        "fresh_value": one.fresh.value if one.fresh else None,
        "fresh_seeds": len(one.fresh_values),
        "gap": (number(float(gap.iloc[-1]), 3), float(gap.iloc[-1])) if len(gap) else ("", None),
        "cost": (hours(cost := device_hours(data, one.trials)), cost),
        "wall": (hours(wall := wall_hours(one.trials)), wall or 0),
        "state": ", ".join(str(state) if count == 1 else f"{count} {state}" for state, count in states.items()),
        "feasible": one.feasible,
        "provisional": one.provisional,
        "motion": ", ".join(dict.fromkeys(one.trials["motion"].dropna())),
        "pareto": bool(one.trials["objective.pareto"].fillna(False).any()),
        "links": _links_of_scenarios(one) if over_scenarios else links(first),
    }


def notes(data: SweepData) -> list[str]:
    """Return caveats about the first place: rules of older sweeps, reused test seeds, trials that had not settled."""
    found = []
    if data.objective.at == At.BEST_PER_SEED:
        found.append("This sweep predates the rules for judging trials, and keeps its own.")
    if (note := settling_note(data.searched)) is not None:
        found.append(f"{note}.")
    tests = [int(one.trials["tests"].max()) for one in data.configurations if one.trials["tests"].notna().any()]
    if tests and max(tests) > 1:
        found.append(f"A configuration was tested on fresh seeds {max(tests)} times: each further test is worth less.")
    reused = data.trials[data.trials["test_seeds_reused"].fillna(False).astype(bool)]
    if len(reused):
        found.append(
            "Found after their test seeds had been seen, so their fresh scores may be too high: "
            f"{joined(reused['trial_id'])}."
        )
    for one in data.best.values():
        if one.provisional:
            where = "" if one.scenario == EVERY_SCENARIO else f" in {one.scenario}"
            complete = bool(one.trials["state"].eq(State.COMPLETE.value).all())
            why = why_provisional(complete, one.settled)
            found.append(f"The best of {one.algorithm}{where} is provisional: {why}.")
    return found


def _value(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _score(one: Configuration) -> str:
    """Return the sweep's own aggregate with the interval, which names its estimator if that is a different number."""
    if one.score is None or one.seeds is None or math.isclose(one.score, one.seeds.value, rel_tol=1e-9):
        return _interval(one.seeds)
    return f"{number(one.score)}; {one.seeds.estimator} {_interval(one.seeds)}"


def _interval(one: Interval | None) -> str:
    if one is None:
        return ""
    if one.low is None or one.high is None:
        return number(one.value)
    return f"{number(one.value)} [{number(one.low)}, {number(one.high)}]"


def _links_of_scenarios(one: Configuration) -> list[tuple[str, str]]:
    return [(f"{row['scenario']} {what}", path) for _, row in one.trials.iterrows() for what, path in links(row)]


def links(row: pd.Series[Any]) -> list[tuple[str, str]]:
    """Return the files of a trial: what each is, and its path relative to the report."""
    folder = str(row["folder"])
    found = [("config", f"{folder}/config.yaml"), ("record", f"{folder}/record.json")]
    if pd.notna(row["checkpoint"]):
        found.append(("checkpoint", str(row["checkpoint"])))
    for kind in ("train", "test"):
        if pd.notna(row[f"vault.{kind}.path"]):
            first, *others = str(row[f"vault.{kind}.path"]).split(";")
            name, path = (f"vaults ({kind})", first.rpartition("/")[0]) if others else (f"vault ({kind})", first)
            found.append((name, path))
    return [(what, quote(path)) for what, path in found]


def leaderboard_charts(data: SweepData) -> Iterator[Chart]:
    """Yield each scenario's best configurations with intervals, on the seeds that chose them and on fresh seeds."""
    of_algorithm = styles(data.algorithms)
    for scenario in [*([EVERY_SCENARIO] if data.is_over_scenarios else []), *data.scenarios]:
        ranked = data.contenders if scenario == EVERY_SCENARIO else data.configurations
        chosen = [one for one in ranked if one.scenario == scenario and one.score is not None]
        traces = []
        for one in chosen[:_IN_CHART]:
            colour, label = of_algorithm[one.algorithm].colour, f"{one.algorithm} {one.name}"
            meta = tags(one.algorithm)
            if one.seeds is not None:
                traces.append(_point(one.seeds, label, f"{len(one.values)} seeds of the search", colour, meta,
                                     of_algorithm[one.algorithm].marker))  # fmt: skip
            if one.fresh is not None:
                text = f"{len(one.fresh_values)} fresh seeds"
                traces.append(_point(one.fresh, label, text, faint(colour, 0.65), meta, "star"))
        made = figure(traces, axis_title(data.objective.metric), "", showlegend=False)
        made.update_yaxes(autorange="reversed", type="category")
        caption = (
            f"The {min(len(chosen), _IN_CHART)} best of {len(chosen)} configurations, with 95 % intervals over seeds; "
            "stars are fresh seeds."
        )
        if scenario == EVERY_SCENARIO:
            caption = f"{caption} Scores are means over scenarios, by which configurations are judged."
        title = "mean over scenarios" if scenario == EVERY_SCENARIO else scenario
        height = max(240, 100 + 28 * min(len(chosen), _IN_CHART))
        yield Chart(f"leaders-{title.replace(' ', '-')}", title, caption, made, scenario, height=height)


def _point(one: Interval, label: str, text: str, colour: str, meta: dict[str, Any], marker: str) -> go.Scatter:
    known = one.low is not None and one.high is not None
    bar = {
        "type": "data", "array": [(one.high or 0) - one.value], "arrayminus": [one.value - (one.low or 0)],
        "color": colour, "thickness": 2,
    }  # fmt: skip
    ends = f" [{one.low:.4g}, {one.high:.4g}]" if known else ""
    return go.Scatter(
        x=[one.value], y=[label], mode="markers", meta=meta, error_x=bar if known else None, name=label,
        marker={"symbol": marker, "size": 14 if marker == "star" else 10, "color": colour},
        hovertemplate=f"{label}<br>{text}, {one.estimator}: %{{x:.4g}}{ends}<extra></extra>",
    )  # fmt: skip
