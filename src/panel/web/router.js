// Which page the address means, and going to another one without loading again.
//
// All that is chosen is in the address: `/servers?q=words&state=running`. Pages register in app.js.

const listeners = new Set();

/** The address as pages read it. */
export function here() {
  return {
    path: location.pathname,
    parts: location.pathname.split("/").filter(Boolean).map(decodeURIComponent),
    query: new URLSearchParams(location.search),
  };
}

export const onRoute = (listener) => listeners.add(listener);
const tell = () => listeners.forEach((listener) => listener(here()));

export function go(address, { replace = false } = {}) {
  if (leaving && !leaving(address)) return;
  history[replace ? "replaceState" : "pushState"](null, "", address);
  tell();
}

/** Changes a part of the query and nothing else; empty values leave it. */
export function choose(changes, { replace = true } = {}) {
  const query = new URLSearchParams(location.search);
  for (const [name, value] of Object.entries(changes)) {
    if (value === "" || value === null || value === undefined) query.delete(name);
    else query.set(name, value);
  }
  const words = query.toString();
  go(location.pathname + (words ? `?${words}` : ""), { replace });
}

/** Something on the page may ask before it is left; `guard(address)` tells whether to go. */
let leaving = null;
export function guardLeaving(guard) {
  leaving = guard;
}

export const url = (...parts) => `/${parts.map(encodeURIComponent).join("/")}`;

addEventListener("popstate", tell);
addEventListener("click", (event) => {
  const link = event.target.closest?.("a[href]");
  const plain = event.button === 0 && !event.ctrlKey && !event.metaKey && !event.shiftKey && !event.altKey;
  if (!link || !plain || event.defaultPrevented || link.target || link.hasAttribute("download")) return;
  if (link.origin !== location.origin || link.pathname.startsWith("/api/") || link.hash) return;
  event.preventDefault();
  go(link.pathname + link.search);
});
