// Terminal output as styled text: colours become one of 16 classes that are readable in both themes. No DOM state.

import { h } from "./dom.js";

const PLAIN = { fg: null, bg: null, bold: false, dim: false, italic: false, under: false, inverse: false, strike: false };
// CSI, OSC and the short escapes. Whatever is not a colour is left out.
// eslint-disable-next-line no-control-regex
const ESCAPE = /\x1b(?:\[([0-9;:?]*)[ -/]*([@-~])|\][^\x07\x1b]*(?:\x07|\x1b\\)?|[()][A-Za-z0-9]|[ -~])/g;
// eslint-disable-next-line no-control-regex
const CONTROL = /[\x00-\x08\x0b-\x1a\x1c-\x1f\x7f]/g;

/** Reads lines one after another; a style holds over the end of a line, as in a terminal. */
export class Ansi {
  style = { ...PLAIN };

  /** `[text, class]` pieces of one line. */
  pieces(line) {
    // What a carriage return goes back over was a progress bar's earlier state.
    const back = line.replace(/\r+$/, "").lastIndexOf("\r");
    const words = back < 0 ? line : line.slice(back + 1);
    const pieces = [];
    let from = 0;
    const add = (to) => {
      const part = words.slice(from, to).replace(CONTROL, "");
      if (part) pieces.push([part, this.name()]);
    };
    for (const found of words.matchAll(ESCAPE)) {
      add(found.index);
      from = found.index + found[0].length;
      if (found[2] === "m") this.set(found[1]);
    }
    add(words.length);
    return pieces;
  }

  set(parameters) {
    const codes = parameters.split(/[;:]/).map(Number);
    for (let at = 0; at < codes.length; at += 1) {
      const code = codes[at];
      if (code === 0) this.style = { ...PLAIN };
      else if (code === 1) this.style.bold = true;
      else if (code === 2) this.style.dim = true;
      else if (code === 3) this.style.italic = true;
      else if (code === 4) this.style.under = true;
      else if (code === 7) this.style.inverse = true;
      else if (code === 9) this.style.strike = true;
      else if (code === 22) this.style.bold = this.style.dim = false;
      else if (code === 23) this.style.italic = false;
      else if (code === 24) this.style.under = false;
      else if (code === 27) this.style.inverse = false;
      else if (code === 29) this.style.strike = false;
      else if (code >= 30 && code <= 37) this.style.fg = code - 30;
      else if (code === 39) this.style.fg = null;
      else if (code >= 40 && code <= 47) this.style.bg = code - 40;
      else if (code === 49) this.style.bg = null;
      else if (code >= 90 && code <= 97) this.style.fg = code - 82;
      else if (code >= 100 && code <= 107) this.style.bg = code - 92;
      else if (code === 38 || code === 48) {
        let colour = null;
        if (codes[at + 1] === 5) (colour = near256(codes[at + 2])), (at += 2);
        else if (codes[at + 1] === 2) (colour = nearRgb(codes[at + 2], codes[at + 3], codes[at + 4])), (at += 4);
        this.style[code === 38 ? "fg" : "bg"] = colour;
      }
    }
  }

  name() {
    const { fg, bg, bold, dim, italic, under, inverse, strike } = this.style;
    const names = [];
    // A coloured ground is told by its colour as text and a frame: text on sixteen grounds cannot be readable in both themes.
    const ground = inverse ? (fg ?? 7) : bg;
    const colour = inverse ? (bg ?? fg) : fg;
    if (ground !== null) names.push(`g${ground}`);
    else if (colour !== null) names.push(`f${colour}`);
    if (bold) names.push("bold");
    if (dim) names.push("dim");
    if (italic) names.push("italic");
    if (under) names.push("under");
    if (strike) names.push("strike");
    return names.join(" ");
  }
}

function near256(code) {
  if (!(code >= 0 && code <= 255)) return null;
  if (code < 16) return code;
  if (code >= 232) return code < 238 ? 8 : code < 247 ? 7 : 15;
  const at = code - 16;
  return nearRgb(Math.floor(at / 36) * 51, (Math.floor(at / 6) % 6) * 51, (at % 6) * 51);
}

/** The palette's colour of the same hue; how light it is, is the palette's affair. */
function nearRgb(red = 0, green = 0, blue = 0) {
  const most = Math.max(red, green, blue);
  const least = Math.min(red, green, blue);
  if (most - least < 40) return most < 100 ? 8 : most < 200 ? 7 : 15;
  const middle = (most + least) / 2;
  const hue = (red > middle ? 1 : 0) | (green > middle ? 2 : 0) | (blue > middle ? 4 : 0);
  return hue === 0 || hue === 7 ? 7 : hue + (most > 190 ? 8 : 0);
}

/** One line as elements: plain text where nothing is styled. */
export const styled = (pieces) => pieces.map(([words, name]) => (name ? h("span", { className: name }, words) : words));
