// The frame: who is in, which page is shown, rail, top line, search, keys, colours.

import { call, get, isAdmin, onSession, session, setSession } from "./api.js";
import { menu, open, toast } from "./dialogs.js";
import { attribute, h, icon, text } from "./dom.js";
import * as gate from "./gate.js";
import { connect, disconnect, link, nodes, onChange, servers } from "./live.js";
import { go, guardLeaving, here, onRoute, url } from "./router.js";
import { mark, stateOf } from "./states.js";

/** First part of the path: the module that shows it. Loaded when first asked for. */
const PAGES = {
  servers: () => import("./servers.js"),
  server: () => import("./server.js"),
  create: () => import("./create.js"),
  nodes: () => import("./nodes.js"),
  node: () => import("./node.js"),
  activity: () => import("./activity.js"),
  users: () => import("./users.js"),
  user: () => import("./user.js"),
  settings: () => import("./settings.js"),
};

function pageOf([first = "servers", second, third]) {
  if (first === "servers" && second === "new" && !third) return isAdmin() ? "create" : null;
  if (first === "servers" && second && third) return "server";
  if (first === "servers" && !second) return "servers";
  if (["nodes", "users"].includes(first)) return isAdmin() ? (second ? first.slice(0, -1) : first) : null;
  return ["activity", "settings"].includes(first) ? first : null;
}

const RAIL = [
  ["servers", "Servers", "servers", false],
  ["nodes", "Nodes", "nodes", true],
  ["activity", "Activity", "activity", false],
  ["users", "Users", "users", true],
  ["settings", "Settings", "settings", false],
];

const app = document.getElementById("app");
let frame = null;
let shown = null;
let turn = 0;

// ---- the frame

function build() {
  const main = h("main", { id: "main", tabIndex: -1 });
  const links = RAIL.filter(([, , , admins]) => !admins || isAdmin()).map(([path, words, name]) =>
    h("a.rail-link", { href: `/${path}`, dataset: { page: path }, title: words }, icon(name), h("span.word", {}, words), h("span.count")));
  const { user } = session;
  const who = h("button.who", { type: "button", "aria-label": `Account of ${user.name}` }, h("span.avatar", { "aria-hidden": "true" }, user.name.slice(0, 2)), h("span.name", {}, h("b", {}, user.name), h("span", {}, user.role === "admin" ? "Admin" : "Member")));
  menu(who, () => [
    { label: "Your account", icon: "shield", href: "/settings" },
    { label: `Colours: ${THEMES[theme()]}`, icon: "theme", act: nextTheme },
    { label: "Keys", icon: "keys", act: showKeys },
    "-",
    { label: "Log out", icon: "out", act: logOut },
    { note: `Longshore ${session.version}` },
  ]);
  const search = h("input", { type: "search", placeholder: "Find a server", "aria-label": "Find a server by name, node, image or address", autocomplete: "off", spellcheck: false, role: "combobox", "aria-expanded": "false", "aria-controls": "found", "aria-autocomplete": "list" });
  const found = h("div.found", { id: "found", role: "listbox", "aria-label": "Servers found", hidden: true });
  const live = h("p.live", { role: "status" }, h("span"));
  const trail = h("ol.here");
  frame = { main, search, found, live, trail, links };
  app.className = "";
  app.replaceChildren(
    h("a.skip", { href: "#main", onclick: (event) => (event.preventDefault(), main.focus()) }, "Skip to the content"),
    h("nav.rail", { "aria-label": "Main" }, h("a.brand", { href: "/servers", "aria-label": "Longshore, to the servers" }, h("img", { src: "/icon.svg", alt: "", width: 24, height: 24 }), h("span", {}, "Longshore")), links, h("span.rail-room"), who),
    h("div.column", {}, h("header.top", {}, h("nav", { className: "here-nav", "aria-label": "Where you are" }, trail), h("div.finder", { role: "search" }, icon("search"), search, h("kbd", { "aria-hidden": "true" }, "/"), found), live), main));
  listenToSearch();
  tellLink();
  tellCounts();
}

/** Pages say where they are: `[[words, address]…]`, the last without an address. */
export function place(trail) {
  document.title = `${trail.map(([words]) => words).reverse().join(" · ")} · Longshore`;
  frame.trail.replaceChildren(...trail.map(([words, address], at) => h("li", {}, address && at < trail.length - 1 ? h("a", { href: address }, words) : h("span", { "aria-current": "page" }, words))));
}

async function route(at) {
  if (!session || !frame) return;
  if (["setup", "login"].includes(at.parts[0])) return go("/servers", { replace: true });
  const name = pageOf(at.parts);
  const key = name && [name, ...at.parts.slice(1, 3)].join("/");
  for (const item of frame.links) attribute(item, "aria-current", item.dataset.page === (at.parts[0] ?? "servers") ? "page" : null);
  if (shown?.key === key && shown.view.update) return shown.view.update(at);
  const mine = ++turn;
  const module = name ? await PAGES[name]().catch(() => null) : undefined;
  if (mine !== turn) return;
  shown?.view?.hide?.();
  guardLeaving(null);
  frame.main.replaceChildren();
  frame.main.className = name ? `page-${name}` : "";
  if (module === null) {
    shown = { key, view: {} };
    return frame.main.append(h("div.empty", {}, icon("warn"), h("h1", {}, "This part of the page could not be loaded"), h("p", {}, "The Panel does not answer."), h("div.buttons", {}, h("button.button", { type: "button", onclick: () => location.reload() }, "Load again"))));
  }
  if (!module) {
    shown = { key, view: {} };
    place([["Not found"]]);
    return frame.main.append(h("div.empty", {}, icon("search"), h("h1", {}, "There is no page here"), h("p", {}, "The address may be mistyped, or you may not see what is behind it."), h("div.buttons", {}, h("a.button", { href: "/servers" }, "To the servers"))));
  }
  const first = shown === null;
  shown = { key, view: {} };
  shown.view = module.show(frame.main, at) ?? {};
  if (!first) {
    frame.main.focus({ preventScroll: true });
    scrollTo(0, 0);
  }
}

onRoute(route);

// ---- who is in

async function begin() {
  try {
    enter(await get("/session"));
  } catch {
    gate.show(enter);
  }
}

function enter(next) {
  if (next.mustSetPassword) return gate.show(enter);
  setSession(next);
  shown = null;
  build();
  // The first snapshot paints the page; should it take longer, so does the empty frame.
  ready = false;
  setTimeout(begun, 400);
  connect();
}

let ready = false;
function begun() {
  if (ready || !session) return;
  ready = true;
  route(here());
}

onSession((now) => {
  if (now || !frame) return;
  shown?.view?.hide?.();
  document.querySelectorAll("dialog").forEach((dialog) => dialog.close());
  frame = shown = null;
  disconnect();
  gate.show(enter, "You have been logged out. Log in to go on where you were.");
});

async function logOut() {
  guardLeaving(null);
  await call("DELETE", "/session").catch(() => {});
  history.replaceState(null, "", "/");
  setSession(null);
}

// ---- the live stream

const WORDS = { connecting: "Connecting…", live: "Live", reconnecting: "Reconnecting…" };

function tellLink() {
  frame.live.dataset.state = link.state;
  text(frame.live.firstElementChild, WORDS[link.state]);
  app.classList.toggle("stale", link.state === "reconnecting");
}

function tellCounts() {
  for (const item of frame.links) {
    const map = { servers, nodes }[item.dataset.page];
    if (map) text(item.querySelector(".count"), map.size ? String(map.size) : "");
  }
}

onChange(({ kind }) => {
  if (!frame) return;
  if (kind === "link") tellLink();
  if (kind === "all") begun();
  if (["all", "node", "server"].includes(kind)) tellCounts();
});

// ---- search

function listenToSearch() {
  const { search, found } = frame;
  let at = 0;
  const look = () => {
    const words = search.value.trim().toLowerCase();
    const hits = words ? [...servers.values()].filter((server) => [server.name, server.id, server.node, server.image, server.address ?? ""].some((part) => part.toLowerCase().includes(words))).slice(0, 8) : [];
    at = Math.max(0, Math.min(at, hits.length - 1));
    found.hidden = !words || document.activeElement !== search;
    attribute(search, "aria-expanded", String(!found.hidden));
    found.replaceChildren(...hits.map((server, index) => h("a", { id: `found-${index}`, role: "option", tabIndex: -1, "aria-selected": String(index === at), href: url("servers", server.node, server.id), onclick: leave }, h("span", { dataset: { stateTone: stateOf(server).tone } }, mark(stateOf(server).tone)), server.name, h("small", {}, server.node))), ...(hits.length ? [] : [h("p", { role: "option", "aria-selected": "false" }, "No server is called so.")]));
    attribute(search, "aria-activedescendant", hits.length && !found.hidden ? `found-${at}` : null);
  };
  const leave = () => {
    search.value = "";
    search.blur();
    look();
  };
  search.addEventListener("input", () => ((at = 0), look()));
  search.addEventListener("focus", look);
  search.addEventListener("blur", () => setTimeout(look, 150));
  search.addEventListener("keydown", (event) => {
    if (event.key === "Escape") leave();
    else if (event.key === "ArrowDown" || event.key === "ArrowUp") {
      const count = found.querySelectorAll("a").length;
      if (count) at = (at + (event.key === "ArrowDown" ? 1 : -1) + count) % count;
      event.preventDefault();
      look();
    } else if (event.key === "Enter") found.querySelectorAll("a")[at]?.click();
  });
}

// ---- colours

const THEMES = { system: "as the system", light: "light", dark: "dark" };
const theme = () => document.documentElement.dataset.theme ?? "system";

function nextTheme() {
  const names = Object.keys(THEMES);
  const next = names[(names.indexOf(theme()) + 1) % names.length];
  if (next === "system") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = next;
  try {
    localStorage.setItem("theme", next);
  } catch {
    // Kept for this visit alone.
  }
  toast(`Colours: ${THEMES[next]}`);
}

// ---- keys

const KEYS = [
  ["/", "Find a server"],
  ["g s", "Go to the servers"],
  ["g n", "Go to the nodes"],
  ["g a", "Go to the activity"],
  ["c", "Create a server"],
  ["?", "Show these keys"],
  ["Esc", "Close what is open"],
];

function showKeys() {
  open("Keys", (dialog, heading) => h("form", { method: "dialog" }, heading,
    h("dl.facts", {}, KEYS.map(([keys, words]) => h("div", {}, h("dt", {}, keys.split(" ").map((key) => [h("kbd", {}, key), " "])), h("dd", {}, words)))),
    h("div.buttons", {}, h("button.button", { autofocus: true }, "Close"))));
}

let went = 0;
addEventListener("keydown", (event) => {
  const typing = event.target.closest?.("input, select, textarea, dialog, [popover], [contenteditable]");
  if (!frame || typing || event.ctrlKey || event.metaKey || event.altKey) return;
  const after = Date.now() - went < 1000;
  went = 0;
  const act = {
    "/": () => frame.search.focus(),
    "?": showKeys,
    g: () => (went = Date.now()),
    c: () => isAdmin() && go("/servers/new"),
    s: () => after && go("/servers"),
    n: () => after && isAdmin() && go("/nodes"),
    a: () => after && go("/activity"),
  }[event.key];
  if (!act) return;
  event.preventDefault();
  act();
});

begin();
