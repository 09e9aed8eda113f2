// The overview and the connection: tiles, worst first, of which only those that change are drawn anew.

import * as machine from "./machine.js";
import { HEALTH, address, clock, duration, element, fault, health, isOpen, lastData, marks, named, now, percent, say, setClock, shape, svg, visible } from "./words.js";

const $ = (id) => document.getElementById(id);
const SILENCE = 15000; // ms without a sign of life after which the connection is taken for lost
const PATIENCE = [1000, 2000, 5000, 10000, 30000]; // ms before the next tries

const tiles = new Map(); // number -> {data, item and its parts}
let order = [];
let former = new Map(); // address -> tile of before the connection was lost

// --- tiles

function makeTile() {
  const parts = {};
  const part = (name, tag = "span") => (parts[name] = element(tag, name));
  const use = svg("use", {});
  const path = svg("path", {});
  const pair = (term, name) => element("div", "", [element("dt", "", term), part(name, "dd")]);
  parts.use = use;
  parts.path = path;
  parts.link = element("a", "link", [part("machine", "strong"), " ", part("site")]);
  parts.reason = element("p", "reason");
  parts.since = element("p", "since");
  parts.marks = element("p", "marks");
  parts.span = element("span", "span");
  const item = element("li", "tile", [
    element("h2", "", parts.link),
    element("p", "health", [svg("svg", { class: "shape", "aria-hidden": "true" }, use), part("word", "strong")]),
    parts.reason,
    parts.since,
    parts.marks,
    element("div", "trend", [svg("svg", { viewBox: "0 -4 1000 108", preserveAspectRatio: "none", "aria-hidden": "true" }, svg("path", { class: "zero", d: "M0 100H1000" }), path), parts.span]),
    element("dl", "", [pair("Last alarm", "alarm"), pair("Score", "score"), pair("Last data", "data"), pair("Model", "model")]),
  ]);
  return { item, parts, data: null };
}

function trendPath(points) {
  let path = "";
  let pen = "M";
  points.forEach((point, i) => {
    if (point) path += `${pen}${point[0]} ${100 - point[1]}`;
    if (point && !points[i - 1] && !points[i + 1]) path += "h0"; // a dot, where its neighbours are missing
    pen = point ? "L" : "M";
  });
  return points.length === 1 ? path.replace("M1000", "M0") + "h1000" : path;
}

function drawTile(tile) {
  const { data, parts, item } = tile;
  const set = (node, name, value) => node.getAttribute(name) !== value && node.setAttribute(name, value);
  set(item, "data-health", data.health);
  set(parts.link, "href", address(data));
  set(parts.use, "href", `#${shape(data)}`);
  set(parts.path, "d", trendPath(data.trend));
  say(parts.machine, named(data.machine));
  say(parts.site, named(data.site));
  say(parts.word, health(data));
  say(parts.reason, visible(data.reason));
  say(parts.marks, marks(data).join(" · "));
  say(parts.score, data.score === null ? "none" : data.score.toFixed(2));
  say(parts.alarm, data.last_alarm === null ? "none" : clock(data.last_alarm));
  say(parts.model, data.version || "none");
  say(parts.span, data.span ? `Trend of ${duration(data.span[1] - data.span[0])}` : "No trend yet");
  drawAges(tile);
}

function drawAges({ data, parts }) {
  const since = data.since === null ? "" : `Since ${clock(data.since)} (${duration(now() - data.since)})`;
  const likely = data.health === "NORMAL" ? "" : fault(data);
  const sure = data.reason === data.fault && data.confidence !== null; // the fault's name stands there already
  say(parts.since, [likely && (sure ? `${percent(data.confidence)} sure` : `Likely ${likely}`), since].filter(Boolean).join(" · "));
  say(parts.data, lastData(data));
}

// Puts the items into the board's order; those that are in place are left alone, and the focus stays.
function arrange() {
  const list = $("tiles");
  const focused = document.activeElement;
  let place = list.firstElementChild;
  for (const number of order) {
    const { item } = tiles.get(number);
    if (item === place) place = place.nextElementSibling;
    else list.insertBefore(item, place);
  }
  while (place) {
    const next = place.nextElementSibling;
    place.remove();
    place = next;
  }
  if (focused !== document.activeElement && focused.isConnected) focused.focus({ preventScroll: true });
}

function wanted(data) {
  const words = $("words").value.toLowerCase().split(/\s+/).filter(Boolean);
  const text = `${data.machine} ${data.site} ${data.fault} ${data.reason} ${health(data)}`.toLowerCase();
  const choice = $("health").value;
  const chosen =
    choice === "" ||
    choice === data.health ||
    (choice === "sick" && data.health !== "NORMAL") ||
    (choice === "open" && isOpen(data)) ||
    (choice === "no-model" && !data.version);
  return chosen && words.every((word) => text.includes(word));
}

function filter(changed = tiles.values()) {
  for (const tile of changed) {
    const hidden = !wanted(tile.data);
    if (tile.item.hidden !== hidden) tile.item.hidden = hidden;
  }
  const shown = [...tiles.values()].filter((tile) => !tile.item.hidden).length;
  const filtered = $("words").value.trim() || $("health").value;
  say($("found"), filtered ? `${shown} of ${tiles.size} shown` : "");
  $("empty").hidden = shown > 0;
  say($("empty"), tiles.size ? "No machine is as you ask." : "No machine has been seen yet: data make them appear.");
}

function summarize() {
  const counts = new Map();
  for (const { data } of tiles.values()) counts.set(data.health, (counts.get(data.health) ?? 0) + 1);
  const words = Object.keys(HEALTH).filter((word) => counts.has(word));
  say($("summary"), words.map((word) => `${HEALTH[word]}: ${counts.get(word)}`).join(" · "));
  const sick = tiles.size - (counts.get("NORMAL") ?? 0);
  const title = machine.title() ?? "Machines";
  document.title = sick ? `(${sick}) ${title}` : title;
}

// --- what is read out, at most every few seconds, and not what was there at first

const news = [];
let telling = false;

function tell(sentence) {
  news.push(sentence);
  if (telling) return;
  telling = true;
  setTimeout(() => {
    say($("news"), news.length > 3 ? `${news.length} machines have changed.` : news.join(" "));
    news.length = 0;
    telling = false;
  }, 1000);
}

const sentence = (text) => `${text.charAt(0).toUpperCase()}${text.slice(1)}.`;

function take(message) {
  setClock(message.now);
  if (message.files && edition && edition !== message.files) return location.reload();
  edition = message.files ?? edition;
  if (message.problems) {
    say($("problems"), visible(message.problems.map(sentence).join(" ")));
    $("problems").hidden = message.problems.length === 0;
  }
  const changed = [];
  for (const data of message.tiles) {
    const tile = tiles.get(data.id) ?? former.get(address(data)) ?? makeTile();
    tiles.set(data.id, tile);
    if (tile.data && tile.data.health !== data.health) tell(visible(`${data.machine}: ${health(data)}. ${data.reason}`));
    tile.data = data;
    drawTile(tile);
    changed.push(tile);
  }
  if (message.order) {
    order = message.order;
    const kept = new Set(order);
    for (const number of tiles.keys()) if (!kept.has(number)) tiles.delete(number);
    arrange();
  }
  filter(changed.filter((tile) => tiles.has(tile.data.id)));
  summarize();
  machine.changed(changed.map((tile) => tile.data));
}

// --- the connection: says since when there is none, and tries again until there is

let source = null;
let edition = null;
let heard = 0;
let tries = 0;
let lostAt = null;
let retry = 0;

function connect() {
  clearTimeout(retry);
  source?.close();
  heard = Date.now();
  let first = true;
  source = new EventSource("events");
  source.onmessage = (event) => {
    heard = Date.now();
    tries = 0;
    lostAt = null;
    if (first) renumber();
    first = false;
    take(JSON.parse(event.data));
    former.clear();
    say($("connection"), "Live");
    $("connection").className = "live";
  };
  source.onerror = () => lose();
}

// Another run of the server numbers machines anew; their tiles stay, and so does the focus.
function renumber() {
  former = new Map([...tiles.values()].map((tile) => [address(tile.data), tile]));
  tiles.clear();
}

async function lose() {
  source?.close();
  lostAt ??= heard;
  say($("connection"), `No connection since ${clock(lostAt * 1000)}: what you see is from then. Trying again.`);
  $("connection").className = "lost";
  clearTimeout(retry);
  retry = setTimeout(connect, PATIENCE[Math.min(tries++, PATIENCE.length - 1)]);
  try {
    if ((await fetch("session", { cache: "no-store" })).status === 401) location.reload();
  } catch {
    // there is no connection, as said
  }
}

setInterval(() => {
  if (document.hidden) return;
  if (source.readyState !== EventSource.CLOSED && Date.now() - heard > SILENCE) lose();
  for (const tile of tiles.values()) if (!tile.item.hidden) drawAges(tile);
}, 5000);

// A browser has few connections to one host: tabs that nobody looks at leave them to those that are.
document.addEventListener("visibilitychange", () => {
  if (document.hidden) {
    clearTimeout(retry);
    source.close();
  } else connect();
});

// --- which view

function route() {
  const parts = location.hash.startsWith("#/") ? location.hash.slice(2).split("/") : [];
  let names = null;
  try {
    if (parts.length === 2) names = parts.map(decodeURIComponent);
  } catch {
    location.replace("#/");
  }
  const from = document.activeElement;
  $("overview").hidden = names !== null;
  $("machine").hidden = names === null;
  if (names) {
    machine.open(...names);
    summarize();
  } else {
    const left = machine.close();
    summarize();
    const tile = left && [...tiles.values()].find(({ data }) => data.site === left[0] && data.machine === left[1]);
    if (tile && (from === document.body || from.closest("#machine"))) tile.parts.link.focus();
  }
}

window.addEventListener("hashchange", route);
document.querySelector(".skip").addEventListener("click", (event) => {
  event.preventDefault(); // the address names the view
  $("main").focus();
});
$("filter").addEventListener("submit", (event) => event.preventDefault());
$("words").addEventListener("input", () => filter());
$("health").addEventListener("change", () => filter());
route();
connect();
