"use strict";
/* Draws every figure of the page from the JSON beside it, again for another width or scheme. */
(() => {
  const palette = (name) =>
    getComputedStyle(document.documentElement).getPropertyValue(name).trim() || "#888888";

  /* Colours by name into those of the current scheme, everywhere in a chart. */
  function resolve(value) {
    if (typeof value === "string") {
      const match = /^var\((--[\w-]+)\)$/.exec(value);
      return match ? palette(match[1]) : value;
    }
    if (Array.isArray(value)) return value.map(resolve);
    if (value && typeof value === "object") {
      return Object.fromEntries(Object.entries(value).map(([k, v]) => [k, resolve(v)]));
    }
    return value;
  }

  /* Labels in the cells of a map are ink, on cells that ink can be read on. */
  function legible(map) {
    map.textfont = { color: palette("--ink"), ...map.textfont };
    const accent = palette("--accent"), heat = palette("--heat");
    map.colorscale = map.colorscale.map(([at, color]) => [at, color === accent ? heat : color]);
  }

  function themed(chart, width) {
    const { data, layout } = resolve(chart);
    data.filter((trace) => trace.type === "heatmap" && trace.texttemplate).forEach(legible);
    const axis = {
      gridcolor: palette("--grid"), zerolinecolor: palette("--muted"), linecolor: palette("--line"),
      automargin: true, tickfont: { color: palette("--soft") },
    };
    const titled = (own) => ({
      ...axis, ...own,
      title: { standoff: 10, font: { color: palette("--muted"), size: 12 }, ...own.title },
    });
    const base = {
      width,
      margin: { l: 48, r: 14, t: 12, b: 44 },
      showlegend: false,
      paper_bgcolor: "rgba(0,0,0,0)",
      plot_bgcolor: "rgba(0,0,0,0)",
      font: { family: palette("--sans"), size: 12, color: palette("--soft") },
      hoverlabel: { font: { family: palette("--sans"), size: 12 }, align: "left" },
      dragmode: width < 560 ? false : "zoom",
    };
    if (layout.meta === "ranked" && width < 480) layout.xaxis.range[1] *= 1.7;
    if (layout.xaxis.type === "category") {
      const most = Math.max(...data.map((trace) => trace.x.length));
      Object.assign(layout.xaxis, { dtick: Math.max(1, Math.ceil((most * 26) / width)), tickangle: 0 });
    }
    return {
      data,
      layout: { ...base, ...layout, xaxis: titled(layout.xaxis), yaxis: titled(layout.yaxis) },
    };
  }

  const figures = [...document.querySelectorAll("figure.chart")].map((figure) => {
    const data = JSON.parse(figure.querySelector('script[type="application/json"]').textContent);
    const holder = figure.querySelector(".drawing");
    if (figure.dataset.kind === "timeline") {
      const timeline = new Gantt(figure, data, palette);
      return () => timeline.draw();
    }
    return () => {
      const { data: traces, layout } = themed(data, Math.max(200, holder.clientWidth));
      return Plotly.react(holder, traces, layout, {
        displayModeBar: false, responsive: false, scrollZoom: false,
      });
    };
  });

  const scheme = matchMedia("(prefers-color-scheme: dark)"), root = document.documentElement;

  /* Draws all; then the page says for which width and scheme it is drawn. */
  function draw() {
    delete root.dataset.drawn;
    return Promise.all(figures.map((figure) => figure())).then(() => {
      root.dataset.drawn = `${root.clientWidth} ${scheme.matches ? "dark" : "light"}`;
    });
  }

  let width = root.clientWidth, waiting = 0;
  window.addEventListener("resize", () => {
    if (root.clientWidth === width) return;
    width = root.clientWidth;
    cancelAnimationFrame(waiting);
    waiting = requestAnimationFrame(draw);
  });
  scheme.addEventListener("change", draw);

  /* On paper: light, as wide as the paper, with every table open and no wider than the paper. */
  const PAPER = 680;
  const folded = [...document.querySelectorAll("details:not([open])")];
  window.addEventListener("beforeprint", () => {
    root.dataset.theme = "light";
    document.querySelectorAll(".drawing").forEach((d) => { d.style.width = `${PAPER}px`; });
    folded.forEach((d) => { d.open = true; });
    document.querySelectorAll("table").forEach((table) => {
      table.style.width = "1px";
      const least = table.offsetWidth;
      table.style.width = "";
      if (least > PAPER) table.style.zoom = String(PAPER / least);
    });
    draw();
  });
  window.addEventListener("afterprint", () => {
    delete root.dataset.theme;
    document.querySelectorAll(".drawing").forEach((d) => { d.style.width = ""; });
    folded.forEach((d) => { d.open = false; });
    document.querySelectorAll("table").forEach((table) => { table.style.zoom = ""; });
    draw();
  });

  draw();
})();
