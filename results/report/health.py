"""How the sweep went: states, retries, failures, compile time, speed, cost, and a timeline of workers."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from jax_party.trial.states import State
from results.report.charts import Chart, figure, tags
from results.report.data import SweepData
from results.report.theme import STATE_COLOURS, number, styles

_SEVERAL = "several starts"


@dataclass(frozen=True)
class Tile:
    """A number with its label."""

    value: str
    what: str


def devices_per_trial(data: SweepData, row: Mapping[str, Any]) -> float:
    """Return the number of devices that a trial held: a share of a GPU, or several."""
    share = data.manifest.gpus_per_trial if data.manifest is not None else None
    if share is not None and not _is_cpu(row.get("device")):
        return share
    several = row.get("config.arch.num_devices")
    return 1.0 if several is None or pd.isna(several) else float(several)


def _is_cpu(device: Any) -> bool:
    return not isinstance(device, str) or device.startswith("cpu")


def device_hours(data: SweepData, rows: pd.DataFrame) -> float:
    """Return the hours of work multiplied by the devices that each trial held."""
    trials: list[Any] = rows.to_dict("records")
    return sum(row["duration_s"] * devices_per_trial(data, row) for row in trials if row["duration_s"] > 0) / 3600


def wall_hours(rows: pd.DataFrame) -> float | None:
    """Return the hours from the first start to the last end; None if no trial has ended."""
    started = pd.to_datetime(rows["started_at"].dropna(), utc=True, format="ISO8601")
    ended = pd.to_datetime(rows["ended_at"].dropna(), utc=True, format="ISO8601")
    if started.empty or ended.empty:
        return None
    return float((ended.max() - started.min()).total_seconds()) / 3600


def hours(value: float | None) -> str:
    """Format hours in a readable unit: seconds, minutes or hours."""
    if value is None:
        return ""
    if value < 1 / 60:
        return f"{value * 3600:.3g} s"
    return f"{value * 60:.3g} min" if value < 1 else f"{value:.3g} h"


def tiles(data: SweepData) -> list[Tile]:
    """Return the key numbers of the sweep."""
    index = data.index
    counts = index["state"].value_counts()
    found = [Tile(f"{counts[state.value]:,}", state.value) for state in State if state.value in counts]
    on_gpu = index[[not _is_cpu(device) for device in index["device"]]]
    found.append(Tile(hours(wall_hours(index)) or "—", "wall time"))
    found.append(Tile(hours(device_hours(data, index)), "device time"))
    found.append(Tile(hours(device_hours(data, on_gpu)) if len(on_gpu) else "none", "GPU time"))
    found.append(Tile(hours(float(index["compile_time_s"].sum()) / 3600), "compiling"))
    if index["compile_time_saved_s"].sum() > 0:
        found.append(Tile(hours(float(index["compile_time_saved_s"].sum()) / 3600), "compiling saved"))
    hits = index["compile_cache"].dropna()
    if len(hits):
        found.append(Tile(f"{(hits != 'miss').sum():,} of {len(hits):,}", "compile cache hits (last starts)"))
    retried = index["retries"].fillna("").str.len() > 0
    found.append(Tile(f"{int(retried.sum()):,}", "tried again after a fault"))
    return found


def lanes(spans: Sequence[tuple[Any, Any]]) -> list[int]:
    """Return for each (start, end), in order of start, the first free lane: as few lanes as intervals overlap."""
    free_from: list[Any] = []
    chosen = []
    for start, end in spans:
        lane = next((place for place, free in enumerate(free_from) if free <= start), len(free_from))
        if lane == len(free_from):
            free_from.append(end)
        free_from[lane] = end
        chosen.append(lane)
    return chosen


def timeline(data: SweepData) -> pd.DataFrame:
    """Return the spans in which workers played trials, by start.

    Returns:
      `trial_id`, `algorithm`, `scenario`, `state`, `start` and `end` in minutes since the first start, and `worker`:
      its host, its number among the host's workers, and its lane if it played several trials at once.
    """
    rows = pd.DataFrame(_spans(data))
    if rows.empty:
        return rows
    for name in ("begin", "stop"):
        rows[name] = pd.to_datetime(rows[name], utc=True, format="ISO8601")
    rows = rows.sort_values(["begin", "trial_id"], ignore_index=True)
    of_host: dict[str, int] = {}
    rows["worker"] = ""
    groups: Any = rows.groupby(["host", "process"], sort=False)
    for (host, _), some in groups:
        of_host[host] = of_host.get(host, 0) + 1
        places = lanes(list(zip(some["begin"], some["stop"], strict=True)))
        marks = [f".{place + 1}" if max(places) else "" for place in places]
        rows.loc[some.index, "worker"] = [f"{host} · {of_host[host]}{mark}" for mark in marks]
    first = rows["begin"].min()
    rows["start"] = (rows["begin"] - first).dt.total_seconds() / 60
    rows["end"] = (rows["stop"] - first).dt.total_seconds() / 60
    return rows


def _spans(data: SweepData) -> Iterator[dict[str, Any]]:
    """Yield who played which trial when. Records of version 4 and before do not say: for these, one span from first
    start to last end, as if the host had a single worker.
    """
    for row in data.trials[data.trials["started_at"].notna()].to_dict("records"):
        trial = {name: row[name] for name in ("trial_id", "algorithm", "scenario", "state")}
        told = row.get("spans")
        if isinstance(told, str):
            for span in json.loads(told):
                host, _, process = span["worker"].rpartition(":")
                yield trial | {"host": host, "process": process, "begin": span["start"], "stop": span["end"]}
            continue
        host = row["host"] if isinstance(row["host"], str) else "unknown host"
        worked = timedelta(seconds=row["duration_s"] if row["duration_s"] > 0 else 0)
        stop = row["ended_at"] if isinstance(row["ended_at"], str) else None
        begin = datetime.fromisoformat(row["started_at"])
        stop = stop or (begin + worked).isoformat()
        yield trial | {"host": host, "process": "", "begin": begin.isoformat(), "stop": stop}


def health_charts(data: SweepData) -> Iterator[Chart]:
    """Yield the charts of the timeline, the speed and the compile time."""
    rows = timeline(data)
    if len(rows):
        yield _timeline_chart(rows)
    yield _boxes(data, "steps_per_second", "Speed", "environment steps / s",
                 "Training only, without compile time; all seeds of a trial together.")  # fmt: skip
    yield _compiling(data)


def _timeline_chart(rows: pd.DataFrame) -> Chart:
    traces: list[go.Bar] = []
    for state in State:
        some = rows[rows["state"] == state.value]
        for keys, of_group in some.groupby(["algorithm", "scenario"], sort=False):
            algorithm, scenario = (str(key) for key in keys)
            traces.append(
                go.Bar(
                    x=(of_group["end"] - of_group["start"]).clip(lower=0).to_numpy(), base=of_group["start"].to_numpy(),
                    y=of_group["worker"].tolist(), orientation="h", name=state.value, legendgroup=state.value,
                    showlegend=not any(trace.name == state.value for trace in traces),
                    marker={"color": STATE_COLOURS[state.value], "line": {"width": 0.5, "color": "#808080"}},
                    customdata=of_group["trial_id"].tolist(), meta=tags(algorithm, scenario=scenario),
                    hovertemplate=f"%{{customdata}}<br>{algorithm}, {scenario}: %{{x:.3g}} min<extra></extra>",
                )
            )  # fmt: skip
    made = figure(traces, "minutes since the first start", "host · worker", barmode="overlay")
    made.update_yaxes(autorange="reversed", type="category")
    count = rows["worker"].nunique()
    caption = (
        "One row per worker process, or several if it ran trials side by side. A bar is a period of work on a "
        "trial, until the worker last recorded it: a trial that was paused or interrupted has several. "
        "In gaps the worker had no trial: it was starting, waiting, or gone."
    )
    return Chart("timeline", "Timeline of workers", caption, made, wide=True, height=min(1200, 190 + 24 * count))


def _boxes(data: SweepData, column: str, title: str, label: str, caption: str) -> Chart:
    of_algorithm = styles(data.algorithms)
    traces = []
    for algorithm in data.algorithms:
        for scenario in data.scenarios:
            rows = data.trials[(data.trials["algorithm"] == algorithm) & (data.trials["scenario"] == scenario)]
            values = rows[column].dropna()
            if len(values):
                traces.append(
                    go.Box(
                        x=values.to_numpy(), y=[f"{algorithm}, {scenario}"] * len(values), orientation="h",
                        name=algorithm, boxpoints="all" if len(values) <= 50 else "outliers", jitter=0.4, pointpos=0,
                        line={"color": of_algorithm[algorithm].colour, "width": 1.5}, marker={"size": 4},
                        meta=tags(algorithm, scenario=scenario),
                    )
                )  # fmt: skip
    made = figure(traces, label, "", showlegend=False)
    made.update_yaxes(autorange="reversed", type="category")
    made.update_xaxes(rangemode="tozero")
    return Chart("speed", title, caption, made, height=max(240, 90 + 34 * len(traces)))


def _compiling(data: SweepData) -> Chart:
    of_cache = {"miss": "#D55E00", "disk": "#E69F00", "process": "#009E73", _SEVERAL: "#8A8F98"}
    traces: list[go.Bar] = []
    known = data.trials[data.trials["compile_time_s"].notna()]
    for (algorithm, scenario), rows in known.groupby(["algorithm", "scenario"], sort=False):
        origin = rows["compile_cache"].fillna("miss").where(rows["attempts"].fillna(1) <= 1, _SEVERAL)
        for cache, some in rows.groupby(origin):
            traces.append(
                go.Bar(
                    x=[float(some["compile_time_s"].sum())], y=[f"{algorithm}, {scenario}"], orientation="h",
                    name=str(cache), legendgroup=str(cache), marker={"color": of_cache.get(str(cache), "#8A8F98")},
                    showlegend=not any(trace.name == str(cache) for trace in traces),
                    meta=tags(str(algorithm), scenario=str(scenario)),
                    hovertemplate=f"{cache}: {len(some)} trials, %{{x:.4g}} s<extra></extra>",
                )
            )  # fmt: skip
    made = figure(traces, "compile time (s)", "", barmode="stack")
    made.update_yaxes(autorange="reversed", type="category")
    caption = (
        "Time for tracing and compiling, by the program's source: newly compiled (miss), XLA's cache on disk, or "
        "the worker's memory. If a trial was started several times, the time is the sum over all starts."
    )
    return Chart("compiling", "Compile time", caption, made, height=max(280, 150 + 34 * len(traces)))


#: The titles of the columns of the table of trials.
TRIAL_COLUMNS = (
    "trial", "algorithm", "scenario", "state", "times started", "why it failed, or was tried again", "work",
    "compiling", "program from", "steps / s", "device",
)  # fmt: skip


def trial_rows(data: SweepData, most: int) -> list[dict[str, Any]]:
    """Return the rows of the table of trials: those that failed or were tried again come first."""
    rows = data.index.copy()
    rows["_calm"] = ~((rows["state"] == State.FAILED.value) | rows["retries"].fillna("").str.len().gt(0))
    chosen = rows.sort_values(["_calm", "number"], kind="stable").head(most)
    return [_trial_row({str(k): v for k, v in row.items()}) for row in chosen.to_dict("records")]


def _trial_row(row: Mapping[str, Any]) -> dict[str, Any]:
    def text(name: str) -> str:
        value = row.get(name)
        return "" if value is None or pd.isna(value) else str(value)

    why = "; ".join(part for part in (text("error"), text("retries")) if part)
    work = row["duration_s"] / 3600 if row["duration_s"] and row["duration_s"] > 0 else None
    compiling = None if pd.isna(row["compile_time_s"]) else row["compile_time_s"] / 3600
    return {
        "algorithm": text("algorithm") if text("scenario") else "",
        "scenario": text("scenario"),
        "trial": text("trial_id"),
        "state": text("state"),
        "attempts": text("attempts"),
        "why": why,
        "work": (hours(work), work or 0),
        "compiling": (hours(compiling), compiling or 0),
        "cache": text("compile_cache"),
        "speed": (
            number(row["steps_per_second"], 3),
            0 if pd.isna(row["steps_per_second"]) else row["steps_per_second"],
        ),
        "device": text("device"),
    }
