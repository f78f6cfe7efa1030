// What the ranker reads, its ranking, and how the ranking moves when what it reads is changed.

import { ask } from "./api.js";
import { marked } from "./diff.js";
import { byId, counted, decimal, el, hidden, itemAt, milliseconds, own, percent, say } from "./dom.js";

const TYPING_MS = 350;
// As many as a request without a number gets, which the service writes into the page.
const USUAL = Number(document.documentElement.dataset.candidates);
const COUNTS = [...new Set([10, 20, 50, 100, USUAL])].sort((a, b) => a - b);
const still = matchMedia("(prefers-reduced-motion: reduce)");

// What was tried with a user stays until the tab is closed or the history has changed.
const tried = new Map();
export const trial = (user) => {
  if (!tried.has(user)) tried.set(user, { out: new Set(), text: null, n: USUAL, base: null, last: null });
  return tried.get(user);
};
export const forget = (user) => tried.delete(user);

export class Ranking {
  // `changed` is called with the answer whenever one has come.
  constructor(user, changed) {
    this.user = user;
    this.changed = changed;
    this.state = trial(user);
    this.rows = new Map();
    this.asking = null;
    this.later = 0;
    this.node = this.draw();
  }

  get explained() {
    return this.prompt.open || this.made.open;
  }

  get altered() {
    return this.state.out.size > 0 || this.state.text !== null;
  }

  draw() {
    this.text = el("textarea", { id: "summary", rows: 3, maxlength: 20000, spellcheck: "true", dir: "auto",
      "aria-describedby": "summary-note", oninput: () => this.edit() });
    this.note = el("p", { class: "small soft", id: "summary-note" });
    this.difference = el("p", { class: "difference", dir: "auto", hidden: true });
    this.unread = el("p", { class: "small soft", hidden: true }, "No summary was read: this user has none yet, or the ranker reads none.");
    this.reads = el("div", { class: "reads", hidden: true },
      el("label", { for: "summary" }, "The summary that the ranker reads"), this.text, this.note, this.difference);
    this.shown = el("p", { class: "small shown" });
    this.trying = el("div", { class: "trying", hidden: true },
      this.what = el("span", {}),
      el("button", { type: "button", onclick: () => this.reset() }, "Put everything back"));
    this.list = el("ol", { class: "ranking" });
    this.notice = el("p", { class: "wrong", role: "alert", hidden: true });
    this.facts = el("p", { class: "small soft" });
    this.parts = el("div", { class: "parts", "aria-hidden": "true" });
    this.timing = el("p", { class: "small soft" });
    this.choice = el("select", { id: "n", onchange: () => this.choose() },
      COUNTS.map((n) => el("option", { value: n, selected: n === this.state.n }, String(n))));
    this.prompt = el("details", { class: "prompt", hidden: true, ontoggle: () => this.prompt.open && this.ask() },
      el("summary", {}, "The prompt of the first candidate"), this.turns = el("div", {}));
    this.made = el("details", { class: "made", ontoggle: () => this.made.open && this.ask() },
      el("summary", {}, "What the scores are made of"), this.sums = el("div", {}));
    return el("section", { class: "what-if", "aria-labelledby": "ranking-title" },
      el("div", { class: "panel", "aria-busy": "false" },
        el("div", { class: "head" }, el("h2", { id: "ranking-title", tabindex: "-1" }, "Ranking"),
          el("div", { class: "choice" }, el("label", { for: "n" }, "Candidates"), this.choice)),
        el("div", { class: "progress", "aria-hidden": "true" }),
        this.reads, this.unread, this.shown, this.trying, this.notice, this.list, this.facts, this.parts, this.timing, this.made, this.prompt));
  }

  edit() {
    const stored = this.state.base?.summary?.text ?? "";
    const same = this.text.value === stored && !this.state.out.size;
    this.state.text = same ? null : this.text.value;
    this.drawReads(same ? this.state.base : this.state.last);
    this.ask(TYPING_MS);
  }

  take(item, out) {
    if (out) this.state.out.add(item);
    else this.state.out.delete(item);
    this.ask(60);
  }

  reset() {
    this.state.out.clear();
    this.state.text = null;
    this.changed(this.state.base);
    this.ask();
    byId("ranking-title").focus();
    say("Everything is back.");
  }

  choose() {
    this.state.n = Number(this.choice.value);
    this.state.base = null;
    this.ask();
  }

  stop() {
    clearTimeout(this.later);
    this.asking?.abort();
  }

  ask(wait = 0) {
    this.stop();
    this.later = setTimeout(() => this.now(), wait);
  }

  async now() {
    const { state } = this;
    if (!this.altered && state.base && !this.explained) {
      this.busy(false);
      this.show(state.base);
      return;
    }
    const mine = this.asking = new AbortController();
    this.busy(true);
    try {
      // The same candidates before and after, so that places compare.
      if (!state.base) state.base = await this.fetched({ user: this.user, n: state.n, k: state.n }, mine, !this.altered);
      let answer = state.base;
      if (this.altered || this.explained) {
        answer = await this.fetched({
          user: this.user, k: state.n, candidates: state.base.items.map((item) => item.item),
          exclude: [...state.out], ...(state.text === null ? {} : { summary: state.text }),
        }, mine, true);
      }
      if (mine.signal.aborted) return;
      this.busy(false);
      this.show(answer);
    } catch (error) {
      if (error.name === "AbortError" || mine.signal.aborted) return;
      this.busy(false);
      if (error.after && error.after < 30) {
        this.fail(`${error.message} Trying again in ${error.after} s.`);
        this.later = setTimeout(() => this.now(), 1000 * error.after);
      } else this.fail(error.message);
    }
  }

  fetched(body, mine, last) {
    const route = last && this.explained ? "v1/explain" : "v1/recommend";
    return ask(route, { body, signal: mine.signal });
  }

  busy(on) {
    this.node.firstChild.setAttribute("aria-busy", String(on));
  }

  fail(message) {
    this.notice.textContent = message;
    this.notice.hidden = !message;
  }

  show(answer) {
    const { state } = this;
    state.last = answer;
    this.fail("");
    this.drawReads(answer);
    this.shown.replaceChildren(...(answer.recent.length ? ["Shown as recent: ",
      answer.recent.flatMap((one, at) => [at ? " · " : "", el("a", { href: itemAt(one.item), title: one.title }, own(one.title))])].flat(2) : []));
    const said = this.drawList(answer);
    this.drawFacts(answer);
    this.prompt.hidden = !answer.prompted;
    if (answer.prompt) this.turns.replaceChildren(...answer.prompt.map((turn) => el("div", { class: "turn" },
      el("h3", {}, turn.role), el("pre", { tabindex: "0", role: "region", "aria-label": `Prompt, ${turn.role}`, dir: "auto" }, turn.content))));
    if (answer.weights) this.drawMade(answer);
    this.changed(answer);
    say(said);
  }

  // Of a blend a column a member; of a ranker that adds up words, which ones.
  drawMade(answer) {
    const members = Object.keys(answer.weights);
    const worded = answer.items.some((item) => item.scores.some((one) => one.words.length));
    if (!members.length && !worded) {
      this.sums.replaceChildren(el("p", { class: "small soft" }, "The ranker says nothing about the parts of its scores."));
      return;
    }
    const sign = (number) => decimal(number, 2).replace(/^(?=\d*[1-9]|0\.0?[1-9])/, "+");
    const words = (item) => item.scores.flatMap((one) => one.words).map((one) => `${one.word} ${sign(one.added)}`).join(", ");
    const head = ["candidate", ...members, "score", ...(worded ? ["words"] : [])];
    this.sums.replaceChildren(
      members.length ? el("p", { class: "small soft" }, "A score is the sum of what the members add to it.") : "",
      el("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "What the scores are made of" }, el("table", {},
        el("thead", {}, el("tr", {}, head.map((name) => el("th", { scope: "col", ...(name === "words" && { class: "words" }) }, name)))),
        el("tbody", {}, answer.items.map((item) => el("tr", {},
          el("th", { scope: "row" }, own(item.title)),
          members.map((name) => el("td", {}, sign(item.scores.find((one) => one.ranker === name).added))),
          el("td", {}, decimal(item.score, 2)),
          worded ? el("td", { class: "words" }, own(words(item))) : ""))))));
  }

  drawReads(answer) {
    const { state } = this;
    const stored = state.base?.summary ?? null;
    const used = answer?.summary ?? null;
    this.reads.hidden = !(stored || used);
    this.unread.hidden = !answer || !this.reads.hidden;
    if (this.reads.hidden) return;
    const edited = state.text !== null;
    const shown = edited ? state.text : used?.text ?? "";
    if (this.text.value !== shown) this.text.value = shown;
    const name = used?.revision ? `Revision ${used.revision}` : "Written for this question, not stored";
    this.note.textContent = edited ? "Edited here. The service does not store it."
      : used ? `${name}; covers ${counted(used.covers, "interaction")}. Edit it, and the ranking follows.` : "There is none. Write one, and the ranking follows.";
    const differs = stored && shown !== stored.text;
    this.difference.hidden = !differs;
    if (differs) this.difference.replaceChildren(...marked(stored.text, shown).nodes);
  }

  drawList(answer) {
    const base = this.state.base;
    const before = new Map(base.items.map((item) => [item.item, item]));
    const likely = answer.items.every((item) => item.p_yes !== null);
    const value = (item) => (likely ? item.p_yes : item.score);
    const values = [...answer.items, ...base.items].map(value);
    const low = likely ? 0 : Math.min(...values), high = Math.max(...values);
    const share = (score) => (high > low ? 0.02 + 0.98 * (score - low) / (high - low) : 1);
    const places = new Map([...this.rows].map(([id, row]) => [id, row.node.getBoundingClientRect().top]));
    const focused = document.activeElement;
    let moved = 0;
    const nodes = answer.items.map((item) => {
      const was = before.get(item.item);
      const up = this.altered && was ? was.rank - item.rank : 0;
      moved += up !== 0;
      const row = this.row(item);
      row.rank.textContent = item.rank;
      row.score.title = `score ${decimal(item.score, 4)}`;
      row.score.textContent = likely ? percent(item.p_yes) : decimal(item.score);
      row.bar.style.setProperty("--share", share(value(item)).toFixed(4));
      row.bar.style.setProperty("--was", share(value(was ?? item)).toFixed(4));
      row.move.className = `move ${up > 0 ? "up" : up < 0 ? "down" : ""}`;
      row.move.replaceChildren(...(up ? [el("span", { "aria-hidden": "true" }, `${up > 0 ? "▲" : "▼"} ${Math.abs(up)}`), hidden(`${up > 0 ? "up" : "down"} ${Math.abs(up)}`)] : []));
      return row.node;
    });
    this.list.toggleAttribute("data-tried", this.altered);
    this.list.replaceChildren(...nodes);
    for (const id of this.rows.keys()) if (!answer.items.some((item) => item.item === id)) this.rows.delete(id);
    if (focused && focused !== document.activeElement && this.list.contains(focused)) focused.focus({ preventScroll: true });
    this.glide(places);
    this.drawTrying(moved, answer);
    this.scale = likely ? `A percentage is the calibrated probability that this candidate alone is taken, so they do not add up to 100 %. Bars run from 0 to ${percent(high)}, the highest.` : `Bars run from ${decimal(low)} to ${decimal(high)}, the lowest and highest score.`;
    const first = answer.items[0]?.title ?? "nothing";
    return this.altered ? `${moved} of ${answer.items.length} candidates moved. First: ${first.slice(0, 100)}` : `${answer.items.length} candidates ranked. First: ${first.slice(0, 100)}`;
  }

  row(item) {
    let row = this.rows.get(item.item);
    if (!row) {
      row = { rank: el("span", { class: "rank" }), score: el("span", { class: "score" }), move: el("span", { class: "move" }), bar: el("span", { class: "bar", "aria-hidden": "true" }) };
      row.node = el("li", {}, row.rank, el("span", { class: "name" }, row.bar, el("a", { href: itemAt(item.item), title: item.title }, own(item.title))), row.move, row.score);
      this.rows.set(item.item, row);
    }
    return row;
  }

  glide(places) {
    if (still.matches) return;
    for (const [id, row] of this.rows) {
      const by = (places.get(id) ?? 0) - row.node.getBoundingClientRect().top;
      if (places.has(id) && by) row.node.animate([{ transform: `translateY(${by}px)` }, { transform: "none" }], { duration: 260, easing: "cubic-bezier(.2,.7,.2,1)" });
    }
  }

  drawTrying(moved, answer) {
    const { out, text } = this.state;
    this.trying.hidden = !this.altered;
    const parts = [out.size > 0 && `${counted(out.size, "item")} out`, text !== null && "summary edited"].filter(Boolean);
    this.what.textContent = `${parts.join(", ").replace(/^s/, "S")}: ${moved} of ${answer.items.length} moved`;
  }

  drawFacts(answer) {
    this.facts.replaceChildren("Ranker ", el("b", {}, own(answer.ranker)), `. ${this.scale}`, this.altered ? " The mark on a bar is its score before." : "");
    const { total, ...parts } = answer.timings;
    const rest = total - Object.values(parts).reduce((sum, ms) => sum + ms, 0);
    const spans = [...Object.entries(parts), ["rest", rest]].filter(([, ms]) => ms >= 0.05);
    // Without a summary or a prompt these parts are what is left of them.
    const names = { ...(this.reads.hidden && { summary: "history" }), ...(!answer.prompted && { prompt: "scoring" }) };
    this.parts.replaceChildren(...spans.map(([name, ms]) => el("span", { class: name, vars: { "flex-grow": ms } })));
    this.timing.textContent = `${milliseconds(total)}: ${spans.map(([name, ms]) => `${names[name] ?? name} ${milliseconds(ms)}`).join(" · ")}`;
  }
}

// Where a user's last ranking, or its history, has an item.
export function placeOf(user, item) {
  const last = tried.get(user)?.last;
  const found = last?.items.find((one) => one.item === item);
  return found ? { rank: found.rank, of: last.items.length, score: found.score, ranker: last.ranker } : null;
}
