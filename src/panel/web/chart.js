// A line chart of our own few lines: SVG in the pixels of its place, gaps as gaps, a crosshair that all charts share.

import { h, svg, text } from "./dom.js";
import { clock, exactly, shortClock } from "./words.js";

const HEIGHT = 168;
const [LEFT, RIGHT, TOP, BOTTOM] = [64, 12, 12, 24];

/** Charts that show the same time move their crosshairs together. */
export class Charts {
  charts = [];
  point(time) {
    for (const chart of this.charts) chart.point(time);
  }
}

export class Chart {
  #data = { from: 0, to: 1, series: [], marks: [] };
  #width = 0;

  /** `series`: names of the lines. `format(value)` says a value. `floor`: the least that the top of the scale means. */
  constructor(group, { title, series, format, floor = 1, binary = false }) {
    Object.assign(this, { group, title, series, format, floor, binary });
    group.charts.push(this);
    this.plot = svg("svg", { class: "plot", role: "img", height: HEIGHT, "aria-label": title });
    this.values = series.map((name, index) => h("span.legend", { dataset: { line: index + 1 } }, series.length > 1 ? `${name} ` : "", h("b")));
    this.when = h("span.soft.small.num");
    this.element = h("figure.card.chart", {}, h("header", {}, h("h2", {}, title), this.when, this.values), h("div.canvas", {}, this.plot));
    this.plot.addEventListener("pointermove", (event) => group.point(this.#timeAt(event.offsetX)));
    this.plot.addEventListener("pointerleave", () => group.point(null));
    this.watcher = new ResizeObserver(([entry]) => {
      if (Math.round(entry.contentRect.width) === this.#width) return;
      this.#width = Math.round(entry.contentRect.width);
      this.#draw();
    });
    this.watcher.observe(this.element.lastElementChild);
  }

  /** `points`: for each series a list of `[time, value or null]`. `limit`: a dashed line. `marks`: `{time, tone, word}`. */
  show({ from, to, points, limit, marks = [], step }) {
    this.#data = { from, to, points, limit, marks, step };
    this.#draw();
    this.point(null);
  }

  end() {
    this.watcher.disconnect();
  }

  point(time) {
    const { points = [], step } = this.#data;
    this.cross?.setAttribute("visibility", time === null ? "hidden" : "visible");
    let shown = null;
    points.forEach((line, index) => {
      let value = null;
      if (time === null) value = line.at(-1)?.[1] ?? null;
      else {
        const near = line.length ? line.reduce((best, point) => (Math.abs(point[0] - time) < Math.abs(best[0] - time) ? point : best)) : null;
        if (near && Math.abs(near[0] - time) <= (step ?? 0) * 1.5) [shown, value] = near;
      }
      text(this.values[index].querySelector("b"), value === null ? "–" : this.format(value));
      const dot = this.dots?.[index];
      if (!dot) return;
      dot.setAttribute("visibility", time !== null && value !== null ? "visible" : "hidden");
      if (time !== null && value !== null) {
        dot.setAttribute("cx", this.#x(shown));
        dot.setAttribute("cy", this.#y(value));
      }
    });
    if (time !== null && this.cross) {
      const x = this.#x(shown ?? time);
      this.cross.setAttribute("x1", x);
      this.cross.setAttribute("x2", x);
    }
    text(this.when, time === null ? "" : clock(shown ?? time));
  }

  #timeAt(x) {
    const { from, to } = this.#data;
    return from + (Math.max(0, Math.min(1, (x - LEFT) / (this.#width - LEFT - RIGHT)))) * (to - from);
  }

  #x = (time) => {
    const { from, to } = this.#data;
    return LEFT + ((time - from) / (to - from)) * (this.#width - LEFT - RIGHT);
  };

  #y = (value) => TOP + (1 - value / this.top) * (HEIGHT - TOP - BOTTOM);

  #draw() {
    const { from, to, points, limit, marks, step } = this.#data;
    if (!points || this.#width < 120) return;
    const most = Math.max(this.floor, ...points.flat().map(([, value]) => value ?? 0));
    // A limit far above would flatten the line; it is drawn once the use comes near it.
    const limitShown = limit && limit <= most * 4;
    this.top = niceTop(Math.max(most, limitShown ? limit : 0) * 1.04, this.binary);
    const parts = [];
    for (let row = 0; row <= 2; row += 1) {
      const value = (this.top * row) / 2;
      const y = Math.round(this.#y(value)) + 0.5;
      parts.push(svg("line", { class: "rule", x1: LEFT, x2: this.#width - RIGHT, y1: y, y2: y }));
      parts.push(label(LEFT - 8, y + 4, "end", this.format(value)));
    }
    const count = this.#width > 520 ? 4 : 2;
    for (let column = 0; column <= count; column += 1) {
      const time = from + ((to - from) * column) / count;
      const words = to - from <= 600_000 ? clock(time) : shortClock(time);
      parts.push(label(this.#x(time), HEIGHT - 6, column === 0 ? "start" : column === count ? "end" : "middle", words));
    }
    points.forEach((line, index) => {
      const runs = [];
      let run = null;
      for (const [time, value] of line) {
        if (value === null || time < from) {
          run = null;
          continue;
        }
        if (!run || time - run.at(-1)[0] > step * 2.5) runs.push((run = []));
        run.push([time, value]);
      }
      for (const points of runs) {
        const path = points.map(([time, value], at) => `${at ? "L" : "M"}${this.#x(time).toFixed(1)} ${this.#y(value).toFixed(1)}`).join("");
        if (points.length > 1 && line === this.#data.points[0]) {
          parts.push(svg("path", { class: "fill", "data-line": index + 1, d: `${path}L${this.#x(points.at(-1)[0]).toFixed(1)} ${this.#y(0)}L${this.#x(points[0][0]).toFixed(1)} ${this.#y(0)}Z` }));
        }
        parts.push(svg("path", { class: "line", "data-line": index + 1, d: points.length > 1 ? path : `${path}h.01` }));
      }
    });
    if (limitShown) {
      const y = this.#y(limit);
      parts.push(svg("line", { class: "limit", x1: LEFT, x2: this.#width - RIGHT, y1: y, y2: y }), label(this.#width - RIGHT, y - 4, "end", `limit ${this.format(limit)}`));
    }
    for (const mark of marks) {
      if (mark.time < from || mark.time > to) continue;
      const x = this.#x(mark.time);
      const group = svg("g", { class: "event", "data-state-tone": mark.tone }, svg("line", { x1: x, x2: x, y1: TOP, y2: HEIGHT - BOTTOM }), svg("path", { d: `M${x - 4} ${TOP - 8}h8l-4 7z` }));
      const title = svg("title");
      title.textContent = `${mark.word}, ${exactly(mark.time)}`;
      group.append(title);
      parts.push(group);
    }
    this.cross = svg("line", { class: "cross", y1: TOP, y2: HEIGHT - BOTTOM, visibility: "hidden" });
    this.dots = points.map((_, index) => svg("circle", { class: "dot", "data-line": index + 1, r: 3.5, visibility: "hidden" }));
    this.plot.setAttribute("width", this.#width);
    this.plot.setAttribute("viewBox", `0 0 ${this.#width} ${HEIGHT}`);
    const last = points.map((line, index) => `${this.series[index]} ${line.length && line.at(-1)[1] !== null ? this.format(line.at(-1)[1]) : "unknown"}`).join(", ");
    this.plot.setAttribute("aria-label", `${this.title}: now ${last}. The table view has every value.`);
    this.plot.replaceChildren(...parts, this.cross, ...this.dots);
  }
}

function label(x, y, anchor, words) {
  const element = svg("text", { x, y, "text-anchor": anchor });
  element.textContent = words;
  return element;
}

/** The next round number, so that the scale does not move with every value. */
function niceTop(value, binary) {
  const base = binary ? 2 ** (10 * Math.floor(Math.log2(Math.max(1, value)) / 10)) : 1;
  const scaled = value / base;
  const power = 10 ** Math.floor(Math.log10(scaled));
  const step = [1, 2, 3, 4, 5, 6, 8, 10].find((step) => step * power >= scaled);
  return step * power * base;
}
