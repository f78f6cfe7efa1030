// Asks the service. A refused key is asked for once; other errors carry the service's own words.

import { byId } from "./dom.js";

export class Refused extends Error {
  constructor(status, message, after = 0) {
    super(message);
    this.status = status;
    this.after = after;
  }
}

export const KEPT = "trsr-key";
let entering = null;

export async function ask(path, { body, signal, text = false } = {}) {
  for (;;) {
    const key = sessionStorage.getItem(KEPT);
    const headers = key ? { authorization: `Bearer ${key}` } : {};
    if (body) headers["content-type"] = "application/json";
    let answer;
    try {
      answer = await fetch(path, { method: body ? "POST" : "GET", body: body && JSON.stringify(body), headers, signal });
    } catch (error) {
      if (error.name === "AbortError") throw error;
      throw new Refused(0, "The service cannot be reached.");
    }
    if (answer.ok) return text ? answer.text() : answer.json();
    const problem = (await answer.json().catch(() => ({}))).error ?? {};
    if (answer.status === 401) {
      await (entering ??= askKey(key ? "The service does not take this key." : "").finally(() => { entering = null; }));
      continue;
    }
    throw new Refused(answer.status, problem.message ?? `The service answered ${answer.status}.`, Number(answer.headers.get("retry-after")) || 0);
  }
}

function askKey(wrong) {
  const dialog = byId("key-dialog");
  const field = byId("key");
  byId("key-wrong").textContent = wrong;
  byId("key-wrong").hidden = !wrong;
  field.value = "";
  return new Promise((resolve) => {
    byId("key-form").onsubmit = () => { sessionStorage.setItem(KEPT, field.value.trim()); resolve(); };
    dialog.oncancel = (event) => event.preventDefault();
    dialog.showModal();
    field.focus();
  });
}
