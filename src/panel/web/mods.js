// The mods tab: what is installed, install from an address, remove.

import { command, get, serverPath } from "./api.js";
import { ask, open, busy, toast } from "./dialogs.js";
import { h, icon, text } from "./dom.js";

export function tab(body, server) {
  const base = serverPath(server, "/mods");
  const add = () => h("button.button.primary", { type: "button", onclick: askInstall }, icon("plus"), "Install a mod");
  const place = h("div");
  body.append(place);
  let gone = false;

  async function load() {
    try {
      const { items } = await get(base);
      if (gone) return;
      if (!items.length) return place.replaceChildren(h("div.card.empty", {}, icon("mods"), h("h2", {}, "No mods"), h("p", {}, "Install one from the address of its file. The node downloads it and keeps a record, so that it can be removed whole."), h("div.buttons", {}, add())));
      place.replaceChildren(h("div.card", {}, h("header", {}, h("h2", {}, "Mods"), add()), h("table.table.cards", { role: "table" }, h("thead", { role: "rowgroup" }, h("tr", { role: "row" }, ["Name", "Version", "Files", ""].map((words) => h("th", { role: "columnheader", scope: "col" }, words || h("span.unseen", {}, "Actions"))))),
        h("tbody", { role: "rowgroup" }, items.map((mod) => h("tr", { role: "row" }, h("td", { role: "cell" }, h("b", {}, mod.name)), h("td.num", { role: "cell", dataset: { label: "Version" } }, mod.version ?? ""), h("td.soft.wide", { role: "cell", dataset: { label: "Files" } }, (mod.files ?? []).join(", ")), h("td.acts", { role: "cell" }, h("button.button.danger", { type: "button", onclick: () => askRemove(mod) }, "Remove"))))))));
    } catch (refused) {
      if (!gone) place.replaceChildren(h("div.card.empty", {}, icon("warn"), h("h2", {}, "The mods cannot be shown"), h("p", {}, refused.message)));
    }
  }

  function askInstall() {
    const fields = {
      name: h("input", { required: true, maxLength: 64, autocomplete: "off" }),
      url: h("input", { type: "url", required: true, placeholder: "https://…", autocomplete: "off" }),
      version: h("input", { maxLength: 64, autocomplete: "off" }),
      sha256: h("input", { spellcheck: false, autocomplete: "off", maxLength: 64 }),
    };
    const unpack = h("input", { type: "checkbox" });
    const wrong = h("p.wrong", { role: "alert" });
    open("Install a mod", (dialog, heading) => {
      const go = h("button.button.primary", {}, "Install");
      return h("form", { onsubmit: (event) => {
        event.preventDefault();
        busy(go, async () => {
          const values = Object.fromEntries(Object.entries(fields).map(([name, { value }]) => [name, value.trim()]).filter(([, value]) => value));
          await command("POST", base, { ...values, unpack: unpack.checked });
          dialog.close();
          toast(`${values.name} is installed. Restart the server to use it.`);
          load();
        }, (refused) => text(wrong, refused.message));
      } }, heading,
      h("div.field", {}, h("label", {}, "Name", fields.name)),
      h("div.field", {}, h("label", {}, "Address of the file", fields.url), h("p.help", {}, "The node downloads it; nothing passes through your browser.")),
      h("div.fields", {}, h("div.field", {}, h("label", {}, h("span", {}, "Version ", h("span.soft", {}, "optional")), fields.version)), h("div.field", {}, h("label", {}, h("span", {}, "SHA-256 ", h("span.soft", {}, "optional")), fields.sha256))),
      h("label.check", {}, unpack, h("span", {}, h("b", {}, "It is an archive: unpack it"))),
      h("div.field", {}, wrong),
      h("div.buttons", {}, h("button.button", { type: "button", onclick: () => dialog.close() }, "Cancel"), go));
    });
  }

  function askRemove(mod) {
    ask({ title: `Remove ${mod.name}?`, words: "Its files go. What it has written elsewhere stays.", button: "Remove", danger: true, act: async () => (await command("DELETE", `${base}/${encodeURIComponent(mod.id)}`), load()) });
  }

  load();
  return { hide: () => (gone = true) };
}
