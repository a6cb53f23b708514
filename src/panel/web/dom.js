// Small tools: elements, words for numbers and times, copying, speaking.

/** `h("p.note", {title: "x", onclick: f}, "text", child)` */
export function h(spec, properties = {}, ...children) {
  const [tag, ...classes] = spec.split(".");
  const element = document.createElement(tag);
  if (classes.length) element.className = classes.join(" ");
  for (const [name, value] of Object.entries(properties)) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name in element && name !== "list" && name !== "form") element[name] = value;
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

const SVG = "http://www.w3.org/2000/svg";

/** An icon of strokes, hidden from screen readers: words stand beside it. */
export function icon(path, size = 16) {
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("viewBox", `0 0 ${size} ${size}`);
  svg.setAttribute("aria-hidden", "true");
  svg.classList.add("icon");
  const shape = document.createElementNS(SVG, "path");
  shape.setAttribute("d", path);
  svg.append(shape);
  return svg;
}

/** Changes a text only when it differs, so that nothing flickers and no selection is lost. */
export function text(element, value) {
  if (element.textContent !== value) element.textContent = value;
}

export function attribute(element, name, value) {
  if (value === null || value === undefined || value === false) element.removeAttribute(name);
  else if (element.getAttribute(name) !== String(value)) element.setAttribute(name, value);
}

// ---- words

export function bytes(count) {
  const gib = count / 2 ** 30;
  if (gib >= 10) return `${Math.round(gib)} GiB`;
  if (gib >= 1) return `${gib.toFixed(1)} GiB`;
  const mib = count / 2 ** 20;
  return mib >= 10 || mib === 0 ? `${Math.round(mib)} MiB` : `${mib.toFixed(1)} MiB`;
}

/** `36 / 64 MiB`, both in the unit of the whole. */
export function ofBytes(part, whole) {
  const [unit, name] = whole >= 2 ** 30 ? [2 ** 30, "GiB"] : [2 ** 20, "MiB"];
  const short = (count) => (unit === 2 ** 30 && count < 10 * unit ? (count / unit).toFixed(1) : String(Math.round(count / unit)));
  return `${short(part)} / ${short(whole)} ${name}`;
}

export function span(milliseconds) {
  const seconds = Math.max(0, Math.round(milliseconds / 1000));
  if (seconds < 60) return `${seconds} s`;
  const minutes = Math.floor(seconds / 60);
  if (minutes < 60) return `${minutes} min`;
  const hours = Math.floor(minutes / 60);
  if (hours < 24) return `${hours} h ${minutes % 60} min`;
  const days = Math.floor(hours / 24);
  return days < 10 ? `${days} d ${hours % 24} h` : `${days} d`;
}

export const exactly = (time) => new Date(time).toLocaleString(undefined, { dateStyle: "medium", timeStyle: "medium" });

// ---- speaking

/** For screen readers: what happened, politely. */
export function say(words) {
  document.getElementById("say").textContent = words;
}

/** And what went wrong, at once. */
export function alarm(words) {
  document.getElementById("alert").textContent = words;
}

/** A button that copies a text and says so in its own place. */
export function copyButton(value, label, className = "copy") {
  const shown = h("span", {}, value);
  return h(`button.${className}`, {
    type: "button",
    "aria-label": label,
    title: label,
    onclick: async (event) => {
      const button = event.currentTarget;
      try {
        await navigator.clipboard.writeText(value);
        button.dataset.done = "Copied";
        say(`Copied ${value}`);
      } catch {
        button.dataset.done = "Not copied";
        alarm("The browser does not allow copying here. Select the text instead.");
      }
      setTimeout(() => delete button.dataset.done, 1200);
    },
  }, shown, icon("M5.5 5.5v-3h8v8h-3m-8-5h8v8h-8z"));
}
