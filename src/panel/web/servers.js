// The overview: every server that one may see, live. A table that becomes cards on a phone.

import { isAdmin } from "./api.js";
import { mayDo, moreOf, power } from "./actions.js";
import { place } from "./app.js";
import { menu } from "./dialogs.js";
import { attribute, copyable, h, icon, keyed, text } from "./dom.js";
import { checklist } from "./firstrun.js";
import { keyOf, nodeName, nodes, onChange, servers } from "./live.js";
import { choose, url } from "./router.js";
import { detailOf, GROUPS, primaryOf, progressOf, stateMark, stateOf, updateState, VERBS } from "./states.js";
import { bytes, exactly, many, percent, span } from "./words.js";

export function show(main, at) {
  place([["Servers"]]);
  const filter = h("input", { type: "search", placeholder: "Filter by name, game, address", "aria-label": "Filter the servers", value: at.query.get("q") ?? "", oninput: () => choose({ q: filter.value }) });
  const state = h("select.pick", { "aria-label": "State", onchange: () => choose({ state: state.value }) }, h("option", { value: "" }, "Any state"), Object.entries(GROUPS).map(([value, words]) => h("option", { value }, words)));
  const node = h("select.pick", { "aria-label": "Node", onchange: () => choose({ node: node.value }) });
  const sum = h("p.soft", { role: "status" });
  const rows = h("tbody", { role: "rowgroup" });
  const head = ["Server", "State", "Node", "Address", "Processor", "Memory", "Up for", ""];
  const table = h("table.table.cards.rows", { role: "table", "aria-label": "Servers" }, h("thead", { role: "rowgroup" }, h("tr", { role: "row" }, head.map((words) => h("th", { role: "columnheader", scope: "col" }, words || h("span.unseen", {}, "Actions"))))), rows);
  const card = h("div.card.dims", {}, table);
  const empty = h("div");
  const steps = checklist();
  const filters = h("div.filters", {}, filter, state, node);
  main.append(h("div.head", {}, h("div", {}, h("h1", {}, "Servers"), sum), isAdmin() && h("a.button.primary", { href: "/servers/new" }, icon("plus"), "Create a server")), steps.element, filters, card, empty);

  let query = at.query;
  const wanted = (server) => {
    const words = (query.get("q") ?? "").toLowerCase();
    const group = query.get("state");
    return (!group || stateOf(server).tone === group) && (!query.get("node") || server.node === query.get("node")) && [server.name, server.id, server.image, server.template ?? "", server.address ?? ""].some((part) => part.toLowerCase().includes(words));
  };

  function draw() {
    const everything = [...servers.values()].sort((a, b) => a.name.localeCompare(b.name, undefined, { numeric: true }));
    const items = everything.filter(wanted);
    keyed(rows, items, keyOf, row, updateRow);
    const online = everything.filter((server) => stateOf(server).tone === "running").length;
    text(sum, everything.length ? `${online} of ${many(everything.length, "server")} running` : "");
    filters.hidden = everything.length < 2;
    card.hidden = !items.length;
    if (items.length) empty.replaceChildren();
    else if (!everything.length) {
      const node = nodes.size > 0;
      empty.replaceChildren(h("div.card.empty", {}, icon("servers"), h("h2", {}, "No server yet"),
        h("p", {}, !isAdmin() ? "Nobody has granted you a server so far. Ask an admin of this Panel." : node ? "Choose a game, a node and a few settings; it runs a minute later." : "Servers run on nodes: machines with Docker and the Agent. Add one first."),
        isAdmin() && h("div.buttons", {}, node ? h("a.button.primary", { href: "/servers/new" }, icon("plus"), "Create a server") : h("a.button.primary", { href: "/nodes?add=1" }, icon("plus"), "Add a node"))));
    } else {
      empty.replaceChildren(h("div.card.empty", {}, icon("search"), h("h2", {}, "Nothing matches"), h("p", {}, `None of ${many(everything.length, "server")} is like that.`), h("div.buttons", {}, h("button.button", { type: "button", onclick: () => choose({ q: "", state: "", node: "" }) }, "Show all"))));
    }
  }

  function options() {
    const ids = [...nodes.keys()].sort();
    node.hidden = ids.length < 2;
    node.replaceChildren(h("option", { value: "" }, "Any node"), ...ids.map((id) => h("option", { value: id }, nodeName(id))));
    node.value = query.get("node") ?? "";
  }

  function take(route) {
    query = route.query;
    if (filter.value !== (query.get("q") ?? "")) filter.value = query.get("q") ?? "";
    state.value = query.get("state") ?? "";
    node.value = query.get("node") ?? "";
  }

  take(at);
  options();
  draw();
  const stop = onChange(({ kind, keys }) => {
    if (kind === "usage") {
      for (const key of keys) {
        const child = rows.querySelector(`[data-key="${CSS.escape(key)}"]`);
        if (child) updateUsage(child, servers.get(key));
      }
    } else if (kind === "all" || kind === "server" || kind === "node") {
      if (kind !== "server") options();
      draw();
    }
  });
  // Only "up for" changes without an event.
  const timer = setInterval(() => [...rows.children].forEach((child) => updateTime(child, servers.get(child.dataset.key))), 15_000);
  return {
    update: (route) => (take(route), draw()),
    hide: () => (stop(), clearInterval(timer), steps.end()),
  };
}

function row(server) {
  const cell = (name, label, ...children) => h(`td.${name}`, { role: "cell", dataset: label ? { label } : {} }, ...children);
  const more = h("button.button.quiet.only", { type: "button", "aria-label": `More for ${server.name}` }, icon("more"));
  menu(more, () => moreOf(servers.get(more.closest("tr").dataset.key)));
  const act = h("button.button", { type: "button", onclick: () => {
    const now = servers.get(act.closest("tr").dataset.key);
    power(now, act.dataset.verb);
  } });
  return h("tr", { role: "row" },
    cell("c-name", "", h("span.main", {}, h("a.cut", { href: url("servers", server.node, server.id) }), h("small.cut"))),
    cell("c-state", "", stateMark(), h("small.soft.small.note")),
    cell("c-node.soft", "Node"),
    cell("c-address", "Address"),
    cell("c-cpu", "Processor", gauge()),
    cell("c-memory", "Memory", gauge()),
    cell("c-up.num.soft", "Up for", h("span")),
    cell("acts.c-acts", "", act, " ", more));
}

const gauge = () => h("span.gauge", {}, h("span", {}, h("b"), h("small")), h("span.bar", {}, h("i")));

function setGauge(element, words, of, share) {
  text(element.querySelector("b"), words);
  text(element.querySelector("small"), of);
  const bar = element.querySelector(".bar");
  bar.firstElementChild.style.width = `${Math.round(Math.min(1, share ?? 0) * 100)}%`;
  bar.style.visibility = share === null ? "hidden" : "";
  attribute(bar, "data-level", share > 0.95 ? "full" : share > 0.8 ? "high" : null);
}

function updateRow(child, server) {
  const at = (name) => child.querySelector(`.${name}`);
  const state = stateOf(server);
  text(at("c-name a"), server.name);
  text(at("c-name small"), `${nodeName(server.node)} · ${server.template ?? server.image}`);
  at("c-name small").title = server.image;
  updateState(at("c-state .state"), state);
  const progress = state.busy && progressOf(state.progress);
  text(at("c-state .note"), progress ? `${progress.words}${progress.share === null ? "" : ` ${Math.round(progress.share * 100)} %`}` : state.note ?? detailOf(server));
  text(at("c-node"), nodeName(server.node));
  const address = at("c-address");
  if (address.dataset.now !== (server.address ?? "")) {
    address.dataset.now = server.address ?? "";
    address.replaceChildren(server.address ? copyable(server.address, "Copy the address") : "");
  }
  const act = at("c-acts .button");
  const verb = primaryOf(server);
  const allowed = verb && mayDo(server, verb);
  act.hidden = !allowed;
  if (allowed && act.dataset.verb !== verb) {
    act.dataset.verb = verb;
    act.replaceChildren(icon(VERBS[verb].icon), VERBS[verb].label);
  }
  attribute(act, "aria-label", allowed ? `${VERBS[verb].label} ${server.name}` : null);
  attribute(act, "aria-busy", state.busy && state.action && !(verb === "stop" && state.action === "start_server") ? "true" : null);
  at("c-acts .only").hidden = !moreOf(server).length;
  updateUsage(child, server);
  updateTime(child, server);
}

function updateUsage(child, server) {
  const up = server.online && ["running", "starting", "stopping"].includes(server.lastStatus) && server.usage;
  const cpu = up ? server.usage.cpu : undefined;
  const memory = up ? server.usage.memory : undefined;
  const [first, second] = child.querySelectorAll(".gauge");
  child.classList.toggle("idle", !up);
  const most = server.limits?.cpu || 0;
  setGauge(first, cpu === undefined ? "–" : percent(cpu), cpu !== undefined && most ? `of ${Math.round(most)} %` : "", cpu === undefined ? null : most ? cpu / most : null);
  const limit = memory?.limit || server.limits?.memory || 0;
  setGauge(second, memory?.used === undefined ? "–" : bytes(memory.used), memory?.used !== undefined && limit ? `of ${bytes(limit)}` : "", memory?.used === undefined || !limit ? null : memory.used / limit);
}

function updateTime(child, server) {
  const place = child.querySelector(".c-up span");
  if (!server || !place) return;
  const up = server.online && server.lastStatus === "running";
  text(place, up ? span(Date.now() - new Date(server.since)) : "–");
  place.title = up ? `Since ${exactly(server.since)}` : "";
}
