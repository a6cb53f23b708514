// The list of servers: a row each, changed in place so that focus and selection stay where they are.

import { alarm, attribute, bytes, copyButton, exactly, h, icon, ofBytes, say, span, text } from "./dom.js";
import { askDelete } from "./forms.js";
import { Refused, command, keyOf, nodes, onChange, serverPath, servers } from "./live.js";
import { PENDING, VERBS, detailOf, mark, othersOf, primaryOf, progressOf, remark, stateOf } from "./states.js";

/** A stop that takes longer than this offers "Kill now". */
const LONG_STOP = 4_000;

const rows = new Map();
let list;
let filter = "";

export const title = "Servers";

export function show(main, words) {
  filter = words;
  list = h("ul.servers", { role: "list" });
  rows.clear();
  main.replaceChildren(
    h("div.head", {}, h("h1", {}, "Servers"), h("p.summary"), h("a.button.primary", { href: "#/create" }, icon("M8 3v10M3 8h10"), "Create a server")),
    h("div.columns", { "aria-hidden": "true" }, ...["State", "Server", "Node", "Ports", "CPU", "Memory", ""].map((name) => h("span", {}, name))),
    list,
    h("div.empty", { hidden: true }),
  );
  render();
}

export function hide() {
  rows.clear();
  list = undefined;
}

export function search(words) {
  filter = words;
  if (list) render();
}

onChange((change) => {
  if (!list || change.kind === "link") return;
  if (change.kind === "usage") return rows.get(change.key)?.update();
  if (change.kind === "server" && rows.has(change.key) === servers.has(change.key)) {
    announce(change);
    rows.get(change.key)?.update();
    return summary();
  }
  render();
});

/** Crashes are told to screen readers whoever caused them. */
function announce({ key, before }) {
  const server = servers.get(key);
  if (server && before && server.lastStatus === "crashed" && before.lastStatus !== "crashed") {
    alarm(`${server.name} has crashed. ${detailOf(server)}`);
  }
}

const isOnline = (server) => nodes.get(server.node)?.online ?? false;

function matches(server) {
  const state = stateOf(server, isOnline(server));
  const all = [server.name, server.id, server.image, server.node, state.word].join(" ").toLowerCase();
  return filter.toLowerCase().split(/\s+/).every((word) => all.includes(word));
}

function render() {
  const byName = (a, b) => a.name.localeCompare(b.name, undefined, { numeric: true }) || a.id.localeCompare(b.id);
  const shown = [...servers.values()].filter(matches).sort(byName);
  const keys = new Set(shown.map(keyOf));
  for (const [key, row] of rows) {
    if (keys.has(key)) continue;
    row.element.remove();
    rows.delete(key);
  }
  shown.forEach((server, index) => {
    const key = keyOf(server);
    if (!rows.has(key)) rows.set(key, new Row(key));
    const row = rows.get(key);
    row.update();
    if (list.children[index] !== row.element) list.insertBefore(row.element, list.children[index] ?? null);
  });
  const main = list.parentElement;
  main.querySelector(".columns").hidden = shown.length === 0;
  empty(main.querySelector(".empty"), shown.length);
  summary();
}

function summary() {
  const place = list.parentElement.querySelector(".summary");
  const counts = new Map();
  for (const server of servers.values()) {
    const { tone, word } = stateOf(server, isOnline(server));
    const name = tone === "moving" ? "in motion" : tone === "stopped" ? "stopped" : word.toLowerCase();
    counts.set(name, (counts.get(name) ?? 0) + 1);
  }
  text(place, [...counts].map(([name, count]) => `${count} ${name}`).join(", "));
}

function empty(place, shown) {
  place.hidden = shown > 0;
  if (shown > 0) return;
  if (servers.size > 0) {
    place.replaceChildren(h("h2", {}, "Nothing matches"), h("p", {}, `No server's name, image, node or state has “${filter}” in it.`));
  } else if (nodes.size > 0) {
    place.replaceChildren(
      h("h2", {}, "No servers yet"),
      h("p", {}, "Create the first one: it takes an image, a name and a port."),
      h("a.button.primary", { href: "#/create" }, "Create a server"),
    );
  } else {
    place.replaceChildren(
      h("h2", {}, "No nodes yet"),
      h("p", {}, "Servers run on nodes. Add this machine or another one first."),
      h("a.button.primary", { href: "#/nodes" }, "How to add a node"),
    );
  }
}

class Row {
  constructor(key) {
    this.key = key;
    this.problem = null;
    this.sending = null;
    const cell = (name, ...children) => h(`div.${name}`, {}, ...children);
    this.mark = mark("unknown");
    this.word = h("span.word");
    this.detail = h("span.detail");
    this.name = h("h2");
    this.image = h("span.image");
    this.badge = h("span.badge", { hidden: true }, "Restart needed");
    this.progress = h("progress", { max: 1, hidden: true });
    this.progressWords = h("span.progress-words", { hidden: true });
    this.node = h("a.node-name", { href: "#/nodes" });
    this.offline = h("span.offline", { hidden: true }, "offline");
    this.ports = h("span.ports");
    this.cpu = meter("CPU");
    this.memory = meter("Memory");
    this.primary = h("button.button.action", { type: "button", onclick: () => this.act(this.verb) });
    this.kill = h("button.button.danger.action", { type: "button", hidden: true, onclick: () => this.act("kill") }, "Kill now");
    this.menu = h("div.menu", { popover: "auto", role: "menu", id: `menu-${key.replaceAll("/", "--")}` });
    this.more = h("button.icon-button.more", { type: "button", "aria-haspopup": "menu", onclick: () => this.openMenu() }, icon("M3.5 8h.01M8 8h.01M12.5 8h.01"));
    this.error = h("div.problem", { hidden: true });
    this.element = h("li.server", {},
      cell("state", this.mark, h("span.words", {}, this.word, this.detail)),
      cell("what", this.name, h("span.sub", {}, this.image, this.badge), this.progressWords, this.progress),
      cell("node", this.node, this.offline),
      cell("address", this.ports),
      cell("use", this.cpu.element),
      cell("use", this.memory.element),
      cell("actions", this.kill, this.primary, this.more),
      this.error,
      this.menu,
    );
    this.menu.addEventListener("toggle", (event) => attribute(this.more, "aria-expanded", event.newState === "open"));
    this.menu.addEventListener("keydown", (event) => moveInMenu(event, this.menu));
  }

  get server() {
    return servers.get(this.key);
  }

  update() {
    const server = this.server;
    if (!server) return;
    const online = isOnline(server);
    const state = stateOf(server, online);
    if (this.sending) Object.assign(state, { tone: "moving", busy: true, word: this.sending.word, since: undefined });
    attribute(this.element, "data-tone", state.tone);
    remark(this.mark, state.tone);
    text(this.word, state.word);
    text(this.detail, this.detailWords(server, state, online));
    attribute(this.detail, "title", exactly(server.since));
    text(this.name, server.name);
    text(this.image, server.image || server.id);
    attribute(this.image, "title", `${server.image}\nid ${server.id}`);
    this.badge.hidden = !server.needsRestart;
    const progress = progressOf(state.progress);
    this.progress.hidden = this.progressWords.hidden = !progress;
    if (progress) {
      if (progress.share === null) this.progress.removeAttribute("value");
      else this.progress.value = progress.share;
      attribute(this.progress, "aria-label", progress.words);
      text(this.progressWords, progress.share === null ? progress.words : `${progress.words}, ${Math.round(progress.share * 100)} %`);
    }
    text(this.node, server.node);
    this.offline.hidden = online;
    this.showPorts(server);
    this.showUse(server, state);
    this.showActions(server, state, online);
  }

  detailWords(server, state, online) {
    if (state.note) return state.note;
    if (state.busy) return state.since && state.action === "stop_server" ? this.stopWords(server, state) : "";
    const detail = detailOf(server);
    const ago = span(Date.now() - Date.parse(server.since));
    const time = server.lastStatus === "running" ? `for ${ago}` : server.lastStatus === "created" ? "" : `${ago} ago`;
    return online ? [detail, time].filter(Boolean).join(", ") : "";
  }

  /** How long is left until the node kills it by itself. */
  stopWords(server, state) {
    const elapsed = Date.now() - Date.parse(state.since);
    const left = server.stopTimeout * 1000 - elapsed;
    return elapsed < LONG_STOP ? "" : left > 0 ? `killed in ${Math.ceil(left / 1000)} s` : "";
  }

  showPorts(server) {
    const key = JSON.stringify(server.ports);
    if (this.portsShown === key) return;
    this.portsShown = key;
    this.ports.replaceChildren(...server.ports.slice(0, 4).map((port) => {
      const name = port.protocol === "tcp" ? `${port.external}` : `${port.external}/${port.protocol}`;
      const label = `Copy port ${port.external} (${port.protocol}; ${port.internal} in the container)`;
      return copyButton(name, label, "copy.port");
    }), ...(server.ports.length > 4 ? [h("span.sub", {}, `+${server.ports.length - 4}`)] : []));
  }

  showUse(server, state) {
    const usage = server.lastStatus === "running" && state.tone !== "unknown" ? server.usage : undefined;
    this.cpu.show(usage && { share: usage.cpu / 100, words: `${usage.cpu.toFixed(usage.cpu < 10 ? 1 : 0)} %` });
    const limit = usage?.memory.limit;
    const words = usage && (limit ? ofBytes(usage.memory.used, limit) : bytes(usage.memory.used));
    this.memory.show(usage && { share: limit ? usage.memory.used / limit : 0, words, title: limit ? `${bytes(usage.memory.used)} of ${bytes(limit)}` : words });
  }

  showActions(server, state, online) {
    this.verb = primaryOf(server, online);
    const stopping = state.busy && ["stop_server", "restart_server", "suspend_server", "delete_server"].includes(state.action);
    const waited = state.since ? Date.now() - Date.parse(state.since) : 0;
    this.kill.hidden = !(stopping && waited > LONG_STOP && !this.sending);
    attribute(this.kill, "aria-label", `Kill ${server.name} now`);
    const label = state.busy ? `${state.word}…` : this.verb ? VERBS[this.verb].label : "";
    if (!this.kill.hidden && document.activeElement === this.primary) this.kill.focus();
    this.primary.hidden = !label || !this.kill.hidden;
    text(this.primary, label);
    attribute(this.primary, "aria-label", this.verb && !state.busy ? `${label} ${server.name}` : label);
    // A disabled button would lose the focus of whoever has just pressed it.
    attribute(this.primary, "aria-disabled", state.busy ? "true" : null);
    this.primary.classList.toggle("busy", Boolean(state.busy));
    this.primary.classList.toggle("tinted", !state.busy && ["start", "unsuspend"].includes(this.verb));
    this.others = othersOf(server, online).filter((verb) => verb !== this.verb);
    this.more.hidden = this.others.length === 0;
    attribute(this.more, "aria-label", `More for ${server.name}`);
  }

  openMenu() {
    const items = this.others.map((verb) => {
      const { label, danger } = VERBS[verb] ?? { label: "Delete…", danger: true };
      return h(`button${danger ? ".danger" : ""}`, { type: "button", role: "menuitem", onclick: () => this.choose(verb) }, label);
    });
    this.menu.replaceChildren(...items);
    this.menu.showPopover();
    const at = this.more.getBoundingClientRect();
    const below = at.bottom + this.menu.offsetHeight + 8 < innerHeight;
    this.menu.style.top = `${below ? at.bottom + 4 : at.top - this.menu.offsetHeight - 4}px`;
    this.menu.style.left = `${Math.max(8, at.right - this.menu.offsetWidth)}px`;
    items[0].focus();
  }

  choose(verb) {
    this.menu.hidePopover();
    this.more.focus();
    if (verb === "delete") askDelete(this.server, (body) => this.send("DELETE", "", PENDING.delete_server, "Delete", body));
    else this.act(verb);
  }

  act(verb) {
    if (!verb || (this.primary.getAttribute("aria-disabled") && verb !== "kill")) return;
    const { path, action, label } = VERBS[verb];
    this.send("POST", path, PENDING[action], label);
  }

  /** Shows the pending state before anything has left the page, and the true outcome when it comes. */
  async send(method, path, word, label, body = {}) {
    const { name } = this.server;
    this.fail(null);
    this.sending = { word };
    this.update();
    try {
      const { outcome } = await command(method, serverPath(this.server, path), body);
      this.sending = null;
      this.update();
      const done = await outcome;
      say(`${name}: ${done.message ?? `${label} is done`}`);
    } catch (refused) {
      this.sending = null;
      if (!(refused instanceof Refused)) throw refused;
      // Overtaken by another command, which tells its own outcome.
      if (refused.code !== "SUPERSEDED") this.fail(`${label} failed. ${refused.message}`);
      this.update();
    }
  }

  fail(words) {
    this.error.hidden = !words;
    if (!words) return this.error.replaceChildren();
    alarm(`${this.server?.name ?? ""}: ${words}`);
    this.error.replaceChildren(
      h("p", {}, words),
      h("button.icon-button", { type: "button", "aria-label": "Dismiss", onclick: () => this.fail(null) }, icon("M4 4l8 8M12 4l-8 8")),
    );
  }
}

function meter(name) {
  const words = h("span.number");
  const bar = h("span.bar", {}, h("span.filled"));
  const element = h("div.meter", {}, h("span.label", {}, name), words, bar);
  return {
    element,
    show(use) {
      element.classList.toggle("none", !use);
      text(words, use ? use.words : "–");
      attribute(words, "title", use?.title);
      const share = Math.min(1, use?.share ?? 0);
      bar.firstChild.style.inlineSize = `${(share * 100).toFixed(1)}%`;
      attribute(bar, "data-level", share > 0.9 ? "high" : null);
    },
  };
}

function moveInMenu(event, menu) {
  const items = [...menu.children];
  const at = items.indexOf(document.activeElement);
  const next = { ArrowDown: at + 1, ArrowUp: at - 1, Home: 0, End: items.length - 1 }[event.key];
  if (event.key === "Tab") menu.hidePopover();
  if (next === undefined) return;
  event.preventDefault();
  items.at(next % items.length).focus();
}

/** Times move on without events; only what is in motion needs it each second. */
let beat = 0;
setInterval(() => {
  if (document.hidden || !list) return;
  beat += 1;
  for (const row of rows.values()) {
    if (beat % 15 === 0 || row.element.dataset.tone === "moving") row.update();
  }
}, 1000);
