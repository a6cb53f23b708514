// One server: its header with state and power, banners for what is wrong, and the tabs.

import { get, isAdmin, may, serverPath } from "./api.js";
import { mayDo, moreOf, power } from "./actions.js";
import { place } from "./app.js";
import { menu } from "./dialogs.js";
import { attribute, copyable, h, icon, text } from "./dom.js";
import { nodeName, nodes, onChange, serverAt } from "./live.js";
import { go, url } from "./router.js";
import { detailOf, exitWords, isUp, mark, progressOf, reasonWords, stateMark, stateOf, updateState, VERBS } from "./states.js";
import { bytes, exactly, span } from "./words.js";

/** Whether a node knows what a page needs; members are not told, and then the page is shown. */
const knows = (server, action) => nodes.get(server.node)?.capabilities?.includes(action) ?? true;

const TABS = [
  ["console", "Console", () => import("./console.js"), (server) => may(server, "view")],
  ["files", "Files", () => import("./files.js"), (server) => may(server, "files") && knows(server, "list_files")],
  ["charts", "Charts", () => import("./charts.js"), (server) => may(server, "view")],
  ["mods", "Mods", () => import("./mods.js"), (server) => may(server, "files") && knows(server, "list_mods")],
  ["settings", "Settings", () => import("./tune.js"), (server) => may(server, "settings")],
  ["activity", "Activity", () => import("./activity.js"), (server) => may(server, "view")],
];

export function show(main, at) {
  const [, node, id] = at.parts;
  const key = `${node}/${id}`;
  let server = serverAt(node, id);
  if (!server) {
    place([["Servers", "/servers"], [id]]);
    main.append(h("div.empty", {}, icon("servers"), h("h1", {}, "This server is not here"), h("p", {}, "It was deleted, or you may not see it."), h("div.buttons", {}, h("a.button", { href: "/servers" }, "To the servers"))));
    const end = onChange(({ keys }) => keys?.includes(key) && serverAt(node, id) && (end(), go(location.pathname + location.search, { replace: true, force: true })));
    return { hide: end };
  }

  const title = h("h1.cut");
  const state = stateMark();
  const note = h("span.soft");
  const address = h("span");
  const uptime = h("span.soft.num");
  const where = h("a", { href: isAdmin() ? url("nodes", node) : null }, nodeName(node));
  const buttons = Object.fromEntries(["start", "restart", "stop", "kill"].map((verb) => [verb, h(`button.button${verb === "kill" ? ".danger" : ""}`, { type: "button", onclick: () => power(server, verb) }, icon(VERBS[verb].icon), h("span", {}, VERBS[verb].label))]));
  const more = menu(h("button.button.quiet.only", { type: "button", "aria-label": "More" }, icon("more")), () => moreOf(server).filter(({ label }) => !["Restart"].includes(label)));
  const bar = h("span.bar", { hidden: true }, h("i"));
  const banners = h("div.banners");
  const tabs = h("nav.tabs", { "aria-label": "Parts of this server" });
  const body = h("div.tab");
  main.append(
    h("header.server-head.dims", {},
      h("div.server-title", {}, title, h("p.server-facts", {}, h("span", { role: "status" }, state), note, address, uptime, h("span.soft", {}, "on ", where))),
      h("div.buttons.power", {}, Object.values(buttons), more)),
    bar, banners, tabs, body);

  let tab = null;
  let shown = null;
  let turn = 0;
  let lastLines = null;

  function draw() {
    server = serverAt(node, id);
    if (!server) return;
    const now = stateOf(server);
    place([["Servers", "/servers"], [server.name]]);
    text(title, server.name);
    updateState(state, now);
    const progress = now.busy && progressOf(now.progress);
    text(note, progress ? `${progress.words}${progress.share === null ? "" : ` ${Math.round(progress.share * 100)} %`}` : now.note ?? detailOf(server));
    bar.hidden = !progress || progress.share === null;
    if (!bar.hidden) bar.firstElementChild.style.width = `${progress.share * 100}%`;
    if (address.dataset.now !== server.address) {
      address.dataset.now = server.address ?? "";
      address.replaceChildren(server.address ? copyable(server.address, "Copy the address") : "");
    }
    drawTime();
    drawPower(now);
    drawBanners();
    drawTabs();
  }

  function drawPower(now) {
    const able = server.online && !server.missing && mayDo(server, "start");
    const status = server.lastStatus ?? server.status;
    const up = isUp(server) || status === "unknown";
    const slow = now.action === "stop_server" && Date.now() - new Date(now.since) > 4000;
    const seen = { start: able && !up && !["suspended", "installing", "deleting"].includes(status), restart: able && up, stop: able && (up || now.action === "stop_server"), kill: able && (slow || status === "installing") };
    for (const [verb, button] of Object.entries(buttons)) {
      button.hidden = !seen[verb];
      const busy = now.action === `${verb}_server`;
      attribute(button, "aria-busy", busy ? "true" : null);
      attribute(button, "aria-disabled", !busy && now.busy && verb === "restart" ? "true" : null);
    }
    buttons.start.classList.toggle("primary", true);
    if (slow) {
      const left = Math.ceil(server.stopTimeout - (Date.now() - new Date(now.since)) / 1000);
      text(buttons.kill.lastElementChild, left > 0 ? `Kill now (${left} s left)` : "Kill now");
    } else text(buttons.kill.lastElementChild, "Kill now");
    more.hidden = !moreOf(server).length;
  }

  function drawTime() {
    const up = server.online && server.lastStatus === "running";
    text(uptime, up ? `up ${span(Date.now() - new Date(server.since))}` : server.lastStatus === "stopped" || server.lastStatus === "crashed" ? `since ${span(Date.now() - new Date(server.since))}` : "");
    uptime.title = exactly(server.since);
  }

  function drawBanners() {
    const list = [];
    const status = server.lastStatus ?? server.status;
    const { disk } = server.limits ?? {};
    if (!server.online) list.push(["violet", "unknown", `${nodeName(node)} is offline`, "What is shown is what it last said. The server itself goes on running there; commands work again once the node is back."]);
    else if (server.missing) list.push(["violet", "unknown", "The node does not know this server any more", "Its container and its record are gone from the node. Delete it here, or create it anew with its files kept."]);
    else if (status === "crashed") {
      const why = [reasonWords(server.reason === "crash" ? "" : server.reason), exitWords(server)].filter(Boolean).join(", ");
      list.push(["red", "crashed", `It crashed${why ? `: ${why}` : ""}`, { oom: "Give it more memory in its settings, or less to do.", disk_limit: "Delete what it does not need, or raise the limit of its disk." }[server.reason] ?? "Its last lines are below; the console has more.", lastLines]);
    } else if (status === "stopped" && server.reason === "disk_limit") list.push(["red", "crashed", "It was stopped because its disk is full", "Delete files it does not need, or raise the limit in its settings."]);
    else if (status === "suspended") list.push(["grey", "suspended", "It is suspended", isAdmin() ? "Nobody can start it until you resume it." : "An admin has to resume it before it can be started.", null, "unsuspend"]);
    if (server.online && disk && server.usage?.disk?.used > disk * 0.95 && status === "running") list.push(["amber", "warn", `Its disk is nearly full: ${bytes(server.usage.disk.used)} of ${bytes(disk)}`, "At the limit it is stopped."]);
    if (server.online && server.needsRestart && isUp(server)) list.push(["blue", "info", "Changes wait for a restart", "They take effect the next time it starts.", null, "restart"]);
    const signature = JSON.stringify(list);
    if (banners.dataset.now === signature) return;
    banners.dataset.now = signature;
    banners.replaceChildren(...list.map(([tone, shape, title, words, lines, verb]) => h("div.banner", { dataset: { tone }, role: tone === "red" ? "alert" : "status" }, ["warn", "info"].includes(shape) ? icon(shape) : mark(shape),
      h("div", {}, h("strong", {}, title), words, lines?.length ? h("pre", { tabIndex: 0, "aria-label": "Last lines" }, lines.join("\n")) : null),
      verb && mayDo(server, verb) && h("button.button", { type: "button", onclick: () => power(server, verb) }, VERBS[verb].label))));
  }

  /** The last ten lines belong to the crash, and come with the whole server. */
  async function crashLines() {
    if ((server.lastStatus ?? server.status) !== "crashed") return void (lastLines = null);
    const full = await get(serverPath(server)).catch(() => null);
    lastLines = full?.lastLines?.map(plain) ?? null;
    drawBanners();
  }

  function drawTabs() {
    const seen = TABS.filter(([, , , allowed]) => allowed(server));
    const signature = seen.map(([name]) => name).join() + tab;
    if (tabs.dataset.now === signature) return;
    tabs.dataset.now = signature;
    tabs.replaceChildren(...seen.map(([name, words]) => h("a", { href: url("servers", node, id, name), "aria-current": name === tab ? "page" : null }, words)));
    tabs.querySelector("[aria-current]")?.scrollIntoView({ block: "nearest", inline: "nearest" });
  }

  async function take(route) {
    const wanted = route.parts[3] ?? "console";
    const [name, , load] = TABS.find(([name, , , allowed]) => name === wanted && allowed(server)) ?? TABS[0];
    if (name === tab && shown?.update) return shown.update(route);
    tab = name;
    drawTabs();
    const mine = ++turn;
    const module = await load();
    if (mine !== turn) return;
    shown?.hide?.();
    body.replaceChildren();
    body.className = `tab tab-${name}`;
    main.classList.toggle("fills", name === "console");
    shown = (module.tab ?? module.show)(body, server, route) ?? {};
  }

  draw();
  take(at);
  crashLines();
  const stop = onChange((change) => {
    if (change.kind === "usage" && !change.keys.includes(key)) return;
    if (change.kind === "server" && !change.keys.includes(key)) return;
    if (!["usage", "server", "all", "node"].includes(change.kind)) return;
    const before = server;
    const now = serverAt(node, id);
    if (!now) {
      if (change.kind === "all" || change.kind === "server") go("/servers", { replace: true });
      return;
    }
    draw();
    if (change.kind !== "usage" && now.lastStatus !== before.lastStatus) crashLines();
    shown?.changed?.(server, change);
  });
  const timer = setInterval(() => {
    if (!server) return;
    drawTime();
    drawPower(stateOf(server));
  }, 1000);
  return {
    update: take,
    hide() {
      turn += 1;
      stop();
      clearInterval(timer);
      shown?.hide?.();
    },
  };
}

// eslint-disable-next-line no-control-regex
const plain = (line) => line.replace(/\x1b\[[0-9;:?]*[ -/]*[@-~]/g, "");
