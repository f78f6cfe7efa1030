// How the service does: its own numbers for Prometheus, read now and then.

import { KEPT, ask } from "./api.js";
import { byId, count, decimal, el, milliseconds } from "./dom.js";

const EVERY_MS = 5000;
const KEEP = 25; // readings: two minutes
const readings = [];
const listeners = new Set();

// [name, labels, value] of each line of the exposition format.
export function parsed(text) {
  const helps = new Map(), lines = [];
  for (const line of text.split("\n")) {
    const help = line.match(/^# HELP (\S+) (.*)$/);
    if (help) helps.set(help[1], help[2]);
    const found = line.match(/^([A-Za-z_:][\w:]*)(?:\{(.*)\})? (\S+)$/);
    if (!found) continue;
    const labels = {};
    for (const [, key, value] of (found[2] ?? "").matchAll(/(\w+)="((?:[^"\\]|\\.)*)"/g)) labels[key] = value;
    lines.push([found[1], labels, Number(found[3].replace("Inf", "Infinity"))]);
  }
  return { helps, lines };
}

export async function watch() {
  for (;;) {
    if (!document.hidden) await look();
    await new Promise((resolve) => { setTimeout(resolve, EVERY_MS); });
  }
}

async function look() {
  const state = byId("state"), text = byId("state-text");
  try {
    const ready = await fetch("readyz").then((answer) => answer.json());
    const found = await numbers();
    if (found) readings.push({ at: Date.now(), ...parsed(found) });
    if (readings.length > KEEP) readings.shift();
    const running = value("trsr_requests_running");
    state.className = `state ${ready.ready ? "good" : "bad"}`;
    text.textContent = ready.ready ? `Ready${running ? `, ${running} running` : ""}` : ready.database ? "Model not ready" : "Database gone";
  } catch {
    state.className = "state bad";
    text.textContent = "Not reachable";
  }
  for (const listener of listeners) listener();
}

let locked = false; // in the background no key is asked for, and none is tried again and again
async function numbers() {
  const key = sessionStorage.getItem(KEPT);
  if (locked && !key) return "";
  const answer = await fetch("metrics", { headers: key ? { authorization: `Bearer ${key}` } : {} });
  locked = answer.status === 401;
  return answer.ok ? answer.text() : "";
}

const value = (name) => readings.at(-1)?.lines.find((line) => line[0] === name)?.[2] ?? 0;

// What asks for an answer: not this page's files and looks, nor what else watches the service.
const WATCHING = new Set(["/", "/page/{name}", "/metrics", "/readyz", "/healthz"]);

// requests by route and status in a reading
function totals(reading) {
  const routes = new Map();
  for (const [name, labels, number] of reading.lines) {
    if (name !== "trsr_requests_total" || WATCHING.has(labels.route)) continue;
    const key = `${labels.method} ${labels.route}`;
    const route = routes.get(key) ?? { key, of: labels, all: 0, wrong: 0, failed: 0 };
    route.all += number;
    if (labels.status >= "400") route.wrong += number;
    if (labels.status >= "500") route.failed += number;
    routes.set(key, route);
  }
  return routes;
}

// A quantile from a histogram's buckets, linear within a bucket.
function quantile(reading, of, share) {
  const buckets = reading.lines.filter(([name, labels]) => name === "trsr_request_seconds_bucket" && labels.route === of.route && labels.method === of.method)
    .map(([, labels, number]) => [Number(labels.le.replace("+Inf", "Infinity")), number]);
  const wanted = share * (buckets.at(-1)?.[1] ?? 0);
  let low = 0, below = 0;
  for (const [high, number] of buckets) {
    if (number >= wanted && number > below) return high === Infinity ? `> ${milliseconds(1000 * low)}` : milliseconds(1000 * (low + (high - low) * (wanted - below) / (number - below)));
    [low, below] = [high, number];
  }
  return "";
}

export async function loadPage(signal) {
  await ask("metrics", { signal, text: true }); // asks for a key where one is needed
  await look();
  const place = el("div", {});
  const draw = () => place.replaceChildren(...drawn());
  listeners.add(draw);
  signal.addEventListener("abort", () => listeners.delete(draw));
  draw();
  return {
    title: "Load",
    node: el("div", {}, el("header", { class: "title" }, el("p", { class: "kind" }, "Service"), el("h1", { tabindex: "-1" }, "Load"),
      el("p", { class: "lead" }, "Since the service began, read every five seconds, without what only watches the service. ", el("a", { href: "metrics" }, "All numbers"), " are for Prometheus.")), place),
  };
}

function drawn() {
  const now = readings.at(-1), first = readings[0];
  if (!now) return [el("p", { class: "soft" }, "No numbers yet.")];
  const seconds = Math.max(1, (now.at - first.at) / 1000);
  const routes = totals(now), before = totals(first);
  const sum = (map, what) => [...map.values()].reduce((all, one) => all + one[what], 0);
  const gauges = now.lines.filter(([name, labels]) => name.startsWith("trsr_") && !Object.keys(labels).length && !/_(created|total|running)$/.test(name));
  const card = (name, figure, note) => el("li", { class: "card" }, el("div", { class: "name" }, name), el("div", { class: "figure" }, figure), note && el("p", {}, note));
  const rows = [...routes.values()].sort((a, b) => b.all - a.all).map((one) => el("tr", {}, el("th", { scope: "row" }, el("code", {}, one.key)), el("td", {}, count(one.all)),
    el("td", {}, decimal(((one.all - (before.get(one.key)?.all ?? 0)) / seconds))), el("td", {}, quantile(now, one.of, 0.5)), el("td", {}, quantile(now, one.of, 0.95)), el("td", {}, count(one.wrong))));
  return [
    el("ul", { class: "cards", "aria-label": "Main figures" },
      card("Requests", count(sum(routes, "all")), `${decimal((sum(routes, "all") - sum(before, "all")) / seconds)} a second now`),
      card("Running", count(value("trsr_requests_running")), "recommendations that run or wait"),
      card("New events", count(value("trsr_events_total")), "kept since the service began"),
      card("Failed", count(sum(routes, "failed")), "answers with a status of 500 or above")),
    el("h2", { id: "routes" }, "Routes"),
    el("div", { class: "scroll", tabindex: "0", role: "region", "aria-labelledby": "routes" }, el("table", {},
      el("thead", {}, el("tr", {}, ["Route", "Requests", "a second", "median", "95th percentile", "refused or failed"].map((name) => el("th", { scope: "col" }, name)))),
      el("tbody", {}, rows))),
    gauges.length > 0 && el("h2", { id: "gauges" }, "Inside"),
    gauges.length > 0 && el("dl", { class: "gauges" }, gauges.map(([name, , number]) => el("div", {}, el("dt", {}, name.replace(/^trsr_/, "").replaceAll("_", " ")), el("dd", {}, Number.isInteger(number) ? count(number) : decimal(number))))),
  ].filter(Boolean);
}
