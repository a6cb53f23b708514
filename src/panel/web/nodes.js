// The nodes: what each is, how full it is, and how to add one.

import { attribute, bytes, copyButton, exactly, h, span, text } from "./dom.js";
import { nodes, onChange, servers } from "./live.js";
import { mark, remark } from "./states.js";

export const title = "Nodes";
let list;
const cards = new Map();

export function show(main) {
  list = h("ul.nodes", { role: "list" });
  cards.clear();
  main.replaceChildren(h("div.head", {}, h("h1", {}, "Nodes"), h("p.summary")), list, howTo());
  render();
}

export function hide() {
  list = undefined;
}

onChange((change) => {
  if (list && change.kind !== "usage" && change.kind !== "link") render();
});

function render() {
  const shown = [...nodes.values()].sort((a, b) => a.id.localeCompare(b.id, undefined, { numeric: true }));
  for (const [id, card] of cards) {
    if (nodes.has(id)) continue;
    card.element.remove();
    cards.delete(id);
  }
  shown.forEach((node, index) => {
    if (!cards.has(node.id)) cards.set(node.id, newCard());
    const card = cards.get(node.id);
    card.update(node);
    if (list.children[index] !== card.element) list.insertBefore(card.element, list.children[index] ?? null);
  });
  const online = shown.filter((node) => node.online).length;
  text(list.parentElement.querySelector(".summary"), shown.length ? `${online} of ${shown.length} online` : "");
  list.parentElement.querySelector(".how-to").open ||= shown.length === 0;
}

function newCard() {
  const shape = mark("unknown");
  const word = h("span.word");
  const name = h("h2");
  const since = h("span.detail");
  const facts = h("dl.facts");
  const memory = gauge("Memory");
  const disk = gauge("Disk");
  const element = h("li.node-card", {}, h("div.node-head", {}, h("div.state", {}, shape, h("span.words", {}, word, since)), name), memory.element, disk.element, facts);
  const update = (node) => {
    const tone = node.online ? "running" : "crashed";
    attribute(element, "data-tone", tone);
    remark(shape, tone);
    text(word, node.online ? "Online" : "Offline");
    const never = !node.online && node.since === node.created;
    text(since, never ? "not seen since the Panel started" : `for ${span(Date.now() - Date.parse(node.since))}`);
    attribute(since, "title", exactly(node.since));
    text(name, node.id);
    const { system } = node;
    memory.show(system?.totalMemory, system?.freeMemory);
    disk.show(system?.totalDisk, system?.freeDisk);
    const count = [...servers.values()].filter((server) => server.node === node.id);
    const running = count.filter((server) => server.lastStatus === "running").length;
    const rows = [
      ["Servers", node.online ? `${running} of ${count.length} running` : `${count.length}`],
      ["System", system && [system.os, system.arch].filter(Boolean).join(", ")],
      ["Processor", system?.cpuCount && `${system.cpuCount} × ${system.cpu || "core"}`],
      ["Docker", system?.dockerVersion],
      ["Agent", node.version],
    ];
    facts.replaceChildren(...rows.filter(([, value]) => value).map(([key, value]) => h("div", {}, h("dt", {}, key), h("dd", {}, value))));
  };
  return { element, update };
}

function gauge(name) {
  const words = h("span.number");
  const bar = h("span.bar", {}, h("span.filled"));
  const element = h("div.gauge", {}, h("span.label", {}, name), words, bar);
  return {
    element,
    show(total, free) {
      const used = total ? total - free : 0;
      text(words, total ? `${bytes(used)} of ${bytes(total)}` : "not known yet");
      bar.firstChild.style.inlineSize = total ? `${((used / total) * 100).toFixed(1)}%` : "0";
      attribute(bar, "data-level", total && used / total > 0.9 ? "high" : null);
    },
  };
}

function howTo() {
  const step = (words, code) => h("li", {}, h("p", {}, words), code && h("p.command", {}, copyButton(code, `Copy: ${code}`, "copy.code")));
  return h("details.how-to", {}, h("summary", {}, "Add a node"), h("ol", {},
    step("On this machine, make the node and its secret. The Panel may go on running.", "longshore-panel node add my-node --secret-file my-node.secret"),
    step("Take the secret file to the node in a safe way, and delete it here."),
    step("On the node, start the Agent with the same name. It shows up here by itself.", "NODE_ID=my-node AGENT_SECRET_FILE=my-node.secret PANEL_URL=ws://PANEL:8080 longshore-agent"),
  ));
}
