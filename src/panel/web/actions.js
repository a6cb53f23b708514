// Start, stop and the like: pending at once, told in words when they fail, true when the node says so.

import { command, isAdmin, may, serverPath } from "./api.js";
import { ask, toast } from "./dialogs.js";
import { h } from "./dom.js";
import { keyOf, servers, tell } from "./live.js";
import { isUp, VERBS } from "./states.js";
import { go, here } from "./router.js";

const RIGHT = { suspend: "admin", unsuspend: "admin" };
export const mayDo = (server, verb) => (RIGHT[verb] ? isAdmin() : may(server, "power"));

/** Does it; the server counts as busy at once, before the Panel has answered. */
export async function power(server, verb, body = {}) {
  const mine = { id: `here-${verb}`, action: `${verb}_server`, created: new Date().toISOString() };
  server.commands = [...(server.commands ?? []), mine];
  tell({ kind: "server", keys: [keyOf(server)] });
  try {
    await command("POST", serverPath(server, `/${verb}`), body);
  } catch (refused) {
    if (refused.code !== "SUPERSEDED") toast(`${server.name}: ${refused.message}`, "crashed");
  } finally {
    const now = servers.get(keyOf(server));
    if (now?.commands?.some(({ id }) => id === mine.id)) {
      now.commands = now.commands.filter(({ id }) => id !== mine.id);
      tell({ kind: "server", keys: [keyOf(server)] });
    }
  }
}

/** The rest of what can be done with a server, for its menu. */
export function moreOf(server) {
  const status = server.lastStatus ?? server.status;
  const item = (verb, act) => ({ label: VERBS[verb].label, icon: VERBS[verb].icon, danger: VERBS[verb].danger, act: act ?? (() => power(server, verb)) });
  const items = [];
  if (server.online && !server.missing && mayDo(server, "start")) {
    if (isUp(server)) items.push(item("restart"));
    if (isUp(server) || status === "installing") items.push(item("kill", () => askToKill(server)));
  }
  if (server.online && isAdmin()) {
    if (status === "suspended") items.push(item("unsuspend"));
    else items.push(item("suspend", () => askToSuspend(server)));
  }
  if (isAdmin()) items.push("-", { label: "Delete…", icon: "trash", danger: true, act: () => askToDelete(server) });
  return items;
}

function askToKill(server) {
  ask({ title: `Kill ${server.name} now?`, words: "It gets no time to save. What was not saved is lost.", button: "Kill now", danger: true, act: async () => void power(server, "kill") });
}

function askToSuspend(server) {
  ask({ title: `Suspend ${server.name}?`, words: "It is stopped and cannot be started by anybody until it is resumed. Its files stay.", button: "Suspend", act: async () => void power(server, "suspend") });
}

export async function askToDelete(server) {
  const data = h("input", { type: "checkbox" });
  const done = await ask({
    title: `Delete ${server.name}?`,
    words: "The server is stopped and removed from its node.",
    extra: h("label.check", {}, data, h("span", {}, h("b", {}, "Delete its files too"), h("small", {}, "World, configuration, backups beside them: all that is in its directory. This cannot be undone. Without it the files stay on the node."))),
    typed: server.name,
    button: "Delete server",
    danger: true,
    act: async () => void (await command("DELETE", serverPath(server), { confirm: server.name, removeData: data.checked })),
  });
  if (!done) return;
  toast(`${server.name} is deleted${data.checked ? " with its files" : "; its files stay on the node"}.`);
  if (here().path.startsWith("/servers/")) go("/servers");
}
