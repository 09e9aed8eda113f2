// Words (of NAMUR NE 107, worst first) and shapes for what the board says. Text goes into elements as text, never as markup.

export const HEALTH = {
  FAILURE: "Failure",
  MAINTENANCE_REQUIRED: "Maintenance required",
  OFF_SPEC: "Out of specification",
  CHECK_FUNCTION: "Check function",
  NORMAL: "Normal",
};

const SVG = "http://www.w3.org/2000/svg";
const CLOCK = new Intl.DateTimeFormat("en-GB", { hour: "2-digit", minute: "2-digit" });
const DAY = new Intl.DateTimeFormat("en-GB", { day: "numeric", month: "short" });
const YEAR = new Intl.DateTimeFormat("en-GB", { day: "numeric", month: "short", year: "numeric" });

let ahead = 0; // µs that the server's clock is ahead of ours

export function setClock(now) {
  ahead = now - Date.now() * 1000;
}

export function now() {
  return Date.now() * 1000 + ahead;
}

// An element with a class and text or children.
export function element(tag, name = "", content = []) {
  const made = document.createElement(tag);
  if (name) made.className = name;
  made.append(...[content].flat());
  return made;
}

export function svg(tag, attributes, ...children) {
  const made = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

// Sets text only where it differs, so that nothing is laid out or read out anew for no change.
export function say(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

export function duration(us) {
  const s = Math.max(0, Math.round(us / 1e6));
  if (s < 60) return `${s} s`;
  if (s < 5400) return `${Math.round(s / 60)} min`;
  if (s < 129600) return `${Math.round(s / 3600)} h`;
  return `${Math.round(s / 86400)} days`;
}

export function clock(us) {
  const date = new Date(us / 1000);
  const today = new Date(now() / 1000);
  if (date.toDateString() === today.toDateString()) return CLOCK.format(date);
  const day = (date.getFullYear() === today.getFullYear() ? DAY : YEAR).format(date);
  return `${day} ${CLOCK.format(date)}`;
}

// How long ago in coarse steps, so that a tile changes its text seldom.
export function ago(us) {
  const s = (now() - us) / 1e6;
  return s < 20 ? "just now" : s < 60 ? "< 1 min ago" : `${duration(now() - us)} ago`;
}

export function percent(share) {
  return share === null ? "" : `${Math.round(100 * share)} %`;
}

export function health(tile) {
  return HEALTH[tile.health] ?? tile.health;
}

export function shape(tile) {
  if (!tile.version && tile.health !== "FAILURE") return "NONE";
  return tile.health in HEALTH ? tile.health : "CHECK_FUNCTION";
}

function isRaised(tile) {
  return tile.alarm === "firing" || tile.alarm === "recovering";
}

// Whether an alarm waits for somebody who knows of it.
export function isOpen(tile) {
  return isRaised(tile) && !tile.acknowledged;
}

// What else is to be known of the alarm, in words.
export function marks(tile) {
  const words = [];
  if (tile.estimate !== null) words.push(`${Number(tile.estimate.toPrecision(4))} ${tile.quantity}`.trim());
  if (!tile.version) words.push("no model");
  if (tile.alarm === "pending") words.push("alarm pending");
  if (tile.alarm === "recovering") words.push("recovering");
  if (isRaised(tile)) words.push(tile.acknowledged ? "acknowledged" : "not acknowledged");
  if (tile.shelved_until !== null) words.push(`shelved until ${clock(tile.shelved_until)}`);
  return words;
}

export function fault(tile) {
  if (!tile.fault) return "";
  return tile.confidence === null ? tile.fault : `${tile.fault}, ${percent(tile.confidence)}`;
}

export function address(tile) {
  return `#/${encodeURIComponent(tile.site)}/${encodeURIComponent(tile.machine)}`;
}
