// The live state: one event stream, two maps, and those who want to know of changes.

export const nodes = new Map();
export const servers = new Map();
/** Commands that this page has sent and waits for, by id. */
const awaited = new Map();
const listeners = new Set();

export const keyOf = (server) => `${server.node}/${server.id}`;

/** Calls `listener({kind, key})` for each change; kind is "all", "node", "server", "usage" or "link". */
export function onChange(listener) {
  listeners.add(listener);
}

export const link = { state: "connecting", since: Date.now() };

function tell(change) {
  for (const listener of listeners) listener(change);
}

function setLink(state) {
  if (link.state === state) return;
  link.state = state;
  link.since = Date.now();
  tell({ kind: "link" });
}

let stream = null;
let watchdog = 0;
let retry = 0;
/** The stream ticks every 20 s: longer silence means that nobody is there, which the browser may not notice. */
const SILENCE = 50_000;

export function connect() {
  stream?.close();
  stream = new EventSource("/api/events");
  const on = (name, handle) =>
    stream.addEventListener(name, (event) => {
      alive();
      handle?.(JSON.parse(event.data));
    });
  on("tick");
  on("snapshot", (all) => {
    nodes.clear();
    servers.clear();
    for (const node of all.nodes) nodes.set(node.id, node);
    for (const server of all.servers) servers.set(keyOf(server), server);
    tell({ kind: "all" });
    // Outcomes may have come while the stream was away.
    for (const id of awaited.keys()) askAgain(id);
  });
  on("node", (node) => {
    nodes.set(node.id, node);
    tell({ kind: "node", key: node.id });
  });
  on("node_gone", ({ id }) => {
    nodes.delete(id);
    for (const [key, server] of servers) if (server.node === id) servers.delete(key);
    tell({ kind: "all" });
  });
  on("server", (server) => {
    const known = servers.get(keyOf(server));
    servers.set(keyOf(server), server);
    tell({ kind: "server", key: keyOf(server), before: known });
  });
  on("server_gone", (gone) => {
    servers.delete(keyOf(gone));
    tell({ kind: "server", key: keyOf(gone) });
  });
  on("usage", (event) => {
    for (const { node, id, usage } of event.servers) {
      const server = servers.get(`${node}/${id}`);
      if (!server) continue;
      server.usage = usage;
      tell({ kind: "usage", key: `${node}/${id}` });
    }
  });
  on("command", (command) => {
    if (command.state !== "pending") settle(command);
  });
  stream.onopen = () => {
    retry = 0;
    alive();
  };
  stream.onerror = () => {
    setLink("reconnecting");
    // The browser comes back by itself unless the Panel has answered with an error.
    if (stream.readyState === EventSource.CLOSED) again();
  };
  watch();
}

function alive() {
  setLink("live");
  watch();
}

function watch() {
  clearTimeout(watchdog);
  watchdog = setTimeout(() => {
    setLink("reconnecting");
    again();
  }, SILENCE);
}

function again() {
  clearTimeout(watchdog);
  stream.close();
  watchdog = setTimeout(connect, Math.min(1000 * 2 ** retry++, 15_000));
}

// ---- calls

/** An answer of the Panel that is a refusal, or none at all. */
export class Refused extends Error {
  constructor({ code, message, field }) {
    super(message);
    this.code = code;
    this.field = field;
  }
}

async function call(method, path, body) {
  let response;
  try {
    response = await fetch(`/api/${path}`, {
      method,
      headers: body ? { "Content-Type": "application/json", Prefer: "respond-async" } : {},
      body: body && JSON.stringify(body),
    });
  } catch {
    throw new Refused({ code: "UNREACHABLE", message: "The Panel does not answer. Check that it runs, then try again." });
  }
  const answer = await response.json().catch(() => ({}));
  if (response.ok) return answer;
  throw new Refused(answer.error ?? { code: "HTTP", message: `The Panel answered ${response.status}.` });
}

/** Sends a command; `outcome` resolves when it is done and rejects with [`Refused`] when it failed. */
export async function command(method, path, body = {}) {
  const { command } = await call(method, path, body);
  const outcome = new Promise((resolve, reject) => awaited.set(command.id, { resolve, reject }));
  outcome.catch(() => {}); // whoever wants to know asks; others see the state itself
  if (early.has(command.id)) settle(early.get(command.id));
  else if (command.state !== "pending") settle(command);
  return { command, outcome };
}

/** Outcomes that came by the stream before the call itself was answered. */
const early = new Map();

function settle(command) {
  const waiting = awaited.get(command.id);
  if (!waiting) {
    early.set(command.id, command);
    if (early.size > 100) early.delete(early.keys().next().value);
    return;
  }
  awaited.delete(command.id);
  early.delete(command.id);
  if (command.state === "succeeded") waiting.resolve(command);
  else waiting.reject(new Refused(command.error));
}

async function askAgain(id) {
  try {
    const { command } = await call("GET", `commands/${encodeURIComponent(id)}`);
    if (command.state !== "pending") settle(command);
  } catch (refused) {
    if (refused.code !== "COMMAND_NOT_FOUND") return;
    awaited.get(id)?.reject(new Refused({ code: "UNKNOWN", message: "The Panel was restarted and does not know how this ended. The state shown is true." }));
    awaited.delete(id);
  }
}

export const serverPath = (server, rest = "") =>
  `servers/${encodeURIComponent(server.node)}/${encodeURIComponent(server.id)}${rest}`;
