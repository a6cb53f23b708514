// Users: who may come in, as what, and inviting more.

import { all, call, post, session } from "./api.js";
import { place } from "./app.js";
import { busy, open, toast } from "./dialogs.js";
import { h, icon, text } from "./dom.js";
import { field } from "./fields.js";
import { showOnce } from "./node.js";
import { choose, go, url } from "./router.js";
import { ago, exactly, many } from "./words.js";

export const roleWords = { admin: "Admin", member: "Member" };

export function show(main, at) {
  place([["Users"]]);
  const rows = h("tbody", { role: "rowgroup" });
  const invite = () => h("button.button.primary", { type: "button", onclick: () => choose({ add: 1 }) }, icon("plus"), "Invite someone");
  const fault = h("p.soft", { role: "status" });
  main.append(h("div.head", {}, h("div", {}, h("h1", {}, "Users"), fault), invite()), h("div.card", {}, h("table.table.cards.rows", { role: "table", "aria-label": "Users" }, h("thead", { role: "rowgroup" }, h("tr", { role: "row" }, ["Name", "Role", "Servers", "Second factor", "Last login"].map((words) => h("th", { role: "columnheader", scope: "col" }, words)))), rows)));
  let gone = false;
  let dialog = null;

  async function load() {
    try {
      const users = await all("/users");
      if (gone) return;
      text(fault, many(users.length, "user"));
      rows.replaceChildren(...users.map((user) => h("tr", { role: "row" },
        h("td", { role: "cell" }, h("span.user-cell", {}, h("span.avatar", { "aria-hidden": "true" }, user.name.slice(0, 2)), h("span.main", {}, h("a.cut", { href: url("users", user.id) }, user.name), h("small", {}, user.id === session.user.id ? "you" : user.disabled ? "disabled" : !user.hasPassword ? "invited" : "")))),
        h("td", { role: "cell", dataset: { label: "Role" } }, roleWords[user.role]),
        h("td.soft", { role: "cell", dataset: { label: "Servers" } }, user.role === "admin" ? "all" : String(user.grants ?? 0)),
        h("td.soft", { role: "cell", dataset: { label: "Second factor" } }, user.totp ? "on" : "off"),
        h("td.soft", { role: "cell", dataset: { label: "Last login" }, title: user.lastLogin ? exactly(user.lastLogin) : "" }, user.lastLogin ? ago(user.lastLogin) : "never"))));
    } catch (refused) {
      if (!gone) text(fault, refused.message);
    }
  }

  function take(route) {
    if (route.query.has("add")) dialog ??= askInvite(() => ((dialog = null), choose({ add: "" })), load);
  }

  load();
  take(at);
  return { update: take, hide: () => ((gone = true), dialog?.close()) };
}

function askInvite(closed, made) {
  return open("Invite someone", (dialog, heading) => {
    const name = field({ label: "Name", input: h("input", { required: true, maxLength: 64, autocomplete: "off", autocapitalize: "none", spellcheck: false }), help: "They log in with it." });
    const role = (value, title, words) => h("label.check", {}, h("input", { type: "radio", name: "role", value, checked: value === "member" }), h("span", {}, h("b", {}, title), h("small", {}, words)));
    const fault = h("p.wrong", { role: "alert" });
    const next = h("button.button.primary", {}, "Make an invitation link");
    const form = h("form", { noValidate: true, onsubmit: (event) => {
      event.preventDefault();
      if (!name.check()) return name.input.focus();
      busy(next, async () => {
        const { user, link } = await post("/users", { name: name.value, role: new FormData(form).get("role") });
        made();
        dialog.close();
        if (user.role === "member") go(url("users", user.id));
        showOnce(`Invitation for ${user.name}`, "Send them this link. It works once, for 3 days, and lets them choose a password.", fullLink(link));
      }, (refused) => (refused.field === "name" ? name.refuse(refused.message) : text(fault, refused.message)));
    } }, heading, name.element, h("div.stack.tight", { role: "radiogroup", "aria-label": "Role" }, role("member", "Member", "Sees only the servers you grant, with the rights you choose."), role("admin", "Admin", "May do everything, also invite and remove others.")), h("div.field", {}, fault), h("div.buttons", {}, h("button.button", { type: "button", onclick: () => dialog.close() }, "Cancel"), next));
    return form;
  }, { onclose: closed });
}

/** A link as the Panel gives it, whole or only its path, as one to send. */
export const fullLink = (link) => new URL(link.startsWith("/") || link.includes("://") ? link : `/login#${link}`, location.origin).href;
export const refresh = (user, change) => call("PATCH", `/users/${encodeURIComponent(user.id)}`, change).catch((refused) => (toast(refused.message, "crashed"), null));
