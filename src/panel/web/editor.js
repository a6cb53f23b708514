// A plain text editor: line numbers, find, and the mark of what is not saved. The text itself is a native textarea, so
// that undo, spelling of the system, screen readers and phones work as they do everywhere.

import { h, icon, text } from "./dom.js";

export class Editor {
  #saved = "";

  constructor({ label, onchange, onsave, readonly = false }) {
    this.onchange = onchange;
    this.numbers = h("div.numbers", { "aria-hidden": "true" });
    this.area = h("textarea.text", { "aria-label": label, spellcheck: false, autocapitalize: "none", autocomplete: "off", readOnly: readonly, oninput: () => this.#changed(), onscroll: () => (this.numbers.scrollTop = this.area.scrollTop) });
    this.area.setAttribute("wrap", "off");
    this.where = h("span.soft.small.num");
    this.needle = h("input", { type: "search", placeholder: "Find", "aria-label": "Find in this file", oninput: () => this.#find(1, true) });
    this.hits = h("span.soft.small.num", { role: "status" });
    this.bar = h("div.editor-find", { hidden: true },
      this.needle, this.hits,
      h("button.button.quiet.only", { type: "button", "aria-label": "Previous match", onclick: () => this.#find(-1) }, icon("up")),
      h("button.button.quiet.only", { type: "button", "aria-label": "Next match", onclick: () => this.#find(1) }, icon("down")),
      h("button.button.quiet.only", { type: "button", "aria-label": "Close find", onclick: () => this.find(false) }, icon("close")));
    this.element = h("div.editor", {}, this.bar, h("div.editor-body", {}, this.numbers, this.area));
    this.element.addEventListener("keydown", (event) => {
      const control = event.ctrlKey || event.metaKey;
      if (control && event.key === "s") onsave?.();
      else if (control && event.key === "f") this.find(true);
      else if (event.key === "Escape" && !this.bar.hidden) this.find(false);
      else if (event.key === "Enter" && event.target === this.needle) this.#find(event.shiftKey ? -1 : 1);
      else return;
      event.preventDefault();
    });
    for (const name of ["keyup", "pointerup", "input"]) this.area.addEventListener(name, () => this.#tellPlace());
  }

  get value() {
    return this.area.value;
  }

  set value(words) {
    this.area.value = words;
    this.#saved = this.area.value;
    this.area.setSelectionRange(0, 0);
    this.#changed();
    this.#tellPlace();
  }

  get dirty() {
    return this.area.value !== this.#saved;
  }

  /** What was sent is now what is stored; more may have been typed since. */
  saved(words) {
    this.#saved = words;
    this.onchange?.();
  }

  find(on) {
    this.bar.hidden = !on;
    (on ? this.needle : this.area).focus();
    if (on) this.needle.select();
  }

  #changed() {
    const lines = this.area.value.split("\n").length;
    if (this.lines !== lines) {
      this.lines = lines;
      text(this.numbers, Array.from({ length: lines }, (_, at) => at + 1).join("\n") + "\n\n");
      this.numbers.scrollTop = this.area.scrollTop;
    }
    this.onchange?.();
  }

  #tellPlace() {
    const before = this.area.value.slice(0, this.area.selectionStart);
    const line = before.split("\n").length;
    text(this.where, `Line ${line}, column ${before.length - before.lastIndexOf("\n")}`);
  }

  #find(by, typing = false) {
    const needle = this.needle.value.toLowerCase();
    const words = this.area.value.toLowerCase();
    if (!needle) return text(this.hits, "");
    const all = [];
    for (let at = words.indexOf(needle); at >= 0 && all.length < 10_000; at = words.indexOf(needle, at + needle.length)) all.push(at);
    if (!all.length) return text(this.hits, "Nothing found");
    const from = this.area.selectionStart;
    let hit = by > 0 ? all.findIndex((at) => (typing ? at >= from : at > from)) : all.findLastIndex((at) => at < from);
    if (hit < 0) hit = by > 0 ? 0 : all.length - 1;
    text(this.hits, `${hit + 1} of ${all.length}`);
    this.area.setSelectionRange(all[hit], all[hit] + needle.length);
    const height = parseFloat(getComputedStyle(this.area).lineHeight);
    const line = this.area.value.slice(0, all[hit]).split("\n").length;
    this.area.scrollTop = Math.max(0, line * height - this.area.clientHeight / 2);
    this.#tellPlace();
  }
}
