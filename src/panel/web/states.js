// What a state is called, how it looks, and the one action that makes sense in it. No DOM but the mark itself.

import { icon } from "./dom.js";

/** tone: colour and shape; word: what it is called. */
const STATES = {
  running: ["running", "Running"],
  starting: ["moving", "Starting"],
  stopping: ["moving", "Stopping"],
  restarting: ["moving", "Restarting"],
  installing: ["moving", "Installing"],
  deleting: ["moving", "Deleting"],
  created: ["stopped", "Ready to start"],
  stopped: ["stopped", "Stopped"],
  suspended: ["suspended", "Suspended"],
  crashed: ["crashed", "Crashed"],
  unknown: ["unknown", "Unknown"],
};

const SHAPES = {
  running: "M6 1a5 5 0 1 1 0 10A5 5 0 1 1 6 1z",
  moving: "M6 1.75a4.25 4.25 0 1 1 0 8.5a4.25 4.25 0 1 1 0-8.5zM6 1a5 5 0 0 1 0 10z",
  stopped: "M6 1.75a4.25 4.25 0 1 1 0 8.5a4.25 4.25 0 1 1 0-8.5z",
  suspended: "M3.25 1.5v9M8.75 1.5v9",
  crashed: "M6 1l5.25 10H.75z",
  unknown: "M3.5 4a2.5 2.5 0 1 1 3.75 2.17C6.4 6.7 6 7.1 6 8M6 10.5v.01",
};

/** What a pending command makes of the state until its outcome comes. */
export const PENDING = {
  create_server: "Creating",
  start_server: "Starting",
  stop_server: "Stopping",
  restart_server: "Restarting",
  kill_server: "Killing",
  delete_server: "Deleting",
  suspend_server: "Suspending",
  unsuspend_server: "Resuming",
  update_server: "Updating",
  install_server: "Installing",
};

export const VERBS = {
  start: { label: "Start", path: "/start", action: "start_server" },
  stop: { label: "Stop", path: "/stop", action: "stop_server" },
  restart: { label: "Restart", path: "/restart", action: "restart_server" },
  kill: { label: "Kill now", path: "/kill", action: "kill_server", danger: true },
  suspend: { label: "Suspend", path: "/suspend", action: "suspend_server" },
  unsuspend: { label: "Resume", path: "/unsuspend", action: "unsuspend_server" },
};

const STAGES = { pulling: "Pulling the image", extracting: "Unpacking the image", creating: "Creating the container" };

/** The state of a server as the page tells it: {tone, word, busy, since, progress, action}. */
export function stateOf(server, online) {
  const pending = server.commands.at(-1);
  const [tone, word] = STATES[server.lastStatus] ?? STATES.unknown;
  if (!online) return { tone: "unknown", word: "Unknown", note: `was ${word.toLowerCase()}` };
  if (pending && PENDING[pending.action]) {
    return { tone: "moving", word: PENDING[pending.action], busy: true, since: pending.created, progress: pending.progress, action: pending.action };
  }
  if (server.missing) return { tone: "unknown", word: "Missing", note: "its node has lost it" };
  const busy = tone === "moving";
  return { tone, word, busy, since: server.since, action: busy && server.lastStatus === "stopping" ? "stop_server" : undefined };
}

/** More about a state in a few words, or nothing. */
export function detailOf(server) {
  if (server.lastStatus === "crashed") {
    const why = { oom: "out of memory", gave_up: "gave up restarting", disk_limit: "disk full" }[server.reason];
    const exit = server.exitCode === undefined ? null : `exit ${server.exitCode}`;
    return [why, exit].filter(Boolean).join(", ");
  }
  if (server.lastStatus === "stopped" && server.reason === "operator") return "from outside";
  if (server.lastStatus === "stopped" && server.exitCode) return `exit ${server.exitCode}`;
  return "";
}

export function progressOf(progress) {
  if (!progress) return null;
  const words = STAGES[progress.stage] ?? progress.stage.replaceAll("_", " ");
  const share = progress.total ? Math.min(1, (progress.current ?? 0) / progress.total) : null;
  return { words: words[0].toUpperCase() + words.slice(1), share };
}

/** The one action that makes sense now, or none. */
export function primaryOf(server, online) {
  if (!online || server.missing) return null;
  return { running: "stop", starting: "stop", restarting: "stop", installing: "kill", stopped: "start", created: "start", crashed: "start", suspended: "unsuspend" }[server.lastStatus] ?? null;
}

/** What else can be done. */
export function othersOf(server, online) {
  if (!online) return [];
  if (server.missing) return ["delete"];
  const up = ["running", "starting", "stopping", "restarting", "installing", "unknown"].includes(server.lastStatus);
  const verbs = [];
  if (server.lastStatus === "unknown") verbs.push("start", "stop");
  if (up) verbs.push("restart", "kill");
  if (server.lastStatus !== "suspended") verbs.push("suspend");
  return [...verbs, "delete"];
}

/** Shape and colour of a tone. */
export function mark(tone) {
  const svg = icon(SHAPES[tone], 12);
  svg.classList.add("mark");
  return svg;
}

export function remark(svg, tone) {
  svg.firstChild.setAttribute("d", SHAPES[tone]);
}
