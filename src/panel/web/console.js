// The console tab: output as it comes, without a hole after a lost connection, and a line to type into.

import { command, get, may, query, serverPath } from "./api.js";
import { toast } from "./dialogs.js";
import { attribute, h, icon, text } from "./dom.js";
import { follow, keyOf, onChange, serverAt } from "./live.js";
import { choose } from "./router.js";
import { Scrollback } from "./scrollback.js";
import { isUp, stateOf } from "./states.js";
import { many } from "./words.js";

const HISTORY = 100;

export function tab(body, server, at) {
  const key = keyOf(server);
  const scroll = new Scrollback({ onfind: (hit, count) => text(hits, needle.value ? `${hit} of ${count}` : "") });
  const needle = h("input", { type: "search", placeholder: "Find in the output", "aria-label": "Find in the output", oninput: () => scroll.find(needle.value), onkeydown: (event) => {
    if (event.key === "Enter") scroll.step(event.shiftKey ? 1 : -1);
    else if (event.key === "Escape") (needle.value = ""), scroll.find("");
    else return;
    event.preventDefault();
  } });
  const hits = h("span.soft.small.num.hits", { role: "status" });
  const switched = (name, words, symbol, set) => {
    const button = h("button.button.quiet", { type: "button", title: words, onclick: () => choose({ [name]: button.getAttribute("aria-pressed") === "true" ? "" : "1" }) }, icon(symbol), h("span.wide-only", {}, words));
    return { name, button, set };
  };
  const switches = [
    switched("nowrap", "Do not wrap", "wrap", (on) => scroll.element.classList.toggle("nowrap", on)),
    switched("times", "Times", "clock", (on) => scroll.element.classList.toggle("times", on)),
  ];
  let paused = false;
  const pause = h("button.button.quiet", { type: "button", title: "Pause", "aria-pressed": "false", onclick: () => {
    paused = !paused;
    attribute(pause, "aria-pressed", String(paused));
    scroll.pause(paused);
  } }, icon("pause"), h("span.wide-only", {}, "Pause"));
  const download = h("a.button.quiet", { href: `/api/v1${serverPath(server, "/console/download")}`, download: `${server.id}-console.txt`, title: "Download the log" }, icon("down"), h("span.wide-only", {}, "Download"));
  const placeholder = h("p.console-empty.soft", { hidden: true });
  const input = h("input.line", { "aria-label": "Command", autocomplete: "off", spellcheck: false, autocapitalize: "none", enterKeyHint: "send", maxLength: 4000 });
  const send = h("button.button", {}, "Send");
  const line = h("form.console-line", { onsubmit: (event) => (event.preventDefault(), type()) }, h("span.prompt.mono", { "aria-hidden": "true" }, ">"), input, send);
  body.append(h("div.card.console", {}, h("div.console-bar", {}, h("div.console-find", {}, icon("search"), needle, hits), switches.map(({ button }) => button), pause, download), h("div.console-view", {}, scroll.element, placeholder), line));

  // ---- output

  let boot = null;
  let next = null;
  let early = [];
  let asking = false;
  let ended = false;

  /** Lines of one boot by their numbers: what was seen is not shown twice, what is missing is asked for. */
  function put(lines) {
    const anew = lines.filter(([seq]) => next === null || seq >= next);
    if (!anew.length) return;
    next = anew.at(-1)[0] + 1;
    scroll.add(anew.map(([, time, stream, message]) => (stream === "system" && /dropped/.test(message) ? { gap: message } : { time, stream: stream === "input" ? "stdin" : stream, message })));
    placeholder.hidden = true;
  }

  async function catchUp() {
    if (asking || ended) return;
    asking = true;
    early = [];
    try {
      const known = boot !== null;
      const answer = await get(serverPath(server, "/console") + query({ lines: 5000, after: known ? next - 1 : undefined, boot: known ? boot : undefined }));
      if (ended) return;
      if (known && answer.boot !== boot) {
        scroll.add([{ gap: "The Agent was restarted; what follows is its new log" }]);
        next = null;
      } else if (answer.dropped) scroll.add([{ gap: `${many(answer.dropped, "line")} ${answer.dropped === 1 ? "was" : "were"} dropped here` }]);
      boot = answer.boot;
      put(answer.lines);
      next ??= answer.next;
      tellEmpty();
    } catch (refused) {
      tellEmpty(refused.message);
    } finally {
      asking = false;
    }
    for (const output of early.splice(0)) take(output);
  }

  function take(output) {
    if (`${output.node}/${output.server}` !== key) return;
    if (asking) return void early.push(output);
    if (boot === null || output.boot !== boot) return void catchUp();
    const first = output.lines[0]?.[0];
    if (output.dropped) {
      scroll.add([{ gap: `${many(output.dropped, "line")} ${output.dropped === 1 ? "was" : "were"} dropped here` }]);
    } else if (next !== null && first > next) return void catchUp();
    put(output.lines);
  }

  function tellEmpty(words) {
    placeholder.hidden = scroll.count > 0 || next > 1 || Boolean(words && scroll.count);
    const now = serverAt(server.node, server.id) ?? server;
    text(placeholder, words ?? (isUp(now) ? "Nothing printed so far." : "No output yet. It comes here as soon as the server starts."));
  }

  // ---- input

  const stored = `history:${key}`;
  let history = [];
  try {
    history = JSON.parse(sessionStorage.getItem(stored) ?? "[]");
  } catch {
    // Begins empty.
  }
  let place = history.length;
  let draft = "";

  input.addEventListener("keydown", (event) => {
    const by = { ArrowUp: -1, ArrowDown: 1 }[event.key];
    if (!by || place + by < 0 || place + by > history.length) return;
    event.preventDefault();
    if (place === history.length) draft = input.value;
    place += by;
    input.value = history[place] ?? draft;
    input.setSelectionRange(input.value.length, input.value.length);
  });

  async function type() {
    const words = input.value;
    if (!words.trim() || input.disabled) return;
    input.value = "";
    if (history.at(-1) !== words) history.push(words);
    history = history.slice(-HISTORY);
    place = history.length;
    try {
      sessionStorage.setItem(stored, JSON.stringify(history));
    } catch {
      // Kept for this view alone.
    }
    scroll.toEnd();
    attribute(send, "aria-busy", "true");
    try {
      await command("POST", serverPath(server, "/console"), { command: words });
    } catch (refused) {
      if (!input.value) input.value = words;
      toast(`Not sent: ${refused.message}`, "crashed");
    } finally {
      attribute(send, "aria-busy", null);
    }
  }

  function changed(now) {
    const reason = !may(now, "console") ? "You may read this console, not type into it." : !now.online ? "The node is offline." : now.lastStatus === "suspended" ? "The server is suspended." : !isUp(now) && now.lastStatus !== "unknown" ? `The server is ${stateOf(now).word.toLowerCase()}: start it to type here.` : "";
    input.disabled = send.disabled = Boolean(reason);
    input.placeholder = reason || "Type a command";
    if (!placeholder.hidden) tellEmpty();
  }

  function update(route) {
    for (const { name, button, set } of switches) {
      const on = route.query.has(name);
      attribute(button, "aria-pressed", String(on));
      set(on);
    }
  }

  update(at);
  changed(server);
  follow(key);
  catchUp();
  const stop = onChange(({ kind, output }) => {
    if (kind === "console") take(output);
    else if (kind === "open") catchUp();
  });
  return {
    update,
    changed,
    hide() {
      ended = true;
      stop();
      follow(null);
      scroll.end();
    },
  };
}
