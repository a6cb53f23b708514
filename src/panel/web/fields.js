// Fields of a form: labels, help, validation as one types, and refusals of the Panel told at the field they are about.

import { attribute, h, icon, text } from "./dom.js";
import { bytes, parseSize } from "./words.js";

/** A field with `.value`, `.check()` (true when it is well) and `.refuse(words)`. `rule(value)` gives what is wrong, or "". */
export function field({ label, help, input, rule = () => "", optional = false, all = false, unit }) {
  const id = `f${Math.random().toString(36).slice(2, 9)}`;
  input.id = id;
  const wrong = h("p.wrong", { id: `${id}-wrong`, role: "alert" });
  const hint = help && h("p.help", { id: `${id}-help` }, help);
  input.setAttribute("aria-describedby", [hint && `${id}-help`, `${id}-wrong`].filter(Boolean).join(" "));
  const element = h(all ? "div.field.all" : "div.field", {}, h("label", { htmlFor: id }, label, optional && h("span.soft", {}, " optional")), unit ? h("div.with", {}, input, unit) : input, hint, wrong);
  const made = {
    element,
    input,
    touched: false,
    get value() {
      return input.type === "checkbox" ? (input.checked ? "true" : "false") : input.value.trim();
    },
    refuse(words) {
      text(wrong, words);
      attribute(input, "aria-invalid", words ? "true" : null);
    },
    check() {
      const words = !made.value && !optional && input.required ? "This is needed." : made.value ? rule(made.value) : "";
      made.refuse(words);
      return !words;
    },
  };
  // Said while one types only once it was left or sent, so that nobody is told off in the middle of a word.
  input.addEventListener("input", () => made.touched && made.check());
  input.addEventListener("blur", () => input.value && ((made.touched = true), made.check()));
  return made;
}

/** Checks all; the first that is wrong is focused. */
export function checkAll(fields) {
  const wrong = fields.filter((one) => {
    one.touched = true;
    return !one.check();
  });
  wrong[0]?.input.focus();
  return !wrong.length;
}

export const sizeRule = (value) => (value === "0" || parseSize(value) !== null ? "" : "Type a size such as 2 GiB or 512 MiB.");
export const sizeValue = (value) => (value === "" ? 0 : parseSize(value) ?? 0);
/** A size as one would type it. */
export const sizeWords = (count) => (count ? bytes(count) : "");
export const idRule = (value) => (/^[A-Za-z0-9_][A-Za-z0-9._-]{0,63}$/.test(value) ? "" : "Letters, digits, dot, dash and underscore, at most 64.");
export const numberRule = (from, to) => (value) => (/^\d+(\.\d+)?$/.test(value) && Number(value) >= from && Number(value) <= to ? "" : `A number from ${from} to ${to}.`);

/** What the template says of a variable, checked as the Panel will. */
function variableRule(variable) {
  return (value) => {
    if (variable.kind === "number") {
      if (!/^-?\d+(\.\d+)?$/.test(value)) return "A number is needed.";
      if (variable.min !== undefined && Number(value) < variable.min) return `At least ${variable.min}.`;
      if (variable.max !== undefined && Number(value) > variable.max) return `At most ${variable.max}.`;
    }
    if (variable.maxLength && value.length > variable.maxLength) return `At most ${variable.maxLength} characters.`;
    if (variable.pattern) {
      try {
        if (!new RegExp(`^(?:${variable.pattern})$`, "u").test(value)) return "This is not in the form it needs.";
      } catch {
        // Not a pattern that a browser knows: the Panel checks it.
      }
    }
    return "";
  };
}

/** The fields of a template's variables, by name. */
export function variableFields(variables, values = {}) {
  const fields = {};
  for (const variable of variables) {
    const value = values[variable.name] ?? variable.default;
    let input;
    if (variable.kind === "choice") input = h("select", {}, [...new Set([...(variable.required ? [] : [""]), ...(variable.choices ?? []), value])].map((choice) => h("option", { value: choice, selected: choice === value }, choice || "–")));
    else if (variable.kind === "boolean") {
      // Templates have their own words for yes and no: the default tells which.
      const words = variable.choices?.length === 2 ? variable.choices : /^(TRUE|FALSE)$/.test(variable.default || value) ? ["TRUE", "FALSE"] : /^[01]$/.test(variable.default || value) ? ["1", "0"] : ["true", "false"];
      input = h("select", {}, [...(value === "" ? [["", "–"]] : []), [words[0], "Yes"], [words[1], "No"]].map(([choice, label]) => h("option", { value: choice, selected: choice === value }, label)));
    } else {
      input = h("input", { value, type: variable.secret ? "password" : "text", inputMode: variable.kind === "number" ? "numeric" : null, autocomplete: variable.secret ? "new-password" : "off", spellcheck: false, maxLength: variable.maxLength ?? 4096 });
    }
    input.required = variable.required;
    input.dataset.variable = variable.name;
    const unit = variable.secret && h("button.button", { type: "button", "aria-pressed": "false", onclick: (event) => {
      const seen = input.type === "text";
      input.type = seen ? "password" : "text";
      attribute(event.currentTarget, "aria-pressed", String(!seen));
      text(event.currentTarget, seen ? "Show" : "Hide");
    } }, "Show");
    fields[variable.name] = field({ label: variable.label || variable.name, help: variable.help, input, unit, optional: !variable.required, rule: variableRule(variable) });
  }
  return fields;
}

/** Rows of names and values, such as environment variables. Gives `{element, value()}`; what was taken away is null there. */
export function pairs(values, { name = "Name", value = "Value" } = {}) {
  const before = Object.keys(values);
  const list = h("div.pairs");
  const add = (key = "", word = "") => {
    const row = h("div.pair", {}, h("input.mono", { value: key, placeholder: name, "aria-label": name, spellcheck: false, autocomplete: "off", autocapitalize: "none", maxLength: 191 }), h("input.mono", { value: word, placeholder: value, "aria-label": value, spellcheck: false, autocomplete: "off", autocapitalize: "none" }), h("button.button.quiet.only", { type: "button", "aria-label": `Remove ${key || "this row"}`, onclick: () => (row.remove(), element.dispatchEvent(new Event("input"))) }, icon("close")));
    list.append(row);
    return row;
  };
  Object.entries(values).forEach(([key, word]) => add(key, word));
  const element = h("div.field.all", {}, list, h("div", {}, h("button.button", { type: "button", onclick: () => add().firstElementChild.focus() }, icon("plus"), "Add a variable")));
  return {
    element,
    value() {
      const now = Object.fromEntries(before.map((key) => [key, null]));
      for (const row of list.children) {
        const [key, word] = row.querySelectorAll("input");
        if (key.value.trim()) now[key.value.trim()] = word.value;
      }
      return now;
    },
  };
}

/** Ports as rows: the game's own number, the node's, the protocol. */
export function portRows(ports, onchange = () => {}) {
  const list = h("div.pairs");
  const number = (value, label, hint) => h("input.num", { value: value ?? "", placeholder: hint, "aria-label": label, inputMode: "numeric", maxLength: 5, pattern: "[0-9]*", oninput: onchange });
  const add = ({ internal = "", external = "", protocol = "tcp", ip, label = "" } = {}) => {
    const row = h("div.pair.port", { dataset: { ip: ip ?? "" } }, h("label.small.soft", {}, label || "On the node", number(external, "Port on the node", "chosen")), h("label.small.soft", {}, "In the server", number(internal, "Port in the server", "25565")), h("label.small.soft", {}, "Protocol", h("select", { "aria-label": "Protocol", onchange }, ["tcp", "udp"].map((word) => h("option", { selected: word === protocol }, word)))), h("button.button.quiet.only", { type: "button", "aria-label": "Remove this port", onclick: () => (row.remove(), onchange()) }, icon("close")));
    list.append(row);
    return row;
  };
  ports.forEach(add);
  const wrong = h("p.wrong", { role: "alert" });
  const element = h("div.field.all", {}, list, wrong, h("div", {}, h("button.button", { type: "button", onclick: () => (add().querySelector("input").focus(), onchange()) }, icon("plus"), "Add a port")));
  return {
    element,
    refuse: (words) => text(wrong, words),
    value: () => [...list.children].map((row) => {
      const [external, internal] = row.querySelectorAll("input");
      return { internal: Number(internal.value), ...(external.value ? { external: Number(external.value) } : {}), protocol: row.querySelector("select").value, ...(row.dataset.ip ? { ip: row.dataset.ip } : {}) };
    }).filter(({ internal }) => internal),
    check() {
      const wrongs = [...list.querySelectorAll("input")].filter((input) => input.value && !(Number(input.value) >= 1 && Number(input.value) <= 65535));
      list.querySelectorAll("input").forEach((input) => attribute(input, "aria-invalid", wrongs.includes(input) ? "true" : null));
      text(wrong, wrongs.length ? "A port is a number from 1 to 65535." : "");
      return !wrongs.length;
    },
  };
}
