'use strict';

const { stripVTControlCharacters } = require('node:util');

/** What one `log` event holds of a line; the rest of a longer one is counted in its message. */
const MAX_LOG_BYTES = 8 * 1024;

/** How tracing begins a line, and what follows: the spans it is in, the part that speaks, the message. */
const HEAD = /^(?<time>\d{4}-\d\d-\d\dT[\d:.]+Z) +(?<level>ERROR|WARN|INFO|DEBUG|TRACE) (?<rest>.*)$/;
const REST = /^(?:(?:[\w-]+\{[^}]*\}:)+ )?(?<target>[A-Za-z_]\w*(?:::\w+)*): (?<message>.*)$/;

/**
 * A line that a daemon has written to its standard error, as a `log` event. What is no line of its log
 * is something that went wrong: a panic, or a complaint of the loader.
 *
 * @param {{ bytes: Buffer, excess: number }} line
 * @param {() => Date} now
 * @returns {{ level: string, target: string, message: string, time: string } | null} `null` for an empty one
 */
function parseLogLine({ bytes, excess }, now) {
  const text = stripVTControlCharacters(bytes.toString('utf8')).trimEnd();
  if (text === '') return null;
  const { time = now().toISOString(), level = 'WARN', rest = text } = HEAD.exec(text)?.groups ?? {};
  const { target, message } = (rest !== text && REST.exec(rest)?.groups) || {
    target: 'daemon',
    message: rest,
  };
  const cut = excess > 0 ? ` … (${excess} more bytes)` : '';
  return { level: level.toLowerCase(), target, message: message + cut, time };
}

module.exports = { MAX_LOG_BYTES, parseLogLine };
