// One machine's own view: how it is, its scores and spectrum, its alarms, and what one may ask for.

import { drawScores, drawSpectrum, closeCharts } from "./charts.js";
import { clock, duration, element, fault, health, isOpen, lastData, marks, named, now, percent, say, shape, svg, visible } from "./words.js";

const $ = (id) => document.getElementById(id);
const PACE = 2000; // ms between two looks
const POINTS = 200; // of the chart of scores

let shown = null; // [site, machine]
let tag = null; // of what is drawn
let timer = 0;
let looking = false;

export function open(site, machine) {
  close();
  shown = [site, machine];
  say($("name"), named(machine));
  $("state").replaceChildren(element("p", "", "Loading …"));
  $("alarms").tBodies[0].replaceChildren();
  say($("done"), "");
  $("actions").hidden = true;
  for (const id of ["scores", "spectrum"]) $(id).hidden = true;
  $("name").focus({ preventScroll: true });
  scrollTo(0, 0);
  look();
}

export function title() {
  return shown && `${named(shown[1])}, ${named(shown[0])}`;
}

export function close() {
  clearTimeout(timer);
  closeCharts();
  const left = shown;
  shown = tag = null;
  return left;
}

// The overview has heard of changes: look at once if they are of this machine.
export function changed(tiles) {
  if (shown && tiles.some((tile) => tile.site === shown[0] && tile.machine === shown[1])) look();
}

async function look() {
  clearTimeout(timer);
  timer = setTimeout(look, PACE);
  if (looking || document.hidden) return;
  looking = true;
  const asked = shown;
  try {
    const answer = await fetch(`machine?${new URLSearchParams({ site: asked[0], machine: asked[1] })}`, { cache: "no-cache" });
    if (asked !== shown) return;
    if (!answer.ok) {
      $("state").replaceChildren(element("p", "", (await answer.json()).error));
      return;
    }
    if (answer.headers.get("ETag") === tag) return;
    const detail = await answer.json();
    if (asked !== shown) return;
    tag = answer.headers.get("ETag");
    draw(detail);
  } catch {
    // no connection: the header says so, and what is drawn stays
  } finally {
    looking = false;
    if (shown && asked !== shown) look();
  }
}

function draw({ tile, levels, scores: all, spectrum, baseline, fault_lines: lines, alarms }) {
  drawState(tile);
  $("actions").hidden = false;
  $("acknowledge").hidden = !isOpen(tile);
  $("unshelve").hidden = tile.shelved_until === null;
  const scores = newest(all, Number($("span").value));
  caption("scores", "Score", scoreWords(scores, levels));
  drawScores($("scores"), scores, levels);
  caption("spectrum", "Spectrum", spectrumWords(spectrum, baseline, lines));
  drawSpectrum($("spectrum"), spectrum, baseline, lines);
  drawAlarms(alarms);
}

// What the last seconds have of a series, in means of equal spans: the server's older points are means of more
// scores than its newer ones, which would look restless beside them.
function newest([times, values], seconds) {
  const start = times.find((time) => time >= times.at(-1) - seconds);
  const step = (times.at(-1) - start) / POINTS || 1;
  const spans = new Map(); // number -> its first time, sum and count
  times.forEach((time, i) => {
    if (time < start || values[i] === null) return;
    const number = Math.floor((time - start) / step);
    const [first, sum, count] = spans.get(number) ?? [time, 0, 0];
    spans.set(number, [first, sum + values[i], count + 1]);
  });
  const means = [...spans.values()];
  return [means.map(([first]) => first), means.map(([, sum, count]) => sum / count)];
}

function caption(id, title, words) {
  const figure = $(id);
  figure.hidden = false;
  figure.querySelector("figcaption").replaceChildren(element("strong", "", title), ` ${words}`);
}

function drawState(tile) {
  const state = element("div", "state", [
    element("p", "health", [
      svg("svg", { class: "shape", "aria-hidden": "true" }, svg("use", { href: `#${shape(tile)}` })),
      element("strong", "word", health(tile)),
    ]),
    element("p", "reason", visible(tile.reason)),
    element("p", "marks", marks(tile).join(" · ")),
  ]);
  state.dataset.health = tile.health;
  const facts = {
    Site: named(tile.site),
    Since: tile.since === null ? "" : `${clock(tile.since)} (${duration(now() - tile.since)})`,
    "Likely fault": fault(tile),
    Score: tile.score === null ? "none" : tile.score.toFixed(2),
    "Last alarm": tile.last_alarm === null ? "none" : clock(tile.last_alarm),
    "Last data": lastData(tile),
    Model: tile.version || "none: make one with fml personalize",
    Shelved: tile.shelved_until === null ? "" : `until ${clock(tile.shelved_until)}: ${visible(tile.shelved_reason)}`,
  };
  const list = element("dl", "facts");
  for (const [term, text] of Object.entries(facts)) {
    if (text) list.append(element("div", "", [element("dt", "", term), element("dd", "", text)]));
  }
  $("state").replaceChildren(state, list);
}

function scoreWords([times, values], levels) {
  if (!values.length) return "None yet.";
  const highest = values.reduce((most, value) => Math.max(most, value));
  const span = `${clock(times[0] * 1e6)} to ${clock(times.at(-1) * 1e6)}: highest ${percent(highest)}, last ${percent(values.at(-1))}.`;
  const [raise, clear] = levels;
  const limits = [raise !== null && `raised at ${percent(raise)}`, clear !== null && `cleared at ${percent(clear)}`].filter(Boolean);
  return limits.length ? `${span} An alarm is ${limits.join(" and ")}.` : span;
}

function spectrumWords([frequencies], baseline, lines) {
  if (!frequencies.length) return "None yet.";
  const against = baseline ? "The newest windows (solid) against the machine when healthy (dashed)." : "Of the newest windows; there is no healthy baseline yet.";
  const faults = lines.map(([name, hz]) => `${name} ${hz.toFixed(1)} Hz`).join(", ");
  return faults ? `${against} Fault lines: ${faults}.` : against;
}

function drawAlarms(alarms) {
  const rows = alarms.map(({ time, what, reason }) => element("tr", "", [element("td", "", clock(time)), element("td", "", what), element("td", "", visible(reason))]));
  if (!rows.length) {
    const cell = element("td", "", "None.");
    cell.colSpan = 3;
    rows.push(element("tr", "", cell));
  }
  $("alarms").tBodies[0].replaceChildren(...rows);
}

async function ask(what, more, done) {
  const [site, machine] = shown;
  const who = $("who").value.trim();
  try {
    const answer = await fetch(what, {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify({ site, machine, who, ...more }),
    });
    say($("done"), answer.ok ? done : (await answer.json()).error);
    if (answer.ok) look();
    return answer.ok;
  } catch {
    say($("done"), "There is no connection to the watch: nothing was done.");
    return false;
  }
}

// In the dark charts have other colours.
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
  closeCharts();
  tag = null;
  if (shown) look();
});

// A browser may be told to keep nothing.
try {
  $("who").value = localStorage.getItem("who") ?? "";
  $("who").addEventListener("change", () => localStorage.setItem("who", $("who").value.trim()));
} catch {
  $("who").value = "";
}
$("span").addEventListener("change", () => {
  tag = null;
  look();
});
$("acknowledge").addEventListener("click", async () => {
  if (await ask("acknowledge", {}, "Acknowledged.")) $("name").focus({ preventScroll: true }); // the button goes
});
$("shelve").addEventListener("submit", async (event) => {
  event.preventDefault();
  const asked = { seconds: Number($("seconds").value), reason: $("reason").value };
  if (await ask("shelve", asked, `Shelved for ${$("seconds").selectedOptions[0].text}.`)) $("reason").value = "";
});
$("unshelve").addEventListener("click", async () => {
  if (await ask("shelve", { seconds: 0, reason: "" }, "Shelving has ended.")) $("name").focus({ preventScroll: true });
});
