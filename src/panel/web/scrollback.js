// The console's lines on screen: 5,000 of them, in blocks that the browser leaves undrawn while they are out of sight.
//
// It follows the end until one scrolls up; what comes meanwhile is counted in a pill. Lines are put in once a frame,
// however many come, and the oldest block goes when there are too many.

import { Ansi, styled } from "./ansi.js";
import { h, icon, text } from "./dom.js";
import { clock, exactly, many } from "./words.js";

const MOST = 5000;
const BLOCK = 100;

export class Scrollback {
  #ansi = new Ansi();
  #waiting = [];
  #frame = 0;
  #count = 0;
  #following = true;
  #unseen = 0;
  #paused = false;
  #needle = "";
  #hits = [];
  #hit = -1;

  constructor({ onfind } = {}) {
    this.onfind = onfind;
    // Not a live region: a flood of lines would be read out. What matters is said by the page.
    this.lines = h("div.lines");
    this.view = h("div.scroll", { tabIndex: 0, role: "log", "aria-label": "Console output", "aria-live": "off", onscroll: () => this.#scrolled() }, this.lines);
    this.pill = h("button.pill", { type: "button", hidden: true, onclick: () => this.toEnd() }, icon("down"), h("span"));
    this.element = h("div.scrollback", {}, this.view, this.pill);
    // Wrapping, zoom, and blocks that turn out taller than guessed move the end.
    this.watcher = new ResizeObserver(() => this.#following && this.#stick());
    this.watcher.observe(this.view);
    this.watcher.observe(this.lines);
  }

  /** `{time, stream, message}` for a line, or `{gap: "words"}`. */
  add(lines) {
    for (const line of lines) this.#waiting.push(line);
    if (this.#waiting.length > 2 * MOST) this.#waiting.splice(0, this.#waiting.length - MOST);
    if (this.#paused) this.#tell();
    else this.#frame ||= requestAnimationFrame(() => this.#flush());
  }

  clear() {
    this.lines.replaceChildren();
    this.#waiting = [];
    this.#count = this.#unseen = 0;
    this.#ansi = new Ansi();
    this.#find();
    this.#tell();
  }

  pause(paused) {
    this.#paused = paused;
    if (!paused) this.#flush();
    this.#tell();
  }

  toEnd() {
    this.#following = true;
    this.#unseen = 0;
    this.#tell();
    this.#stick();
  }

  get count() {
    return this.#count;
  }

  end() {
    this.watcher.disconnect();
    cancelAnimationFrame(this.#frame);
    CSS.highlights?.delete("found");
    CSS.highlights?.delete("found-now");
  }

  #flush() {
    this.#frame = 0;
    const lines = this.#waiting;
    if (!lines.length) return;
    this.#waiting = [];
    const anew = lines.length > MOST ? lines.slice(-MOST) : lines;
    let block = this.lines.lastElementChild;
    for (const line of anew) {
      if (!block || block.childElementCount >= BLOCK) this.lines.append((block = h("div.block")));
      block.append(this.#line(line));
    }
    this.#count += anew.length;
    while (this.#count - this.lines.firstElementChild.childElementCount >= MOST) {
      this.#count -= this.lines.firstElementChild.childElementCount;
      this.lines.firstElementChild.remove();
    }
    if (this.#following) this.#stick();
    else this.#unseen += anew.length;
    this.#tell();
    if (this.#needle) this.#find(true);
  }

  #line(line) {
    if (line.gap) {
      this.#ansi = new Ansi();
      return h("div.gap", {}, line.gap);
    }
    const pieces = this.#ansi.pieces(line.message);
    return h("div", { className: line.stream === "stdin" ? "typed" : line.stream === "stderr" ? "err" : line.stream === "install" ? "inst" : "", dataset: { time: clock(line.time) }, title: exactly(line.time) }, h("span", {}, pieces.length ? styled(pieces) : "\n"));
  }

  #stick() {
    this.view.scrollTop = this.view.scrollHeight;
  }

  #scrolled() {
    const end = this.view.scrollHeight - this.view.clientHeight - this.view.scrollTop < 12;
    if (end === this.#following) return;
    this.#following = end;
    if (end) this.#unseen = 0;
    this.#tell();
  }

  #tell() {
    const count = this.#unseen + (this.#paused ? this.#waiting.length : 0);
    this.pill.hidden = this.#following && !(this.#paused && count);
    text(this.pill.lastElementChild, this.#paused ? `Paused, ${many(count, "new line")}` : count ? many(count, "new line") : "To the end");
  }

  // ---- find

  find(needle) {
    this.#needle = needle.toLowerCase();
    this.#hit = -1;
    this.#find();
    if (this.#hits.length) this.step(-1);
  }

  /** To the next match up (-1) or down (1), around the ends. */
  step(by) {
    if (!this.#hits.length) return;
    this.#hit = this.#hit < 0 ? this.#hits.length - 1 : (this.#hit + by + this.#hits.length) % this.#hits.length;
    const range = this.#hits[this.#hit];
    this.#following = false;
    range.startContainer.parentElement?.closest("[data-time]")?.scrollIntoView({ block: "center" });
    this.#mark();
  }

  #find(keep = false) {
    this.#hits = [];
    if (this.#needle) {
      for (const line of this.lines.querySelectorAll("[data-time] > span")) {
        const words = line.textContent.toLowerCase();
        for (let at = words.indexOf(this.#needle); at >= 0 && this.#hits.length < MOST; at = words.indexOf(this.#needle, at + this.#needle.length)) {
          this.#hits.push(rangeOf(line, at, this.#needle.length));
        }
      }
    }
    if (!keep) this.#hit = -1;
    this.#hit = Math.min(this.#hit, this.#hits.length - 1);
    this.#mark();
  }

  #mark() {
    this.onfind?.(this.#hit + 1, this.#hits.length);
    if (!CSS.highlights) return;
    CSS.highlights.set("found", new Highlight(...this.#hits));
    CSS.highlights.set("found-now", new Highlight(...(this.#hits[this.#hit] ? [this.#hits[this.#hit]] : [])));
  }
}

/** The range of `length` characters from `at` on, over the styled pieces of a line. */
function rangeOf(line, at, length) {
  const range = new Range();
  const walker = document.createTreeWalker(line, NodeFilter.SHOW_TEXT);
  let before = 0;
  for (let node = walker.nextNode(); node; node = walker.nextNode()) {
    const until = before + node.length;
    if (at >= before && at < until) range.setStart(node, at - before);
    if (at + length > before && at + length <= until) {
      range.setEnd(node, at + length - before);
      break;
    }
    before = until;
  }
  return range;
}
