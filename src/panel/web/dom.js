// Small tools for elements: making them, changing only what differs, keeping lists in order, speaking, copying.

/** `h("p.note", {title: "x", onclick: f}, "text", child)`; children may be lists, and null or false are left out. */
export function h(spec, properties = {}, ...children) {
  const [tag, ...classes] = spec.split(".");
  const element = document.createElement(tag);
  if (classes.length) element.className = classes.join(" ");
  for (const [name, value] of Object.entries(properties)) {
    if (value === undefined || value === null) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "dataset") Object.assign(element.dataset, value);
    else if (name in element && !["list", "form", "popover", "href"].includes(name)) element[name] = value;
    else attribute(element, name, value === true ? "" : value);
  }
  element.append(...children.flat(3).filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

const SVG = "http://www.w3.org/2000/svg";

export function svg(tag, attributes = {}, ...children) {
  const element = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

const ICONS = {
  servers: "M2.5 3.5h11v4h-11zM2.5 9.5h11v3.5h-11zM5 5.5h.01M5 11.3h.01",
  nodes: "M6 2.5h4v3H6zM1.5 10.5h4v3h-4zM10.5 10.5h4v3h-4zM8 5.5V8M3.5 10.5V8h9v2.5",
  activity: "M1.5 8h3l2-5 3 10 2-5h3",
  users: "M6 7.5a2.5 2.5 0 1 0 0-5 2.5 2.5 0 0 0 0 5zM1.5 13.5c0-2.5 2-4 4.5-4s4.5 1.5 4.5 4M10.5 2.8a2.5 2.5 0 0 1 0 4.4M12.2 9.9c1.4.6 2.3 1.9 2.3 3.6",
  settings: "M2 4.5h6M12 4.5h2M2 11.5h2M8 11.5h6M10 3v3M6 10v3",
  search: "M7 11.5a4.5 4.5 0 1 0 0-9 4.5 4.5 0 0 0 0 9zM10.3 10.3 14 14",
  plus: "M8 3v10M3 8h10",
  more: "M3.5 8h.01M8 8h.01M12.5 8h.01",
  copy: "M5.5 5.5v-3h8v8h-3M2.5 5.5h8v8h-8z",
  play: "M4.5 2.8v10.4L13 8z",
  stop: "M3.5 3.5h9v9h-9z",
  restart: "M13 8a5 5 0 1 1-1.5-3.5M13 2.5v2.8h-2.8",
  kill: "M8 1.5 3 9h4l-1 5.5L12 7H8z",
  pause: "M5 3v10M11 3v10",
  trash: "M2.5 4.5h11M6 4.5v-2h4v2M4 4.5l.6 9h6.8l.6-9M6.5 7v4M9.5 7v4",
  down: "M8 2.5v8M4.5 7.5 8 11l3.5-3.5M2.5 13.5h11",
  up: "M8 11V3M4.5 6 8 2.5 11.5 6M2.5 13.5h11",
  folder: "M1.5 4V12.5h13v-7H8L6.5 3.5h-5z",
  file: "M3.5 1.5h6l3 3v10h-9zM9.5 1.5v3h3",
  archive: "M2 3h12v3H2zM3 6v7.5h10V6M6.5 8.5h3",
  edit: "M2.5 13.5v-3l8-8 3 3-8 8zM9 4l3 3",
  check: "M3 8.5 6.5 12 13 4.5",
  close: "M4 4l8 8M12 4l-8 8",
  warn: "M8 2 1.5 13.5h13zM8 6.5v3.5M8 11.8v.01",
  info: "M8 14A6 6 0 1 0 8 2a6 6 0 0 0 0 12zM8 7.5v3.5M8 5v.01",
  wrap: "M2 3.5h12M2 8h9.5a2.3 2.3 0 0 1 0 4.5H8M9.8 10.7 8 12.5l1.8 1.8M2 12.5h3",
  clock: "M8 14A6 6 0 1 0 8 2a6 6 0 0 0 0 12zM8 4.5V8l2.5 1.5",
  key: "M10 9.5a3.5 3.5 0 1 0-3.4-2.6L2 11.5V14h2.5v-2H6.5v-1.8l.7-.7A3.5 3.5 0 0 0 10 9.5zM10.8 5.2v.01",
  shield: "M8 1.5 2.5 3.5V8c0 3.5 2.5 5.5 5.5 6.5 3-1 5.5-3 5.5-6.5V3.5z",
  theme: "M8 13.5a5.5 5.5 0 1 0 0-11 5.5 5.5 0 0 0 0 11zM8 2.5v11M8 5l4.5-1.5M8 8.5l5.5-1M8 12l4-1.5",
  out: "M6.5 2.5h-4v11h4M6 8h8M11 5l3 3-3 3",
  keys: "M1.5 4.5h13v7.5h-13zM4 7h.01M6.7 7h.01M9.3 7h.01M12 7h.01M5 9.7h6",
  table: "M2 3h12v10H2zM2 6.5h12M2 9.8h12M6.5 3v10",
  chart: "M2 2.5v11h12M4.5 10l3-3.5 2.5 2 3.5-4.5",
  box: "M8 1.5 2.5 4.5v7L8 14.5l5.5-3v-7zM2.5 4.5 8 7.5l5.5-3M8 7.5v7",
  cube: "M2.5 2.5h11v11h-11zM2.5 6.2h11M6.2 6.2v7.3M9.9 2.5v3.7",
  mods: "M6 2.5h4v2.5h3.5v4H11v0a1.5 1.5 0 0 0 0 3h2.5v1.5h-11V5H6z",
  terminal: "M1.5 2.5h13v11h-13zM4 6l2.5 2L4 10M8 10.5h3.5",
  mail: "M2 3.5h12v9H2zM2 4.5l6 4.5 6-4.5",
};

/** An icon of strokes, hidden from screen readers: words stand beside it or in a label. */
export function icon(name) {
  return svg("svg", { viewBox: "0 0 16 16", "aria-hidden": "true", class: "icon" }, svg("path", { d: ICONS[name] }));
}

/** Changes a text only when it differs, so that nothing flickers and no selection is lost. */
export function text(element, value) {
  if (element.textContent !== value) element.textContent = value;
}

export function attribute(element, name, value) {
  if (value === null || value === undefined || value === false) element.removeAttribute(name);
  else if (element.getAttribute(name) !== String(value)) element.setAttribute(name, value);
}

/** Brings the children of `parent` in line with `items`: what stays is kept and updated, never made anew. */
export function keyed(parent, items, keyOf, make, update) {
  const known = new Map([...parent.children].map((child) => [child.dataset.key, child]));
  let place = parent.firstElementChild;
  for (const item of items) {
    const key = String(keyOf(item));
    let child = known.get(key);
    known.delete(key);
    if (!child) {
      child = make(item);
      child.dataset.key = key;
    }
    update?.(child, item);
    if (child === place) place = place.nextElementSibling;
    else parent.insertBefore(child, place);
  }
  for (const child of known.values()) child.remove();
}

/** For screen readers: what happened, politely. */
export function say(words) {
  document.getElementById("say").textContent = words;
}

/** And what went wrong, at once. */
export function alarm(words) {
  document.getElementById("alarm").textContent = words;
}

export async function copy(value, button) {
  try {
    await navigator.clipboard.writeText(value);
    button.dataset.done = "Copied";
    say("Copied");
  } catch {
    button.dataset.done = "Select it to copy";
    alarm("The browser does not allow copying here. Select the text instead.");
  }
  setTimeout(() => delete button.dataset.done, 1400);
}

/** A value that copies itself when pressed, and says so in its own place. */
export function copyable(value, label) {
  return h("button.copy", { type: "button", "aria-label": `${label} ${value}`, title: label, onclick: (event) => copy(value, event.currentTarget) }, h("span.cut", {}, value), icon("copy"));
}

export const bones = (count) => Array.from({ length: count }, () => h("span.bone"));

/** Shows `make()` in place only when the wait is long enough to be felt. */
export function afterAWhile(make) {
  const timer = setTimeout(make, 300);
  return () => clearTimeout(timer);
}
