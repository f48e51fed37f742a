'use strict';

/** Text for people: quantities, sparklines, and how wide a terminal shows what. */

const BARS = '▁▂▃▄▅▆▇█';

/** Shown twice as wide: East Asian scripts and emoji. */
const WIDE =
  /[\u1100-\u115f\u2e80-\u303e\u3041-\ua4cf\ua960-\ua97f\uac00-\ud7a3\uf900-\ufaff\ufe30-\ufe6f\uff00-\uff60\uffe0-\uffe6\u{20000}-\u{3fffd}]|\p{Emoji_Presentation}/u;

/** Shown in the place of what is before. */
const COMBINING = /[\p{Mn}\p{Me}]/u;

/** Control, format and private characters, lone surrogates, and what is no character. */
const UNPRINTABLE = /[\p{C}\u2028\u2029]/gu;

/** Text of others, such as a client's name, without what could steer a terminal or reorder a line. */
function printable(text) {
  return String(text).replace(UNPRINTABLE, '\ufffd');
}

/** In columns. */
function displayWidth(text) {
  let width = 0;
  for (const character of text) {
    if (!COMBINING.test(character)) width += WIDE.test(character) ? 2 : 1;
  }
  return width;
}

/** The beginning of `text` that fits into so many columns, with `…` where something is missing. */
function cut(text, columns) {
  if (displayWidth(text) <= columns) return text;
  let result = '';
  let width = 1;
  for (const character of text) {
    width += displayWidth(character);
    if (width > columns) break;
    result += character;
  }
  return columns > 0 ? `${result}…` : '';
}

/** `text` and as many spaces as fill the columns. */
function pad(text, columns) {
  return text + ' '.repeat(Math.max(0, columns - displayWidth(text)));
}

/**
 * One character a value, the last `width` of them, the highest of these as high as it goes.
 *
 * @param {number[]} values
 */
function sparkline(values, width) {
  if (width <= 0) return '';
  const shown = values.slice(-width);
  const top = Math.max(...shown, 0);
  const bar = (value) => BARS[top > 0 ? Math.ceil((value / top) * (BARS.length - 1)) : 0];
  return shown.map(bar).join('');
}

/** `12.3 MB`, in decimal units. */
function bytes(count) {
  return quantity(count, ['B', 'kB', 'MB', 'GB', 'TB', 'PB']);
}

/** `8.1 Mbit/s`, of bytes a second. */
function bitRate(bytesPerSecond) {
  return quantity(bytesPerSecond * 8, ['bit/s', 'kbit/s', 'Mbit/s', 'Gbit/s', 'Tbit/s']);
}

function quantity(value, units) {
  let power = 0;
  // 999.95 would be shown as 1000.0.
  while (value >= (power ? 999.95 : 999.5) && power < units.length - 1) {
    value /= 1000;
    power++;
  }
  return `${value.toFixed(power ? 1 : 0)} ${units[power]}`;
}

/** `0:01:23`, or with days `3 d 04:05:06`. */
function duration(ms) {
  const seconds = Math.max(0, Math.floor(ms / 1000));
  const two = (number) => String(number).padStart(2, '0');
  const days = Math.floor(seconds / 86_400);
  const hours = Math.floor(seconds / 3600) % 24;
  const rest = `${two(Math.floor(seconds / 60) % 60)}:${two(seconds % 60)}`;
  return days > 0 ? `${days} d ${two(hours)}:${rest}` : `${hours}:${rest}`;
}

/** `0.38 ms`, `12.3 ms`, `230 ms`. */
function milliseconds(value) {
  const digits = value < 10 ? 2 : value < 100 ? 1 : 0;
  return `${value.toFixed(digits)} ms`;
}

/** `1.6 %`. */
function percent(ratio) {
  const value = ratio * 100;
  return `${value.toFixed(value > 0 && value < 10 ? 1 : 0)} %`;
}

/**
 * Rows under headings, in columns as wide as they need.
 *
 * @param {string[]} headings
 * @param {string[][]} rows
 * @returns {string[]}
 */
function table(headings, rows) {
  const widths = headings.map((heading, column) =>
    rows.reduce((width, row) => Math.max(width, displayWidth(row[column])), heading.length),
  );
  const line = (cells) =>
    cells
      .map((cell, column) => pad(cell, widths[column]))
      .join('  ')
      .trimEnd();
  return [headings, ...rows].map(line);
}

/** How many single changes make one word the other; swapped neighbours are one. */
function distance(a, b) {
  const rows = [Array.from({ length: b.length + 1 }, (_, column) => column)];
  for (let i = 1; i <= a.length; i++) {
    rows[i] = [i];
    for (let j = 1; j <= b.length; j++) {
      const same = a[i - 1] === b[j - 1] ? 0 : 1;
      rows[i][j] = Math.min(rows[i - 1][j] + 1, rows[i][j - 1] + 1, rows[i - 1][j - 1] + same);
      const swapped = i > 1 && j > 1 && a[i - 1] === b[j - 2] && a[i - 2] === b[j - 1];
      if (swapped) rows[i][j] = Math.min(rows[i][j], rows[i - 2][j - 2] + 1);
    }
  }
  return rows[a.length][b.length];
}

/** The name that was probably meant, if one is near. */
function nearest(word, names) {
  const ranked = names
    .map((name) => ({ name, away: name.startsWith(word) && word.length > 1 ? 0 : distance(word, name) }))
    .sort((a, b) => a.away - b.away);
  const [best] = ranked;
  return best && best.away <= Math.max(1, Math.floor(word.length / 3)) ? best.name : undefined;
}

module.exports = {
  bitRate,
  bytes,
  cut,
  displayWidth,
  duration,
  milliseconds,
  nearest,
  pad,
  percent,
  printable,
  sparkline,
  table,
};
