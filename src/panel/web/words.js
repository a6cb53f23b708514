// Numbers, sizes, times and names of things, as the page says them.

export function bytes(count) {
  if (count < 1024) return `${Math.round(count)} B`;
  const units = ["KiB", "MiB", "GiB", "TiB"];
  let value = count / 1024;
  let unit = 0;
  while (value >= 1000 && unit < 3) {
    value /= 1024;
    unit += 1;
  }
  return `${value >= 10 || Number.isInteger(value) ? Math.round(value) : value.toFixed(1)} ${units[unit]}`;
}

export const rate = (perSecond) => `${bytes(perSecond)}/s`;
export const percent = (value) => `${value >= 10 || value === 0 ? Math.round(value) : value.toFixed(1)} %`;

export function span(milliseconds) {
  const seconds = Math.max(0, Math.round(milliseconds / 1000));
  if (seconds < 60) return `${seconds} s`;
  const minutes = Math.floor(seconds / 60);
  if (minutes < 60) return `${minutes} min`;
  const hours = Math.floor(minutes / 60);
  if (hours < 24) return minutes % 60 ? `${hours} h ${minutes % 60} min` : `${hours} h`;
  const days = Math.floor(hours / 24);
  return days < 10 && hours % 24 ? `${days} d ${hours % 24} h` : `${days} d`;
}

export const exactly = (time) => new Date(time).toLocaleString(undefined, { dateStyle: "medium", timeStyle: "medium" });

export function ago(time) {
  const past = Date.now() - new Date(time);
  if (past < -60_000) return `in ${span(-past)}`;
  if (past < 10_000) return "just now";
  const days = past / 86_400_000;
  if (days > 30) return new Date(time).toLocaleDateString(undefined, { dateStyle: "medium" });
  return `${span(past).replace(/ \d+ (h|min)$/, "")} ago`;
}

export const clock = (time) => new Date(time).toLocaleTimeString(undefined, { hour: "2-digit", minute: "2-digit", second: "2-digit", hour12: false });
export const shortClock = (time) => new Date(time).toLocaleTimeString(undefined, { hour: "2-digit", minute: "2-digit", hour12: false });

export const many = (count, one, more = `${one}s`) => `${count} ${count === 1 ? one : more}`;
export const upper = (words) => words.charAt(0).toUpperCase() + words.slice(1);

/** "2g", "512m", 1048576 or "1.5" as bytes; null when it is no size. A bare number counts in MiB. */
export function parseSize(words) {
  const match = /^\s*(\d+(?:[.,]\d+)?)\s*([kmgt]?)(?:i?b)?\s*$/i.exec(words);
  if (!match) return null;
  const unit = { k: 2 ** 10, m: 2 ** 20, g: 2 ** 30, t: 2 ** 40 }[match[2].toLowerCase() || "m"];
  return Math.round(Number(match[1].replace(",", ".")) * unit);
}
