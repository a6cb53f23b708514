// Who did what to which server from where: a page of its own, and a tab of each server.

import { get, isAdmin, query } from "./api.js";
import { place } from "./app.js";
import { busy } from "./dialogs.js";
import { h, icon, text } from "./dom.js";
import { nodeName, onChange, serverAt } from "./live.js";
import { choose, url } from "./router.js";
import { mark } from "./states.js";
import { ago, exactly } from "./words.js";

/** What somebody did: "{who} {words} {what it was done to}". */
const DID = {
  "server.create": "created", "server.start": "started", "server.stop": "stopped", "server.restart": "restarted", "server.kill": "killed", "server.suspend": "suspended", "server.unsuspend": "resumed", "server.delete": "deleted", "server.update": "changed the settings of", "server.reinstall": "installed again",
  "console.command": "typed into", "console.interrupt": "interrupted", "console.download": "downloaded the log of",
  "file.write": "saved a file of", "file.upload": "uploaded a file to", "file.download": "downloaded a file of", "file.directory": "made a folder in", "file.move": "moved a file of", "file.copy": "copied a file of", "file.delete": "deleted files of", "file.permissions": "set permissions in", "file.archive": "packed files of", "file.extract": "unpacked files of", "mod.install": "installed a mod on", "mod.remove": "removed a mod from",
  "node.create": "added the node", "node.update": "changed the node", "node.delete": "removed the node", "node.join_token": "made a join command for", "node.join": "joined", "node.rotate": "rotated the secret of", "node.revoke": "revoked", "node.command": "sent a command to",
  "user.create": "invited a user", "user.update": "changed a user", "user.delete": "removed a user", "user.link": "made a login link", "user.totp_off": "took a second factor away", "user.grants": "changed what a user may",
  "token.create": "made an API token", "token.revoke": "revoked an API token", "template.put": "uploaded a template", "template.delete": "removed a template",
  "setup": "set up this Panel", "login": "logged in", "logout": "logged out", "session.end": "ended a session", "password.change": "changed the own password", "totp.begin": "began with a second factor", "totp.on": "turned the second factor on", "totp.off": "turned the second factor off",
};

/** What happened to a server by itself: "{server} {words}". */
const BECAME = { "server.crashed": "crashed", "server.oom": "ran out of memory", "server.stopped": "stopped", "server.running": "runs" };

const KINDS = [["", "Everything"], ["server.", "Servers"], ["console.", "Consoles"], ["file.", "Files"], ["node.", "Nodes"], ["user.", "Users"], ["login", "Logins"], ["token.", "Tokens"]];

function entry(one, inServer) {
  const became = BECAME[one.action];
  const did = DID[one.action] ?? one.action.replace(".", ": ").replaceAll("_", " ");
  const tone = one.outcome !== "ok" || ["server.crashed", "server.oom"].includes(one.action) ? "crashed" : one.action === "server.running" ? "running" : "stopped";
  const who = one.user === "node" ? (one.node ? nodeName(one.node) : "A node") : one.user === "panel" ? "The Panel" : one.user || "Somebody";
  const server = one.server && (inServer ? "this server" : h("a", { href: url("servers", one.node, one.server) }, serverAt(one.node, one.server)?.name ?? one.server));
  const node = one.node && !one.server && (isAdmin() ? h("a", { href: url("nodes", one.node) }, nodeName(one.node)) : nodeName(one.node));
  const sentence = became ? [inServer ? "It" : server || who, " ", became] : [h("b", {}, who), " ", one.outcome === "ok" ? did : `tried: ${did}`, " ", one.action === "node.join" ? "" : server || node || ""];
  return h("li.entry", {},
    h("span.entry-mark", { dataset: { stateTone: tone } }, mark(tone)),
    h("div.entry-words", {}, h("p", {}, sentence, one.outcome === "ok" ? "" : h("span.tag", { dataset: { tone: "red" } }, one.outcome)),
      h("p.soft.small", {}, [one.detail, one.address && `from ${one.address}`, one.via === "token" ? (one.token ? `by the API token ${one.token}` : "by an API token") : one.via === "cli" ? "on the command line" : ""].filter(Boolean).join(" · "))),
    h("time.soft.small", { dateTime: one.time, title: exactly(one.time) }, ago(one.time)));
}

function feed(body, at, { server } = {}) {
  const words = h("input", { type: "search", placeholder: "Find in the activity", "aria-label": "Find in the activity", oninput: () => (clearTimeout(wait), (wait = setTimeout(() => choose({ q: words.value.trim() }), 250))) });
  const kind = h("select.pick", { "aria-label": "Kind", onchange: () => choose({ kind: kind.value }) }, KINDS.map(([value, label]) => h("option", { value }, label)));
  const list = h("ol.entries");
  const older = h("button.button", { type: "button", hidden: true, onclick: () => busy(older, () => load(true)) }, "Show older");
  const empty = h("div.empty", { hidden: true }, icon("activity"), h("h2"), h("p"));
  body.append(h("div.filters", {}, words, !server && kind), h("div.card", {}, list, empty), h("div.older", {}, older));
  let wait = 0;
  let next;
  let asked = 0;
  let now = at.query;

  async function load(more = false) {
    const mine = ++asked;
    try {
      const page = await get(`/activity${query({ limit: 50, cursor: more ? next : undefined, q: now.get("q"), action: server ? undefined : now.get("kind"), node: server?.node, server: server?.id })}`);
      if (mine !== asked) return;
      const items = page.items.map((one) => entry(one, server));
      if (more) list.append(...items);
      else list.replaceChildren(...items);
      next = page.next;
      older.hidden = !next;
      empty.hidden = list.childElementCount > 0;
      const filtered = now.get("q") || now.get("kind");
      text(empty.querySelector("h2"), filtered ? "Nothing matches" : "Nothing has happened yet");
      text(empty.querySelector("p"), filtered ? "Try another word." : "What people do here is kept: who, what, when, and from where.");
    } catch (refused) {
      if (mine !== asked) return;
      list.replaceChildren();
      empty.hidden = false;
      text(empty.querySelector("h2"), "The activity cannot be shown");
      text(empty.querySelector("p"), refused.message);
    }
  }

  function update(route) {
    now = route.query;
    if (document.activeElement !== words) words.value = now.get("q") ?? "";
    kind.value = now.get("kind") ?? "";
    load();
  }

  update(at);
  const stop = onChange((change) => {
    if (change.kind !== "activity" || now.get("q") || now.get("kind")) return;
    const { entry: one } = change;
    if (server && (one.node !== server.node || one.server !== server.id)) return;
    list.prepend(entry(one, server));
    empty.hidden = true;
  });
  return { update, hide: () => ((asked += 1), clearTimeout(wait), stop()) };
}

export function show(main, at) {
  place([["Activity"]]);
  main.append(h("div.head", {}, h("h1", {}, "Activity")));
  return feed(main, at);
}

export const tab = (body, server, at) => feed(body, at, { server });
