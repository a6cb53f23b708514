// The charts tab: processor, memory, network and disk over 5 minutes, 1 hour, 24 hours or 30 days, or as a table.

import { get, serverPath } from "./api.js";
import { Chart, Charts } from "./chart.js";
import { attribute, h, icon, text } from "./dom.js";
import { keyOf, onChange } from "./live.js";
import { choose } from "./router.js";
import { bytes, clock, exactly, percent, rate } from "./words.js";

const RANGES = { "5m": "5 minutes", "1h": "1 hour", "24h": "24 hours", "30d": "30 days" };
const MARKS = { start: ["running", "Started"], stop: ["stopped", "Stopped"], crash: ["crashed", "Crashed"], oom: ["crashed", "Ran out of memory"] };

/** Charts of what `path` answers; a node has no network of its own. */
export function charts(body, at, { path, key, cpu = "of one core", network = true, memory = bytes }) {
  const group = new Charts();
  const of = (title, series, format, floor, binary) => new Chart(group, { title, series, format, floor, binary });
  const [first, second, third, fourth] = [
    of(`Processor, ${cpu}`, ["Use"], percent, 10, false),
    of("Memory", ["Use"], memory, memory === bytes ? 2 ** 20 : 10, memory === bytes),
    network ? of("Network", ["In", "Out"], rate, 1024, true) : null,
    of("Disk", ["Use"], memory, memory === bytes ? 2 ** 20 : 10, memory === bytes),
  ];
  const all = [first, second, third, fourth].filter(Boolean);
  const toggle = h("div.toggle", { role: "group", "aria-label": "Time shown" }, Object.entries(RANGES).map(([value, words]) => h("button", { type: "button", dataset: { value }, onclick: () => choose({ range: value === "5m" ? "" : value }) }, words)));
  const asTable = h("button.button.quiet", { type: "button", onclick: () => choose({ view: at.query.get("view") === "table" ? "" : "table" }) }, icon("table"), "Table");
  const grid = h("div.charts", {}, all.map(({ element }) => element));
  const table = h("div.card.table-view", { hidden: true, tabIndex: 0, role: "region", "aria-label": "Values" });
  const fault = h("p.soft", { role: "status" });
  body.append(h("div.head.chart-head", {}, toggle, fault, asTable), grid, table);

  let range = "5m";
  let data = null;
  let timer = 0;
  let asked = 0;
  let counted = null;

  async function load() {
    clearTimeout(timer);
    const mine = ++asked;
    try {
      const answer = await get(`${path}?range=${range}`);
      if (mine !== asked) return;
      data = answer;
      text(fault, "");
      draw();
    } catch (refused) {
      if (mine !== asked) return;
      text(fault, refused.message);
    }
    timer = setTimeout(load, range === "5m" ? 10_000 : range === "1h" ? 20_000 : 60_000);
  }

  function draw() {
    if (!data) return;
    const from = Date.parse(data.from);
    const to = Date.parse(data.to);
    const column = (at) => data.points.map((point) => [point[0] * 1000, point[at]]);
    const marks = data.marks.map(({ time, kind, text }) => ({ time: Date.parse(time), tone: MARKS[kind]?.[0] ?? "unknown", word: text ?? MARKS[kind]?.[1] ?? kind }));
    const common = { from, to, marks, step: data.step * 1000 };
    first.show({ ...common, points: [column(1)], limit: data.limits?.cpu });
    second.show({ ...common, points: [column(2)], limit: data.limits?.memory });
    third?.show({ ...common, points: [column(3), column(4)] });
    fourth.show({ ...common, points: [column(5)], limit: data.limits?.disk });
    if (!table.hidden) drawTable();
  }

  function drawTable() {
    const head = ["Time", "Processor", "Memory", ...(network ? ["In", "Out"] : []), "Disk"];
    const say = (value, format) => (value === null || value === undefined ? "–" : format(value));
    const rows = data.points.toReversed().slice(0, 400).map(([time, cpu, use, rx, tx, disk]) => h("tr", {}, h("td", { title: exactly(time * 1000) }, range === "5m" || range === "1h" ? clock(time * 1000) : exactly(time * 1000)), [say(cpu, percent), say(use, memory), ...(network ? [say(rx, rate), say(tx, rate)] : []), say(disk, memory)].map((words) => h("td.num", {}, words))));
    table.replaceChildren(h("table.table.slim", {}, h("thead", {}, h("tr", {}, head.map((words) => h("th", { scope: "col" }, words)))), h("tbody", {}, rows.length ? rows : h("tr", {}, h("td.soft", { colSpan: head.length }, "Nothing was measured in this time.")))));
  }

  function update(route) {
    at = route;
    const wanted = RANGES[route.query.get("range")] ? route.query.get("range") : "5m";
    for (const button of toggle.children) attribute(button, "aria-pressed", String(button.dataset.value === wanted));
    const tabled = route.query.get("view") === "table";
    attribute(asTable, "aria-pressed", String(tabled));
    grid.hidden = tabled;
    table.hidden = !tabled;
    if (wanted !== range || !data) {
      range = wanted;
      load();
    } else draw();
  }

  /** Between two answers the newest values come by the stream. */
  function push(usage, time) {
    if (!data || range !== "5m" || !usage) return;
    const last = data.points.at(-1);
    if (last && time / 1000 - last[0] < data.step * 0.9) return;
    const { rx = null, tx = null } = usage.network ?? {};
    const since = counted && (time - counted.time) / 1000;
    const speed = (name, now) => (since > 0 && now !== null && now >= counted[name] ? (now - counted[name]) / since : null);
    data.points.push([time / 1000, usage.cpu ?? null, usage.memory?.used ?? null, speed("rx", rx), speed("tx", tx), usage.disk?.used ?? null]);
    counted = { time, rx, tx };
    data.to = new Date(time).toISOString();
    data.from = new Date(time - 300_000).toISOString();
    draw();
  }

  update(at);
  const stop = onChange((change) => {
    if (change.kind === "open") load();
  });
  return {
    update,
    changed(server, change) {
      if (change.kind === "usage" && key) push(server.usage, Date.parse(change.at) || Date.now());
    },
    hide() {
      asked += 1;
      clearTimeout(timer);
      stop();
      all.forEach((chart) => chart.end());
    },
  };
}

export const tab = (body, server, at) => charts(body, at, { path: serverPath(server, "/metrics"), key: keyOf(server) });
