// The nodes: health at a glance, and adding one: a join command, and a live wait until it is linked.

import { post } from "./api.js";
import { place } from "./app.js";
import { busy, open } from "./dialogs.js";
import { attribute, copy, h, icon, keyed, text } from "./dom.js";
import { field, idRule } from "./fields.js";
import { nodes, onChange, servers } from "./live.js";
import { choose, go, url } from "./router.js";
import { stateMark, updateState } from "./states.js";
import { ago, bytes, exactly, many, percent } from "./words.js";

export const nodeState = (node) => (node.revoked ? { tone: "crashed", word: "Revoked" } : node.neverJoined ? { tone: "stopped", word: "Not joined yet" } : !node.online ? { tone: "unknown", word: "Offline" } : node.maintenance ? { tone: "suspended", word: "Maintenance" } : { tone: "running", word: "Online" });

export function show(main, at) {
  place([["Nodes"]]);
  const sum = h("p.soft", { role: "status" });
  const rows = h("tbody", { role: "rowgroup" });
  const table = h("table.table.cards.rows", { role: "table", "aria-label": "Nodes" }, h("thead", { role: "rowgroup" }, h("tr", { role: "row" }, ["Node", "State", "Processor", "Memory", "Disk", "Round trip", "Agent"].map((words) => h("th", { role: "columnheader", scope: "col" }, words)))), rows);
  const card = h("div.card.dims", {}, table);
  const empty = h("div.card.empty", {}, icon("nodes"), h("h2", {}, "No node yet"), h("p", {}, "A node is a machine with Docker that runs your servers. It needs no open port: its Agent connects to this Panel."), h("div.buttons", {}, h("button.button.primary", { type: "button", onclick: () => choose({ add: 1 }) }, icon("plus"), "Add a node")));
  main.append(h("div.head", {}, h("div", {}, h("h1", {}, "Nodes"), sum), h("button.button.primary", { type: "button", onclick: () => choose({ add: 1 }) }, icon("plus"), "Add a node")), card, empty);

  function draw() {
    const items = [...nodes.values()].sort((a, b) => a.id.localeCompare(b.id, undefined, { numeric: true }));
    keyed(rows, items, (node) => node.id, row, update);
    card.hidden = !items.length;
    empty.hidden = items.length > 0;
    text(sum, items.length ? `${items.filter(({ online }) => online).length} of ${many(items.length, "node")} online` : "");
  }

  let adding = null;
  function take(route) {
    if (route.query.has("add") && !adding) adding = addNode(() => ((adding = null), choose({ add: "" })));
  }

  draw();
  take(at);
  const stop = onChange(({ kind }) => ["all", "node", "usage", "server"].includes(kind) && draw());
  return { update: take, hide: () => (stop(), adding?.close()) };
}

function row(node) {
  const cell = (name, label, ...children) => h(`td.${name}`, { role: "cell", dataset: label ? { label } : {} }, ...children);
  return h("tr", { role: "row" },
    cell("c-name", "", h("span.main", {}, h("a.cut", { href: url("nodes", node.id) }), h("small.cut"))),
    cell("c-state", "", stateMark(), h("small.soft.small.note")),
    cell("c-cpu", "Processor", share()), cell("c-memory", "Memory", share()), cell("c-disk", "Disk", share()),
    cell("c-trip.num.soft", "Round trip"),
    cell("c-version", "Agent", h("span.num.soft"), " ", h("span.tag", { dataset: { tone: "amber" }, hidden: true }, "behind")));
}

const share = () => h("span.gauge", {}, h("span", {}, h("b"), h("small")), h("span.bar", {}, h("i")));

function setShare(element, value, of) {
  text(element.querySelector("b"), value === undefined ? "–" : percent(value));
  text(element.querySelector("small"), of ?? "");
  const bar = element.querySelector(".bar");
  bar.style.visibility = value === undefined ? "hidden" : "";
  bar.firstElementChild.style.width = `${Math.min(100, value ?? 0)}%`;
  attribute(bar, "data-level", value > 95 ? "full" : value > 80 ? "high" : null);
}

function update(child, node) {
  const at = (name) => child.querySelector(`.${name}`);
  text(at("c-name a"), node.name || node.id);
  const count = [...servers.values()].filter((server) => server.node === node.id).length;
  text(at("c-name small"), [node.name && node.name !== node.id ? node.id : node.address, many(count || node.servers, "server")].filter(Boolean).join(" · "));
  updateState(at("c-state .state"), nodeState(node));
  text(at("c-state .note"), node.neverJoined || node.revoked ? "" : node.online ? "" : `for ${ago(node.since).replace(" ago", "")}`);
  at("c-state").title = `Since ${exactly(node.since)}`;
  const load = node.online ? node.load : undefined;
  setShare(at("c-cpu .gauge"), load?.cpu, node.system?.cpuCount ? many(node.system.cpuCount, "core") : "");
  setShare(at("c-memory .gauge"), load?.memory, node.system?.totalMemory ? `of ${bytes(node.system.totalMemory)}` : "");
  setShare(at("c-disk .gauge"), load?.disk, node.system?.totalDisk ? `of ${bytes(node.system.totalDisk)}` : "");
  text(at("c-trip"), node.online && node.roundTrip !== undefined && node.roundTrip !== null ? `${node.roundTrip < 10 ? node.roundTrip.toFixed(1) : Math.round(node.roundTrip)} ms` : "–");
  text(at("c-version .num"), node.version ?? "–");
  at("c-version .tag").hidden = !node.behind;
}

// ---- adding one

/** First a name, then the command, then the word that it is there. */
function addNode(closed) {
  let stop = () => {};
  let made = null;
  return open("Add a node", (dialog, heading) => {
    const name = field({ label: "Name", input: h("input", { required: true, maxLength: 64, autocomplete: "off", placeholder: "node-1" }), help: "Short, such as the machine's own name.", rule: (value) => idRule(value.replace(/\s+/g, "-")) });
    const address = field({ label: "Address for players", optional: true, input: h("input", { maxLength: 253, autocomplete: "off", spellcheck: false, placeholder: "play.example.org" }), help: "Host name or IP that players connect to. It can be set later." });
    const fault = h("p.wrong", { role: "alert" });
    const next = h("button.button.primary", {}, "Get the join command");
    const form = h("form", { noValidate: true, onsubmit: (event) => {
      event.preventDefault();
      if (!name.check()) return name.input.focus();
      busy(next, async () => {
        // The id is what people see in addresses and on the machine: the name itself, as far as it can be.
        made = await post("/nodes", { id: name.value.replace(/\s+/g, "-"), name: name.value, ...(address.value ? { address: address.value } : {}) });
        form.replaceWith(joinCommand(dialog, heading, made.node, made.join, (off) => (stop = off)));
      }, (refused) => {
        if (refused.field === "name" || refused.field === "id") name.refuse(refused.message);
        else text(fault, refused.message);
      });
    } }, heading, h("p.soft", {}, "The machine needs Docker and a way to reach this Panel; no port has to be open on it."), name.element, address.element, h("div.field", {}, fault), h("div.buttons", {}, h("button.button", { type: "button", onclick: () => dialog.close() }, "Cancel"), next));
    return form;
  }, { wide: true, onclose: () => (stop(), closed()) });
}

/** The command to paste, and live word of whether the node has come. */
export function joinCommand(dialog, heading, node, join, ending) {
  const command = h("pre", { tabIndex: 0, "aria-label": "Join command" }, join.command);
  const copyButton = h("button.button", { type: "button", onclick: () => copy(join.command, copyButton) }, icon("copy"), "Copy");
  const state = h("p.waiting", { role: "status" });
  const minutes = Math.max(1, Math.round((new Date(join.expires) - Date.now()) / 60_000));
  const done = h("button.button", { type: "button", onclick: () => dialog.close() }, "Close");
  heading.textContent = `Join ${node.name || node.id}`;
  let there = false;
  const tell = () => {
    const now = nodes.get(node.id);
    if (now?.online && !there) {
      there = true;
      const done_ = h("span.state", {}, icon("check"), `${now.name || now.id} is connected.`);
      done_.dataset.stateTone = "running";
      state.replaceChildren(done_);
      done.className = "button primary";
      done.textContent = "To the node";
      done.onclick = () => (dialog.close(), go(url("nodes", node.id)));
      done.focus();
    }
  };
  state.append(h("span.spinner", { "aria-hidden": "true" }), `Waiting for ${node.name || node.id} to connect…`);
  ending(onChange(({ kind }) => ["node", "all"].includes(kind) && tell()));
  setTimeout(tell);
  return h("div.in", {}, heading,
    h("ol.guide", {},
      h("li", {}, "Put ", h("code", {}, "longshore-agent"), " on the machine, for example into ", h("code", {}, "/usr/local/bin"), "."),
      h("li", {}, "Run this there as root. The token in it works once, for ", many(minutes, "minute"), "."),
    ),
    h("div.secret", {}, command, h("div.buttons", {}, copyButton)),
    state, h("div.buttons", {}, done));
}
