'use strict';

/** What needs no quotes in a shell. */
const PLAIN = /^[\w%+,./:=@-]+$/;

/**
 * A command line to show: as it is typed, with `npx` before a program of this package and `sudo`
 * where root is needed and not there.
 *
 * @param {string[]} words
 * @param {{ root?: boolean }} [options]
 */
function commandLine(words, { root = false } = {}) {
  const quoted = words.map((word) =>
    PLAIN.test(word) ? word : `'${word.replaceAll("'", String.raw`'\''`)}'`,
  );
  const prefix = [];
  if (root && process.getuid?.() !== 0) prefix.push('sudo');
  if (words[0] === 'smartvpn') prefix.push('npx');
  return [...prefix, ...quoted].join(' ');
}

module.exports = { commandLine };
