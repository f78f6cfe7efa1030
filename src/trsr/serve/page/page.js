// Addresses, search, and what the page shows. An address is a hash: the service gives one page.

import { ask } from "./api.js";
import { byId, count, counted, el, moment, own, decimal, say, userAt } from "./dom.js";
import { loadPage, watch } from "./load.js";
import { placeOf } from "./ranking.js";
import { focusTitle, userPage } from "./user.js";

let leaving = new AbortController();
let lastUser = null;

async function show({ focus = true } = {}) {
  leaving.abort();
  leaving = new AbortController();
  const { signal } = leaving;
  const [, kind, id] = location.hash.match(/^#\/(users|items|load)(?:\/(.*))?$/) ?? [];
  const main = byId("main");
  main.setAttribute("aria-busy", "true");
  try {
    const name = id === undefined ? "" : decodeURIComponent(id);
    const made = kind === "users" && name ? await userPage(name, signal)
      : kind === "items" && name ? await itemPage(name, signal)
        : kind === "load" ? await loadPage(signal) : await startPage(signal);
    if (signal.aborted) return;
    lastUser = kind === "users" ? name : lastUser;
    document.title = made.title ? `${made.title} · trsr` : "trsr";
    main.replaceChildren(made.node);
  } catch (error) {
    if (error.name === "AbortError" || signal.aborted) return;
    document.title = "trsr";
    main.replaceChildren(el("header", { class: "title" }, el("h1", { tabindex: "-1" }, error.status === 404 ? "Not found" : "This did not work"),
      el("p", { class: "lead", role: "alert" }, error.message)),
    el("p", {}, el("button", { type: "button", onclick: () => show() }, "Try again"), " ", el("a", { href: "#/" }, "All users")));
  } finally {
    if (!signal.aborted) main.removeAttribute("aria-busy");
  }
  if (focus) { scrollTo(0, 0); focusTitle(); }
}

async function startPage(signal) {
  const { users, total } = await ask("v1/users?limit=100", { signal });
  const rows = users.map((row) => el("tr", {}, el("th", { scope: "row" }, el("a", { href: userAt(row.user) }, own(row.user))),
    el("td", {}, count(row.n_events)), el("td", {}, moment(row.last_time))));
  const head = () => el("thead", {}, el("tr", {}, ["User", "Interactions", "Last one"].map((name) => el("th", { scope: "col" }, name))));
  // Many rows stand in two tables, side by side where there is room.
  const half = rows.length > 20 ? Math.ceil(rows.length / 2) : rows.length;
  return {
    title: "",
    node: el("div", {}, el("header", { class: "title" }, el("h1", { tabindex: "-1" }, "Users"),
      el("p", { class: "lead" }, `${counted(total, "user")}. Choose one to see the history, the summaries, and what is recommended.`)),
    users.length > 0 && el("p", { class: "small soft" }, total > users.length ? `The first ${count(users.length)} by id. The search finds the others.` : "All of them, by id."),
    el("div", { class: "halves" }, [rows.slice(0, half), rows.slice(half)].filter((some) => some.length)
      .map((some) => el("div", { class: "scroll" }, el("table", {}, head(), el("tbody", {}, some)))))),
  };
}

async function itemPage(item, signal) {
  const { fields, read } = await ask(`v1/items/${encodeURIComponent(item)}`, { signal });
  const entries = Object.entries(fields);
  const shown = entries.filter(([name]) => read.includes(name)), rest = entries.filter(([name]) => !read.includes(name));
  const pairs = (some) => el("dl", { class: "pairs fields" }, some.map(([name, text]) => [el("dt", {}, own(name.replaceAll("_", " "))), el("dd", { dir: "auto" }, text)]));
  const title = entries[0]?.[1] ?? item;
  const place = lastUser === null ? null : placeOf(lastUser, item);
  return {
    title: title.slice(0, 80),
    node: el("div", { class: "narrow" }, el("header", { class: "title" }, el("p", { class: "kind" }, "Item ", own(item)), el("h1", { tabindex: "-1" }, own(title))),
      lastUser !== null && el("p", { class: "back" }, el("a", { href: userAt(lastUser) }, "← User ", own(lastUser)),
        place && ` · place ${place.rank} of ${place.of} in the last ranking, score ${decimal(place.score)}`),
      shown.length > 0 && [el("h2", {}, "In prompts"), pairs(shown)],
      rest.length > 0 && [read.length > 0 && el("h2", {}, "Not in prompts"), pairs(rest)],
      entries.length ? el("p", { class: "small soft" }, read.length ? "A model reads the texts in prompts. " : "", "All are shown as they are kept.")
        : el("p", { class: "soft" }, "This item has no text.")),
  };
}

// Search: an editable combobox with a list, as the ARIA practices describe it.

const field = byId("search"), found = byId("found");
let options = [], answered = "", active = -1, typing = 0, searching = new AbortController();

function close() {
  found.hidden = true;
  field.setAttribute("aria-expanded", "false");
  field.removeAttribute("aria-activedescendant");
  active = -1;
}

function choose(at) {
  active = at;
  [...found.children].forEach((node, place) => node.setAttribute("aria-selected", String(place === at)));
  if (at < 0) field.removeAttribute("aria-activedescendant");
  else {
    field.setAttribute("aria-activedescendant", `found-${at}`);
    found.children[at].scrollIntoView({ block: "nearest" });
  }
}

function open(user) {
  close();
  field.value = "";
  if (location.hash === userAt(user)) show();
  else location.hash = userAt(user);
}

async function search() {
  searching.abort();
  searching = new AbortController();
  const prefix = field.value;
  if (!prefix) { options = []; close(); return; }
  try {
    const { users } = await ask(`v1/users?limit=8&prefix=${encodeURIComponent(prefix)}`, { signal: searching.signal });
    if (field.value !== prefix || document.activeElement !== field) return;
    options = users;
    answered = prefix;
    found.replaceChildren(...(users.length
      ? users.map((row, at) => el("li", { role: "option", id: `found-${at}`, "aria-selected": "false", onmousedown: (event) => { event.preventDefault(); open(row.user); } },
        own(row.user), el("span", { class: "soft" }, counted(row.n_events, "interaction"))))
      : [el("li", { class: "none", role: "option", "aria-selected": "false", "aria-disabled": "true" }, "No user begins so")]));
    found.hidden = false;
    field.setAttribute("aria-expanded", "true");
    choose(users.length ? 0 : -1);
    say(users.length ? counted(users.length, "user") : "No user begins so");
  } catch (error) {
    if (error.name !== "AbortError") close();
  }
}

field.addEventListener("input", () => { clearTimeout(typing); typing = setTimeout(search, 80); });
field.addEventListener("blur", close);
field.addEventListener("keydown", (event) => {
  const last = options.length - 1;
  if (event.key === "ArrowDown" && options.length) { event.preventDefault(); choose(active >= last ? 0 : active + 1); }
  else if (event.key === "ArrowUp" && options.length) { event.preventDefault(); choose(active <= 0 ? last : active - 1); }
  else if (event.key === "Escape") { if (found.hidden) field.value = ""; close(); }
});
byId("search-form").addEventListener("submit", (event) => {
  event.preventDefault();
  if (!field.value) return;
  open(!found.hidden && answered === field.value && options[active] ? options[active].user : field.value);
});
addEventListener("keydown", (event) => {
  if (event.key.toLowerCase() === "k" && (event.ctrlKey || event.metaKey) && !event.altKey && !event.shiftKey) {
    event.preventDefault();
    field.focus();
    field.select();
  }
});
byId("skip").addEventListener("click", (event) => { event.preventDefault(); byId("main").focus(); });

addEventListener("hashchange", () => show());
await show({ focus: false });
watch();
