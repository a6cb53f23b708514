// The files tab: browse, open, upload by drop, rename, pack, permissions. What a file says is edited in `edit.js`.

import { call, command, get, post, query, serverPath } from "./api.js";
import { ask, menu, toast } from "./dialogs.js";
import { afterAWhile, attribute, bones, h, icon, say, text } from "./dom.js";
import { edit } from "./edit.js";
import { Uploads } from "./uploads.js";
import { choose } from "./router.js";
import { ago, bytes, exactly, many } from "./words.js";

const ARCHIVES = /\.(zip|tar|tar\.gz|tgz)$/i;
const SORTS = { name: (a, b) => a.name.localeCompare(b.name, undefined, { numeric: true }), size: (a, b) => (a.size ?? 0) - (b.size ?? 0), modified: (a, b) => (a.modified ?? "").localeCompare(b.modified ?? "") };
export const join = (path, name) => (path ? `${path}/${name}` : name);
const parent = (path) => path.split("/").slice(0, -1).join("/");

export function tab(body, server, at) {
  const base = serverPath(server, "/files");
  let path = null;
  let items = [];
  let chosen = new Set();
  let anchor = null;
  let editor = null;
  let asked = 0;
  let sort = "name";
  let down = false;

  const trail = h("ol.here.crumbs", { "aria-label": "Directory" });
  const picker = h("input", { type: "file", multiple: true, hidden: true, onchange: () => (uploads.add(picker.files, path), (picker.value = "")) });
  const make = menu(h("button.button", { type: "button" }, icon("plus"), "New"), () => [
    { label: "File…", icon: "file", act: () => askName("New file", "Name", "", async (name) => (await call("PUT", `${base}/content`, { path: join(path, name), content: "", version: undefined }), choose({ path, file: join(path, name) }, { replace: false }))) },
    { label: "Folder…", icon: "folder", act: () => askName("New folder", "Name", "", async (name) => (await post(`${base}/directory`, { path: join(path, name) }), load())) },
  ]);
  const uploadButton = h("button.button", { type: "button", onclick: () => picker.click() }, icon("up"), "Upload");
  const picked = h("div.picked", { hidden: true, role: "region", "aria-label": "Chosen files" }, h("b.num"),
    h("button.button.quiet", { type: "button", onclick: () => askArchive() }, icon("archive"), "Archive"),
    h("button.button.quiet", { type: "button", onclick: () => askMove() }, icon("folder"), "Move"),
    h("button.button.quiet.danger", { type: "button", onclick: () => askDelete([...chosen]) }, icon("trash"), "Delete"),
    h("button.button.quiet.only", { type: "button", "aria-label": "Choose none", onclick: () => choosing(() => chosen.clear()) }, icon("close")));
  const every = h("input", { type: "checkbox", "aria-label": "Choose all", onchange: () => choosing(() => (chosen = new Set(every.checked ? items.map(({ name }) => name) : []))) });
  const heads = Object.fromEntries(Object.entries({ name: "Name", size: "Size", modified: "Changed" }).map(([name, words]) => [name, h("th", { scope: "col", className: `f-${name}` }, h("button", { type: "button", onclick: () => ((down = sort === name && !down), (sort = name), draw()) }, words))]));
  const rows = h("tbody");
  const table = h("table.table.slim.rows.files", { "aria-label": "Files" }, h("thead", {}, h("tr", {}, h("th.f-check", { scope: "col" }, every), heads.name, heads.size, heads.modified, h("th.f-mode", { scope: "col" }, "Mode"), h("th", { scope: "col" }, h("span.unseen", {}, "Actions")))), rows);
  const empty = h("div.empty", { hidden: true }, icon("folder"), h("h2"), h("p"));
  const list = h("div.card.file-list", {}, h("div.file-bar", {}, trail, picked, h("div.buttons", {}, make, uploadButton, picker)), table, empty);
  const drop = h("p.drop", { "aria-hidden": "true" }, "Drop to upload here");
  list.append(drop);
  const uploads = new Uploads(base, () => load());
  body.append(list, uploads.element);

  // ---- dropping

  let over = 0;
  const dragged = (event) => event.dataTransfer?.types.includes("Files");
  list.addEventListener("dragenter", (event) => dragged(event) && (event.preventDefault(), (over += 1), list.classList.add("over")));
  list.addEventListener("dragover", (event) => dragged(event) && event.preventDefault());
  list.addEventListener("dragleave", () => (over -= 1) <= 0 && ((over = 0), list.classList.remove("over")));
  list.addEventListener("drop", (event) => {
    if (!dragged(event)) return;
    event.preventDefault();
    over = 0;
    list.classList.remove("over");
    uploads.add(event.dataTransfer.files, path);
  });

  // ---- keys: arrows move, space chooses, shift chooses on the way

  rows.addEventListener("keydown", (event) => {
    const row = event.target.closest("tr");
    if (!row || event.target.closest("button, input") || event.ctrlKey || event.metaKey) return;
    const by = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    const name = row.dataset.name;
    if (by) {
      const next = by > 0 ? row.nextElementSibling : row.previousElementSibling;
      if (!next) return;
      if (event.shiftKey) choosing(() => (chosen.add(name), chosen.add(next.dataset.name)));
      next.querySelector("a")?.focus();
    } else if (event.key === " ") choosing(() => (chosen.has(name) ? chosen.delete(name) : chosen.add(name)));
    else if (event.key === "Delete") askDelete(chosen.size ? [...chosen] : [name]);
    else if (event.key === "Backspace" && path) choose({ path: parent(path) }, { replace: false });
    else return;
    event.preventDefault();
  });

  // ---- the list

  async function load() {
    const mine = ++asked;
    const settle = afterAWhile(() => items.length || rows.replaceChildren(...Array.from({ length: 6 }, () => h("tr", {}, h("td", { colSpan: 6 }, bones(1))))));
    try {
      const answer = await get(base + query({ path }));
      if (mine !== asked) return;
      items = answer.items;
      chosen = new Set([...chosen].filter((name) => items.some((item) => item.name === name)));
      draw(answer.truncated);
    } catch (refused) {
      if (mine !== asked) return;
      items = [];
      draw();
      text(empty.querySelector("h2"), refused.code === "FILE_NOT_FOUND" ? "This folder is not there" : "The files cannot be shown");
      text(empty.querySelector("p"), refused.message);
    } finally {
      settle();
    }
  }

  function draw(truncated) {
    const folder = (item) => (item.type === "directory" ? 0 : 1);
    items.sort((a, b) => folder(a) - folder(b) || SORTS[sort](a, b) * (down ? -1 : 1));
    for (const [name, head] of Object.entries(heads)) attribute(head, "aria-sort", name === sort ? (down ? "descending" : "ascending") : null);
    rows.replaceChildren(...items.map(row));
    table.hidden = !items.length;
    empty.hidden = Boolean(items.length);
    text(empty.querySelector("h2"), path ? "This folder is empty" : "No files yet");
    text(empty.querySelector("p"), "Drop files here, or press Upload.");
    if (truncated) toast("This folder holds more than is shown here.", "unknown");
    choosing(() => {});
  }

  function row(item) {
    const full = join(path, item.name);
    const directory = item.type === "directory";
    const check = h("input", { type: "checkbox", "aria-label": `Choose ${item.name}`, onclick: (event) => {
      const names = items.map(({ name }) => name);
      choosing(() => {
        if (event.shiftKey && anchor !== null) {
          const [from, to] = [names.indexOf(anchor), names.indexOf(item.name)].sort((a, b) => a - b);
          names.slice(from, to + 1).forEach((name) => (check.checked ? chosen.add(name) : chosen.delete(name)));
        } else if (check.checked) chosen.add(item.name);
        else chosen.delete(item.name);
        anchor = item.name;
      });
    } });
    const address = `?${new URLSearchParams({ ...(directory || path ? { path: directory ? full : path } : {}), ...(directory ? {} : { file: full }) })}`;
    const more = menu(h("button.button.quiet.only", { type: "button", "aria-label": `More for ${item.name}` }, icon("more")), () => [
      !directory && { label: "Download", icon: "down", href: `/api/v1${base}/download${query({ path: full })}`, download: item.name },
      !directory && ARCHIVES.test(item.name) && { label: "Unpack here", icon: "archive", act: () => unpack(full) },
      { label: "Rename…", icon: "edit", act: () => askName("Rename", "New name", item.name, async (name) => (await post(`${base}/move`, { from: full, to: join(path, name) }), load())) },
      { label: "Duplicate…", icon: "copy", act: () => askName("Duplicate", "Name of the copy", item.name.replace(/(\.[^.]*)?$/, "-copy$1"), async (name) => (await post(`${base}/copy`, { from: full, to: join(path, name) }), load())) },
      { label: "Permissions…", icon: "key", act: () => askMode(full, item) },
      "-",
      { label: "Delete…", icon: "trash", danger: true, act: () => askDelete([item.name]) },
    ].filter(Boolean));
    return h("tr", { dataset: { name: item.name } },
      h("td.f-check", {}, h("span.over", {}, check)),
      h("td.f-name", {}, h("span.main", {}, h("a.cut.file-name", { href: location.pathname + address }, icon(directory ? "folder" : ARCHIVES.test(item.name) ? "archive" : "file"), h("span.cut", {}, item.name)))),
      h("td.f-size.num.soft", {}, directory || item.size === undefined ? "" : bytes(item.size)),
      h("td.f-modified.soft", { title: item.modified ? exactly(item.modified) : "" }, item.modified ? ago(item.modified) : ""),
      h("td.f-mode.mono.soft", {}, item.mode ?? ""),
      h("td.acts", {}, more));
  }

  function choosing(change) {
    change();
    every.checked = items.length > 0 && chosen.size === items.length;
    every.indeterminate = chosen.size > 0 && chosen.size < items.length;
    for (const line of rows.children) {
      const on = chosen.has(line.dataset.name);
      attribute(line, "aria-selected", on ? "true" : null);
      const box = line.querySelector("input");
      if (box) box.checked = on;
    }
    picked.hidden = !chosen.size;
    make.parentElement.hidden = chosen.size > 0;
    text(picked.firstElementChild, `${chosen.size} chosen`);
    if (chosen.size) say(`${many(chosen.size, "file")} chosen`);
  }

  // ---- what is asked

  function askName(title, label, name, act) {
    const input = h("input", { value: name, required: true, spellcheck: false, autocomplete: "off", autocapitalize: "none", maxLength: 255 });
    ask({ title, button: title.split(" ")[0] === "New" ? "Create" : title, extra: h("div.field", {}, h("label", {}, label, input)), act: async () => {
      const wanted = input.value.trim();
      if (!wanted || wanted === "." || wanted === "..") throw Object.assign(new Error("Type a name."), { name: "Refused" });
      if (wanted !== name) await act(wanted);
    } });
    input.focus();
    input.setSelectionRange(0, name.lastIndexOf(".") > 0 ? name.lastIndexOf(".") : name.length);
  }

  function askMove() {
    const input = h("input", { value: path, spellcheck: false, autocomplete: "off", autocapitalize: "none", placeholder: "The top folder" });
    ask({ title: `Move ${many(chosen.size, "file")}`, button: "Move", extra: h("div.field", {}, h("label", {}, "To folder", input)), act: async () => {
      const to = input.value.replace(/^\/+|\/+$/g, "");
      for (const name of [...chosen]) {
        await post(`${base}/move`, { from: join(path, name), to: join(to, name) });
        chosen.delete(name);
      }
      load();
    } });
  }

  function askArchive() {
    const name = h("input", { value: `archive-${new Date().toISOString().slice(0, 10)}`, spellcheck: false, autocomplete: "off" });
    const format = h("select", {}, ["zip", "tar.gz", "tar"].map((value) => h("option", {}, value)));
    ask({ title: `Archive ${many(chosen.size, "file")}`, button: "Archive", extra: h("div.fields", {}, h("div.field", {}, h("label", {}, "Name", name)), h("div.field", {}, h("label", {}, "Format", format))), act: async () => {
      const archive = join(path, `${name.value.trim() || "archive"}.${format.value}`);
      await command("POST", `${base}/archive`, { files: [...chosen].map((name) => join(path, name)), archive, format: format.value });
      choosing(() => chosen.clear());
      toast(`${archive} is written.`);
      load();
    } });
  }

  async function unpack(archive) {
    try {
      await command("POST", `${base}/extract`, { archive, to: path });
      toast(`${archive} is unpacked.`);
      load();
    } catch (refused) {
      toast(refused.message, "crashed");
    }
  }

  function askMode(full, item) {
    const bits = parseInt(item.mode ?? "644", 8);
    const boxes = [];
    const number = h("input", { value: item.mode ?? "644", pattern: "[0-7]{3,4}", maxLength: 4, spellcheck: false, oninput: () => boxes.forEach(({ box, bit }) => (box.checked = Boolean(parseInt(number.value, 8) & bit))) });
    const table = h("table.table.slim", {}, h("thead", {}, h("tr", {}, ["", "Read", "Write", "Run"].map((words) => h("th", { scope: "col" }, words)))), h("tbody", {}, ["Owner", "Group", "Others"].map((who, row) => h("tr", {}, h("th", { scope: "row" }, who), [4, 2, 1].map((right, column) => {
      const bit = right << (6 - row * 3);
      const box = h("input", { type: "checkbox", checked: Boolean(bits & bit), "aria-label": `${who}: ${["read", "write", "run"][column]}`, onchange: () => (number.value = (boxes.reduce((sum, { box, bit }) => sum | (box.checked ? bit : 0), parseInt(number.value, 8) & 0o7000)).toString(8).padStart(3, "0")) });
      boxes.push({ box, bit });
      return h("td", {}, box);
    })))));
    ask({ title: `Permissions of ${item.name}`, button: "Set", extra: [table, h("div.field", {}, h("label", {}, "As a number", number))], act: async () => (await call("PUT", `${base}/permissions`, { path: full, mode: number.value }), load()) });
  }

  function askDelete(names) {
    const what = names.length === 1 ? names[0] : many(names.length, "file");
    ask({ title: `Delete ${what}?`, words: "Folders go with all that is in them. This cannot be undone.", button: "Delete", danger: true, act: async () => {
      const { failed } = await post(`${base}/delete`, { paths: names.map((name) => join(path, name)) });
      load();
      if (failed?.length) throw Object.assign(new Error(`${failed[0].path}: ${failed[0].error.message}`), { name: "Refused" });
    } });
  }

  // ---- where we are

  function update(route) {
    const wanted = route.query.get("path") ?? "";
    const file = route.query.get("file");
    if (wanted !== path) {
      path = wanted;
      chosen.clear();
      items = [];
      const parts = path ? path.split("/") : [];
      trail.replaceChildren(...["Files", ...parts].map((part, index) => h("li", {}, index < parts.length ? h("a", { href: `${location.pathname}${query({ path: parts.slice(0, index).join("/") })}` }, part) : h("span", { "aria-current": "page" }, part))));
      if (!file) load();
    } else if (!file && editor) load();
    editor?.hide();
    editor = null;
    list.hidden = Boolean(file);
    if (file) editor = edit(body, server, file, () => choose({ file: "" }, { replace: false }));
  }

  update(at);
  return { update, hide: () => (editor?.hide(), (asked += 1)) };
}
