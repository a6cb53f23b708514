// The form that creates a server, and the question before one is deleted.

import { alarm, attribute, bytes, h, icon, say, text } from "./dom.js";
import { Refused, command, keyOf, nodes, onChange, servers } from "./live.js";
import { progressOf } from "./states.js";

export const title = "Create a server";
let current;

export function show(main) {
  current = new CreateForm();
  main.replaceChildren(current.element);
  current.update();
}

export function hide() {
  current = undefined;
}

onChange((change) => {
  if (current && change.kind !== "usage" && change.kind !== "link") current.update();
});

let ids = 0;

/** A labelled control with help and a place for its error. */
function field(label, control, help, ...names) {
  const id = `field-${++ids}`;
  control.id = id;
  const error = h("p.field-error", { id: `${id}-error`, hidden: true });
  const hint = help && h("p.help", { id: `${id}-help` }, help);
  attribute(control, "aria-describedby", [hint && hint.id, error.id].filter(Boolean).join(" "));
  const element = h("div.field", {}, h("label", { htmlFor: id }, label), control, hint, error);
  const fail = (words) => {
    error.hidden = !words;
    text(error, words ?? "");
    attribute(control, "aria-invalid", words ? "true" : null);
  };
  control.addEventListener("input", () => fail(null));
  return { element, control, fail, names };
}

class CreateForm {
  constructor() {
    const input = (properties) => h("input", { type: "text", autocomplete: "off", spellcheck: false, ...properties });
    this.image = field("Image", input({ required: true, placeholder: "itzg/minecraft-server:latest" }), "The container image, with its tag.", "image");
    this.startup = field("Start command", input({ placeholder: "The image's own" }), "Leave empty to run what the image runs. {{SERVER_PORT}} and {{SERVER_MEMORY}} are filled in.", "startup");
    this.name = field("Name", input({ placeholder: "Survival world", maxLength: 80 }), "What you call it.", "name");
    this.id = field("Id", input({ pattern: "[A-Za-z0-9_][A-Za-z0-9._\\-]{0,63}", maxLength: 64 }), "Made from the name unless you choose one. It stays for good.", "id", "serverId");
    this.node = field("Node", h("select", { required: true }), null, "node");
    this.memory = field("Memory in MiB", input({ type: "number", inputMode: "numeric", min: 6, step: 1, placeholder: "No limit" }), "The server cannot take more than this.", "limits.memory", "limits");
    this.fields = [this.image, this.startup, this.name, this.id, this.node, this.memory];
    this.ports = new Rows("Add a port", portRow, "ports");
    this.environment = new Rows("Add a variable", variableRow, "environment");
    this.start = h("input", { type: "checkbox", id: "start-now", checked: true });
    this.problem = h("div.problem", { hidden: true });
    this.progress = h("p.progress-words", { hidden: true });
    this.submit = h("button.button.primary", { type: "submit" }, "Create server");
    this.summary = h("dl.facts");
    this.background = h("a.button", { href: "#/servers", hidden: true }, "Go on in the background");
    const step = (number, heading, ...children) => h("section.card", {}, h("h2", {}, h("span.step", { "aria-hidden": "true" }, number), heading), ...children);
    const form = h("form.create", { noValidate: true, onsubmit: (event) => this.send(event), oninput: () => this.summarise() },
      step("1", "What runs", this.image.element, this.startup.element),
      step("2", "Name, node and ports", h("div.pair", {}, this.name.element, this.id.element), this.node.element,
        h("fieldset", {}, h("legend", {}, "Ports"), h("p.help", {}, "Outside is what players connect to; inside is what the server listens on."), this.ports.element)),
      step("3", "Limits and variables", this.memory.element, h("fieldset", {}, h("legend", {}, "Variables"), this.environment.element)),
      h("aside.card.aside", {}, h("h2", {}, "Summary"), this.summary,
        h("label.check", {}, this.start, "Start it once it is there"), this.problem, this.progress, this.submit, this.background),
    );
    this.element = h("div", {}, h("div.head", {}, h("a.back", { href: "#/servers", "aria-label": "Back to the servers" }, icon("M10 3 5 8l5 5")), h("h1", {}, title)), form);
    form.addEventListener("rows", () => this.summarise());
    this.ports.add();
  }

  update() {
    const select = this.node.control;
    const chosen = select.value;
    const all = [...nodes.values()].sort((a, b) => Number(b.online) - Number(a.online) || a.id.localeCompare(b.id));
    const label = (node) => (node.online ? (node.system?.freeMemory ? `${node.id} (${bytes(node.system.freeMemory)} free)` : node.id) : `${node.id} (offline)`);
    select.replaceChildren(...all.map((node) => h("option", { value: node.id, disabled: !node.online }, label(node))));
    if (nodes.get(chosen)?.online) select.value = chosen;
    else select.value = all.find((node) => node.online)?.id ?? "";
    if (!select.value) this.node.fail(all.length ? "No node is online. Start an Agent first." : "There is no node yet. Add one first, under Nodes.");
    else this.node.fail(null);
    if (this.pending) {
      const progress = progressOf(servers.get(this.pending)?.commands[0]?.progress);
      const share = progress && progress.share !== null ? `, ${Math.round(progress.share * 100)} %` : "";
      text(this.progress, progress ? `${progress.words}${share}` : "");
      this.progress.hidden = !progress;
    }
    this.summarise();
  }

  summarise() {
    const memory = Number(this.memory.control.value);
    const ports = this.ports.values().filter((port) => port.external);
    const rows = [
      ["Name", this.name.control.value.trim() || "Not named yet"],
      ["Image", this.image.control.value.trim() || "Not chosen yet"],
      ["Node", this.node.control.value || "None online"],
      ["Ports", ports.length ? ports.map((port) => `${port.external} → ${port.internal || port.external}/${port.protocol}`).join(", ") : "None open"],
      ["Memory", memory > 0 ? bytes(memory * 2 ** 20) : "No limit"],
      ["Variables", String(this.environment.values().filter((one) => one.name).length)],
    ];
    this.summary.replaceChildren(...rows.map(([key, value]) => h("div", {}, h("dt", {}, key), h("dd", {}, value))));
  }

  /** What is wrong with what was typed, each in its place; true when nothing is. */
  check() {
    this.fail(null);
    for (const one of this.fields) one.fail(null);
    const wrong = [];
    const expect = (one, ok, words) => {
      if (!ok) wrong.push([one, words]);
    };
    expect(this.image, this.image.control.value.trim(), "Say which image to run.");
    expect(this.id, this.id.control.validity.valid, "Use A-Z a-z 0-9 . _ -, not starting with . or -");
    expect(this.node, this.node.control.value, "Choose a node that is online.");
    const memory = this.memory.control;
    expect(this.memory, memory.validity.valid && !memory.validity.badInput, "Use a whole number of MiB, 6 at least.");
    const rows = [this.ports.check((row) => portFault(row.value())), this.environment.check((row) => variableFault(row.value()))];
    for (const [one, words] of wrong) one.fail(words);
    const first = wrong[0]?.[0].control ?? rows.find(Boolean);
    first?.focus();
    if (first) alarm("Some fields need another look.");
    return !first;
  }

  spec() {
    const ports = this.ports.values().filter((port) => port.external)
      .map(({ internal, external, protocol }) => ({ internal: Number(internal || external), external: Number(external), protocol }));
    const environment = Object.fromEntries(this.environment.values().filter((one) => one.name).map((one) => [one.name, one.value]));
    const value = (one) => one.control.value.trim() || undefined;
    const memory = Number(this.memory.control.value);
    return {
      node: this.node.control.value,
      id: value(this.id),
      start: this.start.checked,
      image: value(this.image),
      name: value(this.name),
      startup: value(this.startup),
      ports,
      environment,
      limits: memory > 0 ? { memory: `${memory}m` } : undefined,
    };
  }

  async send(event) {
    event.preventDefault();
    if (this.submit.getAttribute("aria-disabled") || !this.check()) return;
    this.busy(true);
    try {
      const sent = await command("POST", "servers", this.spec());
      this.pending = keyOf({ node: sent.command.node, id: sent.command.serverId });
      this.background.hidden = false;
      await sent.outcome;
      say("The server is created.");
      if (current === this) location.hash = "#/servers";
    } catch (refused) {
      if (!(refused instanceof Refused)) throw refused;
      this.refuse(refused);
    } finally {
      this.busy(false);
    }
  }

  /** Puts a refusal where it belongs; what was typed stays. */
  refuse({ field: name, message }) {
    const one = name && this.fields.find((one) => one.names.includes(name));
    const row = name && (this.ports.find(name) ?? this.environment.find(name));
    if (one) {
      one.fail(message);
      one.control.focus();
    } else if (row) {
      row.fail(message);
      row.focus();
    }
    this.fail(one || row ? "One field needs another look." : `The server was not created. ${name ? `${name}: ` : ""}${message}`);
  }

  fail(words) {
    this.problem.hidden = !words;
    this.problem.replaceChildren(...(words ? [h("p", {}, words)] : []));
    if (!words) return;
    alarm(words);
    this.problem.scrollIntoView({ block: "nearest" });
  }

  busy(busy) {
    attribute(this.submit, "aria-disabled", busy ? "true" : null);
    this.submit.classList.toggle("busy", busy);
    text(this.submit, busy ? "Creating…" : "Create server");
    if (!busy) {
      this.pending = undefined;
      this.background.hidden = this.progress.hidden = true;
    }
  }
}

/** A list of rows that can be added to and taken from, such as ports. */
class Rows {
  constructor(label, make, name) {
    this.make = make;
    this.name = name;
    this.rows = [];
    this.list = h("div.rows");
    this.element = h("div", {}, this.list, h("button.button.small", { type: "button", onclick: () => this.add().focus() }, icon("M8 3v10M3 8h10"), label));
  }

  add() {
    const row = this.make(() => this.remove(row));
    this.rows.push(row);
    this.list.append(row.element);
    this.changed();
    return row;
  }

  remove(row) {
    this.rows.splice(this.rows.indexOf(row), 1);
    row.element.remove();
    this.element.querySelector(":scope > button").focus();
    this.changed();
  }

  changed() {
    this.element.dispatchEvent(new CustomEvent("rows", { bubbles: true }));
  }

  values() {
    return this.rows.map((row) => row.value());
  }

  /** Shows each row's fault; the first one's control. */
  check(faultOf) {
    let first;
    for (const row of this.rows) {
      const fault = faultOf(row);
      row.fail(fault);
      if (fault) first ??= row;
    }
    return first;
  }

  /** The row that a field's name such as `ports[1].external` or `environment.EULA` is about. */
  find(name) {
    if (!name.startsWith(this.name)) return undefined;
    const index = /\[(\d+)\]/.exec(name);
    if (index) return this.rows.filter((row) => row.value().external)[Number(index[1])];
    return this.rows.find((row) => name === `${this.name}.${row.value().name}`);
  }
}

function rowOf(cells, remove, value, name) {
  const error = h("p.field-error", { hidden: true });
  const element = h("div.row", {}, ...cells, h("button.icon-button", { type: "button", "aria-label": `Remove this ${name}`, onclick: remove }, icon("M4 4l8 8M12 4l-8 8")), error);
  const fail = (words) => {
    error.hidden = !words;
    text(error, words ?? "");
    for (const control of element.querySelectorAll("input")) attribute(control, "aria-invalid", words ? "true" : null);
  };
  element.addEventListener("input", () => fail(null));
  return { element, fail, value, focus: () => element.querySelector("input").focus() };
}

function portRow(remove) {
  const number = (label) => h("input", { type: "text", inputMode: "numeric", maxLength: 5, placeholder: label, "aria-label": `Port ${label}` });
  const [outside, inside] = [number("outside"), number("inside")];
  outside.addEventListener("input", () => {
    if (!inside.value || inside.dataset.follows) {
      inside.value = outside.value;
      inside.dataset.follows = "yes";
    }
  });
  inside.addEventListener("input", () => delete inside.dataset.follows);
  const protocol = h("select", { "aria-label": "Protocol" }, h("option", { value: "tcp" }, "TCP"), h("option", { value: "udp" }, "UDP"));
  const value = () => ({ external: outside.value.trim(), internal: inside.value.trim(), protocol: protocol.value });
  return rowOf([outside, h("span.arrow", { "aria-hidden": "true" }, "→"), inside, protocol], remove, value, "port");
}

function variableRow(remove) {
  const name = h("input.mono", { type: "text", placeholder: "NAME", "aria-label": "Variable name", autocomplete: "off", spellcheck: false });
  const value = h("input.mono", { type: "text", placeholder: "value", "aria-label": "Variable value", autocomplete: "off", spellcheck: false });
  return rowOf([name, h("span.arrow", { "aria-hidden": "true" }, "="), value], remove, () => ({ name: name.value.trim(), value: value.value }), "variable");
}

function portFault({ external, internal }) {
  if (!external && !internal) return null;
  const isPort = (text) => /^\d{1,5}$/.test(text) && Number(text) >= 1 && Number(text) <= 65535;
  return isPort(external) && (!internal || isPort(internal)) ? null : "A port is a number from 1 to 65535.";
}

function variableFault({ name, value }) {
  if (!name) return value ? "Give the variable a name." : null;
  return /^[A-Za-z_][A-Za-z0-9_]*$/.test(name) ? null : "A name has letters, digits and _, and does not start with a digit.";
}

/** Asks for the server's name before it is deleted; `done` gets what else was chosen. */
export function askDelete(server, done) {
  const name = h("input", { type: "text", id: "delete-name", autocomplete: "off", spellcheck: false });
  const files = h("input", { type: "checkbox" });
  const confirm = h("button.button.danger.solid", { type: "submit", disabled: true }, "Delete");
  name.addEventListener("input", () => (confirm.disabled = name.value.trim() !== server.name));
  const close = () => dialog.close();
  const dialog = h("dialog.ask", { "aria-labelledby": "ask-title" }, h("form", {
    method: "dialog",
    onsubmit: () => {
      if (!confirm.disabled) done({ removeData: files.checked });
    },
  },
    h("h2", { id: "ask-title" }, `Delete ${server.name}?`),
    h("p", {}, "It is stopped, and its container is removed. Its files stay on the node unless you say otherwise."),
    h("div.field", {}, h("label", { htmlFor: "delete-name" }, "Type ", h("b", {}, server.name), " to confirm"), name),
    h("label.check", {}, files, "Delete its files too, for good"),
    h("div.buttons", {}, h("button.button", { type: "button", onclick: close }, "Cancel"), confirm),
  ));
  dialog.addEventListener("close", () => dialog.remove());
  document.body.append(dialog);
  dialog.showModal();
  name.focus();
}
