// One text file open: read, changed, saved, with a word when it was changed meanwhile by somebody else.

import { call, get, query, serverPath } from "./api.js";
import { ask, busy, toast } from "./dialogs.js";
import { h, icon } from "./dom.js";
import { Editor } from "./editor.js";
import { go, guardLeaving } from "./router.js";

/** Shows `path` in `body`; `close()` goes back to the list. */
export function edit(body, server, path, close) {
  const base = serverPath(server, "/files");
  const download = `/api/v1${base}/download${query({ path })}`;
  const name = path.split("/").at(-1);
  let version;
  const mark = h("span.tag", { dataset: { tone: "amber" }, hidden: true }, "Not saved");
  const save = h("button.button.primary", { type: "button", disabled: true, onclick: () => store() }, "Save");
  const editor = new Editor({ label: `Text of ${name}`, onsave: () => store(), onchange: () => {
    mark.hidden = !editor.dirty;
    save.disabled = !editor.dirty;
  } });
  const notice = h("div");
  const element = h("div.card.edit", {},
    h("header", {}, h("div.edit-name", {}, h("button.button.quiet.only", { type: "button", "aria-label": "Back to the files", onclick: close }, h("span", { "aria-hidden": "true" }, "←")), h("h2.cut", { title: path }, name), mark), editor.where,
      h("button.button.quiet", { type: "button", onclick: () => editor.find(true) }, icon("search"), "Find"), h("a.button.quiet", { href: download, download: name }, icon("down"), "Download"), save),
    notice, editor.element);
  body.append(element);
  editor.element.hidden = true;
  let gone = false;

  async function load() {
    try {
      const file = await get(`${base}/content${query({ path })}`);
      if (gone) return;
      version = file.version;
      notice.replaceChildren();
      editor.element.hidden = false;
      editor.value = file.content;
      editor.area.focus();
    } catch (refused) {
      if (gone) return;
      const large = refused.code === "TOO_LARGE";
      const words = refused.code === "NOT_TEXT" ? "This is not a text file" : large ? "This file is too large to edit here" : "The file cannot be opened";
      notice.replaceChildren(h("div.empty", {}, icon("file"), h("h2", {}, words), h("p", {}, large || refused.code === "NOT_TEXT" ? "Download it, change it, and upload it again." : refused.message), h("div.buttons", {}, h("a.button", { href: download, download: name }, icon("down"), "Download"))));
    }
  }

  async function store(anyway = false) {
    if (!editor.dirty && !anyway) return;
    const content = editor.value;
    await busy(save, async () => {
      try {
        const saved = await call("PUT", `${base}/content`, { path, content, ...(anyway ? {} : { version }) });
        version = saved.version;
        editor.saved(content);
        toast(`${name} is saved.`);
        notice.replaceChildren();
      } catch (refused) {
        if (refused.code !== "FILE_CHANGED") throw refused;
        notice.replaceChildren(h("div.banner", { dataset: { tone: "amber" }, role: "alert" }, icon("warn"), h("div", {}, h("strong", {}, "The file was changed meanwhile"), "Somebody else, or the server itself, has written it since you opened it. Your text is still here."),
          h("button.button", { type: "button", onclick: () => ask({ title: "Load the file again?", words: "What you typed is lost.", button: "Load again", act: load }) }, "Load theirs"),
          h("button.button", { type: "button", onclick: () => store(true) }, "Save mine over it")));
      }
    });
  }

  const leaving = (event) => editor.dirty && event.preventDefault();
  addEventListener("beforeunload", leaving);
  guardLeaving((address) => {
    if (!editor.dirty) return true;
    ask({ title: "Leave without saving?", words: `Your changes to ${name} are lost.`, button: "Leave", danger: true, act: async () => editor.saved(editor.value) }).then((left) => left && go(address));
    return false;
  });
  load();
  return {
    hide() {
      gone = true;
      removeEventListener("beforeunload", leaving);
      guardLeaving(null);
      element.remove();
    },
  };
}
