// A user: the history in its blocks, the summaries beside what they cover, and the ranking.

import { ask } from "./api.js";
import { marked } from "./diff.js";
import { byId, count, counted, el, hidden, itemAt, milliseconds, moment, own, say } from "./dom.js";
import { Ranking, forget, trial } from "./ranking.js";

const LOOK_MS = 10_000;

export async function userPage(user, signal) {
  const view = await ask(`v1/users/${encodeURIComponent(user)}`, { signal });
  const page = new UserPage(view);
  page.ranking.ask();
  const timer = setInterval(() => page.look(signal), LOOK_MS);
  signal.addEventListener("abort", () => { clearInterval(timer); page.ranking.stop(); });
  return { title: user, node: page.node };
}

class UserPage {
  constructor(view) {
    this.view = view;
    this.ranking = new Ranking(view.user, (answer) => this.mark(answer));
    this.boxes = [];
    this.node = el("div", {}, this.header(), el("div", { class: "user" }, this.history(), this.ranking.node));
    this.node.addEventListener("keydown", (event) => this.key(event));
  }

  header() {
    const { user, events, revisions, behind } = this.view;
    const last = events.at(-1), latest = revisions.at(-1);
    const facts = [counted(events.length, "interaction")];
    if (last) {
      const [from, to] = [moment(events[0].time), moment(last.time)];
      facts.push([to.dateTime ? "" : "time ", ...(from.textContent === to.textContent ? [to] : [from, " to ", to])]);
    }
    facts.push(latest ? `${count(latest.covers)} summarized` : "no summary stored");
    if (latest && behind) facts.push(`${count(behind)} newer`);
    this.fresh = el("p", { class: "fresh", hidden: true });
    return el("header", { class: "title" }, el("p", { class: "kind" }, "User"), el("h1", { tabindex: "-1" }, own(user)),
      el("p", { class: "lead" }, facts.map((fact, at) => [at ? " · " : "", fact])), this.fresh);
  }

  // Blocks and summaries end somewhere; between two ends stands a row of the timeline.
  rows() {
    const { events, blocks, revisions } = this.view;
    const ends = new Set([events.length, ...blocks.flatMap((block) => [block.start, block.end]), ...revisions.map((one) => one.covers)]);
    const cuts = [...ends].filter((end) => end > 0 && end <= events.length).sort((a, b) => a - b);
    return cuts.map((end, at) => ({ start: at ? cuts[at - 1] : 0, end }));
  }

  history() {
    const { revisions, blocks } = this.view;
    const noted = revisions.length > 0 || blocks.some((block) => block.text);
    const rows = this.rows();
    const changes = el("input", { type: "checkbox", id: "changes", checked: true, onchange: () => this.node.classList.toggle("plain", !changes.checked) });
    return el("section", { class: `history${noted ? " noted" : ""}`, "aria-labelledby": "history-title" },
      el("div", { class: "head" }, el("h2", { id: "history-title" }, "History"),
        revisions.length > 1 && el("label", { class: "choice", for: "changes" }, changes, " Show what changed")),
      el("p", { class: "small soft", id: "how" }, "Untick an item to take it out, and the ranking follows. ",
        el("span", { class: "keys" }, el("kbd", {}, "↑"), " ", el("kbd", {}, "↓"), " move, ", el("kbd", {}, "Space"), " ticks, ", el("kbd", {}, "Enter"), " opens the item.")),
      rows.length ? rows.map((row) => this.row(row)) : el("p", { class: "soft" }, "No interactions yet."));
  }

  row({ start, end }) {
    const { events, blocks, revisions } = this.view;
    const number = blocks.findIndex((block) => block.start <= start && end <= block.end);
    const block = blocks[number];
    const here = revisions.filter((one) => one.covers === end);
    const covered = (revisions.at(-1)?.covers ?? 0) >= end;
    const name = block ? `Block ${number + 1}` : covered || !blocks.length ? "Interactions" : "No block yet";
    const label = end - start === 1 ? `${end}` : `${start + 1} to ${end}`;
    const list = el("ol", { start: start + 1 }, events.slice(start, end).map((event, at) => this.event(event, start + at)));
    return el("div", { class: "block" },
      el("div", { class: "events" }, el("h3", {}, name, " ", el("span", { class: "soft" }, label)), list),
      el("div", { class: "notes" },
        block?.text && block.end === end && !here.some((one) => one.text === block.text)
          && el("div", { class: "note part" }, el("h4", {}, "Summary of the block"), el("p", { dir: "auto" }, block.text)),
        here.map((one) => this.revision(one)),
        end > (revisions.at(-1)?.covers ?? events.length) && el("p", { class: "small soft" }, "Not summarized yet.")));
  }

  event(event, place) {
    const { state } = this.ranking;
    const name = `event-${place}`;
    const box = el("input", { type: "checkbox", id: name, tabindex: place ? "-1" : "0", "aria-describedby": "how", onchange: () => this.take(event.item, !box.checked) });
    box.checked = !state.out.has(event.item);
    const before = this.view.events[place - 1];
    const shown = moment(event.time);
    const same = before && moment(before.time).textContent === shown.textContent;
    const node = el("li", { class: box.checked ? null : "out" }, box,
      el("label", { for: name, title: event.title }, hidden(`${place + 1}. `), own(event.title)),
      el("span", { class: "tag", hidden: true }, "recent"),
      event.weight !== null && event.weight !== undefined && el("span", { class: "weight", title: "weight" }, `×${event.weight}`),
      el("span", { class: `when${same ? " same" : ""}` }, shown),
      el("a", { class: "open", href: itemAt(event.item), tabindex: "-1" }, el("span", { "aria-hidden": "true" }, "→"), hidden("Open "), el("span", { class: "hidden" }, own(event.title))));
    this.boxes.push({ box, node, item: event.item, place });
    return node;
  }

  revision(one) {
    const { revisions } = this.view;
    const at = revisions.indexOf(one), before = revisions[at - 1];
    const facts = [`covers 1 to ${count(one.covers)}`];
    if (one.tokens) facts.push(counted(one.tokens, "prompt token"));
    if (one.seconds) facts.push(milliseconds(1000 * one.seconds));
    const head = el("h4", {}, `Revision ${one.number}`, at === revisions.length - 1 && el("span", { class: "tag" }, "latest"));
    const body = [el("p", { class: "text", dir: "auto" }, one.text)];
    if (before) {
      const found = marked(before.text, one.text);
      body.push(el("p", { class: "difference", dir: "auto" }, found.nodes));
      facts.push(found.added || found.removed ? `${counted(found.added, "word")} added, ${count(found.removed)} removed` : "no word changed");
    }
    return el("div", { class: `note${before ? " changed" : ""}` }, head, body, el("p", { class: "small soft" }, facts.join(" · ")));
  }

  take(item, out) {
    for (const one of this.boxes.filter((box) => box.item === item)) {
      one.box.checked = !out;
      one.node.classList.toggle("out", out);
    }
    this.ranking.take(item, out);
  }

  // Which interactions the summary covers, and which are shown as recent ones.
  mark(answer) {
    if (!answer) return;
    const { out } = trial(this.view.user);
    const recent = new Set(answer.recent.map((one) => one.item));
    const kept = this.boxes.filter((one) => !out.has(one.item));
    const covers = answer.summary?.covers ?? 0;
    for (const one of this.boxes) {
      const place = kept.indexOf(one);
      one.box.checked = place >= 0;
      one.node.classList.toggle("out", place < 0);
      one.node.classList.toggle("covered", place >= 0 && place < covers);
      const fresh = place >= kept.length - answer.recent.length && recent.has(one.item);
      one.node.classList.toggle("recent", fresh);
      one.node.querySelector(".tag").hidden = !fresh;
    }
  }

  // One stop of the Tab key for the whole timeline; arrows move within.
  key(event) {
    const at = this.boxes.findIndex((one) => one.box === event.target);
    if (at < 0) return;
    const step = { ArrowDown: 1, ArrowUp: -1, PageDown: 10, PageUp: -10, Home: -this.boxes.length, End: this.boxes.length }[event.key];
    if (event.key === "Enter") location.hash = itemAt(this.boxes[at].item);
    else if (step) {
      event.preventDefault();
      const next = this.boxes[Math.min(this.boxes.length - 1, Math.max(0, at + step))].box;
      event.target.tabIndex = -1;
      next.tabIndex = 0;
      next.focus();
    }
  }

  async look(signal) {
    if (document.hidden || !this.fresh.hidden) return;
    try {
      const now = await ask(`v1/users/${encodeURIComponent(this.view.user)}`, { signal });
      const events = now.events.length - this.view.events.length;
      const newest = now.revisions.at(-1)?.created !== this.view.revisions.at(-1)?.created || now.revisions.length !== this.view.revisions.length;
      if (!events && !newest) return;
      const what = [events > 0 && counted(events, "new interaction"), newest && "a new summary"].filter(Boolean).join(" and ") || "the history has changed";
      const user = this.view.user;
      this.fresh.replaceChildren(`There is news: ${what}. `, el("button", { type: "button", onclick: () => { forget(user); dispatchEvent(new HashChangeEvent("hashchange")); } }, "Show it"));
      this.fresh.hidden = false;
      say(`There is news: ${what}.`);
    } catch { /* the state in the header says that the service is gone */ }
  }
}

export const focusTitle = () => byId("main").querySelector("h1")?.focus({ preventScroll: true });
