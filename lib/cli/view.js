'use strict';

const { LABEL_WIDTH, clientTable, facts, stateWord } = require('./describe.js');
const { HISTORY } = require('./meter.js');
const { bitRate, bytes, cut, displayWidth, duration, printable, sparkline } = require('./text.js');

/** What `bitRate()` and `bytes()` need at most. */
const RATE_WIDTH = 13;
const TOTAL_WIDTH = 9;
const INDENT = 2;

/** Shorter ones say nothing. */
const LEAST_SPARKLINE = 8;

const COLOURS = { bold: '1', dim: '2', red: '31', green: '32', yellow: '33', cyan: '36' };

const STATE_COLOURS = {
  connected: 'green',
  connecting: 'yellow',
  handshaking: 'yellow',
  reconnecting: 'yellow',
  error: 'red',
};
const HEALTH_COLOURS = { healthy: 'green', degraded: 'yellow', critical: 'red' };

/**
 * The live view, as lines of which none is wider than the terminal.
 *
 * @param {import('./describe.js').Snapshot} snapshot
 * @param {object} shown
 * @param {import('./meter.js').Meter} shown.meter
 * @param {string} shown.target the server's URL, or where a server was told to listen
 * @param {string[]} shown.messages the latest at the end
 * @param {number} shown.now wall-clock time, in milliseconds
 * @param {{ columns: number, rows: number, colours: boolean }} terminal
 * @returns {string[]}
 */
function render(snapshot, { meter, target, messages, now }, { columns, rows, colours }) {
  const { mode, status, statistics, clients } = snapshot;
  const paint = (text, colour) => (colours && colour ? `\u001b[${COLOURS[colour]}m${text}\u001b[0m` : text);
  const line = (...segments) => fit(segments, columns, paint);
  const row = (label, text, colour) =>
    line([' '.repeat(INDENT)], [label.padEnd(LABEL_WIDTH), 'dim'], [printable(text), colour]);

  const since = status.connectedSince && duration(now - Date.parse(status.connectedSince));
  const lines = [
    line(
      [`smartvpn ${mode}  `, 'bold'],
      [stateWord(mode, status.state), STATE_COLOURS[status.state] ?? 'dim'],
      [since ? `  ${since}` : ''],
    ),
    '',
    row(mode === 'client' ? 'server' : 'configured', target),
  ];
  const details = facts(snapshot).filter(([label]) => label !== 'server' && label !== 'clients');
  for (const [label, text] of details) {
    lines.push(row(label, text, label === 'health' ? HEALTH_COLOURS[text.split(',')[0]] : undefined));
  }
  if (statistics) {
    const traffic = (label, samples, total) =>
      line(
        [' '.repeat(INDENT)],
        [label.padEnd(LABEL_WIDTH), 'dim'],
        [bitRate(samples.at(-1) ?? 0).padStart(RATE_WIDTH)],
        [`  ${bytes(total).padStart(TOTAL_WIDTH)}`, 'dim'],
        [graph(samples, columns), 'cyan'],
      );
    lines.push(traffic('sent', meter.sent, statistics.bytesSent));
    lines.push(traffic('received', meter.received, statistics.bytesReceived));
  }
  const end = ['', line(['Ctrl-C ends it.', 'dim'])];
  const space = rows - lines.length - end.length;
  const told = messages.slice(-3).map((text) => line([printable(text), 'yellow']));
  if (told.length > 0 && space > told.length) lines.push('', ...told);
  if (clients?.length > 0) lines.push(...clientLines(clients, now, rows - lines.length - end.length, line));
  return [...lines, ...end].slice(0, Math.max(1, rows));
}

/** As many clients as there is room for. */
function clientLines(clients, now, room, line) {
  const [headings, ...rows] = clientTable(clients, now);
  const shown = rows.slice(0, Math.max(0, room - 3));
  if (shown.length === 0) return room > 1 ? ['', line([`${clients.length} clients`])] : [];
  const more = rows.length - shown.length;
  return [
    '',
    line([headings, 'dim']),
    ...shown.map((text) => line([text])),
    ...(more > 0 ? [line([`and ${more} more`, 'dim'])] : []),
  ];
}

function graph(samples, columns) {
  const room = columns - INDENT - LABEL_WIDTH - RATE_WIDTH - 2 - TOTAL_WIDTH - 2;
  return room < LEAST_SPARKLINE ? '' : `  ${sparkline(samples, Math.min(room, HISTORY))}`;
}

/** Cuts the line that the segments make, then colours them: a colour takes no columns. */
function fit(segments, columns, paint) {
  let room = columns;
  let text = '';
  for (const [part, colour] of segments) {
    if (room <= 0 || part === '') continue;
    const shown = cut(part, room);
    text += paint(shown, colour);
    room = shown === part ? room - displayWidth(part) : 0;
  }
  return text;
}

module.exports = { render };
