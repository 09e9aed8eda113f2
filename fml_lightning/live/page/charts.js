// Two charts, drawn by uPlot: colours from the style sheet, dashes as well as colours, data changed in place.

const charts = new Map(); // figure -> {chart, key}
const HEIGHT = 240;
const SIDE = { size: 56, font: "12px system-ui, sans-serif" };

function colour(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
}

function axis(more) {
  return { stroke: colour("--text"), grid: { stroke: colour("--line"), width: 1 }, ticks: { stroke: colour("--line"), width: 1 }, ...SIDE, ...more };
}

const two = (number) => String(number).padStart(2, "0");

// Clock times; days where the labels are days apart.
function times(_, splits, __, ___, step) {
  return splits.map((seconds) => {
    const at = new Date(seconds * 1000);
    if (step >= 86400) return `${at.getDate()}.${at.getMonth() + 1}.`;
    const minutes = `${two(at.getHours())}:${two(at.getMinutes())}`;
    return step < 60 ? `${minutes}:${two(at.getSeconds())}` : minutes;
  });
}

// Lines across at scores, or upright at frequencies, each with its name.
function lines(marks, upright) {
  return (chart) => {
    const { ctx, bbox } = chart;
    const ratio = devicePixelRatio;
    ctx.save();
    ctx.strokeStyle = ctx.fillStyle = colour("--mark");
    ctx.lineWidth = ratio;
    ctx.font = `${12 * ratio}px system-ui, sans-serif`;
    ctx.textAlign = "left";
    ctx.textBaseline = "alphabetic";
    ctx.setLineDash([2 * ratio, 3 * ratio]);
    let row = 0;
    let end = -Infinity;
    for (const [name, value] of marks) {
      const at = Math.round(chart.valToPos(value, upright ? "x" : "y", true));
      const [low, high] = upright ? [bbox.left, bbox.left + bbox.width] : [bbox.top, bbox.top + bbox.height];
      if (!(at >= low && at <= high)) continue;
      ctx.beginPath();
      if (upright) {
        ctx.moveTo(at, bbox.top);
        ctx.lineTo(at, bbox.top + bbox.height);
      } else {
        ctx.moveTo(bbox.left, at);
        ctx.lineTo(bbox.left + bbox.width, at);
      }
      ctx.stroke();
      const width = ctx.measureText(name).width;
      if (upright) {
        row = at < end ? row + 1 : 0; // names that would meet go below one another
        end = at + width + 8 * ratio;
        const x = Math.min(at + 3 * ratio, high - width);
        ctx.fillText(name, x, bbox.top + (12 + 14 * (row % 4)) * ratio);
      } else ctx.fillText(name, bbox.left + 4 * ratio, at - 3 * ratio);
    }
    ctx.restore();
  };
}

// Draws data into the figure's chart; made anew only where what goes with the data has changed.
function draw(figure, key, data, options) {
  const place = figure.querySelector(".chart");
  place.setAttribute("role", "img");
  place.setAttribute("aria-label", figure.querySelector("figcaption").textContent);
  const kept = charts.get(figure);
  if (kept && kept.key === key) {
    kept.chart.setData(data);
    return;
  }
  kept?.chart.destroy();
  const chart = new uPlot({ width: place.clientWidth, height: HEIGHT, legend: { live: false }, cursor: { drag: { x: false, y: false } }, ...options }, data, place);
  charts.set(figure, { chart, key });
}

export function drawScores(figure, data, levels) {
  figure.querySelector(".chart").hidden = !data[0].length;
  if (!data[0].length) return;
  const marks = [["raise", levels[0]], ["clear", levels[1]]].filter(([, value]) => value !== null);
  draw(figure, JSON.stringify(levels), data, {
    scales: { x: { time: true }, y: { range: [0, 1] } },
    axes: [axis({ values: times, size: 34 }), axis({ values: (_, splits) => splits.map((value) => `${Math.round(100 * value)} %`) })],
    series: [{ label: "Time" }, { label: "Score", stroke: colour("--plot"), width: 1.5, points: { show: data[0].length < 3 } }],
    legend: { show: false },
    hooks: { draw: [lines(marks, false)] },
  });
}

export function drawSpectrum(figure, data, baseline, faults) {
  figure.querySelector(".chart").hidden = !data[0].length;
  if (!data[0].length) return;
  const marks = [...faults].sort((one, other) => one[1] - other[1]);
  draw(figure, JSON.stringify([faults, baseline]), data, {
    scales: { x: { time: false } },
    axes: [axis({ label: "Hz", size: 34, labelSize: 18, labelFont: SIDE.font }), axis({ values: (_, splits) => splits.map((value) => `${value} dB`) })],
    series: [
      { label: "Frequency" },
      { label: "Now", stroke: colour("--plot"), width: 1.5, points: { show: false } },
      { label: "When healthy", stroke: colour("--text"), width: 1.5, dash: [5, 4], points: { show: false }, show: baseline },
    ],
    legend: { show: false },
    hooks: { draw: [lines(marks, true)] },
  });
}

export function closeCharts() {
  for (const { chart } of charts.values()) chart.destroy();
  charts.clear();
}

const sizes = new ResizeObserver((entries) => {
  for (const { target } of entries) {
    const kept = charts.get(target);
    const width = target.querySelector(".chart").clientWidth;
    if (kept && width && kept.chart.width !== width) kept.chart.setSize({ width, height: HEIGHT });
  }
});
for (const figure of document.querySelectorAll("figure")) sizes.observe(figure);
