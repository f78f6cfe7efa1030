// What changed between two texts, word by word.

import { el, hidden } from "./dom.js";

const LETTER = /[\p{L}\p{N}]/u;
const CELLS = 4_000_000; // of the table: two texts of 2,000 words

function words(text) {
  const found = [];
  for (const { segment } of new Intl.Segmenter(undefined, { granularity: "word" }).segment(text)) {
    if (found.length && !segment.trim()) found[found.length - 1] += segment;
    else found.push(segment);
  }
  return found;
}

// [kind, text] runs, kind one of "same", "gone", "new".
export function changes(before, after) {
  const old = words(before), now = words(after);
  const a = old.map((word) => word.trim()), b = now.map((word) => word.trim());
  let start = 0, end = 0;
  while (start < a.length && start < b.length && a[start] === b[start]) start++;
  while (end < a.length - start && end < b.length - start && a.at(-1 - end) === b.at(-1 - end)) end++;
  const steps = now.slice(0, start).map((word) => ["same", word]);
  steps.push(...middle(old.slice(start, old.length - end), now.slice(start, now.length - end)));
  steps.push(...now.slice(now.length - end).map((word) => ["same", word]));
  return readable(joined(steps));
}

function middle(old, now) {
  const n = old.length, m = now.length;
  if (n * m > CELLS) return [...old.map((word) => ["gone", word]), ...now.map((word) => ["new", word])];
  const a = old.map((word) => word.trim()), b = now.map((word) => word.trim());
  const width = m + 1;
  const common = new Uint16Array((n + 1) * width); // longest common subsequence of what is left
  for (let i = n - 1; i >= 0; i--) {
    for (let j = m - 1; j >= 0; j--) {
      common[i * width + j] = a[i] === b[j]
        ? common[(i + 1) * width + j + 1] + 1
        : Math.max(common[(i + 1) * width + j], common[i * width + j + 1]);
    }
  }
  const steps = [];
  let i = 0, j = 0;
  while (i < n || j < m) {
    if (i < n && j < m && a[i] === b[j]) { steps.push(["same", now[j]]); i++; j++; }
    else if (j === m || (i < n && common[(i + 1) * width + j] >= common[i * width + j + 1])) steps.push(["gone", old[i++]]);
    else steps.push(["new", now[j++]]);
  }
  return steps;
}

function joined(steps) {
  const runs = [];
  let gone = "", fresh = "";
  const flush = () => {
    if (gone) runs.push(["gone", gone]);
    if (fresh) runs.push(["new", fresh]);
    gone = fresh = "";
  };
  for (const [kind, text] of steps) {
    if (kind === "gone") gone += text;
    else if (kind === "new") fresh += text;
    else {
      flush();
      if (runs.at(-1)?.[0] === "same") runs.at(-1)[1] += text;
      else runs.push(["same", text]);
    }
  }
  flush();
  return runs;
}

// A comma or a lone small word between two changed passages makes confetti: it joins them.
function readable(runs) {
  const steps = [];
  for (const [at, [kind, text]] of runs.entries()) {
    const between = kind === "same" && at > 0 && at < runs.length - 1;
    if (between && (text.trim().length < 4 || !LETTER.test(text))) steps.push(["gone", text], ["new", text]);
    else steps.push([kind, text]);
  }
  return joined(steps);
}

const size = (runs, kind) => runs.filter((run) => run[0] === kind)
  .reduce((sum, run) => sum + words(run[1]).filter((word) => LETTER.test(word)).length, 0);

// The later text with what went and what came marked, and a line that counts both.
export function marked(before, after) {
  const runs = changes(before, after);
  const nodes = runs.flatMap(([kind, text]) => {
    if (kind === "same") return text;
    const words = text.trimEnd(); // a mark under a space is noise
    const node = kind === "gone" ? el("del", {}, hidden(" removed: "), words, hidden(" (end)")) : el("ins", {}, hidden(" added: "), words, hidden(" (end)"));
    return [node, text.slice(words.length) || (kind === "gone" ? " " : "")];
  });
  return { nodes, added: size(runs, "new"), removed: size(runs, "gone") };
}
