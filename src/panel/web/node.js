// One node: its health, what it is, which servers share it, its load over time, and its secrets.

import { call, nodePath, post } from "./api.js";
import { place } from "./app.js";
import { charts } from "./charts.js";
import { ask, menu, open, toast } from "./dialogs.js";
import { copy, h, icon, text } from "./dom.js";
import { checkAll, field, numberRule } from "./fields.js";
import { nodes, onChange, servers } from "./live.js";
import { joinCommand, nodeState } from "./nodes.js";
import { go, url } from "./router.js";
import { mark, stateMark, stateOf, updateState } from "./states.js";
import { bytes, exactly, many, percent, span } from "./words.js";

export function show(main, at) {
  const id = at.parts[1];
  let node = nodes.get(id);
  if (!node) {
    place([["Nodes", "/nodes"], [id]]);
    main.append(h("div.empty", {}, icon("nodes"), h("h1", {}, "This node is not here"), h("p", {}, "It was removed, or never was."), h("div.buttons", {}, h("a.button", { href: "/nodes" }, "To the nodes"))));
    return {};
  }
  const title = h("h1.cut");
  const state = stateMark();
  const note = h("span.soft");
  const more = menu(h("button.button", { type: "button" }, icon("more"), "More"), () => [
    { label: "Edit…", icon: "edit", act: () => askEdit(node) },
    { label: node.maintenance ? "End maintenance" : "Begin maintenance", icon: "pause", act: () => maintain(node) },
    { label: "New join command…", icon: "terminal", act: () => askJoin(node) },
    { label: "Rotate the secret…", icon: "restart", act: () => askRotate(node) },
    "-",
    { label: "Revoke…", icon: "shield", danger: true, act: () => askRevoke(node) },
    { label: "Remove…", icon: "trash", danger: true, act: () => askRemove(node) },
  ]);
  const banners = h("div.banners");
  const facts = h("dl.facts");
  const shares = h("div.stack.tight");
  const list = h("ul.plain");
  const load = h("section.stack.tight", {}, h("h2", {}, "Load"));
  main.append(
    h("header.server-head.dims", {}, h("div.server-title", {}, title, h("p.server-facts", {}, h("span", { role: "status" }, state), note)), h("div.buttons", {}, more)),
    banners,
    h("div.split.node", {}, h("div.stack", {}, h("section.card", {}, h("header", {}, h("h2", {}, "Memory and disk")), h("div.in", {}, shares)), load), h("div.stack", {}, h("section.card", {}, h("header", {}, h("h2", {}, "About")), h("div.in", {}, facts)), h("section.card", {}, h("header", {}, h("h2", {}, "Servers")), list))));
  const view = charts(load, at, { path: nodePath(id, "/metrics"), cpu: "of all cores", network: false, memory: percent });

  function draw() {
    node = nodes.get(id);
    place([["Nodes", "/nodes"], [node.name || id]]);
    text(title, node.name || id);
    updateState(state, nodeState(node));
    text(note, node.neverJoined ? "" : `${node.online ? "linked" : "gone"} for ${span(Date.now() - new Date(node.since))}`);
    note.title = exactly(node.since);
    drawBanners();
    const { system = {} } = node;
    const rows = [
      ["Id", id],
      ["Address", node.address || "not set"],
      ["Ports", `${node.ports.first} to ${node.ports.last}`],
      ["Agent", node.version && `${node.version}${node.behind ? ", behind the Panel" : ""}`],
      ["System", [system.os, system.arch].filter(Boolean).join(", ")],
      ["Processor", [system.cpu, system.cpuCount && many(system.cpuCount, "core")].filter(Boolean).join(", ")],
      ["Memory", system.totalMemory && bytes(system.totalMemory)],
      ["Disk", system.totalDisk && bytes(system.totalDisk)],
      ["Docker", system.dockerVersion],
      ["Up for", system.uptime && span(system.uptime * 1000)],
      ["Round trip", node.online && node.roundTrip !== undefined && node.roundTrip !== null ? `${node.roundTrip.toFixed(1)} ms` : null],
      ["Clock", node.clockOffset === undefined || node.clockOffset === null ? null : Math.abs(node.clockOffset) < 0.5 ? "in step" : `${Math.abs(node.clockOffset).toFixed(1)} s ${node.clockOffset > 0 ? "ahead" : "behind"}`],
      ["Linked from", node.peer],
      ["Reconnects", String(node.reconnects)],
    ];
    const signature = JSON.stringify(rows);
    if (facts.dataset.now !== signature) {
      facts.dataset.now = signature;
      facts.replaceChildren(...rows.filter(([, value]) => value).map(([word, value]) => h("div", {}, h("dt", {}, word), h("dd.num", {}, value))));
    }
    const mine = [...servers.values()].filter((server) => server.node === id).sort((a, b) => a.name.localeCompare(b.name));
    list.replaceChildren(...(mine.length ? mine.map((server) => h("li", {}, h("a", { href: url("servers", id, server.id) }, h("span", { dataset: { stateTone: stateOf(server).tone } }, mark(stateOf(server).tone)), h("span.cut", {}, server.name)), h("span.soft.small", {}, stateOf(server).word))) : [h("li.soft", {}, "No server here yet.")]));
    drawShares(mine);
  }

  function drawShares(mine) {
    const { system = {}, load: now } = node;
    const stacked = (words, total, used, of) => {
      // Without a link nothing is known, which is not the same as nothing being used.
      if (!total || !now) return null;
      const parts = mine.map((server) => ({ server, value: of(server) ?? 0 })).filter(({ value }) => value > total / 500);
      const own = parts.reduce((sum, { value }) => sum + value, 0);
      const rest = Math.max(0, (used ?? own) - own);
      const piece = (value, index, label) => {
        const part = h("i", { title: `${label}: ${bytes(value)}`, dataset: index === null ? {} : { part: index % 6 } });
        part.style.width = `${(value / total) * 100}%`;
        return part;
      };
      return h("div.stacked", {}, h("div.stacked-head", {}, h("b", {}, words), h("span.soft.num", {}, `${bytes(Math.max(own, used ?? 0))} of ${bytes(total)}`)),
        h("div.stacked-bar", { role: "img", "aria-label": `${words}: ${bytes(Math.max(own, used ?? 0))} of ${bytes(total)} used` }, parts.map(({ server, value }, index) => piece(value, index, server.name)), rest > total / 500 && piece(rest, null, "The rest of the machine")),
        h("ul.legend-list", {}, parts.map(({ server, value }, index) => h("li", {}, h("i", { dataset: { part: index % 6 } }), server.name, h("span.soft.num", {}, bytes(value)))), h("li", {}, h("i"), "Rest of the machine", h("span.soft.num", {}, bytes(rest)))));
    };
    shares.replaceChildren(...[
      stacked("Memory", system.totalMemory, now && (system.totalMemory * now.memory) / 100, (server) => server.online ? server.usage?.memory?.used : 0),
      stacked("Disk", system.totalDisk, now && (system.totalDisk * now.disk) / 100, (server) => server.usage?.disk?.used),
    ].filter(Boolean));
    if (!shares.childElementCount) shares.replaceChildren(h("p.soft", {}, node.online || node.neverJoined ? "Known once the node has told of it." : "Not known while the node is offline."));
  }

  function drawBanners() {
    const list = [];
    if (node.neverJoined) list.push(["blue", "info", "It has not joined yet", "Run the join command on the machine.", "Show a join command", () => askJoin(node)]);
    else if (node.revoked) list.push(["red", "warn", "Its secrets are revoked", "It has to join again before it can work.", "New join command", () => askJoin(node)]);
    else if (!node.online) list.push(["violet", "warn", "It is offline", "Its servers go on running there. Check that the machine is up and reaches this Panel."]);
    if (node.maintenance) list.push(["grey", "pause", "It is in maintenance", "No new server is placed here, and the Panel starts none.", "End maintenance", () => maintain(node)]);
    if (node.rotation) list.push(["blue", "key", node.rotation.newUsed ? "The new secret is in use" : "A new secret waits to be used", `The one before works until ${exactly(node.rotation.until)}.`]);
    if (Math.abs(node.clockOffset ?? 0) > 5) list.push(["amber", "clock", "Its clock is off", `By ${Math.abs(node.clockOffset).toFixed(0)} s. Times in logs will not match; set up NTP there.`]);
    const signature = JSON.stringify(list);
    if (banners.dataset.now === signature) return;
    banners.dataset.now = signature;
    banners.replaceChildren(...list.map(([tone, symbol, title, words, label, act]) => h("div.banner", { dataset: { tone } }, icon(symbol), h("div", {}, h("strong", {}, title), words), label && h("button.button", { type: "button", onclick: act }, label))));
  }

  draw();
  const stop = onChange(({ kind }) => {
    if (!["all", "node", "server", "usage"].includes(kind)) return;
    if (nodes.has(id)) draw();
    else go("/nodes", { replace: true });
  });
  return { update: view.update, hide: () => (stop(), view.hide()) };
}

function maintain(node) {
  call("PATCH", nodePath(node.id), { maintenance: !node.maintenance }).catch((refused) => toast(refused.message, "crashed"));
}

function askEdit(node) {
  const name = field({ label: "Name", input: h("input", { value: node.name, maxLength: 64, required: true, autocomplete: "off" }) });
  const address = field({ label: "Address for players", optional: true, input: h("input", { value: node.address, maxLength: 253, autocomplete: "off", spellcheck: false }), help: "Host name or IP that players connect to." });
  const first = field({ label: "First port", input: h("input", { value: node.ports.first, inputMode: "numeric", required: true }), rule: numberRule(1, 65535) });
  const last = field({ label: "Last port", input: h("input", { value: node.ports.last, inputMode: "numeric", required: true }), rule: numberRule(1, 65535) });
  ask({ title: `Edit ${node.name || node.id}`, button: "Save", extra: [name.element, address.element, h("div.fields", {}, first.element, last.element), h("p.soft.small", {}, "New servers get their ports from this range.")], act: async () => {
    if (!checkAll([name, address, first, last])) throw Object.assign(new Error("Some fields need another look."), { name: "Refused" });
    await call("PATCH", nodePath(node.id), { name: name.value, address: address.value, ports: { first: Number(first.value), last: Number(last.value) } });
  } });
}

async function askJoin(node) {
  if (!node.neverJoined && !node.revoked) {
    const sure = await ask({ title: "Make a new join command?", words: "Whoever runs it takes this node's place; a machine that is linked now is told to go.", button: "Make it", act: async () => {} });
    if (!sure) return;
  }
  let join;
  try {
    join = await post(nodePath(node.id, "/join"));
  } catch (refused) {
    return toast(refused.message, "crashed");
  }
  let stop = () => {};
  open("Join", (dialog, heading) => joinCommand(dialog, heading, node, join, (off) => (stop = off)), { wide: true, onclose: () => stop() });
}

/** Something secret that is shown once. */
export function showOnce(title, words, secret) {
  open(title, (dialog, heading) => {
    const button = h("button.button", { type: "button", onclick: () => copy(secret, button) }, icon("copy"), "Copy");
    return h("form", { method: "dialog" }, heading, h("p.soft", {}, words), h("div.secret", {}, h("code", { tabIndex: 0 }, secret), h("div.buttons", {}, button)), h("div.buttons", {}, h("button.button.primary", {}, "I have it")));
  }, { wide: true });
}

function askRotate(node) {
  let made;
  ask({ title: "Rotate the secret?", words: "A new secret is made. The one before goes on working for 24 hours, so that you can put the new one into the node's file without a break.", button: "Rotate", act: async () => (made = await post(nodePath(node.id, "/rotate"))) })
    .then((done) => done && showOnce("The new secret", "Put it into the node's AGENT_SECRET_FILE. It is shown only now.", made.secret));
}

function askRevoke(node) {
  ask({ title: `Revoke ${node.name || node.id}?`, words: "Its secrets are void at once and its link is closed. Its servers go on running; it has to join again to be reached.", typed: node.id, button: "Revoke", danger: true, act: () => post(nodePath(node.id, "/revoke")) });
}

function askRemove(node) {
  ask({ title: `Remove ${node.name || node.id}?`, words: "Its servers go on running where they are and are forgotten here.", typed: node.id, button: "Remove", danger: true, act: async () => (await call("DELETE", nodePath(node.id)), go("/nodes")) });
}
