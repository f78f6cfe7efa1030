// Nodes, numbers and times. Whatever comes from users or items becomes a text node, never markup.

export function el(tag, given = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(given)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (name === "vars") for (const [key, one] of Object.entries(value)) node.style.setProperty(key, one);
    else node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false));
  return node;
}

export const byId = (id) => document.getElementById(id);

// Text of others, in a direction of its own: it cannot turn what stands around it.
export const own = (text) => el("bdi", {}, String(text));

export const hidden = (text) => el("span", { class: "hidden" }, text);

const escaped = (id) => encodeURIComponent(String(id).toWellFormed?.() ?? id);
export const userAt = (id) => `#/users/${escaped(id)}`;
export const itemAt = (id) => `#/items/${escaped(id)}`;

let saying = 0;
export function say(text) {
  const place = byId("said");
  place.textContent = "";
  clearTimeout(saying);
  saying = setTimeout(() => { place.textContent = text; }, 60);
}

const whole = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
export const count = (n) => whole.format(n);
export const counted = (n, one, many = `${one}s`) => `${count(n)} ${n === 1 ? one : many}`;
export const decimal = (value, places = 2) => value.toFixed(places).replace("-", "−").replace(/^−(0\.?0*)$/, "$1");
export const percent = (share) => (share > 0 && share < 0.0005 ? "< 0.1 %" : `${(100 * share).toFixed(1)} %`);
export function milliseconds(ms) {
  if (ms >= 10_000) return `${(ms / 1000).toFixed(0)} s`;
  if (ms >= 1000) return `${(ms / 1000).toFixed(1)} s`;
  return `${ms >= 10 || ms === 0 ? ms.toFixed(0) : ms.toFixed(1)} ms`;
}

const days = new Intl.DateTimeFormat(undefined, { dateStyle: "medium" });
const minutes = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "short" });

// A clock may count anything that grows. What looks like Unix seconds or milliseconds is a date.
function date(time) {
  if (time > 1e8 && time < 1e10) return new Date(1000 * time);
  if (time > 1e11 && time < 1e13) return new Date(time);
  return null;
}

export function moment(time, exact = false) {
  const found = date(time);
  if (!found) return el("span", {}, String(time));
  return el("time", { datetime: found.toISOString(), title: minutes.format(found) }, (exact ? minutes : days).format(found));
}
