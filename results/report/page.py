"""The page: one self-contained HTML file with its data, its styles and Plotly."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import plotly.io
import yaml
from markupsafe import Markup
from plotly.colors import sample_colorscale
from plotly.offline import get_plotlyjs

from jax_party.judging.intervals import BOOTSTRAP_SEEDS
from jax_party.judging.objectives import At
from jax_party.store.files import plain_value
from jax_party.trial.manifest import MANIFEST_FILE, SweepManifest
from results.report import (
    claims,
    comparison,
    game,
    health,
    hyperparameters,
    leaderboard,
    learning,
    population,
    sensitivity,
)
from results.report.charts import Chart
from results.report.data import VIEWS, SweepData
from results.report.theme import SCALES, SEQUENTIAL, axis_range, axis_title, metric_label, metric_name, number, styles

_TEMPLATE: Final = Path(__file__).parent / "template"
_MOST_TRIALS: Final = 500

CONTENTS: Final[tuple[tuple[str, str], ...]] = (
    ("leaderboard", "Leaderboard"), ("learning", "Learning curves"), ("efficiency", "Learning speed"),
    ("comparison", "Comparison"), ("hyperparameters", "Hyperparameters"), ("sensitivity", "Sensitivity"),
    ("game", "The game"), ("health", "Health"), ("provenance", "Provenance"),
)  # fmt: skip


def charts_of(data: SweepData, of_sensitivity: sensitivity.Section | None = None) -> dict[str, list[Chart]]:
    """Return the charts of each section, without charts that have nothing to show."""
    metrics = learning.curve_metrics(data)
    found = {
        "leaderboard": leaderboard.leaderboard_charts(data),
        "front": game.front_charts(data),
        "learning": (one for view in VIEWS for one in learning.learning_charts(data, view, metrics, "curves")),
        "efficiency": learning.efficiency_charts(data),
        "comparison": comparison.comparison_charts(data),
        "sensitivity": sensitivity.sensitivity_charts(data, of_sensitivity),
        "final": game.final_charts(data),
        "game": game.game_curves(data),
        "health": health.health_charts(data),
        "lineage": population.lineage_charts(data),
    }
    return {name: [chart for chart in charts if not chart.empty] for name, charts in found.items()}


def render(data: SweepData) -> str:
    """Return the page of a sweep. Equal folders give equal pages."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATE), autoescape=True, undefined=jinja2.StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    of_sensitivity = sensitivity.section(data)
    charts = charts_of(data, of_sensitivity)
    of_claims = claims.claims(data)
    of_hyperparameters = hyperparameters.table(data)
    return environment.get_template("page.html").render(
        name=data.name,
        summary=_summary(data),
        contents=_contents(bool(of_claims), of_sensitivity is not None),
        claims=of_claims,
        sensitivity=of_sensitivity,
        charts=charts,
        algorithms=data.algorithms,
        scenarios=data.scenarios,
        styles=styles(data.algorithms),
        best_is_thin=any(len(one.curve_values) < 2 for one in data.best.values()),
        metrics=[(name, metric_name(name)) for name in learning.curve_metrics(data)],
        has_hyperparameters=bool(of_hyperparameters),
        payload=_embedded(_payload(data, charts, of_hyperparameters)),
        css=Markup((_TEMPLATE / "page.css").read_text()),
        js=Markup((_TEMPLATE / "page.js").read_text()),
        plotly=Markup(get_plotlyjs()),
        **_tables(data),
        **_provenance(data),
    )


def _contents(has_claims: bool, has_sensitivity: bool) -> list[tuple[str, str]]:
    """Return the sections of the page."""
    shown = [one for one in CONTENTS if has_sensitivity or one[0] != "sensitivity"]
    return [("claims", "Claims"), *shown] if has_claims else shown


def _tables(data: SweepData) -> dict[str, Any]:
    return {
        "objective": _objective(data),
        "estimators": f"intervals are Student's t of the mean over seeds, or from {BOOTSTRAP_SEEDS} seeds on the "
        "bootstrap's of the interquartile mean",
        "rule": f"{data.objective.at}: {At(data.objective.at).meaning}",
        "notes": leaderboard.notes(data),
        "ranks": game.ranks(data),
        "leaders": leaderboard.rows(data),
        "scored": bool(data.best),
        "left_out": max(0, len(data.contenders) - leaderboard.MOST),
        "promoted": any(one.fresh is not None for one in data.configurations),
        "heat": _heat(data),
        "tiles": health.tiles(data),
        "lineage": population.lineage(data),
        "trial_columns": health.TRIAL_COLUMNS,
        "trials": health.trial_rows(data, _MOST_TRIALS),
        "trials_left_out": max(0, len(data.index) - _MOST_TRIALS),
    }


def _payload(data: SweepData, charts: Mapping[str, Sequence[Chart]], of_hyperparameters: Any) -> dict[str, Any]:
    return {
        "charts": {chart.name: _chart(chart) for of_section in charts.values() for chart in of_section},
        "hyperparameters": of_hyperparameters,
        "importances": hyperparameters.as_json(hyperparameters.importances(data)),
        "scenarios": data.scenarios,
        "objective": {
            "name": metric_name(data.objective.metric),
            "mode": data.objective.mode,
            "range": axis_range(axis_title(data.objective.metric)),
        },
        "scales": SCALES,
    }


def _chart(chart: Chart) -> dict[str, Any]:
    metrics = {metric: {"title": title, "range": axis_range(title)} for metric, title in chart.metrics.items()}
    return {**json.loads(plotly.io.to_json(chart.figure, validate=False)), "metrics": metrics}


def _embedded(value: Any) -> Markup:
    """Return JSON that cannot end a script element."""
    text = json.dumps(value, separators=(",", ":"), allow_nan=False)
    return Markup(text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e"))


def _summary(data: SweepData) -> str:
    counts = data.index["state"].value_counts()
    states = ", ".join(f"{count} {state}" for state, count in sorted(counts.items()))
    created = f"{data.manifest.created[:16].replace('T', ' ')} UTC. " if data.manifest is not None else ""
    environments = ", ".join(sorted(set(data.trials["environment"].dropna())))
    return f"{environments}. {created}{len(data.index)} trials: {states}."


def _objective(data: SweepData) -> str:
    aims = zip(data.objective.metrics, data.objective.modes, strict=True)
    text = " and ".join(
        f"{metric_label(metric)}, {'higher' if mode == 'max' else 'lower'} is better" for metric, mode in aims
    )
    bounds = ", ".join(f"{name} {number(bound)}" for name, bound in data.objective.constraints.items())
    return f"{text}; constraints: {bounds}" if bounds else text


def _heat(data: SweepData) -> list[list[dict[str, Any]]]:
    return [
        [
            {"algorithm": cell.algorithm, "scenario": cell.scenario, "value": number(cell.value), "text": cell.text,
             "colours": None if cell.place is None else cell_colours(cell.place)}
            for cell in row
        ]
        for row in comparison.heat_map(data)
    ]  # fmt: skip


def cell_colours(place: float) -> tuple[str, str]:
    """Return the background of a cell at a place between 0 and 1, and black or white, whichever is more legible."""
    rgb: tuple[float, float, float] = sample_colorscale(SEQUENTIAL, [place], colortype="tuple")[0]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in rgb]
    luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    red, green, blue = (round(255 * part) for part in rgb)
    return f"#{red:02x}{green:02x}{blue:02x}", "#000000" if luminance > 0.179 else "#ffffff"


def _provenance(data: SweepData) -> dict[str, Any]:
    if data.manifest is None:
        row = data.index.iloc[0]
        facts = [(name, row[name]) for name in ("git_sha", "host", "device", "jax_version") if _known(row[name])]
        return {"command": None, "composed": None, "facts": facts}
    known = dict(data.manifest.provenance)
    dirty = " (with uncommitted changes)" if known.get("git_dirty") else ""
    versions = known.get("versions") or {}
    facts = [
        ("git SHA", f"{known.get('git_sha') or 'unknown'}{dirty}"),
        ("created", data.manifest.created),
        ("host", known.get("host")),
        ("Python", known.get("python")),
        ("platform", known.get("platform")),
        ("versions", ", ".join(f"{name} {version}" for name, version in versions.items() if version)),
        ("devices", _joined(data.trials["device"])),
        ("hosts of trials", _joined(data.trials["host"])),
    ]
    composed = yaml.safe_dump(_plain(data.manifest), sort_keys=False, allow_unicode=True)
    return {"command": command(known.get("command")), "composed": composed,
            "facts": [(name, value) for name, value in facts if value]}  # fmt: skip


def command(recorded: Any) -> str | None:
    """Return the command that repeats the sweep: `make sweep …` for the launcher's own command line, else unchanged."""
    if not isinstance(recorded, str):
        return None
    launcher, separator, rest = recorded.partition("-m launcher.sweep")
    if not separator or not launcher.strip().endswith("python"):
        return recorded
    return f"make{rest}" if rest.startswith(" claim ") else f"make sweep{rest}"


def _known(value: Any) -> bool:
    return isinstance(value, str) and bool(value)


def _joined(values: Iterable[Any]) -> str:
    return ", ".join(sorted({str(value) for value in values if _known(value)}))


def _plain(manifest: SweepManifest) -> dict[str, Any]:
    """Return the manifest without its provenance, which is shown separately."""
    values = {name: value for name, value in dataclasses.asdict(manifest).items() if name != "provenance"}
    return dict(plain_value(values, MANIFEST_FILE))
