"""The report's page in headless Chromium: it opens, draws, filters, fits. Screenshots are in `.artefacts/report`."""

from __future__ import annotations

import io
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import report_sweep
from PIL import Image

from jax_party.judging.objectives import Objective
from results.report.load import load
from results.report.page import render

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
ARTEFACTS = Path(__file__).parents[2] / ".artefacts" / "report"
PIECE = 4000
"""How high a kept screenshot is, in pixels."""
FLAGS = (
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--enable-unsafe-swiftshader",
)  # fmt: skip

pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine (Debian: apt-get install chromium)"),
    pytest.mark.xdist_group("chromium"),
]


class Browser:
    """A page of the report, with what it asked of the network and what it complained of."""

    def __init__(self, context: Any, page: Path, width: int) -> None:
        self.errors: list[str] = []
        self.requests: list[str] = []
        self.page = context.new_page()
        self.page.set_default_timeout(60_000)
        self.page.set_viewport_size({"width": width, "height": 900})
        self.page.on("console", lambda line: self.errors.append(line.text) if line.type == "error" else None)
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.goto(page.as_uri())
        self.page.wait_for_selector("#leaders")

    def choose(self, theme: str) -> None:
        """Switch to the theme, where the page has another."""
        if self.page.evaluate("document.documentElement.dataset.theme") != theme:
            self.page.click("#theme")

    def style(self, selector: str, name: str, within: str = "*") -> str:
        """A computed style of the first such element, or of what it is within."""
        found: str = self.page.eval_on_selector(
            selector, "(one, [name, within]) => getComputedStyle(one.closest(within))[name]", [name, within]
        )
        return found

    def see_all(self) -> None:
        """Scroll through the page, so that every chart is drawn."""
        for card in self.page.query_selector_all("[data-chart]:not([hidden])"):
            card.scroll_into_view_if_needed()
            self.page.wait_for_function(
                "card => card.querySelector('.plot .main-svg') || !card.querySelector('.none').hidden", arg=card
            )

    def count(self, selector: str) -> int:
        return len(self.page.query_selector_all(selector))

    def visible(self, selector: str) -> int:
        return sum(element.is_visible() for element in self.page.query_selector_all(selector))

    def traces(self, chart: str) -> list[str]:
        """The names of the traces that a chart shows."""
        names: list[str] = self.page.evaluate(
            "id => document.getElementById(id).data.filter(one => one.showlegend !== false).map(one => one.name)", chart
        )
        return names


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = report_sweep.make(tmp_path_factory.mktemp("page") / "sweep", configurations=9, seeds=2)
    report_sweep.add_incidents(folder)
    path = folder / "report.html"
    path.write_text(render(load(folder)))
    return path


@pytest.fixture(scope="module")
def context(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    profile = tmp_path_factory.mktemp("profile")
    with sync_playwright() as playwright:
        launched = playwright.chromium.launch_persistent_context(
            profile, executable_path=CHROMIUM, headless=True, args=list(FLAGS), timeout=120_000
        )
        yield launched
        launched.close()


@pytest.mark.parametrize(("width", "theme"), [(400, "dark"), (1600, "light")])
def test_it_opens_draws_and_fits(width: int, theme: str, page: Path, context: Any) -> None:
    seen = Browser(context, page, width)
    seen.choose(theme)
    seen.see_all()
    assert seen.visible("[data-chart] .main-svg") > 20
    for place in ("parallel", "contour", "importance"):
        seen.page.wait_for_selector(f"#{place} .main-svg", state="attached")
    assert seen.count("#slices .js-plotly-plot") == 3
    wide = seen.page.evaluate("document.documentElement.scrollWidth")
    outside = seen.page.evaluate(
        """() => [...document.querySelectorAll('body *')].filter((one) => !one.closest('.scroll, .modebar, svg') &&
          one.getBoundingClientRect().width > 0 && one.getBoundingClientRect().right > innerWidth + 1)
          .map((one) => `${one.tagName}#${one.id}.${one.className}`)"""
    )
    assert (wide, outside) == (width, [])
    assert clipped_titles(seen) == []
    assert seen.errors == [] and seen.requests == [page.as_uri()]
    pieces = keep(seen, f"{theme}-{width}")
    assert sum(piece.height for piece in pieces) >= seen.page.evaluate("document.documentElement.scrollHeight")
    assert {piece.size for piece in pieces} == {(width, PIECE)}
    assert len({piece.tobytes() for piece in pieces}) == len(pieces) > 1
    seen.page.close()


def keep(seen: Browser, name: str) -> list[Image.Image]:
    """Keep screenshots of the whole page, a piece each: of a higher picture Chromium repeats what comes first."""
    ARTEFACTS.mkdir(parents=True, exist_ok=True)
    for old in ARTEFACTS.glob(f"{name}*.png"):
        old.unlink()
    seen.page.add_style_tag(content="#filters { position: static !important; }")
    width, height = seen.page.evaluate("[innerWidth, document.documentElement.scrollHeight]")
    seen.page.set_viewport_size({"width": width, "height": PIECE})
    pieces = []
    for number, top in enumerate(range(0, height, PIECE), start=1):
        seen.page.evaluate("top => scrollTo(0, top)", top)
        path = ARTEFACTS / f"{name}-{number:02}.png"
        path.write_bytes(seen.page.screenshot())
        pieces.append(Image.open(path).convert("RGB"))
    return pieces


@pytest.mark.parametrize(("width", "theme"), [(400, "dark"), (1600, "light")])
def test_a_table_that_is_cut_off_shows_that_it_goes_on(width: int, theme: str, page: Path, context: Any) -> None:
    seen = Browser(context, page, width)
    seen.choose(theme)
    box = seen.page.locator(".scroll.tall:has(#trials)")

    def edge() -> tuple[int, ...]:
        """The colour of the last line of pixels within the frame, where there is no text."""
        picture = np.asarray(Image.open(io.BytesIO(box.screenshot())).convert("RGB"))
        return tuple(int(part) for part in np.median(picture[-4, 20:-20], axis=0))

    assert box.evaluate("one => one.scrollHeight > one.clientHeight")
    plain = rgb(seen.style("body", "backgroundColor"))
    assert contrast(edge(), plain) > 1.5
    box.evaluate("one => one.scrollTo(0, one.scrollHeight)")
    assert contrast(edge(), plain) < 1.02
    seen.page.close()


def clipped_titles(seen: Browser) -> list[str]:
    """The axis titles that are not wholly within their chart."""
    found: list[str] = seen.page.evaluate(
        """() => [...document.querySelectorAll('[data-chart] .plot:not([hidden])')].flatMap((plot) => {
          const frame = plot.getBoundingClientRect();
          return [...plot.querySelectorAll('.xtitle, .ytitle')].filter((title) => {
            const box = title.getBoundingClientRect();
            return box.left < frame.left - 1 || box.right > frame.right + 1 || box.top < frame.top - 1
              || box.bottom > frame.bottom + 1;
          }).map((title) => `${plot.id}: ${title.textContent}`);
        })"""
    )
    return found


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_scores_and_axes_stand_out_from_the_page(theme: str, page: Path, context: Any) -> None:
    seen = Browser(context, page, 1600)
    seen.choose(theme)
    for place in ("parallel", "contour"):
        seen.page.wait_for_selector(f"#{place} .main-svg", state="attached")
    card = seen.style("#parallel", "backgroundColor", within=".card")
    for scale in ("parallel').data[0].line.colorscale", "contour').data[0].colorscale"):
        stops = [(at, rgb(colour)) for at, colour in seen.page.evaluate(f"document.getElementById('{scale}")]
        colours = [mixed(stops, at / 20) for at in range(21)]
        assert min(contrast(one, rgb(card)) for one in colours) >= 3
        assert contrast(colours[0], colours[-1]) >= 2
    for part in (".axis .domain", ".axis .tick line"):
        assert contrast(rgb(seen.style(f"#parallel {part}", "stroke")), rgb(card)) >= 3
        assert seen.style(f"#parallel {part}", "strokeOpacity") == "1"
    for part in (".axis .tick text", ".axis-title"):
        assert contrast(rgb(seen.style(f"#parallel {part}", "fill")), rgb(card)) >= 4.5
    assert contrast(rgb(seen.style("#parallel .axis .tick text", "textShadow").partition(")")[0]), rgb(card)) < 1.1
    seen.page.close()


def rgb(colour: str) -> tuple[int, ...]:
    """`#rrggbb` or `rgb(r, g, b)` as numbers."""
    if colour.startswith("#"):
        return tuple(int(colour[place : place + 2], 16) for place in (1, 3, 5))
    return tuple(int(part) for part in re.findall(r"\d+", colour)[:3])


def mixed(stops: list[tuple[float, tuple[int, ...]]], at: float) -> tuple[int, ...]:
    """The colour of a scale between its stops."""
    places = [place for place, _ in stops]
    return tuple(round(float(np.interp(at, places, [of[k] for _, of in stops]))) for k in range(3))


def contrast(one: tuple[int, ...], other: tuple[int, ...]) -> float:
    """WCAG's contrast ratio, 1 to 21."""
    low, high = sorted(
        sum(
            weight * (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4)
            for weight, part in zip((0.2126, 0.7152, 0.0722), (value / 255 for value in colour), strict=True)
        )
        for colour in (one, other)
    )
    return (high + 0.05) / (low + 0.05)


def test_filters_choose_rows_charts_and_lines(page: Path, context: Any) -> None:
    seen = Browser(context, page, 1600)
    chart = "curves-best-p-base"
    seen.page.query_selector(f'[data-chart="{chart}"]').scroll_into_view_if_needed()
    seen.page.wait_for_selector(f"#{chart} .main-svg")
    assert seen.traces(chart) == ["ff_ippo", "ff_mappo"]
    assert seen.visible("#leaders tbody tr") == 36 and seen.visible("#heat td") == 4

    seen.page.uncheck('[data-filter="algorithm"] [value="ff_ippo"]')
    assert seen.traces(chart) == ["ff_mappo"]
    assert seen.visible("#leaders tbody tr") == 18 and seen.visible("#heat td") == 2
    assert seen.page.eval_on_selector_all("#hyper-algorithm option", "all => all.map(one => one.value)") == ["ff_mappo"]

    seen.page.uncheck('[data-filter="scenario"] [value="p-no-rank"]')
    assert seen.visible("#leaders tbody tr") == 9 and seen.visible("#heat td") == 1
    assert not seen.page.is_visible('[data-chart="curves-best-p-no-rank"]')
    assert not seen.page.is_visible('[data-chart="efficiency-best-all"]')  # it is of scenarios that are not chosen, too

    seen.page.check('[data-filter="algorithm"] [value="ff_ippo"]')
    seen.page.check('[data-filter="scenario"] [value="p-no-rank"]')
    assert seen.visible("#leaders tbody tr") == 36 and seen.page.is_visible('[data-chart="efficiency-best-all"]')
    assert seen.errors == []
    seen.page.close()


def test_the_reader_chooses_metric_runs_and_order(page: Path, context: Any) -> None:
    seen = Browser(context, page, 1600)
    chart = "curves-best-p-base"
    seen.page.query_selector(f'[data-chart="{chart}"]').scroll_into_view_if_needed()
    seen.page.wait_for_selector(f"#{chart} .main-svg")
    seen.page.select_option("#metric", "cooperation_rate")
    title = f"document.getElementById('{chart}').layout.yaxis.title.text"
    assert seen.page.evaluate(title).startswith("cooperation rate")
    ends = f"document.getElementById('{chart}')._fullLayout.yaxis.range"
    assert seen.page.evaluate(ends) == [-0.02, 1.02]
    last = f"document.getElementById('{chart}').calcdata.at(-1).at(-1).y"
    assert seen.page.evaluate(last) == pytest.approx(0.8)
    seen.page.select_option("#metric", "episode_return")
    assert seen.page.evaluate(ends)[1] > 20

    seen.page.select_option("#view", "all")
    assert not seen.page.is_visible(f'[data-chart="{chart}"]')
    assert seen.page.is_visible('[data-chart="curves-all-p-base"]')

    first = "document.querySelector('#leaders tbody tr').cells[0].textContent"
    seen.page.click("#leaders th:has-text('score')")
    assert seen.page.evaluate(first) != "1"  # rising: the worst comes first
    seen.page.click("#leaders th:has-text('score')")
    assert seen.page.evaluate(first) == "1"
    seen.page.close()


def test_hyperparameters_are_drawn_of_the_chosen_trials(page: Path, context: Any) -> None:
    seen = Browser(context, page, 1600)
    seen.page.wait_for_selector("#contour .main-svg", state="attached")
    seen.page.select_option("#hyper-algorithm", "ff_mappo")
    seen.page.select_option("#hyper-scenario", "p-no-rank")
    # The page draws them anew with its next frame, the slices last; until then the trials chosen before stand there.
    drawn = "document.getElementById('slices').querySelector('.js-plotly-plot')?.data[1]?.y[0]"
    seen.page.wait_for_function(f"{drawn} === 255", timeout=60_000)
    assert seen.page.evaluate("document.getElementById('contour').data[1].x.length") == 9
    surface = "document.getElementById('contour').data[0].z.flat().filter((one) => one !== null)"
    low, high = seen.page.evaluate(f"[Math.min(...{surface}), Math.max(...{surface})]")
    # Scores of the nine are 255 down to 95: what is smoothed is within.
    assert 95 <= low < high <= 255
    axes = seen.page.evaluate("document.getElementById('parallel').data[0].dimensions.map((one) => one.label)")
    assert axes == ["actor_lr", "clip_eps", "gae_lambda", "episode return"]
    bars = seen.page.evaluate("document.getElementById('importance').data[0].x.reduce((sum, one) => sum + one, 0)")
    assert bars == pytest.approx(1.0)
    assert seen.errors == []
    seen.page.close()


def test_scores_over_scenarios_are_seen_with_all_scenarios_and_the_star_keeps_to_bounds(
    context: Any, tmp_path: Path
) -> None:
    bounded = Objective("episode_return", "max", constraints={"max_episode_return": 110.0})
    folder = report_sweep.make(tmp_path / "s", ["ff_ippo"], objective=bounded, scenario_mode="mean")
    page = folder / "report.html"
    page.write_text(render(load(folder)))
    seen = Browser(context, page, 1600)
    assert seen.visible("#leaders tbody tr") == 3 and not seen.page.is_visible("#no-leaders")
    chosen = seen.page.eval_on_selector("#hyper-scenario", "one => one.selectedOptions[0].textContent")
    assert chosen == "mean over scenarios"
    seen.page.query_selector("#slices").scroll_into_view_if_needed()
    seen.page.wait_for_selector("#slices .plot .main-svg")
    points, star = seen.page.eval_on_selector("#slices .plot", "one => one.data.map(trace => trace.y)")
    assert sorted(points) == [93.5, 104.5, 115.5] and star == [104.5], "the best one of those below 110"
    seen.page.uncheck('[data-filter="scenario"] [value="p-no-rank"]')
    assert seen.visible("#leaders tbody tr") == 0 and seen.page.is_visible("#no-leaders")
    assert seen.errors == []
    seen.page.close()
