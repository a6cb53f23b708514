// Creating a server: template, place, settings, on one page with a summary beside it that fills in.

import { all, command, get, nodePath, query } from "./api.js";
import { place } from "./app.js";
import { busy, toast } from "./dialogs.js";
import { attribute, h, icon, text } from "./dom.js";
import { checkAll, field, numberRule, pairs, portRows, sizeRule, sizeValue, sizeWords, variableFields } from "./fields.js";
import { nodeName, nodes, onChange, servers } from "./live.js";
import { choose, go, url } from "./router.js";
import { bytes, many, upper } from "./words.js";

export function show(main, at) {
  place([["Servers", "/servers"], ["Create a server"]]);
  let templates = [];
  let template = null;
  let node = null;
  let gone = false;
  let variables = {};
  let ports = null;
  let extra = null;
  let chosenPorts = [];

  const cards = h("div.templates", { role: "radiogroup", "aria-label": "Template" });
  const docs = h("details.docs", { hidden: true }, h("summary", {}, "What to know"), h("div"));
  const name = field({ label: "Name", input: h("input", { required: true, maxLength: 64, autocomplete: "off" }), help: "As people know it." });
  const image = field({ label: "Image", input: h("input", { required: true, maxLength: 255, spellcheck: false, autocomplete: "off", autocapitalize: "none" }), help: "Name and tag of the container image." });
  const nodeList = h("div.node-choice", { role: "radiogroup", "aria-label": "Node" });
  const memory = field({ label: "Memory", optional: true, input: h("input", { autocomplete: "off" }), rule: sizeRule, help: "Empty means no limit." });
  const cpu = field({ label: "Processor", optional: true, input: h("input", { inputMode: "numeric", autocomplete: "off" }), rule: numberRule(1, 100_000), help: "Percent of one core; 200 is two cores. Empty means no limit." });
  const disk = field({ label: "Disk", optional: true, input: h("input", { autocomplete: "off" }), rule: sizeRule, help: "Over it the server is stopped. Empty means no limit." });
  const portPlace = h("div");
  const variablePlace = h("div.fields");
  const extraPlace = h("div");
  const start = h("input", { type: "checkbox", checked: true });
  const go_ = h("button.button.primary", {}, "Create server");
  const fault = h("p.wrong", { role: "alert" });
  const summary = h("dl.facts");
  const step = (number, title, words, ...rest) => h("section.card", {}, h("header", {}, h("div.step-title", {}, h("span.step-number", { "aria-hidden": "true" }, String(number)), h("h2", {}, title)), words && h("span.soft.small", {}, words)), h("div.in.stack.tight", {}, ...rest));
  const form = h("form.split.create", { noValidate: true, oninput: () => tell(), onsubmit: (event) => (event.preventDefault(), create()) },
    h("div.stack", {},
      step(1, "Game", "", cards, docs),
      step(2, "Name and place", "", h("div.fields", {}, name.element, image.element), h("div.field", {}, h("span.label", {}, "Node"), nodeList), h("div.field", {}, h("span.label", {}, "Ports"), h("p.help", {}, "Left empty, a free one of the node is taken."), portPlace), h("div.fields", {}, memory.element, cpu.element, disk.element)),
      step(3, "Settings", "", variablePlace, h("details.more-fields", {}, h("summary", {}, "More environment variables"), extraPlace))),
    h("aside.card.summary", { "aria-label": "Summary" }, h("header", {}, h("h2", {}, "Summary")), h("div.in.stack.tight", {}, summary, h("label.check", {}, start, h("span", {}, h("b", {}, "Start it at once"))), h("div.field", {}, fault), go_)));
  main.append(h("div.head", {}, h("h1", {}, "Create a server")), form);

  async function load() {
    try {
      templates = await all("/templates");
    } catch (refused) {
      if (!gone) main.replaceChildren(h("div.card.empty", {}, icon("warn"), h("h2", {}, "The templates cannot be shown"), h("p", {}, refused.message)));
      return;
    }
    if (gone) return;
    cards.replaceChildren(...templates.map((one) => h("label.template", {}, h("input", { type: "radio", name: "template", value: one.id, onchange: () => choose({ template: one.id }) }), h("span.template-icon", { "aria-hidden": "true" }, one.icon || one.name.slice(0, 2)), h("span", {}, h("b", {}, one.name), h("small", {}, one.summary)))));
    take(at);
  }

  function pick(id) {
    const next = templates.find((one) => one.id === id) ?? templates[0];
    if (!next || next === template) return;
    const before = template;
    template = next;
    for (const input of cards.querySelectorAll("input")) input.checked = input.value === next.id;
    docs.hidden = !next.docs;
    docs.lastElementChild.replaceChildren(...(next.docs ?? "").split(/\n\s*\n/).map((part) => h("p", {}, part)));
    if (!name.value || (before && name.value === `${before.name} server`)) name.input.value = next.name.toLowerCase().includes("server") ? next.name : `${next.name} server`;
    image.input.value = next.image;
    image.element.hidden = !next.imageEditable && Boolean(next.image);
    memory.input.value = sizeWords(next.limits?.memory);
    cpu.input.value = next.limits?.cpu || "";
    disk.input.value = sizeWords(next.limits?.disk);
    const fields = variableFields(next.variables);
    variables = fields;
    variablePlace.replaceChildren(...Object.values(fields).map(({ element }) => element));
    if (!next.variables.length) variablePlace.replaceChildren(h("p.soft", {}, "This template has no settings of its own."));
    extra = pairs({});
    extraPlace.replaceChildren(extra.element);
    drawPorts();
    tell();
  }

  async function drawPorts() {
    if (!template) return;
    ports = portRows(template.ports.map(({ internal, protocol, label }) => ({ internal, protocol, label })), tell);
    portPlace.replaceChildren(ports.element);
    chosenPorts = [];
    if (!node || !template.ports.length) return tell();
    const mine = node;
    const free = await get(nodePath(node, "/free-ports") + query({ count: template.ports.length })).catch(() => null);
    if (gone || mine !== node || !free) return;
    const taken = new Set([...servers.values()].filter((server) => server.node === node).flatMap((server) => server.ports.map(({ external }) => external)));
    for (const [index, { preferred, offset }] of template.ports.entries()) {
      chosenPorts.push(offset !== undefined && index ? chosenPorts[0] + offset : preferred && !taken.has(preferred) ? preferred : free.ports[index]);
    }
    portPlace.querySelectorAll(".port").forEach((row, index) => (row.querySelector("input").placeholder = chosenPorts[index] ? String(chosenPorts[index]) : "chosen"));
    tell();
  }

  function drawNodes() {
    const list = [...nodes.values()].filter((one) => !one.neverJoined && !one.revoked).sort((a, b) => b.online - a.online || a.id.localeCompare(b.id));
    if (!list.some(({ id }) => id === node)) node = list.filter((one) => one.online && !one.maintenance).sort((a, b) => room(b) - room(a))[0]?.id ?? null;
    nodeList.replaceChildren(...list.map((one) => h("label.node-card", {}, h("input", { type: "radio", name: "node", value: one.id, checked: one.id === node, disabled: !one.online || one.maintenance, onchange: () => ((node = one.id), drawPorts()) }), h("span", {}, h("b", {}, one.name || one.id), h("small.soft", {}, !one.online ? "offline" : one.maintenance ? "in maintenance" : [freeMemory(one), many(one.servers, "server")].filter(Boolean).join(", "))))));
    if (!list.length) nodeList.replaceChildren(h("p.soft", {}, "There is no node yet. ", h("a", { href: "/nodes?add=1" }, "Add one"), " first."));
    drawPorts();
  }

  /** Bytes of memory that are free there. */
  const room = ({ system, load }) => (system?.totalMemory ? (load ? system.totalMemory * (1 - load.memory / 100) : system.freeMemory ?? system.totalMemory) : 0);

  function freeMemory(one) {
    const total = one.system?.totalMemory;
    if (!total) return "";
    return `${bytes(room(one))} of ${bytes(total)} memory free`;
  }

  function tell() {
    const rows = [
      ["Game", template?.name],
      ["Name", name.value],
      ["Node", node && nodeName(node)],
      ["Ports", ports?.value().map(({ external, protocol }, index) => `${external ?? chosenPorts[index] ?? "?"}/${protocol}`).join(", ")],
      ["Memory", limitWords(memory)],
      ["Processor", cpu.value ? `${cpu.value} %` : "no limit"],
      ["Disk", limitWords(disk)],
    ];
    const low = template?.minMemory && sizeValue(memory.value) && sizeValue(memory.value) < template.minMemory;
    memory.element.querySelector(".help").textContent = low ? `${template.name} wants at least ${bytes(template.minMemory)}.` : "Empty means no limit.";
    summary.replaceChildren(...rows.map(([word, value]) => h("div", {}, h("dt", {}, word), h("dd", {}, value || h("span.soft", {}, "–")))));
    attribute(go_, "aria-disabled", node ? null : "true");
  }

  const limitWords = ({ value }) => (value ? (sizeRule(value) ? "?" : sizeWords(sizeValue(value))) : "no limit");

  async function create() {
    const fields = [name, ...(image.element.hidden ? [] : [image]), memory, cpu, disk, ...Object.values(variables)];
    text(fault, "");
    if (!node) return text(fault, "Choose a node that is online.");
    if (!checkAll(fields) || !ports.check()) return text(fault, "Some fields need another look.");
    const body = {
      node,
      name: name.value,
      template: template.id,
      variables: Object.fromEntries(Object.entries(variables).map(([key, one]) => [key, one.value]).filter(([key, value]) => value !== "" || template.variables.find((one) => one.name === key)?.default)),
      ports: ports.value(),
      limits: { ...(memory.value && { memory: sizeValue(memory.value) }), ...(cpu.value && { cpu: Number(cpu.value) }), ...(disk.value && { disk: sizeValue(disk.value) }) },
      start: start.checked,
      ...(image.element.hidden || image.value === template.image ? {} : { image: image.value }),
    };
    const environment = Object.fromEntries(Object.entries(extra.value()).filter(([, value]) => value !== null));
    if (Object.keys(environment).length) body.environment = environment;
    let shown = false;
    const off = onChange(({ kind, keys }) => {
      // As soon as the Panel knows it, its own page tells the rest: the pull, the start, the first lines.
      if (kind !== "server") return;
      const made = keys.map((key) => servers.get(key)).find((server) => server && server.node === node && server.name === body.name && server.commands.some(({ action }) => action === "create_server"));
      if (made && !shown) {
        shown = true;
        go(url("servers", made.node, made.id));
      }
    });
    await busy(go_, async () => {
      const done = await command("POST", "/servers", body);
      if (!shown) go(url("servers", done.node, done.serverId));
      else toast(`${body.name} is created.`);
    }, (refused) => {
      if (shown) return toast(`${body.name}: ${refused.message}`, "crashed");
      const at = refused.field?.startsWith("variables.") ? variables[refused.field.slice(10)] : { name, image, "limits.memory": memory, "limits.cpu": cpu, "limits.disk": disk }[refused.field];
      if (at) {
        at.refuse(refused.message);
        at.input.focus();
      } else if (refused.field?.startsWith("ports")) ports.refuse(refused.message);
      text(fault, at ? "Some fields need another look." : upper(refused.message));
    });
    off();
  }

  function take(route) {
    at = route;
    if (templates.length) pick(route.query.get("template"));
  }

  drawNodes();
  tell();
  load();
  const signature = () => [...nodes.values()].map(({ id, online, maintenance, neverJoined }) => [id, online, maintenance, neverJoined].join()).join(";");
  let known = signature();
  const stop = onChange(({ kind }) => {
    if ((kind === "node" || kind === "all") && signature() !== known) {
      known = signature();
      drawNodes();
    }
  });
  return { update: take, hide: () => ((gone = true), stop()) };
}
