// The settings tab of a server: what it is, its limits, its ports, the template's variables, and its end.

import { command, get, isAdmin, serverPath } from "./api.js";
import { askToDelete } from "./actions.js";
import { ask, busy, toast } from "./dialogs.js";
import { h, icon, text } from "./dom.js";
import { checkAll, field, numberRule, pairs, portRows, sizeRule, sizeValue, sizeWords, variableFields } from "./fields.js";

export function tab(body, server) {
  let gone = false;
  const path = serverPath(server);

  async function load() {
    try {
      const full = await get(path);
      const template = full.template ? await get(`/templates/${encodeURIComponent(full.template)}`).catch(() => null) : null;
      if (!gone) draw(full, template);
    } catch (refused) {
      if (!gone) body.replaceChildren(h("div.card.empty", {}, icon("warn"), h("h2", {}, "The settings cannot be shown"), h("p", {}, refused.message)));
    }
  }

  function draw(full, template) {
    const spec = full.spec ?? {};
    const environment = spec.environment ?? {};
    const mine = new Set((template?.variables ?? []).map(({ name }) => name));
    const name = field({ label: "Name", input: h("input", { value: full.name, required: true, maxLength: 64, autocomplete: "off" }) });
    const image = field({ label: "Image", input: h("input", { value: full.image, required: true, maxLength: 255, spellcheck: false, autocomplete: "off", disabled: Boolean(template && !template.imageEditable) }), help: template && !template.imageEditable ? "Set by the template." : "Name and tag." });
    const memory = field({ label: "Memory", optional: true, input: h("input", { value: sizeWords(full.limits?.memory), autocomplete: "off" }), rule: sizeRule, help: "Empty means no limit. Takes effect at once; taking a limit away needs a restart." });
    const cpu = field({ label: "Processor", optional: true, input: h("input", { value: full.limits?.cpu || "", inputMode: "numeric", autocomplete: "off" }), rule: numberRule(1, 100_000), help: "Percent of one core; 200 is two cores." });
    const disk = field({ label: "Disk", optional: true, input: h("input", { value: sizeWords(full.limits?.disk), autocomplete: "off" }), rule: sizeRule, help: "Over it the server is stopped." });
    const stop = spec.stop ?? {};
    const stopKind = h("select", {}, [["command", "A line on its console"], ["signal", "A signal"]].map(([value, words]) => h("option", { value, selected: stop.type === value }, words)));
    const stopHow = field({ label: "Stop by", input: stopKind });
    const stopValue = field({ label: "Line or signal", optional: true, input: h("input", { value: stop.value ?? "", maxLength: 200, spellcheck: false, autocomplete: "off" }), help: "Such as stop, or SIGTERM." });
    const stopTime = field({ label: "Seconds to stop in", optional: true, input: h("input", { value: stop.timeout ?? full.stopTimeout ?? "", inputMode: "numeric" }), rule: numberRule(0, 3600), help: "Then it is killed." });
    const variables = variableFields(template?.variables ?? [], { ...environment, ...full.variables });
    const others = pairs(Object.fromEntries(Object.entries(environment).filter(([key]) => !mine.has(key)).map(([key, value]) => [key, String(value)])));
    const ports = portRows(full.ports);
    const save = h("button.button.primary", {}, "Save changes");
    const fault = h("p.wrong", { role: "alert" });
    const first = { limits: JSON.stringify(limits()), ports: JSON.stringify(ports.value()), stop: JSON.stringify(stopNow()), variables: JSON.stringify(values()), others: JSON.stringify(others.value()), name: name.value, image: image.value };

    function limits() {
      return { memory: sizeValue(memory.value), cpu: Number(cpu.value) || 0, disk: sizeValue(disk.value) };
    }
    function stopNow() {
      return stopValue.value ? { type: stopKind.value, value: stopValue.value, ...(stopTime.value ? { timeout: Number(stopTime.value) } : {}) } : null;
    }
    function values() {
      return Object.fromEntries(Object.entries(variables).map(([key, one]) => [key, one.value]));
    }

    function changes() {
      const change = {};
      if (name.value !== first.name) change.name = name.value;
      if (image.value !== first.image) change.image = image.value;
      if (JSON.stringify(limits()) !== first.limits) change.limits = limits();
      if (JSON.stringify(ports.value()) !== first.ports) change.ports = ports.value();
      if (JSON.stringify(stopNow()) !== first.stop) change.stop = stopNow();
      if (JSON.stringify(values()) !== first.variables) change.variables = values();
      if (JSON.stringify(others.value()) !== first.others) change.environment = others.value();
      return change;
    }

    const section = (title, words, ...rest) => h("section.card", {}, h("header", {}, h("h2", {}, title), words && h("span.soft.small", {}, words)), h("div.in", {}, ...rest));
    const form = h("form.stack", {
      noValidate: true,
      oninput: () => tell(),
      onsubmit: (event) => {
        event.preventDefault();
        text(fault, "");
        if (!checkAll([name, image, memory, cpu, disk, stopValue, stopTime, ...Object.values(variables)]) || !ports.check()) return text(fault, "Some fields need another look.");
        const change = changes();
        if (!Object.keys(change).length) return;
        busy(save, async () => {
          await command("PATCH", path, change);
          // Should it need a restart, the banner above says so as soon as the node has.
          toast(`The settings of ${full.name} are saved.`);
          load();
        }, (refused) => {
          const at = refused.field?.startsWith("variables.") ? variables[refused.field.slice(10)] : { name, image, "limits.memory": memory, "limits.cpu": cpu, "limits.disk": disk }[refused.field];
          at?.refuse(refused.message);
          at?.input.focus();
          if (refused.field?.startsWith("ports")) ports.refuse(refused.message);
          text(fault, refused.message);
        });
      },
    },
    section("General", template ? `Made from ${template.name}` : "", h("div.fields", {}, name.element, image.element)),
    section("Limits", "", h("div.fields", {}, memory.element, cpu.element, disk.element)),
    template?.variables.length ? section("Game settings", "They take effect at the next start.", h("div.fields", {}, Object.values(variables).map(({ element }) => element))) : null,
    section("Ports", "They take effect at the next start.", ports.element),
    section("Stopping", "", h("div.fields", {}, stopHow.element, stopValue.element, stopTime.element)),
    section("Environment", "", others.element));
    const bar = h("div.save-bar", { hidden: true }, h("span.soft", {}, "Changes that are not saved"), fault, h("div.buttons", {}, h("button.button", { type: "button", onclick: () => draw(full, template) }, "Discard"), save));
    form.append(bar);
    form.addEventListener("click", () => setTimeout(tell));
    function tell() {
      bar.hidden = !Object.keys(changes()).length;
    }

    const danger = h("section.card.danger-zone", {}, h("header", {}, h("h2", {}, "Careful")), h("div.in.stack.tight", {},
      spec.install && h("div.danger-row", {}, h("div", {}, h("h3", {}, "Install again"), h("p.soft", {}, "Stops it and runs the install script of its template. Files stay unless you say otherwise.")), h("button.button", { type: "button", onclick: reinstall }, "Install again")),
      isAdmin() && h("div.danger-row", {}, h("div", {}, h("h3", {}, "Delete this server"), h("p.soft", {}, "Its files stay on the node unless you delete them too.")), h("button.button.danger", { type: "button", onclick: () => askToDelete(server) }, "Delete…"))));
    body.replaceChildren(form, ...(isAdmin() || spec.install ? [danger] : []));
  }

  function reinstall() {
    const keep = h("input", { type: "checkbox", checked: true });
    ask({ title: `Install ${server.name} again?`, words: "It is stopped, and its install script runs.", extra: h("label.check", {}, keep, h("span", {}, h("b", {}, "Keep its files"))), button: "Install again", danger: true, act: async () => void command("POST", serverPath(server, "/reinstall"), { keepData: keep.checked }).then(() => toast(`${server.name} is installed again.`), (refused) => toast(refused.message, "crashed")) });
  }

  load();
  return { hide: () => (gone = true) };
}
