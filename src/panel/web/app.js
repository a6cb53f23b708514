// The frame: which view is shown, keys, colours, the state of the live stream.

import { attribute, h, say, text } from "./dom.js";
import * as create from "./forms.js";
import { connect, link, nodes, onChange, servers } from "./live.js";
import * as nodesView from "./nodes.js";
import * as serversView from "./servers.js";

const views = { servers: serversView, nodes: nodesView, create };
const main = document.getElementById("main");
const search = document.getElementById("search");
let shown;

/** `#/servers?q=words`: all that is chosen is in the address, so that back, reload and sharing work. */
function route() {
  const [path, query] = location.hash.slice(2).split("?");
  const words = new URLSearchParams(query).get("q") ?? "";
  const view = views[path] ? path : "servers";
  if (search.value !== words) search.value = words;
  if (view === shown) return views[view].search?.(words);
  views[shown]?.hide();
  const first = shown === undefined;
  shown = view;
  views[view].show(main, words);
  document.title = `${views[view].title} – Longshore`;
  for (const item of document.querySelectorAll("nav [data-view]")) {
    attribute(item, "aria-current", item.dataset.view === (view === "create" ? "servers" : view) ? "page" : null);
  }
  if (!first) {
    main.focus({ preventScroll: true });
    scrollTo(0, 0);
  }
}

addEventListener("hashchange", route);

search.addEventListener("input", () => {
  const words = search.value.trim();
  const hash = words ? `#/servers?${new URLSearchParams({ q: words })}` : "#/servers";
  history.replaceState(null, "", hash);
  route();
});
search.addEventListener("keydown", (event) => {
  if (event.key !== "Escape") return;
  search.value = "";
  search.dispatchEvent(new Event("input"));
  search.blur();
});

// ---- the live stream

const WORDS = { connecting: "Connecting…", live: "Live", reconnecting: "Reconnecting…" };

onChange((change) => {
  if (change.kind === "link") {
    const place = document.getElementById("live");
    place.dataset.state = link.state;
    text(document.getElementById("live-word"), WORDS[link.state]);
    document.body.classList.toggle("stale", link.state === "reconnecting");
  } else if (change.kind !== "usage") {
    text(document.getElementById("count-servers"), servers.size ? String(servers.size) : "");
    text(document.getElementById("count-nodes"), nodes.size ? String(nodes.size) : "");
  }
  if (shown === undefined && change.kind === "all") route();
});

// ---- colours

const theme = document.getElementById("theme");
const THEMES = ["system", "light", "dark"];

function showTheme(name) {
  if (name === "system") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = name;
  const words = { system: "as the system has them", light: "light", dark: "dark" }[name];
  attribute(theme, "aria-label", `Colours: ${words}. Press for the next.`);
  attribute(theme, "title", `Colours: ${words}`);
  return words;
}

showTheme(localStorage.getItem("theme") ?? "system");
theme.addEventListener("click", () => {
  const now = localStorage.getItem("theme") ?? "system";
  const next = THEMES[(THEMES.indexOf(now) + 1) % THEMES.length];
  localStorage.setItem("theme", next);
  say(`Colours: ${showTheme(next)}`);
});

// ---- keys

const KEYS = [
  ["/", "Find a server"],
  ["c", "Create a server"],
  ["g s", "Go to the servers"],
  ["g n", "Go to the nodes"],
  ["?", "Show these keys"],
];

function showKeys() {
  const rows = KEYS.map(([keys, words]) => h("div", {}, h("dt", {}, ...keys.split(" ").map((key) => h("kbd", {}, key))), h("dd", {}, words)));
  const dialog = h("dialog.ask", { "aria-labelledby": "keys-title" }, h("form", { method: "dialog" },
    h("h2", { id: "keys-title" }, "Keys"), h("dl.facts", {}, ...rows), h("div.buttons", {}, h("button.button", { autofocus: true }, "Close"))));
  dialog.addEventListener("close", () => dialog.remove());
  document.body.append(dialog);
  dialog.showModal();
}

document.getElementById("keys").addEventListener("click", showKeys);

let went = 0;
addEventListener("keydown", (event) => {
  const typing = event.target.closest("input, select, textarea, dialog, [popover]");
  if (typing || event.ctrlKey || event.metaKey || event.altKey) return;
  const after = Date.now() - went < 1000;
  went = 0;
  const act = {
    "/": () => search.focus(),
    "?": showKeys,
    c: () => (location.hash = "#/create"),
    g: () => (went = Date.now()),
    s: () => after && (location.hash = "#/servers"),
    n: () => after && (location.hash = "#/nodes"),
  }[event.key];
  if (!act) return;
  if (event.key === "/") event.preventDefault();
  act();
});

// ---- begin

// The first snapshot paints the page; should it take longer, so does the empty frame.
setTimeout(() => shown ?? route(), 300);
connect();
