// Files on their way to a server, in pieces of 512 KiB, one file after the other, each with a bar and a cancel.

import { call, query } from "./api.js";
import { attribute, h, icon, text } from "./dom.js";
import { bytes } from "./words.js";

const PIECE = 512 * 1024;

export class Uploads {
  #queue = [];
  #at = null;

  constructor(base, done) {
    Object.assign(this, { base, done });
    this.list = h("ul");
    this.element = h("section.card.uploads", { hidden: true, "aria-label": "Uploads" }, h("header", {}, h("h2", {}, "Uploads"), h("button.button.quiet", { type: "button", onclick: () => this.#tidy() }, "Clear")), this.list);
  }

  add(files, path) {
    for (const file of files) {
      const bar = h("span.bar", { role: "progressbar", "aria-label": file.name, "aria-valuemin": 0, "aria-valuemax": 100, "aria-valuenow": 0 }, h("i"));
      const note = h("span.soft.small.num", {}, `waiting, ${bytes(file.size)}`);
      const abort = new AbortController();
      const cancel = h("button.button.quiet.only", { type: "button", "aria-label": `Cancel ${file.name}`, onclick: () => abort.abort() }, icon("close"));
      const item = h("li", {}, h("span.cut", {}, file.name), note, bar, cancel);
      const upload = { file, path: path ? `${path}/${file.name}` : file.name, bar, note, abort, cancel, item };
      abort.signal.addEventListener("abort", () => this.#at !== upload && this.#end(upload, "cancelled"));
      this.list.append(item);
      this.#queue.push(upload);
    }
    this.element.hidden = !this.list.childElementCount;
    this.#run();
  }

  async #run() {
    if (this.#at) return;
    for (let upload = this.#queue.shift(); upload; upload = this.#queue.shift()) {
      if (upload.abort.signal.aborted) continue;
      this.#at = upload;
      try {
        await this.#send(upload);
        this.#end(upload, bytes(upload.file.size), "done");
      } catch (refused) {
        this.#end(upload, refused.message, refused.code === "CANCELLED" ? "" : "failed");
      }
      this.#at = null;
      this.done();
    }
  }

  async #send({ file, path, bar, note, abort }) {
    let offset = 0;
    do {
      const piece = new Uint8Array(await file.slice(offset, offset + PIECE).arrayBuffer());
      await call("PUT", `${this.base}/upload${query({ path, offset })}`, piece, { signal: abort.signal });
      offset += piece.length;
      const share = file.size ? Math.round((offset / file.size) * 100) : 100;
      bar.firstElementChild.style.width = `${share}%`;
      attribute(bar, "aria-valuenow", share);
      text(note, `${bytes(offset)} of ${bytes(file.size)}`);
    } while (offset < file.size);
  }

  #end(upload, words, state = "") {
    text(upload.note, words);
    upload.item.dataset.state = state || "cancelled";
    upload.cancel.hidden = true;
  }

  #tidy() {
    for (const item of [...this.list.children]) if (item.dataset.state) item.remove();
    this.element.hidden = !this.list.childElementCount;
  }
}
