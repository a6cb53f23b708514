// One user: role, which servers are granted with which rights, and what an admin may do about a lost way in.

import { call, get, post, session } from "./api.js";
import { place } from "./app.js";
import { ask, busy, menu, toast } from "./dialogs.js";
import { h, icon } from "./dom.js";
import { nodeName, servers } from "./live.js";
import { go } from "./router.js";
import { showOnce } from "./node.js";
import { fullLink, refresh, roleWords } from "./users.js";
import { ago, exactly } from "./words.js";

const RIGHTS = { view: "View", console: "Console", power: "Power", files: "Files", settings: "Settings" };

export function show(main, at) {
  const path = `/users/${encodeURIComponent(at.parts[1])}`;
  place([["Users", "/users"], ["…"]]);
  let gone = false;

  async function load() {
    try {
      const user = await get(path);
      const grants = user.role === "member" ? (await get(`${path}/grants`)).items : [];
      if (!gone) draw(user, grants);
    } catch (refused) {
      if (!gone) main.replaceChildren(h("div.empty", {}, icon("users"), h("h1", {}, "This user cannot be shown"), h("p", {}, refused.message), h("div.buttons", {}, h("a.button", { href: "/users" }, "To the users"))));
    }
  }

  function draw(user, grants) {
    place([["Users", "/users"], [user.name]]);
    const self = user.id === session.user.id;
    const more = menu(h("button.button", { type: "button" }, icon("more"), "More"), () => [
      { label: "New login link…", icon: "mail", act: () => askLink(user) },
      user.totp && { label: "Take the second factor away…", icon: "shield", act: () => ask({ title: "Take the second factor away?", words: `${user.name} then logs in with the password alone until a new one is set up.`, button: "Take away", danger: true, act: async () => (await call("DELETE", `${path}/totp`), load()) }) },
      { label: user.role === "admin" ? "Make a member" : "Make an admin", icon: "users", act: async () => (await refresh(user, { role: user.role === "admin" ? "member" : "admin" })) && load() },
      { label: user.disabled ? "Enable" : "Disable…", icon: "pause", act: () => (user.disabled ? refresh(user, { disabled: false }).then(load) : ask({ title: `Disable ${user.name}?`, words: "All sessions and tokens end at once. It can be enabled again.", button: "Disable", danger: true, act: async () => (await call("PATCH", path, { disabled: true }), load()) })) },
      "-",
      { label: "Remove…", icon: "trash", danger: true, act: () => ask({ title: `Remove ${user.name}?`, words: "With all sessions, tokens and grants.", typed: user.name, button: "Remove", danger: true, act: async () => (await call("DELETE", path), toast(`${user.name} is removed.`), go("/users")) }) },
    ].filter(Boolean));
    const facts = [["Role", roleWords[user.role]], ["Second factor", user.totp ? "on" : "off"], ["Password", user.hasPassword ? "set" : "not chosen yet"], ["Since", exactly(user.created)], ["Last login", user.lastLogin ? ago(user.lastLogin) : "never"]];
    main.replaceChildren(
      h("header.server-head", {}, h("div.server-title", {}, h("h1", {}, user.name), h("p.server-facts", {}, h("span.soft", {}, roleWords[user.role]), self && h("span.tag", {}, "you"), user.disabled && h("span.tag", { dataset: { tone: "red" } }, "disabled"))), !self && h("div.buttons", {}, more)),
      h("div.split", {}, user.role === "admin" ? h("div.card.empty", {}, icon("shield"), h("h2", {}, "An admin sees everything"), h("p", {}, "Grants are for members.")) : grantsCard(grants), h("section.card", {}, h("header", {}, h("h2", {}, "About")), h("div.in", {}, h("dl.facts", {}, facts.map(([word, value]) => h("div", {}, h("dt", {}, word), h("dd", {}, value))))))));
  }

  function grantsCard(grants) {
    const known = new Map(grants.map((grant) => [`${grant.node}/${grant.server}`, new Set(grant.rights)]));
    const list = [...servers.values()].sort((a, b) => a.name.localeCompare(b.name));
    const save = h("button.button.primary", { type: "button", disabled: true, onclick: () => busy(save, async () => {
      const items = [...known].filter(([, rights]) => rights.size).map(([key, rights]) => ({ node: key.split("/")[0], server: key.split("/")[1], rights: [...rights] }));
      await call("PUT", `${path}/grants`, { items });
      save.disabled = true;
      toast("The grants are saved.");
    }) }, "Save");
    const row = (server) => {
      const key = `${server.node}/${server.id}`;
      const rights = known.get(key) ?? new Set();
      known.set(key, rights);
      const boxes = {};
      const cells = Object.entries(RIGHTS).map(([right, words]) => {
        boxes[right] = h("input", { type: "checkbox", checked: rights.has(right) || (right === "view" && rights.size > 0), "aria-label": `${server.name}: ${words.toLowerCase()}`, onchange: () => {
          // Every other right includes seeing it.
          if (right === "view" && !boxes.view.checked) Object.values(boxes).forEach((box) => (box.checked = false));
          if (right !== "view" && boxes[right].checked) boxes.view.checked = true;
          rights.clear();
          Object.entries(boxes).forEach(([name, box]) => box.checked && rights.add(name));
          save.disabled = false;
        } });
        return h("td.grant", {}, h("label", {}, boxes[right], h("span.grant-word", {}, words)));
      });
      return h("tr", {}, h("td", {}, h("span.main", {}, h("b", {}, server.name), h("small", {}, nodeName(server.node)))), cells);
    };
    return h("section.card", {}, h("header", {}, h("h2", {}, "Servers granted"), save), list.length ? h("table.table.grants", { "aria-label": "Servers granted" }, h("thead", {}, h("tr", {}, h("th", { scope: "col" }, "Server"), Object.values(RIGHTS).map((words) => h("th", { scope: "col" }, words)))), h("tbody", {}, list.map(row))) : h("div.empty", {}, icon("servers"), h("h2", {}, "No server to grant yet")));
  }

  function askLink(user) {
    let made;
    ask({ title: `A login link for ${user.name}?`, words: "Whoever has it logs in once as this user. Links made before are void.", button: "Make the link", act: async () => (made = await post(`${path}/link`)) }).then((done) => done && showOnce(`Login link for ${user.name}`, "It works once and is shown only now.", fullLink(made.link)));
  }

  load();
  return { hide: () => (gone = true) };
}
