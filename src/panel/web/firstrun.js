// Three things to do on a new Panel, each ticking itself off: add a node, create a server, invite someone.

import { get, isAdmin } from "./api.js";
import { h, icon, text } from "./dom.js";
import { nodes, onChange, servers } from "./live.js";

const HIDDEN = "first-run-done";
const hidden = () => {
  try {
    return localStorage.getItem(HIDDEN) === "1";
  } catch {
    return false;
  }
};

export function checklist() {
  const element = h("section.card.steps", { hidden: true, "aria-label": "First steps" });
  if (!isAdmin() || hidden()) return { element, end() {} };
  let users = null;
  const steps = [
    { words: "Add a node", help: "A machine with Docker that runs your servers.", href: "/nodes?add=1", done: () => [...nodes.values()].some((node) => !node.neverJoined) },
    { words: "Create a server", help: "Choose a game; ports and limits are proposed.", href: "/servers/new", done: () => servers.size > 0 },
    { words: "Invite someone", help: "Friends see only what you grant them.", href: "/users?add=1", done: () => users > 1 },
  ];
  const items = steps.map((step) => h("li", {}, h("span.tick", { "aria-hidden": "true" }, icon("check")), h("span", {}, h("a", { href: step.href }, step.words), h("small.soft.small", {}, step.help)), h("span.unseen")));
  const close = () => {
    try {
      localStorage.setItem(HIDDEN, "1");
    } catch {
      // Then it comes again next time.
    }
    element.hidden = true;
  };
  const left = h("span.soft.small");
  element.append(h("header", {}, h("h2", {}, "First steps"), left, h("button.button.quiet", { type: "button", onclick: close }, "Hide")), h("ol", {}, items));
  function draw() {
    const done = steps.map((step) => step.done());
    done.forEach((yes, at) => {
      items[at].classList.toggle("done", yes);
      text(items[at].lastElementChild, yes ? "done" : "");
    });
    const count = done.filter(Boolean).length;
    text(left, `${count} of 3 done`);
    element.hidden = users === null || count === 3 || hidden();
  }
  get("/users?limit=2").then((page) => ((users = page.items.length), draw()), () => {});
  const end = onChange(({ kind }) => kind !== "usage" && draw());
  return { element, end };
}
