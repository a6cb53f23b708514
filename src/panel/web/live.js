// The live state: one event stream, two maps, and those who want to know of changes.

import { all as listed, askForOutcomes, get, serverPath, session, setSession, settle } from "./api.js";

export const nodes = new Map();
export const servers = new Map();
export const link = { state: "connecting", version: "" };
const listeners = new Set();

export const keyOf = (server) => `${server.node}/${server.id}`;
export const serverAt = (node, id) => servers.get(`${node}/${id}`);
export const nodeName = (id) => nodes.get(id)?.name || id;

/** Calls `listener({kind, keys})` for each change; kind is all, node, server, usage, link, activity or console. Gives what ends it. */
export function onChange(listener) {
  listeners.add(listener);
  return () => listeners.delete(listener);
}

export function tell(change) {
  for (const listener of [...listeners]) listener(change);
}

function setLink(state) {
  if (link.state === state) return;
  link.state = state;
  tell({ kind: "link" });
}

let stream = null;
let watchdog = 0;
let retry = 0;
let following = null;
/** The stream ticks every 20 s: longer silence means that nobody is there, which the browser may not notice. */
const SILENCE = 50_000;

/** New output of this server ("NODE/ID", or null for none) comes as changes of the kind "console". */
export function follow(key) {
  if (following === key) return;
  following = key;
  if (stream) connect();
}

export function connect() {
  clearTimeout(watchdog);
  stream?.close();
  stream = new EventSource(`/api/v1/events${following ? `?console=${encodeURIComponent(following)}` : ""}`);
  const on = (name, handle) =>
    stream.addEventListener(name, (event) => {
      alive();
      handle?.(JSON.parse(event.data));
    });
  on("tick");
  on("snapshot", (all) => {
    link.version = all.version ?? "";
    nodes.clear();
    servers.clear();
    for (const node of all.nodes) nodes.set(node.id, node);
    for (const server of all.servers) servers.set(keyOf(server), server);
    tell({ kind: "all" });
    askForOutcomes();
    if (session?.user.role !== "admin") learnRights();
  });
  on("node", (node) => {
    nodes.set(node.id, node);
    tell({ kind: "node", keys: [node.id] });
  });
  on("node_gone", ({ id }) => {
    nodes.delete(id);
    for (const [key, server] of servers) if (server.node === id) servers.delete(key);
    tell({ kind: "all" });
  });
  on("server", (server) => {
    const key = keyOf(server);
    const known = servers.get(key);
    // Events do not repeat what the asker may do, and usage comes apart.
    servers.set(key, { rights: known?.rights, usage: known?.usage, ...server });
    if (!known && session?.user.role !== "admin") get(serverPath(server)).then(({ rights }) => ((servers.get(key).rights = rights), tell({ kind: "server", keys: [key] })), () => {});
    tell({ kind: "server", keys: [key], before: known });
  });
  on("server_gone", (gone) => {
    servers.delete(keyOf(gone));
    tell({ kind: "server", keys: [keyOf(gone)] });
  });
  on("usage", (usage) => {
    const keys = [];
    for (const { node, id, usage: now } of usage.servers ?? []) {
      const server = servers.get(`${node}/${id}`);
      if (server) keys.push(`${node}/${id}`), (server.usage = now);
    }
    for (const { id, ...now } of usage.nodes ?? []) if (nodes.has(id)) Object.assign(nodes.get(id), now);
    tell({ kind: "usage", keys, at: usage.at });
  });
  on("command", settle);
  on("activity", (entry) => tell({ kind: "activity", entry }));
  on("console", (output) => tell({ kind: "console", output }));
  on("logout", () => {
    disconnect();
    setSession(null);
  });
  stream.onopen = () => {
    retry = 0;
    alive();
    tell({ kind: "open" });
  };
  stream.onerror = () => {
    setLink("reconnecting");
    // The browser comes back by itself unless the Panel has answered with an error.
    if (stream?.readyState === EventSource.CLOSED) again();
  };
  watch();
}

export function disconnect() {
  clearTimeout(watchdog);
  stream?.close();
  stream = null;
  following = null;
  nodes.clear();
  servers.clear();
  link.state = "connecting";
}

// A page that is left but kept by the browser must not hold one of the few connections there are.
addEventListener("pagehide", () => (clearTimeout(watchdog), stream?.close()));
addEventListener("pageshow", (event) => event.persisted && stream && connect());

/** What a member may do with each server is told by the list, not by events. */
async function learnRights() {
  const found = await listed("/servers").catch(() => []);
  for (const { node, id, rights } of found) if (serverAt(node, id)) serverAt(node, id).rights = rights;
  tell({ kind: "server", keys: found.map(keyOf) });
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
  watchdog = setTimeout(() => {
    // Ended because the session has: then this tells it. Else the Panel is away, or full.
    get("/session").then(connect, (refused) => refused.status !== 401 && again());
  }, Math.min(1000 * 2 ** retry++, 15_000));
}
