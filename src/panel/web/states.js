// What a state is called, how it looks, and the one action that makes sense in it. No DOM but the mark itself.

import { attribute, h, svg, text } from "./dom.js";

/** The contract's word: tone (colour and shape), and what it is called. */
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

/** Filters on the overview, each with the tones it means. */
export const GROUPS = { running: "Running", moving: "Starting or stopping", stopped: "Stopped", crashed: "Crashed", unknown: "Unknown", suspended: "Suspended" };

const SHAPES = {
  running: [["full", "M6 1a5 5 0 1 1 0 10A5 5 0 1 1 6 1z"]],
  moving: [["", "M6 1.75a4.25 4.25 0 1 1 0 8.5a4.25 4.25 0 1 1 0-8.5z"], ["full", "M6 1a5 5 0 0 1 0 10z"]],
  stopped: [["", "M6 1.75a4.25 4.25 0 1 1 0 8.5a4.25 4.25 0 1 1 0-8.5z"]],
  suspended: [["full", "M2.5 1.5h2.5v9H2.5zM7 1.5h2.5v9H7z"]],
  crashed: [["full", "M6 .8 11.6 11H.4z"]],
  unknown: [["", "M3.5 4a2.5 2.5 0 1 1 3.75 2.17C6.4 6.7 6 7.1 6 8M6 10.5v.01"]],
};

/** What a pending command makes of the state until its outcome comes. */
const PENDING = {
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
  start: { label: "Start", doing: "Starting", icon: "play" },
  stop: { label: "Stop", doing: "Stopping", icon: "stop" },
  restart: { label: "Restart", doing: "Restarting", icon: "restart" },
  kill: { label: "Kill now", doing: "Killing", icon: "kill", danger: true },
  suspend: { label: "Suspend", doing: "Suspending", icon: "pause" },
  unsuspend: { label: "Resume", doing: "Resuming", icon: "play" },
};

const STAGES = { pulling: "Pulling the image", extracting: "Unpacking the image", creating: "Creating the container", installing: "Running the install script" };

/** Why a server is where it is, in words. */
const REASONS = {
  oom: "it ran out of memory",
  gave_up: "it crashed too often and is not restarted any more",
  disk_limit: "its disk is full",
  operator: "it was stopped on the node itself",
  engine_restart: "the Docker Engine restarted",
  ready_timeout: "it did not say in time that it is ready",
  crash: "it ended by itself",
};

/** The state of a server as the page tells it. */
export function stateOf(server) {
  const last = server.lastStatus ?? server.status;
  const [tone, word] = STATES[last] ?? STATES.unknown;
  if (!server.online) return { tone: "unknown", word: "Unknown", note: `was ${word.toLowerCase()}` };
  const pending = server.commands?.findLast((command) => PENDING[command.action]);
  if (pending) return { tone: "moving", word: PENDING[pending.action], busy: true, since: pending.created, progress: pending.progress, action: pending.action };
  if (server.missing) return { tone: "unknown", word: "Missing", note: "its node has lost it" };
  return { tone, word, busy: tone === "moving", since: server.since, action: last === "stopping" ? "stop_server" : undefined };
}

/** More about a state in a few words, or nothing. */
export function detailOf(server) {
  const last = server.lastStatus ?? server.status;
  if (!server.online) return "";
  if (last === "crashed") return [{ oom: "out of memory", gave_up: "gave up", disk_limit: "disk full" }[server.reason], exitWords(server)].filter(Boolean).join(", ");
  if (last === "stopped" && server.reason === "disk_limit") return "disk full";
  if (last === "stopped" && server.reason === "operator") return "on the node";
  return "";
}

export const exitWords = (server) => (server.exitCode === undefined || server.exitCode === null ? "" : `exit code ${server.exitCode}`);
export const reasonWords = (reason) => REASONS[reason] ?? "";

export function progressOf(progress) {
  if (!progress) return null;
  const words = STAGES[progress.stage] ?? progress.stage.replaceAll("_", " ");
  const share = progress.total ? Math.min(1, (progress.current ?? 0) / progress.total) : null;
  return { words: words[0].toUpperCase() + words.slice(1), share };
}

/** The one action that makes sense now, or none. */
export function primaryOf(server) {
  if (!server.online || server.missing) return null;
  return { running: "stop", starting: "stop", restarting: "stop", installing: "kill", stopping: null, stopped: "start", created: "start", crashed: "start", suspended: "unsuspend", unknown: "stop" }[server.lastStatus ?? server.status] ?? null;
}

export const isUp = (server) => ["running", "starting", "stopping", "restarting"].includes(server.lastStatus ?? server.status);

/** Shape and colour of a tone. */
export function mark(tone) {
  const shape = svg("svg", { viewBox: "0 0 12 12", "aria-hidden": "true", class: "mark" });
  shape.append(...SHAPES[tone].map(([name, d]) => svg("path", { d, class: name })));
  return shape;
}

/** A state with shape, colour and word, kept true by `updateState`. */
export function stateMark() {
  return h("span.state", {}, mark("unknown"), h("span"));
}

export function updateState(element, { tone, word }) {
  if (element.dataset.stateTone !== tone) {
    element.dataset.stateTone = tone;
    element.firstElementChild.replaceWith(mark(tone));
  }
  attribute(element.querySelector("span"), "class", null);
  text(element.querySelector("span"), word);
}
