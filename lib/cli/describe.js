'use strict';

/** What an engine tells, in words. */

const { bytes, duration, milliseconds, percent, printable, table } = require('./text.js');

const LABEL_WIDTH = 12;

/**
 * @typedef {object} Snapshot what an engine told at one time
 * @property {'client' | 'server'} mode
 * @property {object} status
 * @property {object} statistics
 * @property {object[]} [clients] of a server
 * @property {object} [quality] of a client that is connected
 */

/** A server's word for what is `connected`, and so on. */
function stateWord(mode, state) {
  if (mode === 'client') return state;
  return { connected: 'serving', connecting: 'starting', disconnected: 'not serving' }[state] ?? state;
}

/**
 * Facts about a client or a server, as pairs of a label and what there is to say.
 *
 * @param {Snapshot} snapshot
 * @returns {[string, string][]}
 */
function facts({ mode, status, statistics, clients, quality = statistics?.quality }) {
  const { serverAddr, assignedIp, assignedIp6, lastError, lastErrorCode, dns } = status;
  const rows = [
    [mode === 'client' ? 'server' : 'listens on', serverAddr],
    ['address', [assignedIp, assignedIp6].filter(Boolean).join(', ')],
    ['resolvers', dns?.servers?.length > 0 && `${dns.servers.join(', ')}${resolverNote(dns.by)}`],
    ['clients', clients && `${clients.length}`],
    ...qualityFacts(quality),
    ['dropped', statistics?.packetsDropped > 0 && droppedWords(statistics)],
    ['last error', lastError && `${lastErrorCode ? `${lastErrorCode}: ` : ''}${printable(lastError)}`],
  ];
  return rows.filter(([, text]) => text);
}

function qualityFacts(quality) {
  if (!quality) return [];
  const { srttMs, jitterMs, minRttMs, maxRttMs, lossRatio, linkHealth, currentKeepaliveIntervalSecs } =
    quality;
  const range = `${milliseconds(minRttMs)} to ${milliseconds(maxRttMs)} in 10 minutes`;
  return [
    ['round trip', `${milliseconds(srttMs)}, jitter ${milliseconds(jitterMs)}, ${range}`],
    ['loss', percent(lossRatio)],
    ['health', `${linkHealth}, checked every ${Math.round(currentKeepaliveIntervalSecs)} s`],
  ];
}

function resolverNote(by) {
  if (by === 'none') return ' (not set on this host)';
  return (
    { resolved: ' by systemd-resolved', resolvconf: ' by resolvconf', file: ' in resolv.conf' }[by] ?? ''
  );
}

function droppedWords({ packetsDropped, drops }) {
  const reasons = new Map();
  for (const priority of Object.values(drops ?? {})) {
    for (const [reason, { packets }] of Object.entries(priority)) {
      reasons.set(reason, (reasons.get(reason) ?? 0) + packets);
    }
  }
  const told = [...reasons].sort((a, b) => b[1] - a[1]).map(([reason, packets]) => `${reason} ${packets}`);
  return `${packetsDropped} packets${told.length > 0 ? ` (${told.join(', ')})` : ''}`;
}

/** @param {Snapshot & { socket: string }} report */
function statusLines(report, now) {
  const { mode, socket, status, statistics } = report;
  const since = status.connectedSince ? ` for ${duration(now - Date.parse(status.connectedSince))}` : '';
  const rows = [
    ...facts(report),
    ['sent', amount(statistics.bytesSent, statistics.packetsSent)],
    ['received', amount(statistics.bytesReceived, statistics.packetsReceived)],
    ['socket', socket],
  ];
  return [
    `smartvpn ${mode}: ${stateWord(mode, status.state)}${since}`,
    ...rows.map(([label, text]) => `  ${label.padEnd(LABEL_WIDTH)}${text}`),
  ];
}

function amount(byteCount, packets) {
  return `${bytes(byteCount)} in ${packets} packet${packets === 1 ? '' : 's'}`;
}

const CLIENT_HEADINGS = ['ID', 'ADDRESS', 'FROM', 'NAME', 'FOR', 'SENT', 'RECEIVED', 'DROPPED', 'LIMIT'];

/** The clients of a server, longest connected first. */
function clientTable(clients, now) {
  const rows = clients
    .toSorted((a, b) => Date.parse(a.connectedSince) - Date.parse(b.connectedSince))
    .map((client) => [
      client.clientId,
      [client.assignedIp, client.assignedIp6].filter(Boolean).join(', '),
      client.online === false ? 'away' : printable(client.remoteAddr ?? ''),
      printable(client.name ?? ''),
      duration(now - Date.parse(client.connectedSince)),
      bytes(client.bytesSent),
      bytes(client.bytesReceived),
      `${client.packetsDropped}`,
      client.rateLimitBytesPerSec ? `${bytes(client.rateLimitBytesPerSec)}/s` : 'none',
    ]);
  return table(CLIENT_HEADINGS, rows);
}

module.exports = { LABEL_WIDTH, clientTable, facts, stateWord, statusLines };
