// Curves with uPlot: drawn from JSON, again after so many milliseconds while they grow. Drag to zoom, double-click to reset.
"use strict";

const HEIGHT = 240;
const NUM_COLOURS = 8;

/** A colour of the style sheet, which knows light and dark. */
function colour(element, name) {
  return getComputedStyle(element).getPropertyValue(name).trim();
}

/** uPlot wants one list of x for all lines: their union, with gaps where a line has no value. */
function aligned(series) {
  const tables = series.map((one) => [one.x, one.y]);
  return tables.length ? uPlot.join(tables) : [[]];
}

function options(element, chart, isLog) {
  const soft = colour(element, "--soft"), line = colour(element, "--line");
  const axis = {stroke: soft, values: (_, ticks) => ticks.map((tick) => tick === null ? null : Number(tick.toPrecision(4))), grid: {stroke: line, width: 1}, ticks: {stroke: line, width: 1}};
  const lines = chart.series.map((one, number) => ({
    label: one.name,
    stroke: colour(element, `--series-${number % NUM_COLOURS + 1}`),
    width: 1.6,
    dash: number >= NUM_COLOURS ? [6, 4] : undefined,
    spanGaps: true,
    points: {show: one.x.length < 40, size: 5},
    value: (_, value) => value === null || value === undefined ? "–" : Number(value.toPrecision(5)).toString(),
  }));
  return {
    width: Math.max(200, element.clientWidth), height: HEIGHT,
    scales: {x: {time: false}, y: {distr: isLog ? 3 : 1}},
    series: [{label: "step"}, ...lines],
    axes: [axis, {...axis, size: 62}],
  };
}

function drawChart(root, chart) {
  const box = document.createElement("section");
  box.className = "curve";
  const head = document.createElement("h3");
  head.textContent = chart.title;
  const plotted = document.createElement("div");
  plotted.setAttribute("role", "group");
  const last = chart.series.map((one) => `${one.name} ${one.y.length ? Number(one.y.at(-1).toPrecision(5)) : "none yet"}`);
  plotted.setAttribute("aria-label", `Curve of ${chart.title}; last values: ${last.slice(0, 12).join(", ")}`);
  box.append(head, plotted);
  root.append(box);
  const style = getComputedStyle(box);
  plotted.style.width = `${Math.max(200, box.clientWidth - parseFloat(style.paddingLeft) - parseFloat(style.paddingRight))}px`;
  const plot = new uPlot(options(plotted, chart, false), aligned(chart.series), plotted);
  return {box, plotted, plot, names: chart.series.map((one) => one.name).join("\n")};
}

async function drawCurves(root) {
  const every = Number(root.dataset.every || 0);
  const drawn = new Map();
  let failures = 0;
  const resize = () => drawn.forEach(({box, plotted, plot}) => {
    const style = getComputedStyle(box);
    const width = Math.max(200, box.clientWidth - parseFloat(style.paddingLeft) - parseFloat(style.paddingRight));
    plotted.style.width = `${width}px`;
    plot.setSize({width, height: HEIGHT});
  });
  async function update() {
    let isOver = false;
    try {
      const answer = await fetch(root.dataset.curves);
      if (!answer.ok) throw new Error(String(answer.status));
      const {charts, is_over} = await answer.json();
      isOver = is_over;
      failures = 0;
      if (charts.length && !drawn.size) root.replaceChildren();
      for (const chart of charts) {
        const before = drawn.get(chart.title);
        if (before && before.names === chart.series.map((one) => one.name).join("\n")) {
          before.plot.setData(aligned(chart.series), before.plot.scales.x.min === before.plot.data[0][0]);
        } else {
          before?.plot.destroy();
          before?.box.remove();
          drawn.set(chart.title, drawChart(root, chart));
        }
      }
      if (!charts.length && !drawn.size) root.textContent = every ? "No step is logged yet." : "There are no curves.";
    } catch (error) {
      failures += 1;
      if (!drawn.size) root.textContent = `The curves could not be loaded (${error.message}).`;
    }
    if (every && !isOver && root.isConnected) setTimeout(update, every * Math.min(10, 1 + failures));
  }
  await update();
  addEventListener("resize", resize);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => location.reload());
}
globalThis.drawCurves = drawCurves;
