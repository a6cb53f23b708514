// Calls to `/api/v1`: who asks, how a refusal is told, and commands whose outcome comes later by the live stream.

/** An answer of the Panel that is a refusal, or none at all. `message` is a sentence for people. */
export class Refused extends Error {
  name = "Refused";
  constructor({ code, message, field, status }) {
    super(message);
    Object.assign(this, { code, field, status });
  }
}

/** The session, or null; `onSession` hears of each change. */
export let session = null;
const watchers = new Set();
export const onSession = (watcher) => watchers.add(watcher);

export function setSession(next) {
  session = next;
  watchers.forEach((watcher) => watcher(next));
}

export const isAdmin = () => session?.user.role === "admin";
/** `right` on a server: what the page offers. The Panel decides again. */
export const may = (server, right) => isAdmin() || Boolean(server.rights?.includes(right));

/** Random and unguessable enough; `crypto.randomUUID` is missing where the page comes without TLS. */
export const unique = () => Array.from(crypto.getRandomValues(new Uint8Array(12)), (byte) => byte.toString(16).padStart(2, "0")).join("");

/**
 * Calls the Panel and gives the JSON of its answer. `body` is an object, or bytes. Throws [`Refused`].
 */
export async function call(method, path, body, { headers = {}, signal, answer = "json" } = {}) {
  const bytes = body instanceof Blob || body instanceof Uint8Array;
  const all = { Accept: "application/json", ...headers };
  if (method !== "GET" && session) all["X-CSRF-Token"] = session.csrf;
  if (method !== "GET") all["Content-Type"] = bytes ? "application/octet-stream" : "application/json";
  const limit = AbortSignal.timeout(60_000);
  let response;
  try {
    response = await fetch(`/api/v1${path}`, { method, headers: all, signal: signal ? AbortSignal.any([signal, limit]) : limit, body: method === "GET" ? undefined : bytes ? body : JSON.stringify(body ?? {}) });
    if (response.ok) return response.status === 204 ? null : await response[answer]();
  } catch (cause) {
    if (signal?.aborted) throw new Refused({ code: "CANCELLED", message: "Cancelled." });
    if (cause instanceof SyntaxError) throw new Refused({ code: "ANSWER", message: "The Panel answered something that is not understood here. Load the page again." });
    throw new Refused({ code: "UNREACHABLE", message: "The Panel does not answer. Check that it runs, then try again." });
  }
  const problem = (await response.json().catch(() => null))?.error ?? { code: "HTTP", message: `The Panel answered ${response.status}.` };
  if (problem.code === "TOO_MANY_ATTEMPTS" || response.status === 429) {
    const wait = Number(response.headers.get("retry-after"));
    if (wait) problem.message += ` Try again in ${wait < 90 ? `${wait} seconds` : `${Math.ceil(wait / 60)} minutes`}.`;
  }
  if (problem.code === "NOT_LOGGED_IN" && session) setSession(null);
  throw new Refused({ ...problem, status: response.status });
}

export const get = (path, options) => call("GET", path, undefined, options);
export const post = (path, body, options) => call("POST", path, body, options);

/** All items of a list, page after page, at most `most`. */
export async function all(path, most = 1000) {
  const items = [];
  let cursor;
  do {
    const query = new URLSearchParams({ limit: 200, ...(cursor && { cursor }) });
    const page = await get(`${path}${path.includes("?") ? "&" : "?"}${query}`);
    items.push(...page.items);
    cursor = page.next;
  } while (cursor && items.length < most);
  return items;
}

export const serverPath = (server, rest = "") => `/servers/${encodeURIComponent(server.node)}/${encodeURIComponent(server.id)}${rest}`;
export const nodePath = (id, rest = "") => `/nodes/${encodeURIComponent(id)}${rest}`;
export const query = (values) => `?${new URLSearchParams(Object.entries(values).filter(([, value]) => value !== undefined && value !== null && value !== ""))}`;

// ---- commands

/** Commands that this page waits for, by id. */
const awaited = new Map();
/** Outcomes that came by the stream before the call itself was answered. */
const early = new Map();

/** Sends a command to a node and waits for its true outcome, however long it takes. Throws [`Refused`]. */
export async function command(method, path, body = {}) {
  const headers = { Prefer: "respond-async" };
  // Sent once, however often the browser or a proxy tries.
  if (method === "POST") headers["Idempotency-Key"] = unique();
  const { command } = await call(method, path, body, { headers });
  if (command.state !== "pending") return finished(command);
  return new Promise((resolve, reject) => {
    awaited.set(command.id, { resolve, reject });
    if (early.has(command.id)) settle(early.get(command.id));
  }).then(finished);
}

function finished(command) {
  if (command.state === "succeeded") return command;
  if (command.state === "unknown") throw new Refused({ code: "UNKNOWN", message: "The node has not said how this ended. What the page shows is what it last said." });
  throw new Refused(command.error ?? { code: "FAILED", message: "It failed, and the node gave no reason." });
}

/** The stream tells of a command. */
export function settle(command) {
  if (command.state === "pending") return;
  const waiting = awaited.get(command.id);
  if (!waiting) {
    early.set(command.id, command);
    if (early.size > 100) early.delete(early.keys().next().value);
    return;
  }
  awaited.delete(command.id);
  early.delete(command.id);
  waiting.resolve(command);
}

/** After the stream was away: outcomes may have come meanwhile. */
export function askForOutcomes() {
  for (const [id, { reject }] of awaited) {
    get(`/commands/${encodeURIComponent(id)}`).then(({ command }) => settle(command), (refused) => {
      if (refused.status !== 404) return;
      awaited.delete(id);
      reject(new Refused({ code: "UNKNOWN", message: "The Panel does not know how this ended. What the page shows is what the node last said." }));
    });
  }
}
