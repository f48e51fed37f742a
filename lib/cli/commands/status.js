'use strict';

const { SOCKET_OPTION, findSockets, withAnyDaemon } = require('../daemon.js');
const { statusLines } = require('../describe.js');

/** @type {import('../arguments.js').Command} */
module.exports = {
  name: 'status',
  summary: 'shows how the running daemon fares',
  details: `
Without --socket it shows each service that runs. --json prints a line for each.
`,
  positionals: [],
  options: { socket: SOCKET_OPTION },

  async run({ stdout, now }, { values: { json, socket } }) {
    for (const [index, path] of findSockets(socket).entries()) {
      const report = await withAnyDaemon(path, async (vpn, mode) => ({
        mode,
        socket: path,
        ...(await snapshot(vpn, mode)),
      }));
      const lines = json ? [JSON.stringify(report)] : statusLines(report, now());
      stdout.write(`${index > 0 && !json ? '\n' : ''}${lines.join('\n')}\n`);
    }
  },
};

async function snapshot(vpn, mode) {
  const [status, statistics, clients] = await Promise.all([
    vpn.getStatus(),
    vpn.getStatistics(),
    mode === 'server' ? vpn.listClients() : undefined,
  ]);
  return { status, statistics, ...(clients && { clients }) };
}
