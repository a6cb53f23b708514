// The own account (password, second factor, sessions), API tokens, and for admins the templates.

import { all, call, isAdmin, post, session, setSession } from "./api.js";
import { place } from "./app.js";
import { ask, busy, open, toast } from "./dialogs.js";
import { h, icon, text } from "./dom.js";
import { field } from "./fields.js";
import { showOnce } from "./node.js";
import { ago, exactly } from "./words.js";

const SCOPES = { read: ["Read", "Everything that you may see."], console: ["Console", "Type into servers."], power: ["Power", "Start, stop, restart, kill."], files: ["Files", "Files, archives, mods."], settings: ["Settings", "Change servers."], admin: ["Admin", "Nodes, users, templates."], metrics: ["Metrics", "Only the metrics for Prometheus."] };

export function show(main, at) {
  place([["Settings"]]);
  const tabs = h("nav.tabs", { "aria-label": "Settings" });
  const body = h("div.tab.settings-tab");
  main.append(h("div.head", {}, h("h1", {}, "Settings")), tabs, body);
  const parts = { account: ["Account", account], tokens: ["API tokens", tokens], ...(isAdmin() ? { templates: ["Templates", templates] } : {}) };
  let shown = null;
  function take(route) {
    const name = parts[route.query.get("tab")] ? route.query.get("tab") : "account";
    tabs.replaceChildren(...Object.entries(parts).map(([key, [words]]) => h("a", { href: key === "account" ? "/settings" : `/settings?tab=${key}`, "aria-current": key === name ? "page" : null }, words)));
    if (shown === name) return;
    shown = name;
    body.replaceChildren();
    parts[name][1](body);
  }
  take(at);
  return { update: take };
}

// ---- account

function account(body) {
  const place = h("div.stack");
  body.append(place);
  const { user } = session;
  const current = field({ label: "Password now", input: h("input", { type: "password", autocomplete: "current-password", required: true, maxLength: 256 }) });
  const next = field({ label: "New password", input: h("input", { type: "password", autocomplete: "new-password", required: true, maxLength: 256 }), help: "At least 10 characters.", rule: (value) => (value.length < 10 ? "At least 10 characters." : "") });
  const save = h("button.button", {}, "Change password");
  const password = h("form", { noValidate: true, onsubmit: (event) => {
    event.preventDefault();
    if (![current, next].map((one) => one.check()).every(Boolean)) return;
    busy(save, async () => {
      await post("/account/password", { current: current.input.value, new: next.input.value });
      current.input.value = next.input.value = "";
      toast("The password is changed. All other sessions have ended.");
      load();
    }, (refused) => (refused.field === "new" ? next : current).refuse(refused.message));
  } }, h("div.in.stack.tight", {}, h("input", { type: "text", autocomplete: "username", value: user.name, hidden: true }), h("div.fields", {}, current.element, next.element), h("div", {}, save)));
  const factor = h("div.in");
  const list = h("ul.plain");
  place.append(
    h("section.card", {}, h("header", {}, h("h2", {}, "Password")), password),
    h("section.card", {}, h("header", {}, h("h2", {}, "Second factor")), factor),
    h("section.card", {}, h("header", {}, h("h2", {}, "Where you are logged in")), list));

  function drawFactor() {
    const on = session.user.totp;
    factor.replaceChildren(h("div.danger-row", {}, h("div", {}, h("h3", {}, on ? "A code is asked for besides the password" : "Off"), h("p.soft", {}, on ? "From the app on your phone, or one of your recovery codes." : "With it, a stolen password alone lets nobody in. You need an app such as Aegis, 1Password or Google Authenticator.")), on ? h("button.button.danger", { type: "button", onclick: turnOff }, "Turn off…") : h("button.button", { type: "button", onclick: turnOn }, "Set up")));
  }

  const withTotp = (totp) => {
    setSession({ ...session, user: { ...session.user, totp } });
    drawFactor();
  };

  function turnOff() {
    const word = h("input", { type: "password", autocomplete: "current-password" });
    ask({ title: "Turn the second factor off?", button: "Turn off", danger: true, extra: h("div.field", {}, h("label", {}, "Your password", word)), act: async () => (await call("DELETE", "/account/totp", { password: word.value }), withTotp(false)) });
  }

  async function turnOn() {
    const word = h("input", { type: "password", autocomplete: "current-password" });
    let begun;
    const sure = await ask({ title: "Set up a second factor", button: "Continue", extra: h("div.field", {}, h("label", {}, "Your password", word)), act: async () => (begun = await post("/account/totp", { password: word.value })) });
    if (!sure) return;
    const code = h("input", { inputMode: "numeric", autocomplete: "one-time-code", maxLength: 6, required: true });
    let codes;
    const done = await ask({ title: "Add it to your app", button: "Turn on", extra: [h("p", {}, "On this phone? ", h("a", { href: begun.uri, target: "_self" }, "Open it in the app"), ". Elsewhere add an account there by typing this key:"), h("div.secret", {}, h("code", { tabIndex: 0 }, begun.secret.replace(/(.{4})/g, "$1 ").trim())), h("div.field", {}, h("label", {}, "The code that the app shows", code))], act: async () => ({ recoveryCodes: codes } = await post("/account/totp/confirm", { code: code.value.replace(/\s/g, "") })) });
    if (!done) return;
    withTotp(true);
    showOnce("Your recovery codes", "Each works once instead of a code, should you lose the phone. Keep them where you keep your passwords. They are shown only now.", codes.join("\n"));
  }

  async function load() {
    try {
      const sessions = await all("/account/sessions");
      list.replaceChildren(...sessions.map((one) => h("li", {}, h("div", {}, h("b", {}, browserOf(one.agent)), h("p.soft.small", {}, `${one.address}, ${one.current ? "now" : ago(one.lastSeen)}`)), one.current ? h("span.tag", { dataset: { tone: "green" } }, "this one") : h("button.button", { type: "button", onclick: (event) => busy(event.currentTarget, async () => (await call("DELETE", `/account/sessions/${encodeURIComponent(one.id)}`), load())) }, "End"))));
    } catch (refused) {
      list.replaceChildren(h("li.soft", {}, refused.message));
    }
  }

  drawFactor();
  load();
}

function browserOf(agent) {
  const browser = /Edg\//.test(agent) ? "Edge" : /Firefox\//.test(agent) ? "Firefox" : /Chrom(e|ium)\//.test(agent) ? "Chrome" : /Safari\//.test(agent) ? "Safari" : agent.slice(0, 40) || "A browser";
  const system = /Android/.test(agent) ? "Android" : /iPhone|iPad/.test(agent) ? "iOS" : /Windows/.test(agent) ? "Windows" : /Mac OS/.test(agent) ? "macOS" : /Linux/.test(agent) ? "Linux" : "";
  return system ? `${browser} on ${system}` : browser;
}

// ---- tokens

function tokens(body) {
  const place = h("div");
  body.append(place);
  const make = () => h("button.button.primary", { type: "button", onclick: askToken }, icon("plus"), "Make a token");

  async function load() {
    try {
      const items = await all("/tokens");
      if (!items.length) return place.replaceChildren(h("div.card.empty", {}, icon("key"), h("h2", {}, "No API token"), h("p", {}, "Scripts and bots use one instead of your password. What they can do is in the ", h("a", { href: "/api/v1/openapi.json", target: "_blank" }, "API document"), "."), h("div.buttons", {}, make())));
      place.replaceChildren(h("section.card", {}, h("header", {}, h("h2", {}, "API tokens"), make()), h("table.table.cards", { role: "table", "aria-label": "API tokens" }, h("thead", { role: "rowgroup" }, h("tr", { role: "row" }, ["Name", "May", "Last used", "Ends", ""].map((words) => h("th", { role: "columnheader", scope: "col" }, words || h("span.unseen", {}, "Actions"))))),
        h("tbody", { role: "rowgroup" }, items.map((token) => h("tr", { role: "row" }, h("td", { role: "cell" }, h("b", {}, token.name)), h("td.wide", { role: "cell" }, h("span.tags", {}, token.scopes.map((scope) => h("span.tag", {}, scope)))), h("td.soft", { role: "cell", dataset: { label: "Last used" } }, token.lastUsed ? ago(token.lastUsed) : "never"), h("td.soft", { role: "cell", dataset: { label: "Ends" }, title: token.expires ? exactly(token.expires) : "" }, token.expires ? ago(token.expires) : "never"), h("td.acts", { role: "cell" }, h("button.button.danger", { type: "button", onclick: () => ask({ title: `Revoke ${token.name}?`, words: "Whatever uses it is refused at once.", button: "Revoke", danger: true, act: async () => (await call("DELETE", `/tokens/${encodeURIComponent(token.id)}`), load()) }) }, "Revoke"))))))));
    } catch (refused) {
      place.replaceChildren(h("div.card.empty", {}, icon("warn"), h("h2", {}, "The tokens cannot be shown"), h("p", {}, refused.message)));
    }
  }

  function askToken() {
    open("Make an API token", (dialog, heading) => {
      const name = field({ label: "Name", input: h("input", { required: true, maxLength: 64, autocomplete: "off" }), help: "What will use it." });
      const days = h("select", {}, [["30", "30 days"], ["90", "90 days"], ["365", "1 year"], ["", "Never"]].map(([value, words]) => h("option", { value }, words)));
      const boxes = Object.entries(SCOPES).filter(([scope]) => scope !== "admin" || isAdmin()).map(([scope, [words, help]]) => h("label.check", {}, h("input", { type: "checkbox", value: scope, checked: scope === "read" }), h("span", {}, h("b", {}, words), h("small", {}, help))));
      const fault = h("p.wrong", { role: "alert" });
      const go = h("button.button.primary", {}, "Make the token");
      return h("form", { noValidate: true, onsubmit: (event) => {
        event.preventDefault();
        if (!name.check()) return name.input.focus();
        const scopes = boxes.map((box) => box.querySelector("input")).filter(({ checked }) => checked).map(({ value }) => value);
        if (!scopes.length) return text(fault, "Choose what it may do.");
        busy(go, async () => {
          const { secret } = await post("/tokens", { name: name.value, scopes, ...(days.value ? { expiresIn: Number(days.value) } : {}) });
          dialog.close();
          load();
          showOnce("The token", "Send it as Authorization: Bearer. It is shown only now.", secret);
        }, (refused) => text(fault, refused.message));
      } }, heading, name.element, h("fieldset.fields.scopes", {}, h("legend.unseen", {}, "What it may do"), boxes), h("div.field", {}, h("label", {}, "Ends after", days)), h("div.field", {}, fault), h("div.buttons", {}, h("button.button", { type: "button", onclick: () => dialog.close() }, "Cancel"), go));
    });
  }
  load();
}

// ---- templates

function templates(body) {
  const picker = h("input", { type: "file", accept: ".json,application/json", hidden: true, onchange: async () => {
    const [file] = picker.files;
    picker.value = "";
    if (!file) return;
    try {
      const made = await post("/templates", JSON.parse(await file.text()));
      toast(`${made.name} is there.`);
      load();
    } catch (refused) {
      toast(refused instanceof SyntaxError ? `${file.name} is not JSON: ${refused.message}` : `${file.name}: ${refused.field ? `${refused.field}: ` : ""}${refused.message}`, "crashed");
    }
  } });
  const list = h("ul.plain");
  body.append(h("section.card", {}, h("header", {}, h("h2", {}, "Templates"), h("button.button", { type: "button", onclick: () => picker.click() }, icon("up"), "Upload one"), picker), list));
  async function load() {
    try {
      const items = await all("/templates");
      list.replaceChildren(...items.map((one) => h("li", {}, h("span.template-icon", { "aria-hidden": "true" }, one.icon || one.name.slice(0, 2)), h("div", {}, h("b", {}, one.name), h("p.soft.small", {}, one.summary)), one.builtIn ? h("span.tag", {}, "built in") : h("button.button.danger", { type: "button", onclick: () => ask({ title: `Remove ${one.name}?`, words: "Servers made from it stay as they are.", button: "Remove", danger: true, act: async () => (await call("DELETE", `/templates/${encodeURIComponent(one.id)}`), load()) }) }, "Remove"))));
    } catch (refused) {
      list.replaceChildren(h("li.soft", {}, refused.message));
    }
  }
  load();
}
