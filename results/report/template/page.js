"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const all = (selector, within = document) => [...within.querySelectorAll(selector)];
  const one = (id) => document.getElementById(id);
  const root = document.documentElement;
  const CONFIG = { responsive: true, displaylogo: false, displayModeBar: false };
  const near = new Set();
  const drawn = new Map();
  let choice = 0; // counts the reader's choices: a chart that is drawn for an earlier one is drawn again

  // -- Light and dark ------------------------------------------------------------------------------------------------

  const isDark = () => root.dataset.theme === "dark";
  const colour = (name) => getComputedStyle(root).getPropertyValue(name).trim();
  root.dataset.theme = matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light";

  function dressed(layout) {
    const text = colour("--text"), grid = colour("--grid"), line = colour("--line");
    const made = {
      ...layout, paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
      font: { color: text, size: 12, family: getComputedStyle(document.body).fontFamily },
      hoverlabel: { bgcolor: colour("--card"), bordercolor: line, font: { color: text }, namelength: -1 },
    };
    for (const axis of ["xaxis", "yaxis"]) {
      made[axis] = { ...layout[axis], exponentformat: layout[axis]?.type === "log" ? "power" : "SI", gridcolor: grid, linecolor: line, zerolinecolor: line, tickcolor: line };
    }
    return made;
  }

  // -- Filters -------------------------------------------------------------------------------------------------------

  const ticked = (filter) => all(`[data-filter="${filter}"] input:checked`).map((box) => box.value);
  const chosen = () => ({
    algorithms: new Set(ticked("algorithm")), scenarios: new Set(ticked("scenario")),
    every: all('[data-filter="scenario"] input').every((box) => box.checked),
    view: one("view").value, metric: one("metric").value,
  });

  function isOfScenario(name, now) {
    return name === undefined || (name === "*" ? now.every : now.scenarios.has(name));
  }

  function isShown(meta, now) {
    return (meta.algorithms || []).every((name) => now.algorithms.has(name)) &&
      isOfScenario(meta.scenario, now) && (meta.metric === undefined || meta.metric === now.metric);
  }

  function filter() {
    const now = chosen();
    choice += 1;
    for (const row of all("tr[data-scenario], tr[data-algorithm]")) {
      row.hidden = !isOfScenario(row.dataset.scenario, now) ||
        (row.dataset.algorithm !== undefined && !now.algorithms.has(row.dataset.algorithm));
    }
    const none = one("no-leaders");
    if (none) none.hidden = all("#leaders tbody tr").some((row) => !row.hidden);
    for (const cell of all("th[data-algorithm], td[data-algorithm]")) cell.hidden = !now.algorithms.has(cell.dataset.algorithm);
    for (const card of all("[data-chart]")) {
      const { scenario, view } = card.dataset;
      card.hidden = !isOfScenario(scenario, now) || (view !== undefined && view !== now.view);
    }
    for (const id of near) draw(id);
    offer();
  }

  // -- Charts of the page --------------------------------------------------------------------------------------------

  function draw(id) {
    const box = one(id), card = box.closest("[data-chart]"), chart = data.charts[id];
    if (card.hidden) return;
    const now = chosen();
    const traces = chart.data.filter((trace) => isShown(trace.meta || {}, now));
    const named = new Set();
    const shown = traces.map((trace) => {
      if (trace.legendgroup === undefined || trace.hoverinfo === "skip") return trace;
      const first = !named.has(trace.legendgroup);
      named.add(trace.legendgroup);
      return { ...trace, showlegend: first };
    });
    const metric = (chart.metrics || {})[now.metric];
    const layout = { ...chart.layout };
    if (metric) layout.yaxis = { ...layout.yaxis, title: { ...layout.yaxis.title, text: metric.title }, range: metric.range ?? undefined };
    card.querySelector(".none").hidden = shown.length > 0;
    box.hidden = shown.length === 0;
    if (shown.length) Plotly.react(box, shown, dressed(layout), CONFIG);
    drawn.set(id, choice);
  }

  const watcher = new IntersectionObserver((entries) => {
    for (const entry of entries) {
      const id = entry.target.dataset.chart;
      if (!entry.isIntersecting) {
        near.delete(id);
      } else {
        near.add(id);
        if (drawn.get(id) !== choice) draw(id);
      }
    }
  }, { rootMargin: "600px" });

  // -- Hyperparameters -----------------------------------------------------------------------------------------------

  const hyper = data.hyperparameters;
  const has = () => one("hyper-algorithm") !== null;
  // The best score is what stands out most from the page: the light end in the dark, and the other way round.
  function scale() {
    const known = data.scales[root.dataset.theme];
    return isDark() === (data.objective.mode === "max") ? known : known.map(([at, c]) => [1 - at, c]).reverse();
  }

  function fill(select, values, labels = values) {
    const before = select.value;
    select.replaceChildren(...values.map((value, place) => new Option(labels[place], value)));
    if (values.includes(before)) select.value = before;
  }

  function offer() {
    if (!has()) return;
    const now = chosen();
    fill(one("hyper-algorithm"), Object.keys(hyper).filter((name) => now.algorithms.has(name)));
    offerScenarios();
  }

  function offerScenarios() {
    const table = hyper[one("hyper-algorithm").value], now = chosen();
    const known = table ? ["*", ...data.scenarios].filter((name) => isOfScenario(name, now) && table.scenario.includes(name)) : [];
    fill(one("hyper-scenario"), known, known.map((name) => (name === "*" ? "mean over scenarios" : name)));
    const numbers = table ? table.axes.filter((axis) => axis.kind === "number") : [];
    const keys = numbers.map((axis) => axis.key), names = numbers.map((axis) => axis.name);
    const y = one("contour-y").value;
    fill(one("contour-x"), keys, names);
    fill(one("contour-y"), keys, names);
    if (!keys.includes(y) && keys.length > 1) one("contour-y").value = keys[1];
    explore();
  }

  function trialsOf() {
    const table = hyper[one("hyper-algorithm").value], scenario = one("hyper-scenario").value;
    if (!table) return null;
    const places = table.scenario.map((name, place) => (name === scenario ? place : -1)).filter((place) => place >= 0);
    const score = places.map((place) => table.score[place]);
    const sign = data.objective.mode === "max" ? 1 : -1;
    const able = places.map((place) => table.feasible[place]);
    const beats = (place, top) => (able[place] === able[top] ? sign * score[place] > sign * score[top] : able[place]);
    const best = able.some((one) => one) ? score.reduce((top, _, place) => (beats(place, top) ? place : top), 0) : -1;
    const values = (key) => places.map((place) => table.values[key][place]);
    return { axes: table.axes, trial: places.map((place) => table.trial[place]), score, best, values, number: places };
  }

  let slow = 0;
  function explore() {
    cancelAnimationFrame(slow);
    slow = requestAnimationFrame(() => {
      const trials = trialsOf();
      const empty = !trials || trials.score.length === 0;
      one("hyperparameters").querySelectorAll(".card").forEach((card) => { card.hidden = empty; });
      if (empty) return;
      parallel(trials);
      importance();
      contour(trials);
      slices(trials);
    });
  }

  const tick = (value) => Number(value.toPrecision(2)).toString();
  const short = (text) => (text.length > 16 ? text.slice(0, 15) + "…" : text);

  function dimension(axis, values) {
    if (axis.kind === "category") {
      const known = [...new Set(values.map(String))].sort((a, b) => (a - b) || a.localeCompare(b));
      return { label: short(axis.name), values: values.map((value) => known.indexOf(String(value))),
        tickvals: known.map((_, place) => place), ticktext: known.map(short), range: [-0.2, known.length - 0.8] };
    }
    const known = values.filter((value) => value !== null);
    const low = Math.min(...known), high = Math.max(...known);
    const there = (value) => (axis.log ? Math.log10(value) : value);
    const ticks = [0, 0.25, 0.5, 0.75, 1].map((part) => there(low) + part * (there(high) - there(low)));
    return { label: short(axis.name), values: values.map((value) => (value === null ? null : there(value))), tickvals: ticks,
      ticktext: ticks.map((value) => tick(axis.log ? 10 ** value : value)) };
  }

  function hasWebGL() {
    const canvas = document.createElement("canvas");
    return Boolean(canvas.getContext("webgl"));
  }

  function parallel(trials) {
    const box = one("parallel");
    if (!hasWebGL()) {
      box.textContent = "Parallel coordinates need WebGL, which this browser does not have.";
      return;
    }
    const dimensions = trials.axes.map((axis) => dimension(axis, trials.values(axis.key)));
    dimensions.push({ ...dimension({ kind: "number", name: data.objective.name }, trials.score) });
    box.style.minWidth = `${110 * dimensions.length + 60}px`;
    const line = { color: trials.score, colorscale: scale(), showscale: true,
      colorbar: { title: { text: data.objective.name, side: "right" }, thickness: 12, outlinewidth: 0 } };
    const layout = dressed({ margin: { l: 60, r: 20, t: 50, b: 24 } });
    const trace = { type: "parcoords", dimensions, line, labelside: "top", labelfont: { size: 12 }, tickfont: { size: 11 },
      unselected: { line: { opacity: 0.06 } } };
    // Of twice as many pixels, the default, Plotly's lines are half a pixel wide, and half as visible.
    Plotly.react(box, [trace], layout, { ...CONFIG, plotGlPixelRatio: 1 });
  }

  function importance() {
    const box = one("importance"), card = box.closest(".card");
    const found = data.importances[one("hyper-algorithm").value]?.[one("hyper-scenario").value];
    const keys = Object.keys(found?.shares ?? {}).reverse();
    const note = card.querySelector(".none");
    note.hidden = !found?.why;
    note.textContent = found?.why ? `${found.why}.` : "";
    box.hidden = keys.length === 0;
    one("evaluator").textContent = found?.evaluator ? `${found.evaluator}, as Optuna's dashboard computes it` : "PED-ANOVA";
    if (!keys.length) return;
    const names = Object.fromEntries(hyper[one("hyper-algorithm").value].axes.map((axis) => [axis.key, axis.name]));
    const bars = { type: "bar", orientation: "h", x: keys.map((key) => found.shares[key]), y: keys.map((key) => names[key] ?? key),
      marker: { color: colour("--accent") }, hovertemplate: "%{y}: %{x:.1%}<extra></extra>" };
    const layout = { margin: { l: 10, r: 14, t: 10, b: 10 }, xaxis: { title: { text: "share of importance" }, tickformat: ".0%", rangemode: "tozero", automargin: true },
      yaxis: { automargin: true, type: "category" } };
    Plotly.react(box, [bars], dressed(layout), CONFIG);
  }

  function smoothed(x, y, z, grid) {
    // Nadaraya and Watson's estimate with a Gaussian kernel, on axes scaled to [0, 1]; nothing where no trial is near.
    const width = 0.1;
    return grid.map((v) => grid.map((u) => {
      let weight = 0, sum = 0;
      for (let k = 0; k < x.length; k++) {
        const w = Math.exp(-((x[k] - u) ** 2 + (y[k] - v) ** 2) / (2 * width * width));
        weight += w;
        sum += w * z[k];
      }
      return weight > 0.01 ? sum / weight : null;
    }));
  }

  function contour(trials) {
    const box = one("contour"), card = box.closest(".card");
    const axes = ["contour-x", "contour-y"].map((id) => trials.axes.find((axis) => axis.key === one(id).value));
    const able = axes[0] && axes[1] && axes[0] !== axes[1];
    card.querySelector(".none").hidden = able;
    box.hidden = !able;
    if (!able) return;
    const pairs = axes.map((axis) => trials.values(axis.key));
    const kept = trials.score.map((_, place) => place).filter((place) => pairs.every((values) => values[place] !== null));
    const there = (axis, value) => (axis.log ? Math.log10(value) : value);
    const ends = axes.map((axis, k) => {
      const values = kept.map((place) => there(axis, pairs[k][place]));
      return [Math.min(...values), Math.max(...values)];
    });
    const unit = axes.map((axis, k) => kept.map((place) => (there(axis, pairs[k][place]) - ends[k][0]) / (ends[k][1] - ends[k][0] || 1)));
    const score = kept.map((place) => trials.score[place]);
    const grid = Array.from({ length: 41 }, (_, k) => k / 40);
    const back = (axis, k) => grid.map((at) => { const v = ends[k][0] + at * (ends[k][1] - ends[k][0]); return axis.log ? 10 ** v : v; });
    const surface = { type: "contour", x: back(axes[0], 0), y: back(axes[1], 1), z: smoothed(unit[0], unit[1], score, grid),
      colorscale: scale(), contours: { coloring: "heatmap" }, line: { width: 0.5, color: "rgba(128,128,128,.7)" }, ncontours: 12, connectgaps: false,
      colorbar: { title: { text: data.objective.name, side: "right" }, thickness: 12, outlinewidth: 0 }, hovertemplate: "%{x:.3g}, %{y:.3g}: %{z:.4g}<extra></extra>" };
    const dots = { type: "scatter", mode: "markers", x: kept.map((place) => pairs[0][place]), y: kept.map((place) => pairs[1][place]),
      text: kept.map((place) => `${trials.trial[place]}<br>${tick(trials.score[place])}`), hovertemplate: "%{text}<extra></extra>", showlegend: false,
      marker: { color: "#ffffff", size: kept.map((place) => (place === trials.best ? 16 : 6)), symbol: kept.map((place) => (place === trials.best ? "star" : "circle")), line: { color: "#14171c", width: 1 } } };
    const layout = { margin: { l: 10, r: 10, t: 10, b: 10 } };
    axes.forEach((axis, k) => { layout[k ? "yaxis" : "xaxis"] = { title: { text: axis.name }, type: axis.log ? "log" : "linear", automargin: true }; });
    Plotly.react(box, [surface, dots], dressed(layout), CONFIG);
  }

  function slices(trials) {
    const place = one("slices");
    all(".plot", place).forEach((box) => Plotly.purge(box));
    place.replaceChildren();
    for (const axis of trials.axes) {
      const card = document.createElement("figure"), box = document.createElement("div");
      card.className = "card";
      box.className = "plot";
      box.style.height = "240px";
      card.append(box);
      place.append(card);
      const values = trials.values(axis.key);
      const marks = { type: "scatter", mode: "markers", x: axis.kind === "category" ? values.map(String) : values, y: trials.score, text: trials.trial,
        hovertemplate: "%{text}<br>%{x}: %{y:.4g}<extra></extra>", showlegend: false,
        marker: { color: colour("--accent"), opacity: 0.8, size: 7 } };
      const only = (values) => (trials.best < 0 ? [] : [values[trials.best]]); // none keeps to the constraints
      const star = { ...marks, x: only(marks.x), y: only(trials.score), text: only(trials.trial),
        marker: { color: "#D55E00", size: 15, symbol: "star" } };
      const kind = axis.kind === "category" ? { type: "category", categoryorder: "category ascending" } : { type: axis.log ? "log" : "linear" };
      const layout = { margin: { l: 10, r: 10, t: 10, b: 10 }, xaxis: { title: { text: axis.name }, automargin: true, ...kind },
        yaxis: { title: { text: data.objective.name }, automargin: true, range: data.objective.range ?? undefined } };
      Plotly.newPlot(box, [marks, star], dressed(layout), CONFIG);
    }
  }

  // -- Tables --------------------------------------------------------------------------------------------------------

  function sort(header) {
    const table = header.closest("table"), column = header.cellIndex;
    const rising = header.getAttribute("aria-sort") !== "ascending";
    all("th", header.parentElement).forEach((other) => other.removeAttribute("aria-sort"));
    header.setAttribute("aria-sort", rising ? "ascending" : "descending");
    const key = (row) => row.cells[column].dataset.sort ?? row.cells[column].textContent.trim();
    const isNumber = (text) => text !== "" && !Number.isNaN(Number(text));
    const order = (a, b) => {
      if (a === "" || b === "") return (a === "") - (b === "");
      const less = isNumber(a) && isNumber(b) ? a - b : a.localeCompare(b);
      return rising ? less : -less;
    };
    const body = table.tBodies[0];
    body.append(...[...body.rows].sort((a, b) => order(key(a), key(b))));
  }

  // -- What the reader does ------------------------------------------------------------------------------------------

  if (document.body.dataset.bestIsThin === "yes") one("view").value = "all";
  all("#filters input, #filters select, #metric").forEach((control) => control.addEventListener("change", filter));
  one("theme").addEventListener("click", () => {
    root.dataset.theme = isDark() ? "light" : "dark";
    filter();
  });
  all(".sortable th").forEach((header) => header.addEventListener("click", () => sort(header)));
  if (has()) {
    one("hyper-algorithm").addEventListener("change", offerScenarios);
    ["hyper-scenario", "contour-x", "contour-y"].forEach((id) => one(id).addEventListener("change", explore));
  }
  one("copy")?.addEventListener("click", () => navigator.clipboard?.writeText(one("command").textContent));
  addEventListener("beforeprint", () => all("[data-chart]").forEach((card) => draw(card.dataset.chart)));
  filter();
  all("[data-chart]").forEach((card) => watcher.observe(card));
})();
