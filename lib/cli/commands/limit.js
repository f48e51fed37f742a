'use strict';

const { SERVER_SOCKET_OPTION, serverSocket, withDaemon } = require('../daemon.js');
const { UsageError } = require('../exit-codes.js');
const { bytes, printable } = require('../text.js');

const FACTORS = { '': 1, k: 1e3, M: 1e6, G: 1e9 };

/** The least that a server takes for a burst, in bytes. */
const LEAST_BURST = 65_536;

/** @type {import('../arguments.js').Command} */
module.exports = {
  name: 'limit',
  summary: 'limits how fast a client of the running server may be',
  details: `
Each direction has the limit for itself, from now until the session ends. \`limit ID off\`
lifts it. Rates and bursts are in bytes, not bits: 1.5M is 1,500,000 bytes (12 Mbit/s).
`,
  positionals: [
    { name: 'ID', help: "the client's, as `smartvpn clients` shows it" },
    { name: 'RATE', help: 'bytes a second, with k, M or G for 10^3, 10^6, 10^9; or off' },
    { name: 'BURST', help: 'bytes that may come at once (default: a second of RATE)', optional: true },
  ],
  options: { socket: SERVER_SOCKET_OPTION },

  async run({ stdout }, { values: { json, socket }, positionals: [id, rate, burst] }) {
    const limit = rate === 'off' ? null : parseLimit(rate, burst);
    if (!limit && burst !== undefined) throw new UsageError('`off` takes no BURST.');
    await withDaemon(serverSocket(socket), 'server', (vpn) =>
      limit
        ? vpn.setClientRateLimit(id, limit.rateLimitBytesPerSec, limit.burstBytes)
        : vpn.removeClientRateLimit(id),
    );
    if (json) stdout.write(`${JSON.stringify({ clientId: id, ...limit })}\n`);
    else stdout.write(`${printable(id)} ${limit ? describe(limit) : 'has no limit'}.\n`);
  },
};

function parseLimit(rate, burst) {
  const rateLimitBytesPerSec = parseBytes(rate, 'RATE');
  const burstBytes =
    burst === undefined ? Math.max(LEAST_BURST, rateLimitBytesPerSec) : parseBytes(burst, 'BURST');
  return { rateLimitBytesPerSec, burstBytes };
}

/** `1500`, `64k`, `1.5M`: whole bytes. */
function parseBytes(text, name) {
  const [, number, suffix] = /^(\d{1,15}(?:\.\d{1,9})?)([kMG]?)$/.exec(text) ?? [];
  const value = Math.round(Number(number) * FACTORS[suffix]);
  if (Number.isSafeInteger(value) && value > 0) return value;
  const off = name === 'RATE' ? ', or off' : '';
  throw new UsageError(`${name} must be a number of bytes, as 1500, 64k, 1.5M or 2G${off}, not "${text}".`);
}

function describe({ rateLimitBytesPerSec, burstBytes }) {
  return `is limited to ${bytes(rateLimitBytesPerSec)}/s each way, ${bytes(burstBytes)} at once`;
}
