// What floats above a page: questions, menus, toasts. Native dialogs and popovers bring focus and Escape with them.

import { alarm, attribute, h, icon, say, text } from "./dom.js";
import { mark } from "./states.js";

/** Opens a dialog with these contents; it leaves the page when it closes. */
export function open(title, contents, { wide = false, onclose } = {}) {
  const id = `dialog-${Math.random().toString(36).slice(2)}`;
  const dialog = h(wide ? "dialog.wide" : "dialog", { "aria-labelledby": id, onclose: () => (dialog.remove(), onclose?.()) });
  dialog.append(contents(dialog, h("h2", { id }, title)));
  document.body.append(dialog);
  dialog.showModal();
  return dialog;
}

/**
 * Asks before `act()` is done. It runs inside the dialog: pending is shown there, and a failure leaves it open with the
 * reason. `typed` is a text that has to be typed first.
 */
export function ask({ title, words, button, danger = false, typed, extra, act }) {
  return new Promise((resolve) => {
    let done = false;
    open(title, (dialog, heading) => {
      const go = h(`button.button.primary${danger ? ".danger" : ""}`, { disabled: Boolean(typed) }, button);
      const fault = h("p.wrong", { role: "alert" });
      const input = typed && h("input", { autocomplete: "off", spellcheck: false, autocapitalize: "none", "aria-describedby": "typed-help", oninput: () => (go.disabled = input.value !== typed) });
      return h("form", {
        method: "dialog",
        onsubmit: async (event) => {
          event.preventDefault();
          if (go.getAttribute("aria-busy") === "true") return;
          await busy(go, async () => {
            await act();
            done = true;
            dialog.close();
          }, (refused) => text(fault, refused.message));
        },
      }, heading, words && h("p.soft", {}, words), extra,
        typed && h("div.field", {}, h("label", {}, h("span", { id: "typed-help" }, "Type ", h("code", {}, typed), " to confirm"), input)),
        h("div.field", {}, fault),
        h("div.buttons", {}, h("button.button", { type: "button", onclick: () => dialog.close() }, "Cancel"), go));
    }, { onclose: () => resolve(done) });
  });
}

/** Marks a button as at work until `act()` ends; what fails goes to `refuse` or a toast. */
export async function busy(button, act, refuse = (refused) => toast(refused.message, "crashed")) {
  if (button.getAttribute("aria-busy") === "true") return;
  attribute(button, "aria-busy", "true");
  try {
    return await act();
  } catch (refused) {
    if (refused.name !== "Refused") console.error(refused);
    refuse(refused);
  } finally {
    attribute(button, "aria-busy", null);
  }
}

// ---- toasts

/** A word in the corner; faults stay until they are closed, the rest goes by itself. */
export function toast(words, tone = "running", link) {
  const place = document.getElementById("toasts");
  const item = h("div.toast", {}, h("span", { dataset: { stateTone: tone } }, mark(tone)), h("p", {}, words, link && [" ", link]), h("button.button.quiet.only", { type: "button", "aria-label": "Close this message", onclick: () => close() }, icon("close")));
  const close = () => {
    item.remove();
    if (!place.childElementCount) place.hidePopover();
  };
  place.append(item);
  while (place.childElementCount > 4) place.firstElementChild.remove();
  // Shown again, so that it lies above a dialog that was opened since.
  if (place.matches(":popover-open")) place.hidePopover();
  place.showPopover();
  (tone === "crashed" ? alarm : say)(words);
  if (tone !== "crashed") setTimeout(close, 5000);
}

// ---- menus

/** A menu under a button. `items()` gives `{label, icon, act, danger}` or `{label, href}`, or "-" for a line. */
export function menu(button, items) {
  button.setAttribute("aria-haspopup", "menu");
  button.setAttribute("aria-expanded", "false");
  button.addEventListener("click", () => {
    const list = h("div.menu", { role: "menu" });
    list.setAttribute("popover", "auto");
    for (const item of items()) {
      if (item === "-") list.append(h("hr"));
      else if (item.note) list.append(h("p", {}, item.note));
      else {
        const inside = [item.icon && icon(item.icon), item.label];
        const close = () => list.hidePopover();
        list.append(item.href
          ? h("a", { href: item.href, role: "menuitem", onclick: close, download: item.download }, inside)
          : h(`button${item.danger ? ".danger" : ""}`, { type: "button", role: "menuitem", onclick: () => (close(), item.act()) }, inside));
      }
    }
    list.addEventListener("keydown", (event) => {
      const all = [...list.querySelectorAll("[role=menuitem]")];
      const at = all.indexOf(document.activeElement);
      const to = { ArrowDown: at + 1, ArrowUp: at - 1, Home: 0, End: all.length - 1 }[event.key];
      if (to === undefined) return;
      event.preventDefault();
      all.at(to % all.length)?.focus();
    });
    list.addEventListener("toggle", (event) => {
      if (event.newState === "open") return;
      button.setAttribute("aria-expanded", "false");
      const inside = list.contains(document.activeElement);
      list.remove();
      if (inside) button.focus();
    });
    document.body.append(list);
    list.showPopover();
    button.setAttribute("aria-expanded", "true");
    const from = button.getBoundingClientRect();
    const size = list.getBoundingClientRect();
    const left = Math.max(8, Math.min(from.right - size.width, innerWidth - size.width - 8));
    const below = from.bottom + 4 + size.height < innerHeight;
    list.style.left = `${from.left < 240 ? Math.max(8, Math.min(from.left, innerWidth - size.width - 8)) : left}px`;
    list.style.top = `${below ? from.bottom + 4 : Math.max(8, from.top - size.height - 4)}px`;
    list.querySelector("[role=menuitem]")?.focus();
  });
  return button;
}
